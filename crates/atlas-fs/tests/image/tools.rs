//! Images as Debian's erofs-utils take them: `fsck.erofs` and `dump.erofs`, fetched and unpacked
//! into the repository's cache folder. Where they cannot be had the tests fail.
//!
//! Version 1.5 takes no more than 256 devices, writes no hard links when it extracts, and falls over
//! showing a file of a year that `int` cannot hold.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use atlas_core::PAGE_BYTES;
use atlas_fs::NodeId;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tempfile::TempDir;

use crate::sample::{Sample, random_sample, random_shape};
use crate::special::{MOMENTS, Special};
use crate::support::Random;
use crate::view::{Entry, Tree, of_namespace};

const REPOSITORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const SEEDS: u64 = 25;
const MOST_DEVICES: usize = 256;
/// About a thousand million years.
const MOST_SECONDS: u64 = 1 << 55;

/// Folder of the tools. Their libraries are those that apt and dpkg need themselves, so they are
/// there wherever the package can be had.
pub(crate) fn tools() -> &'static Path {
    static TOOLS: OnceLock<PathBuf> = OnceLock::new();
    TOOLS.get_or_init(|| {
        let python = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
        let result = Command::new(python)
            .arg("tools/fetch_debian.py")
            .args(["--into", ".cache/debian", "erofs-utils"])
            .current_dir(REPOSITORY)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let message = String::from_utf8_lossy(&result.stderr);
        assert!(result.status.success(), "no erofs-utils: {message}");
        let root = String::from_utf8(result.stdout).unwrap();
        Path::new(root.trim_end()).join("usr/bin")
    })
}

/// An image on the disk, with its devices.
struct Written {
    folder: TempDir,
    tree: Tree,
    devices: usize,
    device_bytes: u64,
    inodes: u64,
}

impl Written {
    /// Devices are empty files: nobody looks at them unless files are extracted.
    fn new(sample: &Sample) -> Self {
        let slots = sample.slots();
        assert!(slots.len() <= MOST_DEVICES, "{} devices", slots.len());
        let folder = tempfile::tempdir().unwrap();
        let image = File::create(folder.path().join("image")).unwrap();
        let totals = atlas_fs::write_image(&sample.namespace, &slots, &image).unwrap();
        for number in 1..=slots.len() {
            File::create(folder.path().join(format!("{number}"))).unwrap();
        }
        Self {
            tree: of_namespace(&sample.namespace, &slots),
            devices: slots.len(),
            device_bytes: slots.iter().map(|slot| slot.length).sum(),
            inodes: totals.inodes,
            folder,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, tool: &str, options: &[OsString]) -> Output {
        Command::new(tools().join(tool))
            .args((1..=self.devices).map(|number| format!("--device={number}")))
            .args(options)
            .arg("image")
            .env("TZ", "UTC")
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// What it complains of: 1.5 succeeds with a damaged superblock, after a message.
    fn complaints(&self, options: &[OsString]) -> String {
        let result = self.run("fsck.erofs", options);
        let said = [result.stdout, result.stderr].concat();
        let mut said = String::from_utf8_lossy(&said).into_owned();
        if !result.status.success() {
            said += &result.status.to_string();
        }
        said
    }

    fn fsck(&self, options: &[OsString]) {
        assert_eq!(self.complaints(options), "");
    }

    fn dump(&self, options: &[OsString]) -> String {
        let result = self.run("dump.erofs", options);
        let errors = String::from_utf8_lossy(&result.stderr).into_owned();
        assert!(
            result.status.success() && errors.is_empty(),
            "{options:?}: {}, {errors}",
            result.status
        );
        String::from_utf8_lossy(&result.stdout).into_owned()
    }

    /// Path of an entry, without the root's "/".
    fn path_of(&self, mut position: usize) -> PathBuf {
        let mut names = Vec::new();
        while position > 0 {
            names.push(self.tree[position].name.as_slice());
            position = self.tree[position].parent;
        }
        names.reverse();
        OsString::from_vec(names.join(&b'/')).into()
    }

    /// What `dump.erofs` says of the image and of the kinds of its files.
    fn check_counts(&self) {
        let said = self.dump(&["-s".into(), "-S".into()]);
        let count = |label: &str| -> u64 {
            let line = said.lines().find_map(|line| line.strip_prefix(label));
            line.unwrap().trim().parse().unwrap()
        };
        let bytes = fs::metadata(self.path("image")).unwrap().len();
        // With those of the devices.
        assert_eq!(
            count("Filesystem blocks:") * 4096,
            bytes + self.device_bytes
        );
        assert_eq!(count("Filesystem inode count:"), self.inodes);
        for (label, kind) in [
            ("regular file", libc::S_IFREG),
            ("directory", libc::S_IFDIR),
            ("char dev", libc::S_IFCHR),
            ("block dev", libc::S_IFBLK),
            ("FIFO file", libc::S_IFIFO),
            ("SOCK file", libc::S_IFSOCK),
            ("symlink file", libc::S_IFLNK),
        ] {
            let expected = self.tree.iter().filter(|entry| kind_of(entry) == kind);
            let counted = count(&format!("Filesystem {label} count:"));
            assert_eq!(counted, expected.count() as u64, "{label}");
        }
    }

    /// What `dump.erofs` says of one file; gives the number of its inode, if it says anything.
    fn check_entry(&self, position: usize) -> Option<u64> {
        let entry = &self.tree[position];
        if entry.modified.0.unsigned_abs() > MOST_SECONDS {
            return None;
        }
        let mut path = OsString::from("--path=/");
        path.push(self.path_of(position));
        let said = self.dump(&["-e".into(), path]);
        let words = |start: &str| -> Vec<&str> {
            let line = said.lines().rfind(|line| line.starts_with(start));
            line.unwrap_or_else(|| panic!("no {start} in {said}"))
                .split_whitespace()
                .collect()
        };
        if kind_of(entry) != libc::S_IFDIR {
            assert_eq!(words("Size: ")[1], entry.size.to_string(), "{said}");
        }
        let inode = words("NID: ");
        assert_eq!(inode[3], entry.links.to_string(), "{said}");
        let owners = words("Uid: ");
        assert_eq!(owners[1], entry.uid.to_string(), "{said}");
        assert_eq!(owners[3], entry.gid.to_string(), "{said}");
        // It shows no sticky bit.
        let permissions = format!("{:04o}/", entry.mode & 0o777);
        assert!(owners[5].starts_with(&permissions), "{said}");
        if let Some((device, start)) = entry.places.first() {
            let extent = said.lines().rfind(|line| line.starts_with("   0: "));
            let (_, physical) = extent.unwrap().split_once(" : ").unwrap();
            let (first, _) = physical.split_once("..").unwrap();
            assert_eq!(first.trim(), start.to_string(), "{said}");
            let end = format!("# device {device}");
            assert!(said.contains(&end), "{said}");
        }
        Some(inode[1].parse().unwrap())
    }
}

fn kind_of(entry: &Entry) -> u32 {
    entry.mode & libc::S_IFMT
}

fn special() -> Special {
    Special {
        most_bytes: 1 << 20,
        levels: 100,
        device_nodes: true,
    }
}

#[test]
fn fsck_and_dump_agree_with_random_namespaces() {
    for seed in 0..SEEDS {
        println!("seed {seed}");
        let mut random = Random(seed);
        let mut shape = random_shape(&mut random);
        // So few that there are not more devices than the tools take.
        shape.folders = shape.folders.min(10);
        shape.most_names = shape.most_names.min(40);
        shape.segment_bytes = shape.segment_bytes.max(1 << 20);
        let written = Written::new(&random_sample(&mut random, &shape));
        written.fsck(&[]);
        written.check_counts();
        // A process each, so only some.
        for _ in 0..5 {
            written.check_entry(random.below(written.tree.len() as u64) as usize);
        }
    }
}

#[test]
fn fsck_and_dump_agree_with_what_is_special() {
    let written = Written::new(&special().sample());
    written.fsck(&[]);
    written.check_counts();
    let numbers: Vec<_> = (0..written.tree.len())
        .map(|position| written.check_entry(position))
        .collect();
    assert!(numbers.iter().flatten().count() + 2 >= numbers.len());
    for (position, entry) in written.tree.iter().enumerate() {
        assert_eq!(numbers[position], numbers[entry.first_name], "{entry:?}");
    }
}

#[test]
fn fsck_and_dump_take_many_names_and_devices() {
    // Two files a device, and a folder of more than a hundred blocks.
    let mut sample = Sample::new(2 * PAGE_BYTES);
    let files = 2 * MOST_DEVICES as u64;
    let mut news: Vec<_> = (0..files)
        .map(|number| sample.file(format!("{number}"), 1))
        .collect();
    news.extend((0..20_000).map(|number| sample.file(format!("empty-{number}"), 0)));
    sample.fill(NodeId::ROOT, &news, &[]);
    assert_eq!(sample.slots().len(), MOST_DEVICES);
    let written = Written::new(&sample);
    written.fsck(&[]);
    written.check_counts();
    let with_bytes = written.tree.iter().filter(|entry| entry.size > 0);
    let last = with_bytes.max_by_key(|entry| entry.places[0]).unwrap();
    assert_eq!(usize::from(last.places[0].0), MOST_DEVICES);
    let last = written.tree.iter().position(|entry| entry == last).unwrap();
    written.check_entry(last);
    written.check_entry(written.tree.len() - 1);
}

#[test]
fn dump_shows_times_far_away() {
    let written = Written::new(&special().sample());
    for (seconds, shown) in [
        (-(1_i64 << 31) - 1, "1901-12-13 20:45:51.999999999"),
        (-1, "1969-12-31 23:59:59.999999999"),
        (1 << 31, "2038-01-19 03:14:08.999999999"),
        (1 << 34, "2514-05-30 01:53:04.999999999"),
    ] {
        assert!(MOMENTS.contains(&seconds));
        let said = written.dump(&[format!("--path=/times/{seconds}").into()]);
        assert!(said.contains(&format!("Timestamp: {shown}\n")), "{said}");
    }
}

/// The bytes of a file follow from where it lies.
fn content(entry: &Entry) -> Vec<u8> {
    let Some((device, start)) = entry.places.first() else {
        return Vec::new();
    };
    let mut random = Random(start + u64::from(*device));
    (0..entry.size).map(|_| random.next() as u8).collect()
}

/// Whether this process may make device nodes.
fn may_make_nodes() -> bool {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("null");
    let number = libc::makedev(1, 3);
    match mknodat(CWD, &path, FileType::CharacterDevice, Mode::RUSR, number) {
        Ok(()) => true,
        Err(error) => {
            println!("without device nodes, which this user may not make: {error}");
            false
        }
    }
}

#[test]
fn fsck_extracts_every_file() {
    let sample = Special {
        device_nodes: may_make_nodes(),
        ..special()
    }
    .sample();
    let written = Written::new(&sample);
    for (number, slot) in sample.slots().iter().enumerate() {
        let device = File::create(written.path(&format!("{}", number + 1))).unwrap();
        device.set_len(slot.length).unwrap();
    }
    for entry in &written.tree {
        if let Some((device, start)) = entry.places.first() {
            let device = File::options()
                .write(true)
                .open(written.path(&format!("{device}")));
            let bytes = content(entry);
            device.unwrap().write_all_at(&bytes, *start).unwrap();
        }
    }
    written.fsck(&["--extract=out".into(), "--no-preserve".into()]);

    let out = written.path("out");
    for (position, entry) in written.tree.iter().enumerate() {
        check_extracted(entry, &out.join(written.path_of(position)));
    }
}

/// Compares an extracted file with its entry; opens it, or makes it a folder that can be entered.
fn check_extracted(entry: &Entry, path: &Path) {
    let metadata = fs::symlink_metadata(path).unwrap();
    let kind = metadata.file_type();
    assert_eq!(metadata.mode() & libc::S_IFMT, kind_of(entry), "{path:?}");
    // File systems differ in what else they can keep.
    if let Ok(seconds) = i32::try_from(entry.modified.0) {
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        let expected = (i64::from(seconds), i64::from(entry.modified.1));
        assert_eq!(modified, expected, "{path:?}");
    }
    if kind.is_symlink() {
        let target = fs::read_link(path).unwrap();
        assert_eq!(target.as_os_str().as_bytes(), entry.target, "{path:?}");
    } else if kind.is_char_device() || kind.is_block_device() {
        let number = (libc::major(metadata.rdev()), libc::minor(metadata.rdev()));
        assert_eq!(Some(number), entry.device, "{path:?}");
    } else if kind.is_dir() {
        // Folders without the right to enter them are closed to all but root.
        fs::set_permissions(path, Permissions::from_mode(0o700)).unwrap();
    } else if kind.is_file() {
        fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
        assert!(fs::read(path).unwrap() == content(entry), "{path:?}");
    }
}

/// Else the tests above would say nothing.
#[test]
fn fsck_finds_damage() {
    const ROOT_NAME_OFFSET: u64 = 8;
    let written = Written::new(&special().sample());
    let whole = fs::read(written.path("image")).unwrap();
    let number = |at: usize| u32::from_le_bytes(whole[at..at + 4].try_into().unwrap());
    let inode = u64::from(number(1024 + 40)) * 4096 + 2 * 32;
    let names = u64::from(number(inode as usize + 16)) * 4096;
    for (what, at, bytes) in [
        ("superblock", 1024 + 36, [1, 0]),
        ("offset of a name", names + ROOT_NAME_OFFSET, [0, 0]),
        ("number of an inode", names, [0xff, 0xff]),
        ("layout of an inode", inode, [0xff, 0xff]),
    ] {
        fs::write(written.path("image"), &whole).unwrap();
        let image = File::options().write(true).open(written.path("image"));
        image.unwrap().write_all_at(&bytes, at).unwrap();
        let complaints = written.complaints(&[]);
        assert!(!complaints.is_empty(), "{what}");
        println!("{what}: {complaints}");
    }
    fs::write(written.path("image"), &whole[..whole.len() / 2]).unwrap();
    assert!(!written.complaints(&[]).is_empty(), "cut off");
}
