//! Giving up what is cached of a data set that stays.
//!
//! Segments that a sealed front reads directly keep their bytes until its last user is gone. Marked
//! at the start, so that no other sealed front can be mounted over what is about to go.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use atlas_core::{ErrorKind, Result};
use atlas_store::Cleared;

use crate::dataset::Dataset;

/// What became of the cached bytes of a data set, in bytes of the tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    pub freed_bytes: u64,
    /// Behind sealed fronts that are still in use. They follow by themselves.
    pub held_bytes: u64,
}

impl Dataset {
    /// Gives up what is cached now. Reads go on, and cache again what they need.
    ///
    /// # Errors
    /// What the tier says; the rest follows by itself.
    pub(crate) fn free(&self) -> Result<Freed> {
        let _sweeping = self.sweeping().lock();
        // Under the lock: a sweep that ends meanwhile takes the mark away.
        self.core().freeing.store(true, Ordering::Release);
        self.mapped().holds();
        self.sweep()
    }

    /// Frees what was held when it was asked for, once nobody holds it any more.
    pub(crate) fn go_on_freeing(self: &Arc<Self>) {
        if !self.core().freeing.load(Ordering::Acquire) || self.mapped().holds() {
            return;
        }
        let dataset = Arc::clone(self);
        let started = thread::Builder::new()
            .name("atlas-free".to_owned())
            .spawn(move || {
                // Somebody does it already.
                let Some(_sweeping) = dataset.sweeping().try_lock() else {
                    return;
                };
                if !dataset.core().freeing.load(Ordering::Acquire) {
                    return;
                }
                if let Err(error) = dataset.sweep() {
                    dataset.core().warn("NotFreed", error.message);
                }
            });
        // The next tick tries again.
        drop(started);
    }

    /// Somebody wants the bytes again: what is still held is kept.
    pub(crate) fn stop_freeing(&self) {
        let _sweeping = self.sweeping().lock();
        self.core().freeing.store(false, Ordering::Release);
    }

    fn sweep(&self) -> Result<Freed> {
        let core = self.core();
        let mut cleared = Cleared::default();
        let mut held_bytes = 0;
        let mut failure = None;
        for segment in core.volume.segments() {
            match core.volume.clear_segment(segment.start) {
                Ok(more) => cleared.append(more),
                Err(error) if error.kind == ErrorKind::Conflict => {
                    held_bytes += segment.allocated_bytes;
                }
                Err(error) => failure = Some(error),
            }
        }
        core.freed(&cleared);
        if let Some(error) = failure.or(cleared.failure) {
            return Err(error);
        }
        if held_bytes == 0 {
            core.freeing.store(false, Ordering::Release);
        }
        Ok(Freed {
            freed_bytes: cleared.freed_bytes,
            held_bytes,
        })
    }
}
