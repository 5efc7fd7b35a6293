//! What is known of the names and files of one data set, and how it is asked for.

use std::{
    collections::HashMap,
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    path::Path,
    sync::{Arc, atomic::Ordering::Acquire},
};

use atlas_core::{Address, Attributes, Error, ErrorKind, Kind, Result, VersionTag};
use parking_lot::{Mutex, MutexGuard, RwLock};

use crate::{
    extended::KnownSets,
    record::{Content, Entry, FolderState, NO_ADDRESS, Record, State},
    tables::{Tables, damaged},
    totals::{Totals, leaves},
};

/// A number that means one version of one file for ever. 0 is never used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The top of the data set.
    pub const ROOT: Self = Self(1);
}

/// A copy of all that is known of a node; it never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    pub id: NodeId,
    /// The folder of the name that was bound first; the root's is the root.
    pub parent: NodeId,
    /// As at the origin, but without set-id bits.
    pub attributes: Attributes,
    /// Of files that have bytes.
    pub address: Option<Address>,
    /// It was bound before its folder was named.
    pub early: bool,
}

/// What a name in a folder means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    Found(Node),
    /// The name is known, its attributes are not yet. The id may still give way to the one of
    /// another name of the same file: readers must see only ids of Ready nodes.
    Named(NodeId),
    /// There is no such name in this generation.
    Absent,
    /// The folder is not named yet: only the origin knows.
    Unknown,
}

/// One name of a named folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    pub name: Vec<u8>,
    pub id: NodeId,
    /// A hint until it is `ready`.
    pub kind: Option<Kind>,
    pub ready: bool,
    /// It was named, but was no longer there when its attributes were asked for.
    pub gone: bool,
}

/// Gives files their place in a volume.
pub trait Allocate: Send + Sync {
    /// A range of `size` > 0 bytes that nothing else ever gets, kept over a kill of the process.
    /// Early ranges belong to files that are read before their folder is scanned.
    fn allocate(&self, size: u64, early: bool) -> Result<Address>;
}

/// Names of one folder that were bound before it was named.
pub(crate) type EarlyNames = HashMap<Box<[u8]>, NodeId>;

/// What the writers share. Whoever holds its lock may reserve rows and publish them.
pub(crate) struct Writer {
    /// Ready nodes with several links, by what tells the file and its version.
    links: HashMap<(u64, TagKey), NodeId>,
    pub(crate) sets: KnownSets,
    /// The tables on the disk are marked as changing.
    unsettled: bool,
}

type TagKey = (u64, u64, i64, u32, i64, u32);

/// The names and files of one data set, kept in mapped tables.
///
/// Every change is in the page cache before the call that makes it returns, so that it survives
/// the process at any instruction. Readers take no lock, but for names in folders that are not
/// named yet. Writers share one lock, which is never held for the length of a large folder.
pub struct Namespace {
    pub(crate) tables: Tables,
    pub(crate) allocator: Arc<dyn Allocate>,
    pub(crate) early: RwLock<HashMap<NodeId, EarlyNames>>,
    writer: Mutex<Writer>,
    totals: Mutex<Totals>,
}

impl Namespace {
    /// Starts a namespace with nothing but a root, which has no extended attributes. `folder` (0700) is made if it is absent.
    ///
    /// Fails with `Conflict` where there is one already, also one whose creation was interrupted.
    pub fn create(folder: &Path, root: &Attributes, allocator: Arc<dyn Allocate>) -> Result<Self> {
        if root.kind != Kind::Folder {
            return Err(not_a_folder());
        }
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::from_io(&error, "create the folder of a namespace"));
            }
            _ => {}
        }
        let tables = Tables::create(folder)?;
        let id = NodeId(tables.reserve_nodes(1)?);
        let name = tables.reserve_text(crate::tables::text_bytes(b""))?;
        tables.write_text(name, b"")?;
        let record = tables
            .record(id)
            .ok_or_else(|| damaged("the root is missing"))?;
        record.write_name(NodeId::ROOT, name);
        record.publish_ready(&Content {
            attributes: root,
            place: NO_ADDRESS,
            early: false,
            leaving: false,
            extended: 0,
        });
        tables.unsettle()?;
        Ok(Self::with(tables, allocator, true))
    }

    /// Opens what `create` made, as the last process left it, however that one ended.
    ///
    /// Fails with `Corrupt` if its creation was interrupted, or the machine was restarted while
    /// it was changing: it is to be made anew then.
    pub fn open(folder: &Path, allocator: Arc<dyn Allocate>) -> Result<Self> {
        let namespace = Self::with(Tables::open(folder)?, allocator, false);
        namespace.recount();
        Ok(namespace)
    }

    fn with(tables: Tables, allocator: Arc<dyn Allocate>, unsettled: bool) -> Self {
        Self {
            tables,
            allocator,
            early: RwLock::default(),
            writer: Mutex::new(Writer {
                links: HashMap::new(),
                sets: KnownSets::default(),
                unsettled,
            }),
            totals: Mutex::default(),
        }
    }

    /// Makes anew what is kept in memory only.
    fn recount(&self) {
        let mut writer = self.writer.lock();
        for (id, record) in self.records() {
            let Some(node) = record.node(id) else {
                continue;
            };
            self.count(&mut writer, &node, record.leaves());
            writer.sets.found(&self.tables, record.extended());
        }
        let mut early = self.early.write();
        for index in 0..self.tables.early_end() {
            let Some(row) = self.tables.early(index) else {
                break;
            };
            // Row first, Ready second: a row without a Ready node was never answered.
            let id = NodeId(row.node.load(Acquire));
            let folder = NodeId(row.parent.load(Acquire));
            let named = self.folder_state(folder).is_named();
            if named || self.node(id).is_none() {
                continue;
            }
            if let Some(name) = self.tables.text(row.name.load(Acquire)) {
                early.entry(folder).or_default().insert(name.into(), id);
            }
        }
    }

    /// Takes a node that became Ready into what is kept in memory.
    pub(crate) fn count(&self, writer: &mut Writer, node: &Node, leaving: bool) {
        if node.id == NodeId::ROOT {
            return;
        }
        writer.remember(node);
        let mut totals = self.totals.lock();
        totals.add(node);
        if leaving {
            totals.add_leaving(|| self.path(node.id).unwrap_or_default());
        }
    }

    /// The lock of the writers, with the tables marked as changing.
    pub(crate) fn write(&self) -> Result<MutexGuard<'_, Writer>> {
        let mut writer = self.writer.lock();
        if !writer.unsettled {
            self.tables.unsettle()?;
            writer.unsettled = true;
        }
        Ok(writer)
    }

    /// Brings everything to the disk. Without it a namespace does not outlive the machine's
    /// running; the next change ends its effect. Waits for the disk: for after a scan.
    pub fn settle(&self) -> Result<()> {
        let mut writer = self.writer.lock();
        self.tables.settle()?;
        writer.unsettled = false;
        Ok(())
    }

    /// Bytes that the tables take of the state folder's file system.
    pub fn table_bytes(&self) -> Result<u64> {
        self.tables.allocated_bytes()
    }

    /// The node, if it is Ready.
    pub fn node(&self, id: NodeId) -> Option<Node> {
        self.tables.record(id)?.node(id)
    }

    /// What `name` means in the folder `parent`.
    pub fn lookup(&self, parent: NodeId, name: &[u8]) -> Lookup {
        let Some(record) = self.tables.record(parent) else {
            return Lookup::Unknown;
        };
        if record.state() != State::Ready {
            return Lookup::Unknown;
        }
        if record.kind() != Some(Kind::Folder) {
            return Lookup::Absent;
        }
        loop {
            if let Some((first, count)) = record.entries() {
                let found = self.find(first, count, name);
                return found.map_or(Lookup::Absent, |(_, entry)| self.answer(entry.node()));
            }
            let early = self
                .early
                .read()
                .get(&parent)
                .and_then(|names| names.get(name).copied());
            if let Some(id) = early {
                return self.answer(id);
            }
            // Early names are taken out only after the folder was published as named: if it is
            // not named even now, the name was not there.
            if !record.folder_state().is_named() {
                return Lookup::Unknown;
            }
        }
    }

    fn answer(&self, id: NodeId) -> Lookup {
        let Some(record) = self.tables.record(id) else {
            return Lookup::Unknown;
        };
        match record.state() {
            State::Ready => record.node(id).map_or(Lookup::Unknown, Lookup::Found),
            State::Named => Lookup::Named(id),
            State::Gone => Lookup::Absent,
            State::Free => Lookup::Unknown,
        }
    }

    /// Position in its folder and entry of `name` among `count` entries from `first` on.
    pub(crate) fn find(&self, first: u64, count: u64, name: &[u8]) -> Option<(u64, Entry<'_>)> {
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low + (high - low) / 2;
            let entry = self.tables.entry(first + middle)?;
            match self.tables.text(entry.name.load(Acquire))?.cmp(name) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some((middle, entry)),
            }
        }
        None
    }

    /// How much of a folder is known; `Unlisted` for what is not a Ready folder.
    pub fn folder_state(&self, id: NodeId) -> FolderState {
        match self.tables.record(id) {
            Some(record) if record.is_ready_folder() => record.folder_state(),
            _ => FolderState::Unlisted,
        }
    }

    /// Up to `count` names of a named folder from position `start` on. A name keeps its position
    /// for ever. Empty beyond the last, and for a folder that is not named.
    pub fn children(&self, folder: NodeId, start: usize, count: usize) -> Vec<Child> {
        let Some((first, total)) = self.entries_of(folder) else {
            return Vec::new();
        };
        let start = (start as u64).min(total);
        let end = start.saturating_add(count as u64).min(total);
        (start..end)
            .map_while(|position| self.child(first + position))
            .collect()
    }

    /// How many names a named folder has; 0 for a folder that is not named.
    pub fn children_count(&self, folder: NodeId) -> usize {
        self.entries_of(folder)
            .map_or(0, |(_, total)| total as usize)
    }

    fn child(&self, index: u64) -> Option<Child> {
        let entry = self.tables.entry(index)?;
        let id = entry.node();
        let record = self.tables.record(id)?;
        let state = record.state();
        Some(Child {
            name: self.tables.text(entry.name.load(Acquire))?.to_vec(),
            id,
            kind: record.kind(),
            ready: state == State::Ready,
            gone: state == State::Gone,
        })
    }

    pub(crate) fn entries_of(&self, folder: NodeId) -> Option<(u64, u64)> {
        self.tables
            .record(folder)
            .filter(Record::is_ready_folder)?
            .entries()
    }

    /// Where a Ready link points, as text.
    pub fn link_target(&self, id: NodeId) -> Option<Vec<u8>> {
        let record = self.tables.record(id)?;
        if record.state() != State::Ready || record.kind() != Some(Kind::Link) {
            return None;
        }
        self.tables.text(record.target()).map(<[u8]>::to_vec)
    }

    /// The last name on the path of a node; empty for the root.
    pub fn name(&self, id: NodeId) -> Option<Vec<u8>> {
        let record = self.tables.record(id)?;
        if record.state() == State::Free {
            return None;
        }
        self.tables.text(record.name()).map(<[u8]>::to_vec)
    }

    /// The path of a node below the root, of the name that was bound first if it has several;
    /// empty for the root. Any depth.
    pub fn path(&self, id: NodeId) -> Option<Vec<u8>> {
        let mut names = Vec::new();
        let mut at = id;
        while at != NodeId::ROOT {
            let record = self.tables.record(at)?;
            let parent = record.parent();
            // A folder has its id before anything in it has one.
            if record.state() == State::Free || parent >= at {
                return None;
            }
            names.push(self.tables.text(record.name())?);
            at = parent;
        }
        names.reverse();
        Some(names.join(&b'/'))
    }

    /// Levels between the root and a folder.
    fn depth(&self, folder: NodeId) -> usize {
        let mut depth = 0;
        let mut at = folder;
        while at != NodeId::ROOT {
            match self.tables.record(at).map(|record| record.parent()) {
                Some(parent) if parent < at => at = parent,
                _ => break,
            }
            depth += 1;
        }
        depth
    }

    /// Whether a link in `folder` leads out of the data set by its text alone.
    pub(crate) fn leads_out(&self, folder: NodeId, target: &[u8]) -> bool {
        leaves(target, self.depth(folder))
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = (NodeId, Record<'_>)> {
        (1..self.tables.nodes_end())
            .map(NodeId)
            .filter_map(|id| Some((id, self.tables.record(id)?)))
    }

    /// All Ready folders that are not Complete, also those whose listing failed: where a scan has
    /// to go on. Looks at every node.
    pub fn unfinished_folders(&self) -> Vec<NodeId> {
        self.records()
            .filter(|(_, record)| {
                record.is_ready_folder() && record.folder_state() != FolderState::Complete
            })
            .map(|(id, _)| id)
            .collect()
    }

    /// All Ready regular files, each once, in the order of their ids.
    pub fn for_each_file(&self, mut action: impl FnMut(&Node)) {
        for (id, record) in self.records() {
            match record.node(id) {
                Some(node) if node.attributes.kind == Kind::File => action(&node),
                _ => {}
            }
        }
    }

    /// What the namespace holds so far.
    pub fn totals(&self) -> Totals {
        self.totals.lock().clone()
    }
}

impl Writer {
    /// The Ready node that is the same version of the same file under another name.
    pub(crate) fn known_link(&self, attributes: &Attributes) -> Option<NodeId> {
        let key = link_key(attributes)?;
        self.links.get(&key).copied()
    }

    fn remember(&mut self, node: &Node) {
        if let Some(key) = link_key(&node.attributes) {
            self.links.entry(key).or_insert(node.id);
        }
    }
}

/// `None` for what has no other name. The tag is part of the key: an inode number may be used
/// again for another file, and a node means one version only.
fn link_key(attributes: &Attributes) -> Option<(u64, TagKey)> {
    if attributes.links < 2 || attributes.kind == Kind::Folder {
        return None;
    }
    let VersionTag {
        size,
        modified,
        changed,
        inode,
    } = attributes.tag();
    let tag = (
        inode,
        size,
        modified.seconds,
        modified.nanoseconds,
        changed.seconds,
        changed.nanoseconds,
    );
    Some((attributes.device, tag))
}

pub(crate) fn not_a_folder() -> Error {
    Error::new(
        ErrorKind::Invalid,
        libc::ENOTDIR,
        "use a node as a folder: it is none",
    )
}
