//! Huge pages for what lies whole in memory.
//!
//! A tmpfs keeps files in single pages unless it is mounted otherwise, and who reads them copies page
//! by page. `MADV_COLLAPSE` (Linux 6.1, madvise(2)) puts those of a range together, whatever the
//! mount says.

use std::ffi::c_void;
use std::fs::File;
use std::ptr;

use atlas_core::{Address, Result};
use rustix::fs::{SeekFrom, seek};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use super::Volume;
use crate::files::failed;
use crate::tier::Medium;

const HUGE_BYTES: u64 = 2 << 20;

impl Volume {
    /// Puts pages of the segment that begins at `start` together, where the tier is memory. Only
    /// where all pages of a huge one are there: it would take space otherwise. A matter of speed:
    /// what the kernel refuses stays as it was. Gives how many huge pages there are now.
    ///
    /// # Errors
    /// `NotFound` where no segment begins; what the kernel says of a mapping.
    pub fn collapse(&self, start: Address) -> Result<u64> {
        let segment = self.segment_at(start)?;
        let Some(file) = segment
            .file()
            .filter(|_| self.tier.medium() == Medium::Memory)
        else {
            return Ok(0);
        };
        let map = Mapped::new(file, segment.length)?;
        let (mut collapsed, mut offset) = (0, 0);
        while let Ok(data) = seek(file, SeekFrom::Data(offset)) {
            let Ok(end) = seek(file, SeekFrom::Hole(data)) else {
                break;
            };
            let first = data.next_multiple_of(HUGE_BYTES);
            for place in (first..end.saturating_sub(HUGE_BYTES - 1)).step_by(HUGE_BYTES as usize) {
                collapsed += u64::from(map.collapse(place));
            }
            offset = end;
        }
        Ok(collapsed)
    }
}

/// A file in the address space, huge pages aligned with those of the addresses. Nobody reads it.
struct Mapped {
    reserved: *mut c_void,
    reserved_bytes: usize,
    base: *mut c_void,
}

impl Mapped {
    fn new(file: &File, length: u64) -> Result<Self> {
        let unmapped = |errno| failed(errno, "map a segment");
        let reserved_bytes = (length + HUGE_BYTES) as usize;
        // SAFETY: a new mapping, where the kernel finds room for it.
        let reserved = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                reserved_bytes,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }
        .map_err(unmapped)?;
        let base = reserved.map_addr(|address| address.next_multiple_of(HUGE_BYTES as usize));
        let map = Self {
            reserved,
            reserved_bytes,
            base,
        };
        // SAFETY: within the reservation, which nobody else knows of.
        unsafe {
            mmap(
                base,
                length as usize,
                ProtFlags::READ,
                MapFlags::SHARED | MapFlags::FIXED,
                file,
                0,
            )
        }
        .map_err(unmapped)?;
        Ok(map)
    }

    fn collapse(&self, offset: u64) -> bool {
        // SAFETY: within the mapping. The bytes of the pages stay the same.
        let outcome = unsafe {
            libc::madvise(
                self.base.wrapping_byte_add(offset as usize),
                HUGE_BYTES as usize,
                libc::MADV_COLLAPSE,
            )
        };
        outcome == 0
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the reservation, with all that was mapped into it.
        let _ = unsafe { munmap(self.reserved, self.reserved_bytes) };
    }
}
