//! Loads: bringing whole trees to the tier ahead of the readers.
//!
//! One thread walks the tree in listing order and hands out batches; readers fetch them. A batch is
//! a run of small files of one folder whose addresses adjoin, so that it is one write on the tier,
//! or one extent of a larger file. What is on the tier already is passed over, which is all that
//! resuming takes.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use atlas_core::{Error, Extent, Result, printable};
use atlas_fs::NodeId;
use atlas_origin::Class;
use parking_lot::{Condvar, Mutex};

use crate::batch::{Batch, Item, run};
use crate::core::Core;
use crate::pace::Pace;
use crate::scan::ScanProgress;
use crate::walk::walk;

/// Failures kept with their paths; all are counted.
const FAILURES_KEPT: usize = 100;

/// Files in a batch at most, however fast the origin is.
const BATCH_FILES: usize = 128;

/// A batch should take about this long, so that a reader who needs one of its files soon has it.
const BATCH_TIME: Duration = Duration::from_millis(20);

/// Below this for each file of a batch an origin counts as fast: it is read from memory or from a
/// local disk with read-ahead, not over a network.
const FAST_FILE: Duration = Duration::from_micros(200);

/// Extents that are tried again at the end, at most: what found no space because others had reserved
/// it, or was in the hands of a reader who could not keep it.
const MOST_PUT_OFF: usize = 4096;

/// A degraded tier takes the next fill after this time.
const TIER_PAUSE: Duration = Duration::from_secs(1);

/// How far a load is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadPhase {
    Running,
    /// Every file is on the tier.
    Complete,
    /// Some files are not: failed, or no space.
    Partial,
    /// Nothing could be loaded.
    Failed,
    Stopped,
}

/// A look at a load.
#[derive(Clone, Debug)]
pub struct LoadStatus {
    pub phase: LoadPhase,
    /// Files and bytes that are on the tier, those found there included.
    pub files: u64,
    pub bytes: u64,
    /// Unknown until the namespace is.
    pub files_total: Option<u64>,
    pub bytes_total: Option<u64>,
    /// The first failures: printable path and reason.
    pub failed: Vec<(String, String)>,
    pub failed_count: u64,
    /// Bytes left at the origin because the quota is used up, or the tier takes nothing.
    pub skipped_bytes: u64,
}

/// What to load.
#[derive(Clone, Debug)]
pub struct LoadSettings {
    /// Paths below the root; the empty path, or none at all, is the whole data set.
    pub paths: Vec<Vec<u8>>,
    /// Batches under way at once.
    pub parallel: usize,
    pub bytes_per_second: Option<u64>,
}

pub(crate) struct Load {
    settings: LoadSettings,
    stop: AtomicBool,
    pub(crate) progress: Progress,
    under_way: Mutex<usize>,
    less_under_way: Condvar,
    put_off: Mutex<Vec<(NodeId, Item)>>,
    pace: Pace,
    processors: usize,
    /// Average nanoseconds that a file of a batch takes, so far.
    file_nanoseconds: AtomicU64,
    outcome: Mutex<Option<LoadPhase>>,
    totals: Mutex<Option<(u64, u64)>>,
}

#[derive(Default)]
pub(crate) struct Progress {
    files: AtomicU64,
    bytes: AtomicU64,
    skipped_bytes: AtomicU64,
    failed_count: AtomicU64,
    failed: Mutex<Vec<(String, String)>>,
    /// Files of several extents of which one failed.
    failed_large: Mutex<HashSet<NodeId>>,
}

impl Progress {
    /// As `failed`, of an extent of a file of several: a file counts once.
    pub(crate) fn failed_part(&self, node: NodeId, path: &[u8], reason: &Error) {
        if self.failed_large.lock().insert(node) {
            self.failed(path, reason);
        }
    }

    pub(crate) fn failed(&self, path: &[u8], reason: &Error) {
        self.failed_count.fetch_add(1, Ordering::Relaxed);
        let mut failed = self.failed.lock();
        if failed.len() < FAILURES_KEPT {
            failed.push((printable(path), reason.message.clone()));
        }
    }

    pub(crate) fn loaded(&self, bytes: u64, whole_file: bool) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if whole_file {
            self.files.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn skipped(&self, extent: &Extent) {
        self.skipped_bytes
            .fetch_add(u64::from(extent.length), Ordering::Relaxed);
    }
}

impl Load {
    /// Start loading on a thread of its own.
    ///
    /// # Errors
    /// No thread could be started.
    pub(crate) fn start(core: &Arc<Core>, settings: LoadSettings) -> Result<Arc<Self>> {
        let load = Arc::new(Self {
            pace: Pace::new(settings.bytes_per_second),
            settings,
            // Asked for once: it reads the control group's files.
            processors: thread::available_parallelism().map_or(1, usize::from),
            stop: AtomicBool::new(false),
            progress: Progress::default(),
            under_way: Mutex::new(0),
            less_under_way: Condvar::new(),
            put_off: Mutex::default(),
            file_nanoseconds: AtomicU64::new(0),
            outcome: Mutex::new(None),
            totals: Mutex::new(None),
        });
        let (thread_load, thread_core) = (Arc::clone(&load), Arc::clone(core));
        thread::Builder::new()
            .name("atlas-load".to_owned())
            .spawn(move || thread_load.work(&thread_core))
            .map_err(|error| Error::from_io(&error, "start a load"))?;
        Ok(load)
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.pace.stop();
        // Under the lock: who waits has either seen the flag or is woken.
        let _under_way = self.under_way.lock();
        self.less_under_way.notify_all();
    }

    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(crate) fn ended(&self) -> bool {
        self.outcome.lock().is_some()
    }

    pub(crate) fn status(&self, core: &Core) -> LoadStatus {
        // The outcome is read first: with a final phase come final counts.
        let outcome = *self.outcome.lock();
        let totals = (*self.totals.lock()).or_else(|| {
            let scanned = core.scan.progress() != ScanProgress::Running;
            (scanned && self.is_whole()).then(|| {
                let totals = core.namespace.totals();
                (totals.files, totals.bytes)
            })
        });
        LoadStatus {
            phase: outcome.unwrap_or(LoadPhase::Running),
            files: self.progress.files.load(Ordering::Relaxed),
            bytes: self.progress.bytes.load(Ordering::Relaxed),
            files_total: totals.map(|(files, _)| files),
            bytes_total: totals.map(|(_, bytes)| bytes),
            failed: self.progress.failed.lock().clone(),
            failed_count: self.progress.failed_count.load(Ordering::Relaxed),
            skipped_bytes: self.progress.skipped_bytes.load(Ordering::Relaxed),
        }
    }

    fn is_whole(&self) -> bool {
        let is_root = |path: &Vec<u8>| path.iter().all(|byte| *byte == b'/');
        self.settings.paths.is_empty() || self.settings.paths.iter().any(is_root)
    }

    fn work(self: &Arc<Self>, core: &Arc<Core>) {
        let walked = walk(self, core, &self.settings.paths);
        self.wait_until_under_way(0);
        self.try_again(core);
        if !self.stopped() {
            *self.totals.lock() = Some(walked);
            if let Err(error) = core.volume.commit() {
                core.warn("TierDegraded", format!("make the load durable: {error}"));
            }
        }
        let phase = self.phase_at_end();
        *self.outcome.lock() = Some(phase);
        let files = self.progress.files.load(Ordering::Relaxed);
        let text = format!("{files} files are on the tier");
        match phase {
            LoadPhase::Complete => core.inform("LoadComplete", text),
            LoadPhase::Stopped => core.inform("LoadStopped", text),
            _ => core.warn("LoadPartial", text),
        }
    }

    fn phase_at_end(&self) -> LoadPhase {
        let failed = self.progress.failed_count.load(Ordering::Relaxed);
        let skipped = self.progress.skipped_bytes.load(Ordering::Relaxed);
        if self.stopped() {
            LoadPhase::Stopped
        } else if failed == 0 && skipped == 0 {
            LoadPhase::Complete
        } else if failed > 0 && self.progress.files.load(Ordering::Relaxed) == 0 {
            LoadPhase::Failed
        } else {
            LoadPhase::Partial
        }
    }

    fn wait_until_under_way(&self, limit: usize) {
        let mut under_way = self.under_way.lock();
        while *under_way > limit {
            self.less_under_way.wait(&mut under_way);
        }
    }

    /// Wait for `time`, unless the load is stopped.
    pub(crate) fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut under_way = self.under_way.lock();
        while !self.stopped() && Instant::now() < until {
            self.less_under_way.wait_until(&mut under_way, until);
        }
    }

    /// Try an extent again when the rest is done, unless that was the last try.
    pub(crate) fn put_off(&self, folder: NodeId, item: Item) {
        let mut put_off = self.put_off.lock();
        if item.last_try || put_off.len() >= MOST_PUT_OFF {
            self.progress.skipped(&item.extent);
        } else {
            put_off.push((folder, item));
        }
    }

    /// One by one, so that no reservation is in the way of another.
    fn try_again(self: &Arc<Self>, core: &Arc<Core>) {
        let put_off = std::mem::take(&mut *self.put_off.lock());
        if !put_off.is_empty() && core.volume.degraded().is_some() {
            self.pause(TIER_PAUSE);
        }
        for (folder, item) in put_off {
            let mut single = Batch::new(folder);
            single.items.push(Item {
                last_try: true,
                ..item
            });
            self.submit(core, single);
            self.wait_until_under_way(0);
        }
    }

    /// Batches under way at once. An origin that answers from memory is bound by processors: more
    /// batches than those only contend. The first few batches tell which kind it is.
    fn limit(&self) -> usize {
        let each = Duration::from_nanos(self.file_nanoseconds.load(Ordering::Relaxed));
        let asked = self.settings.parallel.max(1);
        if each < FAST_FILE {
            asked.min(self.processors)
        } else {
            asked
        }
    }

    pub(crate) fn batch_files(&self) -> usize {
        let each = match self.file_nanoseconds.load(Ordering::Relaxed) {
            // The first batches find out how fast the origin is.
            0 => BATCH_TIME.as_nanos() as u64 / 4,
            known => known,
        };
        ((BATCH_TIME.as_nanos() as u64 / each) as usize).clamp(1, BATCH_FILES)
    }

    pub(crate) fn took(&self, time: Duration, files: usize) {
        let each = time.as_nanos() as u64 / files.max(1) as u64;
        let before = self.file_nanoseconds.load(Ordering::Relaxed);
        let average = if before == 0 {
            each
        } else {
            (before * 7 + each) / 8
        };
        self.file_nanoseconds.store(average, Ordering::Relaxed);
    }

    pub(crate) fn submit(self: &Arc<Self>, core: &Arc<Core>, batch: Batch) {
        if batch.items.is_empty() || self.stopped() {
            return;
        }
        self.pace.wait(batch.missing_bytes(core));
        self.wait_until_under_way(self.limit() - 1);
        // Dropped with the job if the readers are closed before it ran.
        let under_way = UnderWay::begin(self);
        let job_core = Arc::clone(core);
        core.readers.submit(Class::Load, move |origin| {
            let load = &under_way.0;
            if !load.stopped() {
                run(&job_core, origin, load, batch);
            }
        });
    }
}

/// One piece of work under way: a batch, or an extent that somebody else is fetching.
pub(crate) struct UnderWay(Arc<Load>);

impl UnderWay {
    pub(crate) fn begin(load: &Arc<Load>) -> Self {
        *load.under_way.lock() += 1;
        Self(Arc::clone(load))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        *self.0.under_way.lock() -= 1;
        self.0.less_under_way.notify_all();
    }
}
