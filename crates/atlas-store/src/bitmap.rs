//! Which extents are there. The bit of an extent is that of its first page.
//!
//! *Live* says: filled or verified since the machine started. It lies on tmpfs, so it survives the
//! process and not the machine. *Durable* says: data and checksums reached the disk before the bit.

use std::sync::atomic::{AtomicU64, Ordering};

use atlas_core::{Address, PAGE_BYTES, Result};

use crate::files::SparseTable;
use crate::table::GrowableMap;

/// Bytes of address space that one word of a bitmap stands for.
pub(crate) const WORD_SPAN: u64 = 64 * PAGE_BYTES;

/// The word that an address belongs to, and its bit in it.
pub(crate) fn bit_of(address: Address) -> (u64, u64) {
    let page = address.page();
    (page / 64, 1 << (page % 64))
}

pub(crate) struct LiveBits {
    map: GrowableMap,
}

impl LiveBits {
    pub(crate) fn new(map: GrowableMap) -> Self {
        Self { map }
    }

    /// Makes room for addresses below `end`.
    pub(crate) fn cover(&self, end: Address) -> Result<()> {
        self.map.grow_to(end.0.div_ceil(WORD_SPAN) * 8)
    }

    /// A word of the bitmap; `None` beyond what was covered, where nothing is live.
    fn word(&self, index: u64) -> Option<&AtomicU64> {
        self.map.atomic_u64(index.checked_mul(8)?).ok()
    }

    pub(crate) fn header_word(&self, index: usize) -> Result<&AtomicU64> {
        self.map.header_word(index)
    }

    pub(crate) fn load(&self, index: u64) -> u64 {
        self.word(index)
            .map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// `Release`: whoever sees the bit sees the data and the checksums written before.
    pub(crate) fn set(&self, index: u64, bits: u64) {
        if let Some(word) = self.word(index) {
            word.fetch_or(bits, Ordering::Release);
        }
    }

    pub(crate) fn clear(&self, index: u64, bits: u64) {
        if let Some(word) = self.word(index) {
            word.fetch_and(!bits, Ordering::AcqRel);
        }
    }
}

/// The durable bitmap, changed by explicit writes only. Callers hold the segment's writer lock:
/// words of different segments never share a word.
pub(crate) struct DurableBits {
    table: SparseTable,
}

impl DurableBits {
    pub(crate) fn new(table: SparseTable) -> Self {
        Self { table }
    }

    pub(crate) fn table(&self) -> &SparseTable {
        &self.table
    }

    /// `count` words from `first` on.
    pub(crate) fn load(&self, first: u64, count: usize) -> Result<Vec<u64>> {
        let mut bytes = vec![0; count * 8];
        self.table.read(first * 8, &mut bytes)?;
        let word = |chunk: &[u8]| {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            u64::from_le_bytes(word)
        };
        Ok(bytes.chunks_exact(8).map(word).collect())
    }

    pub(crate) fn store(&self, first: u64, words: &[u64]) -> Result<()> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.table.write(first * 8, &bytes)
    }

    pub(crate) fn clear(&self, index: u64, bits: u64) -> Result<()> {
        let present = self.load(index, 1)?.first().copied().unwrap_or(0);
        if present & bits != 0 {
            self.store(index, &[present & !bits])
        } else {
            Ok(())
        }
    }
}
