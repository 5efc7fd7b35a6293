//! The Python module `atlas._native`: conversion only.
//!
//! Every function that may block lets go of the interpreter first.

mod bench;
mod engine;
mod error;
mod mounts;

use pyo3::prelude::*;

#[pymodule]
mod _native {
    #[pymodule_export]
    use crate::bench::{read_files, serve_slow_origin, stat_files};
    #[pymodule_export]
    use crate::engine::PyEngine;
    #[pymodule_export]
    use crate::error::NativeError;
    #[pymodule_export]
    use crate::mounts::{
        attach_beneath, attach_mount, check_source, clone_mount, device_behind, device_of,
        mount_fuse, mount_table, mount_twin, open_folder_as, open_fuse, open_tier, probe_mapped,
        superblock_exists, unmount,
    };

    use super::{Bound, PyModule, PyModuleMethods, PyResult};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
