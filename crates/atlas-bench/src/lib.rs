//! What the benchmarks need: an origin that is slow in a known way, and readers that are not.

mod nodes;
mod reader;
mod schedule;
mod slow_filesystem;
mod slow_origin;
mod source;

pub use reader::{ReadReport, read_files, stat_files};
pub use schedule::Limits;
pub use slow_origin::{Load, SlowOrigin};
