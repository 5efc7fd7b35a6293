//! Whether the tier still holds what it was given: one extent of it, or any page at all.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use atlas_core::{Address, Error, Extent, PAGE_BYTES, Result};
use rustix::fs::{Advice, Mode, OFlags};
use rustix::io::Errno;

use super::{Shared, Verified, Volume};
use crate::files::{self, failed};
use crate::segments::Segment;
use crate::tier::Medium;

const PAGE: usize = PAGE_BYTES as usize;

impl Volume {
    /// As [`verify`](Self::verify), but of what the medium holds: what the page cache remembers of
    /// the extent is dropped first. (Pages not written back yet stay: the medium does not have them.)
    ///
    /// # Errors
    /// As `verify`.
    pub fn scrub(&self, extent: &Extent) -> Result<Verified> {
        if self.tier.medium() != Medium::Memory
            && let Some(segment) = self.shared.segments.find(extent.address)
            && let Some(file) = segment.file()
        {
            let offset = extent.address.0 - segment.start.0;
            forget_cached(file, offset, extent.footprint())?;
        }
        self.verify(extent)
    }

    /// Whether the tier answers: its folder and one segment lie where they were opened, and a page
    /// of that segment can be read from the medium. Each call looks at the next segment. A failure
    /// degrades the volume, until a later check succeeds.
    ///
    /// May take as long as the medium does, for ever on one that hangs: for a thread of its own.
    ///
    /// # Errors
    /// What the tier says; `NotFound` for a folder or segment that was moved or replaced.
    pub fn check_tier(&self) -> Result<()> {
        let outcome = self.tier.check_in_place().and_then(|()| {
            files::check_same(
                self.tier.folder(),
                self.id.as_str(),
                &self.shared.folder,
                "the folder of the volume",
            )?;
            let count = self.shared.segments.len().max(1);
            let index = self.shared.next_checked.fetch_add(1, Ordering::Relaxed) % count;
            match self.shared.segments.get(index) {
                Some(segment) => self.shared.check_segment(segment, self.tier.medium()),
                None => Ok(()),
            }
        });
        self.shared.health.checked(&outcome);
        outcome
    }
}

impl Shared {
    fn check_segment(&self, segment: &Segment, medium: Medium) -> Result<()> {
        let (Some(file), Some(address)) = (segment.file(), self.some_live(segment)) else {
            return Ok(());
        };
        let name = segment.name();
        files::check_same(&self.folder, name.as_str(), file, &name)?;
        let offset = address.0 - segment.start.0;
        if medium == Medium::Memory {
            let mut page = [0; PAGE];
            return read_page(file, &mut page, offset);
        }
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.folder, &name, flags | OFlags::DIRECT, Mode::empty()) {
            Ok(direct) => {
                let mut buffer = vec![0; 2 * PAGE];
                let start = buffer.as_ptr().align_offset(PAGE);
                let page = buffer.get_mut(start..start + PAGE).unwrap_or_default();
                read_page(&File::from(direct), page, offset)
            }
            // Not every file system reads past the page cache.
            Err(Errno::INVAL) => {
                forget_cached(file, offset, PAGE_BYTES)?;
                let mut page = [0; PAGE];
                read_page(file, &mut page, offset)
            }
            Err(errno) => Err(failed(errno, format_args!("open {name}"))),
        }
    }

    /// The first live extent of a segment.
    fn some_live(&self, segment: &Segment) -> Option<Address> {
        let first = segment.first_word();
        let words = first..first + segment.words() as u64;
        words.into_iter().find_map(|index| {
            let bits = self.live.load(index);
            let page = index * 64 + u64::from(bits.trailing_zeros());
            (bits != 0).then_some(Address(page * PAGE_BYTES))
        })
    }
}

fn read_page(file: &File, page: &mut [u8], offset: u64) -> Result<()> {
    file.read_exact_at(page, offset)
        .map_err(|error| Error::from_io(&error, "read a segment"))
}

fn forget_cached(file: &File, offset: u64, bytes: u64) -> Result<()> {
    let length = std::num::NonZeroU64::new(bytes);
    rustix::fs::fadvise(file, offset, length, Advice::DontNeed)
        .map_err(|errno| failed(errno, "forget cached pages of a segment"))
}
