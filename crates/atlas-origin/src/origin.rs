//! What every origin can do.

use atlas_core::{
    Attributes, Error, ErrorKind, ExtendedAttribute, Kind, Result, VersionTag, printable,
};

/// One name of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub name: Vec<u8>,
    /// `None` where the origin names entries without telling their type.
    pub kind: Option<Kind>,
}

/// What an origin tells about one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub attributes: Attributes,
    /// Where a link points to, unchecked; `None` for everything else.
    pub target: Option<Vec<u8>>,
    /// The POSIX ACLs and `user.*`, in the order of their names.
    pub extended: Vec<ExtendedAttribute>,
    /// How many of `user.*` are not among them: they exceed [`USER_LIMIT_BYTES`] or
    /// [`EXTENDED_LIMIT_COUNT`].
    pub left_out: u32,
}

/// Most bytes of names and values of `user.*` of one entry; ACLs do not count.
pub const USER_LIMIT_BYTES: usize = 64 << 10;
/// Most extended attributes of one entry: an inode of an image refers to no more.
pub const EXTENDED_LIMIT_COUNT: usize = 255;

/// One file of a folder that is to be read from its start.
#[derive(Debug)]
pub struct ReadRequest<'a> {
    pub name: &'a [u8],
    /// The version that is wanted; any other is an error.
    pub tag: &'a VersionTag,
    /// Filled whole. At most as long as the file.
    pub buffer: &'a mut [u8],
}

/// What has been asked of an origin since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Listings, entries whose attributes were asked for, and reads of files; also those that
    /// failed.
    pub requests: u64,
    /// Bytes of files that the origin delivered.
    pub read_bytes: u64,
}

/// The under-storage of a data set. Paths are bytes relative to its root, without a slash at
/// either end, of any length; `b""` is the root. Links are told of, never followed.
///
/// Errors carry the errno of the origin. Everywhere: `NotFound` for what is not there, `Denied`
/// where the identity may not, `Invalid` for a path that is not of the form above or leads
/// through a link, `OriginGone` when the root is not where it was.
pub trait Origin: Send + Sync + 'static {
    /// The names of one folder in the origin's order, without "." and "..".
    fn list(&self, folder: &[u8]) -> Result<Vec<Listed>>;

    /// The attributes of entries of one folder, one result for each name. The origin is asked
    /// for each: nothing comes from a cache of Atlas. An entry whose ACL cannot be read is an
    /// error: without it nobody can tell who may read the entry.
    fn stat_many(&self, folder: &[u8], names: &[&[u8]]) -> Result<Vec<Result<Entry>>>;

    /// The attributes of one entry.
    fn stat(&self, path: &[u8]) -> Result<Entry>;

    /// Fills `buffer` with the bytes of a regular file from `offset` on, never partly.
    ///
    /// # Errors
    /// `Stale` (ESTALE) when the file is not, or does not stay, the version that `tag` names;
    /// `Invalid` when the range ends beyond the size in `tag`. After any error the contents of
    /// `buffer` are unspecified.
    fn read(&self, path: &[u8], tag: &VersionTag, offset: u64, buffer: &mut [u8]) -> Result<()>;

    /// Reads files of one folder as [`Origin::read`] does at offset 0, one result for each
    /// request. The outer error means that the folder itself could not be opened.
    fn read_many(&self, folder: &[u8], requests: &mut [ReadRequest<'_>])
    -> Result<Vec<Result<()>>>;

    fn counters(&self) -> Counters;
}

/// The error of a file that is not the version that was asked for.
pub(crate) fn stale(name: &[u8], reason: &str) -> Error {
    Error::new(
        ErrorKind::Stale,
        libc::ESTALE,
        format!("read {}: {reason}", printable(name)),
    )
}
