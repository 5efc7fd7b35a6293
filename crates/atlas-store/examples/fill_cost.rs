//! What a fill and a read cost the processor, on a MEM tier: 128 files of 8 kB in one fill.
//!
//! `cargo run --release -p atlas-store --example fill_cost [FOLDER_ON_TMPFS]`

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use atlas_core::{Address, Error, Extent, PAGE_BYTES, Result};
use atlas_store::{Medium, Tier, Volume, VolumeSettings};
use rustix::time::{ClockId, clock_gettime};

const FILES: u64 = 128;
const FILE_BYTES: u32 = 8000;
const ROUNDS: u64 = 512;

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

fn main() -> Result<()> {
    let folder = std::env::args_os()
        .nth(1)
        .map_or_else(|| "/dev/shm".into(), PathBuf::from);
    let home = folder.join(format!("atlas-fill-cost-{}", std::process::id()));
    let tier = Arc::new(Tier::open(&home, Medium::Memory, true, None)?);
    let settings = VolumeSettings {
        quota_bytes: 4 << 30,
        held: false,
    };
    let volume = Volume::create(&tier, "cost", &folder, settings)?;
    let measured = measure(&volume);
    volume.destroy()?;
    std::fs::remove_dir_all(&home).map_err(|error| Error::from_io(&error, "remove the tier"))?;
    measured
}

fn measure(volume: &Volume) -> Result<()> {
    let data: Vec<u8> = (0..FILES * 2 * PAGE_BYTES)
        .map(|index| (index * 7) as u8)
        .collect();
    let mut extents = Vec::new();
    let began = processor_time();
    for _ in 0..FILES * ROUNDS {
        let address: Address = volume.allocate(u64::from(FILE_BYTES), false)?;
        extents.push(Extent {
            address,
            file_offset: 0,
            length: FILE_BYTES,
        });
    }
    report("allocate", began, FILES * ROUNDS)?;

    let began = processor_time();
    for batch in extents.chunks(FILES as usize) {
        if let (Some(first), Some(space)) = (batch.first(), volume.reserve(data.len() as u64)) {
            volume.fill(first.address, &data, batch, space)?;
        }
    }
    report("fill of 1 MiB in 128 extents", began, ROUNDS)?;

    let mut buffer = vec![0; FILE_BYTES as usize];
    let began = processor_time();
    for extent in &extents {
        volume.read(extent.address, &mut buffer)?;
    }
    report("read of 8 kB", began, FILES * ROUNDS)?;

    let mut large = vec![0; 1 << 20];
    let began = processor_time();
    for batch in extents.chunks(FILES as usize) {
        if let Some(first) = batch.first() {
            volume.read(first.address, &mut large)?;
        }
    }
    report("read of 1 MiB", began, ROUNDS)
}

fn report(what: &str, began: Duration, count: u64) -> Result<()> {
    let microseconds = (processor_time() - began).as_secs_f64() * 1e6 / count as f64;
    writeln!(
        std::io::stdout(),
        "{what}: {microseconds:.2} us of processor time"
    )
    .map_err(|error| Error::from_io(&error, "print"))
}
