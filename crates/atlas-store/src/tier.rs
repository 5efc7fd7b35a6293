//! A tier: one folder on one medium, recognised by its marker.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use atlas_core::{Error, ErrorKind, PAGE_BYTES, Result, printable};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::files::{self, failed};

/// What a tier folder lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Medium {
    /// A tmpfs: empty after a reboot.
    Memory,
    Ssd,
    Hdd,
}

impl Medium {
    /// As users write it: `MEM`, `SSD` or `HDD`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "MEM",
            Self::Ssd => "SSD",
            Self::Hdd => "HDD",
        }
    }
}

impl fmt::Display for Medium {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Medium {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        [Self::Memory, Self::Ssd, Self::Hdd]
            .into_iter()
            .find(|medium| medium.name() == text)
            .ok_or_else(|| invalid(format!("medium {text:?}: not one of MEM, SSD, HDD")))
    }
}

pub(crate) const MARKER: &str = "atlas-tier";
pub(crate) const NEW_MARKER: &str = "atlas-tier.new";
const MARKER_FORMAT: &str = "1";
/// A marker is some 150 bytes; a larger file of that name is none of ours.
const MARKER_LIMIT: u64 = 4096;

/// Magic number of tmpfs in `statfs`.
const TMPFS: u64 = 0x0102_1994;

/// A tier folder, held open: what happens to its path later does not lead us elsewhere.
pub struct Tier {
    folder: OwnedFd,
    path: PathBuf,
    medium: Medium,
    uuid: String,
    boot_id: String,
    granule: u64,
}

impl Tier {
    /// Opens the tier at `folder`.
    ///
    /// With `uuid` it must be that tier: a folder without its marker is an unmounted disk, and
    /// nothing is written to it. (Only a memory tier may be made anew under its old UUID, with
    /// `create`: a tmpfs loses its marker at every reboot.) Without `uuid` any tier is accepted,
    /// and with `create` an absent or empty folder becomes one.
    ///
    /// # Errors
    /// `NotFound` for an absent folder or marker, `Denied` for a link and for a folder that is not
    /// ours alone (owner, mode 0700), `Conflict` for another tier or a folder with foreign
    /// contents, `Invalid` for a memory tier that is not on tmpfs and for another medium than the
    /// marker says, `Corrupt` and `Unsupported` for the marker itself.
    pub fn open(folder: &Path, medium: Medium, create: bool, uuid: Option<&str>) -> Result<Self> {
        Self::open_in_boot(folder, medium, create, uuid, &kernel_text("boot_id")?)
    }

    /// [`open`](Self::open) as if the machine had the boot id `boot_id`: so that tests can reboot.
    pub fn open_in_boot(
        folder: &Path,
        medium: Medium,
        create: bool,
        uuid: Option<&str>,
        boot_id: &str,
    ) -> Result<Self> {
        // A trailing slash would have the kernel follow a link in the last component.
        let path: PathBuf = folder.components().collect();
        let shown = printable(path.as_os_str().as_encoded_bytes());
        let may_create = create && (uuid.is_none() || medium == Medium::Memory);
        if may_create {
            match rustix::fs::mkdirat(CWD, &path, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed(errno, format_args!("create tier {shown}"))),
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let descriptor =
            rustix::fs::openat(CWD, &path, flags, Mode::empty()).map_err(|errno| match errno {
                Errno::LOOP | Errno::NOTDIR if path.is_symlink() => Error::new(
                    ErrorKind::Denied,
                    libc::ELOOP,
                    format!("open tier {shown}: a link; name the folder itself"),
                ),
                _ => failed(errno, format_args!("open tier {shown}")),
            })?;
        if medium == Medium::Memory && !is_tmpfs(&descriptor)? {
            return Err(invalid(format!(
                "open tier {shown}: a MEM tier must lie on a tmpfs"
            )));
        }
        let marker = read_marker(&descriptor, &shown)?;
        if marker.is_none() && !may_create {
            let message = match uuid {
                Some(uuid) => format!("no marker of tier {uuid}: disk not mounted?"),
                None => "not a tier folder".to_owned(),
            };
            return Err(Error::new(
                ErrorKind::NotFound,
                libc::ENOENT,
                format!("open tier {shown}: {message}"),
            ));
        }
        claim(&descriptor, &shown, marker.is_none())?;
        let uuid = match marker {
            Some(marker) => marker.check(medium, uuid, &shown)?,
            None => {
                let uuid = uuid.map_or_else(|| kernel_text("uuid"), |uuid| Ok(uuid.into()))?;
                write_marker(&descriptor, medium, &uuid, boot_id)?;
                uuid
            }
        };
        let granule = probe_granule(&descriptor);
        let boot_id = boot_id.to_owned();
        Ok(Self {
            folder: descriptor,
            path,
            medium,
            uuid,
            boot_id,
            granule,
        })
    }

    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    pub fn medium(&self) -> Medium {
        self.medium
    }

    /// Bytes that the file system has left for us.
    pub fn free_bytes(&self) -> Result<u64> {
        let space = rustix::fs::fstatvfs(&self.folder)
            .map_err(|errno| failed(errno, "ask the tier for its free space"))?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }

    /// What the file system allocates at once, in bytes: a page, or more (huge pages, bigalloc).
    pub fn granule(&self) -> u64 {
        self.granule
    }

    /// Whether the folder still lies where it was opened. One that was moved away, or that another
    /// file system was mounted over, will not be found by the next process.
    pub(crate) fn check_in_place(&self) -> Result<()> {
        let shown = printable(self.path.as_os_str().as_encoded_bytes());
        files::check_same(CWD, &self.path, &self.folder, &format!("tier {shown}"))
    }

    pub(crate) fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    pub(crate) fn boot_id(&self) -> &str {
        &self.boot_id
    }
}

struct Marker {
    uuid: String,
    medium: String,
}

impl Marker {
    fn check(self, medium: Medium, expected: Option<&str>, shown: &str) -> Result<String> {
        if self.medium != medium.name() {
            let found = self.medium;
            return Err(invalid(format!(
                "open tier {shown}: registered as {found}, not {medium}"
            )));
        }
        if expected.is_some_and(|uuid| uuid != self.uuid) {
            return Err(Error::new(
                ErrorKind::Conflict,
                libc::EBUSY,
                format!("open tier {shown}: another tier lies there (another disk mounted?)"),
            ));
        }
        Ok(self.uuid)
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::Invalid, libc::EINVAL, message)
}

/// One of the texts of `/proc/sys/kernel/random`: `boot_id`, or `uuid`, a new one each time.
pub(crate) fn kernel_text(name: &str) -> Result<String> {
    std::fs::read_to_string(Path::new("/proc/sys/kernel/random").join(name))
        .map(|text| text.trim().to_owned())
        .map_err(|error| Error::from_io(&error, format_args!("read the kernel's {name}")))
}

pub(crate) fn is_tmpfs(folder: impl AsFd) -> Result<bool> {
    let system = rustix::fs::fstatfs(folder)
        .map_err(|errno| failed(errno, "ask for the type of a file system"))?;
    Ok(u64::try_from(system.f_type).is_ok_and(|kind| kind == TMPFS))
}

/// Makes sure that nobody but us can reach into the folder; a new one is made so.
fn claim(folder: &OwnedFd, shown: &str, new: bool) -> Result<()> {
    let stat = rustix::fs::fstat(folder)
        .map_err(|errno| failed(errno, format_args!("stat tier {shown}")))?;
    let denied = |reason: &str| {
        Error::new(
            ErrorKind::Denied,
            libc::EACCES,
            format!("open tier {shown}: {reason}"),
        )
    };
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(denied("the folder belongs to another user"));
    }
    // What a marker that was cut short leaves, and what mkfs puts on every new ext4.
    let ours = |name: &Vec<u8>| name == NEW_MARKER.as_bytes() || name == b"lost+found";
    if new && !files::names(folder)?.iter().all(ours) {
        return Err(Error::new(
            ErrorKind::Conflict,
            libc::ENOTEMPTY,
            format!("open tier {shown}: the folder is not empty and not a tier"),
        ));
    }
    if stat.st_mode & 0o077 == 0 {
        return Ok(());
    }
    if !new {
        return Err(denied("its mode must be 0700"));
    }
    rustix::fs::fchmod(folder, Mode::RWXU)
        .map_err(|errno| failed(errno, format_args!("close tier {shown} to others")))
}

fn checksum_line(text: &str) -> String {
    format!("checksum={:08x}\n", crc32c::crc32c(text.as_bytes()))
}

/// The marker is renamed into place whole: a tier has it or is none.
fn write_marker(folder: &OwnedFd, medium: Medium, uuid: &str, boot_id: &str) -> Result<()> {
    let mut text =
        format!("format={MARKER_FORMAT}\nuuid={uuid}\nmedium={medium}\nboot={boot_id}\n");
    text.push_str(&checksum_line(&text));
    files::remove(folder, NEW_MARKER, AtFlags::empty())?;
    let file = files::open(folder, NEW_MARKER, true)?;
    file.write_all_at(text.as_bytes(), 0)
        .map_err(|error| Error::from_io(&error, "write the tier's marker"))?;
    files::sync_data(&file)?;
    rustix::fs::renameat(folder, NEW_MARKER, folder, MARKER)
        .map_err(|errno| failed(errno, "write the tier's marker"))?;
    files::sync(folder)
}

fn read_marker(folder: &OwnedFd, shown: &str) -> Result<Option<Marker>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match rustix::fs::openat(folder, MARKER, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => {
            return Err(failed(
                errno,
                format_args!("read the marker of tier {shown}"),
            ));
        }
    };
    let mut text = String::new();
    let damaged = || {
        let message = format!("open tier {shown}: its marker is damaged");
        Error::new(ErrorKind::Corrupt, libc::EIO, message)
    };
    file.take(MARKER_LIMIT)
        .read_to_string(&mut text)
        .map_err(|_| damaged())?;
    let body = text.find("checksum=").ok_or_else(damaged)?;
    let (body, checksum) = text.split_at(body);
    if checksum != checksum_line(body) {
        return Err(damaged());
    }
    let value = |key: &str| {
        body.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(str::to_owned)
            .ok_or_else(damaged)
    };
    let format = value("format")?;
    if format != MARKER_FORMAT {
        return Err(Error::new(
            ErrorKind::Unsupported,
            libc::EIO,
            format!(
                "open tier {shown}: marker in format {format}, this version reads {MARKER_FORMAT}"
            ),
        ));
    }
    Ok(Some(Marker {
        uuid: value("uuid")?,
        medium: value("medium")?,
    }))
}

/// Bytes that one written page takes in a sparse file as long as a segment. Where that cannot be
/// tried (full, read-only, no unnamed files) a page is assumed: the tier is still worth opening
/// for what it holds.
fn probe_granule(folder: &OwnedFd) -> u64 {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::openat(folder, ".", flags, Mode::RUSR | Mode::WUSR)
        .map(File::from)
        .ok()
        .and_then(|file| {
            files::set_length(&file, 64 << 20).ok()?;
            file.write_all_at(&[1; PAGE_BYTES as usize], 0).ok()?;
            files::allocated_bytes(&file).ok()
        })
        .map_or(PAGE_BYTES, |bytes| bytes.max(PAGE_BYTES))
}
