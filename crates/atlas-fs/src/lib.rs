//! The namespace of a data set, and what a path in it means. Knows nothing of FUSE.

mod binding;
mod filter;
mod namespace;
mod naming;
mod record;
mod tables;
mod totals;

pub use binding::NewEntry;
pub use filter::Filter;
pub use namespace::{Allocate, Child, Lookup, Namespace, Node, NodeId};
pub use record::FolderState;
pub use totals::Totals;
