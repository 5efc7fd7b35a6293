//! Files that change in the middle of a read: the read is held by a fanotify permission event.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it leaves out"
)]

mod common;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::thread;

use atlas_core::{Error, ErrorKind};
use atlas_origin::{Origin, ReadRequest};
use common::{is_root, open};
use tempfile::TempDir;

/// Stops every read of one file until it is let go.
struct Brake {
    events: OwnedFd,
}

impl Brake {
    fn on(path: &Path) -> io::Result<Self> {
        let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
        let class = libc::FAN_CLASS_CONTENT | libc::FAN_CLOEXEC;
        // SAFETY: takes two numbers.
        let events = unsafe { libc::fanotify_init(class, libc::O_RDONLY as u32) };
        if events < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let events = unsafe { OwnedFd::from_raw_fd(events) };
        // SAFETY: the path is a C string that outlives the call.
        let marked = unsafe {
            libc::fanotify_mark(
                events.as_raw_fd(),
                libc::FAN_MARK_ADD,
                libc::FAN_ACCESS_PERM,
                libc::AT_FDCWD,
                path.as_ptr(),
            )
        };
        if marked < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(Self { events })
        }
    }

    /// Waits for the first read, runs `change` while it is stopped, and lets it and all later
    /// ones go.
    fn during_the_first_read(self, change: impl FnOnce()) {
        let mut event = [0_u8; 4096];
        let length = rustix::io::read(&self.events, &mut event).unwrap();
        assert!(length >= size_of::<libc::fanotify_event_metadata>());
        // SAFETY: the kernel has written at least one whole structure, which any bytes form.
        let metadata = unsafe {
            event
                .as_ptr()
                .cast::<libc::fanotify_event_metadata>()
                .read_unaligned()
        };
        // SAFETY: the event's descriptor is this program's to close.
        let file = unsafe { OwnedFd::from_raw_fd(metadata.fd) };
        change();
        let response = [metadata.fd, libc::FAN_ALLOW as i32];
        let bytes: Vec<u8> = response
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        rustix::io::write(&self.events, &bytes).unwrap();
        drop(file);
    }
}

/// The error of a read of 10,000 bytes during which `change` happens.
fn read_during(test: &str, batch: bool, change: fn(&Path)) -> Option<Error> {
    if !is_root(test) {
        return None;
    }
    let root = TempDir::new().unwrap();
    let path = root.path().join("file");
    fs::write(&path, vec![b'a'; 10_000]).unwrap();
    let origin = open(root.path());
    let tag = origin.stat(b"file").unwrap().attributes.tag();
    wait_for_a_later_time_of_change(&path);
    let brake = match Brake::on(&path) {
        Ok(brake) => brake,
        Err(error) => {
            println!("{test}: left out, no fanotify permission events here: {error}");
            return None;
        }
    };
    let reader = thread::spawn(move || {
        let mut buffer = vec![0; 10_000];
        if batch {
            let request = ReadRequest {
                name: b"file",
                tag: &tag,
                buffer: &mut buffer,
            };
            origin.read_many(b"", &mut [request]).unwrap().remove(0)
        } else {
            origin.read(b"file", &tag, 0, &mut buffer)
        }
    });
    brake.during_the_first_read(|| change(&path));
    Some(reader.join().unwrap().unwrap_err())
}

/// File systems may stamp changes with the time of the last tick.
fn wait_for_a_later_time_of_change(file: &Path) {
    let probe = file.with_extension("probe");
    let time = |path: &Path| {
        let found = fs::metadata(path).unwrap();
        (found.ctime(), found.ctime_nsec())
    };
    while {
        fs::write(&probe, b"").unwrap();
        time(&probe) <= time(file)
    } {}
}

#[test]
fn a_file_that_changes_under_way_is_stale() {
    let change = |path: &Path| {
        let old = fs::metadata(path).unwrap().modified().unwrap();
        let file = File::options().write(true).open(path).unwrap();
        file.write_all_at(b"another version", 5000).unwrap();
        // Its size and its time of modification stay.
        file.set_modified(old).unwrap();
    };
    for batch in [false, true] {
        if let Some(error) = read_during("a_file_that_changes_under_way", batch, change) {
            assert_eq!((error.kind, error.errno), (ErrorKind::Stale, libc::ESTALE));
            assert!(error.message.contains("changed"), "{error}");
        }
    }
}

#[test]
fn a_file_that_is_cut_off_under_way_is_stale() {
    let change = |path: &Path| {
        File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_len(100)
            .unwrap();
    };
    for batch in [false, true] {
        if let Some(error) = read_during("a_file_that_is_cut_off_under_way", batch, change) {
            assert_eq!((error.kind, error.errno), (ErrorKind::Stale, libc::ESTALE));
            assert!(error.message.contains("shorter"), "{error}");
        }
    }
}
