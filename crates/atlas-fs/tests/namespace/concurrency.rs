//! Many threads at once: what one of them was answered holds for all, from then on.

use std::{
    collections::HashMap,
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use atlas_core::{Attributes, Kind};
use atlas_fs::{Lookup, Namespace, NewEntry, Node, NodeId};

use crate::support::{Fixture, Random, add_folder, attributes, file, names};

fn found(namespace: &Namespace, folder: NodeId, name: &str) -> Option<Node> {
    match namespace.lookup(folder, name.as_bytes()) {
        Lookup::Found(node) => Some(node),
        _ => None,
    }
}

#[test]
fn lookups_never_lose_an_early_name_while_its_folder_is_named() {
    let namespace = Fixture::new().create();
    let all: Vec<String> = (0..40).map(|number| format!("n{number}")).collect();
    let listed: Vec<&str> = all.iter().step_by(2).map(String::as_str).collect();
    for round in 0..150 {
        let folder = add_folder(
            &namespace,
            NodeId::ROOT,
            format!("d{round}").as_bytes(),
            round,
        );
        let first: Vec<Node> = all[..4]
            .iter()
            .map(|name| {
                namespace
                    .set_entry(folder, name.as_bytes(), &file(9), None)
                    .unwrap()
            })
            .collect();
        let start = Barrier::new(3);
        let named = AtomicBool::new(false);
        let bound = thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                let count = namespace.name_children(folder, names(&listed)).unwrap();
                assert_eq!(namespace.children(folder, 0, 100).len(), count);
                named.store(true, Ordering::Release);
            });
            scope.spawn(|| {
                start.wait();
                let mut ended = false;
                while !ended {
                    ended = named.load(Ordering::Acquire);
                    for (name, node) in all.iter().zip(&first) {
                        assert_eq!(found(&namespace, folder, name), Some(*node));
                    }
                }
            });
            let binder = scope.spawn(|| {
                start.wait();
                let mut bound = Vec::new();
                for name in &all[4..] {
                    if let Ok(node) = namespace.set_entry(folder, name.as_bytes(), &file(9), None) {
                        assert_eq!(found(&namespace, folder, name), Some(node));
                        bound.push((name, node));
                    }
                }
                bound
            });
            binder.join().unwrap()
        });
        for (name, node) in bound.into_iter().chain(all.iter().zip(first)) {
            assert_eq!(found(&namespace, folder, name), Some(node));
        }
    }
}

#[test]
fn threads_that_bind_the_same_names_get_the_same_nodes() {
    let fixture = Fixture::new();
    let namespace = fixture.create();
    let folders: Vec<NodeId> = (0..8)
        .map(|number| {
            add_folder(
                &namespace,
                NodeId::ROOT,
                &[b'a' + number],
                u64::from(number),
            )
        })
        .collect();
    let all: Vec<String> = (0..200).map(|number| format!("n{number}")).collect();
    let listed: Vec<&str> = all.iter().map(String::as_str).collect();
    let answers: Vec<HashMap<(NodeId, usize), Node>> = thread::scope(|scope| {
        let work = |seed| {
            let mut random = Random(seed);
            let mut answers = HashMap::new();
            for _ in 0..6000 {
                let folder = *random.pick(&folders);
                let index = random.below(all.len() as u64) as usize;
                if random.one_in(1000) {
                    namespace.name_children(folder, names(&listed)).unwrap();
                }
                // Every name has a second one in another folder.
                let inode = index as u64 + 1000 * (folder.0 / 2);
                let given = Attributes {
                    links: 2,
                    ..attributes(Kind::File, inode)
                };
                let name = all[index].as_bytes();
                let new = NewEntry {
                    name,
                    attributes: &given,
                    target: None,
                    extended: &[],
                };
                let node = namespace.set_entries(folder, &[new]).remove(0).unwrap();
                assert_eq!(node.attributes, given);
                let before = answers.insert((folder, index), node);
                assert!(before.is_none_or(|before| before == node));
            }
            answers
        };
        let threads: Vec<_> = (0..3).map(|seed| scope.spawn(move || work(seed))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    let totals = namespace.totals();
    drop(namespace);
    let namespace = fixture.open();
    assert_eq!(namespace.totals(), totals);
    for ((folder, index), node) in answers.into_iter().flatten() {
        assert_eq!(found(&namespace, folder, &all[index]), Some(node));
    }
}

#[test]
fn a_large_folder_holds_up_nobody() {
    let namespace = Fixture::new().create();
    let large = add_folder(&namespace, NodeId::ROOT, b"large", 2);
    let small = add_folder(&namespace, NodeId::ROOT, b"small", 3);
    let early = namespace
        .set_entry(large, b"name00077", &file(9), None)
        .unwrap();
    let listed: Vec<_> = (0..100_000)
        .map(|number| (format!("name{number:05}").into_bytes(), None))
        .collect();
    let (start, named) = (Barrier::new(2), AtomicBool::new(false));
    let during = thread::scope(|scope| {
        scope.spawn(|| {
            start.wait();
            assert_eq!(namespace.name_children(large, listed).unwrap(), 100_000);
            named.store(true, Ordering::Release);
        });
        start.wait();
        let mut during = 0_u64;
        while !named.load(Ordering::Acquire) {
            let name = during.to_string();
            namespace
                .set_entry(small, name.as_bytes(), &file(during), None)
                .unwrap();
            assert!(found(&namespace, small, &name).is_some());
            assert_eq!(found(&namespace, large, "name00077"), Some(early));
            during += 1;
        }
        during
    });
    println!("{during} names bound elsewhere meanwhile");
    assert!(during > 100);
    assert_eq!(namespace.children(large, 77, 1)[0].id, early.id);
}
