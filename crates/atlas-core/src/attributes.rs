//! What is known of one entry of a namespace.

/// Set-user-id and set-group-id: dropped from every mode that Atlas shows, on files and folders.
pub const SET_ID_BITS: u32 = 0o6000;

/// The type of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    File = 1,
    Folder = 2,
    Link = 3,
    Fifo = 4,
    Socket = 5,
    CharacterDevice = 6,
    BlockDevice = 7,
}

impl Kind {
    /// From the type bits of `st_mode`; `None` for a type that POSIX does not know.
    pub const fn from_mode(mode: u32) -> Option<Self> {
        match mode & libc::S_IFMT {
            libc::S_IFREG => Some(Self::File),
            libc::S_IFDIR => Some(Self::Folder),
            libc::S_IFLNK => Some(Self::Link),
            libc::S_IFIFO => Some(Self::Fifo),
            libc::S_IFSOCK => Some(Self::Socket),
            libc::S_IFCHR => Some(Self::CharacterDevice),
            libc::S_IFBLK => Some(Self::BlockDevice),
            _ => None,
        }
    }

    /// The type bits of `st_mode`.
    pub const fn mode_bits(self) -> u32 {
        match self {
            Self::File => libc::S_IFREG,
            Self::Folder => libc::S_IFDIR,
            Self::Link => libc::S_IFLNK,
            Self::Fifo => libc::S_IFIFO,
            Self::Socket => libc::S_IFSOCK,
            Self::CharacterDevice => libc::S_IFCHR,
            Self::BlockDevice => libc::S_IFBLK,
        }
    }

    /// The inverse of `self as u8`.
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            1 => Some(Self::File),
            2 => Some(Self::Folder),
            3 => Some(Self::Link),
            4 => Some(Self::Fifo),
            5 => Some(Self::Socket),
            6 => Some(Self::CharacterDevice),
            7 => Some(Self::BlockDevice),
            _ => None,
        }
    }
}

/// A point in time as file systems keep it: since 1970, possibly before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    pub seconds: i64,
    pub nanoseconds: u32,
}

/// Tells two versions of a POSIX file apart. Any difference means: another version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionTag {
    pub size: u64,
    pub modified: Timestamp,
    pub changed: Timestamp,
    pub inode: u64,
}

/// The attributes of an entry at the origin, as of one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub kind: Kind,
    /// Permission bits (07777) as the origin has them: set-id bits are dropped where modes are shown.
    pub permissions: u32,
    pub uid: u32,
    pub gid: u32,
    pub links: u32,
    pub size: u64,
    /// `st_rdev` of a device node, else 0.
    pub device_number: u64,
    pub modified: Timestamp,
    pub changed: Timestamp,
    /// `st_ino` and `st_dev` at the origin: they tell hard links, they are never shown to readers.
    pub inode: u64,
    pub device: u64,
}

impl Attributes {
    /// The version of the file that these attributes describe.
    pub const fn tag(&self) -> VersionTag {
        VersionTag {
            size: self.size,
            modified: self.modified,
            changed: self.changed,
            inode: self.inode,
        }
    }
}

/// One extended attribute of an entry. Only `user.*` and the POSIX ACLs are ever shown.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ExtendedAttribute {
    pub name: Vec<u8>,
    pub value: Vec<u8>,
}

/// Name of the POSIX ACL that decides over access to an entry.
pub const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
/// Name of the POSIX ACL that a folder hands down.
pub const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";
/// What the names of attributes without a meaning to the kernel begin with.
pub const USER_PREFIX: &[u8] = b"user.";
