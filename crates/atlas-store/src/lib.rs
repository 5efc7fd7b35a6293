//! Where the bytes stay: tiers, volumes, segments, bitmaps, checksums, quota.
