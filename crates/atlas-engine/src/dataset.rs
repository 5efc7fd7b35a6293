//! One data set: made, opened again, served, loaded, closed, destroyed.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use atlas_core::{Attributes, Error, ErrorKind, Identity, Result, printable};
use atlas_fs::{Filter, Namespace};
use atlas_mount::{Profile, Session, SessionSettings};
use atlas_origin::{
    Counters as OriginCounters, Origin, PosixOrigin, ReaderSettings, Readers, as_identity,
};
use atlas_store::{Medium, Tier, Volume, VolumeSettings};
use parking_lot::Mutex;

use crate::ahead::ReadAhead;
use crate::core::{Core, Counters};
use crate::events::{EventLog, Severity};
use crate::flights::Flights;
use crate::late_origin::LateOrigin;
use crate::live::LiveFront;
use crate::load::{Load, LoadSettings, LoadStatus};
use crate::mapped::{Mapped, MappedSettings, MappedStatus, stop_ended};
use crate::scan::{self, Scan, ScanProgress};

/// Threads that read the origin of one data set, at most; they start on demand.
const READER_THREADS: usize = 32;

/// Threads that take requests of one mount; they never wait for the origin.
const FRONT_THREADS: usize = 2;

/// Read-ahead of the kernel on a mount, in bytes: one extent.
const READ_AHEAD_BYTES: u32 = 1 << 20;

/// Everything that makes a data set.
#[derive(Clone, Debug)]
pub struct DatasetSettings {
    pub id: String,
    /// Where its tables lie: a local disk.
    pub state_folder: PathBuf,
    pub source: PathBuf,
    pub identity: Identity,
    pub tier_folder: PathBuf,
    pub tier_medium: Medium,
    pub tier_uuid: String,
    pub quota_bytes: u64,
    pub include: Vec<String>,
    pub exclude: Vec<String>,
    pub mapped: MappedSettings,
}

/// A look at a data set.
#[derive(Clone, Debug)]
pub struct DatasetStatus {
    pub files: u64,
    pub folders: u64,
    pub links: u64,
    pub total_bytes: u64,
    pub cached_files: u64,
    pub cached_bytes: u64,
    pub used_bytes: u64,
    pub quota_bytes: u64,
    pub hit_bytes: u64,
    pub miss_bytes: u64,
    pub stale_files: u64,
    pub origin: OriginCounters,
    pub scan: ScanProgress,
    pub leaving_links: u64,
    pub leaving_names: Vec<String>,
    pub degraded: Option<String>,
    /// Requests of the kernel, by operation.
    pub requests: BTreeMap<&'static str, u64>,
    /// Whether a mount of it is left in any namespace.
    pub mounted: bool,
    pub damaged_extents: u64,
    pub mapped: MappedStatus,
}

/// What an engine gives to each of its data sets.
pub(crate) struct Surroundings {
    /// On tmpfs, for the live bitmaps.
    pub(crate) live_folder: PathBuf,
    pub(crate) events: Arc<EventLog>,
    pub(crate) wrap_origin: WrapOrigin,
}

/// Puts something between a data set and its origin; tests put faults there.
pub type WrapOrigin = Box<dyn Fn(Arc<dyn Origin>) -> Arc<dyn Origin> + Send + Sync>;

pub(crate) struct Dataset {
    core: Arc<Core>,
    settings: DatasetSettings,
    origin: Arc<dyn Origin>,
    session: Mutex<Option<Session>>,
    mapped: Arc<Mapped>,
    loads: Mutex<HashMap<String, Arc<Load>>>,
    /// Held by whoever gives cached bytes up.
    sweeping: Mutex<()>,
}

struct Parts {
    origin: Arc<dyn Origin>,
    volume: Arc<Volume>,
    namespace: Namespace,
}

/// The volume as the namespace sees it.
struct Addresses(Arc<Volume>);

impl atlas_fs::Allocate for Addresses {
    fn allocate(&self, size: u64, early: bool) -> Result<atlas_core::Address> {
        self.0.allocate(size, early)
    }
}

impl Dataset {
    /// Make a data set whose tables are not there yet.
    ///
    /// # Errors
    /// The source cannot be read by its creator, the tier or the state folder cannot be written.
    /// Nothing stays behind.
    pub(crate) fn create(settings: &DatasetSettings, surroundings: &Surroundings) -> Result<Self> {
        let live_folder = &surroundings.live_folder;
        let origin = (surroundings.wrap_origin)(open_origin(settings)?);
        let root = root_attributes(settings, origin.as_ref())?;
        let tier = open_tier(settings)?;
        let volume_settings = VolumeSettings {
            quota_bytes: settings.quota_bytes,
            held: !settings.mapped.held.is_empty(),
        };
        let volume = Volume::create(&tier, &settings.id, live_folder, volume_settings)?;
        let made = Namespace::create(
            &settings.state_folder,
            &root,
            Arc::new(Addresses(Arc::clone(&volume))),
        )
        .and_then(|namespace| {
            let parts = Parts {
                origin,
                volume: Arc::clone(&volume),
                namespace,
            };
            Self::assemble(settings.clone(), parts, Arc::clone(&surroundings.events))
        });
        if made.is_err() {
            // The first error is the one to tell; the tables hold nothing yet.
            let _ = volume.destroy();
            let _ = std::fs::remove_dir_all(&settings.state_folder);
        }
        made
    }

    /// Open a data set that an earlier process made.
    ///
    /// After a restart of the machine a MEM tier is empty, and tables that were changing when it
    /// stopped cannot be trusted: then the data set starts again with an empty cache.
    ///
    /// # Errors
    /// Its tables or its tier cannot be opened. Everything stays as it was. A missing source is no
    /// error: what is on the tier is served, and the source is looked for when it is needed.
    pub(crate) fn open(settings: DatasetSettings, surroundings: &Surroundings) -> Result<Self> {
        let Surroundings {
            live_folder,
            events,
            wrap_origin,
        } = surroundings;
        let late = settings.clone();
        let origin = LateOrigin::new(Box::new(move || open_origin(&late)))?;
        let origin = wrap_origin(Arc::new(origin));
        let tier = open_tier(&settings)?;
        let volume_settings = VolumeSettings {
            quota_bytes: settings.quota_bytes,
            held: !settings.mapped.held.is_empty(),
        };
        let opened =
            Volume::open(&tier, &settings.id, live_folder, volume_settings).and_then(|volume| {
                let addresses = Arc::new(Addresses(Arc::clone(&volume)));
                Ok((Namespace::open(&settings.state_folder, addresses)?, volume))
            });
        let (namespace, volume) = match opened {
            Ok(parts) => parts,
            Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Corrupt) => {
                let text = format!("the cache starts again, empty: {error}");
                events.push(&settings.id, Severity::Warning, "CacheLost", text);
                start_again(&settings, &tier, live_folder, origin.as_ref())?
            }
            Err(error) => return Err(error),
        };
        let parts = Parts {
            origin,
            volume,
            namespace,
        };
        let dataset = Self::assemble(settings, parts, Arc::clone(events))?;
        dataset.core.recount();
        Ok(dataset)
    }

    fn assemble(settings: DatasetSettings, parts: Parts, events: Arc<EventLog>) -> Result<Self> {
        let Parts {
            origin,
            volume,
            namespace,
        } = parts;
        let filter = Filter::new(&settings.include, &settings.exclude)?;
        let readers = Readers::start(
            &settings.identity,
            Arc::clone(&origin),
            ReaderSettings {
                threads: READER_THREADS,
            },
        )?;
        let core = Arc::new(Core {
            id: settings.id.clone(),
            namespace,
            volume,
            readers,
            filter,
            events,
            counters: Counters::default(),
            flights: Flights::new(),
            scan: Scan::default(),
            ahead: ReadAhead::default(),
            freeing: AtomicBool::new(false),
        });
        let mapped = Mapped::open(&core, &settings.mapped, &settings.state_folder)?;
        scan::start(&core);
        let (session, loads) = (Mutex::default(), Mutex::default());
        Ok(Self {
            core,
            settings,
            origin,
            session,
            mapped,
            loads,
            sweeping: Mutex::default(),
        })
    }

    /// Answer the kernel's requests on a FUSE descriptor.
    ///
    /// # Errors
    /// It is served already, or no thread could be started.
    pub(crate) fn serve(&self, fuse: OwnedFd, resume: bool) -> Result<()> {
        let mut session = self.session.lock();
        if session.is_some() {
            let text = format!("data set {} is served already", self.settings.id);
            return Err(Error::new(ErrorKind::Conflict, libc::EBUSY, text));
        }
        let front = LiveFront::new(Arc::clone(&self.core), self.settings.identity.clone());
        let settings = SessionSettings {
            threads: FRONT_THREADS,
            resume,
            read_ahead_bytes: READ_AHEAD_BYTES,
            profile: Profile::Live,
            posix_acl: true,
        };
        let started = Session::start(fuse, Arc::new(front), settings)?;
        *session = Some(started);
        Ok(())
    }

    pub(crate) fn status(&self) -> DatasetStatus {
        let core = &self.core;
        let totals = core.namespace.totals();
        let usage = core.volume.usage();
        let session = self.session.lock();
        let (cached_files, cached_bytes) = core.counters.cached();
        DatasetStatus {
            files: totals.files,
            folders: totals.folders,
            links: totals.links,
            total_bytes: totals.bytes,
            cached_files: cached_files + totals.empty_files,
            cached_bytes,
            used_bytes: usage.used_bytes,
            quota_bytes: usage.quota_bytes,
            hit_bytes: core.counters.hit_bytes.load(Ordering::Relaxed),
            miss_bytes: core.counters.miss_bytes.load(Ordering::Relaxed),
            stale_files: core.counters.stale_files(),
            origin: self.origin.counters(),
            scan: core.scan.progress(),
            leaving_links: totals.leaving_links,
            leaving_names: totals
                .leaving_names
                .iter()
                .map(|name| printable(name))
                .collect(),
            degraded: core.volume.degraded().or_else(|| {
                let failure = session.as_ref().and_then(Session::failure);
                failure.map(|error| error.message)
            }),
            requests: session.as_ref().map(Session::counts).unwrap_or_default(),
            mounted: session.as_ref().is_some_and(|session| !session.ended()),
            damaged_extents: core.volume.damaged_extents(),
            mapped: self.mapped.status(),
        }
    }

    pub(crate) fn start_load(&self, id: &str, settings: LoadSettings) -> Result<()> {
        let mut loads = self.loads.lock();
        if loads.get(id).is_some_and(|load| !load.ended()) {
            return Ok(());
        }
        self.stop_freeing();
        loads.insert(id.to_owned(), Load::start(&self.core, settings)?);
        Ok(())
    }

    fn load(&self, id: &str) -> Result<Arc<Load>> {
        self.loads.lock().get(id).cloned().ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                libc::ENOENT,
                format!("load {id} is not known"),
            )
        })
    }

    pub(crate) fn load_status(&self, id: &str) -> Result<LoadStatus> {
        Ok(self.load(id)?.status(&self.core))
    }

    pub(crate) fn stop_load(&self, id: &str) -> Result<()> {
        self.load(id)?.stop();
        Ok(())
    }

    /// What has to be done from time to time.
    pub(crate) fn tick(self: &Arc<Self>) {
        scan::retry(&self.core);
        self.mapped.tick();
        self.go_on_freeing();
    }

    /// Forget a live session that has ended, so that another can be served.
    pub(crate) fn stop_live(&self) -> Result<()> {
        stop_ended(&self.session, "the live front")
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    pub(crate) fn sweeping(&self) -> &Mutex<()> {
        &self.sweeping
    }

    pub(crate) fn mapped(&self) -> &Mapped {
        &self.mapped
    }

    /// Whether the kernel has let go of the mount (or never had one).
    pub(crate) fn ended(&self) -> bool {
        self.session.lock().as_ref().is_none_or(Session::ended)
    }

    /// Stop everything; what is on the tier and in the tables stays.
    pub(crate) fn close(&self) {
        for load in self.loads.lock().values() {
            load.stop();
        }
        // Before anything fails because of the end: what is not answered yet is left to the next
        // holder of the FUSE descriptor.
        if let Some(session) = self.session.lock().take() {
            session.stop();
        }
        self.mapped.close();
        self.core.scan.close();
        self.core.readers.close();
        if let Err(error) = self.core.volume.close() {
            self.core
                .warn("TierDegraded", format!("close the volume: {error}"));
        }
    }

    /// Free the tier and the tables. The data set must have been closed.
    pub(crate) fn destroy(&self) -> Result<()> {
        Arc::clone(&self.core.volume).destroy()?;
        match std::fs::remove_dir_all(&self.settings.state_folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::from_io(
                &error,
                format!("remove {}", self.settings.state_folder.display()),
            )),
            _ => Ok(()),
        }
    }
}

/// Make volume and tables anew for a data set that has lost one of them: addresses of one mean
/// nothing without the other.
fn start_again(
    settings: &DatasetSettings,
    tier: &Arc<Tier>,
    live_folder: &Path,
    origin: &dyn Origin,
) -> Result<(Namespace, Arc<Volume>)> {
    let root = root_attributes(settings, origin)?;
    Volume::remove(tier, &settings.id, live_folder)?;
    if let Err(error) = std::fs::remove_dir_all(&settings.state_folder)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        let context = format!("remove {}", settings.state_folder.display());
        return Err(Error::from_io(&error, context));
    }
    let volume_settings = VolumeSettings {
        quota_bytes: settings.quota_bytes,
        held: !settings.mapped.held.is_empty(),
    };
    let volume = Volume::create(tier, &settings.id, live_folder, volume_settings)?;
    let addresses = Arc::new(Addresses(Arc::clone(&volume)));
    let namespace = Namespace::create(&settings.state_folder, &root, addresses)?;
    Ok((namespace, volume))
}

fn open_origin(settings: &DatasetSettings) -> Result<Arc<dyn Origin>> {
    // Not as the identity: it may not make the mount that keeps access times as they are.
    let origin = PosixOrigin::open(&settings.source, &settings.identity)?;
    Ok(Arc::new(origin))
}

fn open_tier(settings: &DatasetSettings) -> Result<Arc<Tier>> {
    let uuid = Some(settings.tier_uuid.as_str());
    // A MEM tier is gone after a restart of the machine, which is no reason to fail; a disk that is
    // not mounted is.
    let create = settings.tier_medium == Medium::Memory;
    Tier::open(&settings.tier_folder, settings.tier_medium, create, uuid).map(Arc::new)
}

/// The root is the owner's alone until it is shared, whatever the origin's root allows.
fn root_attributes(settings: &DatasetSettings, origin: &dyn Origin) -> Result<Attributes> {
    let entry = as_identity(&settings.identity, || origin.stat(b""))??;
    Ok(Attributes {
        permissions: 0o700,
        uid: settings.identity.uid,
        gid: settings.identity.gid,
        ..entry.attributes
    })
}
