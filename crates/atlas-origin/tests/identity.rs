//! Rights of the creator, and of nobody else. All need root.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

use atlas_core::{ErrorKind, Identity};
use atlas_origin::{Class, Origin, PosixOrigin, ReaderSettings, Readers, as_identity};
use common::{is_root, me};
use rustix::thread::{CapabilitySet, capabilities};
use tempfile::TempDir;

fn reader() -> Identity {
    Identity {
        uid: 2001,
        gid: 2001,
        groups: vec![2001, 3001],
    }
}

fn stranger() -> Identity {
    Identity {
        uid: 2002,
        gid: 2002,
        groups: vec![2002],
    }
}

fn folder(path: &Path, mode: u32, uid: u32, gid: u32) {
    fs::create_dir_all(path).unwrap();
    chown(path, Some(uid), Some(gid)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn file(path: &Path, mode: u32, uid: u32, gid: u32) {
    fs::write(path, b"bytes").unwrap();
    chown(path, Some(uid), Some(gid)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn status_line(name: &str) -> String {
    let text = fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_once(':').unwrap().1.trim().to_owned()
}

#[test]
fn the_kernel_checks_as_for_the_identity() {
    if !is_root("the_kernel_checks_as_for_the_identity") {
        return;
    }
    let root = TempDir::new().unwrap();
    folder(root.path(), 0o755, 0, 0);
    let path = |name: &str| root.path().join(name);
    file(&path("own"), 0o600, 2001, 2001);
    file(&path("of group"), 0o640, 0, 3001);
    file(&path("of another"), 0o600, 2002, 2002);
    file(&path("nobody's"), 0o000, 2001, 2001);
    let found = as_identity(&reader(), || {
        ["own", "of group", "of another", "nobody's"].map(|name| fs::read(path(name)).is_ok())
    });
    assert_eq!(found.unwrap(), [true, true, false, false]);
    assert!(fs::read(path("of another")).is_ok());
}

#[test]
fn no_capability_is_left_and_none_is_lost_elsewhere() {
    if !is_root("no_capability_is_left") {
        return;
    }
    let before = capabilities(None).unwrap();
    assert!(before.effective.contains(CapabilitySet::DAC_OVERRIDE));
    let (ask, asked) = mpsc::channel::<()>();
    let (answer, answered) = mpsc::channel();
    // A thread that was there before, and looks while the other identity is in use.
    let other = thread::spawn(move || {
        asked.recv().unwrap();
        answer
            .send((capabilities(None).unwrap(), status_line("Uid")))
            .unwrap();
    });
    let inside = as_identity(&reader(), move || {
        ask.send(()).unwrap();
        let elsewhere = answered.recv().unwrap();
        let child = thread::spawn(|| capabilities(None).unwrap())
            .join()
            .unwrap();
        (
            capabilities(None).unwrap(),
            child,
            status_line("Uid"),
            status_line("Groups"),
            elsewhere,
        )
    });
    other.join().unwrap();
    let (own, child, uids, groups, elsewhere) = inside.unwrap();
    let none = CapabilitySet::empty();
    assert_eq!(
        (own.effective, own.permitted, own.inheritable),
        (none, none, none)
    );
    assert_eq!(child, own);
    // Only the file-system id: no other user may send the thread a signal.
    assert_eq!(uids, "0\t0\t0\t2001");
    assert_eq!(groups, "2001 3001");
    assert_eq!(elsewhere, (before, "0\t0\t0\t0".to_owned()));
    assert_eq!(capabilities(None).unwrap(), before);
}

#[test]
fn the_own_identity_runs_in_place() {
    let here = thread::current().id();
    assert_eq!(as_identity(&me(), || thread::current().id()).unwrap(), here);
    if is_root("the_own_identity_runs_in_place, as another") {
        let nested = as_identity(&reader(), || {
            let outer = thread::current().id();
            as_identity(&reader(), || thread::current().id() == outer)
        });
        assert_eq!(nested, Ok(Ok(true)));
    }
}

#[test]
fn who_is_not_root_becomes_nobody_else() {
    if !is_root("who_is_not_root_becomes_nobody_else") {
        return;
    }
    let refused = as_identity(&reader(), || as_identity(&stranger(), || ())).unwrap();
    assert_eq!(refused.unwrap_err().kind, ErrorKind::Denied);
    let invalid = Identity {
        uid: u32::MAX,
        ..stranger()
    };
    assert_eq!(
        as_identity(&invalid, || ()).unwrap_err().kind,
        ErrorKind::Denied
    );
}

#[test]
fn a_panic_comes_back_to_the_caller() {
    if !is_root("a_panic_comes_back_to_the_caller") {
        return;
    }
    let caught = std::panic::catch_unwind(|| as_identity(&reader(), || panic!("planted")));
    assert_eq!(caught.unwrap_err().downcast_ref(), Some(&"planted"));
}

#[test]
fn an_unreadable_source_is_denied() {
    if !is_root("an_unreadable_source_is_denied") {
        return;
    }
    let root = TempDir::new().unwrap();
    folder(root.path(), 0o755, 0, 0);
    let closed = root.path().join("closed");
    folder(&closed.join("inner"), 0o755, 2001, 2001);
    folder(&closed, 0o700, 0, 0);
    let [list_only, search_only, shared] =
        ["list only", "search only", "shared"].map(|name| root.path().join(name));
    folder(&list_only, 0o744, 0, 0);
    folder(&search_only, 0o711, 0, 0);
    folder(&shared, 0o750, 0, 3001);
    for path in [&closed, &closed.join("inner"), &list_only, &search_only] {
        let error = PosixOrigin::open(path, &reader()).unwrap_err();
        assert_eq!(
            (error.kind, error.errno),
            (ErrorKind::Denied, libc::EACCES),
            "{path:?}"
        );
    }
    assert!(PosixOrigin::open(&shared, &reader()).is_ok());
    assert!(PosixOrigin::open(&shared, &stranger()).is_err());
}

#[test]
fn reader_threads_have_the_identity_also_behind_the_private_mount() {
    if !is_root("reader_threads_have_the_identity") {
        return;
    }
    let root = TempDir::new().unwrap();
    folder(root.path(), 0o755, 0, 0);
    folder(&root.path().join("closed"), 0o700, 0, 0);
    file(&root.path().join("closed/file"), 0o644, 0, 0);
    file(&root.path().join("secret"), 0o600, 2002, 2002);
    file(&root.path().join("shared"), 0o640, 2002, 3001);
    let origin = PosixOrigin::open(root.path(), &reader()).unwrap();
    let origin: Arc<dyn Origin> = Arc::new(origin);
    let settings = ReaderSettings { threads: 2 };
    let readers = Readers::start(&reader(), origin, settings).unwrap();
    let (answer, answered) = mpsc::channel();
    readers.submit(Class::Foreground, move |origin| {
        let read = |name: &[u8]| {
            let tag = origin.stat(name)?.attributes.tag();
            origin.read(name, &tag, 0, &mut [0; 5])
        };
        let kinds = [b"closed/file".as_slice(), b"secret", b"shared"]
            .map(|name| read(name).map_err(|error| error.kind));
        let listing = origin
            .list(b"closed")
            .map(|_| ())
            .map_err(|error| error.kind);
        answer.send((kinds, listing)).unwrap();
    });
    let (kinds, listing) = answered.recv().unwrap();
    let denied = Err(ErrorKind::Denied);
    assert_eq!(kinds, [denied, denied, Ok(())]);
    assert_eq!(listing, denied);
}
