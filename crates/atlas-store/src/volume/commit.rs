//! Making extents durable: data, then checksums, then bits, in batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use atlas_core::{Error, ErrorKind, Result};
use parking_lot::{Condvar, Mutex};

use super::{Shared, Volume};
use crate::bitmap::DurableBits;
use crate::files;
use crate::segments::Segment;

/// Fills of this time share one sync.
const BATCH: Duration = Duration::from_secs(1);

/// How long a volume that is closed waits for a disk that does not answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tells the committer that there is something to do.
#[derive(Default)]
pub(crate) struct Changes {
    pending: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Set to stop; true: commit once more before.
    stop: Option<bool>,
    /// How the last commit ended; set when the thread is gone.
    finished: Option<Result<()>>,
}

impl Changes {
    /// Something was filled.
    pub(crate) fn note(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            // Under the lock: the committer is either before its look at `pending` or waits.
            let _state = self.state.lock();
            self.changed.notify_all();
        }
    }
}

/// The thread that commits about every second when there is something to commit.
pub(crate) struct Committer {
    changes: Arc<Changes>,
    /// None in memory, where there is nothing to commit, and when it was stopped.
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Committer {
    pub(crate) fn start(shared: &Arc<Shared>, id: &str) -> Result<Self> {
        let run = |shared: Arc<Shared>| {
            std::thread::Builder::new()
                .name(format!("commit {id}"))
                .spawn(move || shared.commit_until_stopped())
                .map_err(|error| Error::from_io(&error, "start the committer"))
        };
        let thread = shared
            .durable
            .is_some()
            .then(|| run(Arc::clone(shared)))
            .transpose()?;
        Ok(Self {
            changes: Arc::clone(&shared.changes),
            thread: Mutex::new(thread),
        })
    }

    /// Ends the thread, with a last commit if asked for, and tells how that went. A disk that hangs
    /// is not waited for beyond `PATIENCE`: the thread is left to it.
    pub(crate) fn stop(&self, commit: bool) -> Result<()> {
        let mut thread = self.thread.lock();
        let Some(running) = thread.take() else {
            return Ok(());
        };
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.changes.state.lock();
        state.stop = Some(commit);
        self.changes.changed.notify_all();
        loop {
            if let Some(outcome) = state.finished.take() {
                drop(state);
                // It holds the files, and with them the lock of the volume, to its very end.
                let _ = running.join();
                return outcome;
            }
            if self
                .changes
                .changed
                .wait_until(&mut state, deadline)
                .timed_out()
                && state.finished.is_none()
            {
                return Err(Error::new(
                    ErrorKind::Io,
                    libc::ETIMEDOUT,
                    "close the volume: the disk does not answer",
                ));
            }
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        // Nobody is left to tell; a lost commit costs a verification or a fetch.
        let _ = self.stop(false);
    }
}

impl Volume {
    /// Makes everything filled so far durable, now. Nothing to do in memory.
    ///
    /// # Errors
    /// What the disk says. The extents that may not have reached it are forgotten: the
    /// kernel drops what it could not write, and would read old bytes for them later.
    pub fn commit(&self) -> Result<()> {
        self.shared.commit()
    }
}

/// The bits of a segment that a batch makes durable.
struct Batch<'a> {
    segment: &'a Segment,
    first: u64,
    words: Vec<u64>,
    outcome: Result<()>,
}

impl Shared {
    fn commit_until_stopped(&self) {
        let changes = &self.changes;
        let last = loop {
            let mut state = changes.state.lock();
            while state.stop.is_none() && !changes.pending.load(Ordering::Acquire) {
                changes.changed.wait(&mut state);
            }
            let batch_ends = Instant::now() + BATCH;
            while state.stop.is_none()
                && !changes
                    .changed
                    .wait_until(&mut state, batch_ends)
                    .timed_out()
            {}
            if let Some(commit) = state.stop {
                break commit;
            }
            drop(state);
            changes.pending.store(false, Ordering::Release);
            // The health of the tier keeps the error for whoever asks.
            let _ = self.commit();
        };
        let outcome = if last { self.commit() } else { Ok(()) };
        changes.state.lock().finished = Some(outcome);
        changes.changed.notify_all();
    }

    fn commit(&self) -> Result<()> {
        let Some(durable) = &self.durable else {
            return Ok(());
        };
        // Whoever comes second waits: when it returns, the batch of the first is durable too.
        let _committing = self.committing.lock();
        if self.destroyed.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut batches: Vec<_> = self
            .segments
            .iter()
            .filter_map(|s| self.begin_batch(s))
            .collect();
        if batches.is_empty() {
            return Ok(());
        }
        for batch in &mut batches {
            batch.outcome = batch.segment.file().map_or(Ok(()), files::sync_data);
        }
        let mut tables = self.checksums.table().sync();
        if tables.is_ok() && self.folder_dirty.swap(false, Ordering::AcqRel) {
            tables = files::sync(&self.folder);
        }
        let mut outcome = Ok(());
        for mut batch in batches {
            batch.outcome = batch.outcome.and(tables.clone());
            outcome = outcome.and(self.end_batch(durable, batch));
        }
        let outcome = outcome.and_then(|()| durable.table().sync());
        if let Err(error) = &outcome {
            self.health.failed(error);
        }
        outcome
    }

    /// The bits are taken before the sync: what they stand for was written by then.
    fn begin_batch<'a>(&self, segment: &'a Segment) -> Option<Batch<'a>> {
        let (first, end) = segment.writer.lock().dirty.take()?;
        let words = (first..end).map(|index| self.live.load(index)).collect();
        Some(Batch {
            segment,
            first,
            words,
            outcome: Ok(()),
        })
    }

    /// Sets the bits of what reached the disk, or forgets what may not have.
    fn end_batch(&self, durable: &DurableBits, batch: Batch<'_>) -> Result<()> {
        let Batch {
            segment,
            first,
            words,
            outcome,
        } = batch;
        let mut writer = segment.writer.lock();
        let written = outcome.and_then(|()| {
            let mut present = durable.load(first, words.len())?;
            for ((index, present), synced) in (first..).zip(&mut present).zip(&words) {
                // What was cleared meanwhile stays cleared.
                *present |= synced & self.live.load(index);
            }
            durable.store(first, &present)
        });
        if written.is_err() {
            for (index, bits) in (first..).zip(&words).filter(|(_, bits)| **bits != 0) {
                let durable_before = durable
                    .load(index, 1)
                    .map_or(0, |words| words.first().copied().unwrap_or(0));
                self.forget(segment, index, bits & !durable_before);
            }
        }
        // Blocks for extent trees come with the write-back.
        self.measure(segment, &mut writer)?;
        written
    }
}
