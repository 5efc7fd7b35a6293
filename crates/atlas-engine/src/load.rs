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

use atlas_core::{EXTENT_BYTES, Error, ErrorKind, Kind, Result, extents_of, printable};
use atlas_fs::{Node, NodeId};
use atlas_origin::Class;
use parking_lot::{Condvar, Mutex};

use crate::batch::{Batch, Item, run};
use crate::core::{Core, closing, provisional_for};
use crate::pace::Pace;
use crate::scan::{ScanProgress, ensure_named};

/// Failures kept with their paths; all are counted.
const FAILURES_KEPT: usize = 100;

/// Files in a batch at most, however fast the origin is.
const BATCH_FILES: usize = 128;

/// A batch should take about this long, so that a reader who needs one of its files soon has it.
const BATCH_TIME: Duration = Duration::from_millis(20);

/// Below this for each file of a batch an origin counts as fast: it is read from memory or from a
/// local disk with read-ahead, not over a network.
const FAST_FILE: Duration = Duration::from_micros(200);

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
    /// Bytes left at the origin because the quota is used up.
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
    pace: Pace,
    processors: usize,
    /// Average nanoseconds that a file of a batch takes, so far.
    file_nanoseconds: AtomicU64,
    outcome: Mutex<Option<LoadPhase>>,
    totals: Mutex<Option<(u64, u64)>>,
}

#[derive(Default)]
pub(crate) struct Progress {
    pub(crate) files: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) skipped_bytes: AtomicU64,
    failed_count: AtomicU64,
    failed: Mutex<Vec<(String, String)>>,
}

impl Progress {
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
        let mut walk = Walk {
            load: self,
            core,
            seen: HashSet::new(),
            files: 0,
            bytes: 0,
            young: Vec::new(),
        };
        let paths: &[Vec<u8>] = if self.is_whole() {
            &[Vec::new()]
        } else {
            &self.settings.paths
        };
        for path in paths {
            if let Err(error) = walk.path(path)
                && !self.stopped()
            {
                self.progress.failed(path, &error);
            }
        }
        walk.young_files();
        let walked = (walk.files, walk.bytes);
        self.wait_until_under_way(0);
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

    /// One piece of work ended: a batch, or an extent that somebody else was fetching.
    pub(crate) fn ended_one(&self) {
        *self.under_way.lock() -= 1;
        self.less_under_way.notify_all();
    }

    pub(crate) fn began_one(&self) {
        *self.under_way.lock() += 1;
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

    fn batch_files(&self) -> usize {
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

    fn submit(self: &Arc<Self>, core: &Arc<Core>, batch: Batch) {
        if batch.items.is_empty() || self.stopped() {
            return;
        }
        self.pace.wait(batch.bytes());
        self.wait_until_under_way(self.limit() - 1);
        self.began_one();
        let guard = UnderWay(Arc::clone(self));
        let job_core = Arc::clone(core);
        core.readers.submit(Class::Load, move |origin| {
            // Dropped with the job if the readers are closed before it ran.
            let guard = guard;
            if !guard.0.stopped() {
                run(&job_core, origin, &guard.0, batch);
            }
        });
    }
}

struct UnderWay(Arc<Load>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.ended_one();
    }
}

struct Walk<'a> {
    load: &'a Arc<Load>,
    core: &'a Arc<Core>,
    /// Files with several names, by node: met once.
    seen: HashSet<NodeId>,
    files: u64,
    bytes: u64,
    /// Files too young to be kept, to be loaded at the end.
    young: Vec<(NodeId, Node)>,
}

impl Walk<'_> {
    fn path(&mut self, path: &[u8]) -> Result<()> {
        let mut at = (NodeId::ROOT, NodeId::ROOT);
        for name in path
            .split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty())
        {
            at = (at.1, self.step(at.1, name)?);
        }
        let node = self.core.namespace.node(at.1);
        let node = node.ok_or_else(|| crate::core::not_a_node(at.1.0))?;
        match node.attributes.kind {
            Kind::Folder => self.tree(node.id),
            Kind::File => {
                let name = self.core.namespace.name(node.id).unwrap_or_default();
                self.file(&mut Batch::new(at.0), &name, node, true);
                Ok(())
            }
            _ => Err(Error::new(
                ErrorKind::Invalid,
                libc::EINVAL,
                "neither a file nor a folder",
            )),
        }
    }

    /// Resolve one name, waiting for the origin where the scan has not been yet.
    fn step(&self, folder: NodeId, name: &[u8]) -> Result<NodeId> {
        let (sender, receiver) = std::sync::mpsc::channel();
        let done = Box::new(move |outcome| drop(sender.send(outcome)));
        crate::scan::resolve(self.core, folder, name, done);
        let resolved = receiver.recv().map_err(|_| closing())??;
        resolved.node.map(|node| node.id).ok_or_else(|| {
            let text = format!("{}: no such entry in the data set", printable(name));
            Error::new(ErrorKind::NotFound, libc::ENOENT, text)
        })
    }

    fn tree(&mut self, top: NodeId) -> Result<()> {
        let mut folders = vec![top];
        let mut outcome = Ok(());
        while let Some(folder) = folders.pop() {
            if self.load.stopped() {
                return Err(closing());
            }
            match self.folder(folder, &mut folders) {
                Ok(()) => {}
                Err(error) if folder == top => outcome = Err(error),
                Err(error) => {
                    self.load.progress.failed(&self.core.path(folder), &error);
                }
            }
        }
        outcome
    }

    fn folder(&mut self, folder: NodeId, folders: &mut Vec<NodeId>) -> Result<()> {
        ensure_named(self.core, folder, Class::Load, Box::new(|_| {}));
        let stopped = || self.load.stopped();
        self.core.scan.wait_complete(self.core, folder, stopped)?;
        let mut files = Vec::new();
        let mut below = Vec::new();
        let count = self.core.namespace.children_count(folder);
        for child in self.core.namespace.children(folder, 0, count) {
            let Some(node) = self.core.namespace.node(child.id) else {
                continue;
            };
            match node.attributes.kind {
                Kind::Folder => below.push(node.id),
                Kind::File => files.push((child.name, node)),
                _ => {}
            }
        }
        // The first subfolder comes off the stack first, as in a listing.
        folders.extend(below.into_iter().rev());
        files.sort_by_key(|(_, node)| node.address);
        let mut batch = Batch::new(folder);
        for (name, node) in files {
            self.file(&mut batch, &name, node, false);
        }
        self.load.submit(self.core, batch);
        Ok(())
    }

    fn file(&mut self, batch: &mut Batch, name: &[u8], node: Node, alone: bool) {
        if node.attributes.links > 1 && !self.seen.insert(node.id) {
            return;
        }
        self.files += 1;
        self.bytes += node.attributes.size;
        if !provisional_for(&node.attributes).is_zero() {
            self.young.push((batch.folder, node));
            return;
        }
        self.add(batch, name, node);
        if alone {
            let folder = batch.folder;
            let full = std::mem::replace(batch, Batch::new(folder));
            self.load.submit(self.core, full);
        }
    }

    fn add(&self, batch: &mut Batch, name: &[u8], node: Node) {
        let size = node.attributes.size;
        let Some(address) = node.address else {
            // An empty file has no bytes to bring.
            self.load.progress.loaded(0, true);
            return;
        };
        if size > EXTENT_BYTES {
            let left = Arc::new(AtomicU64::new(size));
            for extent in extents_of(address, size, 0, size) {
                let mut single = Batch::new(batch.folder);
                single.items.push(Item {
                    name: name.to_vec(),
                    node,
                    extent,
                    left: Some(Arc::clone(&left)),
                });
                self.load.submit(self.core, single);
            }
            return;
        }
        for extent in extents_of(address, size, 0, size) {
            if !batch.takes(&extent) || batch.items.len() >= self.load.batch_files() {
                let folder = batch.folder;
                let full = std::mem::replace(batch, Batch::new(folder));
                self.load.submit(self.core, full);
            }
            batch.items.push(Item {
                name: name.to_vec(),
                node,
                extent,
                left: None,
            });
        }
    }

    /// Load the files that were too young when the walk met them.
    fn young_files(&mut self) {
        for (folder, node) in std::mem::take(&mut self.young) {
            let until = Instant::now() + provisional_for(&node.attributes);
            let mut under_way = self.load.under_way.lock();
            while !self.load.stopped() && Instant::now() < until {
                self.load.less_under_way.wait_until(&mut under_way, until);
            }
            drop(under_way);
            let mut batch = Batch::new(folder);
            let name = self.core.namespace.name(node.id).unwrap_or_default();
            self.add(&mut batch, &name, node);
            self.load.submit(self.core, batch);
        }
    }
}
