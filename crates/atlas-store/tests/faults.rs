//! A tier that is full, out of inodes or failing degrades; it loses nothing and lies never.
//!
//! These tests mount file systems. Without the right to do so they say so and pass.

#[cfg(test)]
#[expect(dead_code, reason = "each test crate uses a part of it")]
mod common;
#[cfg(test)]
#[path = "common/mounts.rs"]
mod mounts;

use std::process::Command;
use std::sync::Arc;

use atlas_core::{ErrorKind, Extent};
use atlas_store::table::GrowableMap;
use atlas_store::{ExtentState, Medium, Tier, Volume, VolumeSettings};
use common::{add_file, fill, in_memory, one_extent, padded, reads_right};
use mounts::{Mounted, create, eventually, fail_from_now_on, fill_when_tried_again};

#[test]
fn a_full_tier_is_an_error_loses_nothing_and_works_again() {
    let Some(mount) = Mounted::tmpfs("size=16m") else {
        return;
    };
    let live = in_memory();
    let folder = mount.path().join("tier");
    let tier = Arc::new(Tier::open(&folder, Medium::Memory, true, None).unwrap());
    let volume = create(&tier, live.path());
    let mut filled: Vec<Extent> = Vec::new();
    let refused = loop {
        let extent = one_extent(volume.allocate(700_000, false).unwrap(), 700_000);
        match fill(&volume, &extent) {
            Ok(()) => filled.push(extent),
            Err(error) => break (extent, error),
        }
    };
    assert!(filled.len() > 15, "{} extents fitted", filled.len());
    assert_eq!(refused.1.kind, ErrorKind::NoSpace);
    assert!(volume.degraded().is_some() && volume.tier_errors() == 1);
    assert_eq!(volume.state(&refused.0), ExtentState::Absent);
    assert_eq!(volume.usage().reserved_bytes, 0);
    assert_eq!(
        volume.usage().used_bytes,
        common::disk_usage(&folder.join("wav"))
    );
    // Not even a page is asked of the tier for a while.
    assert!(volume.reserve(4096).is_none());
    assert!(filled.iter().all(|extent| reads_right(&volume, extent)));
    volume.clear(&filled.pop().unwrap()).unwrap();
    fill(&volume, &refused.0).unwrap();
    assert!(reads_right(&volume, &refused.0) && volume.degraded().is_none());
    assert!(filled.iter().all(|extent| reads_right(&volume, extent)));

    // Somebody else fills the tier, and leaves again: the volume comes back by itself.
    let foreign = mount.path().join("foreign");
    std::fs::write(&foreign, vec![1; tier.free_bytes().unwrap() as usize]).unwrap();
    let extent = one_extent(volume.allocate(300_000, false).unwrap(), 300_000);
    assert!(fill(&volume, &extent).is_err());
    std::fs::remove_file(&foreign).unwrap();
    fill_when_tried_again(&volume, &extent);
}

#[test]
fn huge_pages_stay_within_the_quota() {
    let Some(mount) = Mounted::tmpfs("size=256m,huge=always") else {
        return;
    };
    let live = in_memory();
    let tier = Tier::open(&mount.path().join("tier"), Medium::Memory, true, None).unwrap();
    if tier.granule() == 4096 {
        println!("not tried: this kernel gives no huge pages to a tmpfs");
    }
    let quota_bytes = 64 << 20;
    let settings = VolumeSettings {
        quota_bytes,
        held: false,
    };
    let volume = Volume::create(&Arc::new(tier), "wav", live.path(), settings).unwrap();
    let mut filled = 0;
    while !volume.full() && filled < quota_bytes {
        // Far apart, so that each fill may take a huge page for itself.
        volume.allocate(3 << 20, false).unwrap();
        let extent = one_extent(volume.allocate(300_000, false).unwrap(), 300_000);
        fill(&volume, &extent).unwrap();
        filled += extent.footprint();
        assert!(common::disk_usage(&mount.path().join("tier/wav")) <= quota_bytes);
    }
    assert!(volume.full() && volume.usage().used_bytes > quota_bytes / 2);
}

#[test]
fn without_inodes_addresses_are_given_out_and_fills_fail() {
    let Some(mount) = Mounted::tmpfs("size=16m,nr_inodes=7") else {
        return;
    };
    let live = in_memory();
    let folder = mount.path().join("tier");
    let tier = Arc::new(Tier::open(&folder, Medium::Memory, true, None).unwrap());
    let volume = create(&tier, live.path());
    let mut number = 0;
    while std::fs::write(mount.path().join(number.to_string()), "").is_ok() {
        number += 1;
    }
    let extent = one_extent(volume.allocate(5000, false).unwrap(), 5000);
    assert_eq!(fill(&volume, &extent).unwrap_err().kind, ErrorKind::NoSpace);
    assert!(volume.degraded().is_some());
    std::fs::remove_file(mount.path().join("0")).unwrap();
    fill_when_tried_again(&volume, &extent);
}

#[test]
fn a_full_live_folder_leaves_files_without_a_place_and_kills_nobody() {
    let Some(mount) = Mounted::tmpfs("size=512k") else {
        return;
    };
    let home = in_memory();
    let tier = Tier::open(&home.path().join("tier"), Medium::Memory, true, None).unwrap();
    let volume = create(&Arc::new(tier), mount.path());
    let (_, extents) = add_file(&volume, 100_000);
    let vast = volume.allocate(1 << 40, false).unwrap();
    let other = volume.allocate(1 << 40, false).unwrap();
    assert_eq!(other.0, vast.0 + (1 << 40));
    let extent = one_extent(vast, 4096);
    assert_eq!(volume.state(&extent), ExtentState::Absent);
    assert!(!volume.verify(&extent).unwrap().is_sound() && !reads_right(&volume, &extent));
    volume.clear(&extent).unwrap();
    assert!(volume.degraded().is_some() && reads_right(&volume, &extents[0]));
    let small = one_extent(volume.allocate(100_000, false).unwrap(), 100_000);
    fill_when_tried_again(&volume, &small);
}

#[test]
fn a_table_on_a_full_tmpfs_fails_to_grow_and_stays_usable() {
    let Some(mount) = Mounted::tmpfs("size=1m") else {
        return;
    };
    let path = mount.path().join("table");
    let map = GrowableMap::create(&path, *b"testtabl", 1, 1 << 30).unwrap();
    let mut bytes = 1000;
    let error = loop {
        match map.grow_to(bytes) {
            Ok(()) => bytes += 1000,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind, ErrorKind::NoSpace);
    assert!(map.len() >= 900 << 10, "{} bytes were usable", map.len());
    // Each page is touched: a page without a block behind it would be a SIGBUS.
    let ones = vec![1; map.len() as usize];
    map.copy_in(0, &ones).unwrap();
    std::fs::remove_file(&path).unwrap();
    drop(map);
}

#[test]
fn a_failing_disk_degrades_and_only_what_was_committed_comes_back() {
    let home = tempfile::tempdir().unwrap();
    let image = home.path().join("image");
    std::fs::File::create(&image)
        .unwrap()
        .set_len(64 << 20)
        .unwrap();
    let made = Command::new("mkfs.ext4").arg("-q").arg(&image).status();
    if !made.is_ok_and(|status| status.success()) {
        println!("not tried: no mkfs.ext4");
        return;
    }
    let image = image.to_str().unwrap();
    let Some(mount) = Mounted::new(&["-o", "loop", image]) else {
        return;
    };
    let live = in_memory();
    let tier = Arc::new(Tier::open(mount.path(), Medium::Ssd, true, None).unwrap());
    let uuid = tier.uuid().to_owned();
    let volume = create(&tier, live.path());
    let (_, committed) = add_file(&volume, 3_000_000);
    volume.commit().unwrap();
    let (_, uncommitted) = add_file(&volume, 3_000_000);
    fail_from_now_on(&mount);

    assert!(volume.commit().is_err());
    assert!(volume.degraded().is_some());
    assert!(
        !uncommitted
            .iter()
            .any(|extent| volume.is_live(extent.address))
    );
    assert!(
        committed
            .iter()
            .all(|extent| volume.is_live(extent.address))
    );
    // A read of the failing disk is a miss, and the extent is no longer offered.
    assert!(!reads_right(&volume, &committed[0]) && !volume.is_live(committed[0].address));
    let again = one_extent(uncommitted[0].address, 8192);
    eventually(|| match volume.reserve(8192) {
        Some(space) => volume
            .fill(again.address, &padded(&again), &[again], space)
            .is_err(),
        None => false,
    });
    // The listing goes on: what has no segment has a place that nothing is kept at.
    let vast = one_extent(volume.allocate(1 << 30, false).unwrap(), 4096);
    assert_eq!(volume.state(&vast), ExtentState::Absent);
    assert!(volume.close().is_ok() || volume.degraded().is_some());
    drop(volume);
    drop(tier);

    assert!(
        Command::new("umount")
            .arg(mount.path())
            .status()
            .unwrap()
            .success()
    );
    let empty = Tier::open(mount.path(), Medium::Ssd, false, Some(&uuid))
        .err()
        .unwrap();
    assert_eq!(empty.kind, ErrorKind::NotFound);
    let Some(mount) = Mounted::new(&["-o", "loop", image]) else {
        return;
    };
    let tier = Tier::open_in_boot(mount.path(), Medium::Ssd, false, Some(&uuid), "next boot");
    let settings = VolumeSettings {
        quota_bytes: 1 << 40,
        held: false,
    };
    let volume = Volume::open(&Arc::new(tier.unwrap()), "wav", live.path(), settings).unwrap();
    for extent in &committed {
        assert_eq!(volume.state(extent), ExtentState::Unverified);
        assert!(volume.verify(extent).unwrap().is_sound() && reads_right(&volume, extent));
    }
    for extent in &uncommitted {
        assert_eq!(volume.state(extent), ExtentState::Absent);
        fill(&volume, extent).unwrap();
    }
    volume.close().unwrap();
}
