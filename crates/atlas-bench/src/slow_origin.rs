//! A folder seen through a slow, busy storage.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use atlas_core::{Error, Result, printable};
use atlas_mount::mounts::{self, MountOptions};
use atlas_mount::{Profile, Session, SessionSettings};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::schedule::{Limits, Schedule};
use crate::slow_filesystem::SlowFilesystem;
use crate::source::Source;

/// Requests in flight: each sleeps on a thread of its own.
const THREADS: usize = 128;
/// `fuse.` and this is the type in mount tables: a legal origin, unlike Atlas's own mounts.
const SUBTYPE: &str = "atlas-slow-origin";
/// How long a wait for the end of a mount goes on before it looks again.
const WAIT: Duration = Duration::from_secs(3600);

/// What readers have asked for so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Metadata calls, as charged.
    pub operations: u64,
    /// Reads that gave bytes.
    pub reads: u64,
    pub read_bytes: u64,
}

/// A read-only mount of a folder that answers as slowly as its limits say, to all readers
/// together, and that the kernel caches nothing of. Dropping it unmounts it.
///
/// Everything about the source comes through: owners, modes, times, links, any name; `st_ino` is
/// the source's. No process that serves such a mount may read from it on a thread that must not
/// wait: a request and its answer need two threads.
pub struct SlowOrigin {
    session: Session,
    filesystem: Arc<SlowFilesystem>,
    target: PathBuf,
    attached: AtomicBool,
}

impl SlowOrigin {
    /// Shows the folder `source` at the folder `target`.
    ///
    /// # Errors
    /// `NotFound` if either is none; `Denied` without root; `Unsupported` without FUSE.
    pub fn mount(source: &Path, target: &Path, limits: Limits) -> Result<Self> {
        let failed = |errno: Errno, verb: &str, path: &Path| {
            let path = printable(path.as_os_str().as_bytes());
            Error::from_errno(errno.raw_os_error(), format_args!("{verb} {path}"))
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(CWD, target, flags, Mode::empty())
            .map_err(|errno| failed(errno, "open", target))?;
        let target = std::path::absolute(target)
            .map_err(|error| Error::from_io(&error, "find the working folder"))?;
        let filesystem = SlowFilesystem::new(Source::open_root(source)?, Schedule::new(&limits))
            .map_err(|errno| failed(errno, "look at", source))?;
        let filesystem = Arc::new(filesystem);
        let device = mounts::open_device()?;
        let options = MountOptions {
            name: printable(source.as_os_str().as_bytes()),
            uid: 0,
            gid: 0,
            allow_other: true,
            subtype: SUBTYPE.to_owned(),
        };
        let mount = mounts::create(&device, &options)?;
        let settings = SessionSettings {
            threads: THREADS,
            resume: false,
            read_ahead_bytes: 0,
            profile: Profile::Uncached,
            posix_acl: false,
        };
        let session = Session::start(device, filesystem.clone(), settings)?;
        mounts::attach(mount.as_fd(), folder.as_fd())?;
        Ok(Self {
            session,
            filesystem,
            target,
            attached: AtomicBool::new(true),
        })
    }

    /// Waits until somebody has unmounted it and its last user is gone.
    pub fn wait(&self) {
        while !self.session.wait_ended(WAIT) {}
    }

    /// Takes it away from the path; files open on it go on for as long as `self` lives. Twice is
    /// once.
    pub fn unmount(&self) -> Result<()> {
        if self.session.ended() || !self.attached.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        mounts::unmount(&self.target, true)
    }

    /// Messages of the kernel by operation.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.session.counts()
    }

    /// What was charged to readers.
    pub fn load(&self) -> Load {
        Load {
            operations: self.filesystem.operations.load(Ordering::Relaxed),
            reads: self.filesystem.reads.load(Ordering::Relaxed),
            read_bytes: self.filesystem.read_bytes.load(Ordering::Relaxed),
        }
    }
}

impl Drop for SlowOrigin {
    fn drop(&mut self) {
        // Unmounted by somebody else meanwhile: nothing is left to do.
        let _ = self.unmount();
    }
}
