//! `Engine`: dictionaries in, dictionaries out.

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};

use atlas_core::{Error, ErrorKind, Identity};
use atlas_engine::{
    DatasetSettings, DatasetStatus, Engine, Event, ImageProgress, LoadPhase, LoadSettings,
    LoadStatus, MappedSettings, ScanProgress, Severity, Slots,
};
use pyo3::prelude::*;

use crate::error::detached;
use crate::mounts::medium;

/// Batches of a load under way at once, unless the caller says otherwise.
const DEFAULT_PARALLEL: usize = 16;

#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct TierInput {
    medium: String,
    folder: PathBuf,
    uuid: String,
}

#[derive(FromPyObject)]
#[pyo3(from_item_all)]
struct DatasetInput {
    id: String,
    state_folder: PathBuf,
    source: PathBuf,
    identity: (u32, u32, Vec<u32>),
    tier: TierInput,
    quota_bytes: u64,
    include: Vec<String>,
    exclude: Vec<String>,
    label: String,
    mapped: bool,
    seal: bool,
    held: Vec<String>,
    scrub_period_seconds: f64,
    scrub_bytes_per_second: u64,
}

impl DatasetInput {
    fn settings(self) -> atlas_core::Result<DatasetSettings> {
        let (uid, gid, groups) = self.identity;
        Ok(DatasetSettings {
            id: self.id,
            state_folder: self.state_folder,
            source: self.source,
            identity: Identity { uid, gid, groups },
            tier_folder: self.tier.folder,
            tier_medium: medium(&self.tier.medium)?,
            tier_uuid: self.tier.uuid,
            quota_bytes: self.quota_bytes,
            include: self.include,
            exclude: self.exclude,
            mapped: MappedSettings {
                image: self.mapped,
                label: self.label,
                seal: self.seal,
                held: self.held,
                scrub_period: Duration::try_from_secs_f64(self.scrub_period_seconds)
                    .ok()
                    .filter(|period| !period.is_zero()),
                scrub_bytes_per_second: (self.scrub_bytes_per_second > 0)
                    .then_some(self.scrub_bytes_per_second),
                ..MappedSettings::default()
            },
        })
    }
}

#[derive(IntoPyObject)]
struct ScanOutput {
    state: &'static str,
    files: u64,
    error: Option<String>,
}

#[derive(IntoPyObject)]
struct LeavingLinksOutput {
    count: u64,
    names: Vec<String>,
}

#[derive(IntoPyObject)]
struct ImageOutput {
    state: &'static str,
    bytes: u64,
    seconds: f64,
    error: Option<String>,
}

impl From<ImageProgress> for ImageOutput {
    fn from(progress: ImageProgress) -> Self {
        let (state, bytes, took, error) = match progress {
            ImageProgress::None => ("None", 0, None, None),
            ImageProgress::Building => ("Building", 0, None, None),
            ImageProgress::Ready { bytes, seconds } => ("Ready", bytes, seconds, None),
            ImageProgress::Failed { reason } => ("Failed", 0, None, Some(reason)),
        };
        Self {
            state,
            bytes,
            seconds: took.map_or(0.0, |took| took.as_secs_f64()),
            error,
        }
    }
}

#[derive(IntoPyObject)]
struct ImageMountOutput {
    mount: RawFd,
    superblock: String,
    device: (u32, u32),
}

#[derive(IntoPyObject)]
struct StatusOutput {
    files: u64,
    folders: u64,
    links: u64,
    total_bytes: u64,
    cached_files: u64,
    cached_bytes: u64,
    used_bytes: u64,
    quota_bytes: u64,
    hit_bytes: u64,
    miss_bytes: u64,
    origin_requests: u64,
    origin_read_bytes: u64,
    scan: ScanOutput,
    leaving_links: LeavingLinksOutput,
    degraded: Option<String>,
    fuse_requests: BTreeMap<&'static str, u64>,
    mounted: bool,
    stale_files: u64,
    damaged_extents: u64,
    image: ImageOutput,
    sealable: bool,
    unsealed_reason: String,
    sealed_trouble: Option<String>,
    verified_bytes: u64,
    twin_requests: BTreeMap<&'static str, u64>,
}

impl From<DatasetStatus> for StatusOutput {
    fn from(status: DatasetStatus) -> Self {
        let (state, error) = match status.scan {
            ScanProgress::Running => ("Running", None),
            ScanProgress::Complete => ("Complete", None),
            ScanProgress::Partial { folders, reason } => (
                "Partial",
                Some(format!("{folders} folders could not be read: {reason}")),
            ),
            ScanProgress::Failed { reason } => ("Failed", Some(reason)),
        };
        Self {
            files: status.files,
            folders: status.folders,
            links: status.links,
            total_bytes: status.total_bytes,
            cached_files: status.cached_files,
            cached_bytes: status.cached_bytes,
            used_bytes: status.used_bytes,
            quota_bytes: status.quota_bytes,
            hit_bytes: status.hit_bytes,
            miss_bytes: status.miss_bytes,
            origin_requests: status.origin.requests,
            origin_read_bytes: status.origin.read_bytes,
            scan: ScanOutput {
                state,
                files: status.files,
                error,
            },
            leaving_links: LeavingLinksOutput {
                count: status.leaving_links,
                names: status.leaving_names,
            },
            degraded: status.degraded,
            fuse_requests: status.requests,
            mounted: status.mounted,
            stale_files: status.stale_files,
            damaged_extents: status.damaged_extents,
            image: status.mapped.image.into(),
            sealable: status.mapped.unsealed.is_none(),
            sealed_trouble: status.mapped.sealed_trouble,
            unsealed_reason: status.mapped.unsealed.unwrap_or_default(),
            verified_bytes: status.mapped.verified_bytes,
            twin_requests: status.mapped.twin_requests,
        }
    }
}

#[derive(IntoPyObject)]
struct LoadFailureOutput {
    path: String,
    reason: String,
}

#[derive(IntoPyObject)]
struct LoadOutput {
    phase: &'static str,
    files: u64,
    bytes: u64,
    files_total: Option<u64>,
    bytes_total: Option<u64>,
    failed: Vec<LoadFailureOutput>,
    failed_count: u64,
    skipped_bytes: u64,
}

impl From<LoadStatus> for LoadOutput {
    fn from(status: LoadStatus) -> Self {
        let failure = |(path, reason)| LoadFailureOutput { path, reason };
        Self {
            phase: match status.phase {
                LoadPhase::Running => "Running",
                LoadPhase::Complete => "Complete",
                LoadPhase::Partial => "Partial",
                LoadPhase::Failed => "Failed",
                LoadPhase::Stopped => "Stopped",
            },
            files: status.files,
            bytes: status.bytes,
            files_total: status.files_total,
            bytes_total: status.bytes_total,
            failed: status.failed.into_iter().map(failure).collect(),
            failed_count: status.failed_count,
            skipped_bytes: status.skipped_bytes,
        }
    }
}

#[derive(IntoPyObject)]
struct EventOutput {
    dataset: String,
    time: f64,
    #[pyo3(item("type"))]
    severity: &'static str,
    reason: &'static str,
    message: String,
}

impl From<Event> for EventOutput {
    fn from(event: Event) -> Self {
        Self {
            dataset: event.dataset,
            time: event
                .time
                .duration_since(UNIX_EPOCH)
                .map_or(0.0, |time| time.as_secs_f64()),
            severity: match event.severity {
                Severity::Normal => "Normal",
                Severity::Warning => "Warning",
            },
            reason: event.reason,
            message: event.message,
        }
    }
}

/// All data sets of one node.
#[pyclass(name = "Engine", module = "atlas._native", frozen)]
pub(crate) struct PyEngine {
    engine: Engine,
}

#[pymethods]
impl PyEngine {
    #[new]
    fn new(py: Python<'_>, live_folder: PathBuf) -> PyResult<Self> {
        Ok(Self {
            engine: detached(py, || Engine::new(live_folder))?,
        })
    }

    fn create(&self, py: Python<'_>, dataset: DatasetInput) -> PyResult<()> {
        detached(py, || self.engine.create(dataset.settings()?))
    }

    fn open(&self, py: Python<'_>, dataset: DatasetInput) -> PyResult<()> {
        detached(py, || self.engine.open(dataset.settings()?))
    }

    fn serve(&self, py: Python<'_>, id: &str, fuse: RawFd, resume: bool) -> PyResult<()> {
        detached(py, || self.engine.serve(id, duplicate(fuse)?, resume))
    }

    fn serve_twin(&self, py: Python<'_>, id: &str, fuse: RawFd, resume: bool) -> PyResult<()> {
        detached(py, || self.engine.serve_twin(id, duplicate(fuse)?, resume))
    }

    fn twin_ended(&self, py: Python<'_>, id: &str) -> PyResult<bool> {
        detached(py, || self.engine.twin_ended(id))
    }

    fn stop_twin(&self, py: Python<'_>, id: &str) -> PyResult<()> {
        detached(py, || self.engine.stop_twin(id))
    }

    fn stop_live(&self, py: Python<'_>, id: &str) -> PyResult<()> {
        detached(py, || self.engine.stop_live(id))
    }

    /// `twin` is a mount of the twin connection for `kind` "lazy", ignored for "sealed".
    fn mount_image(
        &self,
        py: Python<'_>,
        id: &str,
        kind: &str,
        twin: RawFd,
    ) -> PyResult<ImageMountOutput> {
        let mounted = detached(py, || {
            let slots = match kind {
                "lazy" => Slots::Twins(borrow(twin)?),
                "sealed" => Slots::Segments,
                _ => {
                    return Err(Error::new(
                        ErrorKind::Invalid,
                        22,
                        format!("{kind} is no kind of image"),
                    ));
                }
            };
            self.engine.mount_image(id, slots)
        })?;
        Ok(ImageMountOutput {
            mount: mounted.mount.into_raw_fd(),
            superblock: mounted.superblock,
            device: (mounted.device.major, mounted.device.minor),
        })
    }

    fn status(&self, py: Python<'_>, id: &str) -> PyResult<StatusOutput> {
        Ok(detached(py, || self.engine.status(id))?.into())
    }

    fn start_load(
        &self,
        py: Python<'_>,
        id: &str,
        load: &str,
        paths: Vec<Vec<u8>>,
        parallel: usize,
        bytes_per_second: u64,
    ) -> PyResult<()> {
        let settings = LoadSettings {
            paths,
            parallel: if parallel == 0 {
                DEFAULT_PARALLEL
            } else {
                parallel
            },
            bytes_per_second: (bytes_per_second > 0).then_some(bytes_per_second),
        };
        detached(py, || self.engine.start_load(id, load, settings))
    }

    fn load_status(&self, py: Python<'_>, id: &str, load: &str) -> PyResult<LoadOutput> {
        Ok(detached(py, || self.engine.load_status(id, load))?.into())
    }

    fn stop_load(&self, py: Python<'_>, id: &str, load: &str) -> PyResult<()> {
        detached(py, || self.engine.stop_load(id, load))
    }

    fn events(&self, py: Python<'_>) -> Vec<EventOutput> {
        py.detach(|| self.engine.events())
            .into_iter()
            .map(EventOutput::from)
            .collect()
    }

    fn close(&self, py: Python<'_>, id: &str) -> PyResult<()> {
        detached(py, || self.engine.close(id))
    }

    /// (bytes freed, bytes that follow when the last user of a sealed front has left)
    fn free(&self, py: Python<'_>, id: &str) -> PyResult<(u64, u64)> {
        let freed = detached(py, || self.engine.free(id))?;
        Ok((freed.freed_bytes, freed.held_bytes))
    }

    fn destroy(&self, py: Python<'_>, id: &str) -> PyResult<()> {
        detached(py, || self.engine.destroy(id))
    }

    fn ended(&self, py: Python<'_>, id: &str) -> PyResult<bool> {
        detached(py, || self.engine.ended(id))
    }
}

fn duplicate(descriptor: RawFd) -> atlas_core::Result<OwnedFd> {
    borrow(descriptor)?
        .try_clone_to_owned()
        .map_err(|error| Error::from_io(&error, "duplicate the FUSE descriptor"))
}

/// A descriptor number that Python holds open during the call.
pub(crate) fn borrow<'a>(descriptor: RawFd) -> atlas_core::Result<BorrowedFd<'a>> {
    if descriptor < 0 {
        return Err(Error::new(
            ErrorKind::Invalid,
            9,
            format!("{descriptor} is no descriptor"),
        ));
    }
    // SAFETY: not -1; the caller keeps the descriptor open for the duration of the call, as every
    // Python function that takes a descriptor asks for.
    Ok(unsafe { BorrowedFd::borrow_raw(descriptor) })
}
