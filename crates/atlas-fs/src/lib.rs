//! The namespace of a data set, what a path in it means, and its image. Knows nothing of FUSE.

mod addresses;
mod binding;
mod extended;
mod filter;
mod image;
mod namespace;
mod naming;
mod record;
mod tables;
mod totals;

pub use addresses::AddressIndex;
pub use binding::NewEntry;
pub use filter::Filter;
pub use image::{ImageTotals, Slot, image_devices, write_image};
pub use namespace::{Allocate, Child, Lookup, Namespace, Node, NodeId};
pub use record::FolderState;
pub use totals::Totals;
