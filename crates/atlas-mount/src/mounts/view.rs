//! A look at a folder that leaves no trace in it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use atlas_core::Result;
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};

use super::{failed, shown};

/// `struct mount_attr` of `linux/mount.h`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// A mount of `folder` (links on the way followed) and all that is mounted below it, attached
/// nowhere, through which nothing can be changed, no time of access either. It ends with the
/// descriptor.
///
/// # Errors
/// `Denied` without CAP_SYS_ADMIN, `Unsupported` before Linux 5.12.
pub fn untouching_view(folder: &Path) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let view = open_tree(CWD, folder, flags)
        .map_err(|errno| failed(errno, format_args!("clone the mount of {}", shown(folder))))?;
    let set = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOATIME;
    let attributes = MountAttributes {
        set: u64::from(set.bits()),
        // The way times of access are kept is one choice of several: the others go.
        clear: u64::from(MountAttrFlags::MOUNT_ATTR__ATIME.bits()),
        propagation: 0,
        user_namespace: 0,
    };
    // SAFETY: the path is an empty C string, the structure has the size given and outlives the
    // call, and the descriptor is open.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            view.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    if result == 0 {
        return Ok(view);
    }
    let error = std::io::Error::last_os_error();
    let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
    Err(failed(
        errno,
        format_args!("make the mount of {} read-only", shown(folder)),
    ))
}
