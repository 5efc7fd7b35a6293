//! The rows of the tables, as they lie in the mapped files: 64-bit words, all of them atomic.
//!
//! Content is written first (relaxed); then one word makes it known (release). Whoever reads that
//! word (acquire) sees the content. The same order makes a killed process harmless: what it did
//! not make known is not there.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use atlas_core::{Address, Attributes, Kind, SET_ID_BITS, Timestamp};

use crate::{Node, NodeId};

/// No bytes, so no address: folders, links, empty files.
pub(crate) const NO_ADDRESS: u64 = u64::MAX;

/// What is known of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum State {
    /// Nothing: reserved, or leaked by a process that was killed.
    Free = 0,
    /// The name, and perhaps a hint of the kind.
    Named = 1,
    /// Everything, for ever.
    Ready = 2,
    /// Named, but no longer there when its attributes were asked for.
    Gone = 3,
}

/// How much of a folder is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FolderState {
    /// It was never listed.
    Unlisted,
    /// All its names are known.
    Named,
    /// All its names are known, and the attributes of all that are still there.
    Complete,
    /// Listing it failed with this errno; it may succeed another time.
    Failed(i32),
}

impl FolderState {
    /// Whether the tables have all names of the folder.
    pub const fn is_named(self) -> bool {
        matches!(self, Self::Named | Self::Complete)
    }

    const fn to_word(self) -> u64 {
        match self {
            Self::Unlisted => 0,
            Self::Named => 1,
            Self::Complete => 2,
            Self::Failed(errno) => 3 | (errno.cast_unsigned() as u64) << 32,
        }
    }

    const fn from_word(word: u64) -> Self {
        match word as u8 {
            1 => Self::Named,
            2 => Self::Complete,
            3 => Self::Failed(((word >> 32) as u32).cast_signed()),
            _ => Self::Unlisted,
        }
    }
}

/// Words of a node.
pub(crate) const RECORD_WORDS: usize = 16;

/// State, kind and flags in a byte each, permissions in the upper half. This word publishes the
/// rest: at Named parent and name, at Ready everything.
const HEAD: usize = 0;
/// `FolderState`. Publishes FIRST_ENTRY and COUNT.
const FOLDER: usize = 1;
const PARENT: usize = 2;
/// Offset in the names.
const NAME: usize = 3;
const OWNERS: usize = 4;
/// Number of links, and in the upper half that of the set of extended attributes (0: none).
const LINKS: usize = 5;
const SIZE: usize = 6;
const DEVICE_NUMBER: usize = 7;
const MODIFIED_SECONDS: usize = 8;
const CHANGED_SECONDS: usize = 9;
const NANOSECONDS: usize = 10;
const INODE: usize = 11;
const DEVICE: usize = 12;
/// Of a file its address, of a link the offset of its target in the names, of a folder the index
/// of its first entry (written when it is named, long after it is Ready).
const PLACE: usize = 13;
const COUNT: usize = 14;
/// So many of a folder's first entries are known to be Ready or Gone. Never too high.
const DONE: usize = 15;

/// In the flags: the address was allocated before the folder was named.
const EARLY: u64 = 1 << 16;
/// In the flags: a link that leads out of the data set.
const LEAVING: u64 = 1 << 17;

/// One node.
pub(crate) struct Record<'a>(pub(crate) [&'a AtomicU64; RECORD_WORDS]);

/// What makes a node Ready, besides its name.
pub(crate) struct Content<'a> {
    pub(crate) attributes: &'a Attributes,
    pub(crate) place: u64,
    pub(crate) early: bool,
    pub(crate) leaving: bool,
    /// Number of the set of extended attributes; 0 = none.
    pub(crate) extended: u32,
}

impl Record<'_> {
    fn get(&self, word: usize) -> u64 {
        self.0[word].load(Relaxed)
    }

    fn set(&self, word: usize, value: u64) {
        self.0[word].store(value, Relaxed);
    }

    pub(crate) fn state(&self) -> State {
        match self.0[HEAD].load(Acquire) as u8 {
            1 => State::Named,
            2 => State::Ready,
            3 => State::Gone,
            _ => State::Free,
        }
    }

    /// Of a Ready node the kind, else a hint.
    pub(crate) fn kind(&self) -> Option<Kind> {
        Kind::from_u8((self.0[HEAD].load(Acquire) >> 8) as u8)
    }

    pub(crate) fn write_name(&self, parent: NodeId, name: u64) {
        self.set(PARENT, parent.0);
        self.set(NAME, name);
    }

    pub(crate) fn publish_named(&self, hint: Option<Kind>) {
        let kind = hint.map_or(0, |kind| kind as u64);
        self.0[HEAD].store(State::Named as u64 | kind << 8, Release);
    }

    pub(crate) fn publish_gone(&self) {
        let kind = self.kind().map_or(0, |kind| kind as u64);
        self.0[HEAD].store(State::Gone as u64 | kind << 8, Release);
    }

    pub(crate) fn publish_ready(&self, content: &Content<'_>) {
        let attributes = content.attributes;
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        self.set(OWNERS, pair(attributes.uid, attributes.gid));
        self.set(LINKS, pair(attributes.links, content.extended));
        self.set(SIZE, attributes.size);
        self.set(DEVICE_NUMBER, attributes.device_number);
        self.set(
            MODIFIED_SECONDS,
            attributes.modified.seconds.cast_unsigned(),
        );
        self.set(CHANGED_SECONDS, attributes.changed.seconds.cast_unsigned());
        let (modified, changed) = (attributes.modified, attributes.changed);
        self.set(NANOSECONDS, pair(modified.nanoseconds, changed.nanoseconds));
        self.set(INODE, attributes.inode);
        self.set(DEVICE, attributes.device);
        self.set(PLACE, content.place);
        let permissions = attributes.permissions & 0o7777 & !SET_ID_BITS;
        let mut head =
            State::Ready as u64 | (attributes.kind as u64) << 8 | u64::from(permissions) << 32;
        if content.early {
            head |= EARLY;
        }
        if content.leaving {
            head |= LEAVING;
        }
        self.0[HEAD].store(head, Release);
    }

    pub(crate) fn parent(&self) -> NodeId {
        NodeId(self.get(PARENT))
    }

    /// Offset in the names.
    pub(crate) fn name(&self) -> u64 {
        self.get(NAME)
    }

    /// Offset in the names of the target of a Ready link.
    pub(crate) fn target(&self) -> u64 {
        self.get(PLACE)
    }

    /// Whether this is a Ready link that leads out of the data set.
    pub(crate) fn leaves(&self) -> bool {
        self.get(HEAD) & LEAVING != 0
    }

    /// Number of the set of extended attributes of a Ready node; 0 = none.
    pub(crate) fn extended(&self) -> u32 {
        (self.get(LINKS) >> 32) as u32
    }

    /// A copy, if the node is Ready.
    pub(crate) fn node(&self, id: NodeId) -> Option<Node> {
        let head = self.0[HEAD].load(Acquire);
        if head as u8 != State::Ready as u8 {
            return None;
        }
        let kind = Kind::from_u8((head >> 8) as u8)?;
        let place = self.get(PLACE);
        let (owners, nanoseconds) = (self.get(OWNERS), self.get(NANOSECONDS));
        Some(Node {
            id,
            parent: self.parent(),
            attributes: Attributes {
                kind,
                permissions: (head >> 32) as u32,
                uid: owners as u32,
                gid: (owners >> 32) as u32,
                links: self.get(LINKS) as u32,
                size: self.get(SIZE),
                device_number: self.get(DEVICE_NUMBER),
                modified: Timestamp {
                    seconds: self.get(MODIFIED_SECONDS).cast_signed(),
                    nanoseconds: nanoseconds as u32,
                },
                changed: Timestamp {
                    seconds: self.get(CHANGED_SECONDS).cast_signed(),
                    nanoseconds: (nanoseconds >> 32) as u32,
                },
                inode: self.get(INODE),
                device: self.get(DEVICE),
            },
            address: (kind == Kind::File && place != NO_ADDRESS).then_some(Address(place)),
            early: head & EARLY != 0,
        })
    }

    pub(crate) fn is_ready_folder(&self) -> bool {
        self.state() == State::Ready && self.kind() == Some(Kind::Folder)
    }

    pub(crate) fn folder_state(&self) -> FolderState {
        FolderState::from_word(self.0[FOLDER].load(Acquire))
    }

    pub(crate) fn publish_folder(&self, state: FolderState) {
        self.0[FOLDER].store(state.to_word(), Release);
    }

    pub(crate) fn publish_entries(&self, first: u64, count: u64) {
        self.set(PLACE, first);
        self.set(COUNT, count);
        self.publish_folder(FolderState::Named);
    }

    /// Index of the first entry and number of entries; `None` before the folder is named.
    pub(crate) fn entries(&self) -> Option<(u64, u64)> {
        self.folder_state()
            .is_named()
            .then(|| (self.get(PLACE), self.get(COUNT)))
    }

    pub(crate) fn done(&self) -> u64 {
        self.get(DONE)
    }

    pub(crate) fn set_done(&self, done: u64) {
        self.set(DONE, done);
    }
}

/// One name in a named folder. The names of a folder lie together, in the order of their bytes.
pub(crate) struct Entry<'a> {
    /// Offset in the names.
    pub(crate) name: &'a AtomicU64,
    /// Changes at most once after the folder is named: from a node that is not Ready to the Ready
    /// node of another name of the same file.
    pub(crate) node: &'a AtomicU64,
}

impl Entry<'_> {
    pub(crate) fn node(&self) -> NodeId {
        NodeId(self.node.load(Acquire))
    }
}

/// One name that was bound before its folder was named.
pub(crate) struct EarlyRow<'a> {
    pub(crate) parent: &'a AtomicU64,
    /// Offset in the names.
    pub(crate) name: &'a AtomicU64,
    /// Written last; 0 = not written.
    pub(crate) node: &'a AtomicU64,
}
