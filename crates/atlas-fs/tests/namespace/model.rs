//! Random operations against a plain model, with the tables reopened at random moments.
//!
//! `ATLAS_TEST_SEED=n` runs one seed, `ATLAS_TEST_SEEDS=n` that many.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::{Fixture, Random, attributes, folder};
use atlas_core::{Attributes, ErrorKind, Kind, Timestamp, round_up_to_page};
use atlas_fs::{FolderState, Lookup, Namespace, NewEntry, Node, NodeId};

const OPERATIONS: u64 = 250;

/// What the model knows of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    Named,
    Gone,
    Bound(NodeId),
}

#[derive(Debug)]
struct Folder {
    state: FolderState,
    /// While the folder is not named, only the early ones.
    names: BTreeMap<Vec<u8>, Name>,
}

/// Plain maps; ids are those that the namespace answered.
struct Model {
    folders: BTreeMap<NodeId, Folder>,
    nodes: BTreeMap<NodeId, (Node, Vec<u8>)>,
    links: BTreeMap<(u64, u32), NodeId>,
}

fn pool() -> Vec<Vec<u8>> {
    let mut pool: Vec<Vec<u8>> = (0..9)
        .map(|number| format!("name{number}").into())
        .collect();
    pool.extend([
        b"\n".to_vec(),
        b"\xff\xfe".to_vec(),
        vec![b'x'; 255],
        b"...".to_vec(),
    ]);
    pool
}

/// Kind and target follow from the inode, as at an origin.
fn random_attributes(random: &mut Random) -> (Attributes, Option<Vec<u8>>) {
    let inode = random.below(40);
    let kind = match inode % 8 {
        0 | 1 => Kind::Folder,
        2 => Kind::Link,
        3 => Kind::Fifo,
        _ => Kind::File,
    };
    let changed = Timestamp {
        seconds: 5,
        nanoseconds: random.below(2) as u32,
    };
    let size = if kind == Kind::File {
        inode / 8 * 3000
    } else {
        0
    };
    let links = 1 + (inode % 2) as u32;
    let given = Attributes {
        changed,
        size,
        links,
        ..attributes(kind, inode)
    };
    let targets: [&[u8]; 4] = [b"/etc", b"name1", b"../..", b"name1/../x"];
    let target = (kind == Kind::Link).then(|| targets[(inode / 8 % 4) as usize].to_vec());
    (given, target)
}

impl Model {
    fn new(namespace: &Namespace) -> Self {
        let mut model = Self {
            folders: BTreeMap::new(),
            nodes: BTreeMap::new(),
            links: BTreeMap::new(),
        };
        let root = namespace.node(NodeId::ROOT).unwrap();
        assert_eq!(root.attributes, folder());
        model.add(root, Vec::new());
        model
    }

    fn add(&mut self, node: Node, target: Vec<u8>) {
        if node.attributes.kind == Kind::Folder {
            let names = BTreeMap::new();
            self.folders.insert(
                node.id,
                Folder {
                    state: FolderState::Unlisted,
                    names,
                },
            );
        } else if node.attributes.links > 1 {
            self.links.insert(
                (node.attributes.inode, node.attributes.changed.nanoseconds),
                node.id,
            );
        }
        let fresh = self.nodes.insert(node.id, (node, target)).is_none();
        assert!(fresh, "{:?} was given twice", node.id);
    }

    /// What binding must answer: an error, a known node, or one that is new and like this.
    fn bind(
        &mut self,
        at: NodeId,
        name: &[u8],
        given: &Attributes,
        target: Option<&[u8]>,
        answer: Result<Node, ErrorKind>,
    ) {
        let folder = &self.folders[&at];
        let named = folder.state.is_named();
        match folder.names.get(name) {
            Some(Name::Bound(id)) => return assert_eq!(answer, Ok(self.nodes[id].0)),
            Some(Name::Gone) => return assert_eq!(answer, Err(ErrorKind::NotFound)),
            None if named => return assert_eq!(answer, Err(ErrorKind::NotFound)),
            Some(Name::Named) | None => {}
        }
        let node = answer.unwrap();
        let linked = self.links.get(&(given.inode, given.changed.nanoseconds));
        match linked.filter(|_| given.links > 1 && given.kind != Kind::Folder) {
            Some(id) => assert_eq!(node, self.nodes[id].0),
            None => {
                assert_eq!((node.parent, node.early), (at, !named));
                assert_eq!(node.attributes, *given);
                assert_eq!(node.address.is_some(), given.size > 0);
                self.add(node, target.unwrap_or_default().to_vec());
            }
        }
        let names = &mut self.folders.get_mut(&at).unwrap().names;
        names.insert(name.to_vec(), Name::Bound(node.id));
    }

    fn path(&self, namespace: &Namespace, id: NodeId) -> Vec<u8> {
        let (node, _) = &self.nodes[&id];
        if id == NodeId::ROOT {
            return Vec::new();
        }
        let mut path = self.path(namespace, node.parent);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend(namespace.name(id).unwrap());
        path
    }

    /// Everything that can be asked, compared.
    fn compare(&self, namespace: &Namespace) {
        let mut ends = Vec::new();
        for (id, (node, target)) in &self.nodes {
            assert_eq!(namespace.node(*id).as_ref(), Some(node));
            assert_eq!(namespace.path(*id).unwrap(), self.path(namespace, *id));
            let is_link = node.attributes.kind == Kind::Link;
            assert_eq!(namespace.link_target(*id), is_link.then(|| target.clone()));
            if let Some(address) = node.address {
                ends.push((
                    address.0,
                    address.0 + round_up_to_page(node.attributes.size),
                ));
            }
            if *id != NodeId::ROOT {
                // The name that was bound first is still this node's.
                let name = namespace.name(*id).unwrap();
                assert_eq!(namespace.lookup(node.parent, &name), Lookup::Found(*node));
            }
        }
        ends.sort_unstable();
        assert!(
            ends.windows(2).all(|pair| pair[0].1 <= pair[1].0),
            "addresses overlap"
        );
        for (id, folder) in &self.folders {
            assert_eq!(namespace.folder_state(*id), folder.state);
            for name in pool() {
                let expected = match (folder.names.get(&name), namespace.lookup(*id, &name)) {
                    (Some(Name::Bound(bound)), _) => Lookup::Found(self.nodes[bound].0),
                    (Some(Name::Named), Lookup::Named(any)) => Lookup::Named(any),
                    (Some(Name::Gone), _) => Lookup::Absent,
                    (None, _) if folder.state.is_named() => Lookup::Absent,
                    (None, _) => Lookup::Unknown,
                    (Some(Name::Named), other) => panic!("named, but {other:?}"),
                };
                assert_eq!(namespace.lookup(*id, &name), expected, "{name:?} in {id:?}");
            }
            let children = namespace.children(*id, 0, usize::MAX);
            if folder.state.is_named() {
                let listed: Vec<_> = children.iter().map(|child| child.name.clone()).collect();
                assert_eq!(listed, folder.names.keys().cloned().collect::<Vec<_>>());
                for (child, name) in children.iter().zip(folder.names.values()) {
                    assert_eq!(child.gone, *name == Name::Gone);
                    assert_eq!(child.ready, matches!(name, Name::Bound(_)));
                    assert!(!child.ready || *name == Name::Bound(child.id));
                }
            } else {
                assert_eq!(children, []);
            }
        }
        self.compare_sums(namespace);
    }

    fn compare_sums(&self, namespace: &Namespace) {
        let of = |kind| {
            self.nodes
                .values()
                .map(|(node, _)| node.attributes)
                .filter(move |a| a.kind == kind)
        };
        let totals = namespace.totals();
        assert_eq!(totals.files, of(Kind::File).count() as u64);
        assert_eq!(totals.bytes, of(Kind::File).map(|a| a.size).sum::<u64>());
        assert_eq!(totals.folders + 1, of(Kind::Folder).count() as u64);
        assert_eq!(totals.links, of(Kind::Link).count() as u64);
        assert_eq!(totals.others, of(Kind::Fifo).count() as u64);
        let leaving: BTreeSet<_> = self
            .nodes
            .iter()
            .filter(|(_, (node, target))| {
                // `../..` leaves from the root and from one level below it.
                let path = self.path(namespace, node.parent);
                let levels = if path.is_empty() {
                    0
                } else {
                    path.split(|b| *b == b'/').count()
                };
                target == b"/etc" || (target == b"../.." && levels < 2)
            })
            .map(|(id, _)| self.path(namespace, *id))
            .collect();
        assert_eq!(totals.leaving_links, leaving.len() as u64);
        assert_eq!(totals.leaving_names.len(), leaving.len().min(20));
        assert!(
            totals
                .leaving_names
                .iter()
                .all(|name| leaving.contains(name))
        );
        let mut files = Vec::new();
        namespace.for_each_file(|node| files.push(node.id));
        let kept = self
            .nodes
            .values()
            .filter(|(node, _)| node.attributes.kind == Kind::File);
        assert_eq!(files, kept.map(|(node, _)| node.id).collect::<Vec<_>>());
        let unfinished = self
            .folders
            .iter()
            .filter(|(_, f)| f.state != FolderState::Complete);
        let unfinished: Vec<_> = unfinished.map(|(id, _)| *id).collect();
        assert_eq!(namespace.unfinished_folders(), unfinished);
    }
}

fn step(random: &mut Random, namespace: &Namespace, model: &mut Model) {
    let pool = pool();
    let ids: Vec<_> = model.folders.keys().copied().collect();
    let at = *random.pick(&ids);
    match random.below(20) {
        0..=2 => {
            let listed: Vec<_> = (0..random.below(12))
                .map(|_| {
                    (
                        random.pick(&pool).clone(),
                        random.one_in(2).then_some(Kind::File),
                    )
                })
                .collect();
            let folder = model.folders.get_mut(&at).unwrap();
            if !folder.state.is_named() {
                for (name, _) in &listed {
                    folder.names.entry(name.clone()).or_insert(Name::Named);
                }
                folder.state = FolderState::Named;
            }
            assert_eq!(
                namespace.name_children(at, listed).unwrap(),
                folder.names.len()
            );
        }
        3 => {
            let name = random.pick(&pool);
            namespace.set_gone(at, name).unwrap();
            let folder = model.folders.get_mut(&at).unwrap();
            if let Some(known) = folder.names.get_mut(name)
                && *known == Name::Named
            {
                *known = Name::Gone;
            }
        }
        4 => {
            let errno = random.below(100) as i32;
            namespace.set_failed(at, errno).unwrap();
            let folder = model.folders.get_mut(&at).unwrap();
            if !folder.state.is_named() {
                folder.state = FolderState::Failed(errno);
            }
        }
        5 | 6 => {
            let folder = model.folders.get_mut(&at).unwrap();
            let done =
                folder.state.is_named() && folder.names.values().all(|name| *name != Name::Named);
            if done {
                folder.state = FolderState::Complete;
            }
            assert_eq!(namespace.complete_if_done(at), done);
        }
        7..=10 => {
            let many: Vec<_> = (0..random.below(8))
                .map(|_| (random.pick(&pool).clone(), random_attributes(random)))
                .collect();
            let entries: Vec<_> = many
                .iter()
                .map(|(name, (attributes, target))| NewEntry {
                    name,
                    attributes,
                    target: target.as_deref(),
                    extended: &[],
                })
                .collect();
            let answers = namespace.set_entries(at, &entries);
            assert_eq!(answers.len(), entries.len());
            for (new, answer) in entries.iter().zip(answers) {
                let answer = answer.map_err(|error| error.kind);
                model.bind(at, new.name, new.attributes, new.target, answer);
            }
        }
        _ => {
            let name = random.pick(&pool);
            let (given, target) = random_attributes(random);
            let answer = namespace.set_entry(at, name, &given, target.as_deref());
            let answer = answer.map_err(|error| error.kind);
            model.bind(at, name, &given, target.as_deref(), answer);
        }
    }
}

fn run(seed: u64) {
    println!("seed {seed}");
    let mut random = Random(seed);
    let fixture = Fixture::new();
    let mut namespace = fixture.create();
    let mut model = Model::new(&namespace);
    for _ in 0..OPERATIONS {
        step(&mut random, &namespace, &mut model);
        if random.one_in(20) {
            model.compare(&namespace);
        }
        if random.one_in(40) {
            namespace.settle().unwrap();
        }
        if random.one_in(25) {
            drop(namespace);
            namespace = fixture.open();
            model.compare(&namespace);
        }
    }
    model.compare(&namespace);
}

#[test]
fn any_sequence_of_operations_agrees_with_the_model() {
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|text: String| text.parse().ok())
    };
    if let Some(seed) = number("ATLAS_TEST_SEED") {
        return run(seed);
    }
    for seed in 0..number("ATLAS_TEST_SEEDS").unwrap_or(30) {
        run(seed);
    }
}
