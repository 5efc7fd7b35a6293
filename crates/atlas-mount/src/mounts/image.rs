//! File-backed EROFS mounts: an image, and the files that its device slots stand for.
//!
//! The kernel opens the image by the source of the mount, which is also what mount tables show.
//! So the image's name is chosen by its owner and is given relative to its folder.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::Duration;

use atlas_core::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};
use rustix::thread::UnshareFlags;

use super::{Device, device_of, failed, log};

/// One folder for each superblock of EROFS, from its mount until its last user has left, whatever
/// namespace it is in and whether it is attached or not.
const SUPERBLOCKS: &str = "/sys/fs/erofs";

/// Whoever mounts an image finds out the name of its superblock by comparing before and after.
static MOUNTING: Mutex<()> = Mutex::new(());

/// How long one mount waits for another, which a disk that hangs may hold up for ever.
const PATIENCE: Duration = Duration::from_secs(5);

/// A mounted image that is attached nowhere.
#[derive(Debug)]
pub struct ImageMount {
    pub mount: OwnedFd,
    pub device: Device,
    /// `erofs-N`: never used twice before the machine restarts. See [`superblock_exists`].
    pub superblock: String,
}

/// A file behind a device slot: `name` in the folder `folder`. Links are followed by the kernel.
#[derive(Clone, Debug)]
pub struct DeviceFile<'a> {
    pub folder: BorrowedFd<'a>,
    pub name: String,
}

/// Mounts the image `name` of `folder`: read-only, nosuid, nodev. Device slot `i` of the image (from
/// 0) is `devices[i]`, which the kernel keeps open until the superblock ends.
///
/// # Errors
/// `Unsupported` if the kernel cannot mount files as EROFS (before Linux 6.12, or not built in) or
/// if the image lies on a file system that it does not take (tmpfs); `Denied` without
/// CAP_SYS_ADMIN; `Invalid` for an image that the kernel refuses or a device that is missing.
pub fn mount_image(
    folder: BorrowedFd<'_>,
    name: &str,
    devices: &[DeviceFile<'_>],
) -> Result<ImageMount> {
    let Some(_mounting) = MOUNTING.try_lock_for(PATIENCE) else {
        return Err(Error::new(
            ErrorKind::Conflict,
            libc::EBUSY,
            format!("mount image {name}: another one is being mounted and does not come to an end"),
        ));
    };
    let before = superblocks();
    let mount = configure(folder, name, devices)?;
    let mut new = superblocks();
    new.retain(|superblock| !before.contains(superblock));
    let device = device_of(&mount)?;
    match (new.pop_first(), new.is_empty()) {
        (Some(superblock), true) => Ok(ImageMount {
            mount,
            device,
            superblock,
        }),
        // Somebody else mounts images at the same moment, or sysfs is not there.
        (found, _) => Err(Error::new(
            if found.is_some() {
                ErrorKind::Conflict
            } else {
                ErrorKind::Unsupported
            },
            libc::EBUSY,
            format!("mount image {name}: its superblock is not told apart in {SUPERBLOCKS}"),
        )),
    }
}

/// On a thread of its own: it changes into the image's folder, and nobody else may.
fn configure(folder: BorrowedFd<'_>, name: &str, devices: &[DeviceFile<'_>]) -> Result<OwnedFd> {
    thread::scope(|scope| {
        let work = || configure_here(folder, name, devices);
        let thread = thread::Builder::new()
            .name("mount image".to_owned())
            .spawn_scoped(scope, work)
            .map_err(|error| Error::from_io(&error, "start a thread to mount an image"))?;
        thread
            .join()
            .unwrap_or_else(|_| Err(failed(Errno::IO, format_args!("mount image {name}"))))
    })
}

fn configure_here(
    folder: BorrowedFd<'_>,
    name: &str,
    devices: &[DeviceFile<'_>],
) -> Result<OwnedFd> {
    let context = |errno| failed(errno, format_args!("mount image {name}"));
    // SAFETY: takes from this thread alone what it shares of its file system state (working
    // folder, umask); it ends right after.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }.map_err(context)?;
    rustix::process::fchdir(folder).map_err(context)?;
    let filesystem = fsopen("erofs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| match errno {
        Errno::NODEV => Error::new(
            ErrorKind::Unsupported,
            errno.raw_os_error(),
            "this kernel has no EROFS (modprobe erofs?)",
        ),
        _ => context(errno),
    })?;
    let configured = (|| {
        fsconfig_set_string(&filesystem, "source", name)?;
        for device in devices {
            let path = Path::new("/proc/self/fd")
                .join(device.folder.as_raw_fd().to_string())
                .join(&device.name);
            fsconfig_set_string(&filesystem, "device", path)?;
        }
        fsconfig_set_flag(&filesystem, "ro")?;
        fsconfig_create(&filesystem)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV;
        fsmount(&filesystem, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    })();
    configured.map_err(|errno| match errno {
        Errno::NOTBLK => Error::new(
            ErrorKind::Unsupported,
            errno.raw_os_error(),
            format!("mount image {name}: this kernel takes no file there as an image (on a tmpfs, or before Linux 6.12)"),
        ),
        _ => failed(errno, format_args!("mount image {name}{}", log(&filesystem))),
    })
}

fn superblocks() -> BTreeSet<String> {
    let Ok(entries) = std::fs::read_dir(SUPERBLOCKS) else {
        return BTreeSet::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("erofs-"))
        .collect()
}

/// Whether the superblock that [`mount_image`] named is still there: mounted anywhere, or detached
/// and in use. Of this run of the machine only: names count from 1 again after a restart.
pub fn superblock_exists(superblock: &str) -> bool {
    // What is not one of the names would be a path to somewhere else.
    superblock
        .strip_prefix("erofs-")
        .is_some_and(|number| number.bytes().all(|digit| digit.is_ascii_digit()))
        && Path::new(SUPERBLOCKS).join(superblock).exists()
}

/// Sets how far the kernel reads ahead in the files of a mounted image, in KiB. Never 0: the kernel
/// then reads page by page.
///
/// # Errors
/// `Denied` without root; `NotFound` if the superblock is gone.
pub fn set_image_read_ahead(superblock: &str, kib: u32) -> Result<()> {
    let path = format!("/sys/class/bdi/{superblock}/read_ahead_kb");
    std::fs::write(&path, kib.to_string())
        .map_err(|error| Error::from_io(&error, format_args!("write {path}")))
}
