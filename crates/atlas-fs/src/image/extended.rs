//! Extended attributes: all sets of the namespace lie in the image as they lie in its table, and an
//! inode names the places of its attributes there.

use std::fs::File;

use atlas_core::Result;

use super::format::extended_bytes;
use super::region::Region;
use super::{Plan, block_number};
use crate::extended::places;
use crate::record::Record;

/// Bytes copied at once.
const COPY_BYTES: u64 = 1 << 20;

impl Plan<'_> {
    /// Where the extended attributes of a node begin in the area of all of them, in units.
    pub(super) fn extended_places(&self, record: &Record<'_>) -> Result<Vec<u32>> {
        places(&self.namespace.tables, record.extended())
    }

    /// Bytes between its inode and what follows it.
    pub(super) fn extended_bytes_of(&self, record: &Record<'_>) -> Result<usize> {
        Ok(match record.extended() {
            0 => 0,
            _ => extended_bytes(self.extended_places(record)?.len()),
        })
    }

    /// Block at which the area begins; 0 without one.
    pub(super) fn extended_block(&self) -> Result<u32> {
        if self.extended_bytes == 0 {
            return Ok(0);
        }
        block_number(self.extended_at)
    }

    pub(super) fn write_extended(&self, image: &File) -> Result<()> {
        let mut area = Region::new(image, self.extended_at);
        let mut at = 0;
        while at < self.extended_bytes {
            let mut bytes = vec![0; COPY_BYTES.min(self.extended_bytes - at) as usize];
            self.namespace.tables.copy_extended(at, &mut bytes)?;
            area.write(&bytes)?;
            at += bytes.len() as u64;
        }
        area.finish()?;
        Ok(())
    }
}
