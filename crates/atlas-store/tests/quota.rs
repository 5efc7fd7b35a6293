//! The quota is never exceeded, whoever fills what at the same time.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

#[cfg(test)]
#[expect(dead_code, reason = "each test crate uses a part of it")]
mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use atlas_core::{Extent, Result};
use atlas_store::{Medium, Volume};
use common::{BOTH, Bed, Random, disk_usage, fill, one_extent, padded, reads_right};

const THREADS: u64 = 8;

/// Eight threads reserve, fill, drop reservations and clear at random, against the model: `du` of
/// the volume's folder is never above the quota, and used bytes are what `du` says at the end.
#[test]
fn eight_threads_never_exceed_it() {
    for medium in BOTH {
        let bed = Bed::new(medium);
        let quota = 12 << 20;
        let volume = bed.create(quota);
        let done = AtomicBool::new(false);
        let refused: usize = std::thread::scope(|scope| {
            let volume = &volume;
            let workers: Vec<_> = (0..THREADS)
                .map(|thread| scope.spawn(move || work(volume, 4711 + thread)))
                .collect();
            let watcher = scope.spawn(|| {
                let mut looks = 0;
                while !done.load(Ordering::Relaxed) {
                    let present = disk_usage(&bed.volume_folder());
                    assert!(present <= quota, "{present} bytes on the tier");
                    looks += 1;
                }
                looks
            });
            let results: Vec<_> = workers
                .into_iter()
                .map(std::thread::ScopedJoinHandle::join)
                .collect();
            done.store(true, Ordering::Relaxed);
            assert!(watcher.join().unwrap() > 10);
            results
                .into_iter()
                .map(|result| result.unwrap().unwrap())
                .sum()
        });
        assert!(refused > 50, "the quota was met {refused} times only");
        volume.commit().unwrap();
        let usage = volume.usage();
        assert_eq!(usage.reserved_bytes, 0);
        let present = disk_usage(&bed.volume_folder());
        assert!(usage.used_bytes <= quota && present <= quota);
        if medium == Medium::Memory {
            assert_eq!(usage.used_bytes, present);
        }
        drop(volume);
        assert_eq!(
            bed.open().unwrap().usage().used_bytes,
            disk_usage(&bed.volume_folder())
        );
    }
}

/// One thread's part; how often the quota refused it. All threads stay in one segment: of several
/// files `du` would see one before a clear and another after a fill, a state that never was.
fn work(volume: &Volume, seed: u64) -> Result<usize> {
    let mut random = Random::new(seed);
    let mut absent: Vec<Extent> = Vec::new();
    for _ in 0..40 {
        let limit = if random.below(4) == 0 {
            512 << 10
        } else {
            20_000
        };
        let length = 1 + random.below(limit);
        absent.push(one_extent(volume.allocate(length, false)?, length as u32));
    }
    let mut filled = Vec::new();
    let mut refused = 0;
    for _ in 0..200 {
        let Some(extent) = take_any(&mut absent, &mut random) else {
            absent.append(&mut filled);
            absent
                .iter()
                .for_each(|extent| volume.clear(extent).unwrap());
            continue;
        };
        match volume.reserve(extent.footprint()) {
            Some(reservation) if random.below(10) > 0 => {
                volume.fill(extent.address, &padded(&extent), &[extent], reservation)?;
                filled.push(extent);
            }
            reservation => {
                refused += usize::from(reservation.is_none());
                absent.push(extent);
                if let Some(victim) = take_any(&mut filled, &mut random) {
                    volume.clear(&victim).unwrap();
                    absent.push(victim);
                }
            }
        }
        let usage = volume.usage();
        assert!(usage.used_bytes <= usage.quota_bytes, "{usage:?}");
    }
    assert!(filled.iter().all(|extent| reads_right(volume, extent)));
    Ok(refused)
}

fn take_any(extents: &mut Vec<Extent>, random: &mut Random) -> Option<Extent> {
    let count = extents.len() as u64;
    (count > 0).then(|| extents.swap_remove(random.below(count) as usize))
}

#[test]
fn it_is_used_up_to_the_last_pages_and_then_full() {
    for medium in BOTH {
        let bed = Bed::new(medium);
        let quota = 8 << 20;
        let volume = bed.create(quota);
        let mut filled = 0;
        while let Some(reservation) = volume.reserve(4096) {
            let extent = one_extent(volume.allocate(4096, false).unwrap(), 4096);
            volume
                .fill(extent.address, &padded(&extent), &[extent], reservation)
                .unwrap();
            filled += 4096;
        }
        assert!(volume.full());
        assert!(filled > quota * 97 / 100, "only {filled} bytes of {quota}");
        assert!(disk_usage(&bed.volume_folder()) <= quota);
        assert_eq!(volume.degraded(), None);
    }
}

#[test]
fn a_dropped_reservation_comes_back() {
    let bed = Bed::new(Medium::Memory);
    let volume = bed.create(4 << 20);
    let first = volume.reserve(3 << 20).unwrap();
    assert!(volume.usage().reserved_bytes > 3 << 20);
    assert!(volume.reserve(1 << 20).is_none());
    assert!(!volume.full());
    drop(first);
    assert_eq!(volume.usage().reserved_bytes, 0);
    let extent = one_extent(volume.allocate(1 << 20, false).unwrap(), 1 << 20);
    fill(&volume, &extent).unwrap();
    assert!(volume.reserve(u64::MAX).is_none());
}
