//! Asked 2 ms, 200 MB/s and 3,000 metadata operations/s: got each within a tenth. A program of its
//! own, because tests in one program run at the same time.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use atlas_bench::{Limits, SlowOrigin};
use common::{NO_LIMITS, attributes_of, median, pattern, place, rate, within_a_tenth};

const READ: usize = 256 << 10;

#[test]
fn it_is_as_slow_as_asked() {
    let Some(place) = place() else { return };
    fs::write(place.source.join("file"), pattern(8 << 20)).unwrap();
    let limits = Limits {
        latency: Duration::from_millis(2),
        bytes_per_second: 200_000_000,
        operations_per_second: 3_000,
    };
    assert_eq!(limits, Limits::default());
    let origin = SlowOrigin::mount(&place.source, &place.target, limits).unwrap();
    let file = File::open(place.target.join("file")).unwrap();
    // The way to a FUSE server and back takes its time on a busy machine, which is not the
    // origin's: what it adds is the difference to one that adds nothing, asked in turns.
    let quick_folder = place.other_folder("quick");
    let quick = SlowOrigin::mount(&place.source, &quick_folder, NO_LIMITS).unwrap();
    let quick_file = File::open(quick_folder.join("file")).unwrap();
    let added = |action: &dyn Fn(&File)| {
        let timed = |file: &File| {
            let start = Instant::now();
            action(file);
            start.elapsed().as_secs_f64() * 1e3
        };
        median(
            (0..400)
                .map(|_| timed(&file) - timed(&quick_file))
                .collect(),
        )
    };
    let call = added(&|file| attributes_of(file));
    within_a_tenth("latency of a metadata call, ms", call, 2.0);
    let read = added(&|file| assert_eq!(file.read_at(&mut [0; 4096], 8192).unwrap(), 4096));
    within_a_tenth("latency of a read, ms", read, 2.0);

    let window = Duration::from_millis(2_500);
    let calls = rate(48, window, |_| attributes_of(&file));
    within_a_tenth("metadata operations a second", calls, 3000.0);
    let reads = rate(16, window, |thread| {
        let mut buffer = vec![0; READ];
        assert_eq!(
            file.read_at(&mut buffer, (thread * READ) as u64).unwrap(),
            READ
        );
    });
    within_a_tenth("megabytes a second", reads * READ as f64 / 1e6, 200.0);
    drop((file, quick_file));
    for origin in [origin, quick] {
        origin.unmount().unwrap();
        origin.wait();
    }
}
