//! A place is given once, and segments follow the rule of their length.

#[cfg(test)]
#[expect(dead_code, reason = "each test crate uses a part of it")]
mod common;

use atlas_core::round_up_to_page;
use atlas_store::{Medium, SegmentClass};
use common::{Bed, Random, disk_usage};

const LARGE: u64 = 64 << 20;

#[test]
fn a_hundred_thousand_random_files_never_overlap() {
    let bed = Bed::new(Medium::Memory);
    let volume = bed.create(1 << 30);
    let mut random = Random::new(2024);
    let mut ranges = Vec::new();
    for _ in 0..100_000 {
        let size = match random.below(1000) {
            0 => LARGE + random.below(4 << 30),
            1..100 => 1 + random.below(LARGE - 1),
            _ => 1 + random.below(40_000),
        };
        let early = random.below(7) == 0;
        let address = volume.allocate(size, early).unwrap();
        ranges.push((address.0, round_up_to_page(size), size >= LARGE, early));
    }
    let segments = volume.segments();
    assert!(segments.len() < 1000, "{} segments", segments.len());
    let mut present = 0;
    for (index, segment) in segments.iter().enumerate() {
        assert!(segment.length.is_power_of_two() && segment.length >= 64 << 20);
        assert!(segment.length >= present / 64, "segment {index}");
        if index > 0 {
            assert_eq!(
                segment.start.0,
                segments[index - 1].start.0 + segments[index - 1].length
            );
        }
        present += segment.length;
    }
    for &(address, length, large, early) in &ranges {
        let index = segments.partition_point(|segment| segment.start.0 <= address) - 1;
        let segment = &segments[index];
        assert!(address + length <= segment.start.0 + segment.length);
        let class = match (large, early) {
            (true, _) => SegmentClass::Large,
            (false, true) => SegmentClass::Early,
            (false, false) => SegmentClass::Small,
        };
        assert_eq!(segment.class, class);
    }
    ranges.sort_unstable();
    assert!(
        ranges
            .windows(2)
            .all(|pair| pair[0].0 + pair[0].1 <= pair[1].0)
    );
    assert!(ranges[0].0 > 0 && ranges.iter().all(|range| range.0 % 4096 == 0));
    // A place costs nothing on the tier before it is filled.
    assert!(disk_usage(&bed.volume_folder()) < 128 << 10);
}

#[test]
fn several_large_files_share_a_segment_once_there_is_room() {
    let bed = Bed::new(Medium::Memory);
    let volume = bed.create(1 << 30);
    for _ in 0..2000 {
        volume.allocate(LARGE + 1, false).unwrap();
    }
    assert!(
        volume.segments().len() < 400,
        "{} segments",
        volume.segments().len()
    );
}

#[test]
fn allocation_goes_on_after_a_kill_and_in_new_segments_after_a_reboot() {
    for medium in common::BOTH {
        let bed = Bed::new(medium);
        let volume = bed.create(1 << 30);
        let first = volume.allocate(10_000, false).unwrap();
        drop(volume);
        let volume = bed.open().unwrap();
        let second = volume.allocate(10_000, false).unwrap();
        assert_eq!(second.0, first.0 + 12_288);
        let segment = volume.segments()[0];
        drop(volume);
        let volume = bed.open_on(&bed.tier_in_boot("another boot")).unwrap();
        let third = volume.allocate(10_000, false).unwrap();
        assert_eq!(third.0, segment.start.0 + segment.length);
    }
}
