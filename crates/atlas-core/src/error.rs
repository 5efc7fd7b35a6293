//! One error type. A kind says what the caller can do; the errno is what a reader of the mount sees.

use std::fmt;

/// What a caller can do about an error. Append only: the codes are shown to users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Reading or writing failed: look at the errno; trying again may help.
    Io,
    /// The origin holds another version than the generation: make a new generation.
    Stale,
    /// The identity may not do this at the origin.
    Denied,
    /// It is not there.
    NotFound,
    /// A limit or a full disk: free space or raise the limit.
    NoSpace,
    /// The caller asked for something that cannot be: correct the input.
    Invalid,
    /// It exists already, or somebody is using it.
    Conflict,
    /// Bytes or tables are damaged: they are fetched again where the origin lives.
    Corrupt,
    /// The machine or its kernel cannot do this.
    Unsupported,
    /// The root of the origin is not where it was (renamed, unmounted, another folder in its
    /// place): bring it back. Says nothing about any entry below it.
    OriginGone,
}

impl ErrorKind {
    /// Every kind, for tests that the front ends know them all.
    pub const ALL: [Self; 10] = [
        Self::Io,
        Self::Stale,
        Self::Denied,
        Self::NotFound,
        Self::NoSpace,
        Self::Invalid,
        Self::Conflict,
        Self::Corrupt,
        Self::Unsupported,
        Self::OriginGone,
    ];

    /// The stable code that users see and documents explain.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Io => "ATL1001",
            Self::Stale => "ATL1002",
            Self::Denied => "ATL1003",
            Self::NotFound => "ATL1004",
            Self::NoSpace => "ATL1005",
            Self::Invalid => "ATL1006",
            Self::Conflict => "ATL1007",
            Self::Corrupt => "ATL1008",
            Self::Unsupported => "ATL1009",
            Self::OriginGone => "ATL1010",
        }
    }
}

/// An error of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub kind: ErrorKind,
    /// What a system call on the mount returns for it (positive errno).
    pub errno: i32,
    /// Verb and object ("read /a/b: ..."), printable: no control characters of foreign names.
    pub message: String,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(kind: ErrorKind, errno: i32, message: impl Into<String>) -> Self {
        Self {
            kind,
            errno,
            message: message.into(),
        }
    }

    /// From an errno of the operating system; `context` is verb and object.
    pub fn from_errno(errno: i32, context: impl fmt::Display) -> Self {
        let kind = match errno {
            libc::EACCES | libc::EPERM => ErrorKind::Denied,
            libc::ENOENT | libc::ENOTDIR => ErrorKind::NotFound,
            libc::ENOSPC | libc::EDQUOT | libc::EMFILE | libc::ENFILE => ErrorKind::NoSpace,
            libc::ESTALE => ErrorKind::Stale,
            libc::EEXIST | libc::EBUSY | libc::ENOTEMPTY => ErrorKind::Conflict,
            libc::ENOSYS | libc::EOPNOTSUPP => ErrorKind::Unsupported,
            libc::EINVAL | libc::ENAMETOOLONG | libc::ELOOP => ErrorKind::Invalid,
            _ => ErrorKind::Io,
        };
        let reason = std::io::Error::from_raw_os_error(errno);
        Self {
            kind,
            errno,
            message: format!("{context}: {reason}"),
        }
    }

    /// From `std::io`; an error without an errno counts as EIO.
    pub fn from_io(error: &std::io::Error, context: impl fmt::Display) -> Self {
        match error.raw_os_error() {
            Some(errno) => Self::from_errno(errno, context),
            None => Self::new(ErrorKind::Io, libc::EIO, format!("{context}: {error}")),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique() {
        let mut codes: Vec<_> = ErrorKind::ALL.iter().map(|kind| kind.code()).collect();
        codes.dedup();
        assert_eq!(codes.len(), ErrorKind::ALL.len());
    }

    #[test]
    fn the_errno_survives() {
        let error = Error::from_errno(libc::EACCES, "open a/b");
        assert_eq!((error.kind, error.errno), (ErrorKind::Denied, libc::EACCES));
        assert!(error.message.starts_with("open a/b: "));
    }
}
