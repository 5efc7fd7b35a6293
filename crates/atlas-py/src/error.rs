//! Errors of the engine as Python exceptions.

use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

create_exception!(
    atlas._native,
    NativeError,
    PyException,
    "Every error of this module."
);

/// The exception for an error, with `code`, `kind` and `errno` set.
pub(crate) fn raise(py: Python<'_>, error: &atlas_core::Error) -> PyErr {
    let exception = NativeError::new_err(error.message.clone());
    let value = exception.value(py);
    let set = value
        .setattr("code", error.kind.code())
        .and_then(|()| value.setattr("kind", format!("{:?}", error.kind)))
        .and_then(|()| value.setattr("errno", error.errno));
    match set {
        Ok(()) => exception,
        Err(problem) => problem,
    }
}

/// Run `action` without the interpreter's lock.
pub(crate) fn detached<T: Send>(
    py: Python<'_>,
    action: impl FnOnce() -> atlas_core::Result<T> + Send,
) -> PyResult<T> {
    py.detach(action).map_err(|error| raise(py, &error))
}
