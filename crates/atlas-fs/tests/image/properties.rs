//! Images of random namespaces show exactly the namespace, and are the same each time.
//!
//! `ATLAS_TEST_SEED=n` runs one seed, `ATLAS_TEST_SEEDS=n` that many.

use atlas_fs::write_image;

use crate::reader::{Reader, bytes_of};
use crate::sample::{Sample, random_sample, random_shape};
use crate::search::Search;
use crate::support::Random;
use crate::view::{Tree, assert_same, of_namespace};

const SEEDS: u64 = 60;

/// Writes an image and compares it with the namespace; gives what both show.
pub(crate) fn check(sample: &Sample) -> (std::fs::File, Tree) {
    let slots = sample.slots();
    let (image, totals) = sample.write();
    let expected = of_namespace(&sample.namespace, &slots);
    let reader = Reader::new(&image, slots.len());
    assert_same(&reader.tree(), &expected);
    Search::new(&bytes_of(&image)).check(&expected);
    let nodes = expected.iter().enumerate();
    let nodes = nodes.filter(|(position, entry)| *position == entry.first_name);
    assert_eq!(totals.inodes, nodes.count() as u64);
    assert_eq!(reader.inodes(), totals.inodes);
    assert_eq!(totals.bytes, image.metadata().unwrap().len());
    let lengths: Vec<_> = slots.iter().map(|slot| slot.length).collect();
    assert_eq!(reader.devices(), lengths);
    (image, expected)
}

fn seeds() -> std::ops::Range<u64> {
    let number = |name| Some(std::env::var(name).ok()?.parse::<u64>().unwrap());
    match number("ATLAS_TEST_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("ATLAS_TEST_SEEDS").unwrap_or(SEEDS),
    }
}

#[test]
fn another_reader_sees_the_namespace() {
    for seed in seeds() {
        println!("ATLAS_TEST_SEED={seed}");
        let mut random = Random(seed);
        let shape = random_shape(&mut random);
        let sample = random_sample(&mut random, &shape);
        let (image, _) = check(&sample);
        let again = tempfile::tempfile().unwrap();
        let namespace = sample.open_again();
        write_image(&namespace, &sample.slots(), &again).unwrap();
        assert!(bytes_of(&again) == bytes_of(&image), "not the same bytes");
    }
}
