//! The structures of EROFS on the disk, little-endian. Source: `fs/erofs/erofs_fs.h` of Linux (names
//! here are ours).

use atlas_core::Timestamp;

pub(super) const BLOCK_BYTES: usize = 4096;
const BLOCK_BITS: u8 = 12;

const SUPERBLOCK_AT: usize = 1024;
const SUPERBLOCK_BYTES: usize = 128;
const MAGIC: u32 = 0xe0f5_e1e2;
const CHECKSUM_AT: usize = SUPERBLOCK_AT + 4;
/// The superblock is checksummed; times are those of modification.
const COMPATIBLE: u32 = 0x1 | 0x2;
/// Files in chunks; several devices.
const INCOMPATIBLE: u32 = 0x4 | 0x8;

pub(super) const DEVICE_TABLE_AT: usize = SUPERBLOCK_AT + SUPERBLOCK_BYTES;
pub(super) const DEVICE_BYTES: usize = 128;

/// Inodes are numbered by where they lie, in units of this.
pub(super) const SLOT_BYTES: usize = 32;
pub(super) const INODE_BYTES: usize = 64;
pub(super) const CHUNK_INDEX_BYTES: usize = 8;
pub(super) const ENTRY_BYTES: usize = 12;
const EXTENDED_HEADER_BYTES: usize = 12;
const EXTENDED_PLACE_BYTES: usize = 4;

/// A chunk has at most `1 << MOST_CHUNK_BITS` blocks: five bits say how many.
pub(super) const MOST_CHUNK_BITS: u32 = 31;
/// The kernel takes a longer name for damage of the whole folder.
pub(super) const NAME_LIMIT_BYTES: usize = 255;
/// The kernel would cut a longer target off.
pub(super) const TARGET_LIMIT_BYTES: usize = 4095;

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

pub(super) struct Superblock {
    pub(super) root: u16,
    pub(super) inodes: u64,
    /// Of the image itself.
    pub(super) blocks: u32,
    /// Block at which inodes begin.
    pub(super) inodes_at: u32,
    /// Block at which extended attributes begin; 0 without any.
    pub(super) extended_at: u32,
    pub(super) devices: u16,
}

impl Superblock {
    /// Writes it into the first blocks of an image, last of all.
    pub(super) fn write(&self, head: &mut [u8]) {
        let at = SUPERBLOCK_AT;
        put(head, at, &MAGIC.to_le_bytes());
        put(head, at + 8, &COMPATIBLE.to_le_bytes());
        put(head, at + 12, &[BLOCK_BITS]);
        put(head, at + 14, &self.root.to_le_bytes());
        put(head, at + 16, &self.inodes.to_le_bytes());
        put(head, at + 36, &self.blocks.to_le_bytes());
        put(head, at + 40, &self.inodes_at.to_le_bytes());
        put(head, at + 44, &self.extended_at.to_le_bytes());
        put(head, at + 80, &INCOMPATIBLE.to_le_bytes());
        put(head, at + 86, &self.devices.to_le_bytes());
        let table = (DEVICE_TABLE_AT / DEVICE_BYTES) as u16;
        put(head, at + 88, &table.to_le_bytes());
        put(head, CHECKSUM_AT, &0_u32.to_le_bytes());
        let checksum = checksum(head);
        put(head, CHECKSUM_AT, &checksum.to_le_bytes());
    }

    /// Number of devices and bytes of the image that a first block tells of; `None` if it is none
    /// of ours or damaged.
    pub(super) fn check(first_block: &[u8]) -> Option<(u16, u64)> {
        let mut block = first_block.get(..BLOCK_BYTES)?.to_vec();
        let word = |at: usize| Some(u32::from_le_bytes(*first_block.get(at..)?.first_chunk()?));
        let stored = word(CHECKSUM_AT)?;
        put(&mut block, CHECKSUM_AT, &0_u32.to_le_bytes());
        let sound = word(SUPERBLOCK_AT)? == MAGIC
            && word(SUPERBLOCK_AT + 80)? == INCOMPATIBLE
            && checksum(&block) == stored;
        let devices = u16::from_le_bytes(*first_block.get(SUPERBLOCK_AT + 86..)?.first_chunk()?);
        let blocks = word(SUPERBLOCK_AT + 36)?;
        sound.then_some((devices, u64::from(blocks) * BLOCK_BYTES as u64))
    }
}

/// Of the rest of the first block, from the superblock on. The kernel leaves out the last inversion.
fn checksum(head: &[u8]) -> u32 {
    !crc32c::crc32c(head.get(SUPERBLOCK_AT..BLOCK_BYTES).unwrap_or_default())
}

pub(super) struct Device {
    pub(super) blocks: u32,
}

impl Device {
    pub(super) fn encode(&self) -> [u8; DEVICE_BYTES] {
        let mut bytes = [0; DEVICE_BYTES];
        put(&mut bytes, 64, &self.blocks.to_le_bytes());
        bytes
    }
}

/// Where the content of an inode lies.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Layout {
    #[default]
    Nothing,
    /// From this block of the image on.
    Blocks { first: u32 },
    /// Right after the inode.
    Inline,
    /// In a chunk of `1 << bits` blocks, whose index follows the inode.
    Chunks { bits: u32 },
    /// It is a device node.
    Device { number: u32 },
}

#[derive(Default)]
pub(super) struct Inode {
    pub(super) layout: Layout,
    pub(super) mode: u16,
    pub(super) size: u64,
    /// Shown by nobody but 32-bit tools.
    pub(super) number: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) modified: Timestamp,
    pub(super) links: u32,
    /// Where its extended attributes lie, in units of four bytes; at most 255.
    pub(super) extended: Vec<u32>,
}

/// Bytes between an inode with `count` extended attributes and what follows it.
pub(super) const fn extended_bytes(count: usize) -> usize {
    if count == 0 {
        return 0;
    }
    (EXTENDED_HEADER_BYTES + count * EXTENDED_PLACE_BYTES).next_multiple_of(CHUNK_INDEX_BYTES)
}

impl Inode {
    /// In the extended form: the only one with a time and with 32-bit owners. With the places of
    /// its extended attributes.
    pub(super) fn encode(&self) -> Vec<u8> {
        const EXTENDED: u16 = 1;
        const WITH_INDEXES: u32 = 0x20;
        let (layout, union) = match self.layout {
            Layout::Nothing => (0, 0),
            Layout::Blocks { first } => (0, first),
            Layout::Inline => (2, 0),
            Layout::Chunks { bits } => (4, bits | WITH_INDEXES),
            Layout::Device { number } => (0, number),
        };
        let mut bytes = vec![0; INODE_BYTES + extended_bytes(self.extended.len())];
        if !self.extended.is_empty() {
            // The header counts as one, and so does each place.
            put(
                &mut bytes,
                2,
                &(self.extended.len() as u16 + 1).to_le_bytes(),
            );
            put(&mut bytes, INODE_BYTES + 4, &[self.extended.len() as u8]);
            for (index, place) in self.extended.iter().enumerate() {
                let at = INODE_BYTES + EXTENDED_HEADER_BYTES + index * EXTENDED_PLACE_BYTES;
                put(&mut bytes, at, &place.to_le_bytes());
            }
        }
        put(&mut bytes, 0, &(EXTENDED | layout << 1).to_le_bytes());
        put(&mut bytes, 4, &self.mode.to_le_bytes());
        put(&mut bytes, 8, &self.size.to_le_bytes());
        put(&mut bytes, 16, &union.to_le_bytes());
        put(&mut bytes, 20, &self.number.to_le_bytes());
        put(&mut bytes, 24, &self.uid.to_le_bytes());
        put(&mut bytes, 28, &self.gid.to_le_bytes());
        put(&mut bytes, 32, &self.modified.seconds.to_le_bytes());
        put(&mut bytes, 40, &self.modified.nanoseconds.to_le_bytes());
        put(&mut bytes, 44, &self.links.to_le_bytes());
        bytes
    }
}

pub(super) struct ChunkIndex {
    /// From 1 on; 0 would be the image itself.
    pub(super) device: u16,
    pub(super) block: u32,
}

impl ChunkIndex {
    pub(super) fn encode(&self) -> [u8; CHUNK_INDEX_BYTES] {
        let mut bytes = [0; CHUNK_INDEX_BYTES];
        put(&mut bytes, 2, &self.device.to_le_bytes());
        put(&mut bytes, 4, &self.block.to_le_bytes());
        bytes
    }
}

/// One name in a block of a folder; `name_at` counts from the start of the block.
pub(super) fn entry(number: u32, name_at: u16, kind: atlas_core::Kind) -> [u8; ENTRY_BYTES] {
    use atlas_core::Kind;
    let kind = match kind {
        Kind::File => 1,
        Kind::Folder => 2,
        Kind::CharacterDevice => 3,
        Kind::BlockDevice => 4,
        Kind::Fifo => 5,
        Kind::Socket => 6,
        Kind::Link => 7,
    };
    let mut bytes = [0; ENTRY_BYTES];
    put(&mut bytes, 0, &u64::from(number).to_le_bytes());
    put(&mut bytes, 8, &name_at.to_le_bytes());
    put(&mut bytes, 10, &[kind]);
    bytes
}
