//! Images of whole data sets, lazy and sealed: what they serve, and what happens below them.

#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test program"
)]

#[allow(
    dead_code,
    reason = "shared by test programs, each of which uses another part"
)]
mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atlas_core::ErrorKind;
use atlas_engine::{LoadPhase, Slots, probe_mapped};
use atlas_mount::mounts::superblock_exists;
use atlas_origin::{Effect, Fault, Gate, Operation};
use common::{Bed, age, damage, eventually, path_in, pattern};

const QUOTA: u64 = 256 << 20;
const MIB: usize = 1 << 20;

/// Files of many sizes in two folders, by their paths.
fn files() -> BTreeMap<String, Vec<u8>> {
    let sizes = [0, 1, 4095, 4096, 4097, 8000, 110_000, MIB, 2 * MIB + 5];
    (0..)
        .zip(sizes)
        .map(|(seed, size)| (format!("d{}/f{seed}", seed % 2), pattern(seed, size)))
        .collect()
}

fn write(source: &Path) {
    for (path, bytes) in files() {
        let path = source.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

fn every(operation: Operation, effect: Effect) -> Fault {
    Fault {
        operation: Some(operation),
        at: 1,
        repeat: true,
        effect,
    }
}

/// A data set of [`files`] that is scanned and has its image.
fn bed() -> Option<Bed> {
    let bed = Bed::mapped(QUOTA, write)?;
    age();
    bed.create();
    bed.image_ready();
    Some(bed)
}

fn load(bed: &Bed) {
    assert_eq!(bed.load(&[]).phase, LoadPhase::Complete);
    bed.sealable();
}

fn check(mount: &std::os::fd::OwnedFd) {
    for (path, bytes) in files() {
        assert!(fs::read(path_in(mount, &path)).unwrap() == bytes, "{path}");
    }
}

#[test]
fn this_machine_is_tried_and_nothing_stays_behind() {
    if Bed::mapped(QUOTA, |_| {}).is_none() {
        return;
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let probed = probe_mapped(folder.path());
    probed.sealed.unwrap();
    // Whether lazy is allowed depends on the kernel; that there is an answer does not.
    if let Err(error) = probed.lazy {
        assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let refused = probe_mapped(memory.path());
    assert_eq!(refused.sealed.unwrap_err().kind, ErrorKind::Unsupported);
    assert!(refused.lazy.is_err());
}

#[test]
fn a_lazy_image_fetches_what_is_read_once_and_then_says_nothing() {
    let Some(bed) = bed() else { return };
    let lazy = bed.mount_lazy();
    check(&lazy.image.mount);
    let status = bed.status();
    let total: usize = files().values().map(Vec::len).sum();
    assert_eq!(
        status.origin.read_bytes, total as u64,
        "each byte comes once"
    );
    assert_eq!(status.cached_bytes, total as u64);
    let asked = status.mapped.twin_requests.clone();
    assert!(asked["read"] > 0);
    check(&lazy.image.mount);
    assert_eq!(
        bed.status().mapped.twin_requests,
        asked,
        "warm reads ask nobody"
    );
    // The user's view ends; the connection behind it with it.
    let superblock = lazy.image.superblock.clone();
    drop(lazy.image);
    eventually("the superblock ends", || {
        (!superblock_exists(&superblock)).then_some(())
    });
    eventually("the connection ends", || {
        bed.engine.twin_ended("data").unwrap().then_some(())
    });
    bed.engine.stop_twin("data").unwrap();
    check(&bed.mount_lazy().image.mount);
}

#[test]
fn an_origin_that_fails_is_an_error_that_is_not_kept() {
    let Some(bed) = Bed::mapped(QUOTA, write) else {
        return;
    };
    age();
    // The kernel asks for a single page again where reading ahead has failed.
    for at in [1, 2] {
        bed.fault(Fault {
            operation: Some(Operation::Read),
            at,
            repeat: false,
            effect: Effect::Fail(libc::EACCES),
        });
    }
    bed.create();
    bed.image_ready();
    let lazy = bed.mount_lazy();
    let path = path_in(&lazy.image.mount, "d1/f5");
    let error = fs::read(&path).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    let events = bed.engine.events();
    let told = events.iter().find(|event| event.reason == "ReadFailed");
    assert!(told.unwrap().message.contains("d1/f5"));
    check(&lazy.image.mount);
}

#[test]
fn an_origin_that_hangs_fails_a_read_in_time() {
    let Some(mut bed) = Bed::mapped(QUOTA, write) else {
        return;
    };
    age();
    bed.settings.mapped.read_deadline = Duration::from_secs(1);
    let gate = Arc::new(Gate::default());
    bed.fault(every(Operation::Read, Effect::Hold(Arc::clone(&gate))));
    bed.create();
    bed.image_ready();
    let lazy = bed.mount_lazy();
    let began = Instant::now();
    let error = fs::read(path_in(&lazy.image.mount, "d1/f5")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert!(bed.reasons().contains(&"ReadTimedOut"));
    gate.open();
    check(&lazy.image.mount);
}

#[test]
fn a_changed_file_is_an_error_and_never_other_bytes() {
    let Some(bed) = bed() else { return };
    fs::write(bed.source.join("d1/f5"), pattern(99, 8000)).unwrap();
    let lazy = bed.mount_lazy();
    let error = fs::read(path_in(&lazy.image.mount, "d1/f5")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert!(bed.reasons().contains(&"OriginChanged"));
    assert_eq!(bed.status().stale_files, 1);
}

#[test]
fn a_lazy_front_is_served_on_by_the_next_process() {
    let Some(bed) = bed() else { return };
    let lazy = bed.mount_lazy();
    let path = path_in(&lazy.image.mount, "d0/f6");
    assert!(fs::read(&path).unwrap() == files()["d0/f6"]);
    bed.close();
    bed.reopen();
    let served = lazy.device.try_clone().unwrap();
    bed.engine.serve_twin("data", served, true).unwrap();
    check(&lazy.image.mount);
}

#[test]
fn a_sealed_image_needs_everything_and_then_nobody() {
    let Some(bed) = bed() else { return };
    let refused = bed.engine.mount_image("data", Slots::Segments).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Conflict);
    assert!(refused.message.contains("not everything"), "{refused}");
    load(&bed);
    let sealed = bed.mount_sealed();
    let requests = bed.status().origin.requests;
    check(&sealed.mount);
    assert_eq!(bed.status().origin.requests, requests);
    let refused = bed.engine.destroy("data").unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Conflict);

    bed.close();
    let last = File::open(path_in(&sealed.mount, "d0/f8")).unwrap();
    rustix::fs::fadvise(&last, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    check(&sealed.mount);
    // The next process is told of it, and keeps its hands off until the last user has left.
    let mut bed = bed;
    bed.settings.mapped.held = vec![sealed.superblock.clone()];
    bed.reopen();
    drop(sealed.mount);
    let refused = bed.engine.destroy("data").unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Conflict, "an open file holds it");
    let mut bytes = vec![0; 2 * MIB + 5];
    last.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == files()["d0/f8"]);
    drop(last);
    eventually("the superblock ends", || {
        (!superblock_exists(&sealed.superblock)).then_some(())
    });
    bed.destroy();
}

#[test]
fn damage_is_found_before_sealing_and_repaired() {
    let Some(mut bed) = Bed::mapped(QUOTA, write) else {
        return;
    };
    age();
    bed.settings.mapped.seal = false;
    bed.create();
    bed.image_ready();
    assert_eq!(bed.load(&[]).phase, LoadPhase::Complete);
    bed.close();
    assert!(damage(&bed.tier_folder) > 500);
    bed.settings.mapped.seal = true;
    bed.reopen();
    bed.sealable();
    let extents = files().values().filter(|bytes| !bytes.is_empty()).count() + 2;
    assert_eq!(bed.status().damaged_extents, extents as u64);
    check(&bed.mount_sealed().mount);
}

#[test]
fn damage_below_a_sealed_image_is_found_by_the_scrub() {
    let Some(mut bed) = Bed::mapped(QUOTA, write) else {
        return;
    };
    age();
    bed.settings.mapped.scrub_period = Some(Duration::from_millis(100));
    bed.create();
    bed.image_ready();
    load(&bed);
    let sealed = bed.mount_sealed();
    check(&sealed.mount);
    assert!(damage(&bed.tier_folder) > 500);
    eventually("the scrub finds it", || {
        (bed.status().damaged_extents > 0).then_some(())
    });
    // Repaired in place, below the image that is still mounted.
    bed.sealable();
    assert!(bed.reasons().contains(&"CorruptExtent"));
    check(&bed.mount_sealed().mount);
    let fresh = File::open(path_in(&sealed.mount, "d0/f8")).unwrap();
    rustix::fs::fadvise(&fresh, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    check(&sealed.mount);
}

#[test]
fn a_tier_that_is_taken_away_ends_the_seal() {
    let Some(bed) = bed() else { return };
    load(&bed);
    let sealed = bed.mount_sealed();
    let away = bed.tier_folder.with_extension("away");
    let began = Instant::now();
    fs::rename(&bed.tier_folder, &away).unwrap();
    eventually("the engine notices", || bed.status().mapped.unsealed);
    assert!(began.elapsed() < Duration::from_secs(5));
    check(&bed.mount_lazy().image.mount);
    fs::rename(&away, &bed.tier_folder).unwrap();
    bed.sealable();
    check(&sealed.mount);
}
