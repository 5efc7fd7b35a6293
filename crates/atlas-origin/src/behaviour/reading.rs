//! What reads of files have to do.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;

use atlas_core::{ErrorKind, VersionTag};

use super::{Fixture, kind, make_fifo, path, pattern, read, tag, write};
use crate::origin::ReadRequest;

pub(super) fn ranges_are_read_exactly(fixture: &dyn Fixture) {
    let origin = fixture.origin();
    let bytes = pattern(3_000_001);
    write(fixture, b"file", &bytes);
    write(fixture, b"empty", b"");
    let version = tag(origin.as_ref(), b"file");
    for (offset, length) in [
        (0, 1),
        (1, 4095),
        (4095, 2),
        (1 << 20, 1 << 20),
        (2_999_999, 2),
    ] {
        let mut buffer = vec![0; length];
        origin
            .read(b"file", &version, offset as u64, &mut buffer)
            .unwrap();
        assert!(
            buffer == bytes[offset..offset + length],
            "{offset} {length}"
        );
    }
    assert!(read(origin.as_ref(), b"file", &version).unwrap() == bytes);
    for offset in [3_000_001, 3_000_000, u64::MAX] {
        let beyond = origin.read(b"file", &version, offset, &mut [0; 2]);
        assert_eq!(kind(beyond), ErrorKind::Invalid);
    }
    assert_eq!(
        read(origin.as_ref(), b"empty", &tag(origin.as_ref(), b"empty")).unwrap(),
        b""
    );
}

pub(super) fn holes_are_zeros(fixture: &dyn Fixture) {
    let origin = fixture.origin();
    let file = File::create(path(fixture, b"sparse")).unwrap();
    file.write_all_at(b"end", 1 << 20).unwrap();
    file.set_len((1 << 20) + 5000).unwrap();
    let bytes = read(origin.as_ref(), b"sparse", &tag(origin.as_ref(), b"sparse")).unwrap();
    assert!(
        bytes[..1 << 20]
            .iter()
            .chain(&bytes[(1 << 20) + 3..])
            .all(|byte| *byte == 0)
    );
    assert_eq!(&bytes[1 << 20..][..3], b"end");
}

pub(super) fn another_version_is_stale(fixture: &dyn Fixture) {
    let origin = fixture.origin();
    let file = path(fixture, b"file");
    let changes: [fn(&Path); 4] = [
        |file| {
            File::options()
                .append(true)
                .open(file)
                .unwrap()
                .write_all(b"more")
                .unwrap();
        },
        |file| {
            File::options()
                .write(true)
                .open(file)
                .unwrap()
                .set_len(10)
                .unwrap();
        },
        |file| {
            let other = file.with_extension("other");
            fs::write(&other, pattern(5000)).unwrap();
            fs::rename(other, file).unwrap();
        },
        |file| {
            let old = fs::metadata(file).unwrap().modified().unwrap();
            let file = File::options().write(true).open(file).unwrap();
            file.write_all_at(b"same size, same time", 0).unwrap();
            file.set_modified(old).unwrap();
        },
    ];
    for change in changes {
        fs::write(&file, pattern(5000)).unwrap();
        let version = tag(origin.as_ref(), b"file");
        assert_eq!(
            read(origin.as_ref(), b"file", &version).unwrap().len(),
            5000
        );
        until_the_clock_of_files_moves(&file);
        change(&file);
        let error = origin.read(b"file", &version, 0, &mut [0; 10]).unwrap_err();
        assert_eq!((error.kind, error.errno), (ErrorKind::Stale, libc::ESTALE));
    }
}

/// File systems may stamp changes with the time of the last tick.
fn until_the_clock_of_files_moves(file: &Path) {
    let probe = file.with_extension("probe");
    let before = fs::metadata(file).unwrap();
    loop {
        fs::write(&probe, b"").unwrap();
        let now = fs::metadata(&probe).unwrap();
        if (now.ctime(), now.ctime_nsec()) > (before.ctime(), before.ctime_nsec()) {
            return;
        }
    }
}

pub(super) fn many_files_are_read_at_once(fixture: &dyn Fixture) {
    let origin = fixture.origin();
    fs::create_dir(path(fixture, b"folder")).unwrap();
    let names: Vec<Vec<u8>> = (0..50).map(|n| format!("file{n}").into_bytes()).collect();
    let full = |name: &[u8]| [b"folder/".as_slice(), name].concat();
    let tags: Vec<VersionTag> = names
        .iter()
        .enumerate()
        .map(|(number, name)| {
            write(fixture, &full(name), &pattern(number * 137));
            tag(origin.as_ref(), &full(name))
        })
        .collect();
    fs::remove_file(path(fixture, b"folder/file7")).unwrap();
    fs::write(path(fixture, b"folder/file9"), b"changed").unwrap();
    let mut buffers: Vec<Vec<u8>> = tags.iter().map(|tag| vec![1; tag.size as usize]).collect();
    let mut requests: Vec<ReadRequest<'_>> = names
        .iter()
        .zip(&tags)
        .zip(&mut buffers)
        .map(|((name, tag), buffer)| ReadRequest { name, tag, buffer })
        .collect();
    let answers = origin.read_many(b"folder", &mut requests).unwrap();
    assert_eq!(answers.len(), names.len());
    for (number, answer) in answers.into_iter().enumerate() {
        match number {
            7 => assert_eq!(kind(answer), ErrorKind::NotFound),
            9 => assert_eq!(kind(answer), ErrorKind::Stale),
            _ => {
                answer.unwrap();
                assert!(buffers[number] == pattern(number * 137));
            }
        }
    }
    assert_eq!(
        kind(origin.read_many(b"nowhere", &mut [])),
        ErrorKind::NotFound
    );
}

pub(super) fn what_is_no_file_is_not_read(fixture: &dyn Fixture) {
    let origin = fixture.origin();
    for replace in [
        make_fifo as fn(&Path),
        |path| fs::create_dir(path).unwrap(),
        |path| {
            symlink("elsewhere", path).unwrap();
        },
    ] {
        write(fixture, b"file", b"bytes");
        write(fixture, b"elsewhere", b"bytes");
        let version = tag(origin.as_ref(), b"file");
        fs::remove_file(path(fixture, b"file")).unwrap();
        replace(&path(fixture, b"file"));
        assert_eq!(
            kind(read(origin.as_ref(), b"file", &version)),
            ErrorKind::Stale
        );
        let own = VersionTag {
            size: 0,
            ..tag(origin.as_ref(), b"file")
        };
        assert_eq!(kind(read(origin.as_ref(), b"file", &own)), ErrorKind::Stale);
        let _ = fs::remove_dir(path(fixture, b"file"));
        let _ = fs::remove_file(path(fixture, b"file"));
    }
}

pub(super) fn a_renamed_folder_is_not_mixed_up(fixture: &dyn Fixture) {
    let origin = fixture.origin();
    let origin = origin.as_ref();
    let folder = path(fixture, b"folder");
    for round in 0..6 {
        let name = format!("file{round}");
        let full = format!("folder/{name}");
        let (name, full) = (name.as_bytes(), full.as_bytes());
        fs::create_dir(&folder).unwrap();
        write(fixture, full, name);
        // Each round asks first in another way, with the folder of the round before remembered.
        let ask_first: [&dyn Fn(); 3] = [
            &|| assert_eq!(tag(origin, full).size, name.len() as u64),
            &|| assert!(origin.stat_many(b"folder", &[name]).unwrap()[0].is_ok()),
            &|| {
                let names: Vec<_> = origin.list(b"folder").unwrap();
                assert_eq!(
                    names.iter().map(|one| &one.name).collect::<Vec<_>>(),
                    [name]
                );
            },
        ];
        ask_first[round % 3]();
        let version = tag(origin, full);
        assert_eq!(read(origin, full, &version).unwrap(), name);
        fs::rename(&folder, path(fixture, format!("old{round}").as_bytes())).unwrap();
        let gone = origin.stat(b"folder/absent").unwrap_err();
        assert_eq!(gone.kind, ErrorKind::NotFound);
    }
    let version = tag(origin, b"old0/file0");
    assert_eq!(read(origin, b"old0/file0", &version).unwrap(), b"file0");
}

pub(super) fn requests_and_bytes_are_counted(fixture: &dyn Fixture) {
    let origin = fixture.origin();
    write(fixture, b"file", &pattern(1234));
    let before = origin.counters();
    let version = tag(origin.as_ref(), b"file");
    read(origin.as_ref(), b"file", &version).unwrap();
    origin.list(b"").unwrap();
    let after = origin.counters();
    assert_eq!(after.requests - before.requests, 3);
    assert_eq!(after.read_bytes - before.read_bytes, 1234);
}
