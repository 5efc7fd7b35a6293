//! Extended attributes of nodes.

use std::{fs, os::unix::fs::FileExt};

use atlas_core::{ACCESS_ACL, Address, Attributes, ErrorKind, ExtendedAttribute, Kind};
use atlas_fs::{Namespace, NewEntry, NodeId, Slot, write_image};

use atlas_store::table::GrowableMap;

use crate::support::{Fixture, attributes, file, names};

const ROOT: NodeId = NodeId::ROOT;

fn one(name: &[u8], value: &[u8]) -> ExtendedAttribute {
    ExtendedAttribute {
        name: name.to_vec(),
        value: value.to_vec(),
    }
}

fn bind(
    namespace: &Namespace,
    name: &str,
    attributes: &Attributes,
    extended: &[ExtendedAttribute],
) -> atlas_core::Result<NodeId> {
    let new = NewEntry {
        name: name.as_bytes(),
        attributes,
        target: (attributes.kind == Kind::Link).then_some(b"target".as_slice()),
        extended,
    };
    namespace.set_new(ROOT, &new).map(|node| node.id)
}

/// Bytes of the table of sets that are in use.
fn used(fixture: &Fixture) -> u64 {
    let nodes = fs::File::open(fixture.folder.path().join("tables/nodes")).unwrap();
    let mut word = [0; 8];
    nodes.read_exact_at(&mut word, 2048 + 6 * 8).unwrap();
    u64::from_le_bytes(word) * 4
}

#[test]
fn a_set_is_kept_once_for_all_that_have_it() {
    let fixture = Fixture::new();
    let namespace = fixture.create();
    let folder = fixture.folder.path().join("tables");
    assert!(!namespace.has_extended_attributes());
    let empty = fs::metadata(folder.join("extended")).unwrap().len();
    assert_eq!(empty, 4096, "a tree without attributes takes no more");
    let acl = vec![one(ACCESS_ACL, &[2; 44])];
    let both = vec![one(ACCESS_ACL, &[2; 44]), one(b"user.a", b"")];
    let mut wanted = Vec::new();
    for number in 0..300 {
        let set = [&[], acl.as_slice(), &both][number % 3];
        let kind = [Kind::File, Kind::Folder, Kind::Fifo, Kind::BlockDevice][number % 4];
        let given = Attributes {
            device_number: 5,
            ..attributes(kind, number as u64)
        };
        let id = bind(&namespace, &format!("early{number}"), &given, set).unwrap();
        wanted.push((id, given, set.to_vec()));
    }
    // Each with the word of its length.
    let bytes = (4 + 4 + 44) + (4 + 4 + 44 + 4 + 4);
    assert_eq!(used(&fixture), bytes);
    namespace.settle().unwrap();
    drop(namespace);

    let namespace = fixture.open();
    assert!(namespace.has_extended_attributes());
    for (id, given, set) in &wanted {
        assert_eq!(namespace.extended_attributes(*id).unwrap(), *set);
        assert_eq!(namespace.node(*id).unwrap().attributes, *given);
    }
    bind(&namespace, "again", &file(1000), &both).unwrap();
    assert_eq!(used(&fixture), bytes, "known from before");
    bind(&namespace, "other", &file(1001), &both[1..]).unwrap();
    assert_eq!(used(&fixture), bytes + 12);
}

#[test]
fn the_first_set_of_a_version_stays() {
    let namespace = Fixture::new().create();
    let linked = Attributes {
        links: 2,
        ..file(5)
    };
    namespace
        .name_children(ROOT, names(&["a", "b", "c"]))
        .unwrap();
    let first = [one(b"user.a", b"first")];
    let id = bind(&namespace, "a", &linked, &first).unwrap();
    let other = [one(b"user.a", b"other")];
    assert_eq!(bind(&namespace, "a", &linked, &other), Ok(id));
    assert_eq!(bind(&namespace, "b", &linked, &other), Ok(id));
    assert_eq!(namespace.extended_attributes(id).unwrap(), first);
    assert_eq!(namespace.node(id).unwrap().attributes.links, 2);
    let unknown = namespace.extended_attributes(NodeId(99)).unwrap_err();
    assert_eq!(unknown.kind, ErrorKind::NotFound);
}

#[test]
fn what_no_data_set_shows_is_refused() {
    let namespace = Fixture::new().create();
    let given = attributes(Kind::Link, 6);
    let plain = [one(b"user.a", b"")];
    let refused = bind(&namespace, "link", &given, &plain).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Invalid);
    for set in [
        vec![one(b"security.capability", b"x")],
        vec![one(b"trusted.x", b"x")],
        vec![one(b"user.a", &[0; 65_536])],
        (0..256)
            .map(|number| one(format!("user.{number}").as_bytes(), b""))
            .collect(),
    ] {
        let refused = bind(&namespace, "file", &file(5), &set).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Invalid);
    }
    let set: Vec<_> = (0..255)
        .map(|number| one(format!("user.{number:03}").as_bytes(), &[7; 100]))
        .collect();
    let id = bind(&namespace, "file", &file(5), &set).unwrap();
    assert_eq!(namespace.extended_attributes(id).unwrap(), set);
}

#[test]
fn damaged_sets_are_an_error_and_never_none() {
    let fixture = Fixture::new();
    let namespace = fixture.create();
    let id = bind(&namespace, "a", &file(5), &[one(ACCESS_ACL, &[2; 44])]).unwrap();
    let table = fs::File::options()
        .write(true)
        .open(fixture.folder.path().join("tables/extended"))
        .unwrap();
    let put = |at: u64, byte: u8| table.write_all_at(&[byte], 4096 + at).unwrap();
    // Of the length of the set, the length of the name, and the number of its prefix.
    for (at, wrong, right) in [(0, 200, 48), (3, 1, 0), (4, 200, 0), (5, 9, 2)] {
        put(at, wrong);
        let error = namespace.extended_attributes(id).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Corrupt, "byte {at}");
        put(at, right);
        assert_eq!(namespace.extended_attributes(id).unwrap().len(), 1);
    }
}

#[test]
fn tables_of_the_format_before_are_refused_by_name() {
    let fixture = Fixture::new();
    drop(fixture.create());
    let folder = fixture.folder.path().join("tables");
    for name in ["extended", "nodes"] {
        fs::remove_file(folder.join(name)).unwrap();
    }
    drop(GrowableMap::create(&folder.join("nodes"), *b"atlnodes", 1, 1 << 20).unwrap());
    let Err(error) = Namespace::open(&folder, fixture.allocator.clone()) else {
        panic!("it was opened");
    };
    assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
    assert!(error.message.contains("format 1"), "{error}");
}

#[test]
fn an_image_is_the_same_every_time_and_grows_only_with_attributes() {
    let image = |sets: bool| {
        let fixture = Fixture::new();
        let namespace = fixture.create();
        let listed: Vec<_> = (0..200).map(|number| format!("f{number:03}")).collect();
        let listed: Vec<_> = listed.iter().map(String::as_str).collect();
        namespace.name_children(ROOT, names(&listed)).unwrap();
        for (number, name) in (1..).zip(&listed) {
            let set = [
                one(ACCESS_ACL, &[2; 44]),
                one(b"user.a", &[number as u8 % 3]),
            ];
            let set = if sets { set.as_slice() } else { &[] };
            bind(&namespace, name, &file(number), set).unwrap();
        }
        assert!(namespace.complete_if_done(ROOT));
        let slot = Slot {
            start: Address(0),
            length: 64 << 20,
        };
        let written = [0, 1].map(|number| {
            let path = fixture.folder.path().join(format!("image{number}"));
            write_image(&namespace, &[slot], &fs::File::create(&path).unwrap()).unwrap();
            fs::read(path).unwrap()
        });
        assert!(written[0] == written[1]);
        written[0].clone()
    };
    let (without, with) = (image(false), image(true));
    // Superblock, inodes of 96 bytes, one folder: no area, and none is named.
    assert_eq!(without.len(), 4096 + 20_480 + 4096);
    assert_eq!(without[1024 + 44..1024 + 48], [0; 4]);
    // An inode with two places takes 96 bytes as well: only the area is new.
    assert_eq!(with.len(), without.len() + 4096);
    let area = u32::from_le_bytes(*with[1024 + 44..].first_chunk().unwrap()) as usize * 4096;
    assert_eq!(with[area..area + 8], [56, 0, 0, 0, 0, 2, 44, 0]);
}
