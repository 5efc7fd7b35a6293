//! Mounted images: over plain files and over files on a FUSE connection that is attached nowhere,
//! and how they take the place of another mount.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use atlas_core::ErrorKind;
use atlas_mount::mounts::{self, DeviceFile, ImageMount, MountOptions, mount_image};
use atlas_mount::{Profile, Session, SessionSettings};
use common::{Memory, Mounted, attach, can_mount, pattern, undisturbed};
use rustix::fs::{Mode, OFlags};

const PATIENCE: Duration = Duration::from_secs(20);
const BLOCK: usize = 4096;
const SIZE: usize = 20 * BLOCK + 10;
const NAME: &str = "atlas:speech:1";

/// A file of an image: its name, the device (1 is the first) and the block where it begins.
struct Entry {
    name: &'static str,
    device: u16,
    block: u32,
}

/// The smallest image that does: one folder, files of `SIZE` bytes in one chunk each. As the
/// kernel's `fs/erofs/erofs_fs.h` has it.
fn image(entries: &[Entry], devices: usize) -> Vec<u8> {
    const INODE: usize = 32;
    const FILE: usize = 2 * INODE;
    let mut bytes = vec![0; 3 * BLOCK];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    let superblock = 1024;
    put(superblock, &0xe0f5_e1e2_u32.to_le_bytes());
    put(superblock + 12, &[12]);
    put(superblock + 14, &0_u16.to_le_bytes());
    put(superblock + 36, &3_u32.to_le_bytes());
    put(superblock + 40, &1_u32.to_le_bytes());
    put(superblock + 80, &(0x4_u32 | 0x8).to_le_bytes());
    put(superblock + 86, &(devices as u16).to_le_bytes());
    let table = superblock + 128;
    put(superblock + 88, &((table / 128) as u16).to_le_bytes());
    for device in 0..devices {
        put(table + device * 128 + 64, &1024_u32.to_le_bytes());
    }
    let node = |index: usize| (1 + index * FILE / INODE) as u64;
    let mut names: Vec<(&str, u64, u8)> = vec![(".", 0, 2), ("..", 0, 2)];
    names
        .extend((entries.iter().enumerate()).map(|(index, entry)| (entry.name, node(index), 1_u8)));
    names.sort_unstable();
    let mut offset = 12 * names.len();
    for (index, (name, node, kind)) in names.iter().enumerate() {
        put(2 * BLOCK + index * 12, &node.to_le_bytes());
        put(2 * BLOCK + index * 12 + 8, &(offset as u16).to_le_bytes());
        put(2 * BLOCK + index * 12 + 10, &[*kind]);
        put(2 * BLOCK + offset, name.as_bytes());
        offset += name.len();
    }
    put(BLOCK + 4, &0o40_755_u16.to_le_bytes());
    put(BLOCK + 6, &2_u16.to_le_bytes());
    put(BLOCK + 8, &(offset as u32).to_le_bytes());
    put(BLOCK + 16, &2_u32.to_le_bytes());
    for (index, entry) in entries.iter().enumerate() {
        let at = BLOCK + node(index) as usize * INODE;
        put(at, &(4_u16 << 1).to_le_bytes());
        put(at + 4, &0o100_644_u16.to_le_bytes());
        put(at + 6, &1_u16.to_le_bytes());
        put(at + 8, &(SIZE as u32).to_le_bytes());
        put(at + 16, &(0x20_u32 | 5).to_le_bytes());
        put(at + INODE + 2, &entry.device.to_le_bytes());
        put(at + INODE + 4, &entry.block.to_le_bytes());
    }
    bytes
}

const FIRST: Entry = Entry {
    name: "first",
    device: 1,
    block: 3,
};
const SECOND: Entry = Entry {
    name: "second",
    device: 2,
    block: 40,
};

/// A device of 1,024 blocks: block b begins at byte b * 4096 of the pattern.
fn device() -> Vec<u8> {
    pattern(1024 * BLOCK)
}

fn expected(entry: &Entry) -> Vec<u8> {
    let start = entry.block as usize * BLOCK;
    device()[start..start + SIZE].to_vec()
}

/// A folder on a disk: images on a tmpfs cannot be mounted.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn open_folder(path: &Path) -> OwnedFd {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).unwrap()
}

fn device_file<'a>(folder: &'a OwnedFd, name: &str) -> DeviceFile<'a> {
    DeviceFile {
        folder: folder.as_fd(),
        name: name.to_owned(),
    }
}

/// An image over two plain files in `folder`.
fn plain(folder: &Path) -> ImageMount {
    fs::write(folder.join(NAME), image(&[FIRST, SECOND], 2)).unwrap();
    fs::write(folder.join("a"), device()).unwrap();
    fs::write(folder.join("b"), device()).unwrap();
    mount_plain(folder)
}

/// The image of `plain` once more.
fn mount_plain(folder: &Path) -> ImageMount {
    let opened = open_folder(folder);
    let devices = [device_file(&opened, "a"), device_file(&opened, "b")];
    mount_image(opened.as_fd(), NAME, &devices).unwrap()
}

fn open_in(mount: &OwnedFd, name: &str) -> File {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    File::from(rustix::fs::openat(mount, name, flags, Mode::empty()).unwrap())
}

fn read_in(mount: &OwnedFd, name: &str) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_in(mount, name).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn gone(superblock: &str) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while mounts::superblock_exists(superblock) {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// A connection whose files are all devices, served from memory and mounted nowhere.
fn twin(memory: Memory) -> (OwnedFd, OwnedFd, Session) {
    let fuse = mounts::open_device().unwrap();
    let options = MountOptions {
        name: "atlas:twin".into(),
        uid: 0,
        gid: 0,
        allow_other: false,
        subtype: "atlas-test".into(),
    };
    let mount = mounts::create(&fuse, &options).unwrap();
    let settings = SessionSettings {
        profile: Profile::Twin,
        ..SessionSettings::default()
    };
    let session = Session::start(fuse.try_clone().unwrap(), Arc::new(memory), settings).unwrap();
    (fuse, mount, session)
}

#[test]
fn an_image_lives_until_its_last_user_has_left() {
    if !can_mount() {
        return;
    }
    let folder = folder();
    let ImageMount {
        mount, superblock, ..
    } = plain(folder.path());
    assert_eq!(read_in(&mount, "first").unwrap(), expected(&FIRST));
    assert_eq!(read_in(&mount, "second").unwrap(), expected(&SECOND));
    mounts::set_image_read_ahead(&superblock, 64).unwrap();
    let ahead = fs::read_to_string(format!("/sys/class/bdi/{superblock}/read_ahead_kb")).unwrap();
    assert_eq!(ahead.trim(), "64");

    let mut last = open_in(&mount, "first");
    drop(mount);
    assert!(mounts::superblock_exists(&superblock));
    let mut bytes = Vec::new();
    last.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, expected(&FIRST));
    drop(last);
    assert!(gone(&superblock));
    assert!(!mounts::superblock_exists("erofs-"));
    assert!(!mounts::superblock_exists("../erofs"));
}

#[test]
fn mount_tables_show_the_name_of_the_image() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::without_session();
    let folder = folder();
    let image = plain(folder.path());
    let place = mounted.other_folder("image");
    attach(&image.mount, &place);
    let table = mounts::table().unwrap();
    let entry = table.iter().find(|entry| entry.path == place).unwrap();
    assert_eq!(
        (entry.kind.as_str(), entry.source.to_str()),
        ("erofs", Some(NAME))
    );
    assert_eq!(entry.device, image.device);
    assert!(entry.read_only);
    mounts::unmount(&place, true).unwrap();
}

#[test]
fn warm_reads_of_a_twin_send_nothing_and_its_death_fails_the_rest_at_once() {
    if !can_mount() {
        return;
    }
    undisturbed(|| {
        let folder = folder();
        fs::write(folder.path().join(NAME), image(&[FIRST, SECOND], 2)).unwrap();
        fs::write(folder.path().join("a"), device()).unwrap();
        let mut memory = Memory::new().0;
        memory.file("b", &device());
        let (fuse, twin_mount, session) = twin(memory);
        let opened = open_folder(folder.path());
        let devices = [device_file(&opened, "a"), device_file(&twin_mount, "b")];
        let image = mount_image(opened.as_fd(), NAME, &devices).unwrap();
        // The image keeps the connection alive.
        drop(twin_mount);

        let count = || session.counts().get("read").copied().unwrap_or(0);
        let mut part = vec![0; BLOCK];
        let second = open_in(&image.mount, "second");
        std::os::unix::fs::FileExt::read_exact_at(&second, &mut part, 0).unwrap();
        assert_eq!(part, expected(&SECOND)[..BLOCK]);
        if read_in(&image.mount, "second").unwrap() != expected(&SECOND) || count() == 0 {
            return Err("wrong bytes, or bytes from nowhere".into());
        }
        let before = session.counts();
        for _ in 0..10 {
            assert_eq!(read_in(&image.mount, "second").unwrap(), expected(&SECOND));
        }
        if session.counts() != before {
            return Err(format!("{before:?} became {:?}", session.counts()));
        }

        // Dead: no session, no keeper.
        drop(session);
        drop(fuse);
        if read_in(&image.mount, "second").unwrap_or_default() != expected(&SECOND) {
            return Err("what was cached is lost".into());
        }
        rustix::fs::fadvise(&second, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let error = std::os::unix::fs::FileExt::read_exact_at(&second, &mut part, 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        assert_eq!(read_in(&image.mount, "first").unwrap(), expected(&FIRST));
        Ok(())
    });
}

#[test]
fn a_mount_slipped_beneath_takes_over_without_a_missing_path() {
    if !can_mount() {
        return;
    }
    if !mounts::beneath_is_known() {
        println!("skipped: this kernel has no MOVE_MOUNT_BENEATH");
        return;
    }
    let mut memory = Memory::new().0;
    memory.file("first", &expected(&FIRST));
    let mounted = Mounted::with(memory, SessionSettings::default());
    let folder = folder();
    drop(plain(folder.path()));
    let old = File::open(mounted.at("first")).unwrap();
    let first = expected(&FIRST);
    let opens = AtomicU64::new(0);
    let ended = AtomicBool::new(false);
    // The test's own mount namespace is its threads' too: they are started after it was made.
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                let bytes = fs::read(mounted.at("first"))?;
                assert_eq!(bytes, first);
                opens.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<(), std::io::Error>(())
        });
        for _ in 0..20 {
            let image = mount_plain(folder.path());
            let seen = opens.load(Ordering::Relaxed);
            while opens.load(Ordering::Relaxed) < seen + 20 && !reader.is_finished() {
                std::thread::yield_now();
            }
            let covered = fs::OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
                .open(&mounted.path)
                .unwrap();
            mounts::attach_beneath(image.mount.as_fd(), covered.as_fd()).unwrap();
            mounts::unmount(&mounted.path, true).unwrap();
        }
        ended.store(true, Ordering::Relaxed);
        reader.join().unwrap().unwrap();
    });
    assert!(opens.load(Ordering::Relaxed) >= 400);
    let table = mounts::table().unwrap();
    let kinds: Vec<_> = (table.iter())
        .filter(|entry| entry.path == mounted.path)
        .map(|entry| entry.kind.as_str())
        .collect();
    assert_eq!(kinds, ["erofs"]);
    let mut bytes = Vec::new();
    (&old).read_to_end(&mut bytes).unwrap();
    assert_eq!(
        bytes,
        expected(&FIRST),
        "an open file stays on the mount it was opened on"
    );
}

#[test]
fn what_cannot_be_mounted_is_refused_with_a_reason() {
    if !can_mount() {
        return;
    }
    let folder = folder();
    fs::write(folder.path().join(NAME), image(&[FIRST], 1)).unwrap();
    fs::write(folder.path().join("none"), vec![0; 3 * BLOCK]).unwrap();
    fs::write(folder.path().join("a"), device()).unwrap();
    let opened = open_folder(folder.path());
    let device = [device_file(&opened, "a")];
    let missing = [device_file(&opened, "absent")];
    let refused = |name, devices: &[DeviceFile<'_>]| {
        mount_image(opened.as_fd(), name, devices).unwrap_err().kind
    };
    assert_eq!(refused("none", &device), ErrorKind::Invalid);
    assert_eq!(refused("absent", &device), ErrorKind::NotFound);
    assert_eq!(refused(NAME, &missing), ErrorKind::NotFound);
    let two = [device_file(&opened, "a"), device_file(&opened, "a")];
    assert_eq!(refused(NAME, &two), ErrorKind::Invalid);
    mount_image(opened.as_fd(), NAME, &device).unwrap();

    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    fs::copy(folder.path().join(NAME), memory.path().join(NAME)).unwrap();
    let in_memory = open_folder(memory.path());
    let error = mount_image(in_memory.as_fd(), NAME, &device).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
}
