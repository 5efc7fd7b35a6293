//! What a file system must be able to answer.

use atlas_core::{Attributes, Kind, SET_ID_BITS, Timestamp};

use crate::folder::ReplyFolder;
use crate::protocol::WireAttributes;
use crate::reply::{
    ReplyAttributes, ReplyData, ReplyEntry, ReplyExtended, ReplyOpen, ReplyStatistics,
};

/// A read-only file system. Every method answers through its reply, at once or later and from any
/// thread; a reply that is dropped unanswered answers EIO (or nothing, once the session was
/// stopped: the next holder of the descriptor is asked again).
///
/// Methods run on the threads of the session: one that blocks keeps a thread. What has to wait
/// keeps the reply elsewhere and returns. The kernel never sends a changing call to a read-only
/// mount; one that comes all the same gets EROFS from the session.
pub trait Filesystem: Send + Sync + 'static {
    /// The entry `name` (any bytes but `/` and NUL) of the folder `parent`.
    fn lookup(&self, parent: u64, name: &[u8], reply: ReplyEntry);

    fn attributes(&self, node: u64, reply: ReplyAttributes);

    /// The target of a link.
    fn read_link(&self, node: u64, reply: ReplyData);

    /// Bytes of a file. Fewer than asked mean: the file ends there.
    fn read(&self, request: ReadRequest, reply: ReplyData);

    /// Entries of a folder from `request.offset` on.
    fn read_folder(&self, request: FolderRequest, reply: ReplyFolder);

    fn statistics(&self, node: u64, reply: ReplyStatistics);

    /// OPEN and OPENDIR. Not implemented means for [`Profile::Live`](crate::Profile::Live) that the
    /// kernel opens by itself from then on, and that `read` gets the handle 0.
    fn open(&self, request: OpenRequest, reply: ReplyOpen) {
        let _ = request;
        reply.unneeded();
    }

    /// The last user of a handle that `open` answered has closed it.
    fn release(&self, node: u64, handle: u64) {
        let _ = (node, handle);
    }

    /// The kernel dropped `lookups` of its references to `node`: one each had come with
    /// [`ReplyEntry::found`] and with an entry with attributes in a folder. At zero it asks for the
    /// node no more. The end of the mount forgets everything without a call.
    fn forget(&self, node: u64, lookups: u64) {
        let _ = (node, lookups);
    }

    /// The value of an extended attribute; ENODATA if there is none of this name. Not implemented
    /// means that the kernel asks no more and that there are none at all.
    fn extended_attribute(&self, node: u64, name: &[u8], reply: ReplyExtended) {
        let _ = (node, name);
        reply.error(libc::ENOSYS);
    }

    /// The names of all extended attributes, each closed by a NUL.
    fn extended_attribute_names(&self, node: u64, reply: ReplyExtended) {
        let _ = node;
        reply.error(libc::ENOSYS);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadRequest {
    pub node: u64,
    /// As `open` answered it; 0 where the kernel opens by itself.
    pub handle: u64,
    pub offset: u64,
    /// Bytes wanted, at most 1 MiB.
    pub size: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FolderRequest {
    pub node: u64,
    pub handle: u64,
    /// 0, or the `next_offset` of the entry that the kernel got last. May be asked for again and,
    /// after a seek, in any order.
    pub offset: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenRequest {
    pub node: u64,
    /// OPENDIR, not OPEN.
    pub folder: bool,
    /// The flags of `open(2)`.
    pub flags: u32,
}

/// What `stat` shows of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeAttributes {
    pub inode: u64,
    pub kind: Kind,
    /// Permission bits (07777), shown as they are here.
    pub permissions: u32,
    pub uid: u32,
    pub gid: u32,
    pub links: u32,
    pub size: u64,
    /// Units of 512 bytes that the file takes.
    pub blocks: u64,
    /// Preferred size of reads, in bytes; buffered readers (CPython's `open`) allocate as much.
    pub block_size: u32,
    pub device_number: u64,
    pub accessed: Timestamp,
    pub modified: Timestamp,
    pub changed: Timestamp,
}

impl NodeAttributes {
    /// How a data set shows the attributes of its origin: its own inode number, no set-id bits, and
    /// the time of modification as that of access.
    pub const fn shown(inode: u64, origin: &Attributes) -> Self {
        Self {
            inode,
            kind: origin.kind,
            permissions: origin.permissions & 0o7777 & !SET_ID_BITS,
            uid: origin.uid,
            gid: origin.gid,
            links: origin.links,
            size: origin.size,
            blocks: origin.size.div_ceil(512),
            block_size: 4096,
            device_number: origin.device_number,
            accessed: origin.modified,
            modified: origin.modified,
            changed: origin.changed,
        }
    }

    pub(crate) const fn wire(&self) -> WireAttributes {
        WireAttributes {
            inode: self.inode,
            size: self.size,
            blocks: self.blocks,
            accessed: self.accessed.seconds,
            modified: self.modified.seconds,
            changed: self.changed.seconds,
            accessed_nanoseconds: self.accessed.nanoseconds,
            modified_nanoseconds: self.modified.nanoseconds,
            changed_nanoseconds: self.changed.nanoseconds,
            mode: self.kind.mode_bits() | (self.permissions & 0o7777),
            links: self.links,
            uid: self.uid,
            gid: self.gid,
            // The kernel's 32-bit form of a device number is the low half of glibc's.
            device_number: self.device_number as u32,
            block_size: self.block_size,
            flags: 0,
        }
    }
}

/// What `statfs` shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Unit of the three counts of blocks, in bytes.
    pub block_size: u32,
    pub blocks: u64,
    pub free_blocks: u64,
    pub available_blocks: u64,
    pub files: u64,
    pub free_files: u64,
}
