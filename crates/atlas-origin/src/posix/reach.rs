//! How an entry is reached when all that is known of it is asked for.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::LazyLock;

use rustix::fs::{AtFlags, Statx, getxattr, listxattr};
use rustix::io::Errno;

use super::{last_errno, status};

pub(super) enum Reach<'a> {
    /// Three to four calls for an entry, with the calls that Linux 6.13 brought. Each looks the name
    /// up: that it led to one entry all the time has to be seen from the entry's time of change,
    /// which a rename moves.
    Named {
        folder: BorrowedFd<'a>,
        name: &'a CStr,
    },
    /// By a descriptor that only names it, so that it cannot be another one. Such descriptors take
    /// no fgetxattr(): the way leads through /proc, and costs twice as much in all.
    Held {
        entry: BorrowedFd<'a>,
        path: CString,
    },
}

// The same on all architectures that Linux added since 2019, and on these.
#[cfg(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
))]
const CALLS: Option<(libc::c_long, libc::c_long)> = Some((464, 465));
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
)))]
const CALLS: Option<(libc::c_long, libc::c_long)> = None;

/// Where getxattrat() puts a value. Source: `struct xattr_args` of Linux.
#[repr(C)]
struct Room {
    value: u64,
    size: u32,
    flags: u32,
}

/// Whether the kernel has the calls, and no filter keeps them back.
static BY_NAME: LazyLock<bool> = LazyLock::new(|| {
    let root = rustix::fs::CWD;
    let known = |answer| !matches!(answer, Err(Errno::NOSYS | Errno::PERM));
    known(list_at(root, c"/", &mut [])) && known(get_at(root, c"/", c"user.none", &mut []))
});

pub(super) fn by_name() -> bool {
    *BY_NAME
}

impl<'a> Reach<'a> {
    pub(super) fn held(entry: BorrowedFd<'a>) -> Self {
        let path = format!("/proc/self/fd/{}", entry.as_raw_fd());
        Self::Held {
            entry,
            path: CString::new(path).unwrap_or_default(),
        }
    }

    pub(super) fn status(&self, sync: AtFlags) -> rustix::io::Result<Statx> {
        match self {
            Self::Named { folder, name } => status(*folder, name.to_bytes(), sync),
            Self::Held { entry, .. } => status(*entry, b"", sync),
        }
    }

    /// The length of an extended attribute, whose value is put into `room`.
    pub(super) fn get(&self, attribute: &CStr, room: &mut [u8]) -> rustix::io::Result<usize> {
        match self {
            Self::Named { folder, name } => get_at(*folder, or_dot(name), attribute, room),
            Self::Held { path, .. } => getxattr(path.as_c_str(), attribute, room),
        }
    }

    /// The length of the names of all extended attributes, each closed by a NUL.
    pub(super) fn list(&self, room: &mut [u8]) -> rustix::io::Result<usize> {
        match self {
            Self::Named { folder, name } => list_at(*folder, or_dot(name), room),
            Self::Held { path, .. } => listxattr(path.as_c_str(), room),
        }
    }
}

/// The empty name is that of the folder itself.
fn or_dot(name: &CStr) -> &CStr {
    if name.is_empty() { c"." } else { name }
}

fn get_at(
    folder: BorrowedFd<'_>,
    name: &CStr,
    attribute: &CStr,
    room: &mut [u8],
) -> rustix::io::Result<usize> {
    let (call, _) = CALLS.ok_or(Errno::NOSYS)?;
    let room = Room {
        value: room.as_mut_ptr() as u64,
        size: room.len() as u32,
        flags: 0,
    };
    // SAFETY: the descriptor is open, the names are C strings, and the structure, which outlives
    // the call and is as long as is said, names a buffer of that length that nobody else uses.
    let answer = unsafe {
        libc::syscall(
            call,
            folder.as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            attribute.as_ptr(),
            &raw const room,
            size_of::<Room>(),
        )
    };
    usize::try_from(answer).map_err(|_| last_errno())
}

fn list_at(folder: BorrowedFd<'_>, name: &CStr, room: &mut [u8]) -> rustix::io::Result<usize> {
    let (_, call) = CALLS.ok_or(Errno::NOSYS)?;
    // SAFETY: the descriptor is open, the name is a C string, and the buffer has the length that is
    // said.
    let answer = unsafe {
        libc::syscall(
            call,
            folder.as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            room.as_mut_ptr(),
            room.len(),
        )
    };
    usize::try_from(answer).map_err(|_| last_errno())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use rustix::fs::{XattrFlags, fsetxattr};

    use super::*;

    #[test]
    fn both_ways_lead_to_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("file")).unwrap();
        let kept = fsetxattr(&file, "user.a", b"12345", XattrFlags::empty()).is_ok();
        let parent = File::open(folder.path()).unwrap();
        let mut ways = vec![Reach::held(file.as_fd())];
        if by_name() {
            ways.push(Reach::Named {
                folder: parent.as_fd(),
                name: c"file",
            });
        }
        for way in ways {
            let status = way.status(AtFlags::empty()).unwrap();
            assert_eq!(status.stx_size, 0);
            let mut room = [0; 100];
            if kept {
                assert_eq!(way.list(&mut room), Ok(7));
                assert_eq!(&room[..7], b"user.a\0");
                assert_eq!(way.list(&mut room[..6]), Err(Errno::RANGE));
                assert_eq!(way.get(c"user.a", &mut room), Ok(5));
                assert_eq!(&room[..5], b"12345");
                assert_eq!(way.get(c"user.a", &mut room[..4]), Err(Errno::RANGE));
                assert_eq!(way.get(c"user.b", &mut room), Err(Errno::NODATA));
            }
        }
    }
}
