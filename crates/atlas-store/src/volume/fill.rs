//! Filling extents and clearing them.

use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use atlas_core::{Address, Error, ErrorKind, Extent, PAGE_BYTES, Result};

use super::{Shared, Volume};
use crate::bitmap::bit_of;
use crate::checksums::{SUM_BYTES, sum_of};
use crate::files;
use crate::quota::Reservation;
use crate::segments::{Segment, Writer, page_aligned};

const PAGE: usize = PAGE_BYTES as usize;

impl Volume {
    /// Writes `data` at `start` and makes `extents`, which it is made of, live. `data` is whole
    /// pages: the rest of an extent's last page is zero. Many adjacent extents cost one write each
    /// for data and checksums (one more where a segment ends).
    ///
    /// # Errors
    /// `Invalid` when the arguments do not fit together, `NoSpace` and `Io` when the tier does not
    /// take it (or has no segment there): then none of the extents in the failed part is live, the
    /// volume is degraded, and the caller still has the bytes.
    pub fn fill(
        &self,
        start: Address,
        data: &[u8],
        extents: &[Extent],
        reservation: Reservation,
    ) -> Result<()> {
        let shared = &self.shared;
        let length = data.len() as u64;
        let end = start.0.saturating_add(length);
        let inside = |extent: &Extent| {
            page_aligned(extent.address, 0)
                && extent.address.0 >= start.0
                && extent.address.0.saturating_add(extent.footprint()) <= end
        };
        let fits = page_aligned(start, length)
            && reservation.belongs_to(&shared.quota)
            && length <= reservation.bytes()
            && extents.iter().all(inside);
        if !fits {
            return Err(Error::new(
                ErrorKind::Invalid,
                libc::EINVAL,
                format!("fill {length} bytes at {}: not what was reserved", start.0),
            ));
        }
        let checksums: Vec<u8> = data.chunks_exact(PAGE).flat_map(sum_of).collect();
        let mut done = 0;
        while done < data.len() {
            let address = start.plus(done as u64);
            let segment = shared
                .segments
                .find(address)
                .ok_or_else(|| unbacked(address))?;
            let bytes = data
                .len()
                .min(done + (segment.end().0 - address.0) as usize);
            let sums = done / PAGE * SUM_BYTES..bytes / PAGE * SUM_BYTES;
            shared.fill_part(
                segment,
                address,
                &data[done..bytes],
                &checksums[sums],
                extents,
            )?;
            done = bytes;
        }
        if shared.durable.is_some() {
            shared.changes.note();
        }
        // Until here the reservation covers what was written and not yet measured.
        drop(reservation);
        Ok(())
    }

    /// Forgets an extent and gives its space back.
    ///
    /// # Errors
    /// `Conflict` while its segment is leased: everything stays then.
    pub fn clear(&self, extent: &Extent) -> Result<()> {
        let Some(segment) = self.shared.segments.find(extent.address) else {
            return Ok(());
        };
        let mut writer = segment.writer.lock();
        if writer.leases > 0 {
            return Err(super::lease::leased("clear an extent"));
        }
        self.shared.give_up(segment, &writer, extent);
        if let Err(error) = self.shared.measure(segment, &mut writer) {
            self.shared.health.failed(&error);
        }
        self.shared.health.try_soon();
        Ok(())
    }
}

fn unbacked(address: Address) -> Error {
    Error::new(
        ErrorKind::NoSpace,
        libc::ENOSPC,
        format!("fill address {}: the tier has no segment there", address.0),
    )
}

impl Shared {
    /// Fills what lies in one segment.
    fn fill_part(
        &self,
        segment: &Segment,
        address: Address,
        data: &[u8],
        checksums: &[u8],
        extents: &[Extent],
    ) -> Result<()> {
        let end = address.plus(data.len() as u64);
        let of_part = || {
            extents
                .iter()
                .filter(|extent| (address.0..end.0).contains(&extent.address.0))
        };
        let mut writer = segment.writer.lock();
        let written = self.write_part(segment, address, data, checksums);
        match &written {
            Ok(()) => {
                self.show(of_part());
                if self.durable.is_some() {
                    let (first, _) = bit_of(address);
                    writer.soil(first, bit_of(Address(end.0 - 1)).0 + 1);
                }
            }
            Err(error) => {
                self.health.failed(error);
                of_part().for_each(|extent| self.give_up(segment, &writer, extent));
            }
        }
        if let Err(error) = self.measure(segment, &mut writer) {
            self.health.failed(&error);
        } else if written.is_ok() {
            self.health.worked();
        }
        written
    }

    fn write_part(
        &self,
        segment: &Segment,
        address: Address,
        data: &[u8],
        checksums: &[u8],
    ) -> Result<()> {
        if self.destroyed.load(Ordering::SeqCst) {
            return Err(Error::new(
                ErrorKind::NotFound,
                libc::ENOENT,
                "fill: the volume is gone",
            ));
        }
        self.file_of(segment)?
            .write_all_at(data, address.0 - segment.start.0)
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::WriteZero => {
                    Error::from_errno(libc::ENOSPC, "write to a segment")
                }
                _ => Error::from_io(&error, "write to a segment"),
            })?;
        self.checksums.write(address, checksums)
    }

    /// Sets live bits, one atomic operation for all extents that share a word.
    fn show<'a>(&self, extents: impl Iterator<Item = &'a Extent>) {
        let mut pending = (0, 0);
        for extent in extents {
            let (index, bit) = bit_of(extent.address);
            if index != pending.0 {
                self.live.set(pending.0, pending.1);
                pending = (index, 0);
            }
            pending.1 |= bit;
        }
        self.live.set(pending.0, pending.1);
    }

    /// Bits first, then checksums, then the hole: a reader that saw the bit reads the old bytes, or
    /// finds zeros that the old checksums give away. The caller holds the writer's lock.
    ///
    /// No hole below a lease: whoever reads the file directly finds the bytes that were given up, or
    /// the right ones once they are filled again in their place, but never zeros.
    pub(super) fn give_up(&self, segment: &Segment, writer: &Writer, extent: &Extent) {
        let (index, bit) = bit_of(extent.address);
        self.forget(segment, index, bit);
        let offset = extent.address.0 - segment.start.0;
        let length = extent.footprint().min(segment.length - offset);
        let withdrawn = self.checksums.withdraw(extent.address, length);
        let punched = segment
            .file()
            .filter(|_| writer.leases == 0)
            .map_or(Ok(()), |file| files::punch(file, offset, length));
        if let Err(error) = withdrawn.and(punched) {
            self.health.failed(&error);
        }
    }
}
