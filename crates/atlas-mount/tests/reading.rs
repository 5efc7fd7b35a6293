//! What readers of a live mount see, and how many messages it costs.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use atlas_core::{Kind, Timestamp};
use atlas_mount::{ROOT_NODE, mounts};
use common::{Content, Memory, Mounted, can_mount, pattern, undisturbed};

const NOBODY: u32 = 65_534;

/// Everything below a folder: names in order, attributes, bytes, targets.
fn walk(folder: &Path, seen: &mut usize) {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .collect();
    names.sort_by_key(fs::DirEntry::file_name);
    for entry in names {
        *seen += 1;
        let status = fs::symlink_metadata(entry.path()).unwrap();
        if status.is_dir() {
            walk(&entry.path(), seen);
        } else if status.is_symlink() {
            fs::read_link(entry.path()).unwrap();
        } else if status.is_file() {
            assert_eq!(fs::read(entry.path()).unwrap().len() as u64, status.len());
        }
    }
}

#[test]
fn bytes_are_right_whole_in_parts_and_mapped() {
    if !can_mount() {
        return;
    }
    let sizes = [
        0,
        1,
        4095,
        4096,
        4097,
        100_000,
        (1 << 20) - 1,
        (3 << 20) + 17,
    ];
    let (mut memory, _held) = Memory::new();
    for size in sizes {
        memory.file(&size.to_string(), &pattern(size));
    }
    let mounted = Mounted::new(memory);
    for size in sizes {
        let path = mounted.at(size.to_string());
        let expected = pattern(size);
        let file = File::open(&path).unwrap();
        for offset in [0, 1, 4000, 4096, 70_001, 1 << 20] {
            let mut part = vec![0; 9000];
            let read = file.read_at(&mut part, offset as u64).unwrap();
            let end = expected.len().min(offset + 9000);
            let start = offset.min(end);
            // A read at an offset beyond the end gives nothing.
            assert_eq!(part[..read], expected[start..end], "{size} at {offset}");
        }
        assert_eq!(fs::read(&path).unwrap(), expected);
        if size > 0 {
            // SAFETY: a fresh private read-only mapping of a file that does not change.
            let mapped = unsafe {
                rustix::mm::mmap(
                    std::ptr::null_mut(),
                    size,
                    rustix::mm::ProtFlags::READ,
                    rustix::mm::MapFlags::PRIVATE,
                    &file,
                    0,
                )
            }
            .unwrap();
            // SAFETY: the mapping has `size` bytes and lives until the munmap below.
            let bytes = unsafe { std::slice::from_raw_parts(mapped.cast::<u8>(), size) };
            assert_eq!(bytes, expected);
            // SAFETY: the slice is not used any more.
            unsafe { rustix::mm::munmap(mapped, size) }.unwrap();
        }
    }
}

#[test]
fn a_folder_of_5000_is_listed_whole_with_few_messages() {
    if !can_mount() {
        return;
    }
    let (mut memory, _held) = Memory::new();
    let folder = memory.folder(ROOT_NODE, b"many");
    let mut expected = BTreeMap::new();
    for index in 0..5000 {
        let name = format!("{index:04}-{}", "x".repeat(index % 200));
        let content = match index % 3 {
            0 => Content::File(pattern(index)),
            1 => Content::Folder(Vec::new()),
            _ => Content::Link(b"../elsewhere".to_vec()),
        };
        let id = memory.add(folder, name.as_bytes(), 0o755, content);
        expected.insert(name, (id, index % 3));
    }
    let mounted = Mounted::new(memory);
    undisturbed(|| {
        let before = mounted.session().counts();
        for _ in 0..2 {
            let mut listed = BTreeMap::new();
            for entry in fs::read_dir(mounted.at("many")).unwrap() {
                let entry = entry.unwrap();
                let kind = entry.file_type().unwrap();
                let kind = if kind.is_file() {
                    0
                } else {
                    1 + usize::from(kind.is_symlink())
                };
                let inode = std::os::unix::fs::DirEntryExt::ino(&entry);
                listed.insert(entry.file_name().into_string().unwrap(), (inode, kind));
            }
            assert_eq!(listed, expected);
        }
        // Attributes came with the names.
        for (name, (inode, _)) in &expected {
            let status = fs::symlink_metadata(mounted.at("many").join(name)).unwrap();
            assert_eq!(status.ino(), *inode);
        }
        let counts = mounted.session().counts();
        let asked = |name: &str| {
            counts.get(name).copied().unwrap_or(0) - before.get(name).copied().unwrap_or(0)
        };
        // Of the root and the folder themselves.
        let few = asked("getattr") <= 2 && asked("lookup") <= 2 && asked("readdirplus") < 150;
        if few {
            Ok(())
        } else {
            Err(format!("{before:?}, then {counts:?}"))
        }
    });
}

#[test]
fn a_warm_pass_sends_no_message() {
    if !can_mount() {
        return;
    }
    let (mut memory, _held) = Memory::new();
    for folder in 0..10 {
        let folder = memory.folder(ROOT_NODE, format!("folder{folder}").as_bytes());
        for file in 0..30 {
            let name = format!("file{file}");
            let content = Content::File(pattern(file * 1000));
            memory.add(folder, name.as_bytes(), 0o644, content);
        }
        memory.add(folder, b"link", 0o777, Content::Link(b"file1".to_vec()));
        memory.add(folder, b"pipe", 0o644, Content::Other);
    }
    let mounted = Mounted::new(memory);
    let pass = || {
        let mut seen = 0;
        walk(&mounted.path, &mut seen);
        assert_eq!(seen, 330);
        assert_eq!(fs::read(mounted.at("folder3/link")).unwrap(), pattern(1000));
        assert!(!mounted.at("folder3/absent").exists());
        assert!(!mounted.at("absent").exists());
    };
    undisturbed(|| {
        pass();
        let first = mounted.session().counts();
        pass();
        let second = mounted.session().counts();
        if first == second {
            Ok(())
        } else {
            Err(format!("{first:?}, then {second:?}"))
        }
    });
    let counts = mounted.session().counts();
    // One OPEN and one OPENDIR found out that none are needed.
    assert_eq!((counts["open"], counts["opendir"]), (1, 1), "{counts:?}");
    assert!(counts.get("flush").copied().unwrap_or(0) <= 1, "{counts:?}");
    assert_eq!(counts.get("release"), None);
}

#[test]
fn attributes_are_shown_as_they_are() {
    if !can_mount() {
        return;
    }
    let (mut memory, _held) = Memory::new();
    let file = memory.file("file", b"12345");
    {
        let attributes = memory.attributes_of(file);
        attributes.permissions = 0o7751;
        attributes.uid = 12_345;
        attributes.gid = 54_321;
        attributes.links = 2;
        attributes.modified = Timestamp {
            seconds: -86_400,
            nanoseconds: 999_999_999,
        };
        attributes.changed = Timestamp {
            seconds: 5_000_000_000,
            nanoseconds: 1,
        };
    }
    memory.link(ROOT_NODE, b"again", file);
    let device = memory.add(ROOT_NODE, b"device", 0o600, Content::Other);
    memory.attributes_of(device).kind = Kind::CharacterDevice;
    memory.attributes_of(device).device_number = libc::makedev(10, 229);
    let mounted = Mounted::new(memory);
    let status = fs::metadata(mounted.at("file")).unwrap();
    assert_eq!(status.mode(), libc::S_IFREG | 0o7751);
    assert_eq!(
        (status.uid(), status.gid(), status.nlink(), status.size()),
        (12_345, 54_321, 2, 5)
    );
    assert_eq!(
        (status.mtime(), status.mtime_nsec()),
        (-86_400, 999_999_999)
    );
    assert_eq!((status.ctime(), status.ctime_nsec()), (5_000_000_000, 1));
    assert_eq!((status.blksize(), status.blocks()), (4096, 1));
    assert_eq!(
        fs::metadata(mounted.at("again")).unwrap().ino(),
        status.ino()
    );
    let status = fs::metadata(mounted.at("device")).unwrap();
    assert!(status.file_type().is_char_device());
    assert_eq!(status.rdev(), libc::makedev(10, 229));
    let error = File::open(mounted.at("device")).unwrap_err();
    assert_eq!(
        error.raw_os_error(),
        Some(libc::EACCES),
        "the mount is nodev"
    );

    let statistics = rustix::fs::statvfs(&mounted.path).unwrap();
    assert_eq!(
        (statistics.f_blocks, statistics.f_bfree, statistics.f_bavail),
        (1000, 250, 200)
    );
    assert_eq!(statistics.f_namemax, 255);
    let entries = mounts::table().unwrap();
    let entry = entries
        .iter()
        .find(|entry| entry.path == mounted.path)
        .unwrap();
    assert_eq!(entry.kind, "fuse.atlas-test");
    assert_eq!(entry.source, "memory");
    assert!(entry.read_only);
    assert_eq!(
        entry.device,
        mounts::device_of(mounted.mount.as_ref().unwrap()).unwrap()
    );
    mounts::set_read_ahead(entry.device, 777).unwrap();
    let set = format!(
        "/sys/class/bdi/{}:{}/read_ahead_kb",
        entry.device.major, entry.device.minor
    );
    // The kernel counts in pages.
    assert_eq!(fs::read_to_string(set).unwrap().trim(), "776");
}

#[test]
fn the_kernel_checks_permissions() {
    if !can_mount() {
        return;
    }
    let (mut memory, _held) = Memory::new();
    let modes = [
        ("open", 0o644, true),
        ("closed", 0o600, false),
        ("none", 0, false),
    ];
    for (name, permissions, _) in modes {
        memory.add(
            ROOT_NODE,
            name.as_bytes(),
            permissions,
            Content::File(b"bytes".to_vec()),
        );
    }
    let own = memory.file("own", b"bytes");
    memory.attributes_of(own).permissions = 0o400;
    memory.attributes_of(own).uid = NOBODY;
    let group = memory.file("group", b"bytes");
    memory.attributes_of(group).permissions = 0o040;
    memory.attributes_of(group).gid = NOBODY;
    let folder = memory.add(ROOT_NODE, b"private", 0o700, Content::Folder(Vec::new()));
    memory.add(folder, b"inside", 0o644, Content::File(b"bytes".to_vec()));
    let mounted = Mounted::new(memory);
    let reads = |name: &str| {
        let output = Command::new("/bin/cat")
            .arg(mounted.at(name))
            .uid(NOBODY)
            .gid(NOBODY)
            .stderr(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.status.success(), output.stdout == b"bytes");
        output.status.success()
    };
    for (name, _, allowed) in modes {
        assert_eq!(reads(name), allowed, "{name}");
    }
    assert!(reads("own"));
    assert!(reads("group"));
    assert!(!reads("private/inside"));
    assert_eq!(
        fs::read(mounted.at("private/inside")).unwrap(),
        b"bytes",
        "root may"
    );
}

#[test]
fn every_changing_call_fails_with_erofs() {
    if !can_mount() {
        return;
    }
    let (mut memory, _held) = Memory::new();
    memory.file("file", b"bytes");
    memory.folder(ROOT_NODE, b"folder");
    let mounted = Mounted::new(memory);
    let (file, folder, new) = (mounted.at("file"), mounted.at("folder"), mounted.at("new"));
    let now = std::time::SystemTime::now();
    let outcomes: Vec<(&str, std::io::Result<()>)> = vec![
        ("create", File::create(&new).map(drop)),
        (
            "open for writing",
            File::options().write(true).open(&file).map(drop),
        ),
        ("append", File::options().append(true).open(&file).map(drop)),
        ("mkdir", fs::create_dir(&new)),
        ("unlink", fs::remove_file(&file)),
        ("rmdir", fs::remove_dir(&folder)),
        ("rename", fs::rename(&file, &new)),
        ("link", fs::hard_link(&file, &new)),
        ("symlink", symlink("target", &new)),
        (
            "chmod",
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)),
        ),
        ("chown", std::os::unix::fs::chown(&file, Some(1), Some(1))),
        ("truncate", truncate(&file)),
        (
            "utimes",
            File::open(&file).and_then(|file| file.set_modified(now)),
        ),
        ("setxattr", set_extended(&file)),
        ("mknod", make_pipe(&new)),
    ];
    for (call, outcome) in outcomes {
        assert_eq!(
            outcome.unwrap_err().raw_os_error(),
            Some(libc::EROFS),
            "{call}"
        );
    }
    assert_eq!(fs::read(&file).unwrap(), b"bytes");
}

fn truncate(path: &Path) -> std::io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the path is a C string that outlives the call.
    let result = unsafe { libc::truncate(path.as_ptr(), 1) };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

fn set_extended(path: &Path) -> std::io::Result<()> {
    let flags = rustix::fs::XattrFlags::empty();
    Ok(rustix::fs::setxattr(path, "user.colour", b"red", flags)?)
}

fn make_pipe(path: &Path) -> std::io::Result<()> {
    let mode = rustix::fs::Mode::RWXU;
    Ok(rustix::fs::mknodat(
        rustix::fs::CWD,
        path,
        rustix::fs::FileType::Fifo,
        mode,
        0,
    )?)
}

#[test]
fn odd_names_come_through() {
    if !can_mount() {
        return;
    }
    let names: [&[u8]; 8] = [
        b"new\nline",
        b"\xff\xfe not utf-8",
        &[b'x'; 255],
        b"back\\slash",
        b" ",
        b"...",
        b"\x1b[2J",
        "\u{202e}gnp.exe".as_bytes(),
    ];
    let (mut memory, _held) = Memory::new();
    for (index, name) in names.iter().enumerate() {
        memory.add(ROOT_NODE, name, 0o644, Content::File(pattern(index + 10)));
    }
    let mut folder = ROOT_NODE;
    let mut deep = PathBuf::new();
    for level in 0..30 {
        let name = format!("level {level}");
        folder = memory.folder(folder, name.as_bytes());
        deep.push(name);
    }
    memory.add(folder, b"bottom", 0o644, Content::File(b"deep".to_vec()));
    let mounted = Mounted::new(memory);
    for (index, name) in names.iter().enumerate() {
        let bytes = fs::read(mounted.at(OsStr::from_bytes(name))).unwrap();
        assert_eq!(bytes, pattern(index + 10), "{name:?}");
    }
    assert_eq!(fs::read(mounted.at(deep).join("bottom")).unwrap(), b"deep");
    let mut listed: Vec<_> = (fs::read_dir(&mounted.path).unwrap())
        .map(|entry| entry.unwrap().file_name().into_vec())
        .filter(|name| name != b"level 0")
        .collect();
    listed.sort();
    let mut expected: Vec<_> = names.iter().map(|name| name.to_vec()).collect();
    expected.sort();
    assert_eq!(listed, expected);
    let long = fs::metadata(mounted.at("y".repeat(256))).unwrap_err();
    assert_eq!(long.raw_os_error(), Some(libc::ENAMETOOLONG));
}

#[test]
fn extended_attributes_if_there_are_any() {
    if !can_mount() {
        return;
    }
    let (mut memory, _held) = Memory::new();
    memory.file("file", b"bytes");
    memory.with_extended_attributes();
    let mounted = Mounted::new(memory);
    let file = mounted.at("file");
    let mut buffer = [0; 64];
    let get = |name: &str, buffer: &mut [u8]| rustix::fs::getxattr(&file, name, buffer);
    assert_eq!(get("user.colour", &mut buffer), Ok(5));
    assert_eq!(&buffer[..5], b"green");
    assert_eq!(rustix::fs::getxattr_query(&file, "user.colour"), Ok(5));
    assert_eq!(
        get("user.colour", &mut buffer[..2]),
        Err(rustix::io::Errno::RANGE)
    );
    assert_eq!(
        get("user.other", &mut buffer),
        Err(rustix::io::Errno::NODATA)
    );
    assert_eq!(rustix::fs::listxattr(&file, &mut buffer), Ok(12));
}

#[test]
fn without_extended_attributes_the_kernel_asks_once() {
    if !can_mount() {
        return;
    }
    let (mut memory, _held) = Memory::new();
    memory.file("file", b"bytes");
    let mounted = Mounted::new(memory);
    for _ in 0..3 {
        let mut buffer = [0; 64];
        let outcome = rustix::fs::getxattr(mounted.at("file"), "user.colour", &mut buffer);
        assert_eq!(outcome, Err(rustix::io::Errno::OPNOTSUPP));
    }
    assert_eq!(mounted.session().counts()["getxattr"], 1);
}

#[test]
fn stored_bytes_need_no_read_and_invalidated_ones_do() {
    if !can_mount() {
        return;
    }
    let (mut memory, _held) = Memory::new();
    let bytes = pattern(10_000);
    let id = memory.file("file", &bytes);
    let mounted = Mounted::new(memory);
    let session = mounted.session();
    assert!(
        !session.store(id, 0, &bytes).unwrap(),
        "the kernel does not know it yet"
    );
    fs::metadata(mounted.at("file")).unwrap();
    assert!(session.store(id, 0, &bytes).unwrap());
    assert_eq!(fs::read(mounted.at("file")).unwrap(), bytes);
    assert_eq!(session.counts().get("read"), None);
    assert!(session.invalidate_node(id).unwrap());
    assert_eq!(fs::read(mounted.at("file")).unwrap(), bytes);
    assert!(session.counts()["read"] >= 1);

    let lookups = session.counts()["lookup"];
    assert!(session.invalidate_entry(ROOT_NODE, b"file").unwrap());
    fs::metadata(mounted.at("file")).unwrap();
    assert_eq!(session.counts()["lookup"], lookups + 1);
    assert!(!session.invalidate_entry(ROOT_NODE, b"never seen").unwrap());
}
