//! A folder that the kernel's file systems give us: a local disk, NFS, Lustre, FUSE.

mod extended;
mod file;
mod folders;
mod path;
mod reach;
mod root;

use std::ffi::CString;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use atlas_core::{
    Attributes, Error, ErrorKind, Identity, Kind, Result, Timestamp, VersionTag, printable,
};
use rustix::fs::{
    AtFlags, FileType, OFlags, RawDir, Statx, StatxFlags, StatxTimestamp, readlinkat, statx,
};
use rustix::io::Errno;

use self::extended::ExtendedAttributes;
use self::folders::Folders;
use self::path::{check_name, check_path, split};
use self::reach::Reach;
use self::root::{Root, last_errno};
use crate::origin::{Counters, Entry, Listed, Origin, ReadRequest, stale};
use crate::own_mounts::{OwnMounts, device_of};

/// Bytes of names that the kernel is asked for at once.
const LISTING_BYTES: usize = 64 << 10;

/// How a folder is opened for looking up names in it: that asks for no right to list it.
const TO_LOOK_UP: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

/// An entry that changes while it is looked at is looked at so often.
const LOOKS: usize = 4;

/// An origin that is a folder of this machine.
///
/// Its folder is held open: a path above it may change without harm, while [`Origin`]'s calls
/// fail for as long as its registered path leads to no folder or to another one.
///
/// On the way to an entry, folders looked up within the last second are not looked up again,
/// except to list one: attributes may be those of an entry that was moved away a second ago.
///
/// Atlas leaves no trace on it. Where the process may make mounts, all access goes through a
/// private read-only, noatime copy of the mount; elsewhere files and folders are opened with
/// O_NOATIME where the identity owns them, and the access times of other entries follow the
/// origin's own mount options. The copy keeps the origin's file system busy until it is dropped.
#[derive(Debug)]
pub struct PosixOrigin {
    root: Root,
    folders: Folders,
    own_mounts: OwnMounts,
    extended: ExtendedAttributes,
    requests: AtomicU64,
    read_bytes: AtomicU64,
}

impl PosixOrigin {
    /// Opens `root`, links followed, if `identity` may list and search it. Its calls belong on
    /// threads with that identity; this one may be made on any, and makes the private mount
    /// with the rights of the calling thread.
    ///
    /// # Errors
    /// `NotFound`, `Denied` as the identity meets them on the way, `Invalid` when the folder
    /// lies in an Atlas mount, `Denied` when this process may not act for the identity.
    pub fn open(root: &Path, identity: &Identity) -> Result<Self> {
        let root = Root::open(root, identity)?;
        let own_mounts = OwnMounts::new(root.device())?;
        Ok(Self {
            root,
            folders: Folders::default(),
            own_mounts,
            extended: ExtendedAttributes::default(),
            requests: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
        })
    }

    /// Before every request: the root still stands where it was registered.
    fn admit(&self, requests: usize) -> Result<()> {
        self.requests.fetch_add(requests as u64, Ordering::Relaxed);
        self.root.check().inspect_err(|_| self.folders.clear())
    }

    /// Runs `action` for each of `items` with the open folder at `path`. The error is that of
    /// opening it. What may be wrong only because a remembered folder has been moved since is
    /// tried again with the folder that is at `path` now.
    fn in_folder<I, T>(
        &self,
        path: &[u8],
        items: impl Iterator<Item = I>,
        mut action: impl FnMut(BorrowedFd<'_>, &mut I) -> Result<T>,
    ) -> Result<Vec<Result<T>>> {
        let mut folder = self.folder(path)?;
        let answer = |mut item: I| match action(folder.as_fd(), &mut item) {
            Err(error) if !folder.fresh && may_come_from_a_moved_folder(&error) => {
                folder = self.fresh_folder(path)?;
                action(folder.as_fd(), &mut item)
            }
            answer => answer,
        };
        Ok(items.map(answer).collect())
    }

    /// [`Self::in_folder`] for one entry; `action` is given its folder and its name.
    fn in_folder_of<T>(
        &self,
        path: &[u8],
        mut action: impl FnMut(BorrowedFd<'_>, &[u8]) -> Result<T>,
    ) -> Result<T> {
        let (path, name) = split(path);
        let folder = self.folder(path)?;
        match action(folder.as_fd(), name) {
            Err(error) if !folder.fresh && may_come_from_a_moved_folder(&error) => {
                action(self.fresh_folder(path)?.as_fd(), name)
            }
            answer => answer,
        }
    }

    /// The folder at `path`, for looking up names in it: remembered, or looked up in a
    /// remembered parent, or by its whole path.
    fn folder(&self, path: &[u8]) -> Result<Folder<'_>> {
        if let Some((_, folder)) = self.folders.get(path) {
            return Ok(Folder::remembered(folder, false));
        }
        let (parent, name) = split(path);
        if let Some((seen, parent)) = self.folders.get(parent)
            && let Ok(folder) = root::open_beneath(parent.as_fd(), name, TO_LOOK_UP)
        {
            return Ok(Folder::remembered(
                self.folders.remember(path, folder, seen),
                false,
            ));
        }
        self.fresh_folder(path)
    }

    fn fresh_folder(&self, path: &[u8]) -> Result<Folder<'_>> {
        if path.is_empty() {
            return Ok(Folder {
                held: Held::Root(self.root.as_fd()),
                fresh: true,
            });
        }
        let seen = Instant::now();
        let opened = self.root.open_beneath(path, TO_LOOK_UP);
        let folder = opened.map_err(|errno| failed(errno, path))?;
        Ok(Folder::remembered(
            self.folders.remember(path, folder, seen),
            true,
        ))
    }

    fn stat_in(&self, folder: BorrowedFd<'_>, name: &[u8]) -> Result<Entry> {
        self.try_stat_in(folder, name)
            .map_err(|errno| failed(errno, name))?
            .ok_or_else(|| stale(name, "it changes all the time"))
    }

    /// `None` for an entry that never holds still.
    fn try_stat_in(
        &self,
        folder: BorrowedFd<'_>,
        name: &[u8],
    ) -> rustix::io::Result<Option<Entry>> {
        if reach::by_name() {
            let name = &CString::new(name).map_err(|_| Errno::INVAL)?;
            let (found, changed) = self.look(&Reach::Named { folder, name })?;
            if !changed && found.attributes.kind != Kind::Link {
                return Ok(Some(found));
            }
        } else if self.extended.may_be_needless() {
            let attributes = attributes_of(&status(folder, name, AtFlags::empty())?)?;
            if attributes.kind != Kind::Link && self.extended.is_needless(attributes.device) {
                return Ok(Some(plain(attributes)));
            }
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW;
        let entry = root::open_beneath(folder, name, flags)?;
        let reach = Reach::held(entry.as_fd());
        let mut before: Option<Entry> = None;
        for _ in 0..LOOKS {
            let (mut found, changed) = self.look(&reach)?;
            if found.attributes.kind == Kind::Link {
                // Only a hint: an origin may say any size.
                let room = found.attributes.size.min(libc::PATH_MAX as u64) as usize + 1;
                let target = readlinkat(&entry, c"", Vec::with_capacity(room))?;
                found.target = Some(target.into_bytes());
                return Ok(Some(found));
            }
            // A file may be written all the time; it is its rights that must hold together.
            let settled = before.as_ref().is_some_and(|before| {
                rights(before) == rights(&found) && before.extended == found.extended
            });
            if !changed || settled {
                return Ok(Some(found));
            }
            before = Some(found);
        }
        Ok(None)
    }

    /// What an entry is, but for the target of a link, and whether it changed meanwhile: the mode
    /// before a change and the ACL after it may let in whom neither lets in.
    fn look(&self, reach: &Reach<'_>) -> rustix::io::Result<(Entry, bool)> {
        let mut looked = plain(attributes_of(&reach.status(AtFlags::empty())?)?);
        let Attributes { kind, device, .. } = looked.attributes;
        // What lies in an Atlas mount is refused when it is read; asking for more of it would be
        // asking ourselves.
        let alone = kind == Kind::Link || self.own_mounts.admit(device, b"").is_err();
        if alone || self.extended.is_needless(device) {
            return Ok((looked, false));
        }
        self.extended.read(reach, &mut looked)?;
        if self.extended.is_needless(device) {
            return Ok((looked, false));
        }
        let again = attributes_of(&reach.status(AtFlags::empty())?)?;
        let version = |attributes: &Attributes| {
            let Attributes {
                device,
                inode,
                changed,
                ..
            } = *attributes;
            (device, inode, changed)
        };
        let changed = version(&again) != version(&looked.attributes);
        Ok((looked, changed))
    }

    fn read_in(
        &self,
        folder: BorrowedFd<'_>,
        name: &[u8],
        tag: &VersionTag,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<()> {
        let read = file::read(
            &self.root,
            &self.own_mounts,
            folder,
            name,
            tag,
            offset,
            buffer,
        );
        if read.is_ok() {
            self.read_bytes
                .fetch_add(buffer.len() as u64, Ordering::Relaxed);
        }
        read
    }
}

impl Origin for PosixOrigin {
    fn list(&self, folder: &[u8]) -> Result<Vec<Listed>> {
        check_path(folder)?;
        self.admit(1)?;
        // By its whole path: a folder that has moved since it was remembered would be listed
        // without an error. What is remembered now serves the questions that follow a listing.
        let opened = self.fresh_folder(folder)?;
        // Nothing is asked of a folder before it is known to lie in no Atlas mount.
        let device = device_of(&opened).map_err(|errno| failed(errno, folder))?;
        self.own_mounts.admit(device, folder)?;
        let listing = self
            .root
            .open_to_list(opened.as_fd())
            .map_err(|errno| failed(errno, folder))?;
        names_of(listing.as_fd()).map_err(|errno| failed(errno, folder))
    }

    fn stat_many(&self, folder: &[u8], names: &[&[u8]]) -> Result<Vec<Result<Entry>>> {
        check_path(folder)?;
        self.admit(names.len())?;
        let answers = self.in_folder(folder, names.iter(), |folder, name| {
            check_name(name)?;
            self.stat_in(folder, name)
        })?;
        if answers.iter().any(is_absent) {
            self.root.check_now()?;
        }
        Ok(answers)
    }

    fn stat(&self, path: &[u8]) -> Result<Entry> {
        check_path(path)?;
        self.admit(1)?;
        let answer = self.in_folder_of(path, |folder, name| self.stat_in(folder, name));
        if is_absent(&answer) {
            self.root.check_now()?;
        }
        answer
    }

    fn read(&self, path: &[u8], tag: &VersionTag, offset: u64, buffer: &mut [u8]) -> Result<()> {
        check_path(path)?;
        self.admit(1)?;
        self.in_folder_of(path, |folder, name| {
            check_name(name)?;
            self.read_in(folder, name, tag, offset, buffer)
        })
    }

    fn read_many(
        &self,
        folder: &[u8],
        requests: &mut [ReadRequest<'_>],
    ) -> Result<Vec<Result<()>>> {
        check_path(folder)?;
        self.admit(requests.len())?;
        self.in_folder(folder, requests.iter_mut(), |folder, request| {
            check_name(request.name)?;
            self.read_in(folder, request.name, request.tag, 0, request.buffer)
        })
    }

    fn counters(&self) -> Counters {
        Counters {
            requests: self.requests.load(Ordering::Relaxed),
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
        }
    }
}

/// A folder that is open for looking up names in it.
struct Folder<'a> {
    held: Held<'a>,
    /// It has just been found by its whole path.
    fresh: bool,
}

enum Held<'a> {
    Root(BorrowedFd<'a>),
    Remembered(Arc<OwnedFd>),
}

impl Folder<'_> {
    const fn remembered(folder: Arc<OwnedFd>, fresh: bool) -> Self {
        Self {
            held: Held::Remembered(folder),
            fresh,
        }
    }
}

impl AsFd for Folder<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.held {
            Held::Root(root) => *root,
            Held::Remembered(folder) => folder.as_fd(),
        }
    }
}

fn failed(errno: Errno, path: &[u8]) -> Error {
    Error::from_errno(
        errno.raw_os_error(),
        format_args!("origin entry {}", Shown(path)),
    )
}

/// A path in a message; the empty one is the root.
struct Shown<'a>(&'a [u8]);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(if self.0.is_empty() { "." } else { "" })?;
        formatter.write_str(&printable(self.0))
    }
}

fn may_come_from_a_moved_folder(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::NotFound | ErrorKind::Stale)
}

/// Whether an entry seems not to exist, which is also what a root that was just removed shows.
fn is_absent(answer: &Result<Entry>) -> bool {
    matches!(answer, Err(error) if error.kind == ErrorKind::NotFound)
}

/// Attributes of `name` in `folder` (`b""`: of the folder itself) as the origin has them now.
fn status(folder: BorrowedFd<'_>, name: &[u8], sync: AtFlags) -> rustix::io::Result<Statx> {
    let own = if name.is_empty() {
        AtFlags::EMPTY_PATH
    } else {
        AtFlags::empty()
    };
    let flags = own | sync | AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    statx(folder, name, flags, StatxFlags::BASIC_STATS)
}

/// Who may do what, as far as the mode says it.
const fn rights(entry: &Entry) -> (u32, u32, u32) {
    let attributes = &entry.attributes;
    (attributes.permissions, attributes.uid, attributes.gid)
}

const fn plain(attributes: Attributes) -> Entry {
    Entry {
        attributes,
        target: None,
        extended: Vec::new(),
        left_out: 0,
    }
}

fn attributes_of(found: &Statx) -> rustix::io::Result<Attributes> {
    let mode = u32::from(found.stx_mode);
    let kind = Kind::from_mode(mode).ok_or(Errno::OPNOTSUPP)?;
    let device_number = match kind {
        Kind::CharacterDevice | Kind::BlockDevice => {
            libc::makedev(found.stx_rdev_major, found.stx_rdev_minor)
        }
        _ => 0,
    };
    Ok(Attributes {
        kind,
        permissions: mode & 0o7777,
        uid: found.stx_uid,
        gid: found.stx_gid,
        links: found.stx_nlink,
        size: found.stx_size,
        device_number,
        modified: timestamp(&found.stx_mtime),
        changed: timestamp(&found.stx_ctime),
        inode: found.stx_ino,
        device: libc::makedev(found.stx_dev_major, found.stx_dev_minor),
    })
}

fn timestamp(time: &StatxTimestamp) -> Timestamp {
    Timestamp {
        seconds: time.tv_sec,
        nanoseconds: time.tv_nsec,
    }
}

fn names_of(folder: BorrowedFd<'_>) -> rustix::io::Result<Vec<Listed>> {
    let mut room = vec![MaybeUninit::uninit(); LISTING_BYTES];
    let mut listing = RawDir::new(folder, &mut room);
    let mut names = Vec::new();
    while let Some(entry) = listing.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(Listed {
                name: name.to_vec(),
                kind: kind_of(entry.file_type()),
            });
        }
    }
    Ok(names)
}

const fn kind_of(file_type: FileType) -> Option<Kind> {
    match file_type {
        FileType::RegularFile => Some(Kind::File),
        FileType::Directory => Some(Kind::Folder),
        FileType::Symlink => Some(Kind::Link),
        FileType::Fifo => Some(Kind::Fifo),
        FileType::Socket => Some(Kind::Socket),
        FileType::CharacterDevice => Some(Kind::CharacterDevice),
        FileType::BlockDevice => Some(Kind::BlockDevice),
        FileType::Unknown => None,
    }
}
