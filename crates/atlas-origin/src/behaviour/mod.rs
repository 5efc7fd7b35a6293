//! What every origin has to pass: each check builds a small tree and asks the origin about it.
//!
//! A check fails by panicking. Checks need no rights beyond those of the test.

#![expect(clippy::unwrap_used, reason = "a check fails by panicking")]

mod names;
mod reading;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use atlas_core::{ErrorKind, Result, VersionTag};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::origin::Origin;

/// An origin and the tree behind it.
pub trait Fixture {
    fn origin(&self) -> Arc<dyn Origin>;

    /// An empty folder that a check fills; the origin shows it as its root.
    fn folder(&self) -> &Path;
}

pub type Check = fn(&dyn Fixture);

/// Every check by name.
pub const CHECKS: &[(&str, Check)] = &[
    (
        "a folder is listed with types",
        names::a_folder_is_listed_with_types,
    ),
    (
        "odd names arrive as they are",
        names::odd_names_arrive_as_they_are,
    ),
    (
        "attributes are those of the entry",
        names::attributes_are_those_of_the_entry,
    ),
    (
        "links are told of and not followed",
        names::links_are_told_of_and_not_followed,
    ),
    (
        "many entries are asked for at once",
        names::many_entries_are_asked_for_at_once,
    ),
    ("ranges are read exactly", reading::ranges_are_read_exactly),
    ("holes are zeros", reading::holes_are_zeros),
    (
        "another version is stale",
        reading::another_version_is_stale,
    ),
    (
        "many files are read at once",
        reading::many_files_are_read_at_once,
    ),
    (
        "what is no file is not read",
        reading::what_is_no_file_is_not_read,
    ),
    (
        "what is not there is not found",
        names::what_is_not_there_is_not_found,
    ),
    (
        "paths that leave the root are invalid",
        names::paths_that_leave_the_root_are_invalid,
    ),
    (
        "a renamed folder is not mixed up",
        reading::a_renamed_folder_is_not_mixed_up,
    ),
    (
        "no extended attributes are none",
        names::no_extended_attributes_are_none,
    ),
    (
        "requests and bytes are counted",
        reading::requests_and_bytes_are_counted,
    ),
];

/// Runs every check on a fixture of its own; gives their number.
pub fn check_all<F: Fixture>(mut make: impl FnMut(&str) -> F) -> usize {
    for (name, check) in CHECKS {
        check(&make(name));
    }
    CHECKS.len()
}

fn path(fixture: &dyn Fixture, name: &[u8]) -> PathBuf {
    fixture.folder().join(OsStr::from_bytes(name))
}

fn write(fixture: &dyn Fixture, name: &[u8], bytes: &[u8]) {
    fs::write(path(fixture, name), bytes).unwrap();
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|index| (index.wrapping_mul(31) >> 3) as u8)
        .collect()
}

fn tag(origin: &dyn Origin, name: &[u8]) -> VersionTag {
    origin.stat(name).unwrap().attributes.tag()
}

fn read(origin: &dyn Origin, name: &[u8], tag: &VersionTag) -> Result<Vec<u8>> {
    let mut bytes = vec![0xee; tag.size as usize];
    origin.read(name, tag, 0, &mut bytes).map(|()| bytes)
}

fn kind<T: std::fmt::Debug>(answer: Result<T>) -> ErrorKind {
    answer.unwrap_err().kind
}

fn make_fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::from(0o600), 0).unwrap();
}
