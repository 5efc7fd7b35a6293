//! Times an image and an index of many files: `cargo run --release -p atlas-fs --example image_scale
//! [ENTRIES] [FOLDER]`. All goes into FOLDER, by default the system's temporary one.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::fs::{self, File};
use std::time::Instant;

use atlas_core::{Address, Error, Kind, Result};
use atlas_fs::{AddressIndex, Namespace, NodeId, Slot, image_devices, write_image};
use scale::{Scale, fill, names};

mod scale;

const NAMES_A_FOLDER: usize = 1000;
const SEGMENT_BYTES: u64 = 1 << 30;
const RANGES: u64 = 100_000;

/// Most bytes of memory in use since the last call, mapped tables included.
fn peak_bytes() -> Result<u64> {
    let failed = |error: std::io::Error| Error::from_io(&error, "look at the memory");
    let status = fs::read_to_string("/proc/self/status").map_err(failed)?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let peak = kibibytes.and_then(|text| text.parse::<u64>().ok());
    // Five stands for the peak.
    fs::write("/proc/self/clear_refs", "5").map_err(failed)?;
    Ok(peak.unwrap_or_default() << 10)
}

fn report(what: &str, began: Instant, detail: &str) -> Result<()> {
    println!(
        "{what}: {:.2} s, peak memory {} MiB{detail}",
        began.elapsed().as_secs_f64(),
        peak_bytes()? >> 20
    );
    Ok(())
}

fn main() -> Result<()> {
    let Scale {
        entries,
        folder,
        allocator,
        namespace,
    } = Scale::from_arguments()?;
    let began = Instant::now();
    let count = entries.div_ceil(NAMES_A_FOLDER);
    let folders = fill(&namespace, NodeId::ROOT, names(count), Kind::Folder, 10)?;
    for (number, id) in folders.into_iter().enumerate() {
        let inode = 1_000_000_000 + (number * NAMES_A_FOLDER) as u64;
        fill(&namespace, id, names(NAMES_A_FOLDER), Kind::File, inode)?;
    }
    let files = namespace.totals().files;
    let a_file = |bytes: u64| bytes as f64 / files as f64;
    let bytes = a_file(namespace.table_bytes()?);
    report(
        &format!("namespace of {files} files"),
        began,
        &format!(", {bytes:.1} bytes a file"),
    )?;

    // As after a restart, so that no memory of the scan is counted.
    namespace.settle()?;
    drop(namespace);
    let tables = folder.path().join("tables");
    let namespace = Namespace::open(&tables, allocator.clone())?;
    peak_bytes()?;
    let slots: Vec<_> = (0..allocator.bytes().div_ceil(SEGMENT_BYTES))
        .map(|number| Slot {
            start: Address(number * SEGMENT_BYTES),
            length: SEGMENT_BYTES,
        })
        .collect();
    let image = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(folder.path().join("image"))
        .map_err(|error| Error::from_io(&error, "make an image"))?;
    let began = Instant::now();
    let totals = write_image(&namespace, &slots, &image)?;
    let detail = format!(
        ", {} bytes, {:.1} a file, {} devices",
        totals.bytes,
        a_file(totals.bytes),
        image_devices(&image)?
    );
    report("image", began, &detail)?;

    let path = folder.path().join("index");
    let began = Instant::now();
    AddressIndex::write(&namespace, &path)?;
    report("index written", began, "")?;
    let began = Instant::now();
    let index = AddressIndex::open(&path, &namespace)?;
    report("index opened", began, "")?;
    let began = Instant::now();
    let mut found = 0;
    for number in 0..RANGES {
        let start = number * 7919 * 4096 % allocator.bytes().max(1);
        let range = index.files_in(&namespace, Address(start), Address(start + 1));
        found += range.filter(Result::is_ok).count();
    }
    let each = began.elapsed().as_secs_f64() * 1e6 / RANGES as f64;
    println!("{found} files found by their addresses: {each:.2} us each");
    Ok(())
}
