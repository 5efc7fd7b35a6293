//! What cannot be written, and what is no image.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use atlas_core::{Address, Error, ErrorKind, Kind, PAGE_BYTES};
use atlas_fs::{NodeId, Slot, image_devices, write_image};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::reader::bytes_of;
use crate::sample::{Sample, TEBIBYTE};
use crate::support::names;
use crate::tools::tools;

const CHILD_VARIABLE: &str = "ATLAS_TEST_SHORT_DISK";
const MOST_SLOTS: usize = 65_534;

/// Files and names of more than two buffers each, so that the disk can end anywhere in them.
fn large() -> Sample {
    let mut sample = Sample::new(1 << 30);
    let news: Vec<_> = (0..24_000)
        .map(|number| sample.file(format!("{number:0100}"), 1))
        .collect();
    sample.fill(NodeId::ROOT, &news, &[]);
    sample
}

fn small() -> Sample {
    let mut sample = Sample::new(1 << 20);
    let news = [sample.file("file", 5000), sample.link("link", b"file")];
    sample.fill(NodeId::ROOT, &news, &[]);
    sample
}

fn kind<T>(result: Result<T, Error>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind)
}

fn refusal_of(sample: &Sample, slots: &[Slot]) -> Option<ErrorKind> {
    let image = tempfile::tempfile().unwrap();
    let refusal = kind(write_image(&sample.namespace, slots, &image));
    if refusal.is_some() {
        assert_eq!(kind(image_devices(&image)), Some(ErrorKind::Corrupt));
    }
    refusal
}

fn unsupported() -> Option<ErrorKind> {
    Some(ErrorKind::Unsupported)
}

#[test]
#[ignore = "the process of the test below, with a limit on the size of files"]
fn write_to_short_disks() {
    if std::env::var_os(CHILD_VARIABLE).is_none() {
        return;
    }
    let sample = large();
    let (whole, totals) = sample.write();
    assert_eq!(image_devices(&whole).unwrap(), 1);
    let unlimited = getrlimit(Resource::Fsize);
    let write = |most_bytes: u64| {
        let image = tempfile::tempfile().unwrap();
        let limit = Rlimit {
            current: Some(most_bytes),
            ..unlimited
        };
        setrlimit(Resource::Fsize, limit).unwrap();
        let result = write_image(&sample.namespace, &sample.slots(), &image);
        setrlimit(Resource::Fsize, unlimited).unwrap();
        (result, image)
    };
    let steps = (0..totals.bytes).step_by(totals.bytes as usize / 40 + 1);
    for most_bytes in steps.chain([1023, 1024, 4095, 4096, totals.bytes - 1]) {
        let (result, image) = write(most_bytes);
        let error = result.unwrap_err();
        assert_eq!(error.errno, libc::EFBIG, "{most_bytes}: {error}");
        let opened = kind(image_devices(&image));
        assert_eq!(opened, Some(ErrorKind::Corrupt), "{most_bytes}");
    }
    assert_eq!(write(totals.bytes).0.unwrap(), totals);
    println!("short disks are done");
}

#[test]
fn what_a_full_disk_cut_off_is_no_image() {
    // Without the trap the first write beyond the limit would end the process.
    let result = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "failures::write_to_short_disks"])
        .args(["--ignored", "--nocapture"])
        .env(CHILD_VARIABLE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&result.stdout);
    let errors = String::from_utf8_lossy(&result.stderr);
    assert!(result.status.success(), "{said}{errors}");
    assert!(said.contains("short disks are done"), "{said}{errors}");
}

#[test]
fn a_full_device_is_an_error() {
    let full = File::options()
        .read(true)
        .write(true)
        .open("/dev/full")
        .unwrap();
    for sample in [small(), large()] {
        let result = write_image(&sample.namespace, &sample.slots(), &full);
        assert_eq!(kind(result), Some(ErrorKind::NoSpace));
    }
    assert_eq!(kind(image_devices(&full)), Some(ErrorKind::Corrupt));
}

#[test]
fn a_damaged_head_or_length_is_refused() {
    let (image, totals) = small().write();
    let whole = bytes_of(&image);
    assert_eq!(image_devices(&image).unwrap(), 1);
    // What is before the superblock belongs to boot loaders, and what is behind the first block is
    // left out for the sake of speed.
    for at in 1024..4096 {
        let byte = [whole[at] ^ 1 << (at % 8)];
        image.write_all_at(&byte, at as u64).unwrap();
        let opened = kind(image_devices(&image));
        assert_eq!(opened, Some(ErrorKind::Corrupt), "byte {at}");
        image.write_all_at(&whole[at..=at], at as u64).unwrap();
    }
    for bytes in (0..totals.bytes).step_by(100).chain([totals.bytes + 4096]) {
        image.set_len(bytes).unwrap();
        let opened = kind(image_devices(&image));
        assert_eq!(opened, Some(ErrorKind::Corrupt), "{bytes} bytes");
    }
    // The head is read, and nothing else: what a later read finds is the kernel's affair.
    image.write_all_at(&whole, 0).unwrap();
    image.set_len(totals.bytes).unwrap();
    assert_eq!(image_devices(&image).unwrap(), 1);
}

#[test]
fn what_others_made_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("zeros"), vec![0; 1 << 16]).unwrap();
    fs::write(path("text"), "no image\n".repeat(1000)).unwrap();
    fs::create_dir(path("tree")).unwrap();
    fs::write(path("tree/file"), "content").unwrap();
    let made = Command::new(tools().join("mkfs.erofs"))
        .args([path("erofs"), path("tree")])
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    for name in ["zeros", "text", "erofs"] {
        let file = File::open(path(name)).unwrap();
        let opened = kind(image_devices(&file));
        assert_eq!(opened, Some(ErrorKind::Corrupt), "{name}");
    }
    let opened = image_devices(&File::open(Path::new("/")).unwrap());
    assert!(opened.is_err());
}

#[test]
fn only_a_complete_scan_becomes_an_image() {
    let complete = small();
    assert_eq!(refusal_of(&complete, &complete.slots()), None);

    let mut sample = Sample::new(1 << 20);
    let conflict = Some(ErrorKind::Conflict);
    assert_eq!(refusal_of(&sample, &[]), conflict, "the root is not listed");
    let listed = names(&["folder", "file"]);
    sample
        .namespace
        .name_children(NodeId::ROOT, listed)
        .unwrap();
    assert_eq!(refusal_of(&sample, &[]), conflict, "nothing is known");
    let folder = sample.other("folder", Kind::Folder);
    let id = sample.bind(NodeId::ROOT, &[folder])[0];
    assert_eq!(refusal_of(&sample, &[]), conflict, "a name is not known");
    sample.namespace.set_gone(NodeId::ROOT, b"file").unwrap();
    assert!(sample.namespace.complete_if_done(NodeId::ROOT));
    assert_eq!(refusal_of(&sample, &[]), conflict, "a folder is not listed");
    sample.fill(id, &[], &[]);
    assert_eq!(refusal_of(&sample, &[]), None);
}

#[test]
fn what_the_format_cannot_hold_is_refused() {
    let sample = small();
    let slots = sample.slots();
    assert_eq!(refusal_of(&sample, &[]), unsupported(), "no slot");
    let mut short = slots.clone();
    short[0].length = PAGE_BYTES;
    assert_eq!(refusal_of(&sample, &short), unsupported(), "half a file");
    let mut later = slots.clone();
    later[0].start.0 += PAGE_BYTES;
    assert_eq!(refusal_of(&sample, &later), unsupported(), "begins later");
    let mut long = slots.clone();
    long[0].length = 16 * TEBIBYTE;
    assert_eq!(refusal_of(&sample, &long), unsupported(), "a long slot");
    long[0].length -= PAGE_BYTES;
    assert_eq!(refusal_of(&sample, &long), None);

    let slots = |count: usize| -> Vec<_> {
        let others = (1..count as u64).map(|number| Slot {
            start: Address(number << 40),
            length: PAGE_BYTES,
        });
        slots.iter().copied().chain(others).collect()
    };
    let image = tempfile::tempfile().unwrap();
    write_image(&sample.namespace, &slots(MOST_SLOTS), &image).unwrap();
    assert_eq!(usize::from(image_devices(&image).unwrap()), MOST_SLOTS);
    let refusal = refusal_of(&sample, &slots(MOST_SLOTS + 1));
    assert_eq!(refusal, unsupported(), "many slots");
}

#[test]
fn names_and_targets_are_refused_from_the_first_byte_too_many() {
    for (name, target, refusal) in [
        (255, 4095, None),
        (256, 4095, unsupported()),
        (255, 4096, unsupported()),
    ] {
        let mut sample = Sample::new(1 << 20);
        let link = sample.link(vec![b'n'; name], &vec![b't'; target]);
        sample.fill(NodeId::ROOT, &[link], &[]);
        assert_eq!(refusal_of(&sample, &[]), refusal, "{name}, {target}");
    }
}
