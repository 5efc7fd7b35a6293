//! The address space of a volume: segments, their table, and the search for the one of an address.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use atlas_core::{Address, Error, ErrorKind, PAGE_BYTES, Result};
use parking_lot::Mutex;

use crate::bitmap::WORD_SPAN;
use crate::files;
use crate::header::{self, HEADER_BYTES, Magic};

/// Address 0 means "none" in many tables, so no volume gives it out.
pub(crate) const FIRST_ADDRESS: Address = Address(LEAST_SEGMENT);

const LEAST_SEGMENT: u64 = 64 << 20;

/// A new segment is at least this part of what exists, so their number grows with the logarithm
/// of the volume: some 800 at 10 TB.
const SEGMENT_PART: u64 = 64;

/// Files of at least this size share no segment with smaller ones.
pub(crate) const LARGE_FILE: u64 = 64 << 20;

/// Largest address space of a volume.
pub(crate) const LARGEST_ADDRESS: u64 = 1 << 50;

/// How many segments the table has room for. It is allocated in full at the start, so that a full
/// tier can still give out addresses.
pub(crate) const MOST_SEGMENTS: usize = 2048;

/// What a segment is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum SegmentClass {
    /// Files below 64 MiB, in the order of the listing.
    Small = 1,
    /// Files of 64 MiB and more.
    Large = 2,
    /// Small files that were read before the listing came to them.
    Early = 3,
}

impl SegmentClass {
    pub(crate) const ALL: [Self; 3] = [Self::Small, Self::Large, Self::Early];

    /// The class of a file. A large file is large also when it comes early: its size, not its
    /// place in the listing, decides how it is read.
    pub(crate) fn of(size: u64, early: bool) -> Self {
        match (size >= LARGE_FILE, early) {
            (true, _) => Self::Large,
            (false, true) => Self::Early,
            (false, false) => Self::Small,
        }
    }

    fn from_u32(value: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|class| *class as u32 == value)
    }
}

/// A segment as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    pub start: Address,
    /// Bytes of address space: a power of two.
    pub length: u64,
    pub class: SegmentClass,
    /// Bytes that it takes on the tier.
    pub allocated_bytes: u64,
}

/// Length of the next segment, when `present` bytes of address space exist, so that `size` fits.
pub(crate) fn next_length(present: u64, size: u64) -> Option<u64> {
    (present / SEGMENT_PART)
        .max(LEAST_SEGMENT)
        .max(size)
        .checked_next_power_of_two()
}

/// A fixed range of addresses and the sparse file behind it.
pub(crate) struct Segment {
    pub(crate) start: Address,
    pub(crate) length: u64,
    pub(crate) class: SegmentClass,
    /// Made at the first fill, so that giving out addresses needs no space on the tier.
    file: OnceLock<File>,
    /// One writer at a time: more only burn CPU. Fills, clears and commits of bits hold it.
    pub(crate) writer: Mutex<Writer>,
    /// Durable when the volume was opened, and not verified then.
    pub(crate) unverified: OnceLock<Box<[AtomicU64]>>,
}

#[derive(Default)]
pub(crate) struct Writer {
    /// `st_blocks` in bytes, as last measured.
    pub(crate) allocated_bytes: u64,
    /// Words of the bitmap that may be live and not durable: first, and one past the last.
    pub(crate) dirty: Option<(u64, u64)>,
    /// How many leases keep every byte of the file where it is.
    pub(crate) leases: u32,
}

impl Writer {
    pub(crate) fn soil(&mut self, first: u64, end: u64) {
        let (old_first, old_end) = self.dirty.unwrap_or((first, end));
        self.dirty = Some((old_first.min(first), old_end.max(end)));
    }
}

impl Segment {
    fn new(start: Address, length: u64, class: SegmentClass) -> Self {
        Self {
            start,
            length,
            class,
            file: OnceLock::new(),
            writer: Mutex::default(),
            unverified: OnceLock::new(),
        }
    }

    pub(crate) fn end(&self) -> Address {
        self.start.plus(self.length)
    }

    /// Named after its place, so that a table and the files beside it cannot be mixed up.
    pub(crate) fn name(&self) -> String {
        name_of(self.start)
    }

    pub(crate) fn file(&self) -> Option<&File> {
        self.file.get()
    }

    /// Keeps the file; the caller holds the writer's lock or is the only one who knows the segment.
    pub(crate) fn keep(&self, file: File) -> &File {
        self.file.get_or_init(|| file)
    }

    /// The first word of the bitmaps that belongs to this segment.
    pub(crate) fn first_word(&self) -> u64 {
        self.start.0 / WORD_SPAN
    }

    /// How many words of the bitmaps belong to it.
    pub(crate) fn words(&self) -> usize {
        (self.length / WORD_SPAN) as usize
    }

    pub(crate) fn unverified_word(&self, index: u64) -> Option<&AtomicU64> {
        self.unverified
            .get()?
            .get(usize::try_from(index - self.first_word()).ok()?)
    }
}

/// The name of the file of the segment that begins at an address.
pub(crate) fn name_of(start: Address) -> String {
    format!("segment-{:016x}", start.0)
}

/// The segments in order of address. It only grows, and is read without a lock.
pub(crate) struct SegmentList {
    count: AtomicUsize,
    /// Starts apart from the segments: the search touches a few cache lines only.
    starts: Box<[AtomicU64]>,
    segments: Box<[OnceLock<Box<Segment>>]>,
}

impl SegmentList {
    pub(crate) fn new() -> Self {
        Self {
            count: AtomicUsize::new(0),
            starts: (0..MOST_SEGMENTS).map(|_| AtomicU64::new(0)).collect(),
            segments: (0..MOST_SEGMENTS).map(|_| OnceLock::new()).collect(),
        }
    }

    /// Adds a segment; callers take turns.
    pub(crate) fn push(&self, record: Record) {
        let index = self.count.load(Ordering::Relaxed);
        if let (Some(start), Some(slot)) = (self.starts.get(index), self.segments.get(index)) {
            start.store(record.start.0, Ordering::Relaxed);
            let segment = Segment::new(record.start, record.length, record.class);
            slot.get_or_init(|| Box::new(segment));
            // Release: whoever sees the count sees the segment.
            self.count.store(index + 1, Ordering::Release);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    pub(crate) fn get(&self, index: usize) -> Option<&Segment> {
        self.segments.get(index)?.get().map(|segment| &**segment)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Segment> {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    pub(crate) fn find(&self, address: Address) -> Option<&Segment> {
        let starts = self.starts.get(..self.len())?;
        let after = starts.partition_point(|start| start.load(Ordering::Relaxed) <= address.0);
        self.get(after.checked_sub(1)?)
            .filter(|segment| address.0 < segment.end().0)
    }

    /// Where the next segment will start.
    pub(crate) fn end(&self) -> Address {
        self.len()
            .checked_sub(1)
            .and_then(|last| self.get(last))
            .map_or(FIRST_ADDRESS, Segment::end)
    }
}

/// A segment as the table has it.
#[derive(Clone, Copy)]
pub(crate) struct Record {
    pub(crate) start: Address,
    pub(crate) length: u64,
    pub(crate) class: SegmentClass,
}

const RECORD_BYTES: usize = 32;

impl Record {
    fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..8].copy_from_slice(&self.start.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.length.to_le_bytes());
        bytes[16..20].copy_from_slice(&(self.class as u32).to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..20]);
        bytes[20..24].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// `None` when it is damaged or does not continue the address space at `expected`.
    fn decode(bytes: &[u8; RECORD_BYTES], expected: Address) -> Option<Self> {
        let long = |at: usize| bytes[at..at + 8].try_into().ok().map(u64::from_le_bytes);
        let short = |at: usize| bytes[at..at + 4].try_into().ok().map(u32::from_le_bytes);
        let record = Self {
            start: Address(long(0)?),
            length: long(8)?,
            class: SegmentClass::from_u32(short(16)?)?,
        };
        let sound = record.start == expected
            && record.length >= LEAST_SEGMENT
            && record.length.is_power_of_two()
            && record.length <= LARGEST_ADDRESS;
        (sound && record.encode() == *bytes).then_some(record)
    }
}

const MAGIC: Magic = *b"atlasvol";
const VERSION: u32 = 1;
const NAME: &str = "volume";
const IDENTITY_AT: u64 = 64;
const COUNT_AT: u64 = 128;

/// The file that makes a folder a volume: who it is, and its segments.
///
/// Written by explicit system calls: a disk that fails under a mapping would kill the process.
pub(crate) struct VolumeTable {
    file: File,
    durable: bool,
}

impl VolumeTable {
    pub(crate) const NAME: &'static str = NAME;

    /// `identity` tells this volume from an earlier one of the same name.
    ///
    /// The caller renames it from `name` to [`NAME`](Self::NAME) when the rest of the volume is
    /// there.
    pub(crate) fn create(
        folder: impl AsFd,
        name: &str,
        identity: u128,
        durable: bool,
    ) -> Result<Self> {
        let file = files::open(folder, name, true)?;
        let table = Self { file, durable };
        files::preallocate(
            &table.file,
            HEADER_BYTES + (MOST_SEGMENTS * RECORD_BYTES) as u64,
        )?;
        table.write(IDENTITY_AT, &identity.to_le_bytes())?;
        table.lock()?;
        table.sync()?;
        header::write(&table.file, NAME, MAGIC, VERSION)?;
        table.sync()?;
        Ok(table)
    }

    pub(crate) fn open(folder: impl AsFd, durable: bool) -> Result<Self> {
        let file = files::open(folder, NAME, false)?;
        header::check(&file, NAME, MAGIC, VERSION)?;
        let table = Self { file, durable };
        table.lock()?;
        Ok(table)
    }

    /// The lock ends with the process, however it ends.
    fn lock(&self) -> Result<()> {
        rustix::fs::flock(
            &self.file,
            rustix::fs::FlockOperation::NonBlockingLockExclusive,
        )
        .map_err(|errno| match errno {
            rustix::io::Errno::WOULDBLOCK => Error::new(
                ErrorKind::Conflict,
                libc::EBUSY,
                "open the volume: another process uses it",
            ),
            _ => files::failed(errno, "lock the volume"),
        })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn identity(&self) -> Result<u128> {
        let mut bytes = [0; 16];
        self.read(IDENTITY_AT, &mut bytes)?;
        Ok(u128::from_le_bytes(bytes))
    }

    /// All segments in order.
    ///
    /// # Errors
    /// `Corrupt` when a record is damaged: guessing could give out addresses twice.
    pub(crate) fn records(&self) -> Result<Vec<Record>> {
        let damaged = || {
            Error::new(
                ErrorKind::Corrupt,
                libc::EIO,
                "open the volume: damaged table of segments",
            )
        };
        let mut count = [0; 8];
        self.read(COUNT_AT, &mut count)?;
        let count = usize::try_from(u64::from_le_bytes(count)).map_err(|_| damaged())?;
        if count > MOST_SEGMENTS {
            return Err(damaged());
        }
        let mut records = Vec::with_capacity(count);
        let mut expected = FIRST_ADDRESS;
        for index in 0..count {
            let mut bytes = [0; RECORD_BYTES];
            self.read(HEADER_BYTES + (index * RECORD_BYTES) as u64, &mut bytes)?;
            let record = Record::decode(&bytes, expected).ok_or_else(damaged)?;
            expected = record.start.plus(record.length);
            records.push(record);
        }
        Ok(records)
    }

    /// Adds a record, on a data disk durably before it returns, and the count after the record:
    /// addresses that were ever given out must never be given out again, also after a power cut.
    pub(crate) fn append(&self, index: usize, record: &Record) -> Result<()> {
        self.write(
            HEADER_BYTES + (index * RECORD_BYTES) as u64,
            &record.encode(),
        )?;
        self.sync()?;
        self.write(COUNT_AT, &(index as u64 + 1).to_le_bytes())?;
        self.sync()
    }

    fn sync(&self) -> Result<()> {
        if self.durable {
            files::sync_data(&self.file)
        } else {
            Ok(())
        }
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|error| Error::from_io(&error, "read the table of segments"))
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all_at(bytes, offset)
            .map_err(|error| Error::from_io(&error, "write the table of segments"))
    }
}

/// Refuses ranges that are not whole pages.
pub(crate) fn page_aligned(address: Address, length: u64) -> bool {
    address.0.is_multiple_of(PAGE_BYTES) && length.is_multiple_of(PAGE_BYTES)
}
