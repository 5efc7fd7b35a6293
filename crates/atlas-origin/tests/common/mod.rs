//! What the tests of this crate share.

#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "each test program uses its part of this"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use atlas_core::Identity;
use atlas_origin::PosixOrigin;
use rustix::process::{getegid, geteuid, getgroups};

pub(crate) fn me() -> Identity {
    Identity {
        uid: geteuid().as_raw(),
        gid: getegid().as_raw(),
        groups: getgroups()
            .unwrap()
            .iter()
            .map(|group| group.as_raw())
            .collect(),
    }
}

pub(crate) fn open(folder: &Path) -> PosixOrigin {
    PosixOrigin::open(folder, &me()).unwrap()
}

/// Whether the test may act as root; says why not.
#[must_use]
pub(crate) fn is_root(test: &str) -> bool {
    let root = geteuid().is_root();
    if !root {
        println!("{test}: left out, it needs root");
    }
    root
}

/// Asks again until the answer is right; fails after what no machine needs.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < patience, "{what}: not within 20 s");
        std::thread::yield_now();
    }
}
