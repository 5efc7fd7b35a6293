//! CRC32C of each page, by page number. 0 says that nothing is there.

use std::os::fd::AsFd;

use atlas_core::{Address, PAGE_BYTES, Result};

use crate::files::SparseTable;
use crate::header::Magic;

/// Bytes of a checksum.
pub(crate) const SUM_BYTES: usize = 4;

const NAME: &str = "checksums";
const MAGIC: Magic = *b"atlascrc";
const VERSION: u32 = 1;

/// The checksum of one page, as it lies in the table.
pub(crate) fn sum_of(page: &[u8]) -> [u8; SUM_BYTES] {
    // One page in four thousand million shares the checksum of another: 0 is taken.
    crc32c::crc32c(page).max(1).to_le_bytes()
}

pub(crate) struct Checksums {
    table: SparseTable,
}

impl Checksums {
    pub(crate) fn create(folder: impl AsFd) -> Result<Self> {
        Ok(Self {
            table: SparseTable::create(folder, NAME, MAGIC, VERSION)?,
        })
    }

    pub(crate) fn open(folder: impl AsFd) -> Result<Self> {
        Ok(Self {
            table: SparseTable::open(folder, NAME, MAGIC, VERSION)?,
        })
    }

    pub(crate) fn table(&self) -> &SparseTable {
        &self.table
    }

    /// The checksums of the pages from `first` on.
    pub(crate) fn read(&self, first: Address, sums: &mut [u8]) -> Result<()> {
        self.table.read(first.page() * SUM_BYTES as u64, sums)
    }

    pub(crate) fn write(&self, first: Address, sums: &[u8]) -> Result<()> {
        self.table.write(first.page() * SUM_BYTES as u64, sums)
    }

    /// Nothing is there any more in the `bytes` bytes from `first` on. Punched, not written: it
    /// needs no space on a full tier.
    pub(crate) fn withdraw(&self, first: Address, bytes: u64) -> Result<()> {
        let sum_bytes = SUM_BYTES as u64;
        self.table.erase(
            first.page() * sum_bytes,
            bytes.div_ceil(PAGE_BYTES) * sum_bytes,
        )
    }
}
