//! The threads that read requests from one FUSE device descriptor.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use atlas_core::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use zerocopy::IntoBytes;

use crate::buffer::Buffer;
use crate::channel::Channel;
use crate::dispatch::dispatch;
use crate::filesystem::Filesystem;
use crate::protocol::{InvalidateEntry, InvalidateNode, StoreHeader, notify};

/// Room for one request, in bytes. The longest carry two names or a batch of forgets.
const REQUEST_BYTES: usize = 64 << 10;

/// How often the callers of interrupted requests are looked at again.
const DYING_INTERVAL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// What the kernel may keep of what it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Everything, for ever: a warm mount sends no message. Nodes must never change.
    Live,
    /// Nothing: every call asks, every read is direct.
    Uncached,
    /// Names and attributes for ever, no bytes: files that stand behind the devices of an image,
    /// whose own pages the kernel keeps. Reads are direct, and several of one caller wait together.
    Twin,
}

impl Profile {
    /// How long names and attributes are valid, in seconds.
    pub(crate) const fn lifetime_seconds(self) -> u64 {
        match self {
            // A year: the kernel counts in jiffies and cannot take "for ever".
            Self::Live | Self::Twin => 365 * 86_400,
            Self::Uncached => 0,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionSettings {
    /// Threads that read requests and call the file system.
    pub threads: usize,
    /// The descriptor was served before: requests that its last holder had taken and not answered
    /// are asked for again. INIT may be among them, or may have been answered long ago.
    pub resume: bool,
    /// Upper bound of the kernel's read-ahead. Above 128 KiB it takes effect only together with
    /// [`mounts::set_read_ahead`](crate::mounts::set_read_ahead).
    pub read_ahead_bytes: u32,
    pub profile: Profile,
    /// The kernel asks for the POSIX ACLs of nodes (as extended attributes) and enforces them.
    pub posix_acl: bool,
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self {
            threads: 4,
            resume: false,
            read_ahead_bytes: 1 << 20,
            profile: Profile::Live,
            posix_acl: false,
        }
    }
}

/// One FUSE connection being served. Dropping it stops it.
pub struct Session {
    channel: Arc<Channel>,
    /// Readable once the threads are to leave.
    wake: Arc<OwnedFd>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Session {
    /// Serves `device`, on which a mount was created ([`mounts::create`](crate::mounts::create)).
    /// The description behind it becomes non-blocking.
    ///
    /// # Errors
    /// `Invalid` if nothing was ever mounted on it. That the mount has ended is no error: see
    /// [`ended`](Self::ended).
    pub fn start(
        device: OwnedFd,
        filesystem: Arc<dyn Filesystem>,
        settings: SessionSettings,
    ) -> Result<Self> {
        let failed = |errno: Errno| Error::from_errno(errno.raw_os_error(), "start a FUSE session");
        let flags = fcntl_getfl(&device).map_err(failed)?;
        fcntl_setfl(&device, flags | OFlags::NONBLOCK).map_err(failed)?;
        check_mounted(&device)?;
        let session = Self {
            channel: Arc::new(Channel::new(device, settings.profile)),
            wake: Arc::new(eventfd(0, EventfdFlags::CLOEXEC).map_err(failed)?),
            threads: Mutex::default(),
        };
        if settings.resume {
            // Before the first read: what this session takes must not come twice.
            session.resend()?;
        }
        let worker = Arc::new(Worker {
            channel: Arc::clone(&session.channel),
            filesystem,
            settings,
            wake: Arc::clone(&session.wake),
        });
        for index in 0..settings.threads.max(1) {
            let worker = Arc::clone(&worker);
            let thread = thread::Builder::new()
                .name(format!("fuse-{index}"))
                .spawn(move || worker.run())
                .map_err(|error| Error::from_io(&error, "start a thread of a FUSE session"))?;
            session.threads.lock().push(thread);
        }
        Ok(session)
    }

    /// Asks the kernel to send again what was read and not answered. Those that this session
    /// itself still works on come twice then; the second answer is dropped. False: this kernel
    /// cannot (before Linux 6.9), such requests wait until the mount ends.
    pub fn resend(&self) -> Result<bool> {
        match self.channel.notify(notify::RESEND, [&[], &[]]) {
            Err(error) if error.errno == libc::EINVAL => Ok(false),
            // The mount has ended: nobody waits.
            Err(error) if matches!(error.errno, libc::ENODEV | libc::EPERM) => Ok(true),
            outcome => outcome,
        }
    }

    /// Puts bytes of a file into the kernel's page cache. False: the kernel does not hold the node.
    /// Never from a method of the file system: it may wait for the pages of a request in flight.
    pub fn store(&self, node: u64, offset: u64, data: &[u8]) -> Result<bool> {
        let header = StoreHeader {
            node,
            offset,
            size: data.len() as u32,
            padding: 0,
        };
        self.channel
            .notify(notify::STORE, [header.as_bytes(), data])
    }

    /// Makes the kernel forget a name, found or absent. False: it did not hold it. Never from a
    /// method of the file system: it waits for lookups in flight in that folder.
    pub fn invalidate_entry(&self, parent: u64, name: &[u8]) -> Result<bool> {
        let header = InvalidateEntry {
            parent,
            name_length: name.len() as u32,
            flags: 0,
        };
        let mut terminated = Vec::with_capacity(name.len() + 1);
        terminated.extend_from_slice(name);
        terminated.push(0);
        self.channel
            .notify(notify::INVALIDATE_ENTRY, [header.as_bytes(), &terminated])
    }

    /// Makes the kernel forget the attributes and all pages of a node. False: it did not hold it.
    /// Never from a method of the file system: it waits for pages being read.
    pub fn invalidate_node(&self, node: u64) -> Result<bool> {
        let message = InvalidateNode {
            node,
            offset: 0,
            length: 0,
        };
        self.channel
            .notify(notify::INVALIDATE_INODE, [message.as_bytes(), &[]])
    }

    /// Messages of the kernel since the start, by operation.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.channel.counts()
    }

    /// The kernel has let go: unmounted everywhere, no file open any more. Nothing comes again.
    pub fn ended(&self) -> bool {
        self.channel.is_ended()
    }

    /// Waits for the end at most this long; returns [`ended`](Self::ended).
    pub fn wait_ended(&self, timeout: Duration) -> bool {
        self.channel.wait_ended(timeout)
    }

    /// Why the session cannot serve although the mount lives; `None` as long as it can.
    pub fn failure(&self) -> Option<Error> {
        self.channel.failure()
    }

    /// Ends the threads and waits for those that are in the file system (unless called by one of
    /// them). The mount stays, and so do requests without an answer: the next holder of the
    /// descriptor is asked for them. Replies answered later are still sent.
    pub fn stop(&self) {
        self.channel.stop();
        // Cannot fail: the counter is far from its end.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        let threads = std::mem::take(&mut *self.threads.lock());
        for thread in threads {
            if thread.thread().id() != thread::current().id() {
                // A panic was reported by its own thread.
                let _ = thread.join();
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Tells a descriptor without a mount from one whose mount has ended.
fn check_mounted(device: &OwnedFd) -> Result<()> {
    let mut state = [PollFd::new(device, PollFlags::IN)];
    let polled = poll(&mut state, Some(&Timespec::default()));
    if polled.is_ok() && state[0].revents().contains(PollFlags::ERR) {
        // In this state a read takes no request.
        let read = rustix::io::read(device, Buffer::default().bytes(REQUEST_BYTES));
        if read == Err(Errno::PERM) {
            return Err(Error::new(
                ErrorKind::Invalid,
                libc::EPERM,
                "start a FUSE session: nothing is mounted on this descriptor",
            ));
        }
    }
    Ok(())
}

/// What the threads share.
struct Worker {
    channel: Arc<Channel>,
    filesystem: Arc<dyn Filesystem>,
    settings: SessionSettings,
    wake: Arc<OwnedFd>,
}

impl Worker {
    fn run(&self) {
        let waiter = match Waiter::new(&self.channel, &self.wake) {
            Ok(waiter) => waiter,
            Err(errno) => return self.fail(errno),
        };
        let mut buffer = Buffer::default();
        while !self.channel.is_stopped() {
            let bytes = buffer.bytes(REQUEST_BYTES);
            match rustix::io::read(self.channel.device(), &mut *bytes) {
                // Only a socket in place of the device reads nothing: its other end is closed.
                Ok(0) | Err(Errno::NODEV | Errno::CONNABORTED) => return self.channel.set_ended(),
                Ok(length) => {
                    let message = &bytes[..length];
                    dispatch(&self.channel, &*self.filesystem, &self.settings, message);
                }
                Err(Errno::AGAIN) => {
                    if let Err(errno) = waiter.wait(&self.channel) {
                        return self.fail(errno);
                    }
                }
                // NOENT: the caller was interrupted before the request got here. IO: a request
                // longer than the buffer, which the kernel has answered itself.
                Err(Errno::INTR | Errno::NOENT | Errno::IO) => {}
                Err(errno) => return self.fail(errno),
            }
        }
    }

    fn fail(&self, errno: Errno) {
        self.channel.set_failure(Error::from_errno(
            errno.raw_os_error(),
            "read FUSE requests",
        ));
    }
}

/// One thread's way to wait for a request: of all that wait, the kernel wakes only one per request
/// (EPOLLEXCLUSIVE; plain poll would wake them all).
struct Waiter(OwnedFd);

impl Waiter {
    fn new(channel: &Channel, wake: &OwnedFd) -> rustix::io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(0);
        let exclusive = epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE;
        epoll::add(&epoll, channel.device(), data, exclusive)?;
        epoll::add(&epoll, wake.as_fd(), data, epoll::EventFlags::IN)?;
        Ok(Self(epoll))
    }

    /// Returns when there may be something to read or to stop for. While interrupted requests
    /// wait, looks after their callers: the thread that took the interrupt comes by here after it.
    fn wait(&self, channel: &Channel) -> rustix::io::Result<()> {
        let timeout = channel.pending.any_interrupted().then_some(&DYING_INTERVAL);
        let mut events = [MaybeUninit::uninit(); 2];
        match epoll::wait(&self.0, &mut events, timeout) {
            Ok((events, _)) => {
                if events.is_empty() {
                    channel.release_dying();
                }
                Ok(())
            }
            Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}
