//! A tier and a live folder to test with.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use atlas_core::{Address, EXTENT_BYTES, Extent, Result, extents_of};
use atlas_store::{ExtentState, Medium, Tier, Volume, VolumeSettings};
use tempfile::TempDir;

pub(crate) const BOTH: [Medium; 2] = [Medium::Memory, Medium::Ssd];

pub(crate) struct Bed {
    pub(crate) tier_folder: PathBuf,
    pub(crate) live: TempDir,
    pub(crate) medium: Medium,
    _home: TempDir,
}

impl Bed {
    pub(crate) fn new(medium: Medium) -> Self {
        let home = match medium {
            Medium::Memory => tempfile::tempdir_in("/dev/shm").unwrap(),
            _ => tempfile::tempdir().unwrap(),
        };
        let tier_folder = home.path().join("tier");
        Self {
            tier_folder,
            live: in_memory(),
            medium,
            _home: home,
        }
    }

    pub(crate) fn tier(&self) -> Arc<Tier> {
        Arc::new(Tier::open(&self.tier_folder, self.medium, true, None).unwrap())
    }

    pub(crate) fn tier_in_boot(&self, boot: &str) -> Arc<Tier> {
        let tier = Tier::open_in_boot(&self.tier_folder, self.medium, true, None, boot);
        Arc::new(tier.unwrap())
    }

    pub(crate) fn create(&self, quota_bytes: u64) -> Arc<Volume> {
        let settings = VolumeSettings {
            quota_bytes,
            held: false,
        };
        Volume::create(&self.tier(), "wav", self.live.path(), settings).unwrap()
    }

    pub(crate) fn open(&self) -> Result<Arc<Volume>> {
        self.open_on(&self.tier())
    }

    pub(crate) fn open_on(&self, tier: &Arc<Tier>) -> Result<Arc<Volume>> {
        Volume::open(
            tier,
            "wav",
            self.live.path(),
            VolumeSettings {
                quota_bytes: 1 << 30,
                held: false,
            },
        )
    }

    pub(crate) fn volume_folder(&self) -> PathBuf {
        self.tier_folder.join("wav")
    }

    pub(crate) fn segment_file(&self, address: Address, volume: &Volume) -> (PathBuf, u64) {
        let segment = volume
            .segments()
            .into_iter()
            .find(|s| s.start.0 <= address.0 && address.0 < s.start.0 + s.length)
            .unwrap();
        let name = format!("segment-{:016x}", segment.start.0);
        (self.volume_folder().join(name), address.0 - segment.start.0)
    }
}

pub(crate) fn in_memory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

/// What a file at `address` holds: every page begins with its number, and no byte is zero.
pub(crate) fn content(address: Address, length: usize) -> Vec<u8> {
    let pages = (address.page()..).take(length.div_ceil(4096));
    let mut bytes: Vec<u8> = pages
        .flat_map(|page| {
            let mut bytes = [b'0' + (page % 64) as u8; 4096];
            bytes[..16].copy_from_slice(format!("{page:016x}").as_bytes());
            bytes
        })
        .collect();
    bytes.truncate(length);
    bytes
}

pub(crate) fn padded(extent: &Extent) -> Vec<u8> {
    let mut bytes = content(extent.address, extent.length as usize);
    bytes.resize(extent.footprint() as usize, 0);
    bytes
}

pub(crate) fn one_extent(address: Address, length: u32) -> Extent {
    assert!(u64::from(length) <= EXTENT_BYTES);
    Extent {
        address,
        file_offset: 0,
        length,
    }
}

pub(crate) fn fill(volume: &Volume, extent: &Extent) -> Result<()> {
    let reservation = volume.reserve(extent.footprint()).unwrap();
    volume.fill(extent.address, &padded(extent), &[*extent], reservation)
}

/// Allocates and fills a file of any size.
pub(crate) fn add_file(volume: &Volume, size: u64) -> (Address, Vec<Extent>) {
    let address = volume.allocate(size, false).unwrap();
    let extents: Vec<_> = extents_of(address, size, 0, size).collect();
    for extent in &extents {
        fill(volume, extent).unwrap();
    }
    (address, extents)
}

/// Reads the extent and compares every byte.
pub(crate) fn reads_right(volume: &Volume, extent: &Extent) -> bool {
    reads(
        volume,
        extent,
        &content(extent.address, extent.length as usize),
    )
}

pub(crate) fn reads(volume: &Volume, extent: &Extent, right: &[u8]) -> bool {
    let mut buffer = vec![0; extent.length as usize];
    let read = volume.read(extent.address, &mut buffer).is_ok();
    assert!(!read || buffer == right, "wrong bytes");
    read
}

pub(crate) fn count(volume: &Volume, extents: &[Extent], state: ExtentState) -> usize {
    extents
        .iter()
        .filter(|extent| volume.state(extent) == state)
        .count()
}

/// Bytes that all files below `folder` take, as `du` counts them.
pub(crate) fn disk_usage(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => disk_usage(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// A generator that is the same everywhere; the seed is in the output of a failed test.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        println!("seed {seed}");
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}
