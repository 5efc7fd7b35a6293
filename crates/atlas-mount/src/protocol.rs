//! The wire format of FUSE, protocol 7.31 to 7.45: only what a read-only file system meets.
//!
//! Source: `include/uapi/linux/fuse.h` of Linux (names here are ours). All integers are in the
//! machine's byte order, and every structure is a multiple of 8 bytes without padding.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub(crate) const ROOT_NODE: u64 = 1;
/// Longest name of an entry. The kernel would let longer ones through.
pub(crate) const NAME_BYTES: usize = 255;
pub(crate) const MAJOR: u32 = 7;
/// The newest minor version whose structures are known here.
pub(crate) const MINOR: u32 = 41;
/// The oldest one: 5.4's, the first with everything that the live profile rests on.
pub(crate) const OLDEST_MINOR: u32 = 31;

pub(crate) mod operation {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const SETATTR: u32 = 4;
    pub(crate) const READLINK: u32 = 5;
    pub(crate) const SYMLINK: u32 = 6;
    pub(crate) const MKNOD: u32 = 8;
    pub(crate) const MKDIR: u32 = 9;
    pub(crate) const UNLINK: u32 = 10;
    pub(crate) const RMDIR: u32 = 11;
    pub(crate) const RENAME: u32 = 12;
    pub(crate) const LINK: u32 = 13;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const READ: u32 = 15;
    pub(crate) const WRITE: u32 = 16;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const SETXATTR: u32 = 21;
    pub(crate) const GETXATTR: u32 = 22;
    pub(crate) const LISTXATTR: u32 = 23;
    pub(crate) const REMOVEXATTR: u32 = 24;
    pub(crate) const FLUSH: u32 = 25;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const OPENDIR: u32 = 27;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const CREATE: u32 = 35;
    pub(crate) const INTERRUPT: u32 = 36;
    pub(crate) const DESTROY: u32 = 38;
    pub(crate) const IOCTL: u32 = 39;
    pub(crate) const NOTIFY_REPLY: u32 = 41;
    pub(crate) const BATCH_FORGET: u32 = 42;
    pub(crate) const FALLOCATE: u32 = 43;
    pub(crate) const READDIRPLUS: u32 = 44;
    pub(crate) const RENAME2: u32 = 45;
    pub(crate) const COPY_FILE_RANGE: u32 = 47;
    pub(crate) const TMPFILE: u32 = 51;

    /// One more than the largest operation that is counted by its own name.
    pub(crate) const COUNT: usize = 53;

    /// The name of an operation in counts and messages.
    pub(crate) const fn name(operation: u32) -> &'static str {
        match operation {
            LOOKUP => "lookup",
            FORGET => "forget",
            GETATTR => "getattr",
            SETATTR => "setattr",
            READLINK => "readlink",
            SYMLINK => "symlink",
            MKNOD => "mknod",
            MKDIR => "mkdir",
            UNLINK => "unlink",
            RMDIR => "rmdir",
            RENAME => "rename",
            LINK => "link",
            OPEN => "open",
            READ => "read",
            WRITE => "write",
            STATFS => "statfs",
            RELEASE => "release",
            20 => "fsync",
            SETXATTR => "setxattr",
            GETXATTR => "getxattr",
            LISTXATTR => "listxattr",
            REMOVEXATTR => "removexattr",
            FLUSH => "flush",
            INIT => "init",
            OPENDIR => "opendir",
            READDIR => "readdir",
            RELEASEDIR => "releasedir",
            30 => "fsyncdir",
            31 => "getlk",
            32 => "setlk",
            33 => "setlkw",
            34 => "access",
            CREATE => "create",
            INTERRUPT => "interrupt",
            37 => "bmap",
            DESTROY => "destroy",
            IOCTL => "ioctl",
            40 => "poll",
            NOTIFY_REPLY => "notify_reply",
            BATCH_FORGET => "batch_forget",
            FALLOCATE => "fallocate",
            READDIRPLUS => "readdirplus",
            RENAME2 => "rename2",
            46 => "lseek",
            COPY_FILE_RANGE => "copy_file_range",
            50 => "syncfs",
            TMPFILE => "tmpfile",
            52 => "statx",
            _ => "unknown",
        }
    }
}

/// Flags of INIT; bits 32 and up travel in `flags_high`.
pub(crate) mod capability {
    pub(crate) const ASYNC_READ: u64 = 1 << 0;
    pub(crate) const DO_READDIRPLUS: u64 = 1 << 13;
    pub(crate) const ASYNC_DIO: u64 = 1 << 15;
    pub(crate) const NO_OPEN_SUPPORT: u64 = 1 << 17;
    pub(crate) const PARALLEL_DIROPS: u64 = 1 << 18;
    pub(crate) const POSIX_ACL: u64 = 1 << 20;
    pub(crate) const MAX_PAGES: u64 = 1 << 22;
    pub(crate) const CACHE_SYMLINKS: u64 = 1 << 23;
    pub(crate) const NO_OPENDIR_SUPPORT: u64 = 1 << 24;
    pub(crate) const EXPLICIT_INVAL_DATA: u64 = 1 << 25;
    pub(crate) const INIT_EXT: u64 = 1 << 30;
    pub(crate) const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
    pub(crate) const HAS_RESEND: u64 = 1 << 39;
}

/// Flags of the answer to OPEN and OPENDIR.
pub(crate) mod opened {
    pub(crate) const DIRECT_IO: u32 = 1 << 0;
    pub(crate) const KEEP_CACHE: u32 = 1 << 1;
    pub(crate) const CACHE_DIR: u32 = 1 << 3;
    pub(crate) const NOFLUSH: u32 = 1 << 5;
}

/// Codes of messages that the server starts; they travel in [`AnswerHeader::error`], `unique` 0.
pub(crate) mod notify {
    pub(crate) const INVALIDATE_INODE: i32 = 2;
    pub(crate) const INVALIDATE_ENTRY: i32 = 3;
    pub(crate) const STORE: i32 = 4;
    pub(crate) const RESEND: i32 = 7;
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct RequestHeader {
    pub(crate) length: u32,
    pub(crate) operation: u32,
    pub(crate) unique: u64,
    pub(crate) node: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Thread id of the caller in the mounter's process namespace, 0 where it has none there.
    pub(crate) thread: u32,
    /// Bytes of extensions behind the arguments, in units of 8; none that we use.
    pub(crate) extensions: u16,
    pub(crate) padding: u16,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct AnswerHeader {
    pub(crate) length: u32,
    /// 0 or a negative errno; a [`notify`] code where `unique` is 0.
    pub(crate) error: i32,
    pub(crate) unique: u64,
}

/// The part of INIT that every version since 7.6 has. `flags_high` follows with INIT_EXT.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct InitRequest {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) max_readahead: u32,
    pub(crate) flags: u32,
}

#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct InitAnswer {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) max_readahead: u32,
    pub(crate) flags: u32,
    pub(crate) max_background: u16,
    pub(crate) congestion_threshold: u16,
    pub(crate) max_write: u32,
    pub(crate) time_granularity: u32,
    pub(crate) max_pages: u16,
    pub(crate) map_alignment: u16,
    pub(crate) flags_high: u32,
    pub(crate) max_stack_depth: u32,
    pub(crate) request_timeout: u16,
    pub(crate) unused: [u16; 11],
}

#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct WireAttributes {
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) blocks: u64,
    pub(crate) accessed: i64,
    pub(crate) modified: i64,
    pub(crate) changed: i64,
    pub(crate) accessed_nanoseconds: u32,
    pub(crate) modified_nanoseconds: u32,
    pub(crate) changed_nanoseconds: u32,
    pub(crate) mode: u32,
    pub(crate) links: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) device_number: u32,
    pub(crate) block_size: u32,
    pub(crate) flags: u32,
}

#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct EntryAnswer {
    /// 0: the name does not exist, for as long as the entry is valid (LOOKUP); or: only a name
    /// (READDIRPLUS).
    pub(crate) node: u64,
    pub(crate) generation: u64,
    pub(crate) entry_valid_seconds: u64,
    pub(crate) attributes_valid_seconds: u64,
    pub(crate) entry_valid_nanoseconds: u32,
    pub(crate) attributes_valid_nanoseconds: u32,
    pub(crate) attributes: WireAttributes,
}

#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct AttributesAnswer {
    pub(crate) valid_seconds: u64,
    pub(crate) valid_nanoseconds: u32,
    pub(crate) padding: u32,
    pub(crate) attributes: WireAttributes,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct OpenArguments {
    pub(crate) flags: u32,
    pub(crate) open_flags: u32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct OpenAnswer {
    pub(crate) handle: u64,
    pub(crate) flags: u32,
    pub(crate) backing: u32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct ReleaseArguments {
    pub(crate) handle: u64,
    pub(crate) flags: u32,
    pub(crate) release_flags: u32,
    pub(crate) lock_owner: u64,
}

/// Of READ, READDIR and READDIRPLUS.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct ReadArguments {
    pub(crate) handle: u64,
    pub(crate) offset: u64,
    pub(crate) size: u32,
    pub(crate) read_flags: u32,
    pub(crate) lock_owner: u64,
    pub(crate) flags: u32,
    pub(crate) padding: u32,
}

/// Head of one entry of a folder; the name follows, padded with zeros to 8 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct FolderEntry {
    pub(crate) inode: u64,
    pub(crate) next_offset: u64,
    pub(crate) name_length: u32,
    pub(crate) kind: u32,
}

#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct StatisticsAnswer {
    pub(crate) blocks: u64,
    pub(crate) free_blocks: u64,
    pub(crate) available_blocks: u64,
    pub(crate) files: u64,
    pub(crate) free_files: u64,
    pub(crate) block_size: u32,
    pub(crate) name_length: u32,
    pub(crate) fragment_size: u32,
    pub(crate) padding: u32,
    pub(crate) spare: [u32; 6],
}

/// Of GETXATTR (the name follows) and LISTXATTR, and the answer to a `size` of 0.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct ExtendedSize {
    pub(crate) size: u32,
    pub(crate) padding: u32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct InterruptArguments {
    pub(crate) unique: u64,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct ForgetArguments {
    pub(crate) lookups: u64,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct BatchForgetArguments {
    pub(crate) count: u32,
    pub(crate) padding: u32,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct ForgetOne {
    pub(crate) node: u64,
    pub(crate) lookups: u64,
}

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct InvalidateNode {
    pub(crate) node: u64,
    /// Negative: the attributes alone.
    pub(crate) offset: i64,
    /// 0: to the end.
    pub(crate) length: i64,
}

/// The name and a NUL follow.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct InvalidateEntry {
    pub(crate) parent: u64,
    pub(crate) name_length: u32,
    pub(crate) flags: u32,
}

/// The data follows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct StoreHeader {
    pub(crate) node: u64,
    pub(crate) offset: u64,
    pub(crate) size: u32,
    pub(crate) padding: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_kernel_header() {
        assert_eq!(size_of::<RequestHeader>(), 40);
        assert_eq!(size_of::<AnswerHeader>(), 16);
        assert_eq!(size_of::<InitAnswer>(), 64);
        assert_eq!(size_of::<WireAttributes>(), 88);
        assert_eq!(size_of::<EntryAnswer>(), 128);
        assert_eq!(size_of::<AttributesAnswer>(), 104);
        assert_eq!(size_of::<ReadArguments>(), 40);
        assert_eq!(size_of::<FolderEntry>(), 24);
        assert_eq!(size_of::<StatisticsAnswer>(), 80);
        assert_eq!(size_of::<StoreHeader>(), 24);
    }
}
