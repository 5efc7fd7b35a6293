//! Reading, always against the checksums: a tier that lies is a miss, not data.

use std::fs::File;
use std::io::IoSliceMut;
use std::sync::atomic::Ordering;

use atlas_core::{Address, EXTENT_BYTES, Error, ErrorKind, Extent, PAGE_BYTES, Result};

use super::{ExtentState, Shared, Volume};
use crate::bitmap::bit_of;
use crate::checksums::{SUM_BYTES, sum_of};
use crate::files::failed;
use crate::segments::Segment;

const PAGE: usize = PAGE_BYTES as usize;

/// Most pages that one step reads: an extent, and one more when it begins inside a page.
const STEP_PAGES: usize = (EXTENT_BYTES / PAGE_BYTES) as usize + 1;

/// Why bytes cannot be had.
enum Failure {
    Absent,
    /// This page is not what was filled.
    Page(Address),
    Tier(Error),
}

/// What a comparison of an extent with its checksums has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {
    /// It is live.
    Sound,
    /// It was not there, or somebody else gave it up.
    Absent,
    /// It was there, and is no more.
    Damaged,
}

impl Verified {
    pub fn is_sound(self) -> bool {
        self == Self::Sound
    }
}

impl Volume {
    /// Reads from any address on; the bytes may belong to several extents of one file. Every page
    /// is compared with its checksum, so what was punched, cut off or flipped meanwhile is an error
    /// and never data. The extent it happened in is no longer live then. Takes no lock.
    ///
    /// # Errors
    /// `NotFound` when there is nothing at that address, `Corrupt` when it is damaged, `Io` when
    /// the tier fails.
    pub fn read(&self, address: Address, buffer: &mut [u8]) -> Result<()> {
        let mut address = address;
        let mut rest = buffer;
        while !rest.is_empty() {
            let bytes = rest
                .len()
                .min((EXTENT_BYTES - address.0 % PAGE_BYTES) as usize);
            let (step, later) = rest.split_at_mut(bytes);
            self.shared.read_step(address, step)?;
            address = address.plus(bytes as u64);
            rest = later;
        }
        Ok(())
    }

    /// Compares a whole extent with its checksums. What is damaged is forgotten.
    ///
    /// # Errors
    /// None at present: a tier that cannot be read has nothing, and the volume is degraded.
    pub fn verify(&self, extent: &Extent) -> Result<Verified> {
        let shared = &self.shared;
        let Some(segment) = shared.segments.find(extent.address) else {
            return Ok(Verified::Absent);
        };
        if shared.state(extent.address) == ExtentState::Absent {
            return Ok(Verified::Absent);
        }
        let mut buffer = vec![0; extent.footprint() as usize];
        let first = shared.read_checked(segment, extent.address, &mut buffer);
        let mut writer = segment.writer.lock();
        // A fill that was under way may have been seen half: under its lock there is none.
        let checked = first.or_else(|_| shared.read_checked(segment, extent.address, &mut buffer));
        let (index, bit) = bit_of(extent.address);
        if shared.state(extent.address) == ExtentState::Absent {
            return Ok(Verified::Absent);
        }
        match checked {
            Ok(()) => {
                shared.live.set(index, bit);
                Ok(Verified::Sound)
            }
            Err(failure) => {
                if let Failure::Tier(error) = &failure {
                    shared.health.failed(error);
                }
                shared.damaged.fetch_add(1, Ordering::Relaxed);
                shared.give_up(segment, &writer, extent);
                if let Err(error) = shared.measure(segment, &mut writer) {
                    shared.health.failed(&error);
                }
                Ok(Verified::Damaged)
            }
        }
    }
}

fn page_of(address: Address) -> Address {
    Address(address.page() * PAGE_BYTES)
}

fn absent() -> Error {
    Error::new(
        ErrorKind::NotFound,
        libc::EIO,
        "read the tier: nothing is there",
    )
}

impl Shared {
    fn read_step(&self, address: Address, buffer: &mut [u8]) -> Result<()> {
        let segment = self.segments.find(address).ok_or_else(absent)?;
        if buffer.len() as u64 > segment.end().0 - address.0 {
            return Err(absent());
        }
        if self.read_checked(segment, address, buffer).is_ok() {
            return Ok(());
        }
        let _writer = segment.writer.lock();
        let failure = match self.read_checked(segment, address, buffer) {
            Ok(()) => return Ok(()),
            Err(failure) => failure,
        };
        match failure {
            Failure::Absent => Err(absent()),
            Failure::Page(page) => {
                self.withdraw(segment, page);
                Err(Error::new(
                    ErrorKind::Corrupt,
                    libc::EIO,
                    "read the tier: damaged bytes",
                ))
            }
            Failure::Tier(error) => {
                self.health.failed(&error);
                self.withdraw(segment, page_of(address));
                self.withdraw(segment, page_of(address.plus(buffer.len() as u64 - 1)));
                Err(error)
            }
        }
    }

    /// Forgets the live extent that covers a damaged page. Extents do not overlap, so it is the one
    /// whose first page is the nearest at or before the page; should that end before it, a sound
    /// extent is fetched again, which harms nobody. The page itself counts as absent from then on,
    /// so that this happens once. The caller holds the writer's lock.
    fn withdraw(&self, segment: &Segment, page: Address) {
        let (index, bit) = bit_of(page);
        let farthest = index.saturating_sub(EXTENT_BYTES / PAGE_BYTES / 64);
        for candidate in (farthest.max(segment.first_word())..=index).rev() {
            let not_later = if candidate == index {
                bit | (bit - 1)
            } else {
                u64::MAX
            };
            let before = self.live.load(candidate) & not_later;
            if before != 0 {
                self.forget(segment, candidate, 1 << before.ilog2());
                self.damaged.fetch_add(1, Ordering::Relaxed);
                break;
            }
        }
        if let Err(error) = self.checksums.withdraw(page, PAGE_BYTES) {
            self.health.failed(&error);
        }
    }

    /// Reads at most an extent's bytes, all in `segment`, and compares all pages they touch.
    fn read_checked(
        &self,
        segment: &Segment,
        address: Address,
        buffer: &mut [u8],
    ) -> std::result::Result<(), Failure> {
        let Some(file) = segment
            .file()
            .filter(|_| !self.destroyed.load(Ordering::SeqCst))
        else {
            return Err(Failure::Absent);
        };
        let before = (address.0 % PAGE_BYTES) as usize;
        let first = page_of(address);
        let pages = (before + buffer.len()).div_ceil(PAGE);
        let mut sums = [0; STEP_PAGES * SUM_BYTES];
        let Some(sums) = sums.get_mut(..pages * SUM_BYTES) else {
            return Err(Failure::Absent);
        };
        self.checksums.read(first, sums).map_err(Failure::Tier)?;
        if sums
            .chunks_exact(SUM_BYTES)
            .any(|sum| sum == [0; SUM_BYTES])
        {
            return Err(Failure::Absent);
        }

        // Pages that the buffer covers in part are read aside: the checksum is of the whole page.
        let (mut head, mut tail) = ([0; PAGE], [0; PAGE]);
        let in_head = if before == 0 {
            0
        } else {
            buffer.len().min(PAGE - before)
        };
        let in_tail = (buffer.len() - in_head) % PAGE;
        let (for_head, rest) = buffer.split_at_mut(in_head);
        let (middle, for_tail) = rest.split_at_mut(rest.len() - in_tail);
        let has_head = usize::from(in_head > 0) * PAGE;
        let has_tail = usize::from(in_tail > 0) * PAGE;
        let mut slices = [
            IoSliceMut::new(&mut head[..has_head]),
            IoSliceMut::new(middle),
            IoSliceMut::new(&mut tail[..has_tail]),
        ];
        let whole = read_all(file, &mut slices, first.0 - segment.start.0, pages * PAGE)
            .map_err(Failure::Tier)?;
        if !whole {
            return Err(Failure::Page(first));
        }
        let read = head[..has_head]
            .chunks_exact(PAGE)
            .chain(middle.chunks_exact(PAGE))
            .chain(tail[..has_tail].chunks_exact(PAGE));
        for (number, (page, sum)) in read.zip(sums.chunks_exact(SUM_BYTES)).enumerate() {
            if sum_of(page) != sum {
                return Err(Failure::Page(first.plus((number * PAGE) as u64)));
            }
        }
        for_head.copy_from_slice(&head[before..][..in_head]);
        for_tail.copy_from_slice(&tail[..in_tail]);
        Ok(())
    }
}

/// Whether all `bytes` bytes were there. A read that is cut short by the end of the file is not
/// repeated: a segment has its full length, or it is damaged.
fn read_all(file: &File, slices: &mut [IoSliceMut<'_>], offset: u64, bytes: usize) -> Result<bool> {
    loop {
        match rustix::io::preadv(file, slices, offset) {
            Ok(count) => return Ok(count == bytes),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(failed(errno, "read a segment")),
        }
    }
}
