//! Paths below the folder that the slow origin shows, opened without following any link.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use atlas_core::{Error, printable};
use atlas_mount::mounts;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::{Errno, Result};

/// Part of a path that is handed to the kernel at once, in bytes: it takes less than 4096.
const PIECE_BYTES: usize = 3000;

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

pub(crate) struct Source {
    root: OwnedFd,
}

impl Source {
    /// The folder at `path`, links on the way followed. What is mounted below it later is not seen.
    pub(crate) fn open_root(path: &Path) -> atlas_core::Result<Self> {
        // Opened first, so that a file is refused.
        let failed = |errno: Errno| {
            let path = printable(path.as_os_str().as_bytes());
            Error::from_errno(errno.raw_os_error(), format_args!("open {path}"))
        };
        rustix::fs::openat(CWD, path, FOLDER | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
        Ok(Self {
            root: mounts::untouching_view(path)?,
        })
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens `path` (relative, of any length; empty is the root) below the root. A link at its end
    /// can be opened with `OFlags::PATH` only.
    pub(crate) fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
        let mut rest = path;
        let mut folder: Option<OwnedFd> = None;
        while rest.len() > PIECE_BYTES {
            // A name is shorter than a piece, so there is a slash in it.
            let end = rest[..PIECE_BYTES].iter().rposition(|byte| *byte == b'/');
            let end = end.ok_or(Errno::NAMETOOLONG)?;
            folder = Some(self.open_piece(folder.as_ref(), &rest[..end], FOLDER)?);
            rest = &rest[end + 1..];
        }
        self.open_piece(folder.as_ref(), rest, flags)
    }

    fn open_piece(&self, folder: Option<&OwnedFd>, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let folder = folder.map_or(self.root(), AsFd::as_fd);
        let path = if path.is_empty() { b"." } else { path };
        openat2(
            folder,
            path,
            flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
            resolve,
        )
    }
}
