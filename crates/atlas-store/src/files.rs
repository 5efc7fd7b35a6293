//! Files below a folder that is held open: never through a link, never by a path.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use atlas_core::{Error, ErrorKind, Result};
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::header::{self, HEADER_BYTES, Magic};

pub(crate) fn failed(errno: Errno, context: impl std::fmt::Display) -> Error {
    Error::from_errno(errno.raw_os_error(), context)
}

/// Opens or, with `create`, makes the file `name`; a file that was there before is refused with
/// `create`.
pub(crate) fn open(folder: impl AsFd, name: &str, create: bool) -> Result<File> {
    let mut flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    if create {
        flags |= OFlags::CREATE | OFlags::EXCL;
    }
    rustix::fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR)
        .map(File::from)
        .map_err(|errno| failed(errno, format_args!("open {name}")))
}

pub(crate) fn open_folder(parent: impl AsFd, name: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
        .map_err(|errno| failed(errno, format_args!("open {name}")))
}

/// Removes `name`; that it is not there is no error.
pub(crate) fn remove(folder: impl AsFd, name: &str, flags: AtFlags) -> Result<()> {
    match rustix::fs::unlinkat(folder, name, flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed(errno, format_args!("remove {name}"))),
    }
}

/// Whether `name` in `folder` is the file that `open` is a descriptor of.
///
/// # Errors
/// `NotFound` if it is not, or not there.
pub(crate) fn check_same(
    folder: impl AsFd,
    name: impl rustix::path::Arg,
    open: impl AsFd,
    shown: &str,
) -> Result<()> {
    let looked = |errno| failed(errno, format_args!("look for {shown}"));
    let expected = rustix::fs::fstat(open).map_err(looked)?;
    let found = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(looked)?;
    if (found.st_dev, found.st_ino) == (expected.st_dev, expected.st_ino) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::NotFound,
        libc::ENOENT,
        format!("look for {shown}: another one lies in its place"),
    ))
}

/// Names of the entries of a folder, without `.` and `..`.
pub(crate) fn names(folder: impl AsFd) -> Result<Vec<Vec<u8>>> {
    let list = |errno| failed(errno, "list the folder of the volume");
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder).map_err(list)? {
        let entry = entry.map_err(list)?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

/// Bytes that a file takes on its file system, now.
pub(crate) fn allocated_bytes(file: impl AsFd) -> Result<u64> {
    let stat = rustix::fs::fstat(file).map_err(|errno| failed(errno, "stat a file of the tier"))?;
    Ok(u64::try_from(stat.st_blocks).unwrap_or(0) * 512)
}

pub(crate) fn length(file: impl AsFd) -> Result<u64> {
    let stat = rustix::fs::fstat(file).map_err(|errno| failed(errno, "stat a file of the tier"))?;
    Ok(u64::try_from(stat.st_size).unwrap_or(0))
}

pub(crate) fn set_length(file: impl AsFd, bytes: u64) -> Result<()> {
    rustix::fs::ftruncate(file, bytes)
        .map_err(|errno| failed(errno, "set the length of a file of the tier"))
}

pub(crate) fn sync_data(file: impl AsFd) -> Result<()> {
    rustix::fs::fdatasync(file).map_err(|errno| failed(errno, "sync a file of the tier"))
}

pub(crate) fn sync(file: impl AsFd) -> Result<()> {
    rustix::fs::fsync(file).map_err(|errno| failed(errno, "sync a folder of the tier"))
}

/// Gives the blocks of a range back; the range reads as zeros from then on.
pub(crate) fn punch(file: impl AsFd, offset: u64, bytes: u64) -> Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    allocate(file, flags, offset, bytes)
        .map_err(|errno| failed(errno, "punch a hole into a segment"))
}

/// Gives blocks to the first `bytes` bytes, so that later writes into them meet no full disk.
pub(crate) fn preallocate(file: impl AsFd, bytes: u64) -> Result<()> {
    allocate(file, FallocateFlags::empty(), 0, bytes)
        .map_err(|errno| failed(errno, "allocate a table of the tier"))
}

fn allocate(
    file: impl AsFd,
    flags: FallocateFlags,
    offset: u64,
    bytes: u64,
) -> std::result::Result<(), Errno> {
    loop {
        match rustix::fs::fallocate(file.as_fd(), flags, offset, bytes) {
            // tmpfs gives up at any signal.
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

/// A sparse table behind a header page, read and written by explicit system calls only: on a data
/// disk a mapping would turn a disk error into a SIGBUS.
pub(crate) struct SparseTable {
    file: File,
    name: &'static str,
}

impl SparseTable {
    pub(crate) fn create(
        folder: impl AsFd,
        name: &'static str,
        magic: Magic,
        version: u32,
    ) -> Result<Self> {
        let file = open(folder, name, true)?;
        header::write(&file, name, magic, version)?;
        Ok(Self { file, name })
    }

    pub(crate) fn open(
        folder: impl AsFd,
        name: &'static str,
        magic: Magic,
        version: u32,
    ) -> Result<Self> {
        let file = open(folder, name, false)?;
        header::check(&file, name, magic, version)?;
        Ok(Self { file, name })
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// What was never written reads as zero, also beyond the end of the file.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            let place = HEADER_BYTES + offset + done as u64;
            match self.file.read_at(&mut buffer[done..], place) {
                Ok(0) => {
                    buffer[done..].fill(0);
                    return Ok(());
                }
                Ok(count) => done += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(Error::from_io(&error, format_args!("read {}", self.name)));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all_at(bytes, HEADER_BYTES + offset)
            .map_err(|error| Error::from_io(&error, format_args!("write {}", self.name)))
    }

    /// Back to what was never written.
    pub(crate) fn erase(&self, offset: u64, bytes: u64) -> Result<()> {
        punch(&self.file, HEADER_BYTES + offset, bytes)
    }

    pub(crate) fn sync(&self) -> Result<()> {
        sync_data(&self.file)
    }
}
