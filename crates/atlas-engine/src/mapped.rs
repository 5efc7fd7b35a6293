//! The mapped front of a data set: the image of its generation, the twin connection behind a lazy
//! one, and what keeps the segments behind a sealed one in place.
//!
//! Who mounts what, and when, is decided above the engine. Here is what that rests on: an image as
//! soon as the scan is complete, and the word that every byte behind it is there and verified.

mod image;
mod probe;
mod twin;
mod verify;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use atlas_core::{Error, ErrorKind, Result};
use atlas_mount::mounts::{self, DeviceFile, ImageMount};
use atlas_mount::{Profile, Session, SessionSettings};
use atlas_store::{Lease, Volume};
use parking_lot::Mutex;

use crate::core::Core;
use crate::scan::ScanProgress;
use image::Image;
use twin::{Deadlines, TwinFiles};
use verify::Verification;

pub use probe::{Probed, probe_mapped};

/// Threads that take requests of a twin connection; they never wait for the origin.
const TWIN_THREADS: usize = 2;

/// Largest read of the kernel on a twin, in bytes: one extent.
const TWIN_READ_BYTES: u32 = 1 << 20;

/// What a data set does for its mapped front. The default: nothing.
#[derive(Clone, Debug)]
pub struct MappedSettings {
    /// Build an image when the scan is complete.
    pub image: bool,
    /// File name of the image: what mount tables show as the source.
    pub label: String,
    /// Verify what is cached once everything is, so that the image can be mounted sealed.
    pub seal: bool,
    /// Superblocks of sealed images that an earlier process mounted, of this run of the machine.
    pub held: Vec<String>,
    /// Between the end of a scrub and the next; `None`: never.
    pub scrub_period: Option<Duration>,
    pub scrub_bytes_per_second: Option<u64>,
    /// How long a read behind a lazy front may wait for its origin before it fails: its reader
    /// cannot be let go otherwise, not even by an unmount.
    pub read_deadline: Duration,
}

impl Default for MappedSettings {
    fn default() -> Self {
        Self {
            image: false,
            label: String::new(),
            seal: false,
            held: Vec::new(),
            scrub_period: None,
            scrub_bytes_per_second: None,
            read_deadline: Duration::from_secs(60),
        }
    }
}

/// What stands behind the device slots of a mount.
#[derive(Clone, Copy, Debug)]
pub enum Slots<'a> {
    /// Virtual files of the twin connection, of which this is a mount.
    Twins(BorrowedFd<'a>),
    /// The segments themselves.
    Segments,
}

/// How far the image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageProgress {
    None,
    Building,
    Ready {
        bytes: u64,
        seconds: Option<Duration>,
    },
    Failed {
        reason: String,
    },
}

/// A look at the mapped front.
#[derive(Clone, Debug)]
pub struct MappedStatus {
    pub image: ImageProgress,
    /// Why the image cannot be mounted sealed; `None`: it can.
    pub unsealed: Option<String>,
    /// Why one that is mounted sealed must not stay so; `None`: it may, also while what an earlier
    /// process verified is verified again.
    pub sealed_trouble: Option<String>,
    /// Bytes that the verification under way, or the last one, has compared.
    pub verified_bytes: u64,
    /// Requests of the kernel on the twin connection, by operation.
    pub twin_requests: BTreeMap<&'static str, u64>,
}

enum ImageState {
    None,
    Building,
    Ready(Arc<Image>),
    Failed(String),
}

/// Segments that a superblock may read directly, until it is gone.
struct Held {
    superblock: String,
    _lease: Lease,
}

pub(crate) struct Mapped {
    core: Arc<Core>,
    settings: MappedSettings,
    folder: PathBuf,
    image: Mutex<ImageState>,
    twin: Mutex<Option<Session>>,
    deadlines: Arc<Deadlines>,
    held: Mutex<Vec<Held>>,
    verification: Arc<Verification>,
    tier_check: Arc<TierCheck>,
    closed: Arc<AtomicBool>,
}

/// The tier is asked on a thread of its own: a disk may take its time, or for ever.
#[derive(Default)]
struct TierCheck {
    asked: Mutex<Option<Instant>>,
}

/// A tier that has not answered for this long counts as failed.
const TIER_PATIENCE: Duration = Duration::from_secs(3);

impl Mapped {
    /// Takes over what an earlier process left: its image, and the leases of its sealed mounts.
    ///
    /// # Errors
    /// A segment below a mount that is still there is missing.
    pub(crate) fn open(
        core: &Arc<Core>,
        settings: &MappedSettings,
        state_folder: &std::path::Path,
    ) -> Result<Arc<Self>> {
        let folder = state_folder.join("image");
        let mut image = ImageState::None;
        if settings.image {
            match Image::open(core, &folder, &settings.label) {
                Ok(Some(found)) => image = ImageState::Ready(Arc::new(found)),
                Ok(None) => {}
                // Made anew when the scan has ended.
                Err(error) => core.warn("ImageLost", error.message),
            }
        }
        let mut held = Vec::new();
        for superblock in &settings.held {
            if mounts::superblock_exists(superblock) {
                let starts: Vec<_> = (core.volume.segments().iter())
                    .map(|segment| segment.start)
                    .collect();
                held.push(Held {
                    superblock: superblock.clone(),
                    _lease: core.volume.lease(&starts)?,
                });
            }
        }
        let closed = Arc::default();
        Ok(Arc::new(Self {
            core: Arc::clone(core),
            settings: settings.clone(),
            folder,
            image: Mutex::new(image),
            twin: Mutex::default(),
            deadlines: Arc::new(Deadlines::new(settings.read_deadline)),
            held: Mutex::new(held),
            verification: Arc::new(Verification::new(Arc::clone(&closed))),
            tier_check: Arc::default(),
            closed,
        }))
    }

    fn image(&self) -> Result<Arc<Image>> {
        match &*self.image.lock() {
            ImageState::Ready(image) => Ok(Arc::clone(image)),
            _ => Err(Error::new(
                ErrorKind::NotFound,
                libc::ENOENT,
                "use the image of the data set: there is none yet",
            )),
        }
    }

    /// Answers the kernel's requests on the descriptor of a twin connection.
    pub(crate) fn serve_twin(&self, fuse: OwnedFd, resume: bool) -> Result<()> {
        let image = self.image()?;
        let mut twin = self.twin.lock();
        if twin.is_some() {
            return Err(Error::new(
                ErrorKind::Conflict,
                libc::EBUSY,
                "serve the twin connection: it is served already",
            ));
        }
        let files = TwinFiles::new(Arc::clone(&self.core), image, Arc::clone(&self.deadlines));
        let settings = SessionSettings {
            threads: TWIN_THREADS,
            resume,
            read_ahead_bytes: TWIN_READ_BYTES,
            profile: Profile::Twin,
            posix_acl: false,
        };
        *twin = Some(Session::start(fuse, Arc::new(files), settings)?);
        Ok(())
    }

    /// Whether the kernel has let go of the twin connection (or never had one).
    pub(crate) fn twin_ended(&self) -> bool {
        self.twin.lock().as_ref().is_none_or(Session::ended)
    }

    /// Forgets a twin connection that has ended.
    pub(crate) fn stop_twin(&self) -> Result<()> {
        stop_ended(&self.twin, "the twin connection")
    }

    /// Mounts the image, attached nowhere. Direct slots are leased until the superblock is gone.
    pub(crate) fn mount(&self, slots: Slots<'_>) -> Result<ImageMount> {
        let image = self.image()?;
        let starts: Vec<_> = image.slots.iter().map(|slot| slot.start).collect();
        let names = starts.iter().map(|start| Volume::segment_name(*start));
        let mounted = match slots {
            Slots::Twins(twin) => {
                let devices: Vec<_> = names
                    .map(|name| DeviceFile { folder: twin, name })
                    .collect();
                mounts::mount_image(image.folder.as_fd(), &image.name, &devices)?
            }
            Slots::Segments => {
                // The lease first: what is looked at after it stays as it is.
                let lease = self.core.volume.lease(&starts)?;
                if let Some(reason) = self.unsealed() {
                    return Err(Error::new(
                        ErrorKind::Conflict,
                        libc::EBUSY,
                        format!("mount the image sealed: {reason}"),
                    ));
                }
                let folder = self.core.volume.folder()?;
                let devices: Vec<_> = names
                    .map(|name| DeviceFile {
                        folder: folder.as_fd(),
                        name,
                    })
                    .collect();
                let mounted = mounts::mount_image(image.folder.as_fd(), &image.name, &devices)?;
                self.held.lock().push(Held {
                    superblock: mounted.superblock.clone(),
                    _lease: lease,
                });
                mounted
            }
        };
        // Only a matter of speed.
        let _ = mounts::set_image_read_ahead(&mounted.superblock, image.read_ahead_kib);
        Ok(mounted)
    }

    /// Whether a superblock may read segments directly.
    pub(crate) fn holds(&self) -> bool {
        let mut held = self.held.lock();
        held.retain(|held| mounts::superblock_exists(&held.superblock));
        !held.is_empty()
    }

    /// Why the image cannot be mounted sealed.
    fn unsealed(&self) -> Option<String> {
        if !self.settings.seal {
            return Some("the front was not asked for".to_owned());
        }
        if self.core.scan.progress() != ScanProgress::Complete {
            return Some("the scan is not complete".to_owned());
        }
        self.trouble()
            .or_else(|| self.verification.unverified(&self.core))
    }

    /// Why a sealed mount would not give the right bytes, or not for long.
    fn trouble(&self) -> Option<String> {
        if self.core.freeing.load(Ordering::Acquire) {
            return Some("what is cached is being freed".to_owned());
        }
        if let Some(reason) = self.core.volume.degraded() {
            return Some(format!("the tier fails: {reason}"));
        }
        if self.tier_check.hangs() {
            return Some("the tier does not answer".to_owned());
        }
        if !self.core.is_complete() {
            return Some("not everything is cached".to_owned());
        }
        self.verification.damage(&self.core)
    }

    pub(crate) fn status(&self) -> MappedStatus {
        let image = match &*self.image.lock() {
            ImageState::None => ImageProgress::None,
            ImageState::Building => ImageProgress::Building,
            ImageState::Ready(image) => ImageProgress::Ready {
                bytes: image.bytes,
                seconds: image.took,
            },
            ImageState::Failed(reason) => ImageProgress::Failed {
                reason: reason.clone(),
            },
        };
        let unsealed = match &image {
            ImageProgress::Ready { .. } => self.unsealed(),
            _ => Some("there is no image yet".to_owned()),
        };
        let twin = self.twin.lock();
        MappedStatus {
            image,
            unsealed,
            sealed_trouble: self.trouble(),
            verified_bytes: self.verification.bytes(),
            twin_requests: twin.as_ref().map(Session::counts).unwrap_or_default(),
        }
    }

    /// What has to be done from time to time.
    pub(crate) fn tick(self: &Arc<Self>) {
        self.deadlines.expire(&self.core);
        if !self.settings.image {
            return;
        }
        self.build();
        let sealed = self.holds();
        if sealed {
            self.tier_check.ask(&self.core.volume);
        }
        if let Ok(image) = self.image()
            && self.settings.seal
            && self.core.is_complete()
            && self.core.scan.progress() == ScanProgress::Complete
        {
            let period = self.settings.scrub_period.filter(|_| sealed);
            let rate = self.settings.scrub_bytes_per_second;
            self.verification.tick(&self.core, &image, period, rate);
        }
    }

    /// Begins the image as soon as there can be one.
    fn build(self: &Arc<Self>) {
        let mut state = self.image.lock();
        if !matches!(*state, ImageState::None)
            || self.core.scan.progress() != ScanProgress::Complete
        {
            return;
        }
        let mapped = Arc::clone(self);
        let started = thread::Builder::new()
            .name("atlas-image".to_owned())
            .spawn(move || mapped.build_now());
        *state = match started {
            Ok(_) => ImageState::Building,
            Err(error) => ImageState::Failed(error.to_string()),
        };
    }

    fn build_now(&self) {
        let built = Image::build(&self.core, &self.folder, &self.settings.label);
        *self.image.lock() = match built {
            Ok(image) => ImageState::Ready(Arc::new(image)),
            Err(error) => {
                self.core.warn("NoImage", error.message.clone());
                ImageState::Failed(error.message)
            }
        };
    }

    /// Stops everything; a twin connection is left to the next holder of its descriptor.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        if let Some(session) = self.twin.lock().take() {
            session.stop();
        }
        self.verification.close();
    }
}

/// Forgets a session whose connection has ended.
///
/// # Errors
/// `Conflict` if it is still in use; none at all is no error.
pub(crate) fn stop_ended(session: &Mutex<Option<Session>>, what: &str) -> Result<()> {
    let mut session = session.lock();
    if session.as_ref().is_some_and(|session| !session.ended()) {
        return Err(Error::new(
            ErrorKind::Conflict,
            libc::EBUSY,
            format!("stop {what}: it is still in use"),
        ));
    }
    session.take();
    Ok(())
}

impl TierCheck {
    fn hangs(&self) -> bool {
        self.asked
            .lock()
            .is_some_and(|asked| asked.elapsed() > TIER_PATIENCE)
    }

    /// Has the tier asked, unless it still owes an answer.
    fn ask(self: &Arc<Self>, volume: &Arc<Volume>) {
        let mut asked = self.asked.lock();
        if asked.is_some() {
            return;
        }
        let (check, volume) = (Arc::clone(self), Arc::clone(volume));
        let started = thread::Builder::new()
            .name("atlas-tier".to_owned())
            .spawn(move || {
                // The volume remembers an error, for whoever asks whether it is degraded.
                let _ = volume.check_tier();
                *check.asked.lock() = None;
            });
        if started.is_ok() {
            *asked = Some(Instant::now());
        }
    }
}
