//! After a kill nothing is forgotten; after a reboot nothing is believed unchecked.
//!
//! Dropping a volume without closing it is what a kill leaves: the tables as they are, no commit.

#[cfg(test)]
#[expect(dead_code, reason = "each test crate uses a part of it")]
mod common;

use std::os::unix::fs::FileExt;

use atlas_core::{ErrorKind, Extent};
use atlas_store::{ExtentState, Medium, Volume, VolumeSettings};
use common::{BOTH, Bed, add_file, count, fill, reads_right};

fn add_files(volume: &Volume) -> Vec<Extent> {
    (0..40)
        .flat_map(|index| add_file(volume, 1000 + 40_000 * index).1)
        .collect()
}

#[test]
fn after_a_kill_everything_is_live() {
    for medium in BOTH {
        let bed = Bed::new(medium);
        let volume = bed.create(1 << 30);
        let extents = add_files(&volume);
        let used = volume.usage().used_bytes;
        drop(volume);
        let volume = bed.open().unwrap();
        assert_eq!(count(&volume, &extents, ExtentState::Live), extents.len());
        assert!(extents.iter().all(|extent| reads_right(&volume, extent)));
        assert!(volume.usage().used_bytes.abs_diff(used) < 100_000);
    }
}

#[test]
fn what_a_kill_left_uncommitted_is_committed_by_the_next_process() {
    let bed = Bed::new(Medium::Ssd);
    let volume = bed.create(1 << 30);
    let extents = add_files(&volume);
    drop(volume);
    let volume = bed.open().unwrap();
    volume.commit().unwrap();
    drop(volume);
    let volume = bed.open_on(&bed.tier_in_boot("the next boot")).unwrap();
    assert_eq!(
        count(&volume, &extents, ExtentState::Unverified),
        extents.len()
    );
}

#[test]
fn the_committer_commits_by_itself() {
    let bed = Bed::new(Medium::Hdd);
    let volume = bed.create(1 << 30);
    let extents = add_files(&volume);
    let durable = bed.volume_folder().join("durable");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let bits = || {
        let bytes = std::fs::read(&durable).unwrap();
        bytes
            .iter()
            .skip(4096)
            .map(|byte| byte.count_ones() as usize)
            .sum::<usize>()
    };
    while bits() < extents.len() {
        assert!(
            std::time::Instant::now() < deadline,
            "{} bits of {}",
            bits(),
            extents.len()
        );
        std::thread::yield_now();
    }
}

#[test]
fn after_a_reboot_a_disk_is_verified_before_it_is_believed() {
    let bed = Bed::new(Medium::Ssd);
    let volume = bed.create(1 << 30);
    let extents = add_files(&volume);
    volume.close().unwrap();
    drop(volume);
    // The tmpfs of the live bitmap does not survive; the rest of the machine is the same here.
    std::fs::remove_file(bed.live.path().join("wav.live")).unwrap();
    let (path, offset) = {
        let volume = bed.open().unwrap();
        assert_eq!(
            count(&volume, &extents, ExtentState::Unverified),
            extents.len()
        );
        bed.segment_file(extents[7].address, &volume)
    };
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(b"damage", offset + 100).unwrap();
    // A kill before anything was verified changes nothing.
    let volume = bed.open().unwrap();
    assert_eq!(
        count(&volume, &extents, ExtentState::Unverified),
        extents.len()
    );
    for (index, extent) in extents.iter().enumerate() {
        assert!(!volume.is_live(extent.address));
        assert_eq!(volume.verify(extent).unwrap().is_sound(), index != 7);
        assert_eq!(reads_right(&volume, extent), index != 7);
    }
    assert_eq!(volume.state(&extents[7]), ExtentState::Absent);
    drop(volume);
    let volume = bed.open().unwrap();
    assert_eq!(
        count(&volume, &extents, ExtentState::Live),
        extents.len() - 1
    );
    assert_eq!(volume.state(&extents[7]), ExtentState::Absent);
}

#[test]
fn after_a_reboot_memory_is_empty() {
    let bed = Bed::new(Medium::Memory);
    let volume = bed.create(1 << 30);
    let extents = add_files(&volume);
    let empty = volume.usage().used_bytes / 10;
    drop(volume);
    let volume = bed.open_on(&bed.tier_in_boot("the next boot")).unwrap();
    assert_eq!(count(&volume, &extents, ExtentState::Absent), extents.len());
    assert!(volume.usage().used_bytes < empty);
    for extent in &extents {
        fill(&volume, extent).unwrap();
        assert!(reads_right(&volume, extent));
    }
    drop(volume);
    std::fs::remove_dir_all(&bed.tier_folder).unwrap();
    let error = bed.open().err().unwrap();
    assert_eq!(error.kind, ErrorKind::NotFound);
    bed.create(1 << 30);
}

/// The data are on the disk and the bits are not: the extent does not exist.
#[test]
fn a_crash_between_data_and_bits_leaves_absent_extents() {
    let bed = Bed::new(Medium::Ssd);
    let volume = bed.create(1 << 30);
    let (_, committed) = add_file(&volume, 100_000);
    volume.close().unwrap();
    let (_, uncommitted) = add_file(&volume, 100_000);
    drop(volume);
    let volume = bed.open_on(&bed.tier_in_boot("the next boot")).unwrap();
    assert_eq!(volume.state(&committed[0]), ExtentState::Unverified);
    assert_eq!(volume.state(&uncommitted[0]), ExtentState::Absent);
    assert!(!volume.verify(&uncommitted[0]).unwrap().is_sound());
    fill(&volume, &uncommitted[0]).unwrap();
    assert!(reads_right(&volume, &uncommitted[0]));
}

/// A kill after the data and before the live bit: absent, and filled again at the same place.
#[test]
fn a_kill_between_data_and_bits_leaves_absent_extents() {
    for medium in BOTH {
        let bed = Bed::new(medium);
        let volume = bed.create(1 << 30);
        let (address, extents) = add_file(&volume, 50_000);
        let next = volume.allocate(50_000, false).unwrap();
        let (path, offset) = bed.segment_file(next, &volume);
        drop(volume);
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.write_all_at(&common::content(next, 50_000), offset)
            .unwrap();
        let volume = bed.open().unwrap();
        let extent = common::one_extent(next, 50_000);
        assert_eq!(volume.state(&extent), ExtentState::Absent);
        assert!(volume.is_live(address) && reads_right(&volume, &extents[0]));
        fill(&volume, &extent).unwrap();
        assert!(reads_right(&volume, &extent));
    }
}

#[test]
fn clearing_withdraws_the_durable_bit_too() {
    let bed = Bed::new(Medium::Ssd);
    let volume = bed.create(1 << 30);
    let (_, extents) = add_file(&volume, 2 << 20);
    volume.commit().unwrap();
    volume.clear(&extents[0]).unwrap();
    volume.close().unwrap();
    drop(volume);
    let volume = bed.open_on(&bed.tier_in_boot("the next boot")).unwrap();
    assert_eq!(volume.state(&extents[0]), ExtentState::Absent);
    assert_eq!(volume.state(&extents[1]), ExtentState::Unverified);
}

#[test]
fn a_lost_or_cut_segment_is_empty_and_works_again() {
    for medium in BOTH {
        for cut in [false, true] {
            let bed = Bed::new(medium);
            let volume = bed.create(1 << 30);
            let (address, extents) = add_file(&volume, 3 << 20);
            volume.close().unwrap();
            let (path, _) = bed.segment_file(address, &volume);
            drop(volume);
            if cut {
                std::fs::File::options()
                    .write(true)
                    .open(path)
                    .unwrap()
                    .set_len(4096)
                    .unwrap();
            } else {
                std::fs::remove_file(path).unwrap();
            }
            let volume = bed.open().unwrap();
            assert_eq!(count(&volume, &extents, ExtentState::Absent), extents.len());
            assert!(extents.iter().all(|extent| fill(&volume, extent).is_ok()));
            assert!(extents.iter().all(|extent| reads_right(&volume, extent)));
        }
    }
}

#[test]
fn other_formats_and_damaged_tables_are_refused() {
    for name in ["volume", "checksums", "durable"] {
        let bed = Bed::new(Medium::Ssd);
        drop(bed.create(1 << 30));
        let path = bed.volume_folder().join(name);
        let bytes = std::fs::read(&path).unwrap();
        let mut newer = bytes.clone();
        newer[8] = 2;
        let checksum = crc32c::crc32c(&newer[..12]).to_le_bytes();
        newer[12..16].copy_from_slice(&checksum);
        std::fs::write(&path, &newer).unwrap();
        let error = bed.open().err().unwrap();
        assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
        assert!(error.message.contains("format 2"), "{error}");
        newer[9] ^= 1;
        std::fs::write(&path, &newer).unwrap();
        assert_eq!(bed.open().err().unwrap().kind, ErrorKind::Corrupt);
        std::fs::write(&path, &bytes).unwrap();
        bed.open().unwrap();
    }
}

#[test]
fn a_damaged_segment_table_is_refused_and_the_volume_can_be_removed() {
    let bed = Bed::new(Medium::Ssd);
    let volume = bed.create(1 << 30);
    add_files(&volume);
    drop(volume);
    let file = std::fs::File::options()
        .write(true)
        .open(bed.volume_folder().join("volume"))
        .unwrap();
    file.write_all_at(&[7], 4096 + 9).unwrap();
    assert_eq!(bed.open().err().unwrap().kind, ErrorKind::Corrupt);
    Volume::remove(&bed.tier(), "wav", bed.live.path()).unwrap();
    assert_eq!(bed.open().err().unwrap().kind, ErrorKind::NotFound);
    Volume::remove(&bed.tier(), "wav", bed.live.path()).unwrap();
}

#[test]
fn one_process_at_a_time_uses_a_volume() {
    let bed = Bed::new(Medium::Memory);
    let volume = bed.create(1 << 30);
    assert_eq!(bed.open().err().unwrap().kind, ErrorKind::Conflict);
    let removed = Volume::remove(&bed.tier(), "wav", bed.live.path());
    assert_eq!(removed.unwrap_err().kind, ErrorKind::Conflict);
    let settings = VolumeSettings {
        quota_bytes: 1 << 30,
        held: false,
    };
    let again = Volume::create(&bed.tier(), "wav", bed.live.path(), settings);
    assert_eq!(again.err().unwrap().kind, ErrorKind::Conflict);
    drop(volume);
    bed.open().unwrap();
}

/// The live bitmap of an earlier volume of the same name says nothing about this one.
#[test]
fn a_new_volume_believes_no_old_bitmap() {
    let bed = Bed::new(Medium::Memory);
    let volume = bed.create(1 << 30);
    let (_, extents) = add_file(&volume, 100_000);
    let live = bed.live.path().join("wav.live");
    let old = std::fs::read(&live).unwrap();
    volume.destroy().unwrap();
    let volume = bed.create(1 << 30);
    let address = volume.allocate(100_000, false).unwrap();
    assert_eq!(address, extents[0].address);
    drop(volume);
    std::fs::write(&live, old).unwrap();
    let volume = bed.open().unwrap();
    assert_eq!(volume.state(&extents[0]), ExtentState::Absent);
}

#[test]
fn destroying_leaves_no_byte_also_while_readers_hold_the_volume() {
    for medium in BOTH {
        let bed = Bed::new(medium);
        let volume = bed.create(1 << 30);
        let extents = add_files(&volume);
        let reader = std::sync::Arc::clone(&volume);
        volume.destroy().unwrap();
        let left: Vec<_> = std::fs::read_dir(&bed.tier_folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["atlas-tier"]);
        assert_eq!(std::fs::read_dir(bed.live.path()).unwrap().count(), 0);
        assert!(extents.iter().all(|extent| !reads_right(&reader, extent)));
        let reservation = reader.reserve(4096).unwrap();
        let extent = common::one_extent(extents[0].address, 4096);
        assert!(
            reader
                .fill(extent.address, &[1; 4096], &[extent], reservation)
                .is_err()
        );
        bed.create(1 << 30);
    }
}

#[test]
fn names_that_are_paths_are_refused() {
    let bed = Bed::new(Medium::Memory);
    let tier = bed.tier();
    for id in ["", "..", ".x", "a/b", "a\n", "atlas-tier", &"x".repeat(201)] {
        let settings = VolumeSettings {
            quota_bytes: 1 << 20,
            held: false,
        };
        let error = Volume::create(&tier, id, bed.live.path(), settings)
            .err()
            .unwrap();
        assert_eq!(error.kind, ErrorKind::Invalid, "{id}");
    }
    let on_disk = tempfile::tempdir().unwrap();
    let settings = VolumeSettings {
        quota_bytes: 1 << 20,
        held: false,
    };
    let error = Volume::create(&tier, "wav", on_disk.path(), settings)
        .err()
        .unwrap();
    assert_eq!(error.kind, ErrorKind::Unsupported);
    assert!(!bed.volume_folder().exists());
}
