//! The way of a load through the tree.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use atlas_core::{EXTENT_BYTES, Error, ErrorKind, Kind, Result, extents_of, printable};
use atlas_fs::{Node, NodeId};
use atlas_origin::Class;

use crate::batch::{Batch, Item};
use crate::core::{Core, closing, provisional_for};
use crate::load::Load;
use crate::scan::ensure_named;

/// Young files kept for the end, at most.
const MOST_YOUNG: usize = 4096;

/// The paths to load, in their plain form and without those that lie below another.
fn distinct(paths: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut paths: Vec<Vec<&[u8]>> = paths
        .iter()
        .map(|path| path.split(|byte| *byte == b'/'))
        .map(|names| names.filter(|name| !name.is_empty()).collect())
        .collect();
    if paths.is_empty() {
        return vec![Vec::new()];
    }
    paths.sort_unstable();
    // What lies below a path follows it directly in this order.
    paths.dedup_by(|later, earlier| later.starts_with(earlier));
    paths.iter().map(|names| names.join(&b'/')).collect()
}

/// Hand out batches for everything below `paths`; returns the files met and their bytes.
pub(crate) fn walk(load: &Arc<Load>, core: &Arc<Core>, paths: &[Vec<u8>]) -> (u64, u64) {
    let mut walk = Walk {
        load,
        core,
        seen: HashSet::new(),
        files: 0,
        bytes: 0,
        young: Vec::new(),
    };
    for path in distinct(paths) {
        if let Err(error) = walk.path(&path)
            && !load.stopped()
        {
            load.progress.failed(&path, &error);
        }
    }
    walk.young_files();
    (walk.files, walk.bytes)
}

struct Walk<'a> {
    load: &'a Arc<Load>,
    core: &'a Arc<Core>,
    /// Files with several names, by node: met once.
    seen: HashSet<NodeId>,
    files: u64,
    bytes: u64,
    /// Files too young to be kept, with folder and name, to be loaded at the end.
    young: Vec<(NodeId, Vec<u8>, Node)>,
}

impl Walk<'_> {
    fn path(&mut self, path: &[u8]) -> Result<()> {
        let mut at = (NodeId::ROOT, NodeId::ROOT);
        let mut last_name: &[u8] = b"";
        for name in path
            .split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty())
        {
            at = (at.1, self.step(at.1, name)?);
            last_name = name;
        }
        let node = self.core.namespace.node(at.1);
        let node = node.ok_or_else(|| crate::core::not_a_node(at.1.0))?;
        match node.attributes.kind {
            Kind::Folder => self.tree(node.id),
            Kind::File => {
                // Not the name of the node, which may be another hard link's in another folder.
                let mut batch = Batch::new(at.0);
                self.file(&mut batch, last_name, node);
                self.load.submit(self.core, batch);
                Ok(())
            }
            _ => Err(Error::new(
                ErrorKind::Invalid,
                libc::EINVAL,
                "neither a file nor a folder",
            )),
        }
    }

    /// Resolve one name, waiting for the origin where the scan has not been yet.
    fn step(&self, folder: NodeId, name: &[u8]) -> Result<NodeId> {
        let (sender, receiver) = std::sync::mpsc::channel();
        let done = Box::new(move |outcome| drop(sender.send(outcome)));
        crate::scan::resolve(self.core, folder, name, done);
        let resolved = receiver.recv().map_err(|_| closing())??;
        resolved.node.map(|node| node.id).ok_or_else(|| {
            let text = format!("{}: no such entry in the data set", printable(name));
            Error::new(ErrorKind::NotFound, libc::ENOENT, text)
        })
    }

    fn tree(&mut self, top: NodeId) -> Result<()> {
        let mut folders = vec![top];
        let mut outcome = Ok(());
        while let Some(folder) = folders.pop() {
            if self.load.stopped() {
                return Err(closing());
            }
            match self.folder(folder, &mut folders) {
                Ok(()) => {}
                Err(error) if folder == top => outcome = Err(error),
                Err(error) => {
                    self.load.progress.failed(&self.core.path(folder), &error);
                }
            }
        }
        outcome
    }

    fn folder(&mut self, folder: NodeId, folders: &mut Vec<NodeId>) -> Result<()> {
        ensure_named(self.core, folder, Class::Load, Box::new(|_| {}));
        let stopped = || self.load.stopped();
        let complete = self.core.scan.wait_complete(self.core, folder, stopped);
        if self.load.stopped() {
            return complete;
        }
        // Of a folder that is known in part, that part is loaded.
        let mut files = Vec::new();
        let mut below = Vec::new();
        let count = self.core.namespace.children_count(folder);
        for child in self.core.namespace.children(folder, 0, count) {
            let Some(node) = self.core.namespace.node(child.id) else {
                continue;
            };
            match node.attributes.kind {
                Kind::Folder => below.push(node.id),
                Kind::File => files.push((child.name, node)),
                _ => {}
            }
        }
        // The first subfolder comes off the stack first, as in a listing.
        folders.extend(below.into_iter().rev());
        files.sort_by_key(|(_, node)| node.address);
        let mut batch = Batch::new(folder);
        for (name, node) in files {
            self.file(&mut batch, &name, node);
        }
        self.load.submit(self.core, batch);
        complete
    }

    fn file(&mut self, batch: &mut Batch, name: &[u8], node: Node) {
        if node.attributes.links > 1 && !self.seen.insert(node.id) {
            return;
        }
        self.files += 1;
        self.bytes += node.attributes.size;
        if !provisional_for(&node.attributes).is_zero() {
            self.young.push((batch.folder, name.to_vec(), node));
            if self.young.len() == MOST_YOUNG {
                self.young_files();
            }
            return;
        }
        self.add(batch, name, node);
    }

    fn add(&self, batch: &mut Batch, name: &[u8], node: Node) {
        let size = node.attributes.size;
        let Some(address) = node.address else {
            // An empty file has no bytes to bring.
            self.load.progress.loaded(0, true);
            return;
        };
        if size > EXTENT_BYTES {
            let left = Arc::new(AtomicU64::new(size));
            for extent in extents_of(address, size, 0, size) {
                let mut single = Batch::new(batch.folder);
                single.items.push(Item {
                    name: name.to_vec(),
                    node,
                    extent,
                    left: Some(Arc::clone(&left)),
                    last_try: false,
                });
                self.load.submit(self.core, single);
            }
            return;
        }
        for extent in extents_of(address, size, 0, size) {
            if !batch.takes(&extent) || batch.items.len() >= self.load.batch_files() {
                let folder = batch.folder;
                let full = std::mem::replace(batch, Batch::new(folder));
                self.load.submit(self.core, full);
            }
            batch.items.push(Item {
                name: name.to_vec(),
                node,
                extent,
                left: None,
                last_try: false,
            });
        }
    }

    /// Load the files that were too young when the walk met them.
    fn young_files(&mut self) {
        let mut batch = Batch::new(NodeId::ROOT);
        for (folder, name, node) in std::mem::take(&mut self.young) {
            // More than once for a time stamp that was in the future.
            loop {
                let wait = provisional_for(&node.attributes);
                if wait.is_zero() || self.load.stopped() {
                    break;
                }
                self.load.pause(wait);
            }
            if folder != batch.folder {
                let full = std::mem::replace(&mut batch, Batch::new(folder));
                self.load.submit(self.core, full);
            }
            self.add(&mut batch, &name, node);
        }
        self.load.submit(self.core, batch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_is_loaded_twice() {
        let of = |paths: &[&str]| {
            let paths: Vec<_> = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
            let distinct = distinct(&paths).into_iter();
            distinct
                .map(|path| String::from_utf8(path).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(of(&[]), [""]);
        assert_eq!(of(&["a/b", "/"]), [""]);
        assert_eq!(
            of(&["a/b", "a-b", "a", "a//b/c", "/b/", "ab"]),
            ["a", "a-b", "ab", "b"]
        );
    }
}
