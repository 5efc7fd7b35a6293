//! Namespaces to make images of: random ones, and one with everything that is special.

use std::fs::File;
use std::sync::{Arc, Mutex};

use atlas_core::{
    ACCESS_ACL, Address, Attributes, ExtendedAttribute, Kind, PAGE_BYTES, Result, Timestamp,
    round_up_to_page,
};
use atlas_fs::{Allocate, ImageTotals, Namespace, NewEntry, NodeId, Slot, write_image};
use tempfile::TempDir;

use crate::support::{Random, attributes};

/// Longest target that fits into the block of its inode.
pub(crate) const INLINE_LIMIT: usize = 4032;
pub(crate) const TEBIBYTE: u64 = 1 << 40;

/// Segments one after the other, as the store makes them: a range never crosses an end.
pub(crate) struct Segments {
    length: u64,
    made: Mutex<(u64, Vec<Slot>)>,
}

impl Segments {
    pub(crate) fn new(length: u64) -> Arc<Self> {
        Arc::new(Self {
            length,
            made: Mutex::default(),
        })
    }

    pub(crate) fn slots(&self) -> Vec<Slot> {
        self.made.lock().unwrap().1.clone()
    }
}

impl Allocate for Segments {
    fn allocate(&self, size: u64, _early: bool) -> Result<Address> {
        let mut made = self.made.lock().unwrap();
        let (next, slots) = &mut *made;
        let size = round_up_to_page(size);
        let end = slots.last().map_or(0, |slot| slot.start.0 + slot.length);
        if *next + size > end {
            // Segments of other files lie in between.
            let start = end + 3 * PAGE_BYTES;
            let length = self.length.max(size);
            slots.push(Slot {
                start: Address(start),
                length,
            });
            *next = start;
        }
        let address = Address(*next);
        *next += size;
        Ok(address)
    }
}

/// A namespace in the making.
pub(crate) struct Sample {
    folder: TempDir,
    pub(crate) segments: Arc<Segments>,
    pub(crate) namespace: Namespace,
    inode: u64,
}

/// One name to be bound.
pub(crate) struct New {
    pub(crate) name: Vec<u8>,
    pub(crate) attributes: Attributes,
    pub(crate) target: Option<Vec<u8>>,
}

impl Sample {
    pub(crate) fn new(segment_bytes: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let segments = Segments::new(segment_bytes);
        let tables = folder.path().join("tables");
        let root = attributes(Kind::Folder, 1);
        let namespace = Namespace::create(&tables, &root, segments.clone()).unwrap();
        Self {
            folder,
            segments,
            namespace,
            inode: 1,
        }
    }

    /// The same tables, opened once more.
    pub(crate) fn open_again(&self) -> Namespace {
        let tables = self.folder.path().join("tables");
        Namespace::open(&tables, self.segments.clone()).unwrap()
    }

    pub(crate) fn slots(&self) -> Vec<Slot> {
        self.segments.slots()
    }

    pub(crate) fn write(&self) -> (File, ImageTotals) {
        let image = tempfile::tempfile().unwrap();
        let totals = write_image(&self.namespace, &self.slots(), &image).unwrap();
        (image, totals)
    }

    /// Attributes that no other file has.
    pub(crate) fn attributes(&mut self, kind: Kind) -> Attributes {
        self.inode += 1;
        attributes(kind, self.inode)
    }

    pub(crate) fn file(&mut self, name: impl AsRef<[u8]>, size: u64) -> New {
        New {
            name: name.as_ref().to_vec(),
            attributes: Attributes {
                size,
                ..self.attributes(Kind::File)
            },
            target: None,
        }
    }

    pub(crate) fn other(&mut self, name: impl AsRef<[u8]>, kind: Kind) -> New {
        New {
            name: name.as_ref().to_vec(),
            attributes: self.attributes(kind),
            target: None,
        }
    }

    pub(crate) fn link(&mut self, name: impl AsRef<[u8]>, target: &[u8]) -> New {
        New {
            target: Some(target.to_vec()),
            ..self.other(name, Kind::Link)
        }
    }

    /// Makes a folder complete; gives the ids in the order of `news`.
    pub(crate) fn fill(&self, folder: NodeId, news: &[New], gone: &[&[u8]]) -> Vec<NodeId> {
        let names = news.iter().map(|new| new.name.clone());
        let listed = names.chain(gone.iter().map(|name| name.to_vec()));
        let listed = listed.map(|name| (name, None)).collect();
        self.namespace.name_children(folder, listed).unwrap();
        let ids = self.bind(folder, news);
        for name in gone {
            self.namespace.set_gone(folder, name).unwrap();
        }
        assert!(self.namespace.complete_if_done(folder));
        ids
    }

    pub(crate) fn bind(&self, folder: NodeId, news: &[New]) -> Vec<NodeId> {
        let extended: Vec<_> = news.iter().map(extended).collect();
        let entries: Vec<_> = (news.iter().zip(&extended))
            .map(|(new, extended)| NewEntry {
                name: &new.name,
                attributes: &new.attributes,
                target: new.target.as_deref(),
                extended,
            })
            .collect();
        let results = self.namespace.set_entries(folder, &entries);
        results
            .into_iter()
            .map(|result| result.unwrap().id)
            .collect()
    }
}

/// Most have none; some share a set, some have one of their own, and some as many as there may be.
fn extended(new: &New) -> Vec<ExtendedAttribute> {
    let inode = new.attributes.inode;
    let one = |name: &[u8], value: Vec<u8>| ExtendedAttribute {
        name: name.to_vec(),
        value,
    };
    let acl = || one(ACCESS_ACL, vec![2; 44]);
    match inode % 20 {
        _ if new.attributes.kind == Kind::Link => Vec::new(),
        3 => vec![acl()],
        5 => vec![acl(), one(b"user.own", inode.to_le_bytes().to_vec())],
        7 => vec![one(b"user.l", vec![1; inode as usize % 9000])],
        11 if inode % 200 == 11 => (0..255)
            .map(|number| one(format!("user.{number:03}").as_bytes(), Vec::new()))
            .collect(),
        _ => Vec::new(),
    }
}

/// Names that sort, print or compare unlike most.
pub(crate) fn special_names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [
        "!", "-", "--", "+", " ", "\n", "\u{1}", "...", "....", "..a", "..-", ".-", ".\u{1}", ".a",
        ".!", "a", "A", "~", "a\nb", "a ", "\"", "\\", "*", "é", "-a", "..\u{1}",
    ]
    .iter()
    .map(|name| name.as_bytes().to_vec())
    .collect();
    names.extend([
        b"\xff".to_vec(),
        b"\xfe\xff".to_vec(),
        b"\x80".to_vec(),
        b"\x7f".to_vec(),
        b".\xff".to_vec(),
        vec![b'x'; 255],
        vec![b'x'; 254],
        vec![0xff; 255],
        vec![b'.'; 255],
        vec![b'!'; 255],
    ]);
    names
}

/// Lengths of targets at which something changes.
pub(crate) fn target_lengths() -> Vec<usize> {
    let mut lengths = vec![
        1, 2, 31, 32, 33, 63, 64, 65, 255, 1024, 2000, 4000, 4094, 4095,
    ];
    lengths.extend(INLINE_LIMIT - 40..INLINE_LIMIT + 40);
    lengths.sort_unstable();
    lengths.dedup();
    lengths
}

pub(crate) fn random_name(random: &mut Random) -> Vec<u8> {
    if random.one_in(4) {
        return random.pick(&special_names()).clone();
    }
    let length = match random.below(4) {
        0 => 255 - random.below(3),
        1 => 1 + random.below(255),
        _ => 1 + random.below(12),
    };
    let mut name: Vec<u8> = (0..length).map(|_| 1 + random.below(255) as u8).collect();
    name.iter_mut()
        .filter(|byte| **byte == b'/')
        .for_each(|byte| *byte = b'.');
    if name == b"." || name == b".." {
        name.push(b'a');
    }
    name
}

fn random_time(random: &mut Random) -> Timestamp {
    let seconds = match random.below(6) {
        0 => -1,
        1 => *random.pick(&[i64::MIN, i64::MAX, 0, 1 << 32, -(1 << 31)]),
        2 => random.next().cast_signed(),
        _ => 1_700_000_000 + random.below(100_000).cast_signed(),
    };
    let any = random.below(1_000_000_000) as u32;
    Timestamp {
        seconds,
        nanoseconds: *random.pick(&[0, 1, 999_999_999, any]),
    }
}

/// What a random namespace is like.
pub(crate) struct Shape {
    pub(crate) folders: u64,
    pub(crate) most_names: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) most_file_bytes: u64,
    /// One file in so many is of several TiB.
    pub(crate) huge_one_in: u64,
}

pub(crate) fn random_shape(random: &mut Random) -> Shape {
    let huge = random.one_in(3);
    Shape {
        folders: 1 + random.below(30),
        most_names: *random.pick(&[1, 5, 40, 300]),
        segment_bytes: if huge {
            15 * TEBIBYTE
        } else {
            *random.pick(&[4096, 1 << 16, 1 << 20, 1 << 30])
        },
        most_file_bytes: *random.pick(&[2, 5000, 100_000]),
        huge_one_in: if huge { 10 } else { u64::MAX },
    }
}

fn random_new(random: &mut Random, sample: &mut Sample, shape: &Shape, name: Vec<u8>) -> New {
    let kind = match random.below(16) {
        0..=2 => Kind::Link,
        3 => Kind::Fifo,
        4 => Kind::Socket,
        5 => Kind::CharacterDevice,
        6 => Kind::BlockDevice,
        _ => Kind::File,
    };
    let size = match kind {
        Kind::File if random.one_in(shape.huge_one_in) => random.below(12 * TEBIBYTE),
        Kind::File if random.one_in(4) => PAGE_BYTES * random.below(4),
        Kind::File => random.below(shape.most_file_bytes),
        _ => 0,
    };
    let target = (kind == Kind::Link).then(|| {
        let length = match random.below(4) {
            0 => *random.pick(&target_lengths()),
            1 => 1 + random.below(4095) as usize,
            _ => 1 + random.below(100) as usize,
        };
        (0..length).map(|_| 1 + random.below(255) as u8).collect()
    });
    let is_device = matches!(kind, Kind::CharacterDevice | Kind::BlockDevice);
    let major = *random.pick(&[0, 1, 8, 255, 256, 4095]);
    let minor = *random.pick(&[0, 3, 255, 256, 65536, (1 << 20) - 1]);
    New {
        name,
        attributes: Attributes {
            size,
            device_number: if is_device {
                libc::makedev(major, minor)
            } else {
                0
            },
            ..random_common(random, sample, kind)
        },
        target,
    }
}

fn random_common(random: &mut Random, sample: &mut Sample, kind: Kind) -> Attributes {
    let owner = |random: &mut Random| {
        let any = random.next() as u32;
        *random.pick(&[0, 1, 1000, 65_535, 65_536, u32::MAX - 1, any])
    };
    Attributes {
        permissions: random.below(0o10000) as u32,
        uid: owner(random),
        gid: owner(random),
        links: if kind == Kind::Folder {
            *random.pick(&[1, 2, 70_000])
        } else {
            1
        },
        modified: random_time(random),
        ..sample.attributes(kind)
    }
}

/// A namespace that follows from the seed.
pub(crate) fn random_sample(random: &mut Random, shape: &Shape) -> Sample {
    let mut sample = Sample::new(shape.segment_bytes);
    let mut waiting = vec![NodeId::ROOT];
    let mut left = shape.folders;
    let mut shared: Vec<New> = Vec::new();
    while let Some(folder) = waiting.pop() {
        let mut names = std::collections::BTreeSet::new();
        for _ in 0..random.below(shape.most_names + 1) {
            names.insert(random_name(random));
        }
        let mut news = Vec::new();
        let mut gone = Vec::new();
        for name in names {
            if random.one_in(12) {
                gone.push(name);
            } else if left > 0 && random.one_in(3) {
                left -= 1;
                news.push(New {
                    name,
                    attributes: random_common(random, &mut sample, Kind::Folder),
                    target: None,
                });
            } else if !shared.is_empty() && random.one_in(8) {
                let other = random.pick(&shared);
                news.push(New {
                    name,
                    attributes: other.attributes,
                    target: other.target.clone(),
                });
            } else {
                let mut new = random_new(random, &mut sample, shape, name);
                if random.one_in(8) {
                    new.attributes.links = 2 + random.below(100_000) as u32;
                    shared.push(New {
                        name: Vec::new(),
                        attributes: new.attributes,
                        target: new.target.clone(),
                    });
                }
                news.push(new);
            }
        }
        shuffle(random, &mut news);
        // Some are read before their folder is listed.
        let early = random.below(news.len() as u64 + 1) as usize;
        if random.one_in(3) {
            sample.bind(folder, &news[..early]);
        }
        let gone: Vec<_> = gone.iter().map(Vec::as_slice).collect();
        let ids = sample.fill(folder, &news, &gone);
        for (id, new) in ids.into_iter().zip(&news) {
            if new.attributes.kind == Kind::Folder {
                waiting.push(id);
            }
        }
        let turn = random.below(waiting.len() as u64 + 1) as usize;
        waiting.rotate_left(turn);
    }
    sample
}

fn shuffle<T>(random: &mut Random, items: &mut [T]) {
    for last in (1..items.len()).rev() {
        items.swap(last, random.below(last as u64 + 1) as usize);
    }
}
