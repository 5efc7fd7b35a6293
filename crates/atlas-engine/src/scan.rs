//! The namespace from the origin: a parallel streaming scan, and the same steps on demand for a
//! reader who comes first.
//!
//! A folder goes through two steps: its names (one listing), then the attributes of its entries, in
//! chunks that many readers work on. Both are done once, by whoever needs them first.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atlas_core::{Error, ErrorKind, Kind, Result, printable};
use atlas_fs::{FolderState, Lookup, NewEntry, Node, NodeId};
use atlas_origin::{Class, Entry, Origin};
use parking_lot::{Condvar, Mutex};

use crate::core::{Core, Done, closing};
use crate::left_out::LeftOut;

/// Entries whose attributes one job asks for: long enough to pay for opening the folder, short
/// enough that all readers share a huge folder.
const CHUNK: usize = 256;

/// Between two attempts at folders that could not be read for a reason that may pass.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(crate) struct Scan {
    state: Mutex<ScanState>,
    changed: Condvar,
    left_out: LeftOut,
}

#[derive(Default)]
struct ScanState {
    started: bool,
    closed: bool,
    /// Jobs submitted and not ended. Zero after the start: the scan has gone as far as it can.
    pending: u64,
    /// Folders whose names are being asked for, with those who wait for them.
    listing: HashMap<NodeId, Vec<Done<()>>>,
    failures: HashMap<NodeId, Error>,
    last_retry: Option<Instant>,
    /// What was last told of the end: folders that stay unreadable are tried again and again.
    told: Option<ScanProgress>,
}

/// A job of the scan, counted from when it is submitted until it is dropped, run or not.
struct Job(Arc<Core>);

impl Drop for Job {
    fn drop(&mut self) {
        self.0.scan.end_job(&self.0);
    }
}

/// A job that lists a folder. Dropped without having run, it lets those go who wait for the names.
struct Listing {
    job: Job,
    folder: NodeId,
    ran: bool,
}

impl Listing {
    fn run(mut self, origin: &dyn Origin) {
        list(&self.job.0, origin, self.folder);
        self.ran = true;
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        if !self.ran {
            let waiters = self.job.0.scan.state.lock().listing.remove(&self.folder);
            drop(waiters);
        }
    }
}

/// How far the scan is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScanProgress {
    Running,
    Complete,
    /// Some folders could not be read: how many, and the first reason.
    Partial {
        folders: u64,
        reason: String,
    },
    /// The root could not be read.
    Failed {
        reason: String,
    },
}

impl Scan {
    pub(crate) fn progress(&self) -> ScanProgress {
        let state = self.state.lock();
        if state.pending > 0 || !state.started {
            return ScanProgress::Running;
        }
        if let Some(error) = state.failures.get(&NodeId::ROOT) {
            return ScanProgress::Failed {
                reason: error.message.clone(),
            };
        }
        match state.failures.iter().min_by_key(|(folder, _)| folder.0) {
            None => ScanProgress::Complete,
            Some((_, error)) => ScanProgress::Partial {
                folders: state.failures.len() as u64,
                reason: error.message.clone(),
            },
        }
    }

    /// Start nothing more; wake who waits on a thread, and drop what waits for a listing (which may
    /// hold the data set that holds it).
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let waiters = std::mem::take(&mut state.listing);
        drop(state);
        self.changed.notify_all();
        drop(waiters);
    }

    /// Wait until the names and attributes of `folder` are all known.
    ///
    /// # Errors
    /// Why the folder cannot be read, or that the data set is being closed.
    pub(crate) fn wait_complete(
        &self,
        core: &Core,
        folder: NodeId,
        stopped: impl Fn() -> bool,
    ) -> Result<()> {
        let mut state = self.state.lock();
        loop {
            if core.namespace.folder_state(folder) == FolderState::Complete {
                return Ok(());
            }
            if state.closed || stopped() {
                return Err(closing());
            }
            if state.started && state.pending == 0 {
                let error = state.failures.get(&folder).cloned();
                return Err(error.unwrap_or_else(|| {
                    Error::new(ErrorKind::Io, libc::EIO, "the folder was not scanned")
                }));
            }
            // The timeout only bounds how late `stopped` is seen.
            self.changed
                .wait_for(&mut state, Duration::from_millis(200));
        }
    }

    fn end_job(&self, core: &Core) {
        let mut state = self.state.lock();
        state.pending -= 1;
        let ended = state.pending == 0 && state.started && !state.closed;
        drop(state);
        self.changed.notify_all();
        if ended {
            // From here on the tables outlive a restart of the machine.
            if let Err(error) = core.namespace.settle() {
                core.warn("StateNotDurable", error.message);
            }
            self.tell(core);
        }
    }

    /// Tell how the scan ended, unless that is known.
    fn tell(&self, core: &Core) {
        let progress = self.progress();
        if progress == ScanProgress::Running
            || self.state.lock().told.replace(progress.clone()) == Some(progress.clone())
        {
            return;
        }
        let totals = core.namespace.totals();
        let text = format!("{} files, {} bytes", totals.files, totals.bytes);
        match progress {
            ScanProgress::Complete => core.inform("ScanComplete", text),
            ScanProgress::Partial { folders, reason } => core.warn(
                "ScanPartial",
                format!("{text}; {folders} folders could not be read, the first: {reason}"),
            ),
            ScanProgress::Failed { reason } => core.warn("ScanFailed", reason),
            ScanProgress::Running => {}
        }
        self.left_out.tell(core);
    }

    fn failed(&self, folder: NodeId, error: Error) {
        self.state.lock().failures.insert(folder, error);
    }

    fn succeeded(&self, folder: NodeId) {
        self.state.lock().failures.remove(&folder);
    }
}

/// Count a job in, unless the data set is being closed.
fn begin_job(core: &Arc<Core>) -> Option<Job> {
    let mut state = core.scan.state.lock();
    if state.closed {
        return None;
    }
    state.pending += 1;
    drop(state);
    Some(Job(Arc::clone(core)))
}

/// Start, or go on after another process, from every folder that is not complete.
pub(crate) fn start(core: &Arc<Core>) {
    let frontier = core.namespace.unfinished_folders();
    // Counted as a job of its own, so that the scan cannot look finished between two submits.
    let Some(_job) = begin_job(core) else { return };
    core.scan.state.lock().started = true;
    for folder in frontier {
        visit(core, folder);
    }
}

/// Try again the folders that failed for a reason that may have passed. Called about once a second.
pub(crate) fn retry(core: &Arc<Core>) {
    let folders: Vec<NodeId> = {
        let mut state = core.scan.state.lock();
        let due = state
            .last_retry
            .is_none_or(|last| last.elapsed() >= RETRY_INTERVAL);
        if state.pending > 0 || state.failures.is_empty() || !due {
            return;
        }
        state.last_retry = Some(Instant::now());
        let passing = |error: &Error| error.kind != ErrorKind::Denied && error.errno != libc::ELOOP;
        state
            .failures
            .iter()
            .filter(|(_, error)| passing(error))
            .map(|(id, _)| *id)
            .collect()
    };
    for folder in folders {
        visit(core, folder);
    }
}

fn visit(core: &Arc<Core>, folder: NodeId) {
    match core.namespace.folder_state(folder) {
        FolderState::Unlisted | FolderState::Failed(_) => {
            ensure_named(core, folder, Class::Scan, Box::new(|_| {}));
        }
        FolderState::Named => ask_attributes(core, folder),
        FolderState::Complete => core.scan.succeeded(folder),
    }
}

/// Call `done` when the names of `folder` are known.
pub(crate) fn ensure_named(core: &Arc<Core>, folder: NodeId, class: Class, done: Done<()>) {
    if is_named(core, folder) {
        return done(Ok(()));
    }
    let mut state = core.scan.state.lock();
    if state.closed {
        drop(state);
        return done(Err(closing()));
    }
    // A scan job may still lie in the queue behind thousands: a reader's own job overtakes it, and
    // the later one finds the folder named.
    let waiters = state.listing.entry(folder).or_default();
    let first = waiters.is_empty();
    waiters.push(done);
    if first || class == Class::Foreground {
        state.pending += 1;
        drop(state);
        let listing = Listing {
            job: Job(Arc::clone(core)),
            folder,
            ran: false,
        };
        core.readers
            .submit(class, move |origin| listing.run(origin));
    }
}

fn is_named(core: &Core, folder: NodeId) -> bool {
    matches!(
        core.namespace.folder_state(folder),
        FolderState::Named | FolderState::Complete
    )
}

fn list(core: &Arc<Core>, origin: &dyn Origin, folder: NodeId) {
    if !is_named(core, folder) {
        let outcome = list_once(core, origin, folder);
        if let Err(error) = &outcome {
            core.scan.failed(folder, error.clone());
            // Only a hint for the next process; this one keeps the whole error.
            let _ = core.namespace.set_failed(folder, error.errno);
        } else {
            core.scan.succeeded(folder);
            ask_attributes(core, folder);
        }
        answer(core, folder, &outcome);
    } else {
        answer(core, folder, &Ok(()));
    }
}

fn answer(core: &Core, folder: NodeId, outcome: &Result<()>) {
    let waiters = core.scan.state.lock().listing.remove(&folder);
    for waiter in waiters.into_iter().flatten() {
        waiter(outcome.clone());
    }
}

fn list_once(core: &Core, origin: &dyn Origin, folder: NodeId) -> Result<()> {
    let path = core.path(folder);
    let listed = origin.list(&path)?;
    let names = listed
        .into_iter()
        .filter(|entry| {
            // What d_type does not tell is decided when the attributes are known.
            admits(core, &path, &entry.name, entry.kind)
        })
        .map(|entry| (entry.name, entry.kind))
        .collect();
    core.namespace.name_children(folder, names)?;
    Ok(())
}

fn admits(core: &Core, folder: &[u8], name: &[u8], kind: Option<Kind>) -> bool {
    let path = if folder.is_empty() {
        name.to_vec()
    } else {
        [folder, b"/", name].concat()
    };
    core.filter.admits(&path, kind)
}

fn ask_attributes(core: &Arc<Core>, folder: NodeId) {
    let count = core.namespace.children_count(folder);
    if count == 0 {
        core.namespace.complete_if_done(folder);
        return;
    }
    for start in (0..count).step_by(CHUNK) {
        let Some(job) = begin_job(core) else { return };
        core.readers.submit(Class::Scan, move |origin| {
            let core = &job.0;
            if let Err(error) = read_chunk(core, origin, folder, start) {
                core.scan.failed(folder, error);
            }
            if core.namespace.complete_if_done(folder) {
                core.scan.succeeded(folder);
            }
        });
    }
}

fn read_chunk(core: &Arc<Core>, origin: &dyn Origin, folder: NodeId, start: usize) -> Result<()> {
    let path = core.path(folder);
    let children = core.namespace.children(folder, start, CHUNK);
    let (ready, open): (Vec<_>, Vec<_>) = children
        .into_iter()
        .filter(|child| !child.gone)
        .partition(|child| child.ready);
    for child in ready {
        descend(core, core.namespace.node(child.id));
    }
    let names: Vec<&[u8]> = open.iter().map(|child| child.name.as_slice()).collect();
    let mut problem = Ok(());
    let mut found: Vec<(&[u8], Entry)> = Vec::with_capacity(names.len());
    if !names.is_empty() {
        for (name, entry) in names.iter().zip(origin.stat_many(&path, &names)?) {
            match entry {
                Ok(entry) if admits(core, &path, name, Some(entry.attributes.kind)) => {
                    found.push((name, entry));
                }
                Ok(_) => core.namespace.set_gone(folder, name)?,
                Err(error) if error.kind == ErrorKind::NotFound => {
                    core.namespace.set_gone(folder, name)?;
                }
                Err(error) => problem = Err(error),
            }
        }
    }
    for (name, entry) in &found {
        let left_out = &core.scan.left_out;
        left_out.count(entry, || core.child_path(folder, name));
    }
    let entries: Vec<_> = found
        .iter()
        .map(|(name, entry)| NewEntry {
            name,
            attributes: &entry.attributes,
            target: entry.target.as_deref(),
            extended: &entry.extended,
        })
        .collect();
    for outcome in core.namespace.set_entries(folder, &entries) {
        match outcome {
            Ok(node) => descend(core, Some(node)),
            Err(error) => problem = Err(error),
        }
    }
    problem
}

fn descend(core: &Arc<Core>, node: Option<Node>) {
    if let Some(node) = node
        && node.attributes.kind == Kind::Folder
    {
        visit(core, node.id);
    }
}

/// What a name in a folder means; asks the origin where the scan has not been yet.
/// `certain`: the answer holds for this generation, so the kernel may keep it.
pub(crate) struct Resolved {
    pub(crate) node: Option<Node>,
    pub(crate) certain: bool,
}

/// Look a name up for a reader.
pub(crate) fn resolve(core: &Arc<Core>, parent: NodeId, name: &[u8], done: Done<Resolved>) {
    let named = match core.namespace.lookup(parent, name) {
        Lookup::Found(node) => {
            return done(Ok(Resolved {
                node: Some(node),
                certain: true,
            }));
        }
        Lookup::Absent => {
            return done(Ok(Resolved {
                node: None,
                certain: true,
            }));
        }
        Lookup::Named(_) => true,
        Lookup::Unknown => false,
    };
    let job_core = Arc::clone(core);
    let name = name.to_vec();
    core.readers.submit(Class::Foreground, move |origin| {
        done(resolve_at_origin(&job_core, origin, parent, &name, named));
    });
}

fn resolve_at_origin(
    core: &Core,
    origin: &dyn Origin,
    parent: NodeId,
    name: &[u8],
    named: bool,
) -> Result<Resolved> {
    let path = core.child_path(parent, name);
    match origin.stat(&path) {
        Ok(entry) if core.filter.admits(&path, Some(entry.attributes.kind)) => {
            core.scan.left_out.count(&entry, || path.clone());
            let new = NewEntry {
                name,
                attributes: &entry.attributes,
                target: entry.target.as_deref(),
                extended: &entry.extended,
            };
            let node = core.namespace.set_new(parent, &new)?;
            Ok(Resolved {
                node: Some(node),
                certain: true,
            })
        }
        Ok(_) => Ok(Resolved {
            node: None,
            certain: true,
        }),
        Err(error) if error.kind == ErrorKind::NotFound => {
            if named {
                core.namespace.set_gone(parent, name)?;
            }
            Ok(Resolved {
                node: None,
                certain: named,
            })
        }
        Err(error) => {
            core.warn(
                "OriginError",
                format!("look up {}: {error}", printable(&path)),
            );
            Err(error)
        }
    }
}
