//! Tables in memory-mapped files: what survives the death of the process without a system call.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use atlas_core::{Error, ErrorKind, Result, printable};
use parking_lot::Mutex;
use rustix::fs::{CWD, FallocateFlags, Mode, OFlags};
use rustix::mm::{MapFlags, ProtFlags};

use crate::header::{self, HEADER_BYTES};

pub use crate::header::Magic;

/// Least and largest step in which a table grows, in bytes.
const LEAST_GROWTH: u64 = 64 << 10;
const LARGEST_GROWTH: u64 = 64 << 20;

/// Where the words of the header lie in its page, and how many there are.
const WORDS_OFFSET: usize = 2048;
const WORDS: usize = (HEADER_BYTES as usize - WORDS_OFFSET) / 8;

/// A file mapped shared over an address range reserved in full at the start, so that it grows
/// without moving: references into it stay good as long as the map lives.
///
/// Every byte below [`len`](Self::len) is backed by blocks of the file system (`fallocate`), so
/// that a full disk is an error of [`grow_to`](Self::grow_to) and never a SIGBUS later. That holds
/// on tmpfs, ext4 and xfs; a file system that copies on write, or a disk that fails while it is
/// mapped, does not promise it, so tables belong on the state folder or a tmpfs, never on a data
/// disk.
///
/// Offsets count from the end of the header page. What is beyond the bytes that a user wrote reads
/// as zero. All access is atomic or by copies made of atomic accesses, so that nothing here is
/// undefined when threads race; their order is the user's business: contents first, then a word
/// stored with `Release` that says they are there.
pub struct GrowableMap {
    file: File,
    name: String,
    base: NonNull<u8>,
    /// Bytes of the reserved range, header included.
    reserved: usize,
    /// Bytes that are backed, header excluded. Only grows.
    length: AtomicU64,
    growing: Mutex<()>,
}

// SAFETY: the mapping belongs to this value alone for its whole life, and every access to it is
// atomic or raw; the rest is Send and Sync by itself.
unsafe impl Send for GrowableMap {}
// SAFETY: as above.
unsafe impl Sync for GrowableMap {}

impl GrowableMap {
    /// Makes a new table (mode 0600) of length 0 that can grow to `reserve_bytes` (address space
    /// only, nothing is allocated).
    ///
    /// # Errors
    /// `Conflict` when `path` exists, also as a link; else the errno of the file system.
    pub fn create(path: &Path, magic: Magic, version: u32, reserve_bytes: u64) -> Result<Self> {
        Self::create_at(CWD, path, magic, version, reserve_bytes)
    }

    /// [`create`](Self::create) with `path` relative to `folder`.
    pub fn create_at(
        folder: BorrowedFd<'_>,
        path: &Path,
        magic: Magic,
        version: u32,
        reserve_bytes: u64,
    ) -> Result<Self> {
        let name = display(path);
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(
            rustix::fs::openat(folder, path, flags, Mode::RUSR | Mode::WUSR)
                .map_err(|errno| failed("create", &name, errno))?,
        );
        let created = allocate(&file, &name, 0, HEADER_BYTES)
            .and_then(|()| header::write(&file, &name, magic, version))
            .and_then(|()| Self::map(file, name, HEADER_BYTES, reserve_bytes));
        if created.is_err() {
            // What made the creation fail is the news; a file left behind is refused at the next
            // open.
            let _ = rustix::fs::unlinkat(folder, path, rustix::fs::AtFlags::empty());
        }
        created
    }

    /// Opens an existing table with everything that it held; links are not followed.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt` for a file of another kind; `Unsupported` for another format version.
    pub fn open(path: &Path, magic: Magic, version: u32, reserve_bytes: u64) -> Result<Self> {
        Self::open_at(CWD, path, magic, version, reserve_bytes)
    }

    /// [`open`](Self::open) with `path` relative to `folder`.
    pub fn open_at(
        folder: BorrowedFd<'_>,
        path: &Path,
        magic: Magic,
        version: u32,
        reserve_bytes: u64,
    ) -> Result<Self> {
        let name = display(path);
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(
            rustix::fs::openat(folder, path, flags, Mode::empty())
                .map_err(|errno| failed("open", &name, errno))?,
        );
        header::check(&file, &name, magic, version)?;
        let size = rustix::fs::fstat(&file)
            .map_err(|errno| failed("stat", &name, errno))?
            .st_size;
        let size = u64::try_from(size).unwrap_or(0);
        if size < HEADER_BYTES {
            return Err(Error::new(
                ErrorKind::Corrupt,
                libc::EIO,
                format!("open {name}: the file is cut short"),
            ));
        }
        Self::map(file, name, size, reserve_bytes)
    }

    fn map(file: File, name: String, size: u64, reserve_bytes: u64) -> Result<Self> {
        let reserved = reserve_bytes
            .checked_add(HEADER_BYTES)
            .map(|bytes| bytes.max(size))
            .and_then(|bytes| usize::try_from(bytes).ok())
            .ok_or_else(|| failed("map", &name, rustix::io::Errno::NOMEM))?;
        // SAFETY: a fresh range chosen by the kernel; what lies beyond the end of the file is
        // never touched, because every access is checked against `length`.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                reserved,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE,
                &file,
                0,
            )
        }
        .map_err(|errno| failed("map", &name, errno))?;
        let base = NonNull::new(base.cast::<u8>())
            .ok_or_else(|| failed("map", &name, rustix::io::Errno::NOMEM))?;
        // A growth that was cut short may have left a length of any number of bytes: only whole
        // words count.
        let length = AtomicU64::new((size - HEADER_BYTES) & !7);
        Ok(Self {
            file,
            name,
            base,
            reserved,
            length,
            growing: Mutex::new(()),
        })
    }

    /// Bytes that may be touched. At least what was asked for by `grow_to`, for ever.
    pub fn len(&self) -> u64 {
        self.length.load(Ordering::Acquire)
    }

    /// Whether no byte may be touched yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes the first `bytes` bytes usable. Grows in steps that double, from 64 KiB to 64 MiB.
    ///
    /// # Errors
    /// `NoSpace` when the file system is full or the reserved range is too small: the table stays
    /// as it was.
    pub fn grow_to(&self, bytes: u64) -> Result<()> {
        if bytes <= self.len() {
            return Ok(());
        }
        let _growing = self.growing.lock();
        let present = self.len();
        if bytes <= present {
            return Ok(());
        }
        let largest = self.reserved as u64 - HEADER_BYTES;
        if bytes > largest {
            return Err(Error::new(
                ErrorKind::NoSpace,
                libc::ENOSPC,
                format!(
                    "grow {}: {bytes} bytes asked for, at most {largest} fit",
                    self.name
                ),
            ));
        }
        let least = bytes
            .div_ceil(LEAST_GROWTH)
            .saturating_mul(LEAST_GROWTH)
            .min(largest);
        let step = present.clamp(LEAST_GROWTH, LARGEST_GROWTH);
        let generous = least.max(present.saturating_add(step)).min(largest);
        let grown = match self.allocate_to(generous) {
            Err(error) if error.kind == ErrorKind::NoSpace && generous > least => {
                self.allocate_to(least).map(|()| least)
            }
            other => other.map(|()| generous),
        }?;
        self.length.store(grown & !7, Ordering::Release);
        Ok(())
    }

    /// From the very start of the file: an earlier growth that failed may have left holes.
    fn allocate_to(&self, bytes: u64) -> Result<()> {
        allocate(&self.file, &self.name, 0, HEADER_BYTES + bytes)
    }

    /// Waits until everything is on the disk.
    pub fn sync(&self) -> Result<()> {
        rustix::fs::fdatasync(&self.file).map_err(|errno| failed("sync", &self.name, errno))
    }

    /// Bytes that the file takes on its file system.
    pub fn allocated_bytes(&self) -> Result<u64> {
        let stat =
            rustix::fs::fstat(&self.file).map_err(|errno| failed("stat", &self.name, errno))?;
        Ok(u64::try_from(stat.st_blocks).unwrap_or(0) * 512)
    }

    /// One of the 256 words of the header page that belong to the user of the table: cursors,
    /// counts.
    ///
    /// # Errors
    /// `Invalid` for an index beyond them.
    pub fn header_word(&self, index: usize) -> Result<&AtomicU64> {
        if index >= WORDS {
            return Err(self.outside(index as u64, 8));
        }
        // SAFETY: the header page is always mapped and backed; the place is aligned to 8 bytes
        // and is only ever accessed as an atomic.
        Ok(unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(WORDS_OFFSET + 8 * index).cast()) })
    }

    /// The byte at `offset`.
    pub fn atomic_u8(&self, offset: u64) -> Result<&AtomicU8> {
        let place = self.place(offset, 1, 1)?;
        // SAFETY: `place` is in bounds, backed and aligned, and all access is atomic.
        Ok(unsafe { AtomicU8::from_ptr(place) })
    }

    /// The 4 bytes at `offset`, which is a multiple of 4. Native byte order.
    pub fn atomic_u32(&self, offset: u64) -> Result<&AtomicU32> {
        let place = self.place(offset, 4, 4)?;
        // SAFETY: as in `atomic_u8`.
        Ok(unsafe { AtomicU32::from_ptr(place.cast()) })
    }

    /// The 8 bytes at `offset`, which is a multiple of 8. Native byte order.
    pub fn atomic_u64(&self, offset: u64) -> Result<&AtomicU64> {
        let place = self.place(offset, 8, 8)?;
        // SAFETY: as in `atomic_u8`.
        Ok(unsafe { AtomicU64::from_ptr(place.cast()) })
    }

    /// Copies `bytes` to `offset`, with relaxed accesses.
    pub fn copy_in(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut place = self.place(offset, bytes.len(), 1)?;
        let (head, words, tail) = split(place, bytes.len());
        let (head, rest) = bytes.split_at(head);
        let (middle, tail) = rest.split_at(rest.len() - tail);
        for byte in head {
            place = store_byte(place, *byte);
        }
        for word in middle.chunks_exact(8).take(words) {
            let mut value = [0; 8];
            value.copy_from_slice(word);
            // SAFETY: `split` made the head so long that `place` is aligned here; in bounds.
            unsafe { AtomicU64::from_ptr(place.cast()) }
                .store(u64::from_ne_bytes(value), Ordering::Relaxed);
            // SAFETY: at most one past the end of the range that `place` was checked for.
            place = unsafe { place.add(8) };
        }
        for byte in tail {
            place = store_byte(place, *byte);
        }
        Ok(())
    }

    /// Copies the bytes from `offset` on into `buffer`, with relaxed accesses.
    pub fn copy_out(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let mut place = self.place(offset, buffer.len(), 1)?;
        let (head, words, tail) = split(place, buffer.len());
        let (head, rest) = buffer.split_at_mut(head);
        let (middle, tail) = rest.split_at_mut(rest.len() - tail);
        for byte in head {
            (*byte, place) = load_byte(place);
        }
        for word in middle.chunks_exact_mut(8).take(words) {
            // SAFETY: `split` made the head so long that `place` is aligned here; in bounds.
            let value = unsafe { AtomicU64::from_ptr(place.cast()) }.load(Ordering::Relaxed);
            word.copy_from_slice(&value.to_ne_bytes());
            // SAFETY: at most one past the end of the range that `place` was checked for.
            place = unsafe { place.add(8) };
        }
        for byte in tail {
            (*byte, place) = load_byte(place);
        }
        Ok(())
    }

    /// The bytes themselves, without a copy.
    ///
    /// # Safety
    /// The bytes were written before this call in the order of happens-before and are never
    /// written again while the map lives.
    pub unsafe fn view(&self, offset: u64, length: usize) -> Result<&[u8]> {
        let place = self.place(offset, length, 1)?;
        // SAFETY: in bounds and backed; the caller promises that nobody writes them.
        Ok(unsafe { std::slice::from_raw_parts(place, length) })
    }

    /// Pointer to `offset` after checking that `length` bytes from there may be touched.
    #[inline]
    fn place(&self, offset: u64, length: usize, alignment: u64) -> Result<*mut u8> {
        let inside = offset
            .checked_add(length as u64)
            .is_some_and(|end| end <= self.len());
        if !inside || !offset.is_multiple_of(alignment) {
            return Err(self.outside(offset, length));
        }
        // SAFETY: `offset` lies below `length` of the map, which lies in the reserved range.
        Ok(unsafe { self.base.as_ptr().add((HEADER_BYTES + offset) as usize) })
    }

    #[cold]
    fn outside(&self, offset: u64, length: usize) -> Error {
        let present = self.len();
        Error::new(
            ErrorKind::Invalid,
            libc::EIO,
            format!(
                "access {}: {length} bytes at {offset}, it has {present}",
                self.name
            ),
        )
    }
}

impl AsFd for GrowableMap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for GrowableMap {
    fn drop(&mut self) {
        // SAFETY: the range is ours, and references into it cannot outlive `self`. An error
        // leaves a mapping behind, which harms nobody.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.reserved) };
    }
}

/// How many single bytes, words and single bytes a copy of `length` bytes at `place` is made of.
fn split(place: *const u8, length: usize) -> (usize, usize, usize) {
    let head = place.align_offset(8).min(length);
    let words = (length - head) / 8;
    (head, words, length - head - 8 * words)
}

/// Stores at `place`, which the caller has checked, and gives the next place.
fn store_byte(place: *mut u8, byte: u8) -> *mut u8 {
    // SAFETY: only called for places inside a range that `GrowableMap::place` has checked.
    unsafe {
        AtomicU8::from_ptr(place).store(byte, Ordering::Relaxed);
        place.add(1)
    }
}

/// Loads from `place`, which the caller has checked, and gives the next place.
fn load_byte(place: *mut u8) -> (u8, *mut u8) {
    // SAFETY: only called for places inside a range that `GrowableMap::place` has checked.
    unsafe {
        (
            AtomicU8::from_ptr(place).load(Ordering::Relaxed),
            place.add(1),
        )
    }
}

/// Gives blocks to the bytes `start..end` of `file` and makes the file that long.
fn allocate(file: &File, name: &str, start: u64, end: u64) -> Result<()> {
    loop {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), start, end - start) {
            // tmpfs gives up at any signal.
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map_err(|errno| failed("grow", name, errno)),
        }
    }
}

fn display(path: &Path) -> String {
    printable(path.as_os_str().as_encoded_bytes())
}

fn failed(action: &str, name: &str, errno: rustix::io::Errno) -> Error {
    Error::from_errno(errno.raw_os_error(), format_args!("{action} {name}"))
}

#[cfg(test)]
mod tests;
