//! Mounts: make a FUSE or an EROFS superblock, attach it, take it away, list what is there.
//!
//! Needs CAP_SYS_ADMIN in the mount namespace and Linux 5.2 or newer (the `fsopen` calls).

mod image;
mod table;
mod view;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use atlas_core::{Error, ErrorKind, Result, printable};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    open_tree,
};

pub use image::{DeviceFile, ImageMount, mount_image, set_image_read_ahead, superblock_exists};
pub use table::{MountEntry, table};
pub use view::untouching_view;

const DEVICE: &str = "/dev/fuse";

/// Number of a file system: `st_dev`, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Device {
    pub major: u32,
    pub minor: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOptions {
    /// Shown as the source in mount tables.
    pub name: String,
    /// Owner of the mount in the sense of FUSE; without `allow_other` the only user let in.
    pub uid: u32,
    pub gid: u32,
    pub allow_other: bool,
    /// The type in mount tables is `fuse.` and this.
    pub subtype: String,
}

/// A FUSE device descriptor without a mount yet.
///
/// # Errors
/// `Unsupported` if the machine has no FUSE, `Denied` without the right to use it.
pub fn open_device() -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::open(DEVICE, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => Error::new(
            ErrorKind::Unsupported,
            errno.raw_os_error(),
            format!("open {DEVICE}: this machine has no FUSE"),
        ),
        _ => failed(errno, format_args!("open {DEVICE}")),
    })
}

/// Makes a file system served through `fuse` and a mount of it that is attached nowhere: read-only,
/// nosuid, nodev, permissions checked by the kernel. It ends with the last of the returned
/// descriptor, the places it is attached to and the files open on it. The kernel sends INIT now. If
/// `fuse` serves a file system already, this is another mount of that one, as it was made.
///
/// # Errors
/// `Denied` without CAP_SYS_ADMIN, `Invalid` if `fuse` is no FUSE device.
pub fn create(fuse: impl AsFd, options: &MountOptions) -> Result<OwnedFd> {
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)
        .map_err(|errno| failed(errno, "open a context for a FUSE mount"))?;
    let configured = (|| {
        let string = |key: &str, value: &str| fsconfig_set_string(&context, key, value);
        string("source", &options.name)?;
        string("subtype", &options.subtype)?;
        string("fd", &fuse.as_fd().as_raw_fd().to_string())?;
        string("rootmode", "40000")?;
        string("user_id", &options.uid.to_string())?;
        string("group_id", &options.gid.to_string())?;
        fsconfig_set_flag(&context, "default_permissions")?;
        if options.allow_other {
            fsconfig_set_flag(&context, "allow_other")?;
        }
        // On the superblock, not only on the mount: else each read makes the access time stale
        // and the next stat a message.
        fsconfig_set_flag(&context, "ro")?;
        fsconfig_create(&context)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    })();
    configured.map_err(|errno| failed(errno, format_args!("create a FUSE mount{}", log(&context))))
}

/// What the kernel has to say about a mount that it refused, ready to stand in a message.
fn log(context: &OwnedFd) -> String {
    let mut text = String::new();
    let mut line = [0; 256];
    while let Ok(length @ 1..) = rustix::io::read(context, &mut line) {
        text.push_str(" (");
        text.push_str(printable(&line[..length]).trim_end_matches("\\n"));
        text.push(')');
    }
    text
}

/// Attaches a mount of [`create`] or [`clone_of`] on top of `folder`.
///
/// # Errors
/// `Invalid` if `folder` is none, or lies in another mount namespace.
pub fn attach(mount: BorrowedFd<'_>, folder: BorrowedFd<'_>) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", folder, "", flags).map_err(|errno| failed(errno, "attach a mount"))
}

/// Attaches a mount beneath the one whose root `covered` is. Whoever then detaches that one has
/// changed the file system at its path without a moment in which nothing is mounted there; files
/// and working folders in use stay on the old one. Mount namespaces that follow this one see the same.
///
/// # Errors
/// `Unsupported` before Linux 6.5; `Invalid` if `covered` is not the root of a mount, or lies in
/// another mount namespace.
///
/// Source: `MOVE_MOUNT_BENEATH`, commit 6ac392815628 of Linux.
pub fn attach_beneath(mount: BorrowedFd<'_>, covered: BorrowedFd<'_>) -> Result<()> {
    if !beneath_is_known() {
        return Err(Error::new(
            ErrorKind::Unsupported,
            libc::EINVAL,
            "attach a mount beneath another one: needs Linux 6.5",
        ));
    }
    let flags =
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH | BENEATH;
    move_mount(mount, "", covered, "", flags)
        .map_err(|errno| failed(errno, "attach a mount beneath another one"))
}

/// `MOVE_MOUNT_BENEATH` of `linux/mount.h`.
const BENEATH: MoveMountFlags = MoveMountFlags::from_bits_retain(0x200);

/// Whether the kernel has the flag: one that does not know it looks at nothing else (EINVAL), one
/// that does finds that there is no such descriptor.
pub fn beneath_is_known() -> bool {
    // SAFETY: no descriptor has the number -1, so the call fails and changes nothing.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            -1,
            c"".as_ptr(),
            -1,
            c"".as_ptr(),
            (MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH
                | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH
                | BENEATH)
                .bits(),
        )
    };
    result == -1 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EBADF)
}

/// Another mount of the file system at `path`, to be attached elsewhere.
pub fn clone_of(path: &Path) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    open_tree(CWD, path, flags)
        .map_err(|errno| failed(errno, format_args!("clone the mount at {}", shown(path))))
}

/// Takes the topmost mount at `path` away. With `detach` at once from the path, while open files
/// and working folders keep it alive; without, only if nobody uses it.
///
/// # Errors
/// `Conflict` (EBUSY) if it is in use, `Invalid` if nothing is mounted there.
pub fn unmount(path: &Path, detach: bool) -> Result<()> {
    let mut flags = UnmountFlags::NOFOLLOW;
    if detach {
        flags |= UnmountFlags::DETACH;
    }
    rustix::mount::unmount(path, flags)
        .map_err(|errno| failed(errno, format_args!("unmount {}", shown(path))))
}

/// The number of the file system behind a descriptor, for instance of [`create`], without a
/// question to its server.
pub fn device_of(mount: impl AsFd) -> Result<Device> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let status = rustix::fs::statx(mount, "", flags, StatxFlags::empty())
        .map_err(|errno| failed(errno, "look at a mount"))?;
    Ok(Device {
        major: status.stx_dev_major,
        minor: status.stx_dev_minor,
    })
}

/// Sets how far the kernel reads ahead on a file system, in KiB.
///
/// # Errors
/// `Denied` without root; `NotFound` if the file system is gone.
pub fn set_read_ahead(device: Device, kib: u32) -> Result<()> {
    let path = format!(
        "/sys/class/bdi/{}:{}/read_ahead_kb",
        device.major, device.minor
    );
    std::fs::write(&path, kib.to_string())
        .map_err(|error| Error::from_io(&error, format_args!("write {path}")))
}

fn failed(errno: Errno, context: impl std::fmt::Display) -> Error {
    Error::from_errno(errno.raw_os_error(), context)
}

fn shown(path: &Path) -> String {
    printable(path.as_os_str().as_bytes())
}
