//! Times a namespace of many entries: `cargo run --release -p atlas-fs --example namespace_scale
//! [ENTRIES] [FOLDER]`. The tables go into FOLDER, by default the system's temporary one.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use atlas_core::{Address, Attributes, Error, Kind, Result, Timestamp, round_up_to_page};
use atlas_fs::{Allocate, Lookup, Namespace, NewEntry, NodeId};

const NAMES_A_FOLDER: usize = 10_000;
const LARGE_FOLDER: usize = 100_000;
const LOOKUPS: u64 = 1_000_000;

struct Counter(AtomicU64);

impl Allocate for Counter {
    fn allocate(&self, size: u64, _early: bool) -> Result<Address> {
        Ok(Address(
            self.0.fetch_add(round_up_to_page(size), Ordering::Relaxed),
        ))
    }
}

fn attributes(kind: Kind, inode: u64) -> Attributes {
    Attributes {
        kind,
        permissions: 0o644,
        uid: 1000,
        gid: 1000,
        links: 1,
        size: 8192,
        device_number: 0,
        modified: Timestamp {
            seconds: 1_700_000_000,
            nanoseconds: 1,
        },
        changed: Timestamp {
            seconds: 1_700_000_000,
            nanoseconds: 1,
        },
        inode,
        device: 7,
    }
}

fn names(count: usize) -> Vec<Vec<u8>> {
    // Not in order, as folders of most file systems are.
    (0..count)
        .map(|number| format!("sample-{:08}.wav", number * 7919 % count).into())
        .collect()
}

fn fill(namespace: &Namespace, folder: NodeId, count: usize, inode: u64) -> Result<()> {
    let listed = names(count);
    let hinted = listed
        .iter()
        .map(|name| (name.clone(), Some(Kind::File)))
        .collect();
    namespace.name_children(folder, hinted)?;
    let children = namespace.children(folder, 0, count);
    let known: Vec<_> = (0..count as u64)
        .map(|number| attributes(Kind::File, inode + number))
        .collect();
    let entries: Vec<_> = children
        .iter()
        .zip(&known)
        .map(|(child, attributes)| NewEntry {
            name: &child.name,
            attributes,
            target: None,
        })
        .collect();
    for result in namespace.set_entries(folder, &entries) {
        result?;
    }
    namespace.complete_if_done(folder);
    Ok(())
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let entries = arguments
        .next()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1_000_000);
    let base = arguments
        .next()
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let folder =
        tempfile::tempdir_in(base).map_err(|error| Error::from_io(&error, "make a folder"))?;
    let tables = folder.path().join("tables");
    let root = attributes(Kind::Folder, 1);
    let allocator = Arc::new(Counter(AtomicU64::new(0)));

    let namespace = Namespace::create(&tables, &root, allocator.clone())?;
    let before = Instant::now();
    let mut folders = Vec::new();
    for number in 0..entries / NAMES_A_FOLDER {
        let name = format!("folder-{number}");
        let given = attributes(Kind::Folder, 10 + number as u64);
        folders.push(
            namespace
                .set_entry(NodeId::ROOT, name.as_bytes(), &given, None)?
                .id,
        );
    }
    for (number, id) in folders.iter().enumerate() {
        fill(
            &namespace,
            *id,
            NAMES_A_FOLDER,
            1_000_000 * (1 + number as u64),
        )?;
    }
    let seconds = before.elapsed().as_secs_f64();
    let count = (folders.len() * (NAMES_A_FOLDER + 1)) as f64;
    let bytes = namespace.table_bytes()? as f64 / count;
    println!(
        "{count} entries named and bound: {seconds:.2} s, {:.2} us each",
        seconds * 1e6 / count
    );
    println!("tables: {bytes:.0} bytes an entry");

    let (mut found, before) = (0, Instant::now());
    for number in 0..LOOKUPS {
        let id = folders[(number * 31) as usize % folders.len()];
        let name = format!("sample-{:08}.wav", number * 6007 % NAMES_A_FOLDER as u64);
        found += u64::from(matches!(
            namespace.lookup(id, name.as_bytes()),
            Lookup::Found(_)
        ));
    }
    println!(
        "{found} lookups: {:.2} us each",
        before.elapsed().as_secs_f64() * 1e6 / LOOKUPS as f64
    );

    let given = attributes(Kind::Folder, 5);
    let large = namespace
        .set_entry(NodeId::ROOT, b"large", &given, None)?
        .id;
    let listed = names(LARGE_FOLDER)
        .into_iter()
        .map(|name| (name, None))
        .collect();
    let before = Instant::now();
    namespace.name_children(large, listed)?;
    println!(
        "{LARGE_FOLDER} names of one folder: {:.3} s",
        before.elapsed().as_secs_f64()
    );

    let before = Instant::now();
    namespace.settle()?;
    println!("settled: {:.2} s", before.elapsed().as_secs_f64());
    drop(namespace);
    let before = Instant::now();
    let namespace = Namespace::open(&tables, allocator)?;
    println!("opened again: {:.2} s", before.elapsed().as_secs_f64());
    let before = Instant::now();
    let unfinished = namespace.unfinished_folders().len();
    println!(
        "{unfinished} unfinished folders found: {:.2} s",
        before.elapsed().as_secs_f64()
    );
    Ok(())
}
