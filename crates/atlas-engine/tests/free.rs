//! Giving up what is cached, under readers and below mounted images.

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

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use atlas_core::ErrorKind;
use atlas_engine::{LoadPhase, Slots};
use common::{Bed, age, eventually, path_in, pattern};
use rustix::fs::{Advice, fadvise};

const QUOTA: u64 = 256 << 20;
const FILES: u64 = 200;
const READERS: u64 = 3;
const ROUNDS: u64 = 30;

fn size(file: u64) -> usize {
    // Some of several extents.
    if file.is_multiple_of(20) {
        (3 << 20) + 9_000
    } else {
        9_000
    }
}

fn bed() -> Option<Bed> {
    let bed = Bed::mapped(QUOTA, |source| {
        for file in 0..FILES {
            fs::write(source.join(format!("{file}")), pattern(file, size(file))).unwrap();
        }
    })?;
    age();
    bed.create();
    bed.image_ready();
    Some(bed)
}

#[test]
fn the_books_are_right_after_frees_under_readers() {
    let Some(bed) = bed() else { return };
    let lazy = bed.mount_lazy();
    let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for reader in 0..READERS {
            let (lazy, stop, reads) = (&lazy, &stop, &reads);
            scope.spawn(move || {
                for file in (0..).map(|step| (step * 7 + reader * 31) % FILES) {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let path = path_in(&lazy.image.mount, &file.to_string());
                    let open = File::open(path).unwrap();
                    fadvise(&open, 0, None, Advice::DontNeed).unwrap();
                    // Whole files, and the tails of large ones alone.
                    let start = if reader == 0 { size(file) - 9_000 } else { 0 };
                    let mut bytes = vec![0; size(file) - start];
                    open.read_exact_at(&mut bytes, start as u64).unwrap();
                    assert!(bytes == pattern(file, size(file))[start..], "file {file}");
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut freed = 0;
        for round in 1..=ROUNDS {
            eventually("the readers go on", || {
                (reads.load(Ordering::Relaxed) >= round * 50).then_some(())
            });
            let now = bed.engine.free("data").unwrap();
            assert_eq!(now.held_bytes, 0, "twins hold nothing");
            freed += now.freed_bytes;
        }
        stop.store(true, Ordering::Relaxed);
        println!("{ROUNDS} frees, {freed} bytes freed, {reads:?} reads");
        assert!(freed > 0);
    });
    let counted = bed.status();
    assert!(counted.cached_bytes < counted.total_bytes, "{counted:?}");
    assert!(!bed.reasons().contains(&"CorruptExtent"));
    drop(lazy.image);
    eventually("the twin ends", || {
        bed.engine.twin_ended("data").unwrap().then_some(())
    });
    bed.close();
    bed.reopen();
    let found = bed.status();
    assert_eq!(
        (counted.cached_files, counted.cached_bytes),
        (found.cached_files, found.cached_bytes),
        "counted along the way, and anew from the bitmaps"
    );
    bed.engine.free("data").unwrap();
    assert_eq!(
        (bed.status().cached_files, bed.status().cached_bytes),
        (0, 0)
    );
}

#[test]
fn what_a_sealed_image_reads_is_freed_when_its_last_user_leaves() {
    let Some(bed) = bed() else { return };
    assert_eq!(bed.load(&[]).phase, LoadPhase::Complete);
    bed.sealable();
    let sealed = bed.mount_sealed();
    let open = File::open(path_in(&sealed.mount, "20")).unwrap();
    let total = bed.status().total_bytes;

    let freed = bed.engine.free("data").unwrap();
    assert_eq!(freed.freed_bytes, 0);
    assert!(freed.held_bytes >= total);
    let refused = bed.engine.mount_image("data", Slots::Segments).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Conflict);
    assert!(refused.message.contains("being freed"), "{refused}");

    drop(sealed.mount);
    fadvise(&open, 0, None, Advice::DontNeed).unwrap();
    let mut bytes = vec![0; size(20)];
    open.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == pattern(20, size(20)));
    assert_eq!(bed.status().cached_bytes, total);
    drop(open);
    eventually("the bytes are freed", || {
        (bed.status().cached_bytes == 0).then_some(())
    });

    // It is a data set like any other again.
    assert_eq!(bed.load(&[]).phase, LoadPhase::Complete);
    bed.sealable();
    let sealed = bed.mount_sealed();
    for file in 0..FILES {
        let read = fs::read(path_in(&sealed.mount, &file.to_string())).unwrap();
        assert!(read == pattern(file, size(file)), "file {file}");
    }
}

#[test]
fn a_free_during_a_verification_is_not_undone_by_it() {
    let Some(mut bed) = Bed::mapped(QUOTA, |source| {
        for file in 0..FILES {
            fs::write(source.join(format!("{file}")), pattern(file, size(file))).unwrap();
        }
    }) else {
        return;
    };
    // A scrub that takes a while, again and again.
    bed.settings.mapped.scrub_period = Some(Duration::from_millis(1));
    bed.settings.mapped.scrub_bytes_per_second = Some(8 << 20);
    age();
    bed.create();
    bed.image_ready();
    for round in 0..3 {
        assert_eq!(bed.load(&[]).phase, LoadPhase::Complete);
        bed.sealable();
        let sealed = bed.mount_sealed();
        let half = bed.status().total_bytes / 2;
        eventually("a scrub is under way", || {
            (1..half)
                .contains(&bed.status().mapped.verified_bytes)
                .then_some(())
        });
        drop(sealed);
        eventually("nothing is held any more", || {
            (bed.engine.free("data").unwrap().held_bytes == 0).then_some(())
        });
        eventually("the scrub is over", || {
            let first = bed.status().mapped.verified_bytes;
            thread::sleep(Duration::from_millis(300));
            (bed.status().mapped.verified_bytes == first).then_some(())
        });
        let status = bed.status();
        assert_eq!(
            (status.cached_files, status.cached_bytes),
            (0, 0),
            "round {round}"
        );
        assert!(!bed.reasons().contains(&"CorruptExtent"));
    }
}
