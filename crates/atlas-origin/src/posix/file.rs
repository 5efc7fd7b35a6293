//! Bytes of one version of a file.

use std::os::fd::{AsFd, BorrowedFd};

use atlas_core::{Error, ErrorKind, Kind, Result, VersionTag, printable};
use rustix::fs::{AtFlags, Statx, StatxFlags, statx};
use rustix::io::{Errno, pread};

use super::root::Root;
use super::{failed, timestamp};
use crate::origin::stale;
use crate::own_mounts::OwnMounts;

/// What [`VersionTag`] is made of, and the type.
const VERSION: StatxFlags = StatxFlags::TYPE
    .union(StatxFlags::SIZE)
    .union(StatxFlags::MTIME)
    .union(StatxFlags::CTIME)
    .union(StatxFlags::INO);

/// Fills `buffer` from `offset` of the file `name` in `folder`, if it is and stays at `tag`.
pub(super) fn read(
    root: &Root,
    own_mounts: &OwnMounts,
    folder: BorrowedFd<'_>,
    name: &[u8],
    tag: &VersionTag,
    offset: u64,
    buffer: &mut [u8],
) -> Result<()> {
    let end = offset.checked_add(buffer.len() as u64);
    if end.is_none_or(|end| end > tag.size) {
        let message = format!("read {}: beyond the end of the file", printable(name));
        return Err(Error::new(ErrorKind::Invalid, libc::EINVAL, message));
    }
    let file = match root.open_to_read(folder, name) {
        Ok(file) => file,
        // What the kernel answers where a link, a socket or no folder has taken the place.
        Err(Errno::LOOP | Errno::NXIO | Errno::NOTDIR) => return Err(not_a_file(name)),
        Err(errno) => return Err(failed(errno, name)),
    };
    // Opening has brought the attributes along: looking at them costs the origin nothing. Where
    // they are not what is wanted they may just be old, and the origin is asked.
    let mut found = version(file.as_fd(), AtFlags::STATX_DONT_SYNC, name)?;
    if !matches(&found, tag) {
        found = version(file.as_fd(), AtFlags::empty(), name)?;
    }
    expect(&found, tag, name)?;
    let device = libc::makedev(found.stx_dev_major, found.stx_dev_minor);
    own_mounts.admit(device, name)?;
    fill(file.as_fd(), name, offset, buffer)?;
    // Only the origin itself can tell that the file stayed the same while it was read.
    expect(
        &version(file.as_fd(), AtFlags::STATX_FORCE_SYNC, name)?,
        tag,
        name,
    )
}

fn version(file: BorrowedFd<'_>, sync: AtFlags, name: &[u8]) -> Result<Statx> {
    statx(file, c"", AtFlags::EMPTY_PATH | sync, VERSION).map_err(|errno| failed(errno, name))
}

fn expect(found: &Statx, tag: &VersionTag, name: &[u8]) -> Result<()> {
    if Kind::from_mode(u32::from(found.stx_mode)) != Some(Kind::File) {
        return Err(not_a_file(name));
    }
    if matches(found, tag) {
        Ok(())
    } else {
        Err(stale(name, "the file has changed"))
    }
}

fn matches(found: &Statx, tag: &VersionTag) -> bool {
    let present = VersionTag {
        size: found.stx_size,
        modified: timestamp(&found.stx_mtime),
        changed: timestamp(&found.stx_ctime),
        inode: found.stx_ino,
    };
    present == *tag
}

fn fill(file: BorrowedFd<'_>, name: &[u8], mut offset: u64, mut rest: &mut [u8]) -> Result<()> {
    while !rest.is_empty() {
        match pread(file, &mut *rest, offset) {
            Ok(0) => return Err(stale(name, "the file has become shorter")),
            Ok(count) => {
                rest = &mut rest[count..];
                offset += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(errno, name)),
        }
    }
    Ok(())
}

fn not_a_file(name: &[u8]) -> Error {
    stale(name, "it is not a regular file any more")
}
