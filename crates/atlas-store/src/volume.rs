//! A volume: the cached bytes of one origin tree on one tier.

mod check;
mod commit;
mod fill;
mod free;
mod huge;
mod lease;
mod maker;
mod open;
mod read;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use atlas_core::{Address, Error, ErrorKind, Extent, Result, round_up_to_page};
use parking_lot::Mutex;

use crate::bitmap::{DurableBits, LiveBits, bit_of};
use crate::checksums::Checksums;
use crate::files;
use crate::health::Health;
use crate::quota::{Quota, Reservation, Usage};
use crate::segments::{
    LARGEST_ADDRESS, MOST_SEGMENTS, Record, Segment, SegmentClass, SegmentInfo, SegmentList,
    VolumeTable, next_length,
};
use crate::tier::Tier;
use commit::{Changes, Committer};
pub use free::Cleared;
pub use lease::Lease;
use maker::Maker;
pub use read::Verified;

/// What a volume may use.
#[derive(Clone, Copy, Debug)]
pub struct VolumeSettings {
    /// Bytes on the tier, tables and file system metadata included.
    pub quota_bytes: u64,
    /// Whether an image over segments of this volume may still be mounted, of an earlier process: a
    /// damaged segment is then repaired without taking bytes away from below it.
    pub held: bool,
}

/// Whether an extent can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentState {
    /// Filled or verified since the machine started.
    Live,
    /// On the disk since before the machine started: verify it before the first read.
    Unverified,
    Absent,
}

/// Words of the live bitmap's header: who it belongs to, and where allocation stands. They lie
/// there and not on the tier because a tier may fail at any time, and because they need not survive
/// a reboot: after one, allocation goes on in new segments.
mod word {
    pub(super) const IDENTITY: usize = 0;
    pub(super) const BOOT: usize = 2;
    /// Set last: the header is complete.
    pub(super) const READY: usize = 4;
    /// Next address that no segment backs.
    pub(super) const UNBACKED: usize = 5;
    /// For each class two words: number of its open segment plus one, and the next free address.
    pub(super) const CURSORS: usize = 8;
}

/// Addresses from here on have no segment: they are given out when the tier can take no new one.
/// Their files are read through. Each boot starts at a random place, so they stay apart.
const UNBACKED: u64 = 1 << 62;

/// The cached bytes of one origin tree: an address space, backed by segments on one tier.
///
/// Every method may be called from any thread. Looking at states and reading take no lock. Dropping
/// a volume is like the death of the process: nothing is lost, but what was filled on a disk since
/// the last commit is not durable. [`close`](Self::close) commits.
pub struct Volume {
    shared: Arc<Shared>,
    committer: Committer,
    tier: Arc<Tier>,
    id: String,
    live_folder: PathBuf,
}

pub(crate) struct Shared {
    maker: Maker,
    pub(crate) folder: OwnedFd,
    pub(crate) table: VolumeTable,
    pub(crate) segments: SegmentList,
    pub(crate) live: LiveBits,
    /// `None` in memory: nothing survives there.
    pub(crate) durable: Option<DurableBits>,
    pub(crate) checksums: Checksums,
    pub(crate) quota: Arc<Quota>,
    pub(crate) health: Health,
    pub(crate) damaged: AtomicU64,
    /// A segment was made since the folder was last synced.
    pub(crate) folder_dirty: AtomicBool,
    pub(crate) destroyed: AtomicBool,
    pub(crate) changes: Arc<Changes>,
    allocating: Mutex<()>,
    committing: Mutex<()>,
    /// Held while leases are taken, and while a destruction begins.
    leasing: Mutex<()>,
    /// The segment that the next check of the tier looks at.
    next_checked: AtomicUsize,
}

impl Volume {
    /// Gives a file of `size` bytes (at least 1) its place for ever. Addresses only grow, and the
    /// place survives the process.
    ///
    /// When the tier can take no new segment (read-only, failing, removed), the address has no
    /// segment behind it: it is always absent, and filling it fails.
    ///
    /// # Errors
    /// `Invalid` for size 0 and for sizes that fit no address space.
    pub fn allocate(&self, size: u64, early: bool) -> Result<Address> {
        if size == 0 || size > LARGEST_ADDRESS {
            return Err(Error::new(
                ErrorKind::Invalid,
                libc::EINVAL,
                format!("allocate {size} bytes: not the size of a file that has a place"),
            ));
        }
        let _allocating = self.shared.allocating.lock();
        self.shared
            .allocate(round_up_to_page(size), SegmentClass::of(size, early))
    }

    /// Whether an extent can be read. Takes no lock.
    pub fn state(&self, extent: &Extent) -> ExtentState {
        self.shared.state(extent.address)
    }

    /// Whether the extent that begins at `address` can be read. Takes no lock.
    pub fn is_live(&self, address: Address) -> bool {
        let (index, bit) = bit_of(address);
        self.shared.live.load(index) & bit != 0
    }

    /// Space for a fill of `bytes` adjacent bytes; `None` when the quota has no room for it, or
    /// when the tier is degraded and was tried a moment ago.
    pub fn reserve(&self, bytes: u64) -> Option<Reservation> {
        let reservation = self.shared.quota.reserve(bytes)?;
        self.shared.health.may_try().then_some(reservation)
    }

    /// Whether `bytes` that found no space may find it when the fills under way have ended: they
    /// reserve more than they take. Also while a degraded tier is merely left alone.
    pub fn may_fit_later(&self, bytes: u64) -> bool {
        let usage = self.usage();
        usage.used_bytes.saturating_add(bytes) <= usage.quota_bytes
            && (usage.reserved_bytes > 0 || self.degraded().is_some())
    }

    /// Exact bytes on the tier.
    pub fn usage(&self) -> Usage {
        self.shared.quota.usage()
    }

    /// Whether not even a page fits into the quota.
    pub fn full(&self) -> bool {
        self.shared.quota.full()
    }

    /// Why the tier takes nothing at the moment, if so. It ends with the next fill that succeeds.
    pub fn degraded(&self) -> Option<String> {
        self.shared.health.message()
    }

    /// How many operations of the tier have failed since the volume was opened.
    pub fn tier_errors(&self) -> u64 {
        self.shared.health.errors()
    }

    /// How many extents were found damaged since the volume was opened.
    pub fn damaged_extents(&self) -> u64 {
        self.shared.damaged.load(Ordering::Relaxed)
    }

    /// The segments in order of address.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let info = |segment: &Segment| SegmentInfo {
            start: segment.start,
            length: segment.length,
            class: segment.class,
            allocated_bytes: segment.writer.lock().allocated_bytes,
        };
        self.shared.segments.iter().map(info).collect()
    }

    /// Makes what was filled durable, and stops. The volume can still be read and filled, but
    /// nobody commits any more. A disk that hangs holds it up for a few seconds only.
    ///
    /// # Errors
    /// What the commit met; `Io` when the disk did not answer in time.
    pub fn close(&self) -> Result<()> {
        self.committer.stop(true)
    }

    /// Removes every byte of the volume from the tier, also what readers still hold open. Reads
    /// and fills that are under way fail.
    ///
    /// # Errors
    /// `Conflict` while anything is leased: everything stays then.
    pub fn destroy(self: Arc<Self>) -> Result<()> {
        let leasing = self.shared.leasing.lock();
        if self.leased() {
            return Err(lease::leased("destroy the volume"));
        }
        self.shared.destroyed.store(true, Ordering::SeqCst);
        drop(leasing);
        self.committer.stop(false)?;
        for segment in self.shared.segments.iter() {
            let _writer = segment.writer.lock();
            if let Some(file) = segment.file() {
                // Readers may hold the volume for a while: unlinking alone would not free the
                // bytes.
                files::set_length(file, 0)?;
            }
        }
        open::remove_files(&self.tier, &self.id, &self.live_folder)
    }
}

impl Shared {
    pub(crate) fn state(&self, address: Address) -> ExtentState {
        let (index, bit) = bit_of(address);
        if self.live.load(index) & bit != 0 {
            return ExtentState::Live;
        }
        let unverified = self
            .segments
            .find(address)
            .and_then(|segment| segment.unverified_word(index))
            .is_some_and(|word| word.load(Ordering::Acquire) & bit != 0);
        if unverified {
            ExtentState::Unverified
        } else {
            ExtentState::Absent
        }
    }

    /// The extents of a word that are there, verified or not.
    pub(crate) fn known(&self, segment: &Segment, index: u64) -> u64 {
        let unverified = segment
            .unverified_word(index)
            .map_or(0, |word| word.load(Ordering::Acquire));
        self.live.load(index) | unverified
    }

    /// The next `size` bytes in the open segment of `class`, or in a new one. Callers take turns.
    fn allocate(&self, size: u64, class: SegmentClass) -> Result<Address> {
        let cursors = word::CURSORS + 2 * class as usize;
        let open = self.live.header_word(cursors)?;
        let next = self.live.header_word(cursors + 1)?;
        let number = open.load(Ordering::Acquire);
        let segment = usize::try_from(number)
            .ok()
            .and_then(|number| number.checked_sub(1))
            .and_then(|index| self.segments.get(index));
        if let Some(segment) = segment {
            let cursor = next.load(Ordering::Acquire);
            // A kill between the two words leaves the cursor of the segment before: nothing was
            // given out in the new one yet.
            let inside = (segment.start.0..=segment.end().0).contains(&cursor);
            let address = if inside {
                Address(cursor)
            } else {
                segment.start
            };
            if size <= segment.end().0 - address.0 {
                next.store(address.0 + size, Ordering::Release);
                return Ok(address);
            }
        }
        match self.add_segment(size, class) {
            Ok((number, segment)) => {
                open.store(number as u64 + 1, Ordering::Release);
                next.store(segment.start.0 + size, Ordering::Release);
                Ok(segment.start)
            }
            Err(error) => {
                self.health.failed(&error);
                let address = self
                    .live
                    .header_word(word::UNBACKED)?
                    .fetch_add(size, Ordering::AcqRel);
                Ok(Address(address))
            }
        }
    }

    fn add_segment(&self, size: u64, class: SegmentClass) -> Result<(usize, &Segment)> {
        let no_more = || {
            Error::new(
                ErrorKind::NoSpace,
                libc::ENOSPC,
                "add a segment: the address space of the volume is used up",
            )
        };
        let start = self.segments.end();
        let present = start.0 - crate::segments::FIRST_ADDRESS.0;
        let length = next_length(present, size).ok_or_else(no_more)?;
        let index = self.segments.len();
        if index >= MOST_SEGMENTS || start.0 + length > LARGEST_ADDRESS {
            return Err(no_more());
        }
        self.live.cover(start.plus(length))?;
        let record = Record {
            start,
            length,
            class,
        };
        self.table.append(index, &record)?;
        self.segments.push(record);
        self.segments
            .get(index)
            .map(|segment| (index, segment))
            .ok_or_else(no_more)
    }

    /// Brings the books up to date after something was written to `segment` or punched from it.
    pub(crate) fn measure(
        &self,
        segment: &Segment,
        writer: &mut crate::segments::Writer,
    ) -> Result<()> {
        let after = segment.file().map_or(Ok(0), files::allocated_bytes)?;
        let before = std::mem::replace(&mut writer.allocated_bytes, after);
        self.quota.measured(before, after, || self.table_bytes())
    }

    pub(crate) fn table_bytes(&self) -> Result<u64> {
        let mut bytes = files::allocated_bytes(self.table.file())?;
        bytes += files::allocated_bytes(self.checksums.table().file())?;
        if let Some(durable) = &self.durable {
            bytes += files::allocated_bytes(durable.table().file())?;
        }
        Ok(bytes)
    }

    /// Withdraws bits: durable first, so that a kill in between leaves nothing that claims to be
    /// on the disk and is punched. The caller holds the segment's writer lock.
    pub(crate) fn forget(&self, segment: &Segment, index: u64, bits: u64) {
        if let Some(durable) = &self.durable
            && let Err(error) = durable.clear(index, bits)
        {
            // The bit stays: after a reboot the checksums will tell.
            self.health.failed(&error);
        }
        if let Some(word) = segment.unverified_word(index) {
            word.fetch_and(!bits, Ordering::AcqRel);
        }
        self.live.clear(index, bits);
    }
}
