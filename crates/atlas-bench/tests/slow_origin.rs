//! The slow origin on a real mount: what it shows, and what it charges.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use atlas_bench::{Limits, SlowOrigin, read_files, stat_files};
use atlas_core::ErrorKind;
use atlas_mount::mounts;
use common::{NO_LIMITS, attributes_of, pattern, place, rate, within_a_tenth};
use rustix::fs::{CWD, Mode, OFlags, openat};

#[test]
fn many_requests_are_in_flight_and_nothing_is_cached() {
    let Some(place) = place() else { return };
    let bytes = pattern(100_000);
    fs::write(place.source.join("file"), &bytes).unwrap();
    let limits = Limits {
        latency: Duration::from_millis(100),
        ..NO_LIMITS
    };
    let origin = SlowOrigin::mount(&place.source, &place.target, limits).unwrap();
    let file = File::open(place.target.join("file")).unwrap();
    let calls = rate(96, Duration::from_millis(600), |_| attributes_of(&file));
    assert!(calls > 64.0 / 0.1, "only {} in flight", calls * 0.1);

    let path = CString::new(place.target.join("file").as_os_str().as_bytes()).unwrap();
    let paths = [path];
    for _ in 0..3 {
        let (counts, before) = (origin.counts(), origin.load());
        let start = Instant::now();
        let report = read_files(&paths, &[0]).unwrap();
        assert_eq!(report.bytes, bytes.len() as u64);
        let (now, after) = (origin.counts(), origin.load());
        let asked = |name: &str| now[name] - counts.get(name).copied().unwrap_or(0);
        // The same in each round; two of the questions for attributes are the kernel's own.
        assert_eq!(
            (
                asked("lookup"),
                asked("open"),
                asked("getattr"),
                asked("read")
            ),
            (1, 1, 3, 1)
        );
        // Looked up, opened, asked for its attributes; read.
        assert_eq!(
            (
                after.operations - before.operations,
                after.reads - before.reads
            ),
            (3, 1)
        );
        assert_eq!(after.read_bytes - before.read_bytes, bytes.len() as u64);
        within_a_tenth(
            "open, stat and read, ms",
            start.elapsed().as_secs_f64() * 1e3,
            400.0,
        );
        let start = Instant::now();
        stat_files(&paths, &[0]).unwrap();
        within_a_tenth("stat, ms", start.elapsed().as_secs_f64() * 1e3, 100.0);
    }
    // The end of the file is known without a wait.
    let start = Instant::now();
    assert_eq!(file.read_at(&mut [0; 10], 100_000).unwrap(), 0);
    assert!(start.elapsed() < Duration::from_millis(90));
}

#[test]
fn everything_about_the_source_comes_through() {
    let Some(place) = place() else { return };
    let source = &place.source;
    let names: [&[u8]; 4] = [b"new\nline", b"\xff\xfe", &[b'x'; 255], b"back\\slash"];
    for (index, name) in names.iter().enumerate() {
        fs::write(
            source.join(OsStr::from_bytes(name)),
            pattern(index * 70_000),
        )
        .unwrap();
    }
    fs::create_dir(source.join("folder")).unwrap();
    fs::write(source.join("folder/inside"), b"inside").unwrap();
    fs::hard_link(source.join("folder/inside"), source.join("twin")).unwrap();
    symlink("folder/inside", source.join("link")).unwrap();
    symlink("/absolute/and gone", source.join("dangling")).unwrap();
    let odd = source.join("odd");
    fs::write(&odd, b"odd").unwrap();
    std::os::unix::fs::chown(&odd, Some(1234), Some(4321)).unwrap();
    fs::set_permissions(&odd, fs::Permissions::from_mode(0o4750)).unwrap();
    let long_ago = std::time::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
    File::options()
        .write(true)
        .open(&odd)
        .unwrap()
        .set_modified(long_ago)
        .unwrap();
    fs::set_permissions(source.join("folder"), fs::Permissions::from_mode(0o2711)).unwrap();
    rustix::fs::mknodat(
        CWD,
        source.join("pipe"),
        rustix::fs::FileType::Fifo,
        Mode::RWXU,
        0,
    )
    .unwrap();
    let accessed = || {
        ["folder/inside", "folder", "link"].map(|name| {
            let status = fs::symlink_metadata(source.join(name)).unwrap();
            (status.atime(), status.atime_nsec())
        })
    };
    let before = accessed();

    let origin = SlowOrigin::mount(source, &place.target, NO_LIMITS).unwrap();
    assert_eq!(fs::read(place.target.join("link")).unwrap(), b"inside");
    assert_eq!(
        fs::read_dir(place.target.join("folder")).unwrap().count(),
        1
    );
    assert_eq!(accessed(), before);
    compare(source, &place.target);
    let error = fs::write(place.target.join("new"), b"x").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    let error = fs::metadata(place.target.join("absent")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    let table = mounts::table().unwrap();
    let entry = table
        .iter()
        .find(|entry| entry.path == place.target)
        .unwrap();
    assert_eq!(entry.kind, "fuse.atlas-slow-origin");

    // What changes at the source is seen at once, and by no file that is open already.
    let mut old = File::open(place.target.join("odd")).unwrap();
    fs::write(source.join("next"), b"new bytes").unwrap();
    fs::rename(source.join("next"), &odd).unwrap();
    assert_eq!(fs::read(place.target.join("odd")).unwrap(), b"new bytes");
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut old, &mut bytes).unwrap();
    assert_eq!(bytes, b"odd");
    drop(old);

    origin.unmount().unwrap();
    origin.unmount().unwrap();
    assert_eq!(fs::read_dir(&place.target).unwrap().count(), 0);
    origin.wait();
}

fn compare(one: &Path, other: &Path) {
    let names = |folder: &Path| -> BTreeSet<_> {
        fs::read_dir(folder)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                (entry.file_name(), entry.file_type().unwrap())
            })
            .map(|(name, kind)| (name, format!("{kind:?}")))
            .collect()
    };
    let listed = names(one);
    assert_eq!(names(other), listed);
    for (name, _) in listed {
        let (one, other) = (one.join(&name), other.join(&name));
        let shown = |path: &Path| {
            let status = fs::symlink_metadata(path).unwrap();
            (
                (
                    status.mode(),
                    status.uid(),
                    status.gid(),
                    status.nlink(),
                    status.ino(),
                ),
                (status.size(), status.blocks(), status.rdev()),
                (
                    status.mtime(),
                    status.mtime_nsec(),
                    status.ctime(),
                    status.ctime_nsec(),
                ),
            )
        };
        assert_eq!(shown(&other), shown(&one), "{name:?}");
        let kind = fs::symlink_metadata(&one).unwrap().file_type();
        if kind.is_dir() {
            compare(&one, &other);
        } else if kind.is_symlink() {
            assert_eq!(fs::read_link(&other).unwrap(), fs::read_link(&one).unwrap());
        } else if kind.is_file() {
            assert!(
                fs::read(&other).unwrap() == fs::read(&one).unwrap(),
                "{name:?}"
            );
        }
    }
}

/// The folder reached by so many steps of one name, which may be too deep for one path.
fn descend(start: &Path, name: &str, levels: usize, create: bool) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut folder = openat(CWD, start, flags, Mode::empty()).unwrap();
    for _ in 0..levels {
        if create {
            rustix::fs::mkdirat(&folder, name, Mode::RWXU).unwrap();
        }
        folder = openat(folder.as_fd(), name, flags, Mode::empty()).unwrap();
    }
    folder
}

#[test]
fn folders_may_be_large_and_paths_longer_than_the_kernel_takes() {
    let Some(place) = place() else { return };
    let name = "y".repeat(250);
    let deep = descend(&place.source, &name, 30, true);
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(&deep, "bottom", flags, Mode::RWXU).unwrap();
    rustix::io::write(&file, b"deep").unwrap();
    fs::create_dir(place.source.join("many")).unwrap();
    let expected: BTreeSet<_> = (0..5000).map(|index| format!("{index}-name")).collect();
    for name in &expected {
        fs::write(place.source.join("many").join(name), b"").unwrap();
    }

    let origin = SlowOrigin::mount(&place.source, &place.target, NO_LIMITS).unwrap();
    let deep = descend(&place.target, &name, 30, false);
    let file = openat(
        &deep,
        "bottom",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .unwrap();
    assert_eq!(File::from(file).read_at(&mut [0; 10], 0).unwrap(), 4);
    drop(deep);
    let before = origin.load().operations;
    let listed: BTreeSet<_> = fs::read_dir(place.target.join("many"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(listed, expected);
    let operations = origin.load().operations - before;
    assert!(
        operations < 20,
        "{operations} operations to list 5,000 names"
    );
}

#[test]
fn what_cannot_be_shown_is_refused() {
    let Some(place) = place() else { return };
    fs::write(place.source.join("file"), b"").unwrap();
    let refused =
        |source: &Path, target: &Path| SlowOrigin::mount(source, target, NO_LIMITS).err().unwrap();
    let absent = place.source.join("absent");
    let file = place.source.join("file");
    for (source, target) in [
        (&absent, &place.target),
        (&place.source, &absent),
        (&file, &place.target),
    ] {
        assert_eq!(refused(source, target).kind, ErrorKind::NotFound);
    }
    assert!(
        mounts::table()
            .unwrap()
            .iter()
            .all(|entry| entry.path != place.target)
    );
}
