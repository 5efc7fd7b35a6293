//! Where the bytes come from: the origin trait, POSIX folders, reader threads.
//!
//! Everything here may block for as long as the storage behind it does, so it is called on reader
//! threads ([`Readers`]), which also carry the identity that the origin checks.

#[cfg(feature = "testing")]
pub mod behaviour;
mod faulty;
mod identity;
mod origin;
mod own_mounts;
mod posix;
mod readers;

pub use faulty::{Effect, Fault, FaultyOrigin, Gate, Operation};
pub use identity::as_identity;
pub use origin::{
    Counters, EXTENDED_LIMIT_COUNT, Entry, Listed, Origin, ReadRequest, USER_LIMIT_BYTES,
};
pub use own_mounts::check_source;
pub use posix::PosixOrigin;
pub use readers::{Class, ReaderSettings, Readers};
