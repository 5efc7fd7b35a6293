//! A synthetic data set for the examples that measure.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use atlas_core::{Address, Attributes, Error, Kind, Result, Timestamp, round_up_to_page};
use atlas_fs::{Allocate, Namespace, NewEntry, NodeId};

#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Bytes handed out.
    #[allow(dead_code, clippy::allow_attributes, reason = "one example uses it")]
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Allocate for Counter {
    fn allocate(&self, size: u64, _early: bool) -> Result<Address> {
        Ok(Address(
            self.0.fetch_add(round_up_to_page(size), Ordering::Relaxed),
        ))
    }
}

/// What the command line asks for, and an empty namespace.
pub(crate) struct Scale {
    pub(crate) entries: usize,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) allocator: Arc<Counter>,
    pub(crate) namespace: Namespace,
}

impl Scale {
    /// Takes `[ENTRIES] [FOLDER]`.
    pub(crate) fn from_arguments() -> Result<Self> {
        let mut arguments = std::env::args().skip(1);
        let entries = arguments.next().and_then(|text| text.parse().ok());
        let base = arguments
            .next()
            .map_or_else(std::env::temp_dir, PathBuf::from);
        let folder =
            tempfile::tempdir_in(base).map_err(|error| Error::from_io(&error, "make a folder"))?;
        let allocator = Arc::new(Counter::default());
        let root = attributes(Kind::Folder, 1);
        let tables = folder.path().join("tables");
        let namespace = Namespace::create(&tables, &root, allocator.clone())?;
        Ok(Self {
            entries: entries.unwrap_or(1_000_000),
            folder,
            allocator,
            namespace,
        })
    }
}

pub(crate) fn attributes(kind: Kind, inode: u64) -> Attributes {
    let time = Timestamp {
        seconds: 1_700_000_000,
        nanoseconds: 1,
    };
    Attributes {
        kind,
        permissions: 0o644,
        uid: 1000,
        gid: 1000,
        links: 1,
        size: 8192,
        device_number: 0,
        modified: time,
        changed: time,
        inode,
        device: 7,
    }
}

/// Not in order, as folders of most file systems are.
pub(crate) fn names(count: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|number| format!("sample-{:08}.wav", number * 7919 % count).into())
        .collect()
}

/// Makes a folder complete; gives the ids of what is in it, with inodes from `inode` on.
pub(crate) fn fill(
    namespace: &Namespace,
    folder: NodeId,
    listed: Vec<Vec<u8>>,
    kind: Kind,
    inode: u64,
) -> Result<Vec<NodeId>> {
    let count = listed.len();
    let hinted = listed.into_iter().map(|name| (name, Some(kind))).collect();
    namespace.name_children(folder, hinted)?;
    let children = namespace.children(folder, 0, count);
    let known: Vec<_> = (0..count as u64)
        .map(|number| attributes(kind, inode + number))
        .collect();
    let entries: Vec<_> = children
        .iter()
        .zip(&known)
        .map(|(child, attributes)| NewEntry {
            name: &child.name,
            attributes,
            target: None,
            extended: &[],
        })
        .collect();
    let results = namespace.set_entries(folder, &entries);
    let ids = results.into_iter().map(|node| Ok(node?.id)).collect();
    namespace.complete_if_done(folder);
    ids
}
