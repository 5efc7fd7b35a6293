//! The device descriptor of one session, and who still waits for an answer over it.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use atlas_core::{Error, Result};
use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;
use zerocopy::IntoBytes;

use crate::pending::Pending;
use crate::protocol::{AnswerHeader, RequestHeader, operation};
use crate::session::Profile;

pub(crate) struct Channel {
    device: OwnedFd,
    pub(crate) profile: Profile,
    pub(crate) pending: Pending,
    counts: [AtomicU64; operation::COUNT],
    stopped: AtomicBool,
    end: Mutex<End>,
    end_changed: Condvar,
}

#[derive(Default)]
struct End {
    ended: bool,
    failure: Option<Error>,
}

impl Channel {
    pub(crate) fn new(device: OwnedFd, profile: Profile) -> Self {
        Self {
            device,
            profile,
            pending: Pending::default(),
            counts: [const { AtomicU64::new(0) }; operation::COUNT],
            stopped: AtomicBool::new(false),
            end: Mutex::default(),
            end_changed: Condvar::new(),
        }
    }

    pub(crate) fn device(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    pub(crate) fn count(&self, operation: u32) {
        // Index 0 is no operation: it takes those that are newer than this file.
        let index = operation as usize;
        let index = if index < operation::COUNT { index } else { 0 };
        self.counts[index].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = BTreeMap::new();
        for (operation, count) in self.counts.iter().enumerate() {
            let count = count.load(Ordering::Relaxed);
            if count > 0 {
                *counts.entry(operation::name(operation as u32)).or_insert(0) += count;
            }
        }
        counts
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// The kernel has let go of the mount.
    pub(crate) fn set_ended(&self) {
        self.end.lock().ended = true;
        self.end_changed.notify_all();
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.end.lock().ended
    }

    pub(crate) fn wait_ended(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut end = self.end.lock();
        while !end.ended {
            if self.end_changed.wait_until(&mut end, deadline).timed_out() {
                break;
            }
        }
        end.ended
    }

    pub(crate) fn set_failure(&self, failure: Error) {
        self.end.lock().failure.get_or_insert(failure);
    }

    pub(crate) fn failure(&self) -> Option<Error> {
        self.end.lock().failure.clone()
    }

    /// Answers a request that has no [`Ticket`]. Failure is not reported: the reader is gone or the
    /// mount is.
    pub(crate) fn answer(&self, unique: u64, parts: [&[u8]; 2]) {
        let written = self.write(unique, 0, parts);
        if written.is_err_and(|error| error != Errno::NOENT) {
            // Memory was short, or the answer was malformed; an error alone still gets through.
            self.refuse(unique, libc::EIO);
        }
    }

    pub(crate) fn refuse(&self, unique: u64, errno: i32) {
        // The kernel takes -511..=-1 only and would let the reader wait after anything else.
        let errno = if (1..512).contains(&errno) {
            errno
        } else {
            libc::EIO
        };
        let _ = self.write(unique, -errno, [&[], &[]]);
    }

    /// A message that answers no request. False: the kernel holds nothing that it concerns.
    pub(crate) fn notify(&self, code: i32, parts: [&[u8]; 2]) -> Result<bool> {
        match self.write(0, code, parts) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(errno) => Err(Error::from_errno(errno.raw_os_error(), "notify the kernel")),
        }
    }

    fn write(&self, unique: u64, error: i32, parts: [&[u8]; 2]) -> rustix::io::Result<()> {
        let length = size_of::<AnswerHeader>() + parts[0].len() + parts[1].len();
        let header = AnswerHeader {
            length: length as u32,
            error,
            unique,
        };
        let slices = [header.as_bytes(), parts[0], parts[1]].map(IoSlice::new);
        rustix::io::retry_on_intr(|| rustix::io::writev(&self.device, &slices)).map(|_| ())
    }

    /// Lets readers go that are dying.
    pub(crate) fn release_dying(&self) {
        for unique in self.pending.dying() {
            if self.pending.remove(unique) {
                self.refuse(unique, libc::EINTR);
            }
        }
    }
}

/// The right and the duty to answer one request, once.
pub(crate) struct Ticket {
    /// `None` once answered.
    channel: Option<Arc<Channel>>,
    unique: u64,
}

impl Ticket {
    pub(crate) fn new(channel: &Arc<Channel>, header: &RequestHeader) -> Self {
        channel.pending.insert(header.unique, header.thread);
        Self {
            channel: Some(Arc::clone(channel)),
            unique: header.unique,
        }
    }

    pub(crate) fn profile(&self) -> Profile {
        self.channel
            .as_ref()
            .map_or(Profile::Live, |channel| channel.profile)
    }

    pub(crate) fn answer(mut self, parts: [&[u8]; 2]) {
        if let Some(channel) = self.take() {
            channel.answer(self.unique, parts);
        }
    }

    pub(crate) fn refuse(mut self, errno: i32) {
        if let Some(channel) = self.take() {
            channel.refuse(self.unique, errno);
        }
    }

    /// The channel, unless the request was answered, by us or because its reader is dying.
    fn take(&mut self) -> Option<Arc<Channel>> {
        self.channel
            .take()
            .filter(|channel| channel.pending.remove(self.unique))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(channel) = self.take()
            // A stopped session leaves its requests to the next holder of the descriptor.
            && !channel.is_stopped()
        {
            channel.refuse(self.unique, libc::EIO);
        }
    }
}
