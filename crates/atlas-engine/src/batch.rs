//! One batch of a load: adjoining extents, fetched together and written together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use atlas_core::{Error, Extent, Result};
use atlas_fs::{Node, NodeId};
use atlas_origin::{Origin, ReadRequest};
use atlas_store::{ExtentState, Verified};

use crate::core::Core;
use crate::flights::{Flight, Joined};
use crate::load::{Load, UnderWay};
use crate::pages::PageBuffer;

/// Bytes of a batch at most: they are read, checksummed and written in turn, and should still be in
/// the processor's cache at the end.
const BATCH_BYTES: u64 = 512 << 10;

/// An extent to load.
pub(crate) struct Item {
    pub(crate) name: Vec<u8>,
    pub(crate) node: Node,
    pub(crate) extent: Extent,
    /// For a file of several extents: its bytes that are not on the tier yet.
    pub(crate) left: Option<Arc<AtomicU64>>,
    /// It was put off once, and is not again.
    pub(crate) last_try: bool,
}

/// Extents of files of one folder, adjoining in the address space.
pub(crate) struct Batch {
    pub(crate) folder: NodeId,
    pub(crate) items: Vec<Item>,
}

impl Batch {
    pub(crate) fn new(folder: NodeId) -> Self {
        Self {
            folder,
            items: Vec::new(),
        }
    }

    /// The bytes that have to be fetched.
    pub(crate) fn missing_bytes(&self, core: &Core) -> u64 {
        self.items
            .iter()
            .filter(|item| core.volume.state(&item.extent) == ExtentState::Absent)
            .map(|item| u64::from(item.extent.length))
            .sum()
    }

    /// Whether `extent` adjoins the last one and the batch stays short.
    pub(crate) fn takes(&self, extent: &Extent) -> bool {
        let (Some(first), Some(last)) = (self.items.first(), self.items.last()) else {
            return true;
        };
        let end = last.extent.address.plus(last.extent.footprint());
        let length =
            extent.address.0 + extent.footprint() - first.extent.address.0.min(extent.address.0);
        end == extent.address && length <= BATCH_BYTES
    }
}

/// An item that this batch fetches.
struct Claimed {
    item: Item,
    flight: Flight,
}

/// Bring every item of `batch` to the tier, or say why not.
pub(crate) fn run(core: &Arc<Core>, origin: &dyn Origin, load: &Arc<Load>, batch: Batch) {
    let folder = batch.folder;
    let mut claimed: Vec<Claimed> = Vec::with_capacity(batch.items.len());
    for item in batch.items {
        let Some(next) = claim(core, load, folder, item) else {
            continue;
        };
        let adjoins = claimed.last().is_none_or(|last| {
            let extent = &last.item.extent;
            extent.address.plus(extent.footprint()) == next.item.extent.address
        });
        if !adjoins {
            fetch(core, origin, load, folder, std::mem::take(&mut claimed));
        }
        claimed.push(next);
    }
    fetch(core, origin, load, folder, claimed);
}

/// Make sure that nobody else fetches the item; `None` when there is nothing left to fetch.
fn claim(core: &Arc<Core>, load: &Arc<Load>, folder: NodeId, item: Item) -> Option<Claimed> {
    let address = item.extent.address;
    let mut item = item;
    loop {
        let joined = core
            .flights
            .join(address, None, || core.volume.is_live(address));
        match joined {
            Ok(Joined::Leader(flight)) => return unverified(core, load, Claimed { item, flight }),
            Ok(Joined::Waiting) => match wait_for_other(core, load, folder, item) {
                None => return None,
                // It has landed meanwhile, well or not.
                Some(unclaimed) => item = unclaimed,
            },
            Err(_) => {
                count(load, &item);
                return None;
            }
        }
    }
}

/// What the tier has of a claimed item since before the machine started is compared with its
/// checksums, and not fetched if it is sound.
fn unverified(core: &Arc<Core>, load: &Load, claimed: Claimed) -> Option<Claimed> {
    let extent = &claimed.item.extent;
    if core.volume.state(extent) == ExtentState::Absent {
        return Some(claimed);
    }
    match core.volume.verify(extent) {
        Ok(Verified::Sound) => {}
        Ok(Verified::Absent) => return Some(claimed),
        Ok(Verified::Damaged) | Err(_) => {
            core.lost_cached(&claimed.item.node, extent);
            return Some(claimed);
        }
    }
    let Claimed { item, flight } = claimed;
    count(load, &item);
    if let Some(flight) = flight.abandon() {
        let mut buffer = PageBuffer::new(item.extent.length as usize);
        let bytes = &mut buffer[..item.extent.length as usize];
        let outcome = core.volume.read(item.extent.address, bytes);
        flight.land(&outcome.map(|()| &*bytes));
    }
    None
}

/// Somebody is fetching the item for a reader: see how that ends, without holding a thread. The
/// item comes back when it has ended already.
fn wait_for_other(core: &Arc<Core>, load: &Arc<Load>, folder: NodeId, item: Item) -> Option<Item> {
    let address = item.extent.address;
    let mut item = Some(item);
    core.flights.wait(address, || {
        let (core, load, item) = (Arc::clone(core), Arc::clone(load), item.take());
        // Ends also when the waiter is dropped uncalled.
        let under_way = UnderWay::begin(&load);
        Box::new(move |outcome| {
            let Some(item) = item else { return };
            match outcome {
                Ok(_) if core.volume.is_live(address) => count(&load, &item),
                Ok(_) => load.put_off(folder, item),
                Err(error) => fail(&core, &load, &item, &error),
            }
            drop(under_way);
        })
    });
    item
}

fn count(load: &Load, item: &Item) {
    let bytes = u64::from(item.extent.length);
    let whole = item
        .left
        .as_ref()
        .is_none_or(|left| left.fetch_sub(bytes, Ordering::AcqRel) == bytes);
    load.progress.loaded(bytes, whole);
}

fn fail(core: &Core, load: &Load, item: &Item, error: &Error) {
    let path = core.path(item.node.id);
    match item.left {
        Some(_) => load.progress.failed_part(item.node.id, &path, error),
        None => load.progress.failed(&path, error),
    }
}

fn fetch(
    core: &Arc<Core>,
    origin: &dyn Origin,
    load: &Arc<Load>,
    folder: NodeId,
    claimed: Vec<Claimed>,
) {
    let (Some(first), Some(last)) = (claimed.first(), claimed.last()) else {
        return;
    };
    let start = first.item.extent.address;
    let footprint = last.item.extent.address.0 + last.item.extent.footprint() - start.0;
    let Some(reservation) = core.volume.reserve(footprint) else {
        return without_space(core, origin, load, folder, claimed);
    };
    let began = Instant::now();
    let mut buffer = PageBuffer::new(footprint as usize);
    let outcomes = read(core, origin, folder, &claimed, &mut buffer);
    load.took(began.elapsed(), claimed.len());

    let extents: Vec<Extent> = claimed.iter().map(|claim| claim.item.extent).collect();
    let complete = outcomes.iter().all(Result::is_ok);
    let kept = if complete {
        core.volume
            .fill(start, &buffer[..footprint as usize], &extents, reservation)
    } else {
        drop(reservation);
        Ok(())
    };
    for (claim, outcome) in claimed.into_iter().zip(outcomes) {
        let Claimed { item, flight } = claim;
        let within = (item.extent.address.0 - start.0) as usize;
        let bytes = &buffer[within..within + item.extent.footprint() as usize];
        let outcome = outcome.map(|()| {
            core.counters
                .miss_bytes
                .fetch_add(u64::from(item.extent.length), Ordering::Relaxed);
            if complete {
                // Of a batch over two segments, the first part may be there.
                let there = core.volume.is_live(item.extent.address);
                if there { Ok(()) } else { kept.clone() }
            } else {
                keep_one(core, &item, bytes)
            }
        });
        let extent = item.extent;
        match &outcome {
            Ok(Ok(())) => {
                core.found_cached(&item.node, &item.extent);
                count(load, &item);
            }
            Ok(Err(_)) => load.put_off(folder, item),
            Err(error) => {
                core.found_stale(&item.node, error);
                fail(core, load, &item, error);
            }
        }
        flight.land(&outcome.map(|_| &bytes[..extent.length as usize]));
    }
}

/// Keep one extent of a batch in which another one failed.
fn keep_one(core: &Core, item: &Item, bytes: &[u8]) -> Result<()> {
    let Some(reservation) = core.volume.reserve(item.extent.footprint()) else {
        return Err(Error::new(
            atlas_core::ErrorKind::NoSpace,
            libc::ENOSPC,
            "the quota is used up",
        ));
    };
    core.volume
        .fill(item.extent.address, bytes, &[item.extent], reservation)
}

/// The quota has no room for the batch: its files may still fit one by one. What does not fit is
/// not read at all, unless a reader came to wait for it.
fn without_space(
    core: &Arc<Core>,
    origin: &dyn Origin,
    load: &Arc<Load>,
    folder: NodeId,
    claimed: Vec<Claimed>,
) {
    if claimed.len() > 1 {
        for claim in claimed {
            fetch(core, origin, load, folder, vec![claim]);
        }
        return;
    }
    for Claimed { item, flight } in claimed {
        if let Some(flight) = flight.abandon() {
            let mut buffer = PageBuffer::new(item.extent.footprint() as usize);
            let bytes = &mut buffer[..item.extent.length as usize];
            let path = core.path(item.node.id);
            let tag = item.node.attributes.tag();
            let outcome = origin.read(&path, &tag, item.extent.file_offset, bytes);
            flight.land(&outcome.map(|()| &*bytes));
        }
        if core.volume.may_fit_later(item.extent.footprint()) {
            load.put_off(folder, item);
        } else {
            load.progress.skipped(&item.extent);
        }
    }
}

/// Read every item into its place in `buffer`.
fn read(
    core: &Core,
    origin: &dyn Origin,
    folder: NodeId,
    claimed: &[Claimed],
    buffer: &mut PageBuffer,
) -> Vec<Result<()>> {
    if let [Claimed { item, .. }] = claimed {
        let path = core.child_path(folder, &item.name);
        let (bytes, padding) = buffer.split_at_mut(item.extent.length as usize);
        padding.fill(0);
        let tag = item.node.attributes.tag();
        return vec![origin.read(&path, &tag, item.extent.file_offset, bytes)];
    }
    let tags: Vec<_> = claimed
        .iter()
        .map(|claim| claim.item.node.attributes.tag())
        .collect();
    let mut rest: &mut [u8] = buffer;
    let mut requests = Vec::with_capacity(claimed.len());
    for (claim, tag) in claimed.iter().zip(&tags) {
        let extent = &claim.item.extent;
        let (place, after) = rest.split_at_mut(extent.footprint() as usize);
        rest = after;
        let (bytes, padding) = place.split_at_mut(extent.length as usize);
        padding.fill(0);
        requests.push(ReadRequest {
            name: &claim.item.name,
            tag,
            buffer: bytes,
        });
    }
    let path = core.path(folder);
    match origin.read_many(&path, &mut requests) {
        Ok(outcomes) => outcomes,
        Err(error) => vec![Err(error); claimed.len()],
    }
}
