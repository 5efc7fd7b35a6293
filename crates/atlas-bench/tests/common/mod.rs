//! Two folders, and what all tests with a slow origin measure by.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "shared by test programs, each of which uses another part"
)]

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use atlas_bench::Limits;
use atlas_mount::mounts;
use rustix::fs::AtFlags;

pub const NO_LIMITS: Limits = Limits {
    latency: Duration::ZERO,
    bytes_per_second: 0,
    operations_per_second: 0,
};

pub struct Place {
    pub source: PathBuf,
    pub target: PathBuf,
    folder: tempfile::TempDir,
}

impl Place {
    pub fn other_folder(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    }
}

/// Two folders, in a mount namespace of this thread's own; `None`, with the reason said, where
/// real mounts cannot be tested.
pub fn place() -> Option<Place> {
    if !rustix::process::geteuid().is_root() || mounts::open_device().is_err() {
        println!("skipped: not root, or no /dev/fuse");
        return None;
    }
    // SAFETY: only this thread and those it starts from now on get the new namespace, and no code
    // here shares a working directory between threads.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
    let private =
        rustix::mount::MountPropagationFlags::PRIVATE | rustix::mount::MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).unwrap();
    let folder = tempfile::Builder::new()
        .prefix("atlas-bench-")
        .tempdir()
        .unwrap();
    let source = folder.path().join("source");
    let target = folder.path().join("target");
    fs::create_dir(&source).unwrap();
    fs::create_dir(&target).unwrap();
    Some(Place {
        source,
        target,
        folder,
    })
}

pub fn pattern(length: usize) -> Vec<u8> {
    (0..length as u64)
        .map(|index| (index.wrapping_mul(0x9e37_79b9) >> 13) as u8)
        .collect()
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub fn within_a_tenth(what: &str, got: f64, asked: f64) {
    println!("{what}: asked {asked}, got {got:.4}");
    assert!(
        (got / asked - 1.0).abs() <= 0.1,
        "{what}: asked {asked}, got {got}"
    );
}

/// Calls `action` from so many threads until the time is over; how many calls a second ended.
pub fn rate(threads: usize, window: Duration, action: impl Fn(usize) + Sync) -> f64 {
    let start = Instant::now();
    let calls: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|thread| {
                let action = &action;
                scope.spawn(move || {
                    let mut calls = 0;
                    while start.elapsed() < window {
                        action(thread);
                        calls += 1;
                    }
                    calls
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    calls as f64 / start.elapsed().as_secs_f64()
}

/// One message to the origin, with nothing else around it.
pub fn attributes_of(file: &fs::File) {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
    rustix::fs::statx(file, "", flags, rustix::fs::StatxFlags::BASIC_STATS).unwrap();
}
