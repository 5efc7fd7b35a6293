//! Atlas mounts in the way. Nobody answers these mounts: whoever asked one would hang.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it leaves out"
)]

mod common;

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use atlas_core::ErrorKind;
use atlas_origin::{Origin, check_source};
use common::{is_root, open};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

struct Mounted {
    path: PathBuf,
    _device: File,
}

impl Mounted {
    /// `None`, with the reason printed, where no FUSE mount can be made.
    fn at(path: &Path, file_system_type: &str) -> Option<Self> {
        if !is_root("own mounts") {
            return None;
        }
        fs::create_dir_all(path).unwrap();
        let device = match File::options().read(true).write(true).open("/dev/fuse") {
            Ok(device) => device,
            Err(error) => {
                println!("own mounts: left out, /dev/fuse: {error}");
                return None;
            }
        };
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0",
            device.as_raw_fd()
        );
        let options = std::ffi::CString::new(options).unwrap();
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("test", path, file_system_type, flags, &*options).unwrap();
        Some(Self {
            path: path.to_owned(),
            _device: device,
        })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(&self.path, UnmountFlags::DETACH);
    }
}

/// The answer of `ask`, which may not hang.
fn soon<T: Send + 'static>(ask: impl FnOnce() -> T + Send + 'static) -> T {
    let (answer, answered) = mpsc::channel();
    thread::spawn(move || answer.send(ask()));
    answered.recv_timeout(Duration::from_secs(20)).unwrap()
}

#[test]
fn an_atlas_mount_is_no_source_nor_is_what_contains_it() {
    let root = TempDir::new().unwrap();
    let inner = root.path().join("a b/mount");
    let beside = root.path().join("beside");
    fs::create_dir(&beside).unwrap();
    let Some(_mounted) = Mounted::at(&inner, "fuse.atlas") else {
        return;
    };
    for (path, wanted) in [
        (inner.clone(), Some("lies in the Atlas mount")),
        (root.path().to_owned(), Some("contains the Atlas mount")),
        (root.path().join("a b"), Some("contains the Atlas mount")),
        (beside, None),
    ] {
        let answer = soon(move || check_source(&path));
        match wanted {
            None => assert_eq!(answer, Ok(())),
            Some(reason) => {
                let error = answer.unwrap_err();
                assert_eq!((error.kind, error.errno), (ErrorKind::Invalid, libc::ELOOP));
                assert!(error.message.contains(reason), "{error}");
            }
        }
    }
    let absent = check_source(&root.path().join("absent")).unwrap_err();
    assert_eq!(absent.kind, ErrorKind::NotFound);
}

#[test]
fn a_scan_stops_at_an_atlas_mount() {
    let root = TempDir::new().unwrap();
    let inner = root.path().join("folder/mount");
    let Some(_mounted) = Mounted::at(&inner, "fuse.atlas") else {
        return;
    };
    let origin = open(root.path());
    let (listed, beside) = soon(move || {
        (
            origin.list(b"folder/mount"),
            origin.list(b"folder").map(|all| all.len()),
        )
    });
    assert_eq!(listed.map_err(|error| error.errno), Err(libc::ELOOP));
    assert_eq!(beside, Ok(1));
}

#[test]
fn the_slow_origin_emulator_is_a_source() {
    let root = TempDir::new().unwrap();
    let slow = root.path().join("slow");
    let Some(_mounted) = Mounted::at(&slow, "fuse.atlas-slow-origin") else {
        return;
    };
    let path = root.path().to_owned();
    assert_eq!(
        soon(move || (check_source(&slow), check_source(&path))),
        (Ok(()), Ok(()))
    );
}
