//! Whole data sets of real folders: scan, readers, loads, faults, ends.

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

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use atlas_engine::{LoadPhase, ScanProgress};
use atlas_origin::{Effect, Fault, Gate, Operation};
use common::{Bed, age, damage, eventually, pattern};

const QUOTA: u64 = 256 << 20;
const MIB: usize = 1 << 20;

fn every(operation: Operation, effect: Effect) -> Fault {
    Fault {
        operation: Some(operation),
        at: 1,
        repeat: true,
        effect,
    }
}

#[test]
fn many_readers_of_one_extent_make_one_fetch() {
    let bytes = pattern(1, MIB);
    let bed = Bed::new(QUOTA, |source| {
        fs::write(source.join("file"), &bytes).unwrap();
    });
    age();
    let gate = Arc::new(Gate::default());
    bed.fault(every(Operation::Read, Effect::Hold(Arc::clone(&gate))));
    bed.create();
    let Some(mounted) = bed.mount() else {
        println!("skipped: no mount");
        return;
    };
    let part = MIB / 32;
    thread::scope(|scope| {
        for index in 0..32 {
            let (path, bytes) = (mounted.path("file"), &bytes);
            scope.spawn(move || {
                let file = fs::File::open(path).unwrap();
                let mut buffer = vec![0; part];
                file.read_exact_at(&mut buffer, (index * part) as u64)
                    .unwrap();
                assert_eq!(buffer, bytes[index * part..][..part]);
            });
        }
        assert!(gate.wait_for(1, Duration::from_secs(10)));
        thread::sleep(Duration::from_millis(200));
        gate.open();
    });
    let status = bed.status();
    assert_eq!(status.origin.read_bytes, MIB as u64);
    assert_eq!((status.cached_files, status.cached_bytes), (1, MIB as u64));
}

#[test]
fn a_load_brings_every_kind_of_file_and_counts_it_once() {
    let sizes = [0, 1, 4095, 4096, 4097, MIB - 1, MIB, MIB + 1, 3 * MIB];
    let bed = Bed::new(QUOTA, |source| {
        for (seed, size) in sizes.iter().enumerate() {
            fs::write(source.join(format!("f{seed}")), pattern(seed as u64, *size)).unwrap();
        }
        // The file is met under its second name first.
        fs::create_dir(source.join("a")).unwrap();
        fs::create_dir(source.join("b")).unwrap();
        fs::write(source.join("b/first"), pattern(77, 5000)).unwrap();
        fs::hard_link(source.join("b/first"), source.join("a/second")).unwrap();
    });
    bed.create();
    bed.scanned();
    // All files are young: the load waits until they may be kept.
    let load = bed.load(&["/", "b", "a/second"]);
    let files = sizes.len() as u64 + 1;
    let total = sizes.iter().sum::<usize>() as u64 + 5000;
    assert_eq!(load.phase, LoadPhase::Complete, "{load:?}");
    assert_eq!((load.files, load.files_total), (files, Some(files)));
    assert_eq!((load.bytes, load.bytes_total), (total, Some(total)));
    let check = |bed: &Bed| {
        let status = bed.status();
        assert_eq!((status.cached_files, status.cached_bytes), (files, total));
        assert_eq!((status.files, status.total_bytes), (files, total));
        assert!(status.used_bytes <= QUOTA);
    };
    check(&bed);
    bed.close();
    // What is cached is served without the origin, also by the next process.
    fs::rename(&bed.source, bed.away()).unwrap();
    bed.reopen();
    check(&bed);
    if let Some(mounted) = bed.mount() {
        for (seed, size) in sizes.iter().enumerate() {
            let read = mounted.read(&format!("f{seed}")).unwrap();
            assert!(read == pattern(seed as u64, *size), "{size} bytes");
        }
        for name in ["a/second", "b/first"] {
            assert!(mounted.read(name).unwrap() == pattern(77, 5000));
        }
    }
}

#[test]
fn either_name_of_a_hard_link_can_be_loaded() {
    for (age_first, path) in [(true, "a/one"), (true, "b/two"), (false, "b/two")] {
        let bed = Bed::new(QUOTA, |source| {
            fs::create_dir(source.join("a")).unwrap();
            fs::create_dir(source.join("b")).unwrap();
            fs::write(source.join("a/one"), b"bytes").unwrap();
            fs::hard_link(source.join("a/one"), source.join("b/two")).unwrap();
        });
        if age_first {
            age();
        }
        bed.create();
        bed.scanned();
        let load = bed.load(&[path]);
        assert_eq!(
            (load.phase, load.files),
            (LoadPhase::Complete, 1),
            "{load:?}"
        );
    }
}

#[test]
fn a_load_names_what_failed_and_brings_the_rest() {
    let bed = Bed::new(QUOTA, |source| {
        for index in 0..100 {
            fs::write(source.join(format!("f{index:02}")), pattern(index, 9000)).unwrap();
        }
        fs::write(source.join("large"), pattern(7, 2 * MIB + 5)).unwrap();
    });
    age();
    bed.fault(Fault {
        operation: Some(Operation::Read),
        at: 50,
        repeat: false,
        effect: Effect::Fail(libc::EIO),
    });
    bed.create();
    bed.scanned();
    fs::remove_file(bed.source.join("f10")).unwrap();
    fs::write(bed.source.join("f20"), b"another version").unwrap();
    let load = bed.load(&[]);
    assert_eq!(load.phase, LoadPhase::Partial, "{load:?}");
    assert_eq!((load.failed_count, load.skipped_bytes), (3, 0), "{load:?}");
    assert_eq!(load.files, 98, "{load:?}");
    let status = bed.status();
    assert_eq!((status.stale_files, status.cached_files), (1, 98));

    // The second load brings what failed only for a while.
    let load = bed.load(&[]);
    assert_eq!((load.failed_count, load.files), (2, 99), "{load:?}");
    if let Some(mounted) = bed.mount() {
        for _ in 0..30 {
            let error = mounted.read("f20").unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ESTALE));
        }
        let error = mounted.read("f10").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        assert!(mounted.read("f11").unwrap() == pattern(11, 9000));
    }
    let told = bed.reasons();
    let changed = told.iter().filter(|reason| **reason == "OriginChanged");
    assert_eq!((changed.count(), bed.status().stale_files), (1, 1));
}

#[test]
fn what_does_not_fit_is_served_from_the_origin() {
    let bed = Bed::new(4 << 20, |source| {
        for index in 0..64 {
            fs::write(source.join(format!("f{index:02}")), pattern(index, 200_000)).unwrap();
        }
    });
    age();
    bed.create();
    bed.scanned();
    let load = bed.load(&[]);
    assert_eq!((load.phase, load.failed_count), (LoadPhase::Partial, 0));
    assert_eq!(load.bytes + load.skipped_bytes, 64 * 200_000);
    let status = bed.status();
    assert_eq!(status.cached_bytes, load.bytes);
    assert!(status.used_bytes <= status.quota_bytes);
    // What concurrent batches reserve is no reason to leave space unused.
    assert!(
        status.quota_bytes - status.used_bytes < 300_000,
        "{status:?}"
    );
    if let Some(mounted) = bed.mount() {
        for index in 0..64 {
            let read = mounted.read(&format!("f{index:02}")).unwrap();
            assert!(read == pattern(index, 200_000));
        }
    }
    assert!(bed.status().used_bytes <= status.quota_bytes);
}

#[test]
fn a_data_set_that_is_closed_in_the_midst_of_everything_goes_on_later() {
    let bed = Bed::new(QUOTA, |source| {
        for folder in 0..8 {
            let folder = source.join(format!("d{folder}"));
            fs::create_dir(&folder).unwrap();
            for index in 0..50 {
                fs::write(folder.join(format!("f{index}")), pattern(index, 3000)).unwrap();
            }
        }
    });
    age();
    let gate = Arc::new(Gate::default());
    bed.fault(every(Operation::Read, Effect::Hold(Arc::clone(&gate))));
    bed.create();
    bed.scanned();
    let Some(mounted) = bed.mount() else {
        println!("skipped: no mount");
        return;
    };
    bed.start_load("first", &[]);
    bed.start_load("second", &[]);
    let (readers, paths): (Vec<_>, Vec<_>) = (0..40)
        .map(|index| (index, mounted.path(&format!("d{}/f{index}", index % 8))))
        .unzip();
    thread::scope(|scope| {
        for (index, path) in readers.into_iter().zip(paths) {
            scope.spawn(move || assert!(fs::read(path).unwrap() == pattern(index, 3000)));
        }
        assert!(gate.wait_for(20, Duration::from_secs(10)));
        bed.close();
        gate.open();
        // Nothing that was dropped keeps the volume, and no reader has seen an error.
        bed.reopen();
        mounted.serve_again(&bed);
    });
    assert_eq!(bed.load(&[]).phase, LoadPhase::Complete);
    assert_eq!(bed.status().cached_files, 400);
    drop(mounted);
    eventually("the mount ends", || {
        bed.engine.ended("data").unwrap().then_some(())
    });
    bed.destroy();
    assert!(bed.source.join("d7/f49").exists());
}

#[test]
fn damaged_bytes_are_fetched_again_while_they_are_read() {
    let bytes = pattern(3, 2 * MIB + 100);
    let bed = Bed::new(QUOTA, |source| {
        fs::write(source.join("large"), &bytes).unwrap();
        fs::write(source.join("small"), pattern(4, 7000)).unwrap();
    });
    age();
    bed.create();
    bed.scanned();
    assert_eq!(bed.load(&[]).phase, LoadPhase::Complete);
    let before = bed.status();
    let Some(mounted) = bed.mount() else {
        println!("skipped: no mount");
        return;
    };
    assert!(damage(&bed.tier_folder) > 500);
    // Direct reads show the first answer; others the kernel asks for again, page by page.
    let direct = fs::File::options()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(mounted.path("small"))
        .unwrap();
    let mut page = [0; 4096];
    direct.read_exact_at(&mut page, 0).unwrap();
    assert!(page == pattern(4, 7000)[..4096]);
    assert!(mounted.read("large").unwrap() == bytes);
    assert!(mounted.read("small").unwrap() == pattern(4, 7000));
    let after = bed.status();
    assert_eq!(
        (after.cached_files, after.cached_bytes),
        (before.cached_files, before.cached_bytes)
    );
    assert!(bed.reasons().contains(&"CorruptExtent"));
}

#[test]
fn lost_checksums_are_noticed_once_and_made_again() {
    let bytes = pattern(5, 3 * MIB);
    let bed = Bed::new(QUOTA, |source| {
        fs::write(source.join("file"), &bytes).unwrap();
    });
    age();
    bed.create();
    bed.scanned();
    assert_eq!(bed.load(&[]).phase, LoadPhase::Complete);
    let Some(mounted) = bed.mount() else {
        println!("skipped: no mount");
        return;
    };
    let volume = fs::read_dir(&bed.tier_folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.is_dir())
        .unwrap();
    let checksums = fs::File::options()
        .write(true)
        .open(volume.join("checksums"))
        .unwrap();
    checksums.set_len(100).unwrap();
    let before = bed.status();
    assert!(mounted.read("file").unwrap() == bytes);
    let after = bed.status();
    assert!(after.miss_bytes > before.miss_bytes, "nothing was damaged");
    assert_eq!(after.cached_bytes, before.cached_bytes);
    assert!(bed.reasons().contains(&"CorruptExtent"));
    // Kept again: the next look at it needs no origin.
    assert_eq!(bed.load(&[]).phase, LoadPhase::Complete);
    assert_eq!(bed.status().miss_bytes, after.miss_bytes);
}

#[test]
fn no_name_is_lost_to_an_origin_that_is_away_for_a_while() {
    let bed = Bed::new(QUOTA, |source| {
        for index in 0..10 {
            fs::write(source.join(format!("f{index}")), b"bytes").unwrap();
        }
    });
    let gate = Arc::new(Gate::default());
    bed.fault(Fault {
        operation: Some(Operation::Stat),
        // The first is that of the root.
        at: 2,
        repeat: false,
        effect: Effect::Hold(Arc::clone(&gate)),
    });
    bed.create();
    // The names are known, the attributes are being asked for.
    assert!(gate.wait_for(1, Duration::from_secs(10)));
    fs::rename(&bed.source, bed.away()).unwrap();
    thread::sleep(Duration::from_millis(150));
    let mounted = bed.mount();
    gate.open();
    let status = bed.scanned();
    if let Some(mounted) = &mounted {
        assert!(fs::metadata(mounted.path("f9")).is_err());
    }
    fs::rename(bed.away(), &bed.source).unwrap();
    thread::sleep(Duration::from_millis(150));
    if let Some(mounted) = &mounted {
        assert_eq!(fs::metadata(mounted.path("f9")).unwrap().len(), 5);
    }
    assert_ne!(status.scan, ScanProgress::Complete);
    eventually("the scan is made good", || {
        (bed.status().scan == ScanProgress::Complete).then_some(())
    });
    assert_eq!(bed.status().files, 10);
}

#[test]
fn the_data_set_of_another_user_is_cached_and_leaves_no_trace() {
    let bed = Bed::new(QUOTA, |source| {
        fs::write(source.join("file"), b"bytes").unwrap();
    });
    if !rustix::process::geteuid().is_root() {
        println!("skipped: not root");
        return;
    }
    let open = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode;
    for path in bed.source.ancestors().take(2) {
        fs::set_permissions(path, open(0o755)).unwrap();
    }
    fs::set_permissions(bed.source.join("file"), open(0o644)).unwrap();
    let old = fs::FileTimes::new().set_accessed(std::time::UNIX_EPOCH);
    let file = fs::File::options()
        .write(true)
        .open(bed.source.join("file"));
    file.unwrap().set_times(old).unwrap();
    age();
    let mut settings = bed.settings.clone();
    settings.identity.uid = 12345;
    settings.identity.gid = 12345;
    settings.identity.groups = vec![12345];
    bed.engine.create(settings).unwrap();
    bed.scanned();
    let load = bed.load(&[]);
    assert_eq!(load.phase, LoadPhase::Complete, "{load:?}");
    assert_eq!(fs::metadata(bed.source.join("file")).unwrap().atime(), 0);
}

#[test]
fn readers_scan_and_loads_meet_without_harm() {
    const FOLDERS: u64 = 12;
    const FILES: u64 = 60;
    let size = |index: u64| ((index * 7919) % 20_000) as usize;
    let bed = Bed::new(QUOTA, |source| {
        for folder in 0..FOLDERS {
            let folder = source.join(format!("d{folder}"));
            fs::create_dir(&folder).unwrap();
            for index in 0..FILES {
                let bytes = pattern(index, size(index));
                fs::write(folder.join(format!("f{index}")), bytes).unwrap();
            }
            fs::hard_link(folder.join("f1"), folder.join("other")).unwrap();
        }
    });
    age();
    for round in 0..5 {
        bed.create();
        let Some(mounted) = bed.mount() else {
            println!("skipped: no mount");
            return;
        };
        bed.start_load("one", &[]);
        bed.start_load("two", &["d3", "d5/f1", "d5/other"]);
        thread::scope(|scope| {
            for reader in 0..8 {
                let mounted = &mounted;
                scope.spawn(move || {
                    for step in 0..200 {
                        let pick = (reader * 1_000 + step + round) * 2_654_435_761;
                        let (folder, index) = (pick / 64 % FOLDERS, pick / 4096 % FILES);
                        let read = mounted.read(&format!("d{folder}/f{index}")).unwrap();
                        assert!(read == pattern(index, size(index)));
                    }
                });
            }
        });
        for load in ["one", "two"] {
            let phase = eventually("the load ends", || {
                let status = bed.engine.load_status("data", load).unwrap();
                (status.phase != LoadPhase::Running).then_some(status.phase)
            });
            assert_eq!(phase, LoadPhase::Complete);
        }
        let status = bed.scanned();
        assert_eq!(status.scan, ScanProgress::Complete);
        assert_eq!(status.files, FOLDERS * FILES);
        assert_eq!(
            (status.cached_files, status.cached_bytes),
            (status.files, status.total_bytes)
        );
        assert_eq!(status.origin.read_bytes, status.total_bytes, "fetched once");
        for folder in 0..FOLDERS {
            let inode = |name| fs::metadata(mounted.path(&format!("d{folder}/{name}"))).unwrap();
            assert_eq!(inode("f1").ino(), inode("other").ino());
        }
        drop(mounted);
        eventually("the mount ends", || {
            bed.engine.ended("data").unwrap().then_some(())
        });
        bed.destroy();
    }
}
