//! What is particular to a folder of this machine.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use atlas_core::{ErrorKind, Kind};
use atlas_origin::{Origin, PosixOrigin, ReadRequest};
use common::{eventually, is_root, me, open};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, StatxFlags, Timespec, Timestamps, mkdirat, mknodat,
    openat, statx, symlinkat, utimensat,
};
use tempfile::TempDir;

/// A path of 30 names of 255 bytes, made from open folders as the kernel takes no longer path.
fn thirty_levels(root: &Path) -> (OwnedFd, Vec<u8>) {
    let mut folder: OwnedFd = File::open(root).unwrap().into();
    let mut names = Vec::new();
    for level in 0..30 {
        let name = vec![b'a' + (level % 26) as u8; 255];
        let text = CString::new(name.clone()).unwrap();
        mkdirat(&folder, &text, Mode::from(0o700)).unwrap();
        folder = openat(
            &folder,
            &text,
            OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .unwrap();
        names.push(name);
    }
    (folder, names.join(&b'/'))
}

#[test]
fn paths_longer_than_the_kernel_takes() {
    let root = TempDir::new().unwrap();
    let origin = open(root.path());
    let (deepest, path) = thirty_levels(root.path());
    assert!(path.len() > libc::PATH_MAX as usize);
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = openat(&deepest, "file", flags, Mode::from(0o600)).unwrap();
    rustix::io::write(&file, b"deep").unwrap();
    symlinkat("file", &deepest, "link").unwrap();

    let listed = origin.list(&path).unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!(origin.stat(&path).unwrap().attributes.kind, Kind::Folder);
    let inner = [path.as_slice(), b"file"].join(&b'/');
    let tag = origin.stat(&inner).unwrap().attributes.tag();
    let mut buffer = [0; 4];
    origin.read(&inner, &tag, 0, &mut buffer).unwrap();
    assert_eq!(&buffer, b"deep");
    let mut buffer = [0; 4];
    let request = ReadRequest {
        name: b"file",
        tag: &tag,
        buffer: &mut buffer,
    };
    origin
        .read_many(&path, &mut [request])
        .unwrap()
        .remove(0)
        .unwrap();
    assert_eq!(&buffer, b"deep");
    let link = origin
        .stat_many(&path, &[b"link"])
        .unwrap()
        .remove(0)
        .unwrap();
    assert_eq!(link.target.as_deref(), Some(b"file".as_slice()));
    // Another origin on the same tree has looked nothing up before.
    assert_eq!(
        open(root.path()).stat(&inner).unwrap().attributes.tag(),
        tag
    );
}

/// Access times of a file, a folder and a link, all older than their times of change, so that a
/// relatime mount would move them.
fn access_times(root: &Path) -> Vec<(i64, u32)> {
    ["file", "folder", "folder/inner", "link", ""]
        .iter()
        .map(|name| {
            let path = root.join(name);
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            let found = statx(CWD, &path, flags, StatxFlags::ATIME).unwrap();
            (found.stx_atime.tv_sec, found.stx_atime.tv_nsec)
        })
        .collect()
}

fn tree_with_old_access_times() -> TempDir {
    let root = TempDir::new().unwrap();
    fs::write(root.path().join("file"), b"bytes").unwrap();
    fs::create_dir(root.path().join("folder")).unwrap();
    fs::write(root.path().join("folder/inner"), b"bytes").unwrap();
    symlink("file", root.path().join("link")).unwrap();
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 1_000_000,
            tv_nsec: 5,
        },
        last_modification: Timespec {
            tv_sec: 2_000_000,
            tv_nsec: 7,
        },
    };
    for name in ["file", "folder/inner", "folder", "link", ""] {
        let path = root.path().join(name);
        utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
    root
}

fn use_everything(origin: &dyn Origin) {
    for folder in [b"".as_slice(), b"folder"] {
        for listed in origin.list(folder).unwrap() {
            let entry = origin
                .stat_many(folder, &[&listed.name])
                .unwrap()
                .remove(0)
                .unwrap();
            if entry.attributes.kind == Kind::File {
                let mut buffer = vec![0; entry.attributes.size as usize];
                let tag = entry.attributes.tag();
                let request = ReadRequest {
                    name: &listed.name,
                    tag: &tag,
                    buffer: &mut buffer,
                };
                origin
                    .read_many(folder, &mut [request])
                    .unwrap()
                    .remove(0)
                    .unwrap();
            }
        }
    }
    let tag = origin.stat(b"file").unwrap().attributes.tag();
    origin.read(b"file", &tag, 0, &mut [0; 5]).unwrap();
    assert_eq!(origin.stat(b"link").unwrap().target.unwrap(), b"file");
}

#[test]
fn no_access_time_moves() {
    if !is_root("no_access_time_moves") {
        return;
    }
    let root = tree_with_old_access_times();
    let origin = open(root.path());
    let before = access_times(root.path());
    use_everything(&origin);
    assert_eq!(access_times(root.path()), before);
    // The check itself can see an access time move.
    fs::read(root.path().join("file")).unwrap();
    fs::read_link(root.path().join("link")).unwrap();
    fs::read_dir(root.path().join("folder"))
        .unwrap()
        .for_each(drop);
    let moved = access_times(root.path());
    assert!(
        [0, 1, 3].iter().all(|&index| moved[index] != before[index]),
        "{before:?} {moved:?}"
    );
}

#[test]
fn without_a_private_mount_the_owner_still_leaves_files_and_folders_alone() {
    if !is_root("without_a_private_mount") {
        return;
    }
    let root = tree_with_old_access_times();
    for name in ["file", "folder", "folder/inner", "link", ""] {
        std::os::unix::fs::lchown(root.path().join(name), Some(2001), Some(2001)).unwrap();
    }
    let before = access_times(root.path());
    let reader = atlas_core::Identity {
        uid: 2001,
        gid: 2001,
        groups: vec![],
    };
    let path = root.path();
    // A thread that has given its capabilities away may make no mount.
    atlas_origin::as_identity(&reader, || {
        use_everything(&PosixOrigin::open(path, &reader).unwrap());
    })
    .unwrap();
    let after = access_times(root.path());
    let link = 3;
    for index in [0, 1, 2, 4] {
        assert_eq!(after[index], before[index]);
    }
    // Nothing can be done about links there: the origin's mount decides.
    assert_ne!(after[link], before[link]);
}

#[test]
fn the_held_folder_cannot_be_changed() {
    if !is_root("the_held_folder_cannot_be_changed") {
        return;
    }
    let root = TempDir::new().unwrap();
    fs::write(root.path().join("file"), b"x").unwrap();
    let _origin = open(root.path());
    let wanted = fs::metadata(root.path()).unwrap().ino();
    let mut held = 0;
    for entry in fs::read_dir("/proc/self/fd").unwrap() {
        let path = entry.unwrap().path();
        let found = fs::metadata(&path);
        if found.is_ok_and(|found| found.ino() == wanted && found.is_dir()) {
            let error = fs::write(path.join("new"), b"x").unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EROFS));
            held += 1;
        }
    }
    assert_eq!(held, 1);
}

#[test]
fn a_fifo_holds_nobody_up() {
    let root = TempDir::new().unwrap();
    mknodat(
        CWD,
        root.path().join("fifo"),
        FileType::Fifo,
        Mode::from(0o600),
        0,
    )
    .unwrap();
    let origin = open(root.path());
    let (answered, answer) = mpsc::channel();
    thread::spawn(move || {
        let tag = origin.stat(b"fifo").unwrap().attributes.tag();
        let _ = answered.send(origin.read(b"fifo", &tag, 0, &mut []).unwrap_err().kind);
    });
    let found = answer.recv_timeout(Duration::from_secs(20));
    assert_eq!(found, Ok(ErrorKind::Stale));
}

#[test]
fn a_root_that_moves_away_comes_back() {
    let parent = TempDir::new().unwrap();
    let [here, away] = ["here", "away"].map(|name| parent.path().join(name));
    fs::create_dir(&here).unwrap();
    fs::write(here.join("file"), b"bytes").unwrap();
    let origin = open(&here);
    let tag = origin.stat(b"file").unwrap().attributes.tag();
    let read = || {
        origin
            .read(b"file", &tag, 0, &mut [0; 5])
            .map_err(|error| error.errno)
    };

    fs::rename(&here, &away).unwrap();
    eventually("the root is missed", || read() == Err(libc::ENOENT));
    let error = origin.list(b"").unwrap_err();
    // No entry may be taken for missing, or for changed, because the root is away.
    assert_eq!(
        (error.kind, error.errno),
        (ErrorKind::OriginGone, libc::ENOENT)
    );

    fs::create_dir(&here).unwrap();
    fs::write(here.join("file"), b"other").unwrap();
    eventually("the other folder is noticed", || {
        read() == Err(libc::ESTALE)
    });
    let error = origin.stat(b"file").unwrap_err();
    assert_eq!(error.kind, ErrorKind::OriginGone);
    assert!(error.message.contains("origin root replaced"), "{error}");

    fs::remove_file(here.join("file")).unwrap();
    fs::remove_dir(&here).unwrap();
    fs::rename(&away, &here).unwrap();
    eventually("the root is found again", || read() == Ok(()));
}

#[test]
fn nothing_is_missing_in_a_root_that_was_just_removed() {
    let parent = TempDir::new().unwrap();
    let here = parent.path().join("here");
    for ask in [
        (|origin: &PosixOrigin| origin.stat(b"file").map(|_| ())) as fn(&PosixOrigin) -> _,
        |origin| origin.stat_many(b"", &[b"file"]).map(|_| ()),
    ] {
        fs::create_dir(&here).unwrap();
        fs::write(here.join("file"), b"bytes").unwrap();
        // The path is taken for good for a tenth of a second from here on.
        let origin = open(&here);
        assert_eq!(ask(&origin), Ok(()));
        fs::remove_dir_all(&here).unwrap();
        assert_eq!(ask(&origin).unwrap_err().kind, ErrorKind::OriginGone);
    }
}

#[test]
fn a_source_has_to_be_a_folder_that_the_identity_may_read() {
    let root = TempDir::new().unwrap();
    let absent = PosixOrigin::open(&root.path().join("absent"), &me()).unwrap_err();
    assert_eq!(
        (absent.kind, absent.errno),
        (ErrorKind::NotFound, libc::ENOENT)
    );
    fs::write(root.path().join("file"), b"x").unwrap();
    let file = PosixOrigin::open(&root.path().join("file"), &me()).unwrap_err();
    assert_eq!(
        (file.kind, file.errno),
        (ErrorKind::NotFound, libc::ENOTDIR)
    );
    symlink(root.path(), root.path().join("way")).unwrap();
    assert_eq!(open(&root.path().join("way")).list(b"").unwrap().len(), 2);
}

#[test]
fn dropping_an_origin_closes_what_it_held() {
    let root = TempDir::new().unwrap();
    for number in 0..100 {
        fs::create_dir(root.path().join(number.to_string())).unwrap();
        fs::write(root.path().join(format!("{number}/file")), b"x").unwrap();
    }
    let origin = open(root.path());
    let below = |root: &Path| {
        fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter(|entry| {
                let target = fs::read_link(entry.as_ref().unwrap().path());
                // Descriptors of the private mount show paths from its own root.
                target.is_ok_and(|target| {
                    target.starts_with(root)
                        || target
                            .to_str()
                            .is_some_and(|text| text[1..].parse::<u32>().is_ok())
                })
            })
            .count()
    };
    for number in 0..100 {
        origin.stat(format!("{number}/file").as_bytes()).unwrap();
    }
    let held = below(root.path());
    assert!((1..=66).contains(&held), "{held}");
    drop(origin);
    assert_eq!(below(root.path()), 0);
}
