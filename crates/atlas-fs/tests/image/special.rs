//! Images of everything that is special, and of what is large.

use atlas_core::{Attributes, Kind, PAGE_BYTES, Timestamp};
use atlas_fs::{Lookup, NodeId};

use crate::properties::check;
use crate::reader::{Reader, bytes_of};
use crate::sample::{New, Sample, TEBIBYTE, special_names, target_lengths};
use crate::search::Search;
use crate::view::Entry;

/// Sizes around the ends of blocks, of powers of two of them and of what four bytes hold.
const SIZES: [u64; 14] = [
    0,
    1,
    4095,
    4096,
    4097,
    8191,
    8192,
    8193,
    65_535,
    65_536,
    65_537,
    (1 << 20) + 1,
    (1 << 32) - 1,
    (1 << 32) + 1,
];

/// Before 1970, beyond 2038, beyond what eight bytes of nanoseconds hold, and both ends.
pub(crate) const MOMENTS: [i64; 9] = [
    0,
    -1,
    -(1 << 31) - 1,
    (1 << 31) - 1,
    1 << 31,
    1 << 32,
    1 << 34,
    i64::MIN,
    i64::MAX,
];

/// A namespace of all that is special, at once: names, targets, kinds, times, sizes, depth, names of
/// one file in several folders.
pub(crate) struct Special {
    /// Of a file.
    pub(crate) most_bytes: u64,
    /// Folders in each other.
    pub(crate) levels: usize,
    pub(crate) device_nodes: bool,
}

impl Special {
    pub(crate) fn sample(&self) -> Sample {
        let mut sample = Sample::new((1 << 20).min(self.most_bytes));
        let folders = [
            "names", "targets", "kinds", "times", "sizes", "deep", "empty", "twice",
        ];
        let news: Vec<_> = (folders.iter())
            .map(|name| sample.other(name, Kind::Folder))
            .collect();
        let ids = sample.fill(NodeId::ROOT, &news, &[b"gone"]);
        let [names, targets, kinds, times, sizes, deep, empty, twice] = ids.try_into().unwrap();

        let shared = Attributes {
            links: 3,
            ..sample.file("", 12_345).attributes
        };
        let shared = |name: &str| New {
            name: name.into(),
            attributes: shared,
            target: None,
        };
        let mut news: Vec<_> = (special_names().into_iter().enumerate())
            .map(|(number, name)| sample.file(name, number as u64))
            .collect();
        news.push(shared("one"));
        sample.fill(names, &news, &[b"gone", b"-gone", b"zz", b"\xff\xff"]);
        sample.fill(twice, &[shared("again"), shared("third")], &[]);

        let news: Vec<_> = (target_lengths().into_iter())
            .map(|length| sample.link(format!("{length}"), &vec![b'l'; length]))
            .collect();
        sample.fill(targets, &news, &[]);

        fill_kinds(&mut sample, kinds, self.device_nodes);
        let news: Vec<_> = (MOMENTS.into_iter())
            .map(|seconds| {
                let mut new = sample.file(format!("{seconds}"), 1);
                new.attributes.modified = Timestamp {
                    seconds,
                    nanoseconds: 999_999_999,
                };
                new
            })
            .collect();
        sample.fill(times, &news, &[]);

        let news: Vec<_> = (SIZES.into_iter())
            .filter(|size| *size <= self.most_bytes)
            .map(|size| sample.file(format!("{size}"), size))
            .collect();
        sample.fill(sizes, &news, &[]);

        let mut at = deep;
        for level in 0..self.levels {
            let news = [
                sample.other("down", Kind::Folder),
                sample.file("file", level as u64),
            ];
            at = sample.fill(at, &news, &[])[0];
        }
        sample.fill(at, &[], &[]);
        sample.fill(empty, &[], &[b"gone"]);
        sample
    }
}

fn fill_kinds(sample: &mut Sample, folder: NodeId, device_nodes: bool) {
    let numbers = [
        libc::makedev(0, 0),
        libc::makedev(1, 3),
        libc::makedev(255, 255),
        libc::makedev(256, 256),
        libc::makedev(4095, (1 << 20) - 1),
    ];
    let mut news = vec![
        sample.other("fifo", Kind::Fifo),
        sample.other("socket", Kind::Socket),
    ];
    for kind in [Kind::CharacterDevice, Kind::BlockDevice] {
        for number in numbers.into_iter().filter(|_| device_nodes) {
            let mut new = sample.other(format!("{kind:?}-{number}"), kind);
            new.attributes.device_number = number;
            news.push(new);
        }
    }
    for permissions in [0, 0o7, 0o70, 0o700, 0o1777, 0o7777] {
        let mut new = sample.file(format!("{permissions:o}"), 1);
        new.attributes.permissions = permissions;
        (new.attributes.uid, new.attributes.gid) = (u32::MAX - 1, 1 << 16);
        news.push(new);
    }
    let mut unlinked = sample.file("unlinked", 1);
    unlinked.attributes.links = 0;
    news.push(unlinked);
    sample.fill(folder, &news, &[]);
}

fn named<'a>(tree: &'a [Entry], name: &[u8]) -> &'a Entry {
    tree.iter().find(|entry| entry.name == name).unwrap()
}

#[test]
fn what_is_special_is_shown() {
    let sample = Special {
        most_bytes: 1 << 33,
        levels: 1000,
        device_nodes: true,
    }
    .sample();
    let (_, tree) = check(&sample);
    for name in special_names() {
        named(&tree, &name);
    }
    for length in target_lengths() {
        assert!(tree.iter().any(|entry| entry.target.len() == length));
    }
    for seconds in MOMENTS {
        assert!(tree.iter().any(|entry| entry.modified.0 == seconds));
    }
    for size in SIZES {
        assert!(tree.iter().any(|entry| entry.size == size));
    }
    assert!(tree.iter().all(|entry| !entry.name.ends_with(b"gone")));
    let of_one = tree.iter().filter(|entry| entry.size == 12_345);
    let firsts: Vec<_> = of_one
        .map(|entry| (entry.first_name, entry.links))
        .collect();
    assert_eq!(firsts, [(firsts[0].0, 3); 3]);
    assert_eq!(named(&tree, b"7777").mode, libc::S_IFREG | 0o1777);
    assert_eq!(named(&tree, b"unlinked").links, 1);
    let deepest = tree.iter().filter(|entry| entry.name == b"down").count();
    assert_eq!(deepest, 1000);
}

/// What was answered before its folder was listed stays, though the listing lacks it.
#[test]
fn names_read_early_are_shown() {
    let mut sample = Sample::new(1 << 20);
    let early = [
        sample.file("early-file", 5000),
        sample.other("early-folder", Kind::Folder),
        sample.link("early-link", b"elsewhere"),
    ];
    let ids = sample.bind(NodeId::ROOT, &early);
    let listed = [sample.file("a", 1), sample.file("z", 1)];
    sample.fill(NodeId::ROOT, &listed, &[b"gone"]);
    let inner = sample.file("inner", 1);
    sample.bind(ids[1], &[inner]);
    sample.fill(ids[1], &[], &[]);
    let (_, tree) = check(&sample);
    let names: Vec<_> = (tree.iter())
        .map(|entry| String::from_utf8_lossy(&entry.name))
        .collect();
    let expected = [
        "",
        "a",
        "early-file",
        "early-folder",
        "inner",
        "early-link",
        "z",
    ];
    assert_eq!(names, expected);
}

/// A name that ends with its block, one byte before it, and one that needs the next block.
#[test]
fn names_fill_a_block_to_its_end() {
    // "." and ".." with their entries, and fifteen names of 254 bytes with theirs.
    const LEFT: usize = 4096 - 27 - 15 * (12 + 254);
    for (length, bytes) in [
        (LEFT - 13, 4095),
        (LEFT - 12, 4096),
        (LEFT - 11, 4096 + LEFT as u64 + 1),
    ] {
        let mut sample = Sample::new(1 << 20);
        let mut news: Vec<_> = (0..15)
            .map(|number| sample.file(format!("{number:0254}"), 1))
            .collect();
        news.push(sample.file(vec![b'z'; length], 1));
        let outer = sample.other("outer", Kind::Folder);
        // The same in the root, which lies first, and in a folder of it.
        let inner = sample.other("a", Kind::Folder);
        let ids = sample.fill(NodeId::ROOT, &[inner, outer], &[]);
        sample.fill(ids[0], &news, &[]);
        let news: Vec<_> = (news.iter())
            .map(|new| sample.file(&new.name, 5000))
            .collect();
        sample.fill(ids[1], &news, &[b"between"]);
        let (image, _) = check(&sample);
        let reader = Reader::new(&image, sample.slots().len());
        assert_eq!(reader.folder_bytes(b""), 27 + 13 + 17);
        assert_eq!(reader.folder_bytes(b"a"), bytes);
        assert_eq!(reader.folder_bytes(b"outer"), bytes);
    }
}

#[test]
fn every_name_of_a_large_folder_is_found() {
    const COUNT: usize = 100_000;
    let mut sample = Sample::new(1 << 30);
    let news: Vec<_> = (0..COUNT)
        .map(|number| sample.file(format!("{}.wav", number * 7919 % COUNT * 2), 100))
        .collect();
    sample.fill(NodeId::ROOT, &news, &[b"1.wav"]);
    let (image, _) = check(&sample);
    let bytes = bytes_of(&image);
    let search = Search::new(&bytes);
    let mut numbers: Vec<_> = (0..2 * COUNT)
        .filter_map(|number| {
            let found = search.find(search.root, format!("{number}.wav").as_bytes());
            assert_eq!(found.is_some(), number % 2 == 0, "{number}");
            found
        })
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), COUNT);
    // The first and the last name of each block cut short, and made longer.
    for name in ["0.wa", "0.wav0", "-", "99998.wa", "99998.wav0", "zzz"] {
        assert_eq!(search.find(search.root, name.as_bytes()), None, "{name}");
    }
    let lookup = sample.namespace.lookup(NodeId::ROOT, b"1.wav");
    assert!(matches!(lookup, Lookup::Absent), "{lookup:?}");
}

/// Each file has a segment, and so a device, of its own.
#[test]
fn files_lie_in_a_thousand_devices() {
    let mut sample = Sample::new(PAGE_BYTES);
    let news: Vec<_> = (0..1000)
        .map(|number| sample.file(format!("{number}"), 1 + number % 3 * PAGE_BYTES))
        .collect();
    sample.fill(NodeId::ROOT, &news, &[]);
    let (_, tree) = check(&sample);
    assert_eq!(sample.slots().len(), 1000);
    let mut devices: Vec<_> = tree.iter().flat_map(|entry| &entry.places).collect();
    devices.sort_unstable();
    devices.dedup_by_key(|place| place.0);
    assert!(devices.iter().map(|place| place.0).eq(1..=1000));
}

#[test]
fn files_above_eight_tebibytes_have_several_chunks() {
    const TURN: u64 = 8 * TEBIBYTE;
    let mut sample = Sample::new(15 * TEBIBYTE);
    // Smaller ones between them, so that none of the large ones begins a segment.
    let large = [TURN, TURN - 1, 12 * TEBIBYTE, TURN + 1];
    let small = [1, 7 * TEBIBYTE, 1, 3 * TEBIBYTE];
    let news: Vec<_> = (small.into_iter().zip(large).enumerate())
        .flat_map(|(number, (small, large))| {
            let fill = sample.file(format!("fill-{number}"), small);
            [fill, sample.file(format!("large-{number}"), large)]
        })
        .collect();
    sample.fill(NodeId::ROOT, &news, &[]);
    let (_, tree) = check(&sample);
    for number in 0..4 {
        let name = format!("large-{number}");
        assert!(named(&tree, name.as_bytes()).places[0].1 > 0, "{name}");
    }
    let places = &named(&tree, b"large-3").places;
    let (device, start) = places[0];
    assert!(places.contains(&(device, start + TURN)));
}
