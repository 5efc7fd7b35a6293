//! The words that every Atlas crate shares. Nothing in here does I/O.

mod address;
mod attributes;
mod error;
mod identity;
mod text;

pub use address::{Address, EXTENT_BYTES, Extent, PAGE_BYTES, extents_of, round_up_to_page};
pub use attributes::{
    ACCESS_ACL, Attributes, DEFAULT_ACL, ExtendedAttribute, Kind, SET_ID_BITS, Timestamp,
    USER_PREFIX, VersionTag,
};
pub use error::{Error, ErrorKind, Result};
pub use identity::Identity;
pub use text::printable;
