//! File systems of their own, to be filled up and broken.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atlas_core::Extent;
use atlas_store::{Tier, Volume, VolumeSettings};
use tempfile::TempDir;

use crate::common::{padded, reads_right};

/// A mounted file system, unmounted at the end.
pub(crate) struct Mounted {
    folder: TempDir,
}

impl Mounted {
    pub(crate) fn new(arguments: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let output = Command::new("mount")
            .args(arguments)
            .arg(folder.path())
            .output()
            .unwrap();
        if !output.status.success() {
            println!("not tried: {}", String::from_utf8_lossy(&output.stderr));
            return None;
        }
        Some(Self { folder })
    }

    pub(crate) fn tmpfs(options: &str) -> Option<Self> {
        Self::new(&["-t", "tmpfs", "-o", options, "atlas-test"])
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .args(["--lazy", "--quiet"])
            .arg(self.path())
            .status();
    }
}

pub(crate) fn create(tier: &Arc<Tier>, live: &Path) -> Arc<Volume> {
    Volume::create(
        tier,
        "wav",
        live,
        VolumeSettings {
            quota_bytes: 1 << 40,
            held: false,
        },
    )
    .unwrap()
}

/// Waits for what is tried again by itself.
pub(crate) fn eventually(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "it never came");
        std::thread::yield_now();
    }
}

/// Tries until a degraded tier takes it.
pub(crate) fn fill_when_tried_again(volume: &Volume, extent: &Extent) {
    eventually(|| match volume.reserve(extent.footprint()) {
        Some(space) => volume
            .fill(extent.address, &padded(extent), &[*extent], space)
            .is_ok(),
        None => false,
    });
    assert!(volume.degraded().is_none() && reads_right(volume, extent));
}

/// After the shutdown of an ext4 every read and write fails with EIO.
pub(crate) fn fail_from_now_on(mount: &Mounted) {
    const EXT4_IOC_SHUTDOWN: u64 = 0x8004_587d;
    let without_flushing: u32 = 2;
    let folder = std::fs::File::open(mount.path()).unwrap();
    // SAFETY: the request reads the 4 bytes that its argument points to.
    let answer = unsafe {
        libc::ioctl(
            folder.as_raw_fd(),
            EXT4_IOC_SHUTDOWN,
            &raw const without_flushing,
        )
    };
    assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
}
