//! Extended attributes and POSIX ACLs: every front shows those of the origin, and decides as it does.

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

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use atlas_core::Identity;
use atlas_engine::{LoadPhase, ScanProgress};
use atlas_origin::as_identity;
use common::{Bed, age, eventually, path_in};
use rustix::fs::{Mode, OFlags, XattrFlags};

const QUOTA: u64 = 256 << 20;
const NOBODY: u32 = u32::MAX;

/// Entries of an ACL: tag, rights, id.
type Acl = [(u16, u16, u32)];

const USER_OBJ: u16 = 1;
const USER: u16 = 2;
const GROUP_OBJ: u16 = 4;
const GROUP: u16 = 8;
const MASK: u16 = 16;
const OTHER: u16 = 32;

/// Rights of a file's or folder's own group that are less than the mask, which the mode shows.
const NAMED_USER: &Acl = &[
    (USER_OBJ, 7, NOBODY),
    (USER, 5, 2001),
    (GROUP_OBJ, 0, NOBODY),
    (MASK, 5, NOBODY),
    (OTHER, 0, NOBODY),
];
const ALL_BUT_ONE: &Acl = &[
    (USER_OBJ, 6, NOBODY),
    (USER, 0, 2002),
    (GROUP_OBJ, 4, NOBODY),
    (MASK, 4, NOBODY),
    (OTHER, 4, NOBODY),
];
const NAMED_GROUP: &Acl = &[
    (USER_OBJ, 6, NOBODY),
    (GROUP_OBJ, 0, NOBODY),
    (GROUP, 4, 3001),
    (MASK, 4, NOBODY),
    (OTHER, 0, NOBODY),
];

fn set_acl(path: &Path, name: &str, acl: &Acl) {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in acl {
        value.extend(tag.to_le_bytes());
        value.extend(rights.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    set(path, name, &value);
}

fn set(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty()).unwrap();
}

/// A folder `sub` that everybody may search, with one of everything.
fn write(source: &Path) {
    let sub = source.join("sub");
    let file = |name: &str, mode: u32| {
        let path = sub.join(name);
        fs::write(&path, name).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        chown(&path, None, Some(3000)).unwrap();
        path
    };
    let access = "system.posix_acl_access";
    fs::create_dir(&sub).unwrap();
    file("plain", 0o644);
    file("private", 0o600);
    file("group", 0o640);
    set_acl(&file("named-user", 0o600), access, NAMED_USER);
    set_acl(&file("all-but-one", 0o600), access, ALL_BUT_ONE);
    set_acl(&file("named-group", 0o600), access, NAMED_GROUP);
    // Five bytes for the name, so that the chunk index that follows has to be aligned.
    set(&file("odd", 0o644), "user.a", b"12345");
    let both = file("both", 0o600);
    set_acl(&both, access, NAMED_USER);
    set(&both, "user.empty", b"");
    set(&both, "user.bytes", b"\0\xff\n");
    let many = file("many", 0o644);
    for number in 0..40 {
        set(&many, &format!("user.{number:03}"), &[number; 100]);
    }
    set(&file("large", 0o644), "user.large", &[9; 9000]);
    set(&file("empty", 0o644), "user.of-empty", b"here");
    fs::write(sub.join("empty"), b"").unwrap();
    // Never shown.
    set(&file("hidden", 0o644), "trusted.atlas", b"secret");
    for name in ["closed-folder", "plain-folder"] {
        fs::create_dir(sub.join(name)).unwrap();
        fs::set_permissions(sub.join(name), fs::Permissions::from_mode(0o750)).unwrap();
        file(&format!("{name}/inside"), 0o644);
    }
    chown(sub.join("plain-folder"), None, Some(3000)).unwrap();
    chown(sub.join("closed-folder"), None, Some(3000)).unwrap();
    set_acl(&sub.join("closed-folder"), access, NAMED_USER);
    set_acl(
        &sub.join("closed-folder"),
        "system.posix_acl_default",
        NAMED_USER,
    );
    set(&sub.join("closed-folder"), "user.folder", b"f");
    let inherited = sub.join("closed-folder/inherited");
    fs::write(&inherited, b"i").unwrap();
    symlink("named-user", sub.join("link")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        sub.join("fifo"),
        rustix::fs::FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    set_acl(&sub.join("fifo"), access, NAMED_GROUP);
}

fn paths(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![String::new()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(root.join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
            let path = path.trim_start_matches('/').to_owned();
            if entry.file_type().unwrap().is_dir() {
                open.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort();
    found
}

type Shown = BTreeMap<(String, String), Vec<u8>>;

/// Names and values of everything below `root`, of the names that are shown.
fn attributes(root: &Path) -> Shown {
    let mut shown = Shown::new();
    let mut room = vec![0; 1 << 16];
    for path in paths(root) {
        let at = root.join(&path);
        let length = rustix::fs::llistxattr(&at, &mut room).unwrap_or(0);
        let names = String::from_utf8(room[..length].to_vec()).unwrap();
        for name in names.split_terminator('\0') {
            if !name.starts_with("trusted.") && !name.starts_with("security.") {
                let length = rustix::fs::lgetxattr(&at, name, &mut room).unwrap();
                shown.insert((path.clone(), name.to_owned()), room[..length].to_vec());
            }
        }
    }
    shown
}

fn people() -> Vec<Identity> {
    let person = |uid, gid, groups: &[u32]| Identity {
        uid,
        gid,
        groups: groups.to_vec(),
    };
    vec![
        person(2001, 2000, &[]),
        person(2002, 2000, &[]),
        person(2002, 3000, &[]),
        person(2003, 2000, &[3000]),
        person(2004, 2000, &[3001]),
        person(2004, 3001, &[3000]),
    ]
}

/// Whether each of some people may read each entry of `sub`: 0 or an errno.
fn decisions(sub: &OwnedFd, paths: &[String]) -> BTreeMap<(String, u32, u32, usize), i32> {
    let mut found = BTreeMap::new();
    for person in people() {
        for path in paths {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK;
            let open = || rustix::fs::openat(sub, path.as_str(), flags, Mode::empty());
            let errno = match as_identity(&person, open).unwrap() {
                Ok(_) => 0,
                Err(errno) => errno.raw_os_error(),
            };
            let key = (path.clone(), person.uid, person.gid, person.groups.len());
            found.insert(key, errno);
        }
    }
    found
}

fn folder(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
}

/// Asserts that a mount shows and decides what the origin does.
fn compare(front: &str, source: &Path, root: &Path) {
    let expected = attributes(source);
    assert!(expected.len() > 50);
    let seen = attributes(root);
    for (name, value) in &expected {
        assert!(seen.get(name) == Some(value), "{front}: {name:?}");
    }
    assert_eq!(seen.len(), expected.len(), "{front}: {:?}", seen.keys());

    let paths = paths(&source.join("sub"));
    let right = decisions(&folder(&source.join("sub")), &paths);
    let found = decisions(&folder(&root.join("sub")), &paths);
    for (who, errno) in &right {
        assert_eq!(found[who], *errno, "{front}: {who:?}");
    }
    let of = |path: &str, uid, gid, groups| found[&(path.to_owned(), uid, gid, groups)];
    assert_eq!(of("named-user", 2001, 2000, 0), 0, "let in by an entry");
    assert_eq!(of("named-user", 2002, 3000, 0), libc::EACCES);
    assert_eq!(of("all-but-one", 2002, 2000, 0), libc::EACCES, "kept out");
    assert_eq!(of("all-but-one", 2001, 2000, 0), 0);
    assert_eq!(of("closed-folder/inside", 2001, 2000, 0), 0);
    assert_eq!(of("closed-folder/inside", 2002, 3000, 0), libc::EACCES);
    assert_eq!(of("named-group", 2004, 2000, 1), 0);
    assert_eq!(of("named-group", 2003, 2000, 1), libc::EACCES);
}

fn scanned(bed: &Bed) {
    bed.create();
    let scan = bed.scanned().scan;
    assert_eq!(scan, ScanProgress::Complete);
}

#[test]
fn the_live_front_shows_attributes_and_obeys_acls() {
    let Some(bed) = Bed::mapped(QUOTA, write) else {
        return;
    };
    // Before the scan has said what there is.
    bed.create();
    let mount = bed.mount().unwrap();
    compare("live, early", &bed.source, &mount.path(""));
    bed.scanned();
    compare("live", &bed.source, &mount.path(""));
    // The kernel keeps ACLs, but no names and no `user.*`.
    let expected = attributes(&bed.source);
    attributes(&mount.path(""));
    let mut before = bed.status().requests;
    assert!(attributes(&mount.path("")) == expected);
    let mut after = bed.status().requests;
    let user = |(_, name): &&(String, String)| name.starts_with("user.");
    let user = expected.keys().filter(user).count() as u64;
    // Once for the size of the list, where a caller asks for it; this one does not.
    let listed = paths(&bed.source).len() as u64;
    for (operation, times) in [("getxattr", user), ("listxattr", listed)] {
        let count = after.remove(operation).unwrap() - before.remove(operation).unwrap();
        assert!(count <= times, "{operation}: {count} for {times}");
    }
    assert_eq!(before, after);

    let closed = bed.settings.clone();
    bed.close();
    bed.engine.open(closed).unwrap();
    mount.serve_again(&bed);
    compare("live, opened again", &bed.source, &mount.path(""));
}

#[test]
fn images_show_attributes_and_obey_acls() {
    let Some(bed) = Bed::mapped(QUOTA, write) else {
        return;
    };
    age();
    scanned(&bed);
    bed.image_ready();
    let lazy = bed.mount_lazy();
    compare("lazy", &bed.source, &path_in(&lazy.image.mount, ""));
    for path in paths(&bed.source) {
        let (at, there) = (bed.source.join(&path), path_in(&lazy.image.mount, &path));
        if fs::symlink_metadata(&at).unwrap().is_file() {
            assert_eq!(fs::read(&at).unwrap(), fs::read(there).unwrap(), "{path}");
        }
    }
    assert_eq!(bed.load(&[]).phase, LoadPhase::Complete);
    bed.sealable();
    let sealed = bed.mount_sealed();
    compare("sealed", &bed.source, &path_in(&sealed.mount, ""));
}

/// A tree without any, as most are.
fn write_plain(source: &Path) {
    for number in 0..50 {
        let folder = source.join(format!("sub/{}", number % 5));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(number.to_string()), b"bytes").unwrap();
    }
}

/// Looks at and reads everything below `sub`, as somebody else.
fn read_all(root: &Path, paths: &[String]) {
    let sub = folder(&root.join("sub"));
    let somebody = &people()[0];
    let read = || {
        for path in paths {
            let flags = OFlags::RDONLY;
            let file = rustix::fs::openat(&sub, path.as_str(), flags, Mode::empty()).unwrap();
            let mut bytes = [0; 10];
            let read = rustix::io::read(&file, &mut bytes);
            assert!(read == Ok(5) || read == Err(rustix::io::Errno::ISDIR));
        }
    };
    as_identity(somebody, read).unwrap();
}

#[test]
fn a_tree_without_attributes_costs_one_message() {
    let Some(bed) = Bed::mapped(QUOTA, write_plain) else {
        return;
    };
    age();
    let paths = paths(&bed.source.join("sub"));
    scanned(&bed);
    let mount = bed.mount().unwrap();
    read_all(&mount.path(""), &paths);
    let cold = bed.status().requests;
    assert_eq!(cold.get("getxattr"), Some(&1), "{cold:?}");
    for _ in 0..3 {
        read_all(&mount.path(""), &paths);
    }
    assert_eq!(bed.status().requests, cold, "warm");
    let none = rustix::fs::getxattr(mount.path("sub/1"), "user.a", &mut [0; 10]);
    assert_eq!(none, Err(rustix::io::Errno::OPNOTSUPP));
    assert_eq!(bed.status().requests, cold, "nor for other attributes");
}

#[test]
fn acls_cost_a_message_for_each_node_once() {
    let Some(bed) = Bed::mapped(QUOTA, |source| {
        write_plain(source);
        set_acl(
            &source.join("sub/1/1"),
            "system.posix_acl_access",
            ALL_BUT_ONE,
        );
    }) else {
        return;
    };
    age();
    let paths = paths(&bed.source.join("sub"));
    scanned(&bed);
    let mount = bed.mount().unwrap();
    read_all(&mount.path(""), &paths);
    let cold = bed.status().requests;
    // Every file, every folder, and `sub`.
    assert!(cold["getxattr"] <= paths.len() as u64 + 1, "{cold:?}");
    for _ in 0..3 {
        read_all(&mount.path(""), &paths);
    }
    assert_eq!(bed.status().requests, cold, "warm");
}

#[test]
fn what_is_too_much_for_one_entry_is_told() {
    let Some(bed) = Bed::mapped(QUOTA, |source| {
        write_plain(source);
        let file = source.join("sub/1/1");
        for number in 0..300 {
            set(&file, &format!("user.{number:03}"), b"");
        }
    }) else {
        return;
    };
    scanned(&bed);
    let text = eventually("it is told", || {
        let mut events = bed.engine.events().into_iter();
        let told = events.find(|event| event.reason == "AttributesLeftOut");
        told.map(|event| event.message)
    });
    assert!(
        text.starts_with("45 extended attributes of 1 entries"),
        "{text}"
    );
    assert!(text.ends_with("sub/1/1"), "{text}");
}
