//! Leases: segments that somebody reads past the engine, as the kernel does behind a mounted image.
//!
//! Below a lease no byte is taken away: no hole, no truncation, no destruction. A reader would see
//! zeros in its place, and nothing would tell it. Taking a lease and making a hole exclude each other
//! by the lock of the segment's writer.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use atlas_core::{Address, Error, ErrorKind, Result};

use super::{Shared, Volume};
use crate::segments::{Segment, name_of};

/// Keeps segments in place until it is dropped.
pub struct Lease {
    shared: Arc<Shared>,
    /// Starts of the segments.
    segments: Vec<Address>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        for start in &self.segments {
            if let Some(segment) = self.shared.segments.find(*start) {
                segment.writer.lock().leases -= 1;
            }
        }
    }
}

impl Volume {
    /// Keeps the segments that begin at these addresses in place until the lease is dropped. Holes
    /// that are being made are waited for: what is looked at under the lease stays.
    ///
    /// # Errors
    /// `NotFound` for an address where no segment begins, and once the volume is being destroyed.
    pub fn lease(&self, segments: &[Address]) -> Result<Lease> {
        let _leasing = self.shared.leasing.lock();
        if self.shared.destroyed.load(Ordering::SeqCst) {
            return Err(no_segment("the volume is gone"));
        }
        let mut lease = Lease {
            shared: Arc::clone(&self.shared),
            segments: Vec::with_capacity(segments.len()),
        };
        for start in segments {
            self.segment_at(*start)?.writer.lock().leases += 1;
            lease.segments.push(*start);
        }
        Ok(lease)
    }

    /// Whether any segment is leased.
    pub fn leased(&self) -> bool {
        self.shared
            .segments
            .iter()
            .any(|segment| segment.writer.lock().leases > 0)
    }

    pub(super) fn segment_at(&self, start: Address) -> Result<&Segment> {
        self.shared
            .segments
            .find(start)
            .filter(|segment| segment.start == start)
            .ok_or_else(|| no_segment("no segment begins there"))
    }

    /// How many extents are live in the segment that begins at this address.
    ///
    /// # Errors
    /// `NotFound` where none does.
    pub fn live_extents(&self, start: Address) -> Result<u64> {
        let segment = self.segment_at(start)?;
        let first = segment.first_word();
        let words = first..first + segment.words() as u64;
        let live = |index| u64::from(self.shared.live.load(index).count_ones());
        Ok(words.map(live).sum())
    }

    /// The folder of the segment files, for whoever lets others read them.
    pub fn folder(&self) -> Result<OwnedFd> {
        self.shared
            .folder
            .try_clone()
            .map_err(|error| Error::from_io(&error, "keep the folder of a volume"))
    }

    /// The name, in that folder, of the file of the segment that begins at this address.
    pub fn segment_name(start: Address) -> String {
        name_of(start)
    }
}

pub(super) fn leased(what: &str) -> Error {
    Error::new(
        ErrorKind::Conflict,
        libc::EBUSY,
        format!("{what}: readers may use its segments directly"),
    )
}

fn no_segment(why: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        libc::ENOENT,
        format!("lease a segment: {why}"),
    )
}
