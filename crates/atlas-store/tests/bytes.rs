//! What is filled is read back, and nothing else ever is.

#[cfg(test)]
#[expect(dead_code, reason = "each test crate uses a part of it")]
mod common;

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use atlas_core::{Address, ErrorKind, Extent, extents_of};
use atlas_store::{ExtentState, Medium};
use common::{BOTH, Bed, Random, add_file, content, fill, one_extent, padded, reads, reads_right};

#[test]
fn many_small_files_are_filled_by_one_call() {
    for medium in BOTH {
        let bed = Bed::new(medium);
        let volume = bed.create(64 << 20);
        let extents: Vec<_> = (0..128)
            .map(|index| {
                one_extent(
                    volume.allocate(8000 + index, false).unwrap(),
                    8000 + index as u32,
                )
            })
            .collect();
        let data: Vec<u8> = extents.iter().flat_map(padded).collect();
        let reservation = volume.reserve(data.len() as u64).unwrap();
        assert!(
            extents
                .iter()
                .all(|extent| volume.state(extent) == ExtentState::Absent)
        );
        volume
            .fill(extents[0].address, &data, &extents, reservation)
            .unwrap();
        for extent in &extents {
            assert_eq!(volume.state(extent), ExtentState::Live);
            assert!(volume.is_live(extent.address));
            assert!(!volume.is_live(extent.address.plus(4096)));
            assert!(reads_right(&volume, extent));
            assert!(volume.verify(extent).unwrap().is_sound());
        }
        assert_eq!(volume.usage().reserved_bytes, 0);
    }
}

#[test]
fn any_range_of_a_file_of_several_extents_is_read() {
    let bed = Bed::new(Medium::Memory);
    let volume = bed.create(64 << 20);
    let size = (3 << 20) + 777;
    let (address, extents) = add_file(&volume, size);
    assert_eq!(extents.len(), 4);
    let whole = content(address, size as usize);
    let mut random = Random::new(11);
    for step in 0..400 {
        // Small ranges often, and the borders of pages and extents.
        let offset = match step % 4 {
            0 => random.below(size),
            1 => random.below(size / 4096) * 4096,
            2 => (1 << 20) - random.below(5000),
            _ => size - 1 - random.below(5000),
        };
        let limit = if step % 3 == 0 { 3 << 20 } else { 9000 };
        let length = (random.below(limit) + 1).min(size - offset);
        let mut buffer = vec![0; length as usize];
        volume.read(address.plus(offset), &mut buffer).unwrap();
        assert!(
            buffer == whole[offset as usize..(offset + length) as usize],
            "{offset} {length}"
        );
    }
}

#[test]
fn a_run_of_extents_may_cross_into_the_next_segment() {
    let bed = Bed::new(Medium::Memory);
    let volume = bed.create(256 << 20);
    let extents: Vec<_> = (0..66)
        .map(|_| one_extent(volume.allocate(1 << 20, false).unwrap(), 1 << 20))
        .collect();
    assert_eq!(volume.segments().len(), 2);
    let data: Vec<u8> = extents[60..].iter().flat_map(padded).collect();
    let reservation = volume.reserve(data.len() as u64).unwrap();
    volume
        .fill(extents[60].address, &data, &extents[60..], reservation)
        .unwrap();
    assert!(
        extents[60..]
            .iter()
            .all(|extent| reads_right(&volume, extent))
    );
    assert!(
        !extents[..60]
            .iter()
            .any(|extent| volume.is_live(extent.address))
    );
}

#[test]
fn a_flipped_byte_is_found_by_verify_and_by_read() {
    for medium in BOTH {
        let bed = Bed::new(medium);
        let volume = bed.create(64 << 20);
        let mut random = Random::new(5);
        for round in 0..200 {
            let (address, extents) = add_file(&volume, 1 + random.below(300_000));
            let extent = extents[0];
            let (path, offset) = bed.segment_file(address, &volume);
            let file = std::fs::File::options()
                .read(true)
                .write(true)
                .open(path)
                .unwrap();
            let place = offset + random.below(extent.footprint());
            let mut byte = [0];
            file.read_exact_at(&mut byte, place).unwrap();
            file.write_all_at(&[byte[0] ^ (1 << random.below(8))], place)
                .unwrap();
            if round % 2 == 0 {
                assert!(!volume.verify(&extent).unwrap().is_sound());
            } else {
                let mut buffer = vec![0; extent.footprint() as usize];
                let error = volume.read(address, &mut buffer).unwrap_err();
                assert_eq!(error.kind, ErrorKind::Corrupt);
            }
            assert_eq!(volume.state(&extent), ExtentState::Absent);
            fill(&volume, &extent).unwrap();
            assert!(volume.verify(&extent).unwrap().is_sound() && reads_right(&volume, &extent));
        }
        assert_eq!(volume.damaged_extents(), 200);
    }
}

#[test]
fn punched_cut_and_swapped_ranges_are_misses() {
    let bed = Bed::new(Medium::Memory);
    let volume = bed.create(64 << 20);
    let extents: Vec<Extent> = (0..6).flat_map(|_| add_file(&volume, 40_000).1).collect();
    let (path, _) = bed.segment_file(extents[0].address, &volume);
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let offset = |index: usize| bed.segment_file(extents[index].address, &volume).1;
    let (mut first, mut second) = (vec![0; 40_960], vec![0; 40_960]);
    file.read_exact_at(&mut first, offset(0)).unwrap();
    file.read_exact_at(&mut second, offset(1)).unwrap();
    file.write_all_at(&second, offset(0)).unwrap();
    file.write_all_at(&first, offset(1)).unwrap();
    file.write_all_at(&vec![0; 40_960], offset(2)).unwrap();
    file.set_len(offset(4) + 4096).unwrap();
    let right: Vec<bool> = extents
        .iter()
        .map(|extent| reads_right(&volume, extent))
        .collect();
    assert_eq!(right, [false, false, false, true, false, false]);
    let live: Vec<bool> = extents
        .iter()
        .map(|extent| volume.is_live(extent.address))
        .collect();
    assert_eq!(live, right);
}

#[test]
fn a_cleared_extent_gives_its_space_back() {
    for medium in BOTH {
        let bed = Bed::new(medium);
        let volume = bed.create(64 << 20);
        let (_, extents) = add_file(&volume, 8 << 20);
        volume.commit().unwrap();
        let before = volume.usage().used_bytes;
        volume.clear(&extents[3]).unwrap();
        assert_eq!(volume.state(&extents[3]), ExtentState::Absent);
        assert!(!reads_right(&volume, &extents[3]));
        assert!(volume.usage().used_bytes <= before - (1 << 20) + 65_536);
        assert!(reads_right(&volume, &extents[2]) && reads_right(&volume, &extents[4]));
        fill(&volume, &extents[3]).unwrap();
        assert!(reads_right(&volume, &extents[3]));
    }
}

#[test]
fn readers_see_right_bytes_or_nothing_while_extents_come_and_go() {
    let bed = Bed::new(Medium::Memory);
    let volume = bed.create(64 << 20);
    let address = volume.allocate(64 * 20_000, false).unwrap();
    let extents: Vec<Extent> = (0..64)
        .map(|index| one_extent(address.plus(index * 20_480), 20_000))
        .collect();
    let right: Vec<_> = extents.iter().map(padded).collect();
    let stop = AtomicBool::new(false);
    let read_on = &|seed| {
        let mut random = Random::new(seed);
        let mut hits = 0;
        while !stop.load(Ordering::Relaxed) {
            let index = random.below(64) as usize;
            hits += usize::from(reads(&volume, &extents[index], &right[index][..20_000]));
        }
        hits
    };
    let hits: usize = std::thread::scope(|scope| {
        let readers: Vec<_> = (100..103)
            .map(|seed| scope.spawn(move || read_on(seed)))
            .collect();
        let mut random = Random::new(99);
        for _ in 0..2000 {
            let index = random.below(64) as usize;
            let extent = &extents[index];
            if volume.is_live(extent.address) {
                volume.clear(extent).unwrap();
            } else {
                let reservation = volume.reserve(extent.footprint()).unwrap();
                volume
                    .fill(extent.address, &right[index], &[*extent], reservation)
                    .unwrap();
            }
        }
        stop.store(true, Ordering::Relaxed);
        readers
            .into_iter()
            .map(|reader| reader.join().unwrap())
            .sum()
    });
    assert!(hits > 100, "only {hits} reads met a filled extent");
}

#[test]
fn arguments_that_do_not_fit_are_refused() {
    let bed = Bed::new(Medium::Memory);
    let volume = bed.create(64 << 20);
    let extent = one_extent(volume.allocate(8192, false).unwrap(), 8192);
    let data = padded(&extent);
    let reserve = |bytes| volume.reserve(bytes).unwrap();
    let kind = |result: atlas_core::Result<()>| result.unwrap_err().kind;
    let fill = |start, data: &[u8], extents: &[Extent], bytes| {
        kind(volume.fill(start, data, extents, reserve(bytes)))
    };
    assert_eq!(
        fill(extent.address, &data, &[extent], 4096),
        ErrorKind::Invalid
    );
    assert_eq!(
        fill(extent.address, &data[..5000], &[extent], 8192),
        ErrorKind::Invalid
    );
    assert_eq!(
        fill(extent.address.plus(1), &data, &[extent], 8192),
        ErrorKind::Invalid
    );
    assert_eq!(
        fill(extent.address.plus(4096), &data, &[extent], 8192),
        ErrorKind::Invalid
    );
    let nowhere = one_extent(Address(1 << 40), 8192);
    assert_eq!(
        fill(nowhere.address, &data, &[nowhere], 8192),
        ErrorKind::NoSpace
    );
    assert_eq!(
        kind(volume.read(nowhere.address, &mut [0; 10])),
        ErrorKind::NotFound
    );
    assert_eq!(
        kind(volume.read(extent.address, &mut [0; 10])),
        ErrorKind::NotFound
    );
    assert_eq!(
        volume.allocate(0, false).unwrap_err().kind,
        ErrorKind::Invalid
    );
    assert_eq!(volume.usage().reserved_bytes, 0);
    assert!(extents_of(extent.address, 8192, 0, 8192).all(|e| !volume.is_live(e.address)));
}
