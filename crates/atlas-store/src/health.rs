//! Whether a tier works: what fails is told and left alone for a while, then tried again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use atlas_core::{Error, Result};
use parking_lot::Mutex;

/// A degraded tier is offered one fill per this time: often enough to come back soon, seldom
/// enough not to wear readers down with a disk that answers late.
const BETWEEN_ATTEMPTS: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(crate) struct Health {
    degraded: AtomicBool,
    trouble: Mutex<Option<Trouble>>,
    errors: AtomicU64,
    /// A check of the tier has failed, and none has succeeded since.
    check_failed: AtomicBool,
}

struct Trouble {
    message: String,
    next_attempt: Instant,
}

impl Health {
    /// A write to the tier, or a read from it, failed.
    pub(crate) fn failed(&self, error: &Error) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        let message = error.message.clone();
        let mut trouble = self.trouble.lock();
        // The time of the next attempt stays: trouble that keeps coming must not put it off for
        // ever.
        let next_attempt = trouble.as_ref().map_or_else(
            || Instant::now() + BETWEEN_ATTEMPTS,
            |trouble| trouble.next_attempt,
        );
        *trouble = Some(Trouble {
            message,
            next_attempt,
        });
        self.degraded.store(true, Ordering::Release);
    }

    /// A check of the tier ended so. Its success ends only what a check had found: a tier that can
    /// be read may still take nothing.
    pub(crate) fn checked(&self, outcome: &Result<()>) {
        match outcome {
            Err(error) => {
                self.check_failed.store(true, Ordering::Release);
                self.failed(error);
            }
            Ok(()) => {
                if self.check_failed.swap(false, Ordering::AcqRel) {
                    self.worked();
                }
            }
        }
    }

    /// A write to the tier succeeded.
    pub(crate) fn worked(&self) {
        if self.degraded.load(Ordering::Acquire) {
            let mut trouble = self.trouble.lock();
            self.degraded.store(false, Ordering::Release);
            *trouble = None;
        }
    }

    /// Whether a fill may be tried; of a degraded tier, one caller at a time gets a yes.
    pub(crate) fn may_try(&self) -> bool {
        if !self.degraded.load(Ordering::Acquire) {
            return true;
        }
        let now = Instant::now();
        self.trouble.lock().as_mut().is_none_or(|trouble| {
            let due = trouble.next_attempt <= now;
            if due {
                trouble.next_attempt = now + BETWEEN_ATTEMPTS;
            }
            due
        })
    }

    /// Space was given back: a full tier may have room again.
    pub(crate) fn try_soon(&self) {
        if self.degraded.load(Ordering::Acquire)
            && let Some(trouble) = self.trouble.lock().as_mut()
        {
            trouble.next_attempt = Instant::now();
        }
    }

    pub(crate) fn message(&self) -> Option<String> {
        self.trouble
            .lock()
            .as_ref()
            .map(|trouble| trouble.message.clone())
    }

    pub(crate) fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }
}
