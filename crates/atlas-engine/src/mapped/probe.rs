//! Whether this machine can serve mapped fronts, found by mounting a tiny image.
//!
//! Kernels before commit eade54040384 of Linux (February 2026; also in 6.12.y and 6.18.y) fill the
//! rest of a page with zeros after a short read of the file behind an image, and keep them. So a
//! read fails on purpose here, and what comes after it must be the right bytes. A kernel that would
//! not enforce POSIX ACLs gets no image either.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use atlas_core::{
    ACCESS_ACL, Address, Attributes, Error, ErrorKind, ExtendedAttribute, Kind, PAGE_BYTES, Result,
    Timestamp,
};
use atlas_fs::{Allocate, Namespace, NewEntry, NodeId, Slot, write_image};
use atlas_mount::mounts::{self, DeviceFile, MountOptions};
use atlas_mount::{
    Filesystem, FolderRequest, NodeAttributes, OpenRequest, Profile, ROOT_NODE, ReadRequest,
    ReplyAttributes, ReplyData, ReplyEntry, ReplyFolder, ReplyOpen, ReplyStatistics, Session,
    SessionSettings, Statistics,
};
use rustix::fs::{Mode, OFlags};

const NAME: &str = "atlas:probe:0";
const DEVICE: &str = "device";
const FILE: &str = "file";
const PAGE: usize = PAGE_BYTES as usize;
const PAGES: usize = 12;
/// The page that cannot be read at first: neither the first nor the last one.
const BAD_PAGE: usize = 5;
const START: Address = Address(64 << 20);
const LENGTH: u64 = 64 << 20;
/// What the mode of the file says, as an ACL: version 2, rights of the owner, the group, others.
const ACL: &[u8] = &[
    2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 4, 0, 0, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255,
    255, 255, 255,
];
const DEVICE_NODE: u64 = ROOT_NODE + 1;

/// What was found: each `Ok`, or why not.
#[derive(Debug)]
pub struct Probed {
    /// Images over the segments themselves.
    pub sealed: Result<()>,
    /// Images over files on a FUSE connection of ours.
    pub lazy: Result<()>,
    /// Mounts slipped beneath others.
    pub swap: Result<()>,
}

/// Tries it, with files in a folder of its own in `folder`, which lies where images will lie.
/// Nothing stays behind.
pub fn probe_mapped(folder: &Path) -> Probed {
    let swap = if mounts::beneath_is_known() {
        Ok(())
    } else {
        Err(Error::new(
            ErrorKind::Unsupported,
            libc::EINVAL,
            "no MOVE_MOUNT_BENEATH here (root, and Linux 6.5)",
        ))
    };
    let place = folder.join(format!("probe-{}", std::process::id()));
    let prepared = prepare(&place);
    let (sealed, lazy) = match &prepared {
        Ok(()) => {
            let sealed = try_sealed(&place);
            let lazy = sealed.clone().and_then(|()| try_lazy(&place));
            (sealed, lazy)
        }
        Err(error) => (Err(error.clone()), Err(error.clone())),
    };
    let _ = fs::remove_dir_all(&place);
    Probed { sealed, lazy, swap }
}

/// One file, whose bytes are the start of the only segment.
struct OneFile;

impl Allocate for OneFile {
    fn allocate(&self, _size: u64, _early: bool) -> Result<Address> {
        Ok(START)
    }
}

fn content() -> Vec<u8> {
    let byte = |index: usize| (index.wrapping_mul(0x9e37_79b9) >> 11) as u8 | 1;
    (0..PAGES * PAGE).map(byte).collect()
}

fn attributes(kind: Kind, size: u64) -> Attributes {
    Attributes {
        kind,
        permissions: 0o700,
        uid: 0,
        gid: 0,
        links: 1,
        size,
        device_number: 0,
        modified: Timestamp::default(),
        changed: Timestamp::default(),
        inode: 1,
        device: 1,
    }
}

fn prepare(place: &Path) -> Result<()> {
    let failed = |error: std::io::Error| Error::from_io(&error, "prepare a test of images");
    match fs::remove_dir_all(place) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let namespace = Namespace::create(place, &attributes(Kind::Folder, 0), Arc::new(OneFile))?;
    let names = vec![(FILE.as_bytes().to_vec(), Some(Kind::File))];
    namespace.name_children(NodeId::ROOT, names)?;
    let entry = NewEntry {
        name: FILE.as_bytes(),
        attributes: &attributes(Kind::File, (PAGES * PAGE) as u64),
        target: None,
        extended: &[ExtendedAttribute {
            name: ACCESS_ACL.to_vec(),
            value: ACL.to_vec(),
        }],
    };
    for bound in namespace.set_entries(NodeId::ROOT, &[entry]) {
        bound?;
    }
    namespace.complete_if_done(NodeId::ROOT);
    let image = File::create_new(place.join(NAME)).map_err(failed)?;
    let slot = Slot {
        start: START,
        length: LENGTH,
    };
    write_image(&namespace, &[slot], &image)?;
    let device = File::create_new(place.join(DEVICE)).map_err(failed)?;
    device.set_len(LENGTH).map_err(failed)?;
    device.write_all_at(&content(), 0).map_err(failed)
}

fn open_folder(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| Error::from_errno(errno.raw_os_error(), "open a folder of the test"))
}

/// The file of the image over `device`.
fn open_file(place: &Path, device: &OwnedFd) -> Result<File> {
    let folder = open_folder(place)?;
    let devices = [DeviceFile {
        folder: device.as_fd(),
        name: DEVICE.to_owned(),
    }];
    let mounted = mounts::mount_image(folder.as_fd(), NAME, &devices)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::openat(&mounted.mount, FILE, flags, Mode::empty())
        .map(File::from)
        .map_err(|errno| Error::from_errno(errno.raw_os_error(), "open the file of a test image"))
}

fn wrong(what: &str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        libc::EIO,
        format!("this kernel {what}"),
    )
}

fn try_sealed(place: &Path) -> Result<()> {
    let file = open_file(place, &open_folder(place)?)?;
    let mut bytes = vec![0; PAGES * PAGE];
    file.read_exact_at(&mut bytes, 0)
        .map_err(|error| Error::from_io(&error, "read from a test image"))?;
    if bytes != content() {
        return Err(wrong("reads wrong bytes from an image"));
    }
    // A kernel built without them takes the mask for the rights of the group.
    let mut acl = vec![0; ACL.len()];
    match rustix::fs::fgetxattr(&file, "system.posix_acl_access", &mut acl) {
        Ok(_) if acl == ACL => Ok(()),
        _ => Err(wrong("does not enforce the POSIX ACLs of an image")),
    }
}

fn try_lazy(place: &Path) -> Result<()> {
    // Through the pages of the virtual file, where a read can end short, and past them, as the
    // front reads.
    [Profile::Live, Profile::Twin]
        .into_iter()
        .try_for_each(|profile| try_twin(place, profile))
}

fn try_twin(place: &Path, profile: Profile) -> Result<()> {
    let fuse = mounts::open_device()?;
    let options = MountOptions {
        name: "atlas:probe".to_owned(),
        uid: 0,
        gid: 0,
        allow_other: false,
        subtype: "atlas".to_owned(),
    };
    let mount = mounts::create(&fuse, &options)?;
    let broken = Arc::new(AtomicBool::new(true));
    let files = Arc::new(BrokenFile {
        content: content(),
        broken: Arc::clone(&broken),
    });
    let settings = SessionSettings {
        threads: 1,
        profile,
        ..SessionSettings::default()
    };
    let _session = Session::start(fuse, files, settings)?;
    let file = open_file(place, &mount)?;
    let mut page = vec![0; PAGE];
    let mut failures = 0;
    for (number, expected) in content().chunks_exact(PAGE).enumerate() {
        match file.read_exact_at(&mut page, (number * PAGE) as u64) {
            Ok(()) if page == expected => {}
            Ok(()) => {
                return Err(wrong(
                    "serves zeros for what cannot be read behind an image",
                ));
            }
            Err(_) => failures += 1,
        }
    }
    if failures == 0 {
        return Err(wrong("hides errors behind an image"));
    }
    broken.store(false, Ordering::Release);
    let mut bytes = vec![0; PAGES * PAGE];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) if bytes == content() => Ok(()),
        _ => Err(wrong("keeps what it made of a failed read behind an image")),
    }
}

/// A device file with a page that cannot be read for a while.
struct BrokenFile {
    content: Vec<u8>,
    broken: Arc<AtomicBool>,
}

impl BrokenFile {
    fn attributes(node: u64) -> NodeAttributes {
        let (kind, size) = if node == DEVICE_NODE {
            (Kind::File, LENGTH)
        } else {
            (Kind::Folder, 0)
        };
        NodeAttributes::shown(node, &attributes(kind, size))
    }
}

impl Filesystem for BrokenFile {
    fn lookup(&self, _parent: u64, name: &[u8], reply: ReplyEntry) {
        if name == DEVICE.as_bytes() {
            reply.found(DEVICE_NODE, &Self::attributes(DEVICE_NODE));
        } else {
            reply.absent();
        }
    }

    fn attributes(&self, node: u64, reply: ReplyAttributes) {
        reply.attributes(&Self::attributes(node));
    }

    fn read_link(&self, _node: u64, reply: ReplyData) {
        reply.error(libc::EINVAL);
    }

    fn open(&self, _request: OpenRequest, reply: ReplyOpen) {
        reply.opened(0);
    }

    fn read(&self, request: ReadRequest, reply: ReplyData) {
        let start = request.offset as usize;
        let end = start + request.size as usize;
        let bad = BAD_PAGE * PAGE..(BAD_PAGE + 1) * PAGE;
        if self.broken.load(Ordering::Acquire) && start < bad.end && bad.start < end {
            return reply.error(libc::EIO);
        }
        let mut bytes = vec![0; request.size as usize];
        if let Some(content) = self.content.get(start..end.min(self.content.len())) {
            bytes[..content.len()].copy_from_slice(content);
        }
        reply.data(&bytes);
    }

    fn read_folder(&self, _request: FolderRequest, reply: ReplyFolder) {
        reply.send();
    }

    fn statistics(&self, _node: u64, reply: ReplyStatistics) {
        reply.statistics(&Statistics::default());
    }
}
