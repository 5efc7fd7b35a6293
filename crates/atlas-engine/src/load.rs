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

use atlas_core::{EXTENT_BYTES, Error, ErrorKind, Extent, Kind, Result, extents_of, printable};
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

/// Extents that are tried again at the end, at most: what found no space because others had reserved
/// it, or was in the hands of a reader who could not keep it.
const MOST_PUT_OFF: usize = 4096;

/// Young files kept for the end, at most.
const MOST_YOUNG: usize = 4096;

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
        let mut walk = Walk {
            load: self,
            core,
            seen: HashSet::new(),
            files: 0,
            bytes: 0,
            young: Vec::new(),
        };
        for path in distinct(&self.settings.paths) {
            if let Err(error) = walk.path(&path)
                && !self.stopped()
            {
                self.progress.failed(&path, &error);
            }
        }
        walk.young_files();
        let walked = (walk.files, walk.bytes);
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
    fn pause(&self, time: Duration) {
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

/// The paths to load, in their plain form and without those that lie below another.
fn distinct(paths: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut paths: Vec<Vec<&[u8]>> = paths
        .iter()
        .map(|path| path.split(|byte| *byte == b'/'))
        .map(|names| names.filter(|name| !name.is_empty()).collect())
        .collect();
    if paths.is_empty() {
        return vec![Vec::new()];
    }
    paths.sort_unstable();
    // What lies below a path follows it directly in this order.
    paths.dedup_by(|later, earlier| later.starts_with(earlier));
    paths.iter().map(|names| names.join(&b'/')).collect()
}

struct Walk<'a> {
    load: &'a Arc<Load>,
    core: &'a Arc<Core>,
    /// Files with several names, by node: met once.
    seen: HashSet<NodeId>,
    files: u64,
    bytes: u64,
    /// Files too young to be kept, with folder and name, to be loaded at the end.
    young: Vec<(NodeId, Vec<u8>, Node)>,
}

impl Walk<'_> {
    fn path(&mut self, path: &[u8]) -> Result<()> {
        let mut at = (NodeId::ROOT, NodeId::ROOT);
        let mut last_name: &[u8] = b"";
        for name in path
            .split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty())
        {
            at = (at.1, self.step(at.1, name)?);
            last_name = name;
        }
        let node = self.core.namespace.node(at.1);
        let node = node.ok_or_else(|| crate::core::not_a_node(at.1.0))?;
        match node.attributes.kind {
            Kind::Folder => self.tree(node.id),
            Kind::File => {
                // Not the name of the node, which may be another hard link's in another folder.
                let mut batch = Batch::new(at.0);
                self.file(&mut batch, last_name, node);
                self.load.submit(self.core, batch);
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
        let complete = self.core.scan.wait_complete(self.core, folder, stopped);
        if self.load.stopped() {
            return complete;
        }
        // Of a folder that is known in part, that part is loaded.
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
            self.file(&mut batch, &name, node);
        }
        self.load.submit(self.core, batch);
        complete
    }

    fn file(&mut self, batch: &mut Batch, name: &[u8], node: Node) {
        if node.attributes.links > 1 && !self.seen.insert(node.id) {
            return;
        }
        self.files += 1;
        self.bytes += node.attributes.size;
        if !provisional_for(&node.attributes).is_zero() {
            self.young.push((batch.folder, name.to_vec(), node));
            if self.young.len() == MOST_YOUNG {
                self.young_files();
            }
            return;
        }
        self.add(batch, name, node);
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
                    last_try: false,
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
                last_try: false,
            });
        }
    }

    /// Load the files that were too young when the walk met them.
    fn young_files(&mut self) {
        let mut batch = Batch::new(NodeId::ROOT);
        for (folder, name, node) in std::mem::take(&mut self.young) {
            // More than once for a time stamp that was in the future.
            loop {
                let wait = provisional_for(&node.attributes);
                if wait.is_zero() || self.load.stopped() {
                    break;
                }
                self.load.pause(wait);
            }
            if folder != batch.folder {
                let full = std::mem::replace(&mut batch, Batch::new(folder));
                self.load.submit(self.core, full);
            }
            self.add(&mut batch, &name, node);
        }
        self.load.submit(self.core, batch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_is_loaded_twice() {
        let of = |paths: &[&str]| {
            let paths: Vec<_> = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
            let distinct = distinct(&paths).into_iter();
            distinct
                .map(|path| String::from_utf8(path).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(of(&[]), [""]);
        assert_eq!(of(&["a/b", "/"]), [""]);
        assert_eq!(
            of(&["a/b", "a-b", "a", "a//b/c", "/b/", "ab"]),
            ["a", "a-b", "ab", "b"]
        );
    }
}
