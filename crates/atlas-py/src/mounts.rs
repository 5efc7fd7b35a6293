//! System calls about mounts, folders and tiers that Python has no names for.

#![expect(
    clippy::needless_pass_by_value,
    reason = "arguments from Python are converted into owned values"
)]

use std::collections::BTreeMap;
use std::os::fd::{IntoRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use atlas_core::{Error, ErrorKind, Identity};
use atlas_mount::mounts;
use atlas_store::{Medium, Tier};
use pyo3::prelude::*;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::engine::borrow;
use crate::error::detached;

/// The file system subtype, by which Atlas knows its own mounts.
const SUBTYPE: &str = "atlas";

/// Read-ahead of a mount: one extent.
const READ_AHEAD_KIB: u32 = 1024;

pub(crate) fn medium(name: &str) -> atlas_core::Result<Medium> {
    match name {
        "MEM" => Ok(Medium::Memory),
        "SSD" => Ok(Medium::Ssd),
        "HDD" => Ok(Medium::Hdd),
        _ => Err(Error::new(
            ErrorKind::Invalid,
            libc::EINVAL,
            format!("no medium {name}"),
        )),
    }
}

/// A descriptor (O_PATH) of a folder, opened with the rights of `identity`; links are followed.
#[pyfunction]
pub(crate) fn open_folder_as(
    py: Python<'_>,
    identity: (u32, u32, Vec<u32>),
    path: PathBuf,
) -> PyResult<RawFd> {
    let (uid, gid, groups) = identity;
    let identity = Identity { uid, gid, groups };
    let open = || -> atlas_core::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&path, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::NOTDIR => Error::new(
                ErrorKind::Invalid,
                libc::ENOTDIR,
                format!("{} is not a folder", shown(&path)),
            ),
            _ => Error::from_errno(errno.raw_os_error(), format!("open {}", shown(&path))),
        })
    };
    let descriptor = detached(py, || atlas_origin::as_identity(&identity, open)?)?;
    Ok(descriptor.into_raw_fd())
}

fn shown(path: &Path) -> String {
    atlas_core::printable(path.as_os_str().as_encoded_bytes())
}

/// Refuse a folder that lies in an Atlas mount or contains one.
#[pyfunction]
pub(crate) fn check_source(py: Python<'_>, path: PathBuf) -> PyResult<()> {
    detached(py, || atlas_origin::check_source(&path))
}

/// Open a tier folder, or make it one; returns its UUID.
#[pyfunction]
pub(crate) fn open_tier(
    py: Python<'_>,
    folder: PathBuf,
    medium: &str,
    create: bool,
    uuid: Option<&str>,
) -> PyResult<String> {
    detached(py, || {
        let tier = Tier::open(&folder, self::medium(medium)?, create, uuid)?;
        Ok(tier.uuid().to_string())
    })
}

#[pyfunction]
pub(crate) fn open_fuse(py: Python<'_>) -> PyResult<RawFd> {
    Ok(detached(py, mounts::open_device)?.into_raw_fd())
}

/// A detached read-only mount of a FUSE descriptor.
#[pyfunction]
pub(crate) fn mount_fuse(
    py: Python<'_>,
    fuse: RawFd,
    name: &str,
    uid: u32,
    gid: u32,
) -> PyResult<RawFd> {
    let mount = detached(py, || {
        let options = mounts::MountOptions {
            name: name.to_owned(),
            uid,
            gid,
            allow_other: true,
            subtype: SUBTYPE.to_owned(),
        };
        let mount = mounts::create(borrow(fuse)?, &options)?;
        // Only a matter of speed: a machine that does not allow it reads in smaller steps.
        let _ = mounts::set_read_ahead(mounts::device_of(&mount)?, READ_AHEAD_KIB);
        Ok(mount)
    })?;
    Ok(mount.into_raw_fd())
}

/// A detached mount of the FUSE descriptor of a twin connection, for the node alone.
#[pyfunction]
pub(crate) fn mount_twin(py: Python<'_>, fuse: RawFd) -> PyResult<RawFd> {
    let mount = detached(py, || {
        let options = mounts::MountOptions {
            name: "atlas:twin".to_owned(),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            allow_other: false,
            subtype: SUBTYPE.to_owned(),
        };
        mounts::create(borrow(fuse)?, &options)
    })?;
    Ok(mount.into_raw_fd())
}

#[pyfunction]
pub(crate) fn attach_beneath(py: Python<'_>, mount: RawFd, target: RawFd) -> PyResult<()> {
    detached(py, || {
        mounts::attach_beneath(borrow(mount)?, borrow(target)?)
    })
}

/// What mapped fronts need, each "available" or why not; tried in `folder`.
#[pyfunction]
pub(crate) fn probe_mapped(py: Python<'_>, folder: PathBuf) -> BTreeMap<&'static str, String> {
    let probed = py.detach(|| atlas_engine::probe_mapped(&folder));
    let text = |outcome: atlas_core::Result<()>| {
        outcome.map_or_else(|error| error.message, |()| "available".to_owned())
    };
    BTreeMap::from([
        ("sealed", text(probed.sealed)),
        ("lazy", text(probed.lazy)),
        ("swap", text(probed.swap)),
    ])
}

/// The file system (major, minor) that a link of /proc leads to, without a question to its server;
/// `None` where it leads nowhere.
#[pyfunction]
pub(crate) fn device_behind(path: PathBuf) -> Option<(u32, u32)> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let place = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    let device = mounts::device_of(place).ok()?;
    Some((device.major, device.minor))
}

/// The same of an open descriptor.
#[pyfunction]
pub(crate) fn device_of(py: Python<'_>, descriptor: RawFd) -> PyResult<(u32, u32)> {
    let device = detached(py, || mounts::device_of(borrow(descriptor)?))?;
    Ok((device.major, device.minor))
}

#[pyfunction]
pub(crate) fn superblock_exists(name: &str) -> bool {
    mounts::superblock_exists(name)
}

#[pyfunction]
pub(crate) fn attach_mount(py: Python<'_>, mount: RawFd, folder: RawFd) -> PyResult<()> {
    detached(py, || mounts::attach(borrow(mount)?, borrow(folder)?))
}

#[pyfunction]
pub(crate) fn clone_mount(py: Python<'_>, path: PathBuf) -> PyResult<RawFd> {
    Ok(detached(py, || mounts::clone_of(&path))?.into_raw_fd())
}

#[pyfunction]
pub(crate) fn unmount(py: Python<'_>, path: PathBuf, detach: bool) -> PyResult<()> {
    detached(py, || mounts::unmount(&path, detach))
}

#[derive(IntoPyObject)]
pub(crate) struct MountOutput {
    id: u64,
    parent: u64,
    device: (u32, u32),
    path: PathBuf,
    #[pyo3(item("type"))]
    filesystem: String,
    source: String,
}

#[pyfunction]
pub(crate) fn mount_table(py: Python<'_>) -> PyResult<Vec<MountOutput>> {
    let entries = detached(py, mounts::table)?;
    Ok(entries
        .into_iter()
        .map(|entry| MountOutput {
            id: entry.id,
            parent: entry.parent,
            device: (entry.device.major, entry.device.minor),
            path: entry.path,
            filesystem: entry.kind,
            source: entry.source.to_string_lossy().into_owned(),
        })
        .collect())
}
