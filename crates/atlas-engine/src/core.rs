//! The parts of one data set, as its scan, fills, loads and front share them.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use atlas_core::{Attributes, EXTENT_BYTES, Error, ErrorKind, Result, printable};
use atlas_fs::{Filter, Namespace, Node, NodeId};
use atlas_origin::Readers;
use atlas_store::Volume;
use parking_lot::Mutex;

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
    pub(crate) stale_files: AtomicU64,
    /// Distinct files, and bytes of them, of which every extent is kept.
    pub(crate) cached_files: AtomicU64,
    pub(crate) cached_bytes: AtomicU64,
    /// Files of several extents that are in `cached_files`: two last extents that arrive together
    /// must not count their file twice.
    whole_large_files: Mutex<HashSet<NodeId>>,
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

    /// Note that the origin holds another version of `node` than this generation.
    pub(crate) fn found_stale(&self, node: &Node, error: &Error) {
        if error.kind == ErrorKind::Stale {
            self.counters.stale_files.fetch_add(1, Ordering::Relaxed);
            let path = printable(&self.path(node.id));
            self.warn(
                "OriginChanged",
                format!("{path} changed at the origin: {error}"),
            );
        }
    }

    /// Note that `bytes` of `node` became readable from the tier; the file counts when it is whole.
    pub(crate) fn found_cached(&self, node: &Node, bytes: u64) {
        self.counters
            .cached_bytes
            .fetch_add(bytes, Ordering::Relaxed);
        let whole = bytes == node.attributes.size
            || (self.is_cached(node) && self.counters.whole_large_files.lock().insert(node.id));
        if whole {
            self.counters.cached_files.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Note that `bytes` of `node` turned out damaged on the tier and are to be fetched again.
    pub(crate) fn lost_cached(&self, node: &Node, bytes: u64) {
        self.counters
            .cached_bytes
            .fetch_sub(bytes, Ordering::Relaxed);
        let was_whole = bytes == node.attributes.size
            || self.counters.whole_large_files.lock().remove(&node.id);
        if was_whole {
            self.counters.cached_files.fetch_sub(1, Ordering::Relaxed);
        }
        let path = printable(&self.path(node.id));
        self.warn(
            "CorruptExtent",
            format!("{path}: checksum mismatch on the tier, fetched again"),
        );
    }

    /// Whether every byte of a file is on the tier (verified since the start of the machine or not).
    pub(crate) fn is_cached(&self, node: &Node) -> bool {
        self.cached_bytes_of(node) == node.attributes.size
    }

    /// The bytes of a file that are on the tier.
    pub(crate) fn cached_bytes_of(&self, node: &Node) -> u64 {
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
        let (mut files, mut bytes) = (0, 0);
        let mut large = HashSet::new();
        self.namespace.for_each_file(|node| {
            let cached = self.cached_bytes_of(node);
            bytes += cached;
            if cached == node.attributes.size && node.address.is_some() {
                files += 1;
                if cached > EXTENT_BYTES {
                    large.insert(node.id);
                }
            }
        });
        self.counters.cached_files.store(files, Ordering::Relaxed);
        self.counters.cached_bytes.store(bytes, Ordering::Relaxed);
        *self.counters.whole_large_files.lock() = large;
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
