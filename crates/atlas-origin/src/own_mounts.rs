//! An Atlas mount is never an origin: reading it would ask ourselves.

use std::collections::HashMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use atlas_core::{Error, ErrorKind, Result, printable};
use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, openat, readlinkat, statx};

/// What the kernel shows as the type of an Atlas mount.
const ATLAS_TYPE: &[u8] = b"fuse.atlas";

/// For so long a device is taken for what it was: anonymous device numbers are used again.
const DEVICE_MEMORY: Duration = Duration::from_secs(1);

/// A line of `/proc/self/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    device: u64,
    path: Vec<u8>,
    atlas: bool,
}

/// How a source and an Atlas mount get into each other's way.
#[derive(Debug, PartialEq, Eq)]
enum Overlap<'a> {
    /// The source lies in the Atlas mount at this path.
    Inside(&'a [u8]),
    /// The Atlas mount at this path lies in the source.
    Contains(&'a [u8]),
}

/// Refuses a source folder that lies inside an Atlas mount or contains one.
///
/// # Errors
/// `Invalid` (ELOOP) for such a source, else what opening the folder gives: `NotFound`, `Denied`.
pub fn check_source(path: &Path) -> Result<()> {
    let context = || format!("look at {}", printable(path.as_os_str().as_bytes()));
    let failed = |errno: rustix::io::Errno| Error::from_errno(errno.raw_os_error(), context());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(CWD, path, flags, Mode::empty()).map_err(failed)?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&folder);
    let real = readlinkat(CWD, format!("/proc/self/fd/{number}"), Vec::new()).map_err(failed)?;
    let device = device_of(&folder).map_err(failed)?;
    let mounts = mount_table()?;
    let reason = match overlap(&mounts, real.to_bytes(), device) {
        None => return Ok(()),
        Some(Overlap::Inside(mount)) => format!("lies in the Atlas mount {}", printable(mount)),
        Some(Overlap::Contains(mount)) => format!("contains the Atlas mount {}", printable(mount)),
    };
    Err(Error::new(
        ErrorKind::Invalid,
        libc::ELOOP,
        format!("{}: it {reason}", context()),
    ))
}

/// Keeps requests of one origin out of Atlas mounts below its root.
#[derive(Debug)]
pub(crate) struct OwnMounts {
    root_device: u64,
    known: Mutex<HashMap<u64, (Instant, bool)>>,
}

impl OwnMounts {
    /// `root_device` is the device of the root, which must not be an Atlas mount itself.
    pub(crate) fn new(root_device: u64) -> Result<Self> {
        if is_atlas(root_device)? {
            return Err(own_mount(b""));
        }
        Ok(Self {
            root_device,
            known: Mutex::new(HashMap::new()),
        })
    }

    /// # Errors
    /// `Invalid` (ELOOP) when `device`, found at `path`, is that of an Atlas mount.
    pub(crate) fn admit(&self, device: u64, path: &[u8]) -> Result<()> {
        if device == self.root_device {
            return Ok(());
        }
        let remembered = self.known.lock().get(&device).copied();
        let atlas = match remembered {
            Some((seen, atlas)) if seen.elapsed() < DEVICE_MEMORY => atlas,
            _ => {
                let atlas = is_atlas(device)?;
                self.known.lock().insert(device, (Instant::now(), atlas));
                atlas
            }
        };
        if atlas { Err(own_mount(path)) } else { Ok(()) }
    }
}

fn own_mount(path: &[u8]) -> Error {
    let message = format!("enter {}: it lies in an Atlas mount", printable(path));
    Error::new(ErrorKind::Invalid, libc::ELOOP, message)
}

fn is_atlas(device: u64) -> Result<bool> {
    Ok(mount_table()?
        .iter()
        .any(|mount| mount.atlas && mount.device == device))
}

/// The device of an open entry, without a request to its file system: that one may be ours.
pub(crate) fn device_of(entry: impl AsFd) -> rustix::io::Result<u64> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let found = statx(entry, c"", flags, StatxFlags::empty())?;
    Ok(libc::makedev(found.stx_dev_major, found.stx_dev_minor))
}

fn mount_table() -> Result<Vec<Mount>> {
    let file = "/proc/self/mountinfo";
    let text = fs::read(file).map_err(|error| Error::from_io(&error, format!("read {file}")))?;
    Ok(parse(&text))
}

/// Lines that are not understood are left out.
fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|&byte| byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

/// `ID PARENT MAJOR:MINOR ROOT PATH OPTIONS [OPTIONAL...] - TYPE SOURCE OPTIONS`, proc(5).
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let (major, minor) = std::str::from_utf8(fields.nth(2)?).ok()?.split_once(':')?;
    let path = unescape(fields.nth(1)?);
    fields.find(|field| *field == b"-")?;
    let atlas = fields.next()? == ATLAS_TYPE;
    Some(Mount {
        device: libc::makedev(major.parse().ok()?, minor.parse().ok()?),
        path,
        atlas,
    })
}

/// The kernel writes space, tab, newline and backslash as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'\\'
            && let Some((digits, after)) = after.split_at_checked(3)
            && let Ok(digits) = std::str::from_utf8(digits)
            && let Ok(value) = u8::from_str_radix(digits, 8)
        {
            plain.push(value);
            rest = after;
        } else {
            plain.push(byte);
            rest = after;
        }
    }
    plain
}

/// `path` is free of links and `device` is the one found there.
fn overlap<'a>(mounts: &'a [Mount], path: &[u8], device: u64) -> Option<Overlap<'a>> {
    if let Some(mount) = mounts
        .iter()
        .find(|mount| mount.atlas && mount.device == device)
    {
        return Some(Overlap::Inside(&mount.path));
    }
    // Later lines cover earlier ones at the same path.
    let nearest = mounts
        .iter()
        .filter(|mount| is_at_or_below(path, &mount.path))
        .max_by_key(|mount| mount.path.len());
    if let Some(mount) = nearest
        && mount.atlas
    {
        return Some(Overlap::Inside(&mount.path));
    }
    mounts
        .iter()
        .find(|mount| mount.atlas && is_at_or_below(&mount.path, path))
        .map(|mount| Overlap::Contains(&mount.path))
}

/// Whether `path` is `folder` or lies in it; both absolute.
fn is_at_or_below(path: &[u8], folder: &[u8]) -> bool {
    let folder = folder.strip_suffix(b"/").unwrap_or(folder);
    path.strip_prefix(folder)
        .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
        40 22 0:35 / /mnt/speech rw - fuse.atlas speech ro,user_id=0\n\
        41 22 0:36 / /mnt/a\\040b\\134c rw master:1 propagate_from:2 - fuse.atlas x ro\n\
        42 22 0:37 / /slow rw - fuse.atlas-slow-origin slow rw\n\
        43 40 0:38 / /mnt/speech/inner rw - tmpfs tmpfs rw\n\
        44 22 0:39 / /covered rw - fuse.atlas y ro\n\
        45 44 0:40 / /covered rw - tmpfs tmpfs rw\n\
        broken line\n";

    fn found(path: &[u8], device: (u32, u32)) -> Option<String> {
        let mounts = parse(TABLE);
        overlap(&mounts, path, libc::makedev(device.0, device.1)).map(|overlap| match overlap {
            Overlap::Inside(mount) => format!("inside {}", printable(mount)),
            Overlap::Contains(mount) => format!("contains {}", printable(mount)),
        })
    }

    #[test]
    fn a_plain_folder_is_a_legal_source() {
        assert_eq!(found(b"/data", (254, 0)), None);
        assert_eq!(found(b"/mnt/speech2", (254, 0)), None);
    }

    #[test]
    fn a_folder_in_an_atlas_mount_is_refused() {
        assert_eq!(
            found(b"/mnt/speech", (0, 35)).as_deref(),
            Some("inside /mnt/speech")
        );
        assert_eq!(
            found(b"/mnt/speech/a", (0, 99)).as_deref(),
            Some("inside /mnt/speech")
        );
        assert_eq!(
            found(b"/elsewhere", (0, 35)).as_deref(),
            Some("inside /mnt/speech")
        );
        assert_eq!(
            found(b"/mnt/a b\\c/d", (0, 36)).as_deref(),
            Some("inside /mnt/a b\\\\c")
        );
    }

    #[test]
    fn a_folder_that_contains_an_atlas_mount_is_refused() {
        assert_eq!(
            found(b"/mnt", (254, 0)).as_deref(),
            Some("contains /mnt/speech")
        );
        assert_eq!(
            found(b"/", (254, 0)).as_deref(),
            Some("contains /mnt/speech")
        );
    }

    #[test]
    fn another_file_system_over_an_atlas_mount_counts_as_itself() {
        assert_eq!(found(b"/mnt/speech/inner/x", (0, 38)), None);
        assert_eq!(found(b"/covered/x", (0, 40)), None);
    }

    #[test]
    fn the_slow_origin_emulator_is_a_legal_source() {
        assert_eq!(found(b"/slow", (0, 37)), None);
        assert_eq!(found(b"/slow/a", (0, 37)), None);
    }

    #[test]
    fn broken_escapes_stay_as_they_are() {
        assert_eq!(unescape(b"a\\04"), b"a\\04");
        assert_eq!(unescape(b"\\011\\012x\\9zz"), b"\t\nx\\9zz");
    }
}
