//! A data set of a real folder, with faults in between where a test asks for them.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use atlas_core::{ErrorKind, Identity};
use atlas_engine::{
    DatasetSettings, DatasetStatus, Engine, ImageProgress, LoadPhase, LoadSettings, LoadStatus,
    MappedSettings, ScanProgress, Slots,
};
use atlas_mount::mounts::{self, ImageMount, MountOptions};
use atlas_origin::{Fault, FaultyOrigin};
use atlas_store::{Medium, Tier};
use parking_lot::Mutex;
use tempfile::TempDir;

const ID: &str = "data";
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Bed {
    pub(crate) source: PathBuf,
    pub(crate) engine: Engine,
    pub(crate) tier_folder: PathBuf,
    pub(crate) settings: DatasetSettings,
    faults: Arc<Mutex<Vec<Fault>>>,
    folder: TempDir,
    /// Of a bed with an image.
    state: Option<TempDir>,
}

impl Bed {
    /// `make` writes the source.
    pub(crate) fn new(quota_bytes: u64, make: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let source = folder.path().join("source");
        fs::create_dir(&source).unwrap();
        make(&source);
        let tier_folder = folder.path().join("tier");
        let tier = Tier::open(&tier_folder, Medium::Memory, true, None).unwrap();
        let faults: Arc<Mutex<Vec<Fault>>> = Arc::default();
        let wrap_faults = Arc::clone(&faults);
        let engine = Engine::with_wrapped_origins(
            folder.path().join("live"),
            Box::new(move |origin| Arc::new(FaultyOrigin::new(origin, wrap_faults.lock().clone()))),
        );
        // SAFETY: these take nothing and cannot fail.
        let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
        Self {
            settings: DatasetSettings {
                id: ID.into(),
                state_folder: folder.path().join("state"),
                source: source.clone(),
                identity: Identity {
                    uid,
                    gid,
                    groups: rustix::process::getgroups()
                        .unwrap()
                        .iter()
                        .map(|group| group.as_raw())
                        .collect(),
                },
                tier_folder: tier_folder.clone(),
                tier_medium: Medium::Memory,
                tier_uuid: tier.uuid().to_owned(),
                quota_bytes,
                include: Vec::new(),
                exclude: Vec::new(),
                mapped: MappedSettings::default(),
            },
            source,
            engine: engine.unwrap(),
            tier_folder,
            faults,
            folder,
            state: None,
        }
    }

    /// With an image, on a disk: one on a tmpfs cannot be mounted. `None` where nothing can be.
    pub(crate) fn mapped(quota_bytes: u64, make: impl FnOnce(&Path)) -> Option<Self> {
        if !rustix::process::geteuid().is_root() || mounts::open_device().is_err() {
            println!("skipped: no root, or no /dev/fuse");
            return None;
        }
        let mut bed = Self::new(quota_bytes, make);
        let state = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        bed.settings.state_folder = state.path().join("state");
        bed.settings.mapped = MappedSettings {
            image: true,
            label: "atlas:data:1".into(),
            seal: true,
            ..MappedSettings::default()
        };
        bed.state = Some(state);
        Some(bed)
    }

    pub(crate) fn image_ready(&self) {
        eventually("the image is ready", || match self.status().mapped.image {
            ImageProgress::Ready { .. } => Some(()),
            ImageProgress::Failed { reason } => panic!("{reason}"),
            _ => None,
        });
    }

    pub(crate) fn sealable(&self) {
        eventually("the image can be sealed", || {
            self.status().mapped.unsealed.is_none().then_some(())
        });
    }

    /// The image over the segments themselves.
    pub(crate) fn mount_sealed(&self) -> ImageMount {
        self.engine.mount_image(ID, Slots::Segments).unwrap()
    }

    /// The image over a new twin connection.
    pub(crate) fn mount_lazy(&self) -> Lazy {
        let device = mounts::open_device().unwrap();
        let options = MountOptions {
            name: "twin".into(),
            uid: 0,
            gid: 0,
            allow_other: false,
            subtype: "atlas-test".into(),
        };
        let twin = mounts::create(&device, &options).unwrap();
        let served = device.try_clone().unwrap();
        self.engine.serve_twin(ID, served, false).unwrap();
        let image = (self.engine)
            .mount_image(ID, Slots::Twins(twin.as_fd()))
            .unwrap();
        Lazy { image, device }
    }

    /// Faults of the origins that are opened from now on.
    pub(crate) fn fault(&self, fault: Fault) {
        self.faults.lock().push(fault);
    }

    pub(crate) fn create(&self) {
        self.engine.create(self.settings.clone()).unwrap();
    }

    pub(crate) fn scanned(&self) -> DatasetStatus {
        eventually("the scan ends", || {
            let status = self.status();
            (status.scan != ScanProgress::Running).then_some(status)
        })
    }

    pub(crate) fn status(&self) -> DatasetStatus {
        self.engine.status(ID).unwrap()
    }

    pub(crate) fn start_load(&self, load: &str, paths: &[&str]) {
        let settings = LoadSettings {
            paths: paths.iter().map(|path| path.as_bytes().to_vec()).collect(),
            parallel: 8,
            bytes_per_second: None,
        };
        self.engine.start_load(ID, load, settings).unwrap();
    }

    pub(crate) fn load(&self, paths: &[&str]) -> LoadStatus {
        self.start_load("load", paths);
        eventually("the load ends", || {
            let status = self.engine.load_status(ID, "load").unwrap();
            (status.phase != LoadPhase::Running).then_some(status)
        })
    }

    /// Reasons of the events so far.
    pub(crate) fn reasons(&self) -> Vec<&'static str> {
        let events = self.engine.events();
        events.into_iter().map(|event| event.reason).collect()
    }

    pub(crate) fn close(&self) {
        self.engine.close(ID).unwrap();
    }

    /// Opens it again; jobs that were under way may hold the volume for a moment.
    pub(crate) fn reopen(&self) {
        eventually("the volume is let go", || {
            match self.engine.open(self.settings.clone()) {
                Ok(()) => Some(()),
                Err(error) if error.kind == ErrorKind::Conflict => None,
                Err(error) => panic!("{error}"),
            }
        });
    }

    pub(crate) fn destroy(&self) {
        self.engine.destroy(ID).unwrap();
        assert!(!self.settings.state_folder.exists());
        assert!(!self.tier_folder.join(ID).exists());
    }

    pub(crate) fn away(&self) -> PathBuf {
        self.folder.path().join("away")
    }

    /// A real mount of the data set; `None` where there can be none.
    pub(crate) fn mount(&self) -> Option<Mounted> {
        let device = mounts::open_device().ok()?;
        let options = MountOptions {
            name: ID.into(),
            uid: self.settings.identity.uid,
            gid: self.settings.identity.gid,
            allow_other: true,
            subtype: "atlas-test".into(),
        };
        let mount = mounts::create(&device, &options).ok()?;
        let served = device.try_clone().unwrap();
        self.engine.serve(ID, served, false).unwrap();
        Some(Mounted { mount, device })
    }
}

/// A mount that is attached nowhere: it is reached through its descriptor.
pub(crate) struct Mounted {
    mount: OwnedFd,
    device: OwnedFd,
}

impl Mounted {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        let folder = format!("/proc/self/fd/{}", self.mount.as_fd().as_raw_fd());
        Path::new(&folder).join(name)
    }

    pub(crate) fn read(&self, name: &str) -> std::io::Result<Vec<u8>> {
        fs::read(self.path(name))
    }

    /// Hands the mount to a data set that was opened again.
    pub(crate) fn serve_again(&self, bed: &Bed) {
        let served = self.device.try_clone().unwrap();
        bed.engine.serve(ID, served, true).unwrap();
    }
}

/// A mounted image with what a keeper holds of its twin connection.
pub(crate) struct Lazy {
    pub(crate) image: ImageMount,
    pub(crate) device: OwnedFd,
}

/// The path of a file in a mount that is attached nowhere.
pub(crate) fn path_in(mount: &OwnedFd, name: &str) -> PathBuf {
    Path::new(&format!("/proc/self/fd/{}", mount.as_raw_fd())).join(name)
}

pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Bytes that differ at every place and for every seed.
pub(crate) fn pattern(seed: u64, length: usize) -> Vec<u8> {
    (0..length as u64)
        .map(|index| ((index + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 29) as u8)
        .collect()
}

/// Waits until no file written so far is too young to be kept.
pub(crate) fn age() {
    thread::sleep(Duration::from_millis(2100));
}

/// Flips a bit in every page that the tier holds of any file.
pub(crate) fn damage(tier_folder: &Path) -> usize {
    let mut damaged = 0;
    for entry in fs::read_dir(tier_folder.join(ID)).unwrap() {
        let entry = entry.unwrap();
        if !entry.file_name().to_string_lossy().starts_with("segment-") {
            continue;
        }
        let open = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(entry.path());
        let file = open.unwrap();
        let mut offset = 0;
        while let Ok(data) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(offset)) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, data).unwrap();
            file.write_all_at(&[byte[0] ^ 1], data).unwrap();
            offset = data + 4096;
            damaged += 1;
        }
    }
    damaged
}
