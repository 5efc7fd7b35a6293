//! What a tree looks like, whoever looks at it.

use std::collections::{BTreeMap, HashMap};

use atlas_core::{Kind, PAGE_BYTES, SET_ID_BITS};
use atlas_fs::{Namespace, Node, NodeId, Slot};

/// Most blocks that one chunk index covers.
const MOST_CHUNK_BLOCKS: u64 = 1 << 31;

/// One name, with what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Position in the tree of the folder that it lies in; the root's is its own.
    pub(crate) parent: usize,
    pub(crate) name: Vec<u8>,
    /// Position in the tree of the first name of the same file.
    pub(crate) first_name: usize,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) links: u32,
    /// 0 for folders: theirs are the writer's affair.
    pub(crate) size: u64,
    pub(crate) modified: (i64, u32),
    pub(crate) target: Vec<u8>,
    pub(crate) device: Option<(u32, u32)>,
    /// Device (the first is 1) and byte in it of each of `probes`. Empty where not looked at.
    pub(crate) places: Vec<(u16, u64)>,
    pub(crate) extended: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// All names, a folder before what it holds, the names in one in the order of their bytes.
pub(crate) type Tree = Vec<Entry>;

/// Offsets of a file that are looked up.
pub(crate) fn probes(size: u64) -> Vec<u64> {
    let turn = MOST_CHUNK_BLOCKS * PAGE_BYTES;
    let mut probes = vec![
        0,
        size / 2,
        size.saturating_sub(1),
        turn - 1,
        turn,
        turn + 1,
    ];
    probes.retain(|probe| *probe < size);
    probes
}

/// Gives every file the position of its first name.
#[derive(Default)]
pub(crate) struct FirstNames(HashMap<u64, usize>);

impl FirstNames {
    pub(crate) fn of(&mut self, identity: u64, position: usize) -> usize {
        *self.0.entry(identity).or_insert(position)
    }
}

/// Fails at the first difference.
pub(crate) fn assert_same(seen: &Tree, expected: &Tree) {
    for (index, (seen, expected)) in seen.iter().zip(expected).enumerate() {
        assert_eq!(seen, expected, "entry {index} (seen, expected)");
    }
    assert_eq!(seen.len(), expected.len());
}

/// The tree that an image of the namespace must show.
pub(crate) fn of_namespace(namespace: &Namespace, slots: &[Slot]) -> Tree {
    let mut tree = Tree::new();
    let mut first_names = FirstNames::default();
    let root = namespace.node(NodeId::ROOT).unwrap();
    let mut waiting = vec![(0, Vec::new(), root)];
    while let Some((parent, name, node)) = waiting.pop() {
        let position = tree.len();
        tree.push(entry(
            parent,
            name,
            first_names.of(node.id.0, position),
            &node,
            namespace.link_target(node.id).unwrap_or_default(),
            slots,
        ));
        let extended = namespace.extended_attributes(node.id).unwrap().into_iter();
        tree[position].extended = extended.map(|one| (one.name, one.value)).collect();
        for child in namespace.children(node.id, 0, usize::MAX).into_iter().rev() {
            if !child.gone {
                let node = namespace.node(child.id).unwrap();
                waiting.push((position, child.name, node));
            }
        }
    }
    tree
}

fn entry(
    parent: usize,
    name: Vec<u8>,
    first_name: usize,
    node: &Node,
    target: Vec<u8>,
    slots: &[Slot],
) -> Entry {
    let attributes = &node.attributes;
    let size = match attributes.kind {
        Kind::File => attributes.size,
        Kind::Link => target.len() as u64,
        _ => 0,
    };
    let is_device = matches!(attributes.kind, Kind::CharacterDevice | Kind::BlockDevice);
    let device = is_device.then(|| {
        let number = attributes.device_number;
        (libc::major(number), libc::minor(number))
    });
    let places = node.address.map_or_else(Vec::new, |address| {
        let holds = |slot: &Slot| (slot.start.0..slot.start.0 + slot.length).contains(&address.0);
        let index = slots.iter().position(holds).unwrap();
        let start = address.0 - slots[index].start.0;
        let place = |probe| (index as u16 + 1, start + probe);
        probes(size).into_iter().map(place).collect()
    });
    Entry {
        parent,
        name,
        first_name,
        mode: attributes.kind.mode_bits() | (attributes.permissions & !SET_ID_BITS),
        uid: attributes.uid,
        gid: attributes.gid,
        // A file that is open and has no name left is still shown under the one it was found by.
        links: attributes.links.max(1),
        size,
        modified: (attributes.modified.seconds, attributes.modified.nanoseconds),
        target,
        device,
        places,
        extended: BTreeMap::new(),
    }
}
