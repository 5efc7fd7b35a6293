//! The image of a generation on the state folder's disk, with the index of its addresses.

use std::fs::{self, DirBuilder, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use atlas_core::{Error, ErrorKind, Result};
use atlas_fs::{AddressIndex, Slot, write_image};
use rustix::fs::{Mode, OFlags};

use crate::core::Core;

const INDEX: &str = "addresses";

/// Read-ahead for files that are read whole and are small: more would ask the origin for files
/// that nobody wants, since it cannot know where one ends in time (measured: 1.00 times the bytes).
const SMALL_READ_AHEAD_KIB: u32 = 128;
/// For large files, read in order: one extent.
const LARGE_READ_AHEAD_KIB: u32 = 1024;
/// Mean size from which on files count as large, in bytes.
const LARGE_MEAN: u64 = 1 << 20;

pub(crate) struct Image {
    /// Where the image lies, under `name`.
    pub(crate) folder: OwnedFd,
    pub(crate) name: String,
    pub(crate) index: AddressIndex,
    /// The device slots, in their order.
    pub(crate) slots: Vec<Slot>,
    pub(crate) bytes: u64,
    /// How long it took to make; unknown for one that was found.
    pub(crate) took: Option<Duration>,
    pub(crate) read_ahead_kib: u32,
}

impl Image {
    /// The image that was built before; `None` if there is none.
    pub(crate) fn open(core: &Core, folder: &Path, name: &str) -> Result<Option<Self>> {
        let file = match File::open(folder.join(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::from_io(&error, "open the image")),
        };
        let count = usize::from(atlas_fs::image_devices(&file)?);
        let slots = slots(core);
        // The volume only grows: what came after the image is not in it.
        let slots = slots.get(..count).ok_or_else(|| {
            Error::new(
                ErrorKind::Corrupt,
                libc::EIO,
                "open the image: it has more segments than the volume",
            )
        })?;
        Self::with(core, folder, name, &file, slots.to_vec()).map(Some)
    }

    /// Makes it. It is there under its name whole or not at all.
    pub(crate) fn build(core: &Core, folder: &Path, name: &str) -> Result<Self> {
        let began = Instant::now();
        let new = folder.with_extension("new");
        for stale in [&new, folder] {
            match fs::remove_dir_all(stale) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::from_io(&error, "remove an image"));
                }
                _ => {}
            }
        }
        let failed = |error: std::io::Error| Error::from_io(&error, "write the image");
        DirBuilder::new().mode(0o700).create(&new).map_err(failed)?;
        let slots = slots(core);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(new.join(name))
            .map_err(failed)?;
        let written = write_image(&core.namespace, &slots, &file)
            .and_then(|_| AddressIndex::write(&core.namespace, &new.join(INDEX)));
        if written.is_err() {
            // A full disk gets its space back; what failed is the news.
            let _ = fs::remove_dir_all(&new);
        }
        written?;
        fs::rename(&new, folder).map_err(failed)?;
        for parent in [Some(folder), folder.parent()].into_iter().flatten() {
            File::open(parent)
                .and_then(|parent| parent.sync_all())
                .map_err(failed)?;
        }
        let mut image = Self::with(core, folder, name, &file, slots)?;
        image.took = Some(began.elapsed());
        Ok(image)
    }

    fn with(core: &Core, folder: &Path, name: &str, file: &File, slots: Vec<Slot>) -> Result<Self> {
        let index = AddressIndex::open(&folder.join(INDEX), &core.namespace)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(folder, flags, Mode::empty())
            .map_err(|errno| Error::from_errno(errno.raw_os_error(), "open the image's folder"))?;
        let metadata = file
            .metadata()
            .map_err(|error| Error::from_io(&error, "look at the image"))?;
        let totals = core.namespace.totals();
        let large = totals.bytes / totals.files.max(1) >= LARGE_MEAN;
        Ok(Self {
            folder,
            name: name.to_owned(),
            index,
            slots,
            bytes: metadata.len(),
            took: None,
            read_ahead_kib: if large {
                LARGE_READ_AHEAD_KIB
            } else {
                SMALL_READ_AHEAD_KIB
            },
        })
    }
}

/// The segments of the volume as device slots.
fn slots(core: &Core) -> Vec<Slot> {
    (core.volume.segments().iter())
        .map(|segment| Slot {
            start: segment.start,
            length: segment.length,
        })
        .collect()
}
