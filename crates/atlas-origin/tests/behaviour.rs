//! Every origin passes the same suite.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::sync::Arc;

use atlas_core::Identity;
use atlas_origin::behaviour::{CHECKS, Fixture, check_all};
use atlas_origin::{FaultyOrigin, Origin, PosixOrigin};
use rustix::process::{getegid, geteuid, getgroups};
use tempfile::TempDir;

struct Tree {
    folder: TempDir,
    origin: Arc<dyn Origin>,
}

impl Fixture for Tree {
    fn origin(&self) -> Arc<dyn Origin> {
        Arc::clone(&self.origin)
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }
}

fn posix_in(parent: &Path) -> Tree {
    let folder = TempDir::new_in(parent).unwrap();
    let me = Identity {
        uid: geteuid().as_raw(),
        gid: getegid().as_raw(),
        groups: getgroups()
            .unwrap()
            .iter()
            .map(|group| group.as_raw())
            .collect(),
    };
    let origin = Arc::new(PosixOrigin::open(folder.path(), &me).unwrap());
    Tree { folder, origin }
}

#[test]
fn a_posix_folder_on_disk_passes() {
    assert_eq!(check_all(|_| posix_in(&std::env::temp_dir())), CHECKS.len());
}

#[test]
fn a_posix_folder_in_memory_passes() {
    check_all(|_| posix_in(Path::new("/dev/shm")));
}

#[test]
fn an_origin_without_faults_passes() {
    check_all(|_| {
        let Tree { folder, origin } = posix_in(&std::env::temp_dir());
        Tree {
            folder,
            origin: Arc::new(FaultyOrigin::new(origin, [])),
        }
    });
}
