//! The nodes that the kernel knows: which source file each id stands for, and where it was last
//! seen. No descriptor is held for them, and what the kernel forgets is dropped.

use std::collections::HashMap;

use atlas_mount::ROOT_NODE;

/// `st_dev` and `st_ino`.
pub(crate) type SourceId = (u64, u64);

/// More levels than any path has: a guard against a loop of stale parents.
const MAX_LEVELS: usize = 1 << 16;

pub(crate) struct Nodes {
    by_id: HashMap<u64, Node>,
    by_source: HashMap<SourceId, u64>,
    next: u64,
}

struct Node {
    source: SourceId,
    /// The folder and the name by which it was found last.
    parent: u64,
    name: Box<[u8]>,
    /// References of the kernel, and one from each node that has this one as its parent.
    references: u64,
    /// Lookups whose attributes the kernel has not asked for yet.
    fresh: u32,
}

/// Most lookups of one node that may wait for their attributes: as many as requests in flight.
const MAX_FRESH: u32 = 128;

impl Node {
    fn new(source: SourceId, references: u64) -> Self {
        Self {
            source,
            parent: 0,
            name: Box::default(),
            references,
            fresh: 0,
        }
    }
}

impl Nodes {
    pub(crate) fn new(root: SourceId) -> Self {
        let node = Node::new(root, 1);
        Self {
            by_id: HashMap::from([(ROOT_NODE, node)]),
            by_source: HashMap::from([(root, ROOT_NODE)]),
            next: ROOT_NODE + 1,
        }
    }

    /// The id of the file found as `name` in `parent`; counts one reference of the kernel. `None`
    /// if the parent is unknown.
    pub(crate) fn found(&mut self, parent: u64, name: &[u8], source: SourceId) -> Option<u64> {
        if !self.by_id.contains_key(&parent) {
            return None;
        }
        let id = match self.by_source.get(&source) {
            Some(id) => *id,
            None => {
                let id = self.next;
                self.next += 1;
                self.by_source.insert(source, id);
                self.by_id.insert(id, Node::new(source, 0));
                id
            }
        };
        let node = self.by_id.get_mut(&id)?;
        node.references += 1;
        node.fresh = (node.fresh + 1).min(MAX_FRESH);
        // The root stays where it is, even where a folder below shows it again.
        if id != ROOT_NODE && (node.parent != parent || *node.name != *name) {
            let former = std::mem::replace(&mut node.parent, parent);
            node.name = name.into();
            if let Some(parent) = self.by_id.get_mut(&parent) {
                parent.references += 1;
            }
            self.release(former, 1);
        }
        Some(id)
    }

    /// The kernel gave back so many references.
    pub(crate) fn forget(&mut self, id: u64, references: u64) {
        self.release(id, references);
    }

    fn release(&mut self, mut id: u64, mut references: u64) {
        // The root has a reference of its own; 0 is no node.
        while let Some(node) = self.by_id.get_mut(&id) {
            node.references = node.references.saturating_sub(references);
            if node.references > 0 || id == ROOT_NODE {
                return;
            }
            let (source, parent) = (node.source, node.parent);
            self.by_id.remove(&id);
            self.by_source.remove(&source);
            id = parent;
            references = 1;
        }
    }

    /// Whether attributes asked for now came with a lookup: each lookup brings them once. Those of
    /// the root every client has.
    pub(crate) fn take_fresh(&mut self, id: u64) -> bool {
        let Some(node) = self.by_id.get_mut(&id) else {
            return false;
        };
        let fresh = node.fresh > 0 || id == ROOT_NODE;
        node.fresh = node.fresh.saturating_sub(1);
        fresh
    }

    pub(crate) fn source(&self, id: u64) -> Option<SourceId> {
        self.by_id.get(&id).map(|node| node.source)
    }

    /// The path below the root by which a node was found last; empty for the root.
    pub(crate) fn path(&self, id: u64) -> Option<Vec<u8>> {
        let mut names = Vec::new();
        let mut current = id;
        while current != ROOT_NODE {
            let node = self.by_id.get(&current)?;
            names.push(&*node.name);
            current = node.parent;
            if names.len() > MAX_LEVELS {
                return None;
            }
        }
        names.reverse();
        Some(names.join(&b'/'))
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.by_id.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_stable_and_paths_follow() {
        let mut nodes = Nodes::new((1, 100));
        let folder = nodes.found(ROOT_NODE, b"folder", (1, 101)).unwrap();
        let file = nodes.found(folder, b"file", (1, 102)).unwrap();
        assert_eq!(nodes.path(ROOT_NODE).unwrap(), b"");
        assert_eq!(nodes.path(file).unwrap(), b"folder/file");
        // A second name of the same file.
        assert_eq!(nodes.found(ROOT_NODE, b"again", (1, 102)), Some(file));
        assert_eq!(nodes.path(file).unwrap(), b"again");
        assert_eq!(nodes.found(ROOT_NODE, b"other", (2, 102)), Some(file + 1));
        assert_eq!(nodes.source(file), Some((1, 102)));
        assert_eq!(nodes.found(77, b"x", (1, 1)), None);
        assert_eq!(
            [(); 3].map(|()| nodes.take_fresh(file)),
            [true, true, false],
            "looked up twice"
        );
        assert!(nodes.take_fresh(ROOT_NODE) && nodes.take_fresh(ROOT_NODE));
    }

    #[test]
    fn what_the_kernel_forgets_is_dropped_children_first() {
        let mut nodes = Nodes::new((1, 100));
        let mut parent = ROOT_NODE;
        let mut ids = Vec::new();
        for level in 0..50 {
            parent = nodes.found(parent, b"deep", (1, 101 + level)).unwrap();
            ids.push(parent);
        }
        for id in &ids[..49] {
            nodes.forget(*id, 1);
        }
        assert_eq!(nodes.len(), 51, "the last one needs its whole path");
        assert_eq!(nodes.path(ids[49]).unwrap().len(), 50 * 5 - 1);
        nodes.forget(ids[49], 1);
        assert_eq!(nodes.len(), 1);
        nodes.forget(ROOT_NODE, 1000);
        nodes.forget(12_345, 1);
        assert!(nodes.path(ROOT_NODE).is_some());
    }

    #[test]
    fn references_are_counted() {
        let mut nodes = Nodes::new((1, 100));
        let id = (0..3)
            .map(|_| nodes.found(ROOT_NODE, b"file", (1, 7)).unwrap())
            .last()
            .unwrap();
        nodes.forget(id, 2);
        assert!(nodes.path(id).is_some());
        nodes.forget(id, 1);
        assert!(nodes.path(id).is_none());
        assert_ne!(
            nodes.found(ROOT_NODE, b"file", (1, 7)),
            Some(id),
            "ids are not used again"
        );
    }
}
