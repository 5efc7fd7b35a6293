//! FUSE sessions and mounts: the only crate that knows the kernel's FUSE protocol.
//!
//! A [`Filesystem`] gets requests from a [`Session`] and answers through owned reply objects.
//! [`mounts`] makes, attaches and lists mounts. A session never clones its device descriptor: the
//! requests that a dead process had taken can then be asked for again ([`Session::resend`]) by the
//! next process that holds the descriptor, without one reader noticing.

mod buffer;
mod channel;
mod dispatch;
mod filesystem;
mod folder;
pub mod mounts;
mod negotiation;
mod pending;
mod protocol;
mod reply;
mod session;

pub use filesystem::{
    Filesystem, FolderRequest, NodeAttributes, OpenRequest, ReadRequest, Statistics,
};
pub use folder::ReplyFolder;
pub use reply::{
    ReplyAttributes, ReplyData, ReplyEntry, ReplyExtended, ReplyOpen, ReplyStatistics,
};
pub use session::{Profile, Session, SessionSettings};

/// The node id that every file system gives to its root.
pub const ROOT_NODE: u64 = protocol::ROOT_NODE;
