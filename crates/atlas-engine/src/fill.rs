//! Bytes for a reader: from the tier, or fetched once from the origin for everybody who waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use atlas_core::{Error, ErrorKind, Extent, Result, extents_of};
use atlas_fs::Node;
use atlas_origin::{Class, Origin};
use atlas_store::{ExtentState, Reservation, Verified};
use parking_lot::Mutex;

use crate::ahead::Place;
use crate::core::{Core, Done, provisional_for};
use crate::flights::{Flight, Joined, Waiter};
use crate::pages::PageBuffer;

/// A read that needs at least one extent that is not readable yet.
struct PendingRead {
    /// Extents still missing, and one for the caller while it sets the read up.
    missing: AtomicUsize,
    offset: u64,
    state: Mutex<PendingState>,
}

struct PendingState {
    bytes: Vec<u8>,
    error: Option<Error>,
    done: Option<Done<Vec<u8>>>,
}

/// Whether `length` bytes at `offset` of a file can be read from the tier right now.
pub(crate) fn is_live(core: &Core, node: &Node, offset: u64, length: u64) -> bool {
    node.address.is_some_and(|address| {
        extents_of(address, node.attributes.size, offset, length)
            .all(|extent| core.volume.is_live(extent.address))
    })
}

/// Read from the tier into `buffer`; false when a part of it is not there (any more).
pub(crate) fn read_live(core: &Core, node: &Node, offset: u64, buffer: &mut [u8]) -> bool {
    let length = buffer.len() as u64;
    let Some(address) = node.address else {
        return false;
    };
    if !is_live(core, node, offset, length) {
        return false;
    }
    // Looked at again after the read: what was evicted meanwhile may have been read as zeros.
    let read = core.volume.read(address.plus(offset), buffer);
    if read.is_ok() && is_live(core, node, offset, length) {
        core.counters.hit_bytes.fetch_add(length, Ordering::Relaxed);
        return true;
    }
    // What was given up meanwhile, by whoever found it damaged or freed it, that one has counted.
    let given_up = read.is_ok() || read.is_err_and(|error| error.kind == ErrorKind::NotFound);
    // A damaged page has given its extent up; whatever else is wrong with the tier's tables shows
    // only when the extent is looked at whole.
    for extent in extents_of(address, node.attributes.size, offset, length) {
        let lost = match core.volume.verify(&extent) {
            Ok(Verified::Sound) => false,
            Ok(Verified::Absent) => !given_up,
            Ok(Verified::Damaged) | Err(_) => true,
        };
        if lost {
            core.lost_cached(node, &extent);
        }
    }
    false
}

/// Read `length` bytes at `offset`, all inside the file, and call `done` with them.
pub(crate) fn read(core: &Arc<Core>, node: Node, offset: u64, length: usize, done: Done<Vec<u8>>) {
    let Some(address) = node.address else {
        return done(Ok(Vec::new()));
    };
    let pending = Arc::new(PendingRead {
        missing: AtomicUsize::new(1),
        offset,
        state: Mutex::new(PendingState {
            bytes: vec![0; length],
            error: None,
            done: Some(done),
        }),
    });
    let node = Arc::new(node);
    for extent in extents_of(address, node.attributes.size, offset, length as u64) {
        pending.missing.fetch_add(1, Ordering::Relaxed);
        need(core, &node, extent, &pending);
    }
    pending.arrived();
}

fn need(core: &Arc<Core>, node: &Arc<Node>, extent: Extent, pending: &Arc<PendingRead>) {
    if pending.take_live(core, node, &extent) {
        return;
    }
    let known = core.volume.state(&extent) != ExtentState::Absent;
    let reservation = if known {
        None
    } else {
        reserve(core, node, &extent)
    };
    if !known && reservation.is_none() {
        return pass_through(core, node, extent, pending);
    }
    let waiting = Arc::clone(pending);
    let waiter: Waiter = Box::new(move |outcome| waiting.take(&extent, outcome));
    let live = || core.volume.is_live(extent.address);
    match core.flights.join(extent.address, Some(waiter), live) {
        Ok(Joined::Waiting) => {}
        Ok(Joined::Leader(flight)) => {
            let (job_core, node) = (Arc::clone(core), Arc::clone(node));
            core.readers.submit(Class::Foreground, move |origin| {
                fetch(&job_core, origin, &node, extent, reservation, flight);
            });
        }
        // Became live between the look and the lock, or is live and cannot be read.
        Err(_) => {
            if !pending.take_live(core, node, &extent) {
                pass_through(core, node, extent, pending);
            }
        }
    }
}

/// Begins to fetch an extent that nobody waits for yet. Where there is no space to keep it, there is
/// no use in that.
///
/// As urgent as what somebody waits for: a reader that comes to it waits for this job.
pub(crate) fn fetch_ahead(core: &Arc<Core>, node: &Arc<Node>, extent: Extent, place: Place) {
    let state = core.volume.state(&extent);
    if state == ExtentState::Live {
        return;
    }
    let absent = state == ExtentState::Absent;
    let reservation = absent.then(|| reserve(core, node, &extent)).flatten();
    if absent && reservation.is_none() {
        return;
    }
    let live = || core.volume.is_live(extent.address);
    if let Ok(Joined::Leader(flight)) = core.flights.join(extent.address, None, live) {
        let (job_core, node) = (Arc::clone(core), Arc::clone(node));
        core.readers.submit(Class::Foreground, move |origin| {
            let _place = place;
            fetch(&job_core, origin, &node, extent, reservation, flight);
        });
    }
}

/// Space for an extent, unless its bytes may not be kept yet or there is none.
fn reserve(core: &Core, node: &Node, extent: &Extent) -> Option<Reservation> {
    let old_enough = provisional_for(&node.attributes).is_zero();
    old_enough
        .then(|| core.volume.reserve(extent.footprint()))
        .flatten()
}

/// Read what is asked of an extent that is not kept, and no more of it.
fn pass_through(core: &Arc<Core>, node: &Arc<Node>, extent: Extent, pending: &Arc<PendingRead>) {
    let (job_core, node, pending) = (Arc::clone(core), Arc::clone(node), Arc::clone(pending));
    core.readers.submit(Class::Foreground, move |origin| {
        let (offset, length) = pending.wanted(&extent);
        let mut buffer = PageBuffer::new(length);
        let path = job_core.path(node.id);
        let bytes = &mut buffer[..length];
        match origin.read(&path, &node.attributes.tag(), offset, bytes) {
            Ok(()) => {
                job_core
                    .counters
                    .miss_bytes
                    .fetch_add(length as u64, Ordering::Relaxed);
                pending.take_part(&extent, bytes);
            }
            Err(error) => {
                job_core.found_stale(&node, &error);
                pending.take(&extent, Err(error));
            }
        }
    });
}

/// Bring one extent: verify what the tier has of it, else fetch it from the origin and keep it.
fn fetch(
    core: &Arc<Core>,
    origin: &dyn Origin,
    node: &Node,
    extent: Extent,
    mut reservation: Option<Reservation>,
    flight: Flight,
) {
    let mut buffer = PageBuffer::new(extent.footprint() as usize);
    if core.volume.state(&extent) != ExtentState::Absent {
        let length = extent.length as usize;
        let verified = core.volume.verify(&extent);
        if matches!(verified, Ok(Verified::Sound))
            && core
                .volume
                .read(extent.address, &mut buffer[..length])
                .is_ok()
        {
            core.counters
                .hit_bytes
                .fetch_add(u64::from(extent.length), Ordering::Relaxed);
            return flight.land(&Ok(&buffer[..length]));
        }
        if !matches!(verified, Ok(Verified::Absent)) {
            core.lost_cached(node, &extent);
        }
        reservation = reserve(core, node, &extent);
    }
    match fetch_from_origin(core, origin, node, extent, reservation, &mut buffer) {
        Ok(()) => flight.land(&Ok(&buffer[..extent.length as usize])),
        Err(error) => {
            core.found_stale(node, &error);
            flight.land(&Err(error));
        }
    }
}

fn fetch_from_origin(
    core: &Core,
    origin: &dyn Origin,
    node: &Node,
    extent: Extent,
    reservation: Option<Reservation>,
    buffer: &mut PageBuffer,
) -> Result<()> {
    let path = core.path(node.id);
    let (bytes, padding) = buffer.split_at_mut(extent.length as usize);
    origin.read(&path, &node.attributes.tag(), extent.file_offset, bytes)?;
    padding.fill(0);
    core.counters
        .miss_bytes
        .fetch_add(u64::from(extent.length), Ordering::Relaxed);
    if let Some(reservation) = reservation {
        // A tier that cannot be written degrades the data set, which says so; the reader has its
        // bytes all the same.
        if core
            .volume
            .fill(extent.address, buffer, &[extent], reservation)
            .is_ok()
        {
            core.found_cached(node, &extent);
        }
    }
    Ok(())
}

impl PendingRead {
    /// Where the bytes of `extent` go: (range in the answer, offset of its first byte in the extent).
    fn overlap(&self, extent: &Extent, length: usize) -> (std::ops::Range<usize>, usize) {
        let start = extent.file_offset.max(self.offset);
        let end = (extent.file_offset + u64::from(extent.length)).min(self.offset + length as u64);
        let range = (start - self.offset) as usize..(end - self.offset) as usize;
        (range, (start - extent.file_offset) as usize)
    }

    fn take_live(&self, core: &Core, node: &Node, extent: &Extent) -> bool {
        let mut state = self.state.lock();
        let (range, skipped) = self.overlap(extent, state.bytes.len());
        let offset = extent.file_offset + skipped as u64;
        let taken = read_live(core, node, offset, &mut state.bytes[range]);
        drop(state);
        if taken {
            self.arrived();
        }
        taken
    }

    fn take(&self, extent: &Extent, outcome: Result<&[u8]>) {
        let mut state = self.state.lock();
        let (range, skipped) = self.overlap(extent, state.bytes.len());
        match outcome {
            Ok(bytes) => {
                let length = range.len();
                state.bytes[range].copy_from_slice(&bytes[skipped..skipped + length]);
            }
            Err(error) => state.error = Some(error),
        }
        drop(state);
        self.arrived();
    }

    /// The part of `extent` that is asked for: offset in the file, and length.
    fn wanted(&self, extent: &Extent) -> (u64, usize) {
        let length = self.state.lock().bytes.len();
        let (range, skipped) = self.overlap(extent, length);
        (extent.file_offset + skipped as u64, range.len())
    }

    /// Take exactly the part that [`wanted`](Self::wanted) named.
    fn take_part(&self, extent: &Extent, bytes: &[u8]) {
        let mut state = self.state.lock();
        let (range, _) = self.overlap(extent, state.bytes.len());
        state.bytes[range].copy_from_slice(bytes);
        drop(state);
        self.arrived();
    }

    fn arrived(&self) {
        if self.missing.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let mut state = self.state.lock();
        let bytes = std::mem::take(&mut state.bytes);
        let outcome = state.error.take().map_or(Ok(bytes), Err);
        let done = state.done.take();
        drop(state);
        if let Some(done) = done {
            done(outcome);
        }
    }
}
