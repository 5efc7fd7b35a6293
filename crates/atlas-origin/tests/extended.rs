//! Which extended attributes are told, and which are not.

#![allow(
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test program"
)]

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use atlas_core::{ACCESS_ACL, DEFAULT_ACL, Identity};
use atlas_origin::{
    EXTENDED_LIMIT_COUNT, Entry, Origin, PosixOrigin, USER_LIMIT_BYTES, as_identity,
};
use common::{is_root, open};
use rustix::fs::XattrFlags;
use tempfile::TempDir;

/// Owner rw-, `user` r--, group ---, mask r--, others ---: the mode is 0640 then.
fn acl(user: u32) -> Vec<u8> {
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in [
        (1_u16, 6_u16, u32::MAX),
        (2, 4, user),
        (4, 0, u32::MAX),
        (16, 4, u32::MAX),
        (32, 0, u32::MAX),
    ] {
        acl.extend(tag.to_le_bytes());
        acl.extend(rights.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    acl
}

fn set(path: &Path, name: &str, value: &[u8]) -> rustix::io::Result<()> {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty())
}

/// A folder whose file system keeps ACLs and `user.*`, else says so.
fn place(test: &str, folder: &Path) -> Option<TempDir> {
    let root = tempfile::tempdir_in(folder).unwrap();
    let file = root.path().join("file");
    fs::write(&file, b"x").unwrap();
    let kept =
        set(&file, "user.probe", b"").and_then(|()| set(&file, "system.posix_acl_access", &acl(1)));
    fs::remove_file(file).unwrap();
    if let Err(errno) = kept {
        println!(
            "{test}: left out, {} keeps no attributes: {errno}",
            folder.display()
        );
        return None;
    }
    Some(root)
}

fn shown(entry: &Entry) -> Vec<(&[u8], &[u8])> {
    (entry.extended.iter())
        .map(|one| (one.name.as_slice(), one.value.as_slice()))
        .collect()
}

#[test]
fn acls_and_user_attributes_are_told_and_no_others() {
    let test = "acls_and_user_attributes_are_told_and_no_others";
    // A tmpfs keeps `user.*` since Linux 6.6; the test's own folder is on a disk.
    for folder in [
        Path::new(env!("CARGO_TARGET_TMPDIR")),
        Path::new("/dev/shm"),
    ] {
        let Some(root) = place(test, folder) else {
            continue;
        };
        let (file, inner) = (root.path().join("file"), root.path().join("folder"));
        fs::write(&file, b"x").unwrap();
        fs::write(root.path().join("plain"), b"x").unwrap();
        fs::create_dir(&inner).unwrap();
        symlink("file", root.path().join("link")).unwrap();
        set(&file, "user.b", b"").unwrap();
        set(&file, "user.a", b"\0one\xff").unwrap();
        set(&file, "system.posix_acl_access", &acl(2001)).unwrap();
        set(&inner, "system.posix_acl_default", &acl(2002)).unwrap();
        set(&inner, "user.large", &[7; 3000]).unwrap();
        // These take root, and never show.
        let _ = set(&file, "trusted.t", b"t");
        let _ = set(&file, "security.s", b"s");

        let origin = open(root.path());
        let entry = origin.stat(b"file").unwrap();
        assert_eq!(
            shown(&entry),
            [
                (ACCESS_ACL, acl(2001).as_slice()),
                (b"user.a", b"\0one\xff"),
                (b"user.b", b"")
            ]
        );
        assert_eq!(entry.attributes.permissions, 0o640);
        let names: [&[u8]; 3] = [b"folder", b"plain", b"link"];
        let entries = origin.stat_many(b"", &names).unwrap();
        let entries: Vec<_> = entries.into_iter().map(Result::unwrap).collect();
        assert_eq!(
            shown(&entries[0]),
            [
                (DEFAULT_ACL, acl(2002).as_slice()),
                (b"user.large", &[7; 3000])
            ]
        );
        assert_eq!((shown(&entries[1]), shown(&entries[2])), (vec![], vec![]));
        assert!(entries.iter().all(|entry| entry.left_out == 0));
        assert_eq!(origin.counters().requests, 4, "one for each entry");
    }
}

#[test]
fn more_than_the_limits_is_left_out_and_counted() {
    let test = "more_than_the_limits_is_left_out_and_counted";
    let Some(root) = place(test, Path::new("/dev/shm")) else {
        return;
    };
    let (many, large) = (root.path().join("many"), root.path().join("large"));
    fs::write(&many, b"x").unwrap();
    fs::write(&large, b"x").unwrap();
    set(&many, "system.posix_acl_access", &acl(2001)).unwrap();
    for number in 0..300 {
        if set(&many, &format!("user.{number:03}"), b"v").is_err() {
            return println!("{test}: left out, {number} attributes are too many here");
        }
    }
    let half = USER_LIMIT_BYTES / 2;
    for (name, size) in [("user.a", half - 6), ("user.b", half - 6), ("user.c", 10)] {
        if set(&large, name, &vec![1; size]).is_err() {
            return println!("{test}: left out, {size} bytes are too many here");
        }
    }
    let origin = open(root.path());
    let entry = origin.stat(b"many").unwrap();
    assert_eq!(entry.extended.len(), EXTENDED_LIMIT_COUNT);
    assert_eq!(entry.left_out as usize, 301 - EXTENDED_LIMIT_COUNT);
    assert_eq!(entry.extended[0].name, ACCESS_ACL, "never left out");
    assert_eq!(entry.extended[254].name, b"user.253");
    let entry = origin.stat(b"large").unwrap();
    let names: Vec<_> = entry
        .extended
        .iter()
        .map(|one| one.name.as_slice())
        .collect();
    assert_eq!(
        (names, entry.left_out),
        (vec![b"user.a".as_slice(), b"user.b"], 1)
    );
}

#[test]
fn who_may_not_read_a_file_is_told_its_acl_only() {
    let test = "who_may_not_read_a_file_is_told_its_acl_only";
    if !is_root(test) {
        return;
    }
    let Some(root) = place(test, Path::new("/dev/shm")) else {
        return;
    };
    rustix::fs::chmod(root.path(), rustix::fs::Mode::from_raw_mode(0o755)).unwrap();
    let file = root.path().join("file");
    fs::write(&file, b"x").unwrap();
    set(&file, "user.a", b"secret").unwrap();
    set(&file, "system.posix_acl_access", &acl(2001)).unwrap();
    let stat = |uid: u32| {
        let identity = Identity {
            uid,
            gid: 2000,
            groups: vec![],
        };
        let origin = PosixOrigin::open(root.path(), &identity).unwrap();
        let entry = as_identity(&identity, || origin.stat(b"file"))
            .unwrap()
            .unwrap();
        assert_eq!(entry.left_out, 0);
        entry.extended.len()
    };
    assert_eq!(stat(2001), 2, "the ACL lets this user read");
    assert_eq!(stat(2002), 1);
}
