//! All data sets of one node.

use std::collections::{HashMap, HashSet};
use std::fs::DirBuilder;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use atlas_core::{Error, ErrorKind, Result};
use atlas_mount::mounts::ImageMount;
use parking_lot::{Condvar, Mutex};

use crate::dataset::{Dataset, DatasetSettings, DatasetStatus, Surroundings, WrapOrigin};
use crate::events::Event;
use crate::free::Freed;
use crate::load::{LoadSettings, LoadStatus};
use crate::mapped::Slots;

/// Between two rounds of what has to be done from time to time.
const TICK: Duration = Duration::from_secs(1);

/// The data sets of one node, by id. Dropping it closes them.
pub struct Engine {
    shared: Arc<Shared>,
    surroundings: Surroundings,
}

#[derive(Default)]
struct Shared {
    datasets: Mutex<HashMap<String, Arc<Dataset>>>,
    /// Ids of those that are being made or opened.
    opening: Mutex<HashSet<String>>,
    ended: Mutex<bool>,
    end: Condvar,
}

impl Engine {
    /// `live_folder`: a folder on tmpfs for the live bitmaps; made (0700) if it is not there.
    ///
    /// # Errors
    /// The folder could not be made, or the housekeeping thread not be started.
    pub fn new(live_folder: PathBuf) -> Result<Self> {
        Self::with_wrapped_origins(live_folder, Box::new(|origin| origin))
    }

    /// [`new`](Self::new), with `wrap` between every data set and its origin.
    ///
    /// # Errors
    /// As `new`.
    pub fn with_wrapped_origins(live_folder: PathBuf, wrap: WrapOrigin) -> Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&live_folder)
            .map_err(|error| Error::from_io(&error, format!("make {}", live_folder.display())))?;
        let shared = Arc::new(Shared::default());
        let thread_shared = Arc::clone(&shared);
        thread::Builder::new()
            .name("atlas-tick".to_owned())
            .spawn(move || thread_shared.tick())
            .map_err(|error| Error::from_io(&error, "start the engine"))?;
        Ok(Self {
            shared,
            surroundings: Surroundings {
                live_folder,
                events: Arc::default(),
                wrap_origin: wrap,
            },
        })
    }

    fn dataset(&self, id: &str) -> Result<Arc<Dataset>> {
        self.shared
            .datasets
            .lock()
            .get(id)
            .cloned()
            .ok_or_else(|| unknown(id))
    }

    fn insert(
        &self,
        settings: DatasetSettings,
        make: impl FnOnce(DatasetSettings) -> Result<Dataset>,
    ) -> Result<()> {
        let id = settings.id.clone();
        let conflict = || {
            let text = format!("data set {id} is open already");
            Error::new(ErrorKind::Conflict, libc::EEXIST, text)
        };
        // Two at a time would take each other's files for what an interrupted one left.
        if !self.shared.opening.lock().insert(id.clone()) {
            return Err(conflict());
        }
        let made = if self.shared.datasets.lock().contains_key(&id) {
            Err(conflict())
        } else {
            make(settings)
        };
        let made = made.map(|dataset| {
            let datasets = &self.shared.datasets;
            datasets.lock().insert(id.clone(), Arc::new(dataset));
        });
        self.shared.opening.lock().remove(&id);
        made
    }

    /// Make a data set; its scan starts at once.
    ///
    /// # Errors
    /// As the parts say; nothing stays behind.
    pub fn create(&self, settings: DatasetSettings) -> Result<()> {
        self.insert(settings, |settings| {
            Dataset::create(&settings, &self.surroundings)
        })
    }

    /// Open a data set that was made before; its scan goes on where it was.
    ///
    /// # Errors
    /// As the parts say; everything stays as it was.
    pub fn open(&self, settings: DatasetSettings) -> Result<()> {
        self.insert(settings, |settings| {
            Dataset::open(settings, &self.surroundings)
        })
    }

    /// Answer the kernel's requests on `fuse`; `resume` when another process did so before.
    ///
    /// # Errors
    /// Not known, served already, or no thread could be started.
    pub fn serve(&self, id: &str, fuse: OwnedFd, resume: bool) -> Result<()> {
        self.dataset(id)?.serve(fuse, resume)
    }

    /// Answer the kernel's requests on `fuse`, the twin connection of the data set.
    ///
    /// # Errors
    /// Not known, no image yet, served already, or no thread could be started.
    pub fn serve_twin(&self, id: &str, fuse: OwnedFd, resume: bool) -> Result<()> {
        self.dataset(id)?.mapped().serve_twin(fuse, resume)
    }

    /// Whether the kernel has let go of the twin connection, or there is none.
    ///
    /// # Errors
    /// Not known.
    pub fn twin_ended(&self, id: &str) -> Result<bool> {
        Ok(self.dataset(id)?.mapped().twin_ended())
    }

    /// Forget the twin connection, which has ended.
    ///
    /// # Errors
    /// Not known, or `Conflict` while it is in use.
    pub fn stop_twin(&self, id: &str) -> Result<()> {
        self.dataset(id)?.mapped().stop_twin()
    }

    /// Forget the live session, which has ended.
    ///
    /// # Errors
    /// Not known, or `Conflict` while it is in use.
    pub fn stop_live(&self, id: &str) -> Result<()> {
        self.dataset(id)?.stop_live()
    }

    /// Mount the image of the data set, attached nowhere.
    ///
    /// # Errors
    /// Not known, no image yet; for direct slots `Conflict` unless everything is cached and
    /// verified; what the kernel says.
    pub fn mount_image(&self, id: &str, slots: Slots<'_>) -> Result<ImageMount> {
        self.dataset(id)?.mapped().mount(slots)
    }

    /// # Errors
    /// Not known.
    pub fn status(&self, id: &str) -> Result<DatasetStatus> {
        Ok(self.dataset(id)?.status())
    }

    /// Start the load named `load`, or let it go on if it runs.
    ///
    /// # Errors
    /// Not known, or no thread could be started.
    pub fn start_load(&self, id: &str, load: &str, settings: LoadSettings) -> Result<()> {
        self.dataset(id)?.start_load(load, settings)
    }

    /// # Errors
    /// Not known.
    pub fn load_status(&self, id: &str, load: &str) -> Result<LoadStatus> {
        self.dataset(id)?.load_status(load)
    }

    /// # Errors
    /// Not known.
    pub fn stop_load(&self, id: &str, load: &str) -> Result<()> {
        self.dataset(id)?.stop_load(load)
    }

    /// The events of all data sets since the last call.
    pub fn events(&self) -> Vec<Event> {
        self.surroundings.events.drain()
    }

    /// Whether no mount of it is left in the kernel.
    ///
    /// # Errors
    /// Not known.
    pub fn ended(&self, id: &str) -> Result<bool> {
        Ok(self.dataset(id)?.ended())
    }

    /// Stop serving; everything stays for the next `open`.
    ///
    /// # Errors
    /// Not known.
    pub fn close(&self, id: &str) -> Result<()> {
        let dataset = self
            .shared
            .datasets
            .lock()
            .remove(id)
            .ok_or_else(|| unknown(id))?;
        dataset.close();
        Ok(())
    }

    /// Give up what is cached of a data set, which stays.
    ///
    /// # Errors
    /// Not known, or what the tier says.
    pub fn free(&self, id: &str) -> Result<Freed> {
        self.dataset(id)?.free()
    }

    /// Free everything of a data set. The origin is untouched.
    ///
    /// # Errors
    /// It is still mounted somewhere, or its files could not be removed.
    pub fn destroy(&self, id: &str) -> Result<()> {
        let dataset = self.dataset(id)?;
        if !dataset.ended() {
            let text = format!("data set {id} is still mounted");
            return Err(Error::new(ErrorKind::Conflict, libc::EBUSY, text));
        }
        if dataset.mapped().holds() {
            let text = format!("a sealed front of data set {id} is still in use");
            return Err(Error::new(ErrorKind::Conflict, libc::EBUSY, text));
        }
        dataset.close();
        dataset.destroy()?;
        // Only now: what could not be removed can be destroyed again.
        self.shared.datasets.lock().remove(id);
        self.surroundings.events.forget(id);
        Ok(())
    }
}

impl Shared {
    fn tick(&self) {
        let mut ended = self.ended.lock();
        while !*ended {
            self.end.wait_for(&mut ended, TICK);
            let datasets: Vec<_> = self.datasets.lock().values().cloned().collect();
            for dataset in datasets {
                dataset.tick();
            }
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        *self.shared.ended.lock() = true;
        self.shared.end.notify_all();
        for (_, dataset) in self.shared.datasets.lock().drain() {
            dataset.close();
        }
    }
}

fn unknown(id: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        libc::ENOENT,
        format!("data set {id} is not known"),
    )
}
