//! Times a namespace of many entries: `cargo run --release -p atlas-fs --example namespace_scale
//! [ENTRIES] [FOLDER]`. The tables go into FOLDER, by default the system's temporary one.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::time::Instant;

use atlas_core::{Kind, Result};
use atlas_fs::{Lookup, Namespace, NodeId};
use scale::{Scale, attributes, fill, names};

mod scale;

const NAMES_A_FOLDER: usize = 10_000;
const LARGE_FOLDER: usize = 100_000;
const LOOKUPS: u64 = 1_000_000;

fn main() -> Result<()> {
    let Scale {
        entries,
        folder,
        allocator,
        namespace,
    } = Scale::from_arguments()?;
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
            names(NAMES_A_FOLDER),
            Kind::File,
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
    let namespace = Namespace::open(&folder.path().join("tables"), allocator)?;
    println!("opened again: {:.2} s", before.elapsed().as_secs_f64());
    let before = Instant::now();
    let unfinished = namespace.unfinished_folders().len();
    println!(
        "{unfinished} unfinished folders found: {:.2} s",
        before.elapsed().as_secs_f64()
    );
    Ok(())
}
