//! What the benchmarks need of Rust: an origin that is slow in a known way, and fast readers.

#![expect(
    clippy::needless_pass_by_value,
    reason = "arguments from Python are converted into owned values"
)]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{BorrowedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

use atlas_bench::{Limits, SlowOrigin};
use atlas_core::{Error, ErrorKind, Result};
use pyo3::prelude::*;

use crate::engine::borrow;
use crate::error::detached;

#[derive(IntoPyObject)]
pub(crate) struct ReadOutput {
    files: u64,
    bytes: u64,
    seconds: f64,
    cpu_seconds: f64,
}

impl From<atlas_bench::ReadReport> for ReadOutput {
    fn from(report: atlas_bench::ReadReport) -> Self {
        Self {
            files: report.files,
            bytes: report.bytes,
            seconds: report.seconds,
            cpu_seconds: report.cpu_seconds,
        }
    }
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, libc::EINVAL, message)
}

fn names(paths: Vec<Vec<u8>>) -> Result<Vec<CString>> {
    paths
        .into_iter()
        .map(|path| CString::new(path).map_err(|_| invalid("a path holds a zero byte")))
        .collect()
}

#[pyfunction]
pub(crate) fn read_files(
    py: Python<'_>,
    paths: Vec<Vec<u8>>,
    order: Vec<u32>,
) -> PyResult<ReadOutput> {
    detached(py, || {
        Ok(atlas_bench::read_files(&names(paths)?, &order)?.into())
    })
}

#[pyfunction]
pub(crate) fn stat_files(
    py: Python<'_>,
    paths: Vec<Vec<u8>>,
    order: Vec<u32>,
) -> PyResult<ReadOutput> {
    detached(py, || {
        Ok(atlas_bench::stat_files(&names(paths)?, &order)?.into())
    })
}

#[pyfunction]
pub(crate) fn serve_slow_origin(
    py: Python<'_>,
    source: PathBuf,
    target: PathBuf,
    latency_seconds: f64,
    bytes_per_second: u64,
    operations_per_second: u64,
    ready: RawFd,
) -> PyResult<BTreeMap<&'static str, u64>> {
    detached(py, || {
        let latency = Duration::try_from_secs_f64(latency_seconds)
            .map_err(|error| invalid(format!("a latency of {latency_seconds} s: {error}")))?;
        let ready: BorrowedFd<'_> = borrow(ready)?;
        let limits = Limits {
            latency,
            bytes_per_second,
            operations_per_second,
        };
        let origin = SlowOrigin::mount(&source, &target, limits)?;
        rustix::io::write(ready, &[1]).map_err(|errno| {
            Error::from_errno(errno.raw_os_error(), "say that the slow origin is ready")
        })?;
        origin.wait();
        Ok(origin.counts())
    })
}
