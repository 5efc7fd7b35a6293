//! Segments that somebody reads past the engine, and what the medium below them holds.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

#[cfg(test)]
#[expect(dead_code, reason = "each test crate uses a part of it")]
mod common;
#[cfg(test)]
#[expect(dead_code, reason = "each test crate uses a part of it")]
#[path = "common/mounts.rs"]
mod mounts;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use atlas_core::{Address, ErrorKind, Extent};
use atlas_store::{ExtentState, Medium, Tier, Volume, VolumeSettings};
use common::{BOTH, Bed, add_file, count, fill, padded, reads_right};
use mounts::Mounted;

const SIZE: u64 = 100_000;

/// Bytes of an extent as whoever has the segment's file open sees them.
fn seen(file: &File, offset: u64, extent: &Extent) -> Vec<u8> {
    let mut bytes = vec![0; extent.footprint() as usize];
    file.read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

fn starts(volume: &Volume) -> Vec<Address> {
    let segments = volume.segments();
    segments.iter().map(|segment| segment.start).collect()
}

#[test]
fn below_a_lease_nothing_is_taken_away() {
    for medium in BOTH {
        let bed = Bed::new(medium);
        let volume = bed.create(1 << 30);
        let (address, extents) = add_file(&volume, SIZE);
        let extent = extents[0];
        let (path, offset) = bed.segment_file(address, &volume);
        let file = File::options().read(true).write(true).open(path).unwrap();
        let lease = volume.lease(&starts(&volume)).unwrap();
        assert_eq!(volume.clear(&extent).unwrap_err().kind, ErrorKind::Conflict);
        assert_eq!(seen(&file, offset, &extent), padded(&extent));
        assert!(
            reads_right(&volume, &extent),
            "a refused clear changes nothing"
        );

        let mut damaged = padded(&extent);
        damaged[5000] ^= 1;
        file.write_all_at(&damaged, offset).unwrap();
        assert!(!volume.verify(&extent).unwrap().is_sound());
        assert_eq!(volume.state(&extent), ExtentState::Absent);
        assert_eq!(
            seen(&file, offset, &extent),
            damaged,
            "no zeros for a direct reader"
        );
        fill(&volume, &extent).unwrap();
        assert_eq!(seen(&file, offset, &extent), padded(&extent));

        let destroyed = Arc::clone(&volume).destroy().unwrap_err();
        assert_eq!(destroyed.kind, ErrorKind::Conflict);
        assert!(reads_right(&volume, &extent));

        drop(lease);
        let before = volume.usage().used_bytes;
        volume.clear(&extent).unwrap();
        assert!(volume.usage().used_bytes < before, "its space is free");
        assert_eq!(seen(&file, offset, &extent), vec![0; damaged.len()]);
        Arc::clone(&volume).destroy().unwrap();
        assert_eq!(file.metadata().unwrap().len(), 0);
        assert!(volume.lease(&starts(&volume)).is_err(), "it is gone");
    }
}

#[test]
fn leases_are_counted() {
    let bed = Bed::new(Medium::Memory);
    let volume = bed.create(1 << 30);
    let (address, extents) = add_file(&volume, 3 << 20);
    let start = starts(&volume);
    assert_eq!(volume.live_extents(start[0]).unwrap(), 3);
    let unknown = volume.lease(&[start[0], address.plus(4096)]).err().unwrap();
    assert_eq!(unknown.kind, ErrorKind::NotFound);
    assert!(!volume.leased(), "a lease is taken whole or not at all");
    let (one, other) = (volume.lease(&start).unwrap(), volume.lease(&start).unwrap());
    drop(one);
    assert!(volume.leased() && volume.clear(&extents[0]).is_err());
    drop(other);
    assert!(!volume.leased());
    volume.clear(&extents[0]).unwrap();
    assert_eq!(volume.live_extents(start[0]).unwrap(), 2);
}

/// Whoever holds a lease and finds an extent live can rely on its bytes, whatever is being cleared.
#[test]
fn a_lease_and_a_hole_exclude_each_other() {
    let bed = Bed::new(Medium::Memory);
    let volume = bed.create(1 << 30);
    let (address, extents) = add_file(&volume, SIZE);
    let extent = extents[0];
    let (path, offset) = bed.segment_file(address, &volume);
    let file = File::open(path).unwrap();
    let ended = AtomicBool::new(false);
    let mut found = 0;
    thread::scope(|scope| {
        let clearer = scope.spawn(|| {
            let mut cleared = 0;
            while !ended.load(Ordering::Relaxed) {
                cleared += u32::from(volume.clear(&extent).is_ok());
                fill(&volume, &extent).unwrap();
            }
            cleared
        });
        while found < 2000 && !clearer.is_finished() {
            let lease = volume.lease(&starts(&volume)).unwrap();
            if volume.is_live(extent.address) {
                found += 1;
                for _ in 0..3 {
                    assert!(seen(&file, offset, &extent) == padded(&extent));
                }
            }
            drop(lease);
            thread::yield_now();
        }
        ended.store(true, Ordering::Relaxed);
        let cleared = clearer.join().unwrap();
        assert!(cleared > 100, "{cleared} holes were made");
    });
}

#[test]
fn a_segment_below_a_mounted_image_is_not_emptied_at_recovery() {
    let bed = Bed::new(Medium::Ssd);
    let volume = bed.create(1 << 30);
    let (address, extents) = add_file(&volume, 2 << 20);
    let (path, offset) = bed.segment_file(address, &volume);
    volume.close().unwrap();
    drop(volume);
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let whole = file.metadata().unwrap().len();
    file.set_len(offset + (1 << 20)).unwrap();
    let settings = VolumeSettings {
        quota_bytes: 1 << 30,
        held: true,
    };
    let volume = Volume::open(&bed.tier(), "wav", bed.live.path(), settings).unwrap();
    assert_eq!(file.metadata().unwrap().len(), whole);
    assert_eq!(seen(&file, offset, &extents[0]), padded(&extents[0]));
    assert_eq!(volume.state(&extents[0]), ExtentState::Absent);
    for extent in &extents {
        fill(&volume, extent).unwrap();
        assert!(reads_right(&volume, extent));
    }
}

/// An ext4 on a loop device over `backing`.
fn loop_mount(backing: &Path) -> Option<Mounted> {
    File::create(backing).unwrap().set_len(256 << 20).unwrap();
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-b", "4096"])
        .arg(backing)
        .status();
    if !made.is_ok_and(|status| status.success()) {
        println!("skipped: no mkfs.ext4");
        return None;
    }
    Mounted::new(&["-o", "loop", backing.to_str().unwrap()])
}

fn volume_on(folder: &Path, live: &Path) -> Arc<Volume> {
    let tier = Arc::new(Tier::open(folder, Medium::Ssd, true, None).unwrap());
    let settings = VolumeSettings {
        quota_bytes: 1 << 30,
        held: false,
    };
    Volume::create(&tier, "wav", live, settings).unwrap()
}

#[test]
fn a_scrub_looks_below_the_page_cache() {
    let home = tempfile::tempdir().unwrap();
    let backing = home.path().join("backing");
    let Some(mounted) = loop_mount(&backing) else {
        return;
    };
    let live = common::in_memory();
    let volume = volume_on(&mounted.path().join("tier"), live.path());
    let (_, extents) = add_file(&volume, SIZE);
    let extent = extents[0];
    volume.commit().unwrap();
    assert!(volume.scrub(&extent).unwrap().is_sound());

    let disk = File::options()
        .read(true)
        .write(true)
        .open(&backing)
        .unwrap();
    let bytes = fs::read(&backing).unwrap();
    let content = padded(&extent);
    let place = bytes
        .chunks_exact(4096)
        .position(|page| page == &content[..4096]);
    let place = place.expect("the page is on the disk") as u64 * 4096;
    disk.write_all_at(&[content[100] ^ 1], place + 100).unwrap();

    assert!(
        volume.verify(&extent).unwrap().is_sound(),
        "the page cache remembers the right bytes"
    );
    assert!(!volume.scrub(&extent).unwrap().is_sound());
    assert_eq!(volume.damaged_extents(), 1);
    assert_eq!(volume.state(&extent), ExtentState::Absent);
}

#[test]
fn a_tier_that_fails_is_noticed() {
    let home = tempfile::tempdir().unwrap();
    let backing = home.path().join("backing");
    let Some(mounted) = loop_mount(&backing) else {
        return;
    };
    let live = common::in_memory();
    let folder = mounted.path().join("tier");
    let volume = volume_on(&folder, live.path());
    let (_, extents) = add_file(&volume, SIZE);
    volume.commit().unwrap();
    volume.check_tier().unwrap();
    let noticed = || {
        let error = volume.check_tier().unwrap_err();
        assert!(volume.degraded().is_some());
        error.kind
    };
    let recovered = || {
        volume.check_tier().unwrap();
        assert_eq!(volume.degraded(), None);
    };

    let away = folder.with_extension("away");
    fs::rename(&folder, &away).unwrap();
    assert_eq!(noticed(), ErrorKind::NotFound);
    fs::create_dir(&folder).unwrap();
    assert_eq!(
        noticed(),
        ErrorKind::NotFound,
        "another folder in its place"
    );
    fs::remove_dir(&folder).unwrap();
    fs::rename(&away, &folder).unwrap();
    recovered();

    let segment = folder
        .join("wav")
        .join(Volume::segment_name(starts(&volume)[0]));
    let old = segment.with_extension("old");
    fs::rename(&segment, &old).unwrap();
    assert_eq!(noticed(), ErrorKind::NotFound);
    fs::copy(&old, &segment).unwrap();
    assert_eq!(noticed(), ErrorKind::NotFound, "a copy is not the segment");
    fs::rename(&old, &segment).unwrap();
    recovered();
    assert!(reads_right(&volume, &extents[0]));

    // The disk ends early: everything behind its new end fails.
    let disk = File::options().write(true).open(&backing).unwrap();
    disk.set_len(4096).unwrap();
    assert_eq!(noticed(), ErrorKind::Io);
}

#[test]
fn a_segment_that_is_freed_can_be_filled_again_in_its_place() {
    for medium in BOTH {
        let bed = Bed::new(medium);
        let volume = bed.create(1 << 30);
        let empty = volume.usage().used_bytes;
        let (address, extents) = add_file(&volume, 3 * SIZE);
        let (_, others) = add_file(&volume, 100 << 20);
        let segments = starts(&volume);
        let lease = volume.lease(&segments[..1]).unwrap();
        let refused = volume.clear_segment(segments[0]).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Conflict);
        assert!(extents.iter().all(|extent| reads_right(&volume, extent)));
        drop(lease);

        let cleared = volume.clear_segment(segments[0]).unwrap();
        assert!(cleared.freed_bytes >= 3 * SIZE);
        assert!(
            extents
                .iter()
                .all(|extent| cleared.contains(extent.address))
        );
        assert!(!others.iter().any(|extent| cleared.contains(extent.address)));
        assert_eq!(count(&volume, &extents, ExtentState::Absent), extents.len());
        assert!(others.iter().all(|extent| reads_right(&volume, extent)));
        for extent in &extents {
            fill(&volume, extent).unwrap();
            assert!(reads_right(&volume, extent));
        }
        for start in segments {
            volume.clear_segment(start).unwrap();
        }
        assert_eq!(volume.clear_segment(address).unwrap().freed_bytes, 0);
        // Tables keep a block here and there.
        assert!(volume.usage().used_bytes <= empty + (64 << 10));
        drop(volume);
        let again = bed.open().unwrap();
        assert_eq!(count(&again, &extents, ExtentState::Absent), extents.len());
    }
}

#[test]
fn pages_in_memory_are_put_together_and_stay_what_they_were() {
    let bed = Bed::new(Medium::Memory);
    let volume = bed.create(1 << 30);
    let (_, extents) = add_file(&volume, 20 << 20);
    let used = volume.usage().used_bytes;
    let start = starts(&volume)[0];
    let lease = volume.lease(&[start]).unwrap();
    let huge = volume.collapse(start).unwrap();
    println!("{huge} huge pages");
    assert!(extents.iter().all(|extent| reads_right(&volume, extent)));
    drop(lease);
    volume.clear(&extents[3]).unwrap();
    assert!(volume.usage().used_bytes <= used);
    for (number, extent) in extents.iter().enumerate() {
        assert_eq!(reads_right(&volume, extent), number != 3);
    }
    fill(&volume, &extents[3]).unwrap();
    assert!(extents.iter().all(|extent| reads_right(&volume, extent)));
    volume.clear_segment(start).unwrap();
    assert_eq!(count(&volume, &extents, ExtentState::Absent), extents.len());
}
