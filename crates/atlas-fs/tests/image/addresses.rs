//! The index of addresses against a plain list, over random namespaces and random ranges.

use std::fs::{self, File};
use std::path::PathBuf;

use atlas_core::{Address, ErrorKind, Kind, Result};
use atlas_fs::{AddressIndex, Node, NodeId};

use crate::sample::{Sample, random_sample, random_shape};
use crate::support::Random;

const SEEDS: u64 = 40;
const RANGES: u64 = 100;
/// Ids between two addresses in memory: what is special happens around it.
const STRIDE: u64 = 64;

struct Indexed {
    sample: Sample,
    folder: tempfile::TempDir,
    index: AddressIndex,
    /// Start, end and id of every file with an address.
    model: Vec<(u64, u64, NodeId)>,
}

impl Indexed {
    fn new(sample: Sample) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        AddressIndex::write(&sample.namespace, &path).unwrap();
        let index = AddressIndex::open(&path, &sample.namespace).unwrap();
        let mut model = Vec::new();
        sample.namespace.for_each_file(|node| {
            if let Some(address) = node.address {
                model.push((address.0, address.0 + node.attributes.size, node.id));
            }
        });
        model.sort_unstable();
        assert_eq!(index.len(), model.len());
        assert_eq!(index.is_empty(), model.is_empty());
        Self {
            sample,
            folder,
            index,
            model,
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("index")
    }

    fn files_in(&self, start: u64, end: u64) -> Result<Vec<Node>> {
        let namespace = &self.sample.namespace;
        let found = self.index.files_in(namespace, Address(start), Address(end));
        found.collect()
    }

    fn check(&self, start: u64, end: u64) {
        let found: Vec<_> = (self.files_in(start, end).unwrap().iter())
            .map(|node| node.id)
            .collect();
        let expected: Vec<_> = (self.model.iter())
            .filter(|file| start < end && file.0 < end && file.1 > start)
            .map(|file| file.2)
            .collect();
        assert_eq!(found, expected, "{start}..{end}");
    }
}

/// A folder of so many files of random sizes.
fn flat(count: u64, random: &mut Random) -> Sample {
    let mut sample = Sample::new(1 << 20);
    let news: Vec<_> = (0..count)
        .map(|number| sample.file(format!("{number}"), 1 + random.below(20_000)))
        .collect();
    sample.fill(NodeId::ROOT, &news, &[]);
    sample
}

#[test]
fn random_ranges_hold_what_a_list_says() {
    for seed in 0..SEEDS {
        println!("seed {seed}");
        let mut random = Random(seed);
        let shape = random_shape(&mut random);
        let indexed = Indexed::new(random_sample(&mut random, &shape));
        let end = indexed.model.last().map_or(0, |file| file.1);
        indexed.check(0, u64::MAX);
        indexed.check(0, end);
        indexed.check(end, u64::MAX);
        for _ in 0..RANGES {
            let start = random.below(end + 2);
            indexed.check(start, start);
            indexed.check(start, start + 1);
            indexed.check(start, start + random.below(10_000));
            // The other way round it is empty.
            indexed.check(start, random.below(end + 2));
        }
        for _ in 0..RANGES.min(indexed.model.len() as u64) {
            let file = random.pick(&indexed.model);
            for (start, end) in [
                (file.0, file.0 + 1),
                (file.1.saturating_sub(1), file.1),
                (file.1, file.1 + 1),
                (file.0, file.1),
                (file.0.saturating_sub(1), file.1 + 1),
            ] {
                indexed.check(start, end);
            }
        }
    }
}

#[test]
fn counts_around_a_stride_are_found() {
    let mut random = Random(1);
    for count in [
        0,
        1,
        2,
        STRIDE - 1,
        STRIDE,
        STRIDE + 1,
        2 * STRIDE,
        2 * STRIDE + 1,
    ] {
        let indexed = Indexed::new(flat(count, &mut random));
        assert_eq!(indexed.model.len() as u64, count);
        indexed.check(0, u64::MAX);
        for file in &indexed.model {
            indexed.check(file.0, file.0 + 1);
            indexed.check(0, file.0);
            indexed.check(file.1 - 1, u64::MAX);
        }
    }
}

#[test]
fn a_reopened_index_of_a_reopened_namespace_says_the_same() {
    let mut random = Random(2);
    let indexed = Indexed::new(flat(1000, &mut random));
    let namespace = indexed.sample.open_again();
    let index = AddressIndex::open(&indexed.path(), &namespace).unwrap();
    for _ in 0..RANGES {
        let start = random.below(1 << 24);
        let end = start + random.below(1 << 20);
        let found = index.files_in(&namespace, Address(start), Address(end));
        let found: Vec<_> = found.map(Result::unwrap).collect();
        assert_eq!(found, indexed.files_in(start, end).unwrap());
    }
}

#[test]
fn a_damaged_index_is_refused() {
    let indexed = Indexed::new(flat(200, &mut Random(3)));
    let whole = fs::read(indexed.path()).unwrap();
    let refused = |what: &str, bytes: &[u8]| {
        let path = indexed.folder.path().join("other");
        fs::write(&path, bytes).unwrap();
        let opened = AddressIndex::open(&path, &indexed.sample.namespace);
        let kind = opened.err().map(|error| error.kind);
        assert_eq!(kind, Some(ErrorKind::Corrupt), "{what}");
    };
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        refused(&format!("a bit of byte {at}"), &bytes);
    }
    for length in 0..whole.len() {
        refused(&format!("cut at {length}"), &whole[..length]);
    }
    for more in [1, 4, 256] {
        let longer = [whole.as_slice(), &vec![0; more]].concat();
        refused(&format!("{more} zeros more"), &longer);
    }
    refused("zeros", &vec![0; whole.len()]);
    refused("text", b"no index at all, but longer than its header is");
}

/// Sound in itself, but its ids are nothing here, or no files, or not in this order.
#[test]
fn the_index_of_another_namespace_is_refused() {
    let mut random = Random(4);
    let many = Indexed::new(flat(300, &mut random));
    let few = flat(20, &mut random);
    let mut links = Sample::new(1 << 20);
    let news: Vec<_> = (0..300)
        .map(|number| links.other(format!("{number}"), Kind::Fifo))
        .collect();
    links.fill(NodeId::ROOT, &news, &[]);
    // The same ids, whose addresses go the other way.
    let mut reverse = Sample::new(1 << 30);
    let mut news: Vec<_> = (0..300)
        .map(|number| reverse.file(format!("{number}"), 1))
        .collect();
    news.reverse();
    reverse.fill(NodeId::ROOT, &news, &[]);
    for (what, sample) in [("few", &few), ("links", &links), ("reverse", &reverse)] {
        let opened = AddressIndex::open(&many.path(), &sample.namespace);
        let kind = opened.err().map(|error| error.kind);
        assert_eq!(kind, Some(ErrorKind::Corrupt), "{what}");
    }
}

#[test]
fn an_index_is_never_written_over_another_file() {
    let indexed = Indexed::new(flat(10, &mut Random(5)));
    let again = AddressIndex::write(&indexed.sample.namespace, &indexed.path());
    assert!(again.is_err());
    indexed.check(0, u64::MAX);
    let missing = indexed.folder.path().join("missing");
    let opened = AddressIndex::open(&missing, &indexed.sample.namespace);
    assert!(opened.is_err());
}

/// A file cut short while it is open gives an error, and then the end, not another answer.
#[test]
fn what_is_lost_later_is_an_error() {
    let indexed = Indexed::new(flat(200, &mut Random(6)));
    let file = File::options().write(true).open(indexed.path()).unwrap();
    file.set_len(32 + 4 * STRIDE).unwrap();
    let namespace = &indexed.sample.namespace;
    let found: Vec<_> = indexed
        .index
        .files_in(namespace, Address(0), Address(u64::MAX))
        .collect();
    assert_eq!(found.len() as u64, STRIDE + 1);
    assert!(found[STRIDE as usize].is_err());
}
