//! An allocator, attributes and a random generator for the tests.
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test file uses a part of it"
)]

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use atlas_core::{Address, Attributes, Kind, Result, Timestamp, round_up_to_page};
use atlas_fs::{Allocate, Namespace, NodeId};

/// Hands out one range after the other. Shared by all openings of one namespace.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Allocate for Counter {
    fn allocate(&self, size: u64, _early: bool) -> Result<Address> {
        Ok(Address(
            self.0.fetch_add(round_up_to_page(size), Ordering::Relaxed),
        ))
    }
}

pub(crate) struct Fixture {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) allocator: Arc<Counter>,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            allocator: Arc::default(),
        }
    }

    pub(crate) fn create(&self) -> Namespace {
        Namespace::create(
            &self.folder.path().join("tables"),
            &folder(),
            self.allocator.clone(),
        )
        .unwrap()
    }

    pub(crate) fn open(&self) -> Namespace {
        Namespace::open(&self.folder.path().join("tables"), self.allocator.clone()).unwrap()
    }
}

pub(crate) fn attributes(kind: Kind, inode: u64) -> Attributes {
    Attributes {
        kind,
        permissions: 0o644,
        uid: 1000,
        gid: u32::MAX,
        links: 1,
        size: if kind == Kind::File { 100 } else { 0 },
        device_number: 0,
        modified: Timestamp {
            seconds: -5,
            nanoseconds: 999_999_999,
        },
        changed: Timestamp {
            seconds: 1 << 40,
            nanoseconds: 1,
        },
        inode,
        device: 7,
    }
}

pub(crate) fn folder() -> Attributes {
    attributes(Kind::Folder, 1)
}

pub(crate) fn file(inode: u64) -> Attributes {
    attributes(Kind::File, inode)
}

pub(crate) fn names(names: &[&str]) -> Vec<(Vec<u8>, Option<Kind>)> {
    names
        .iter()
        .map(|name| (name.as_bytes().to_vec(), None))
        .collect()
}

/// The folder `name` in `parent`, made Ready.
pub(crate) fn add_folder(namespace: &Namespace, parent: NodeId, name: &[u8], inode: u64) -> NodeId {
    namespace
        .set_entry(parent, name, &attributes(Kind::Folder, inode), None)
        .unwrap()
        .id
}

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn one_in(&mut self, chance: u64) -> bool {
        self.below(chance) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}
