//! Addresses: where in a volume the bytes of one version of one file have their place, for ever.

/// Granule of addresses and of checksums, in bytes.
pub const PAGE_BYTES: u64 = 4096;

/// Largest extent, in bytes: a file up to this size is one extent, a larger one is cut into blocks
/// of this size (the last may be shorter).
pub const EXTENT_BYTES: u64 = 1 << 20;

/// A byte offset in the address space of a volume. Those of files and extents are page-aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub u64);

impl Address {
    /// The page that this address lies in.
    pub const fn page(self) -> u64 {
        self.0 / PAGE_BYTES
    }

    /// The address `bytes` further on.
    pub const fn plus(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
}

/// What is filled, verified and evicted as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Page-aligned start. The bit of its first page in a bitmap stands for the whole extent.
    pub address: Address,
    /// Offset of the extent's first byte in its file.
    pub file_offset: u64,
    /// Bytes of the file in this extent: 1..=[`EXTENT_BYTES`].
    pub length: u32,
}

impl Extent {
    /// Bytes that the extent takes on a tier.
    pub const fn footprint(&self) -> u64 {
        round_up_to_page(self.length as u64)
    }
}

/// `bytes` rounded up to whole pages.
pub const fn round_up_to_page(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE_BYTES) * PAGE_BYTES
}

/// The extents of a file of `size` bytes at `address` that hold any of the bytes
/// `offset..offset + length`; none beyond the end of the file.
pub fn extents_of(
    address: Address,
    size: u64,
    offset: u64,
    length: u64,
) -> impl Iterator<Item = Extent> {
    let end = offset.saturating_add(length).min(size);
    let first = offset / EXTENT_BYTES;
    let last = if offset >= end {
        first
    } else {
        end.div_ceil(EXTENT_BYTES)
    };
    (first..last).map(move |index| {
        let file_offset = index * EXTENT_BYTES;
        Extent {
            address: address.plus(file_offset),
            file_offset,
            length: (size - file_offset).min(EXTENT_BYTES) as u32,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_file_is_one_extent() {
        let extents: Vec<_> = extents_of(Address(8192), 5000, 0, 5000).collect();
        assert_eq!(
            extents,
            [Extent {
                address: Address(8192),
                file_offset: 0,
                length: 5000
            }]
        );
        assert_eq!(extents[0].footprint(), 8192);
    }

    #[test]
    fn a_large_file_is_cut_into_blocks_and_the_last_is_short() {
        let size = 2 * EXTENT_BYTES + 10;
        let lengths: Vec<_> = extents_of(Address(0), size, 0, size)
            .map(|e| e.length)
            .collect();
        assert_eq!(lengths, [1 << 20, 1 << 20, 10]);
        let middle: Vec<_> = extents_of(Address(0), size, EXTENT_BYTES, 1).collect();
        assert_eq!(middle.len(), 1);
        assert_eq!(middle[0].file_offset, EXTENT_BYTES);
    }

    #[test]
    fn nothing_lies_beyond_the_end() {
        assert_eq!(extents_of(Address(0), 100, 100, 50).count(), 0);
        assert_eq!(extents_of(Address(0), 0, 0, 4096).count(), 0);
        assert_eq!(
            extents_of(Address(0), 100, 5 * EXTENT_BYTES, u64::MAX).count(),
            0
        );
    }
}
