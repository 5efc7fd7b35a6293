//! What the namespace promises, one sentence a test.

use std::{fs, os::unix::fs::FileExt};

use crate::support::{Fixture, add_folder, attributes, file, folder, names};
use atlas_core::{Attributes, ErrorKind, Kind, SET_ID_BITS};
use atlas_fs::{FolderState, Lookup, Namespace, NewEntry, Node, NodeId};

const ROOT: NodeId = NodeId::ROOT;

fn found(namespace: &Namespace, folder: NodeId, name: &[u8]) -> Node {
    match namespace.lookup(folder, name) {
        Lookup::Found(node) => node,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_namespace_knows_its_root_only() {
    let namespace = Fixture::new().create();
    let root = namespace.node(ROOT).unwrap();
    assert_eq!((root.parent, root.attributes), (ROOT, folder()));
    assert_eq!(namespace.path(ROOT).unwrap(), b"");
    assert_eq!(namespace.lookup(ROOT, b"a"), Lookup::Unknown);
    assert_eq!(namespace.unfinished_folders(), [ROOT]);
    assert_eq!(namespace.totals(), Default::default());
    for id in [0, 2, u64::MAX] {
        assert_eq!(namespace.node(NodeId(id)), None);
        assert_eq!(namespace.path(NodeId(id)), None);
    }
}

#[test]
fn names_come_sorted_once_and_keep_their_positions() {
    let namespace = Fixture::new().create();
    let listed = [
        ("b", None),
        ("a", None),
        ("b", Some(Kind::File)),
        ("\n", Some(Kind::Link)),
    ];
    let listed = listed
        .map(|(name, kind)| (name.as_bytes().to_vec(), kind))
        .to_vec();
    assert_eq!(namespace.name_children(ROOT, listed).unwrap(), 3);
    assert_eq!(namespace.name_children(ROOT, names(&["other"])).unwrap(), 3);
    let children = namespace.children(ROOT, 0, 10);
    let listed: Vec<_> = children
        .iter()
        .map(|child| (child.name.as_slice(), child.kind))
        .collect();
    assert_eq!(
        listed,
        [
            (&b"\n"[..], Some(Kind::Link)),
            (b"a", None),
            (b"b", Some(Kind::File))
        ]
    );
    assert_eq!(namespace.children(ROOT, 1, 1), children[1..2]);
    assert_eq!(namespace.children(ROOT, 3, usize::MAX), []);
    assert_eq!(namespace.lookup(ROOT, b"a"), Lookup::Named(children[1].id));
    assert_eq!(namespace.lookup(ROOT, b"other"), Lookup::Absent);
    assert_eq!(namespace.node(children[1].id), None);
    assert_eq!(namespace.path(children[0].id).unwrap(), b"\n");
}

#[test]
fn every_attribute_is_kept_but_set_id_bits() {
    let fixture = Fixture::new();
    let namespace = fixture.create();
    let given = Attributes {
        permissions: 0o7777,
        links: 9,
        device_number: 77,
        ..file(5)
    };
    let node = namespace.set_entry(ROOT, b"a", &given, None).unwrap();
    let expected = Attributes {
        permissions: 0o7777 & !SET_ID_BITS,
        ..given
    };
    assert_eq!(node.attributes, expected);
    drop(namespace);
    assert_eq!(fixture.open().node(node.id), Some(node));
}

#[test]
fn a_bound_name_keeps_its_version() {
    let namespace = Fixture::new().create();
    namespace.name_children(ROOT, names(&["a"])).unwrap();
    let node = namespace.set_entry(ROOT, b"a", &file(5), None).unwrap();
    let other = Attributes { size: 7, ..file(6) };
    assert_eq!(namespace.set_entry(ROOT, b"a", &other, None), Ok(node));
    namespace.set_gone(ROOT, b"a").unwrap();
    assert_eq!(found(&namespace, ROOT, b"a"), node);
}

#[test]
fn an_early_node_is_adopted_with_its_id_also_after_reopening() {
    let fixture = Fixture::new();
    let namespace = fixture.create();
    let deep = add_folder(&namespace, ROOT, b"deep", 2);
    let node = namespace.set_entry(deep, b"m", &file(5), None).unwrap();
    assert!(node.early);
    drop(namespace);
    let namespace = fixture.open();
    assert_eq!(found(&namespace, deep, b"m"), node);
    assert_eq!(namespace.lookup(deep, b"n"), Lookup::Unknown);
    namespace
        .name_children(deep, names(&["z", "m", "a"]))
        .unwrap();
    assert_eq!(found(&namespace, deep, b"m"), node);
    assert_eq!(namespace.children(deep, 1, 1)[0].id, node.id);
    drop(namespace);
    assert_eq!(found(&fixture.open(), deep, b"m"), node);
}

#[test]
fn an_early_name_that_is_not_listed_stays() {
    let namespace = Fixture::new().create();
    let node = namespace.set_entry(ROOT, b"m", &file(5), None).unwrap();
    assert_eq!(
        namespace.name_children(ROOT, names(&["a", "z"])).unwrap(),
        3
    );
    assert_eq!(found(&namespace, ROOT, b"m"), node);
    assert_eq!(namespace.children(ROOT, 1, 1)[0].kind, Some(Kind::File));
}

#[test]
fn hard_links_share_a_node_named_or_early() {
    let fixture = Fixture::new();
    let namespace = fixture.create();
    let early = add_folder(&namespace, ROOT, b"early", 2);
    let named = add_folder(&namespace, ROOT, b"named", 3);
    namespace
        .name_children(named, names(&["a", "b", "c", "d"]))
        .unwrap();
    let linked = Attributes {
        links: 3,
        ..file(5)
    };
    let node = namespace.set_entry(named, b"b", &linked, None).unwrap();
    assert_eq!(namespace.set_entry(named, b"a", &linked, None), Ok(node));
    assert_eq!(namespace.set_entry(early, b"x", &linked, None), Ok(node));
    drop(namespace);
    let namespace = fixture.open();
    assert_eq!(namespace.set_entry(named, b"c", &linked, None), Ok(node));
    let changed = Attributes {
        changed: Default::default(),
        ..linked
    };
    assert_ne!(
        namespace.set_entry(named, b"d", &changed, None).unwrap().id,
        node.id
    );
    namespace.name_children(early, names(&["x"])).unwrap();
    for (folder, name) in [(named, b"a"), (named, b"b"), (named, b"c"), (early, b"x")] {
        assert_eq!(found(&namespace, folder, name), node);
    }
    assert_eq!(namespace.path(node.id).unwrap(), b"named/b");
    assert_eq!(
        (namespace.totals().files, namespace.totals().bytes),
        (2, 200)
    );
    assert!(namespace.complete_if_done(named));
}

#[test]
fn only_files_with_bytes_have_an_address() {
    let namespace = Fixture::new().create();
    let empty = Attributes { size: 0, ..file(5) };
    let link = Attributes {
        size: 3,
        ..attributes(Kind::Link, 6)
    };
    let fifo = attributes(Kind::Fifo, 7);
    let entries = [
        NewEntry {
            name: b"file",
            attributes: &file(4),
            target: None,
            extended: &[],
        },
        NewEntry {
            name: b"empty",
            attributes: &empty,
            target: None,
            extended: &[],
        },
        NewEntry {
            name: b"link",
            attributes: &link,
            target: Some(b"a/b"),
            extended: &[],
        },
        NewEntry {
            name: b"fifo",
            attributes: &fifo,
            target: None,
            extended: &[],
        },
        NewEntry {
            name: b"bare",
            attributes: &link,
            target: None,
            extended: &[],
        },
        NewEntry {
            name: b"a/b",
            attributes: &fifo,
            target: None,
            extended: &[],
        },
    ];
    let results = namespace.set_entries(ROOT, &entries);
    let address = |index: usize| results[index].as_ref().unwrap().address.is_some();
    assert_eq!([0, 1, 2, 3].map(address), [true, false, false, false]);
    for index in [4, 5] {
        assert_eq!(
            results[index].as_ref().unwrap_err().kind,
            ErrorKind::Invalid
        );
    }
    let id = |index: usize| results[index].as_ref().unwrap().id;
    assert_eq!(namespace.link_target(id(2)).unwrap(), b"a/b");
    assert_eq!(namespace.link_target(id(0)), None);
    let mut files = Vec::new();
    namespace.for_each_file(|node| files.push(node.id));
    assert_eq!(files, [id(0), id(1)]);
}

#[test]
fn a_gone_name_is_absent_and_lets_the_folder_complete() {
    let fixture = Fixture::new();
    let namespace = fixture.create();
    namespace.name_children(ROOT, names(&["a", "b"])).unwrap();
    namespace.set_entry(ROOT, b"a", &file(5), None).unwrap();
    assert!(!namespace.complete_if_done(ROOT));
    namespace.set_gone(ROOT, b"b").unwrap();
    assert_eq!(namespace.lookup(ROOT, b"b"), Lookup::Absent);
    assert!(namespace.children(ROOT, 1, 1)[0].gone);
    let error = namespace.set_entry(ROOT, b"b", &file(6), None).unwrap_err();
    assert_eq!(
        (error.kind, error.errno),
        (ErrorKind::NotFound, libc::ENOENT)
    );
    assert!(namespace.complete_if_done(ROOT));
    drop(namespace);
    let namespace = fixture.open();
    assert_eq!(namespace.folder_state(ROOT), FolderState::Complete);
    assert_eq!(namespace.unfinished_folders(), []);
}

#[test]
fn a_failed_folder_tells_why_until_it_is_named() {
    let fixture = Fixture::new();
    let namespace = fixture.create();
    let early = namespace.set_entry(ROOT, b"a", &file(5), None).unwrap();
    namespace.set_failed(ROOT, libc::EACCES).unwrap();
    drop(namespace);
    let namespace = fixture.open();
    assert_eq!(
        namespace.folder_state(ROOT),
        FolderState::Failed(libc::EACCES)
    );
    assert_eq!(namespace.unfinished_folders(), [ROOT]);
    assert_eq!(found(&namespace, ROOT, b"a"), early);
    namespace.name_children(ROOT, Vec::new()).unwrap();
    namespace.set_failed(ROOT, libc::EIO).unwrap();
    assert_eq!(namespace.folder_state(ROOT), FolderState::Named);
    assert_eq!(found(&namespace, ROOT, b"a"), early);
}

#[test]
fn a_path_may_be_longer_than_the_kernel_allows() {
    let namespace = Fixture::new().create();
    let name = [b'n'; 255];
    let (mut folder, mut path) = (ROOT, Vec::new());
    for level in 0..60 {
        folder = add_folder(&namespace, folder, &name, 100 + level);
        path.push(&name[..]);
        assert_eq!(namespace.path(folder).unwrap(), path.join(&b'/'));
    }
    assert_eq!(namespace.name(folder).unwrap(), name);
}

#[test]
fn leaving_links_are_counted_and_the_first_are_named() {
    let fixture = Fixture::new();
    let namespace = fixture.create();
    let folder = add_folder(&namespace, ROOT, b"d", 2);
    let link = |inode| attributes(Kind::Link, inode);
    namespace
        .set_entry(folder, b"in", &link(10), Some(b"../x"))
        .unwrap();
    namespace
        .set_entry(folder, b"up", &link(11), Some(b"../../x"))
        .unwrap();
    for number in 0..30 {
        let name = format!("absolute{number}");
        namespace
            .set_entry(folder, name.as_bytes(), &link(20 + number), Some(b"/x"))
            .unwrap();
    }
    for totals in [namespace.totals(), fixture.open().totals()] {
        assert_eq!(
            (totals.links, totals.leaving_links, totals.folders),
            (32, 31, 1)
        );
        assert_eq!(totals.leaving_names.len(), 20);
        assert_eq!(
            totals.leaving_names[..2],
            [b"d/up".to_vec(), b"d/absolute0".to_vec()]
        );
    }
}

#[test]
fn what_is_no_ready_folder_has_no_children() {
    let namespace = Fixture::new().create();
    namespace
        .name_children(ROOT, names(&["file", "later"]))
        .unwrap();
    let node = namespace.set_entry(ROOT, b"file", &file(5), None).unwrap();
    assert_eq!(namespace.lookup(node.id, b"x"), Lookup::Absent);
    let error = namespace.name_children(node.id, Vec::new()).unwrap_err();
    assert_eq!(error.errno, libc::ENOTDIR);
    let Lookup::Named(later) = namespace.lookup(ROOT, b"later") else {
        panic!()
    };
    assert_eq!(namespace.lookup(later, b"x"), Lookup::Unknown);
    assert_eq!(
        namespace
            .set_entry(later, b"x", &file(6), None)
            .unwrap_err()
            .errno,
        libc::ENOENT
    );
    assert!(!namespace.complete_if_done(later));
}

#[test]
fn impossible_names_are_refused() {
    let namespace = Fixture::new().create();
    let long = "x".repeat(70_000);
    for name in ["", ".", "..", "a/b", "a\0b", &long] {
        let error = namespace
            .name_children(ROOT, names(&["a", name]))
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        let error = namespace
            .set_entry(ROOT, name.as_bytes(), &file(6), None)
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
    }
    assert_eq!(namespace.folder_state(ROOT), FolderState::Unlisted);
}

fn open_error(fixture: &Fixture) -> ErrorKind {
    let tables = fixture.folder.path().join("tables");
    match Namespace::open(&tables, fixture.allocator.clone()) {
        Ok(_) => panic!("it opened"),
        Err(error) => error.kind,
    }
}

/// Changes a word in the header of the nodes, where the table's user has its words.
fn poke(fixture: &Fixture, word: u64, value: u64) {
    let path = fixture.folder.path().join("tables/nodes");
    let nodes = fs::File::options().write(true).open(path).unwrap();
    nodes
        .write_all_at(&value.to_ne_bytes(), 2048 + 8 * word)
        .unwrap();
}

#[test]
fn tables_of_another_boot_are_believed_only_if_settled() {
    let fixture = Fixture::new();
    let namespace = fixture.create();
    let node = namespace.set_entry(ROOT, b"a", &file(5), None).unwrap();
    drop(namespace);
    poke(&fixture, 5, 1);
    assert_eq!(open_error(&fixture), ErrorKind::Corrupt);

    let fixture = Fixture::new();
    let namespace = fixture.create();
    let node_again = namespace.set_entry(ROOT, b"a", &file(5), None).unwrap();
    assert_eq!(node, node_again);
    namespace.settle().unwrap();
    drop(namespace);
    poke(&fixture, 5, 1);
    let namespace = fixture.open();
    assert_eq!(found(&namespace, ROOT, b"a"), node);
    namespace.set_entry(ROOT, b"b", &file(6), None).unwrap();
    drop(namespace);
    drop(fixture.open());
    poke(&fixture, 5, 1);
    assert_eq!(open_error(&fixture), ErrorKind::Corrupt);
}

#[test]
fn unfinished_cut_or_foreign_tables_are_refused() {
    let fixture = Fixture::new();
    drop(fixture.create());
    assert!(fixture.open().table_bytes().unwrap() > 0);
    let tables = fixture.folder.path().join("tables");
    let again = Namespace::create(&tables, &folder(), fixture.allocator.clone());
    assert_eq!(again.err().unwrap().kind, ErrorKind::Conflict);
    poke(&fixture, 4, 0);
    assert_eq!(open_error(&fixture), ErrorKind::Corrupt);
    poke(&fixture, 4, 1);
    poke(&fixture, 0, 1 << 40);
    assert_eq!(open_error(&fixture), ErrorKind::Corrupt);
    fs::write(tables.join("nodes"), vec![1; 8192]).unwrap();
    assert_eq!(open_error(&fixture), ErrorKind::Corrupt);
    fs::remove_file(tables.join("nodes")).unwrap();
    assert_eq!(open_error(&fixture), ErrorKind::NotFound);
}
