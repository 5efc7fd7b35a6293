//! The folder that an origin starts from.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Instant;

use atlas_core::{Error, ErrorKind, Identity, Result, printable};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags, openat, openat2, statx};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::path::cut;
use crate::identity::as_identity;

/// For so long the registered path is taken for what it was.
const CHECK_MILLISECONDS: u64 = 100;

/// Opens that the kernel asks to repeat (a rename was under way, a lease is being broken) are
/// repeated so often; more means that somebody changes the folder all the time.
const TRIES: usize = 16;

#[derive(Debug)]
pub(super) struct Root {
    /// The registered path, absolute, links and all.
    path: PathBuf,
    /// The held folder: of the private mount, if there is one.
    folder: OwnedFd,
    private_mount: bool,
    device: u64,
    inode: u64,
    opened: Instant,
    /// When the path is to be looked at again, in milliseconds since `opened`.
    due: AtomicU64,
    /// What the last look at the path found: 0 or an errno.
    verdict: AtomicI32,
}

impl Root {
    pub(super) fn open(path: &Path, identity: &Identity) -> Result<Self> {
        let context = || format!("open origin {}", printable(path.as_os_str().as_bytes()));
        let path = std::path::absolute(path).map_err(|error| Error::from_io(&error, context()))?;
        let (held, device, inode) = as_identity(identity, || open_as_reader(&path))?
            .map_err(|errno| Error::from_errno(errno.raw_os_error(), context()))?;
        let (folder, private_mount) = match private_mount(held.as_fd()) {
            Ok(folder) => (folder, true),
            Err(_) => (held, false),
        };
        Ok(Self {
            path,
            folder,
            private_mount,
            device,
            inode,
            opened: Instant::now(),
            due: AtomicU64::new(CHECK_MILLISECONDS),
            verdict: AtomicI32::new(0),
        })
    }

    pub(super) const fn device(&self) -> u64 {
        self.device
    }

    /// # Errors
    /// `OriginGone` when the registered path does not lead to the held folder: with ENOENT if
    /// nothing is there, ESTALE if something else is, or why it cannot be looked at.
    pub(super) fn check(&self) -> Result<()> {
        let now = self.opened.elapsed().as_millis() as u64;
        let due = self.due.load(Ordering::Relaxed);
        // One thread looks; the others go by what was found before, also if the look hangs.
        let mine = now >= due
            && self
                .due
                .compare_exchange(
                    due,
                    now + CHECK_MILLISECONDS,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                )
                .is_ok();
        if mine {
            return self.check_now();
        }
        self.verdict()
    }

    /// [`check`](Self::check) without trusting what was found a moment ago: for before an answer
    /// that is kept for ever.
    pub(super) fn check_now(&self) -> Result<()> {
        let verdict = self.look().err().map_or(0, Errno::raw_os_error);
        self.verdict.store(verdict, Ordering::Relaxed);
        self.verdict()
    }

    fn verdict(&self) -> Result<()> {
        match self.verdict.load(Ordering::Relaxed) {
            0 => Ok(()),
            errno => Err(self.lost(errno)),
        }
    }

    fn look(&self) -> rustix::io::Result<()> {
        let found = statx(CWD, &self.path, AtFlags::empty(), StatxFlags::INO)?;
        let device = libc::makedev(found.stx_dev_major, found.stx_dev_minor);
        if (device, found.stx_ino) == (self.device, self.inode) {
            Ok(())
        } else {
            Err(Errno::STALE)
        }
    }

    fn lost(&self, errno: i32) -> Error {
        let path = printable(self.path.as_os_str().as_bytes());
        let message = if errno == libc::ESTALE {
            format!("origin root replaced: another folder is at {path}")
        } else {
            Error::from_errno(errno, format_args!("origin root {path}")).message
        };
        // The kind of the errno alone would say something about an entry: that it does not exist,
        // or that it changed.
        Error::new(ErrorKind::OriginGone, errno, message)
    }

    /// Opens what lies at `path`, of any length, without following a link.
    pub(super) fn open_beneath(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let mut folder: Option<OwnedFd> = None;
        let mut rest = path;
        while let Some((front, after)) = cut(rest) {
            let start = folder.as_ref().map_or(self.as_fd(), OwnedFd::as_fd);
            folder = Some(open_beneath(
                start,
                front,
                OFlags::PATH | OFlags::DIRECTORY,
            )?);
            rest = after;
        }
        open_beneath(
            folder.as_ref().map_or(self.as_fd(), OwnedFd::as_fd),
            rest,
            flags,
        )
    }

    /// Opens a folder, held for looking up names, to read its names.
    pub(super) fn open_to_list(&self, folder: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        self.without_trace(flags, |flags| open_beneath(folder, b"", flags))
    }

    /// Opens an entry of `folder` to read its bytes: at once, whatever it is, so that a fifo
    /// without a writer holds nobody up.
    pub(super) fn open_to_read(
        &self,
        folder: BorrowedFd<'_>,
        name: &[u8],
    ) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        self.without_trace(flags, |flags| open_beneath(folder, name, flags))
    }

    /// Only an owner may ask for O_NOATIME; with the private mount nobody needs to.
    fn without_trace(
        &self,
        flags: OFlags,
        open: impl Fn(OFlags) -> rustix::io::Result<OwnedFd>,
    ) -> rustix::io::Result<OwnedFd> {
        if self.private_mount {
            return open(flags);
        }
        match open(flags | OFlags::NOATIME) {
            Err(Errno::PERM) => open(flags),
            opened => opened,
        }
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}

/// Opens `path` (at most PATH_MAX; empty: the folder itself) below `folder`.
pub(super) fn open_beneath(
    folder: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = flags | OFlags::CLOEXEC;
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    let mut answer = Err(Errno::AGAIN);
    for _ in 0..TRIES {
        answer = openat2(folder, path, flags, Mode::empty(), beneath);
        if !matches!(answer, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
    }
    answer
}

/// On a thread with the identity: the folder, its device and its inode, if it may be listed and
/// searched. Opening a folder leaves its access time alone.
fn open_as_reader(path: &Path) -> rustix::io::Result<(OwnedFd, u64, u64)> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(CWD, path, flags | OFlags::PATH, Mode::empty())?;
    drop(openat(
        &folder,
        c".",
        flags | OFlags::RDONLY,
        Mode::empty(),
    )?);
    let found = statx(&folder, c"", AtFlags::EMPTY_PATH, StatxFlags::INO)?;
    Ok((
        folder,
        libc::makedev(found.stx_dev_major, found.stx_dev_minor),
        found.stx_ino,
    ))
}

/// A copy of the mount tree at `folder` that is attached nowhere and through which nothing can be
/// changed. Private: what is mounted or unmounted at the origin later does not reach it.
fn private_mount(folder: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let mount = open_tree(folder, c"", flags)?;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY
            | libc::MOUNT_ATTR_NOSUID
            | libc::MOUNT_ATTR_NODEV
            | libc::MOUNT_ATTR_NOEXEC
            | libc::MOUNT_ATTR_NOATIME,
        // Access time options are one field of several bits: it is cleared before it is set.
        attr_clr: libc::MOUNT_ATTR__ATIME,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    // SAFETY: the descriptor is open, the path is a C string, and the structure outlives the call
    // and is as long as is said.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if answer == 0 {
        Ok(mount)
    } else {
        Err(last_errno())
    }
}

pub(super) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
