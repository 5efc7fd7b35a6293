//! Where the bytes stay: tiers, volumes, segments, bitmaps, checksums, quota.

mod header;
pub mod table;
