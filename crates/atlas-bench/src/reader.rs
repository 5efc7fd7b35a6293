//! Loops over files as a training program's reader makes them, without its overhead.

use std::ffi::CString;
use std::time::Instant;

use atlas_core::{Error, ErrorKind, PAGE_BYTES, Result, printable};
use rustix::fs::{CWD, Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

/// What a loop did and took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ReadReport {
    pub files: u64,
    /// Bytes read, or (by [`stat_files`]) the sum of the sizes.
    pub bytes: u64,
    pub seconds: f64,
    /// Of this thread, in user and kernel mode.
    pub cpu_seconds: f64,
}

/// Opens, stats, reads whole and closes the files `paths[order[0]]`, `paths[order[1]]`, ... on this
/// thread, into one page-aligned buffer.
///
/// # Errors
/// The first that a call gives, with the path; a file shorter than its size is an error too;
/// `Invalid` for an order that leaves the paths.
pub fn read_files(paths: &[CString], order: &[u32]) -> Result<ReadReport> {
    let mut storage = Vec::new();
    for_each(paths, order, |path| read_file(path, &mut storage))
}

/// Stats the files `paths[order[0]]`, ... by path on this thread, links not followed.
///
/// # Errors
/// As [`read_files`].
pub fn stat_files(paths: &[CString], order: &[u32]) -> Result<ReadReport> {
    for_each(paths, order, |path| {
        Ok(rustix::fs::lstat(path)?.st_size as u64)
    })
}

fn for_each(
    paths: &[CString],
    order: &[u32],
    mut action: impl FnMut(&CString) -> rustix::io::Result<u64>,
) -> Result<ReadReport> {
    let mut bytes = 0;
    let (start, cpu_start) = (Instant::now(), cpu_seconds());
    for index in order {
        let path = paths.get(*index as usize).ok_or_else(|| {
            Error::new(
                ErrorKind::Invalid,
                libc::EINVAL,
                format!("read file {index}: no such path"),
            )
        })?;
        bytes += action(path).map_err(|errno| {
            let path = printable(path.as_bytes());
            Error::from_errno(errno.raw_os_error(), format_args!("read {path}"))
        })?;
    }
    Ok(ReadReport {
        files: order.len() as u64,
        bytes,
        seconds: start.elapsed().as_secs_f64(),
        cpu_seconds: cpu_seconds() - cpu_start,
    })
}

fn read_file(path: &CString, storage: &mut Vec<u8>) -> rustix::io::Result<u64> {
    let file = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let size = fstat(&file)?.st_size as usize;
    let buffer = aligned(storage, size);
    let mut filled = 0;
    while filled < size {
        match rustix::io::read(&file, &mut buffer[filled..]) {
            // As long as its size says, or something is badly wrong.
            Ok(0) => return Err(Errno::IO),
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(size as u64)
}

/// A page-aligned part of `storage`, which grows as needed: the kernel copies to other buffers at
/// a fraction of the speed.
fn aligned(storage: &mut Vec<u8>, size: usize) -> &mut [u8] {
    let page = PAGE_BYTES as usize;
    if storage.len() < size + page {
        *storage = vec![0; size.next_power_of_two() + page];
    }
    let start = storage.as_ptr().align_offset(page);
    &mut storage[start..start + size]
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn files_are_read_in_the_order_given() {
        let folder = tempfile::tempdir().unwrap();
        let paths: Vec<_> = [0usize, 10, 5000, 1 << 21]
            .iter()
            .map(|size| {
                let path = folder.path().join(size.to_string());
                std::fs::write(&path, vec![7; *size]).unwrap();
                CString::new(path.as_os_str().as_bytes()).unwrap()
            })
            .collect();
        let report = read_files(&paths, &[3, 1, 0, 2, 1]).unwrap();
        assert_eq!((report.files, report.bytes), (5, (1 << 21) + 5000 + 20));
        assert!(report.seconds > 0.0 && report.cpu_seconds > 0.0);
        let report = stat_files(&paths, &[0, 2]).unwrap();
        assert_eq!((report.files, report.bytes), (2, 5000));
        assert_eq!(
            read_files(&paths, &[4]).unwrap_err().kind,
            ErrorKind::Invalid
        );
        let absent = [CString::new("/no/such\nfile").unwrap()];
        let error = read_files(&absent, &[0]).unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
        assert!(error.message.contains("/no/such\\nfile"), "{error}");
    }

    #[test]
    fn the_buffer_is_aligned() {
        let mut storage = Vec::new();
        for size in [0, 1, 4096, 100_000, 5] {
            let buffer = aligned(&mut storage, size);
            assert_eq!((buffer.len(), buffer.as_ptr().addr() % 4096), (size, 0));
        }
    }
}
