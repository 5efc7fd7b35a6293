//! Binding a name to one version of a file: from then on the name means that node for ever.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use atlas_core::{Attributes, Error, ErrorKind, ExtendedAttribute, Kind, Result, printable};
use parking_lot::MutexGuard;

use crate::{
    Namespace, Node, NodeId,
    namespace::Writer,
    naming::check_name,
    record::{Content, NO_ADDRESS, Record, State},
    tables::{TEXT_LIMIT_BYTES, damaged, text_bytes, text_too_long},
};

/// So many entries are bound before the lock of the writers is offered to others.
const ENTRIES_AT_A_TIME: usize = 256;

/// What the origin says of one name.
#[derive(Clone, Copy, Debug)]
pub struct NewEntry<'a> {
    pub name: &'a [u8],
    pub attributes: &'a Attributes,
    /// Of links only.
    pub target: Option<&'a [u8]>,
    /// At most 255, as [`Namespace::extended_attributes`] gives them; never of links.
    pub extended: &'a [ExtendedAttribute],
}

impl Namespace {
    /// [`Namespace::set_new`] of an entry without extended attributes.
    pub fn set_entry(
        &self,
        folder: NodeId,
        name: &[u8],
        attributes: &Attributes,
        target: Option<&[u8]>,
    ) -> Result<Node> {
        let new = NewEntry {
            name,
            attributes,
            target,
            extended: &[],
        };
        self.set_new(folder, &new)
    }

    /// Binds one name of a Ready folder; see [`Namespace::set_entries`].
    pub fn set_new(&self, folder: NodeId, new: &NewEntry<'_>) -> Result<Node> {
        let mut writer = self.write()?;
        self.bind(&mut writer, folder, new, &mut 0)
    }

    /// Binds names of a Ready folder to the versions given; one result for each, in order.
    /// Cheapest in the order of their positions.
    ///
    /// A name that is Ready keeps its version, whatever is given: compare the tags. Names of the
    /// same version of the same file (hard links) get the same node. In a folder that is not
    /// named yet the node is early. Fails with `NotFound` for a name that a named folder does not
    /// have or that is gone, `Invalid` for an impossible name, target or extended attribute, and as
    /// the allocator or the state folder's file system do.
    pub fn set_entries(&self, folder: NodeId, entries: &[NewEntry<'_>]) -> Vec<Result<Node>> {
        let mut results = Vec::with_capacity(entries.len());
        let mut near = 0;
        for chunk in entries.chunks(ENTRIES_AT_A_TIME) {
            match self.write() {
                Ok(mut writer) => {
                    for new in chunk {
                        results.push(self.bind(&mut writer, folder, new, &mut near));
                    }
                    // A lookup of a reader may be waiting to bind what it found.
                    MutexGuard::unlock_fair(writer);
                }
                Err(error) => results.extend(chunk.iter().map(|_| Err(error.clone()))),
            }
        }
        results
    }

    /// `near` is a position at which to look for the name first, and then the one after it.
    fn bind(
        &self,
        writer: &mut Writer,
        folder: NodeId,
        new: &NewEntry<'_>,
        near: &mut u64,
    ) -> Result<Node> {
        match self.ready_folder(folder)?.entries() {
            Some((first, count)) => {
                let position = self.position(first, count, new.name, *near);
                let position = position.ok_or_else(|| not_here(new.name))?;
                *near = position + 1;
                self.bind_named(writer, folder, first + position, new)
            }
            None => self.bind_early(writer, folder, new),
        }
    }

    fn position(&self, first: u64, count: u64, name: &[u8], near: u64) -> Option<u64> {
        if near < count {
            let entry = self.tables.entry(first + near)?;
            if self.tables.text(entry.name.load(Acquire))? == name {
                return Some(near);
            }
        }
        self.find(first, count, name).map(|(position, _)| position)
    }

    fn bind_named(
        &self,
        writer: &mut Writer,
        folder: NodeId,
        index: u64,
        new: &NewEntry<'_>,
    ) -> Result<Node> {
        let entry = self
            .tables
            .entry(index)
            .ok_or_else(|| damaged("an entry is missing"))?;
        let id = entry.node();
        let record = self
            .tables
            .record(id)
            .ok_or_else(|| damaged("a node is missing"))?;
        match record.state() {
            State::Ready => record.node(id).ok_or_else(|| damaged("a node has no kind")),
            State::Gone => Err(not_here(new.name)),
            State::Free => Err(damaged("an entry has no node")),
            State::Named => {
                if let Some(other) = self.other_name(writer, new.attributes) {
                    // The node of this name was never Ready, so no reader has its id.
                    entry.node.store(other.id.0, Release);
                    return Ok(other);
                }
                self.make_ready(writer, folder, id, &record, new, false)
            }
        }
    }

    fn bind_early(&self, writer: &mut Writer, folder: NodeId, new: &NewEntry<'_>) -> Result<Node> {
        check_name(new.name)?;
        let bound = self
            .early
            .read()
            .get(&folder)
            .and_then(|names| names.get(new.name).copied());
        if let Some(id) = bound {
            return self
                .node(id)
                .ok_or_else(|| damaged("an early node is missing"));
        }
        let text = self.tables.reserve_text(text_bytes(new.name))?;
        self.tables.write_text(text, new.name)?;
        let node = match self.other_name(writer, new.attributes) {
            Some(other) => {
                self.write_early(folder, text, other.id)?;
                other
            }
            None => {
                let id = NodeId(self.tables.reserve_nodes(1)?);
                let record = self
                    .tables
                    .record(id)
                    .ok_or_else(|| damaged("a node is missing"))?;
                record.write_name(folder, text);
                // Before the node is Ready: a row whose node is not Ready does not count, but a
                // Ready node without a row would be counted and never found.
                self.write_early(folder, text, id)?;
                self.make_ready(writer, folder, id, &record, new, true)?
            }
        };
        self.early
            .write()
            .entry(folder)
            .or_default()
            .insert(new.name.into(), node.id);
        Ok(node)
    }

    fn write_early(&self, folder: NodeId, text: u64, id: NodeId) -> Result<()> {
        let index = self.tables.reserve_early()?;
        let row = self
            .tables
            .early(index)
            .ok_or_else(|| damaged("an early row is missing"))?;
        row.parent.store(folder.0, Relaxed);
        row.name.store(text, Relaxed);
        row.node.store(id.0, Release);
        Ok(())
    }

    fn other_name(&self, writer: &Writer, attributes: &Attributes) -> Option<Node> {
        self.node(writer.known_link(attributes)?)
    }

    fn make_ready(
        &self,
        writer: &mut Writer,
        folder: NodeId,
        id: NodeId,
        record: &Record<'_>,
        new: &NewEntry<'_>,
        early: bool,
    ) -> Result<Node> {
        let attributes = new.attributes;
        let extended = self.store_extended(writer, new)?;
        let mut leaving = false;
        let place = match attributes.kind {
            Kind::File if attributes.size > 0 => self.allocator.allocate(attributes.size, early)?.0,
            Kind::Link => {
                let target = new.target.ok_or_else(|| no_target(new.name))?;
                if target.len() > TEXT_LIMIT_BYTES {
                    return Err(text_too_long());
                }
                leaving = self.leads_out(folder, target);
                let text = self.tables.reserve_text(text_bytes(target))?;
                self.tables.write_text(text, target)?;
                text
            }
            _ => NO_ADDRESS,
        };
        record.publish_ready(&Content {
            attributes,
            place,
            early,
            leaving,
            extended,
        });
        let node = record
            .node(id)
            .ok_or_else(|| damaged("a node has no kind"))?;
        self.count(writer, &node, leaving);
        Ok(node)
    }
}

fn not_here(name: &[u8]) -> Error {
    let name = printable(name);
    let message = format!("find \"{name}\": this generation does not have it");
    Error::new(ErrorKind::NotFound, libc::ENOENT, message)
}

fn no_target(name: &[u8]) -> Error {
    let name = printable(name);
    Error::new(
        ErrorKind::Invalid,
        libc::EINVAL,
        format!("store link \"{name}\": no target"),
    )
}
