//! Where the bytes stay: tiers, volumes, segments, bitmaps, checksums, quota.
//!
//! A file's place is its address: segments are sparse files with the addresses of the volume, so
//! filling an extent is one write, its checksums one write into a flat table, and its bit one
//! atomic operation on a flat bitmap. There is no index and no log.

mod bitmap;
mod checksums;
mod files;
mod header;
mod health;
mod quota;
mod segments;
pub mod table;
mod tier;
mod volume;

pub use quota::{Reservation, Usage};
pub use segments::{SegmentClass, SegmentInfo};
pub use tier::{Medium, Tier};
pub use volume::{Cleared, ExtentState, Lease, Verified, Volume, VolumeSettings};
