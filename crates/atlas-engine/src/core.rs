//! The parts of one data set, as its scan, fills, loads and front share them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use atlas_core::{Address, Attributes, EXTENT_BYTES, Error, ErrorKind, Extent, Result, printable};
use atlas_fs::{Filter, Namespace, Node, NodeId};
use atlas_origin::Readers;
use atlas_store::{Cleared, Volume};
use parking_lot::Mutex;

use crate::ahead::ReadAhead;
use crate::events::{EventLog, Severity};
use crate::flights::Flights;
use crate::scan::Scan;

/// A file younger than this may change once more without a visible difference of its version tag
/// (time stamps have a granularity), so its bytes are not kept yet.
pub(crate) const PROVISIONAL_AGE: Duration = Duration::from_secs(2);

/// What the engine itself saw; reads that the kernel answered from its pages are seen by nobody.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) hit_bytes: AtomicU64,
    pub(crate) miss_bytes: AtomicU64,
    /// Files that were found to have another version at the origin.
    stale: Mutex<HashSet<NodeId>>,
    cached: Mutex<Cached>,
    /// Extents that were found damaged on the tier, or gone from it.
    lost: AtomicU64,
}

/// How much of the data set is on the tier, verified since the start of the machine or not.
///
/// Sums with a sign: a fill may be counted after what it filled was freed.
#[derive(Clone, Default)]
struct Cached {
    /// Files with bytes of which every extent is there.
    files: i64,
    bytes: i64,
    /// Bytes of files of several extents.
    large: HashMap<NodeId, i64>,
    /// Extents that were counted and turned out damaged: several readers may find that out.
    lost: HashSet<Address>,
}

impl Counters {
    /// Distinct files that every byte of is on the tier, and bytes there.
    pub(crate) fn cached(&self) -> (u64, u64) {
        let cached = self.cached.lock();
        (cached.files.max(0) as u64, cached.bytes.max(0) as u64)
    }

    pub(crate) fn stale_files(&self) -> u64 {
        self.stale.lock().len() as u64
    }
}

impl Cached {
    fn add(&mut self, node: &Node, bytes: u64) {
        self.change(node, bytes as i64);
    }

    fn remove(&mut self, node: &Node, bytes: u64) {
        self.change(node, -(bytes as i64));
    }

    fn change(&mut self, node: &Node, bytes: i64) {
        self.bytes += bytes;
        let size = node.attributes.size;
        if size <= EXTENT_BYTES {
            self.files += bytes.signum();
            return;
        }
        let there = self.large.entry(node.id).or_default();
        let before = std::mem::replace(there, *there + bytes);
        // Of an extent that is counted late there may be more than the file has.
        let whole = |bytes: i64| i64::from(bytes >= size as i64);
        self.files += whole(*there) - whole(before);
    }
}

pub(crate) struct Core {
    pub(crate) id: String,
    pub(crate) namespace: Namespace,
    pub(crate) volume: Arc<Volume>,
    pub(crate) readers: Readers,
    pub(crate) filter: Filter,
    pub(crate) events: Arc<EventLog>,
    pub(crate) counters: Counters,
    pub(crate) flights: Arc<Flights>,
    pub(crate) scan: Scan,
    pub(crate) ahead: ReadAhead,
    /// What is cached is being given up: nothing that is mounted now may rest on it.
    pub(crate) freeing: AtomicBool,
}

impl Core {
    /// The path of a node, relative to the root of the data set. Only a node that was never
    /// answered has none.
    pub(crate) fn path(&self, node: NodeId) -> Vec<u8> {
        self.namespace.path(node).unwrap_or_default()
    }

    /// The path of an entry of a folder.
    pub(crate) fn child_path(&self, folder: NodeId, name: &[u8]) -> Vec<u8> {
        let mut path = self.path(folder);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    pub(crate) fn warn(&self, reason: &'static str, message: impl Into<String>) {
        self.events
            .push(&self.id, Severity::Warning, reason, message);
    }

    pub(crate) fn inform(&self, reason: &'static str, message: impl Into<String>) {
        self.events
            .push(&self.id, Severity::Normal, reason, message);
    }

    /// Note that the origin holds another version of `node` than this generation. Told once for
    /// each file: every read of it finds out again.
    pub(crate) fn found_stale(&self, node: &Node, error: &Error) {
        if error.kind == ErrorKind::Stale && self.counters.stale.lock().insert(node.id) {
            let path = printable(&self.path(node.id));
            self.warn(
                "OriginChanged",
                format!("{path} changed at the origin: {error}"),
            );
        }
    }

    /// Note that `extent` of `node` became readable from the tier.
    pub(crate) fn found_cached(&self, node: &Node, extent: &Extent) {
        let mut cached = self.counters.cached.lock();
        cached.lost.remove(&extent.address);
        cached.add(node, u64::from(extent.length));
    }

    /// Note that `extent` of `node` turned out damaged on the tier and is to be fetched again.
    pub(crate) fn lost_cached(&self, node: &Node, extent: &Extent) {
        let mut cached = self.counters.cached.lock();
        if !cached.lost.insert(extent.address) {
            return;
        }
        cached.remove(node, u64::from(extent.length));
        drop(cached);
        self.counters.lost.fetch_add(1, Ordering::AcqRel);
        let path = printable(&self.path(node.id));
        self.warn(
            "CorruptExtent",
            format!("{path}: checksum mismatch on the tier, fetched again"),
        );
    }

    /// Note what was given up on purpose.
    pub(crate) fn freed(&self, cleared: &Cleared) {
        self.namespace.for_each_file(|node| {
            let Some(address) = node.address else {
                return;
            };
            let size = node.attributes.size;
            for extent in atlas_core::extents_of(address, size, 0, size) {
                if cleared.contains(extent.address) {
                    let mut cached = self.counters.cached.lock();
                    cached.remove(node, u64::from(extent.length));
                }
            }
        });
    }

    /// How many extents of the tier were lost since the data set was opened.
    pub(crate) fn lost_extents(&self) -> u64 {
        self.counters.lost.load(Ordering::Acquire)
    }

    /// Whether every byte of the files known so far is on the tier.
    pub(crate) fn is_complete(&self) -> bool {
        let (_, cached_bytes) = self.counters.cached();
        cached_bytes >= self.namespace.totals().bytes
    }

    /// The bytes of a file that are on the tier.
    fn cached_bytes_of(&self, node: &Node) -> u64 {
        let Some(address) = node.address else {
            return 0;
        };
        let size = node.attributes.size;
        atlas_core::extents_of(address, size, 0, size)
            .filter(|extent| self.volume.state(extent) != atlas_store::ExtentState::Absent)
            .map(|extent| u64::from(extent.length))
            .sum()
    }

    /// Count what is cached from the bitmaps, which know it after any kind of end.
    pub(crate) fn recount(&self) {
        let mut cached = Cached::default();
        self.namespace.for_each_file(|node| {
            let bytes = self.cached_bytes_of(node);
            if bytes > 0 {
                cached.add(node, bytes);
            }
        });
        *self.counters.cached.lock() = cached;
    }
}

/// How long to wait until the bytes of a file with these attributes may be kept; zero: now.
///
/// A time in the future (another clock) says nothing about age and does not hold anything up.
pub(crate) fn provisional_for(attributes: &Attributes) -> Duration {
    let newest = attributes.modified.max(attributes.changed);
    let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) else {
        return Duration::ZERO;
    };
    let Ok(seconds) = u64::try_from(newest.seconds) else {
        return Duration::ZERO;
    };
    let written = Duration::new(seconds, newest.nanoseconds);
    match now.checked_sub(written) {
        Some(age) => PROVISIONAL_AGE.saturating_sub(age),
        None if written - now < PROVISIONAL_AGE => PROVISIONAL_AGE,
        None => Duration::ZERO,
    }
}

/// The error of a request that the data set's end has overtaken.
pub(crate) fn closing() -> Error {
    Error::new(ErrorKind::Io, libc::EIO, "the data set is being closed")
}

pub(crate) fn not_a_node(node: u64) -> Error {
    Error::new(
        ErrorKind::NotFound,
        libc::ENOENT,
        format!("node {node} is not known"),
    )
}

pub(crate) type Done<T> = Box<dyn FnOnce(Result<T>) + Send>;
