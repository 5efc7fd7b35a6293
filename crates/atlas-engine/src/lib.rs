//! A data set at work: scan, fill, load and the live front, from the parts below.
//!
//! [`Engine`] is all that the layers above see.

mod ahead;
mod batch;
mod core;
mod dataset;
mod engine;
mod events;
mod fill;
mod flights;
mod free;
mod late_origin;
mod left_out;
mod live;
mod load;
mod mapped;
mod pace;
mod pages;
mod scan;
mod walk;

pub use dataset::{DatasetSettings, DatasetStatus, WrapOrigin};
pub use engine::Engine;
pub use events::{Event, Severity};
pub use free::Freed;
pub use load::{LoadPhase, LoadSettings, LoadStatus};
pub use mapped::{ImageProgress, MappedSettings, MappedStatus, Probed, Slots, probe_mapped};
pub use scan::ScanProgress;
