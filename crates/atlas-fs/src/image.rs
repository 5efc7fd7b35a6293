//! The image of a generation: an EROFS file system whose files lie in the segments of a volume.
//!
//! An image names addresses, not places: block `b` of device `i + 1` is address `slots[i].start + b *
//! 4096`, whatever stands behind the device when the image is mounted. It is written in two passes
//! over the namespace, in the order of the node ids, with two buffers and four bytes for each node.
//!
//! Layout: superblock and device table; inodes, the root's first, each file's with its chunk index
//! (two or more only above 8 TiB); the sets of extended attributes; blocks of folders and of long
//! link targets. The same namespace gives the same bytes.

mod extended;
mod folder;
mod format;
mod region;

use std::fs::File;
use std::os::unix::fs::FileExt;

use atlas_core::{Address, Error, ErrorKind, Kind, PAGE_BYTES, Result, SET_ID_BITS};

use crate::record::{Record, State};
use crate::tables::damaged;
use crate::{FolderState, Namespace, Node, NodeId};
use folder::Folder;
use format::{
    BLOCK_BYTES, CHUNK_INDEX_BYTES, ChunkIndex, DEVICE_BYTES, DEVICE_TABLE_AT, Device, INODE_BYTES,
    Inode, Layout, MOST_CHUNK_BITS, SLOT_BYTES, Superblock, TARGET_LIMIT_BYTES,
};
use region::Region;

/// A segment of the volume: a device of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub start: Address,
    pub length: u64,
}

/// What an image holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageTotals {
    /// Of the image file.
    pub bytes: u64,
    pub inodes: u64,
}

/// Inodes begin here in the area of inodes, in slots of 32 bytes: some tools take number 0 for none.
const FIRST_INODE: u64 = 2;

/// Numbers of inodes are kept in four bytes.
const MOST_INODE_SLOTS: u64 = u32::MAX as u64;

/// Marks a node that is not in the image.
const NOT_THERE: u32 = u32::MAX;

/// Writes the image of a namespace that is scanned completely into an empty file, and syncs it.
/// The slots are in the order of their addresses, and begin at whole pages.
///
/// # Errors
/// `Conflict` where a folder is not complete, `Unsupported` where a file has no segment behind it
/// or anything is too large for the format (a name of more than 255 bytes, a link target of more
/// than 4095, more than 128 GiB of inodes, a segment of 16 TiB), `Corrupt` for damaged tables,
/// else what the disk says.
///
/// Source: `fs/erofs/erofs_fs.h` and `Documentation/filesystems/erofs.rst` of Linux.
pub fn write_image(namespace: &Namespace, slots: &[Slot], image: &File) -> Result<ImageTotals> {
    let plan = Plan::new(namespace, slots)?;
    let mut inodes = Region::new(image, plan.inodes_at);
    let mut blocks = Region::new(image, plan.blocks_at);
    for (id, record) in namespace.records() {
        if let Some(node) = record.node(id).filter(|_| plan.has(id)) {
            plan.write_node(&node, &record, &mut inodes, &mut blocks)?;
        }
    }
    inodes.finish()?;
    plan.write_extended(image)?;
    let end = blocks.finish()?.max(plan.blocks_at);
    let failed = |error: std::io::Error| Error::from_io(&error, "write an image");
    image.set_len(end).map_err(failed)?;
    image.write_all_at(&plan.head(end)?, 0).map_err(failed)?;
    image.sync_all().map_err(failed)?;
    Ok(ImageTotals {
        bytes: end,
        inodes: plan.count,
    })
}

/// How many devices an image has. Looks at its length and its first block, which is written last;
/// to compare the rest with a checksum would mean to read all of it.
///
/// # Errors
/// `Corrupt` for what is no image of ours, or one that is cut off or damaged there.
pub fn image_devices(image: &File) -> Result<u16> {
    let mut head = vec![0; BLOCK_BYTES];
    match image.read_exact_at(&mut head, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            return Err(not_an_image());
        }
        Err(error) => return Err(Error::from_io(&error, "read an image")),
    }
    let (devices, bytes) = Superblock::check(&head).ok_or_else(not_an_image)?;
    let metadata = image
        .metadata()
        .map_err(|error| Error::from_io(&error, "look at an image"))?;
    if metadata.len() == bytes {
        Ok(devices)
    } else {
        Err(not_an_image())
    }
}

fn not_an_image() -> Error {
    Error::new(
        ErrorKind::Corrupt,
        libc::EIO,
        "open an image: it is damaged",
    )
}

/// Where everything goes.
struct Plan<'a> {
    namespace: &'a Namespace,
    slots: &'a [Slot],
    /// Number of the inode of each node, by its id.
    numbers: Vec<u32>,
    count: u64,
    inodes_at: u64,
    /// Where the sets of extended attributes begin, and how many bytes they are.
    extended_at: u64,
    extended_bytes: u64,
    blocks_at: u64,
}

impl<'a> Plan<'a> {
    fn new(namespace: &'a Namespace, slots: &'a [Slot]) -> Result<Self> {
        if slots.len() > usize::from(u16::MAX - 1) {
            return Err(too_large("it has too many segments"));
        }
        if (slots.iter()).any(|slot| slot.length / PAGE_BYTES > u64::from(u32::MAX)) {
            return Err(too_large("a segment is too long"));
        }
        let devices_end = DEVICE_TABLE_AT + slots.len() * DEVICE_BYTES;
        let inodes_at = (devices_end.next_multiple_of(BLOCK_BYTES)) as u64;
        let mut plan = Self {
            namespace,
            slots,
            numbers: Vec::new(),
            count: 0,
            inodes_at,
            extended_at: 0,
            extended_bytes: namespace.tables.extended_bytes(),
            blocks_at: 0,
        };
        let mut next = FIRST_INODE;
        for (id, record) in namespace.records() {
            plan.numbers.resize(id.0 as usize + 1, NOT_THERE);
            let Some(node) = record.node(id) else {
                continue;
            };
            if node.attributes.kind == Kind::Folder
                && record.folder_state() != FolderState::Complete
            {
                return Err(not_scanned());
            }
            let bytes = plan.inode_bytes(&node, &record)? + plan.extended_bytes_of(&record)?;
            next = place(next, bytes, inline_bytes(bytes, &node));
            if next >= MOST_INODE_SLOTS {
                return Err(too_large("it has too many files"));
            }
            if let Some(number) = plan.numbers.last_mut() {
                *number = next as u32;
            }
            next += bytes.div_ceil(SLOT_BYTES) as u64;
            plan.count += 1;
        }
        let inode_bytes = (next * SLOT_BYTES as u64).next_multiple_of(PAGE_BYTES);
        plan.extended_at = inodes_at + inode_bytes;
        plan.blocks_at = plan.extended_at + plan.extended_bytes.next_multiple_of(PAGE_BYTES);
        Ok(plan)
    }

    fn number(&self, id: NodeId) -> Option<u32> {
        let number = self.numbers.get(usize::try_from(id.0).ok()?)?;
        (*number != NOT_THERE).then_some(*number)
    }

    fn has(&self, id: NodeId) -> bool {
        self.number(id).is_some()
    }

    /// Bytes of an inode with what follows it.
    fn inode_bytes(&self, node: &Node, record: &Record<'_>) -> Result<usize> {
        Ok(match node.attributes.kind {
            Kind::File if node.address.is_some() => {
                INODE_BYTES + chunks(node.attributes.size) as usize * CHUNK_INDEX_BYTES
            }
            Kind::File if node.attributes.size > 0 => {
                return Err(damaged("a file has no address"));
            }
            Kind::Link => {
                let target = self.target(record)?;
                if is_inline(target) {
                    INODE_BYTES + target.len()
                } else {
                    INODE_BYTES
                }
            }
            _ => INODE_BYTES,
        })
    }

    fn target(&self, record: &Record<'_>) -> Result<&'a [u8]> {
        let target = (self.namespace.tables.text(record.target()))
            .ok_or_else(|| damaged("the target of a link is missing"))?;
        if target.len() <= TARGET_LIMIT_BYTES {
            Ok(target)
        } else {
            Err(too_large("the target of a link is too long"))
        }
    }

    /// Writes an inode, and its blocks if it has any.
    fn write_node(
        &self,
        node: &Node,
        record: &Record<'_>,
        inodes: &mut Region<'_>,
        blocks: &mut Region<'_>,
    ) -> Result<()> {
        let attributes = &node.attributes;
        let number = self.number(node.id).ok_or_else(not_scanned)?;
        inodes.pad_to(self.inodes_at + u64::from(number) * SLOT_BYTES as u64)?;
        let permissions = attributes.permissions & 0o7777 & !SET_ID_BITS;
        let mut inode = Inode {
            mode: (attributes.kind.mode_bits() | permissions) as u16,
            number,
            uid: attributes.uid,
            gid: attributes.gid,
            modified: attributes.modified,
            links: attributes.links.max(1),
            extended: self.extended_places(record)?,
            ..Inode::default()
        };
        match attributes.kind {
            Kind::File => {
                inode.size = attributes.size;
                let Some(address) = node.address else {
                    return inodes.write(&inode.encode());
                };
                let (device, first) = self.find(address, attributes.size)?;
                inode.layout = Layout::Chunks {
                    bits: chunk_bits(attributes.size),
                };
                inodes.write(&inode.encode())?;
                for chunk in 0..chunks(attributes.size) {
                    let block = first + ((chunk as u32) << MOST_CHUNK_BITS);
                    inodes.write(&ChunkIndex { device, block }.encode())?;
                }
                Ok(())
            }
            Kind::Folder => {
                let folder = Folder::new(self, node, record)?;
                inode.size = folder.write(self, blocks, &mut inode.layout)?;
                inodes.write(&inode.encode())
            }
            Kind::Link => {
                let target = self.target(record)?;
                inode.size = target.len() as u64;
                if is_inline(target) {
                    inode.layout = Layout::Inline;
                    inodes.write(&inode.encode())?;
                    return inodes.write(target);
                }
                inode.layout = Layout::Blocks {
                    first: block_number(blocks.position())?,
                };
                blocks.write(target)?;
                blocks.pad_to(blocks.position().next_multiple_of(PAGE_BYTES))?;
                inodes.write(&inode.encode())
            }
            Kind::CharacterDevice | Kind::BlockDevice => {
                inode.layout = Layout::Device {
                    // The kernel's 32-bit form is the low half of glibc's.
                    number: attributes.device_number as u32,
                };
                inodes.write(&inode.encode())
            }
            Kind::Fifo | Kind::Socket => inodes.write(&inode.encode()),
        }
    }

    /// Device and block of a file.
    fn find(&self, address: Address, size: u64) -> Result<(u16, u32)> {
        let after = self.slots.partition_point(|slot| slot.start <= address);
        let slot = after.checked_sub(1).and_then(|index| self.slots.get(index));
        let slot = slot.filter(|slot| {
            let end = address.0.checked_add(size);
            end.is_some_and(|end| end <= slot.start.0 + slot.length)
        });
        let slot = slot.ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                libc::ENOSPC,
                "write an image: the tier had no segment for some files",
            )
        })?;
        // Segments were found short enough before anything was written.
        let block = ((address.0 - slot.start.0) / PAGE_BYTES) as u32;
        Ok((after as u16, block))
    }

    /// Superblock and device table of an image of `bytes` bytes.
    fn head(&self, bytes: u64) -> Result<Vec<u8>> {
        let mut head = vec![0; self.inodes_at as usize];
        for (index, slot) in self.slots.iter().enumerate() {
            let blocks = (slot.length / PAGE_BYTES) as u32;
            let at = DEVICE_TABLE_AT + index * DEVICE_BYTES;
            head[at..at + DEVICE_BYTES].copy_from_slice(&Device { blocks }.encode());
        }
        Superblock {
            root: FIRST_INODE as u16,
            inodes: self.count,
            blocks: block_number(bytes)?,
            inodes_at: block_number(self.inodes_at)?,
            extended_at: self.extended_block()?,
            devices: self.slots.len() as u16,
        }
        .write(&mut head);
        Ok(head)
    }
}

/// The slot for an inode of `bytes` bytes, at `next` or later: what lies inline may not cross the
/// end of a block, and it begins after the inode itself.
fn place(next: u64, bytes: usize, inline: usize) -> u64 {
    let slots_a_block = (BLOCK_BYTES / SLOT_BYTES) as u64;
    let offset = (next % slots_a_block) as usize * SLOT_BYTES;
    if inline > 0 && offset + bytes > BLOCK_BYTES {
        next.next_multiple_of(slots_a_block)
    } else {
        next
    }
}

fn inline_bytes(bytes: usize, node: &Node) -> usize {
    if node.attributes.kind == Kind::Link {
        bytes - INODE_BYTES
    } else {
        0
    }
}

fn is_inline(target: &[u8]) -> bool {
    INODE_BYTES + target.len() <= BLOCK_BYTES
}

/// One chunk covers the whole file, if it may be so large: its address range has no gaps.
fn chunk_bits(size: u64) -> u32 {
    let blocks = size.div_ceil(PAGE_BYTES).max(1);
    (blocks.next_power_of_two().trailing_zeros()).min(MOST_CHUNK_BITS)
}

fn chunks(size: u64) -> u64 {
    size.div_ceil(PAGE_BYTES << MOST_CHUNK_BITS)
}

fn block_number(bytes: u64) -> Result<u32> {
    u32::try_from(bytes / PAGE_BYTES).map_err(|_| too_large("it has too many names"))
}

fn too_large(why: &str) -> Error {
    let message = format!("write an image: the data set is too large: {why}");
    Error::new(ErrorKind::Unsupported, libc::EFBIG, message)
}

fn not_scanned() -> Error {
    Error::new(
        ErrorKind::Conflict,
        libc::EBUSY,
        "write an image: the scan is not complete",
    )
}

/// Whether a node takes part: what is gone, or was only named, does not.
fn state_of(namespace: &Namespace, id: NodeId) -> Option<State> {
    namespace.tables.record(id).map(|record| record.state())
}
