//! What listings and attributes have to tell.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use atlas_core::{Attributes, ErrorKind, Kind};

use super::{Fixture, kind, make_fifo, path, pattern, read, tag, write};
use crate::origin::ReadRequest;

pub(super) fn a_folder_is_listed_with_types(fixture: &dyn Fixture) {
    let origin = fixture.origin();
    assert_eq!(origin.list(b"").unwrap(), []);
    write(fixture, b"file", b"x");
    fs::create_dir(path(fixture, b"folder")).unwrap();
    write(fixture, b"folder/inner", b"x");
    symlink("file", path(fixture, b"link")).unwrap();
    make_fifo(&path(fixture, b"fifo"));
    let mut listed = origin.list(b"").unwrap();
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    let wanted = [
        (b"fifo".as_slice(), Kind::Fifo),
        (b"file", Kind::File),
        (b"folder", Kind::Folder),
        (b"link", Kind::Link),
    ];
    assert_eq!(listed.len(), wanted.len());
    for (found, (name, kind)) in listed.iter().zip(wanted) {
        assert_eq!(found.name, name);
        assert!(found.kind.is_none_or(|hint| hint == kind), "{found:?}");
    }
    let inner: Vec<_> = origin.list(b"folder").unwrap();
    assert_eq!(
        inner
            .iter()
            .map(|one| one.name.as_slice())
            .collect::<Vec<_>>(),
        [b"inner"]
    );
    assert_eq!(kind(origin.list(b"file")), ErrorKind::NotFound);
}

pub(super) fn odd_names_arrive_as_they_are(fixture: &dyn Fixture) {
    let origin = fixture.origin();
    let long = [b'n'; 255];
    let mut names: Vec<&[u8]> = vec![
        b"line\nbreak",
        b"\xff\xfe invalid",
        &long,
        b" ",
        b"-rf",
        b"\x1b[2J",
        b"...",
        b"a\\b",
    ];
    names.sort_unstable();
    for name in &names {
        write(fixture, name, name);
    }
    let mut listed: Vec<_> = origin
        .list(b"")
        .unwrap()
        .into_iter()
        .map(|one| one.name)
        .collect();
    listed.sort_unstable();
    assert_eq!(listed, names);
    for name in names {
        assert_eq!(
            read(origin.as_ref(), name, &tag(origin.as_ref(), name)).unwrap(),
            name
        );
    }
}

pub(super) fn attributes_are_those_of_the_entry(fixture: &dyn Fixture) {
    let origin = fixture.origin();
    write(fixture, b"file", &pattern(5000));
    fs::set_permissions(path(fixture, b"file"), PermissionsExt::from_mode(0o4751)).unwrap();
    fs::hard_link(path(fixture, b"file"), path(fixture, b"other")).unwrap();
    fs::create_dir(path(fixture, b"folder")).unwrap();
    make_fifo(&path(fixture, b"fifo"));
    for (name, kind) in [
        (b"file".as_slice(), Kind::File),
        (b"other", Kind::File),
        (b"folder", Kind::Folder),
        (b"fifo", Kind::Fifo),
        (b"", Kind::Folder),
    ] {
        let entry = origin.stat(name).unwrap();
        assert_eq!(entry.attributes.kind, kind);
        assert_eq!(entry.target, None);
        assert_attributes(&entry.attributes, &path(fixture, name));
    }
}

fn assert_attributes(found: &Attributes, path: &Path) {
    let wanted = fs::symlink_metadata(path).unwrap();
    assert_eq!(found.permissions, wanted.mode() & 0o7777);
    assert_eq!((found.uid, found.gid), (wanted.uid(), wanted.gid()));
    assert_eq!(u64::from(found.links), wanted.nlink());
    assert_eq!(found.size, wanted.size());
    assert_eq!(
        (found.inode, found.device_number),
        (wanted.ino(), wanted.rdev())
    );
    let times = [(found.modified, wanted.mtime(), wanted.mtime_nsec())];
    for (time, seconds, nanoseconds) in times {
        assert_eq!(
            (time.seconds, i64::from(time.nanoseconds)),
            (seconds, nanoseconds)
        );
    }
}

pub(super) fn links_are_told_of_and_not_followed(fixture: &dyn Fixture) {
    let origin = fixture.origin();
    fs::create_dir(path(fixture, b"folder")).unwrap();
    write(fixture, b"folder/file", b"x");
    let long = [b'x'; 3000];
    let targets: [(&[u8], &[u8]); 5] = [
        (b"relative", b"folder/file"),
        (b"absolute", b"/etc/passwd"),
        (b"dangling", b"\xff nowhere\n"),
        (b"up", b"../.."),
        (b"long", &long),
    ];
    for (name, target) in targets {
        symlink(OsStr::from_bytes(target), path(fixture, name)).unwrap();
        let entry = origin.stat(name).unwrap();
        assert_eq!(entry.attributes.kind, Kind::Link);
        assert_eq!(entry.target.as_deref(), Some(target));
        assert_eq!(entry.attributes.size, target.len() as u64);
        assert_eq!(
            kind(read(origin.as_ref(), name, &entry.attributes.tag())),
            ErrorKind::Stale
        );
    }
    symlink("folder", path(fixture, b"way")).unwrap();
    let file = tag(origin.as_ref(), b"folder/file");
    for refused in [
        kind(origin.list(b"way")),
        kind(origin.stat(b"way/file")),
        kind(read(origin.as_ref(), b"way/file", &file)),
        kind(origin.stat_many(b"way", &[b"file"])),
    ] {
        // As the kernel sees it: a loop, or not a folder.
        assert!(
            matches!(refused, ErrorKind::Invalid | ErrorKind::NotFound),
            "{refused:?}"
        );
    }
}

pub(super) fn many_entries_are_asked_for_at_once(fixture: &dyn Fixture) {
    let origin = fixture.origin();
    fs::create_dir(path(fixture, b"folder")).unwrap();
    write(fixture, b"folder/a", b"a");
    write(fixture, b"folder/c", b"ccc");
    symlink("a", path(fixture, b"folder/l")).unwrap();
    let names: [&[u8]; 5] = [b"a", b"gone", b"c", b"l", b".."];
    let answers = origin.stat_many(b"folder", &names).unwrap();
    assert_eq!(answers.len(), names.len());
    assert_eq!(answers[0].as_ref().unwrap().attributes.size, 1);
    assert_eq!(answers[1].as_ref().unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(answers[2].as_ref().unwrap().attributes.size, 3);
    assert_eq!(
        answers[3].as_ref().unwrap().target.as_deref(),
        Some(b"a".as_slice())
    );
    assert_eq!(answers[4].as_ref().unwrap_err().kind, ErrorKind::Invalid);
    assert_eq!(
        kind(origin.stat_many(b"nowhere", &[b"a"])),
        ErrorKind::NotFound
    );
}

pub(super) fn what_is_not_there_is_not_found(fixture: &dyn Fixture) {
    let origin = fixture.origin();
    write(fixture, b"file", b"x");
    let version = tag(origin.as_ref(), b"file");
    assert_eq!(kind(origin.list(b"nowhere")), ErrorKind::NotFound);
    assert_eq!(kind(origin.stat(b"nowhere")), ErrorKind::NotFound);
    assert_eq!(kind(origin.stat(b"file/inner")), ErrorKind::NotFound);
    let error = origin
        .read(b"nowhere/file", &version, 0, &mut [0])
        .unwrap_err();
    assert_eq!(
        (error.kind, error.errno),
        (ErrorKind::NotFound, libc::ENOENT)
    );
}

pub(super) fn paths_that_leave_the_root_are_invalid(fixture: &dyn Fixture) {
    let origin = fixture.origin();
    write(fixture, b"file", b"x");
    let version = tag(origin.as_ref(), b"file");
    for bad in [
        b"..".as_slice(),
        b"../x",
        b"/etc/passwd",
        b"a/../..",
        ".".as_bytes(),
        b"a\0b",
    ] {
        assert_eq!(kind(origin.list(bad)), ErrorKind::Invalid);
        assert_eq!(kind(origin.stat(bad)), ErrorKind::Invalid);
        assert_eq!(
            kind(read(origin.as_ref(), bad, &version)),
            ErrorKind::Invalid
        );
        let buffer = &mut [0; 1];
        let request = ReadRequest {
            name: bad,
            tag: &version,
            buffer,
        };
        let mut answers = origin.read_many(b"", &mut [request]).unwrap();
        assert_eq!(kind(answers.remove(0)), ErrorKind::Invalid);
    }
}

pub(super) fn no_extended_attributes_are_none(fixture: &dyn Fixture) {
    let origin = fixture.origin();
    write(fixture, b"file", b"x");
    symlink("file", path(fixture, b"link")).unwrap();
    for name in [b"file".as_slice(), b"link", b""] {
        let entry = origin.stat(name).unwrap();
        assert_eq!((entry.extended, entry.left_out), (Vec::new(), 0));
    }
}
