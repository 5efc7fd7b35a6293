//! Making, finding again and removing volumes.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use atlas_core::{Address, Error, ErrorKind, Result, printable};
use parking_lot::Mutex;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::{Changes, Committer, Maker, Shared, UNBACKED, Volume, VolumeSettings, word};
use crate::bitmap::{DurableBits, LiveBits};
use crate::checksums::Checksums;
use crate::files::{self, SparseTable, failed};
use crate::health::Health;
use crate::quota::Quota;
use crate::segments::{
    FIRST_ADDRESS, LARGEST_ADDRESS, Segment, SegmentList, VolumeTable, page_aligned,
};
use crate::table::{GrowableMap, Magic};
use crate::tier::{Medium, Tier, is_tmpfs, kernel_text};

const LIVE_MAGIC: Magic = *b"atlalive";
const DURABLE_MAGIC: Magic = *b"atlasdur";
const VERSION: u32 = 1;

const DURABLE: &str = "durable";
const NEW_TABLE: &str = "volume.new";

/// Address space reserved for the live bitmap: a bit for each page there can be.
const LIVE_RESERVE: u64 = LARGEST_ADDRESS / 4096 / 8;

/// A name is part of paths of ours; with `.live` behind it, it must stay below 255 bytes.
const LONGEST_ID: usize = 200;

impl Volume {
    /// Makes the volume `id` on `tier`, empty. `live_folder` lies on a tmpfs and is ours alone; the
    /// live bitmap is `id.live` in it.
    ///
    /// # Errors
    /// `Conflict` when the volume exists, `Invalid` for an id that is no plain name
    /// (`[A-Za-z0-9._-]`, not beginning with a dot), `Unsupported` when `live_folder` is not
    /// on a tmpfs, `NoSpace` when the tier has no room for the tables.
    pub fn create(
        tier: &Arc<Tier>,
        id: &str,
        live_folder: &Path,
        settings: VolumeSettings,
    ) -> Result<Arc<Self>> {
        check_id(id)?;
        let live_parent = open_live_folder(live_folder)?;
        match rustix::fs::mkdirat(tier.folder(), id, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(errno, format_args!("create volume {id}"))),
        }
        let folder = files::open_folder(tier.folder(), id)?;
        let present = files::names(&folder)?;
        if present
            .iter()
            .any(|name| name == VolumeTable::NAME.as_bytes())
        {
            return Err(Error::new(
                ErrorKind::Conflict,
                libc::EEXIST,
                format!("create volume {id}: it exists"),
            ));
        }
        // Whatever else lies there is of a creation or a removal that was cut short.
        let created = sweep(&folder, &present).and_then(|()| {
            Self::fill_folder(tier, id, live_folder, &live_parent, folder, settings)
        });
        if created.is_err() {
            // Nothing is left behind; what made the creation fail is the news.
            let _ = remove_files(tier, id, live_folder);
        }
        created
    }

    fn fill_folder(
        tier: &Arc<Tier>,
        id: &str,
        live_folder: &Path,
        live_parent: &OwnedFd,
        folder: OwnedFd,
        settings: VolumeSettings,
    ) -> Result<Arc<Self>> {
        let on_disk = tier.medium() != Medium::Memory;
        let identity = number_of(&kernel_text("uuid")?);
        let checksums = Checksums::create(&folder)?;
        let durable = on_disk
            .then(|| SparseTable::create(&folder, DURABLE, DURABLE_MAGIC, VERSION))
            .transpose()?;
        let live = create_live(live_parent, id, identity, tier)?;
        if let Some(durable) = &durable {
            durable.sync()?;
            checksums.table().sync()?;
        }
        let table = VolumeTable::create(&folder, NEW_TABLE, identity, on_disk)?;
        // The volume exists from here on.
        rustix::fs::renameat(&folder, NEW_TABLE, &folder, VolumeTable::NAME)
            .map_err(|errno| failed(errno, format_args!("create volume {id}")))?;
        if on_disk {
            files::sync(&folder)?;
            files::sync(tier.folder())?;
        }
        let parts = Parts {
            folder,
            table,
            live,
            durable,
            checksums,
        };
        Self::start(tier, id, live_folder, settings, parts)
    }

    /// Opens a volume with all that it holds. After a reboot extents on a disk are unverified, and
    /// a volume in memory is gone with its tmpfs.
    ///
    /// # Errors
    /// `NotFound` when there is none (make it anew, with a new generation: its addresses are gone
    /// too), `Conflict` while another process uses it, `Corrupt` for damaged tables, `Unsupported`
    /// for tables of another format version.
    pub fn open(
        tier: &Arc<Tier>,
        id: &str,
        live_folder: &Path,
        settings: VolumeSettings,
    ) -> Result<Arc<Self>> {
        check_id(id)?;
        let live_parent = open_live_folder(live_folder)?;
        let on_disk = tier.medium() != Medium::Memory;
        let folder = files::open_folder(tier.folder(), id)?;
        let table = VolumeTable::open(&folder, on_disk)?;
        let identity = table.identity()?;
        let records = table.records()?;
        let checksums = Checksums::open(&folder)?;
        let durable = on_disk
            .then(|| SparseTable::open(&folder, DURABLE, DURABLE_MAGIC, VERSION))
            .transpose()?;
        let (live, rebooted) = match open_live(&live_parent, id, identity, tier)? {
            Some(live) => (live, false),
            None => (create_live(&live_parent, id, identity, tier)?, true),
        };
        let parts = Parts {
            folder,
            table,
            live,
            durable,
            checksums,
        };
        let volume = Self::start(tier, id, live_folder, settings, parts)?;
        for record in records {
            volume.shared.segments.push(record);
        }
        volume.shared.live.cover(volume.shared.segments.end())?;
        for segment in volume.shared.segments.iter() {
            volume.shared.recover(segment, rebooted, settings.held)?;
        }
        volume.shared.changes.note();
        Ok(volume)
    }

    /// Removes what there is of the volume `id`, also one that is damaged or was never finished;
    /// none at all is no error.
    ///
    /// # Errors
    /// `Conflict` while somebody has it open.
    pub fn remove(tier: &Tier, id: &str, live_folder: &Path) -> Result<()> {
        check_id(id)?;
        match files::open_folder(tier.folder(), id) {
            Ok(folder) => match VolumeTable::open(&folder, false) {
                // Only the lock matters here.
                Err(error) if error.kind == ErrorKind::Conflict => return Err(error),
                _ => {}
            },
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        remove_files(tier, id, live_folder)
    }

    fn start(
        tier: &Arc<Tier>,
        id: &str,
        live_folder: &Path,
        settings: VolumeSettings,
        parts: Parts,
    ) -> Result<Arc<Self>> {
        let on_disk = parts.durable.is_some();
        let shared = Arc::new(Shared {
            maker: Maker::start(&parts.folder, id)?,
            folder: parts.folder,
            table: parts.table,
            segments: SegmentList::new(),
            live: parts.live,
            durable: parts.durable.map(DurableBits::new),
            checksums: parts.checksums,
            quota: Quota::new(settings.quota_bytes, tier.granule(), on_disk),
            health: Health::default(),
            damaged: AtomicU64::new(0),
            folder_dirty: AtomicBool::new(false),
            destroyed: AtomicBool::new(false),
            changes: Arc::new(Changes::default()),
            allocating: Mutex::new(()),
            committing: Mutex::new(()),
            leasing: Mutex::new(()),
            next_checked: AtomicUsize::new(0),
        });
        shared.quota.measured(0, 0, || shared.table_bytes())?;
        let committer = Committer::start(&shared, id)?;
        Ok(Arc::new(Self {
            shared,
            committer,
            tier: Arc::clone(tier),
            id: id.to_owned(),
            live_folder: live_folder.to_owned(),
        }))
    }
}

struct Parts {
    folder: OwnedFd,
    table: VolumeTable,
    live: LiveBits,
    durable: Option<SparseTable>,
    checksums: Checksums,
}

impl Shared {
    /// Takes a segment over from an earlier process or an earlier boot.
    fn recover(&self, segment: &Segment, rebooted: bool, held: bool) -> Result<()> {
        let mut writer = segment.writer.lock();
        let whole = match files::open(&self.folder, &segment.name(), false) {
            Ok(file) => {
                let file = segment.keep(file);
                // Memory after a reboot is empty: what lies there is not what this boot wrote.
                let lost = rebooted && self.durable.is_none();
                let whole = !lost && files::length(file)? == segment.length;
                if !whole && held {
                    files::set_length(file, segment.length)?;
                } else if !whole {
                    reset(file, segment.length)?;
                }
                whole
            }
            Err(error) if error.kind == ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        let first = segment.first_word();
        if !whole {
            self.forget_all(segment)?;
        } else if let Some(durable) = &self.durable {
            let words = durable.load(first, segment.words())?;
            let mut unverified = Vec::new();
            let mut uncommitted = false;
            for (index, durable_word) in (first..).zip(&words) {
                let live = self.live.load(index);
                uncommitted |= live & !durable_word != 0;
                if durable_word & !live != 0 && unverified.is_empty() {
                    unverified.resize(words.len(), 0);
                }
                if let Some(word) = unverified.get_mut((index - first) as usize) {
                    *word = durable_word & !live;
                }
            }
            if !unverified.is_empty() {
                let bits = unverified.into_iter().map(AtomicU64::new).collect();
                segment.unverified.get_or_init(|| bits);
            }
            if uncommitted {
                writer.soil(first, first + words.len() as u64);
            }
        }
        self.measure(segment, &mut writer)
    }

    /// Nothing in this segment is there (any more).
    fn forget_all(&self, segment: &Segment) -> Result<()> {
        let first = segment.first_word();
        if let Some(durable) = &self.durable {
            let words = durable.load(first, segment.words())?;
            for (index, word) in (first..).zip(words).filter(|(_, word)| *word != 0) {
                durable.clear(index, word)?;
            }
        }
        for index in first..first + segment.words() as u64 {
            if self.live.load(index) != 0 {
                self.live.clear(index, u64::MAX);
            }
        }
        self.checksums.withdraw(segment.start, segment.length)
    }

    /// The segment's file, made now if it is the first time. The caller holds the writer's lock.
    pub(super) fn file_of<'a>(&self, segment: &'a Segment) -> Result<&'a File> {
        if let Some(file) = segment.file() {
            return Ok(file);
        }
        // No bit is set in a segment without a file, so what lies there under its name is nothing.
        let file = self.maker.make(segment.name(), segment.length)?;
        self.folder_dirty.store(true, Ordering::Release);
        Ok(segment.keep(file))
    }
}

/// An empty segment: the length goes to 0 first, so that no old byte stays.
fn reset(file: &File, length: u64) -> Result<()> {
    files::set_length(file, 0)?;
    files::set_length(file, length)
}

fn check_id(id: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let good = !id.is_empty()
        && id.len() <= LONGEST_ID
        && !id.starts_with('.')
        && id != crate::tier::MARKER
        && id != crate::tier::NEW_MARKER
        && id.bytes().all(plain);
    if good {
        return Ok(());
    }
    let id = printable(id.as_bytes());
    Err(Error::new(
        ErrorKind::Invalid,
        libc::EINVAL,
        format!("volume {id}: not a plain name"),
    ))
}

fn open_live_folder(path: &Path) -> Result<OwnedFd> {
    let shown = printable(path.as_os_str().as_encoded_bytes());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::openat(CWD, path, flags, Mode::empty())
        .map_err(|errno| failed(errno, format_args!("open {shown}")))?;
    if is_tmpfs(&folder)? {
        return Ok(folder);
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        libc::EOPNOTSUPP,
        format!("open {shown}: the live bitmaps must lie on a tmpfs"),
    ))
}

fn live_name(id: &str) -> String {
    format!("{id}.live")
}

/// FNV-1a over the text: the same number for the same boot or volume, whoever computes it.
fn number_of(text: &str) -> u128 {
    text.bytes().fold(
        0x6c62_272e_07bb_0142_62b8_2175_6295_c58d,
        |hash: u128, byte| {
            (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
        },
    )
}

fn halves(number: u128) -> [u64; 2] {
    [number as u64, (number >> 64) as u64]
}

fn create_live(folder: &OwnedFd, id: &str, identity: u128, tier: &Tier) -> Result<LiveBits> {
    let name = live_name(id);
    files::remove(folder, &name, AtFlags::empty())?;
    let map = GrowableMap::create_at(
        folder.as_fd(),
        Path::new(&name),
        LIVE_MAGIC,
        VERSION,
        LIVE_RESERVE,
    )?;
    let live = LiveBits::new(map);
    live.cover(FIRST_ADDRESS)?;
    for (index, half) in halves(identity).into_iter().enumerate() {
        live.header_word(word::IDENTITY + index)?
            .store(half, Ordering::Relaxed);
    }
    for (index, half) in halves(number_of(tier.boot_id())).into_iter().enumerate() {
        live.header_word(word::BOOT + index)?
            .store(half, Ordering::Relaxed);
    }
    let [random, _] = halves(number_of(&kernel_text("uuid")?));
    let unbacked = Address(UNBACKED | (random & (UNBACKED - 1) & !0xfff));
    debug_assert!(page_aligned(unbacked, 0));
    live.header_word(word::UNBACKED)?
        .store(unbacked.0, Ordering::Relaxed);
    live.header_word(word::READY)?.store(1, Ordering::Release);
    Ok(live)
}

/// The live bitmap of this volume and this boot; `None` when there is no such.
fn open_live(folder: &OwnedFd, id: &str, identity: u128, tier: &Tier) -> Result<Option<LiveBits>> {
    let name = live_name(id);
    let path = Path::new(&name);
    let map = match GrowableMap::open_at(folder.as_fd(), path, LIVE_MAGIC, VERSION, LIVE_RESERVE) {
        Ok(map) => map,
        // Absent after a reboot; damaged when its creation was cut short.
        Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Corrupt) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let live = LiveBits::new(map);
    let number = |index: usize| -> Result<[u64; 2]> {
        let word = |index| Ok(live.header_word(index)?.load(Ordering::Acquire));
        Ok([word(index)?, word(index + 1)?])
    };
    let ours = live.header_word(word::READY)?.load(Ordering::Acquire) == 1
        && number(word::IDENTITY)? == halves(identity)
        && number(word::BOOT)? == halves(number_of(tier.boot_id()));
    Ok(ours.then_some(live))
}

/// Unlinks all entries of a volume's folder.
fn sweep(folder: &OwnedFd, names: &[Vec<u8>]) -> Result<()> {
    for name in names {
        match rustix::fs::unlinkat(folder, name.as_slice(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed(errno, format_args!("remove {}", printable(name)))),
        }
    }
    Ok(())
}

/// The table goes first: from then on there is no volume, only leftovers, which `create` sweeps.
pub(super) fn remove_files(tier: &Tier, id: &str, live_folder: &Path) -> Result<()> {
    match files::open_folder(tier.folder(), id) {
        Ok(folder) => {
            files::remove(&folder, VolumeTable::NAME, AtFlags::empty())?;
            sweep(&folder, &files::names(&folder)?)?;
            files::remove(tier.folder(), id, AtFlags::REMOVEDIR)?;
        }
        Err(error) if error.kind == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    files::remove(
        open_live_folder(live_folder)?,
        &live_name(id),
        AtFlags::empty(),
    )
}
