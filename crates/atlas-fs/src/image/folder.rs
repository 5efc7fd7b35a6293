//! A folder as blocks of names in the order of their bytes, "." and ".." among them: the kernel
//! searches by halves, first the blocks, then the names in one.

use std::sync::atomic::Ordering::Acquire;

use atlas_core::{Kind, Result};

use super::format::{BLOCK_BYTES, ENTRY_BYTES, Layout, NAME_LIMIT_BYTES, entry};
use super::region::Region;
use super::{Plan, block_number, not_scanned, state_of, too_large};
use crate::record::{Record, State};
use crate::tables::damaged;
use crate::{Node, NodeId};

const DOTS: [&[u8]; 2] = [b".", b".."];

pub(super) struct Folder {
    id: NodeId,
    parent: NodeId,
    first: u64,
    count: u64,
}

struct Name<'a> {
    name: &'a [u8],
    number: u32,
    kind: Kind,
}

impl Folder {
    pub(super) fn new(plan: &Plan<'_>, node: &Node, record: &Record<'_>) -> Result<Self> {
        let (first, count) = record.entries().ok_or_else(not_scanned)?;
        debug_assert!(plan.has(node.id));
        Ok(Self {
            id: node.id,
            parent: node.parent,
            first,
            count,
        })
    }

    /// Writes its blocks; gives its size and says where they are.
    pub(super) fn write(
        &self,
        plan: &Plan<'_>,
        blocks: &mut Region<'_>,
        layout: &mut Layout,
    ) -> Result<u64> {
        let start = blocks.position();
        *layout = Layout::Blocks {
            first: block_number(start)?,
        };
        let mut block = Block::default();
        let mut dots = DOTS.into_iter().zip([self.id, self.parent]).peekable();
        for index in self.first..self.first + self.count {
            let Some(name) = child(plan, index)? else {
                continue;
            };
            while let Some((dot, id)) = dots.next_if(|(dot, _)| *dot < name.name) {
                block.add(&dot_name(plan, dot, id)?, blocks)?;
            }
            block.add(&name, blocks)?;
        }
        for (dot, id) in dots {
            block.add(&dot_name(plan, dot, id)?, blocks)?;
        }
        block.write(blocks)?;
        let size = blocks.position() - start;
        blocks.pad_to(blocks.position().next_multiple_of(BLOCK_BYTES as u64))?;
        Ok(size)
    }
}

fn dot_name<'a>(plan: &Plan<'_>, name: &'a [u8], id: NodeId) -> Result<Name<'a>> {
    Ok(Name {
        name,
        number: plan.number(id).ok_or_else(not_scanned)?,
        kind: Kind::Folder,
    })
}

/// `None` for a name that is gone.
fn child<'a>(plan: &Plan<'a>, index: u64) -> Result<Option<Name<'a>>> {
    let tables = &plan.namespace.tables;
    let entry = tables
        .entry(index)
        .ok_or_else(|| damaged("an entry is missing"))?;
    let id = entry.node();
    match state_of(plan.namespace, id) {
        Some(State::Ready) => {}
        Some(State::Gone) => return Ok(None),
        _ => return Err(not_scanned()),
    }
    let name = tables.text(entry.name.load(Acquire));
    let kind = tables.record(id).and_then(|record| record.kind());
    match (name, kind, plan.number(id)) {
        (Some(name), ..) if name.len() > NAME_LIMIT_BYTES => Err(too_large("a name is too long")),
        (Some(name), Some(kind), Some(number)) => Ok(Some(Name { name, number, kind })),
        _ => Err(damaged("an entry has no name or no node")),
    }
}

/// The names that go into one block: first all entries, then all names.
#[derive(Default)]
struct Block {
    entries: Vec<(u32, u16, Kind)>,
    names: Vec<u8>,
}

impl Block {
    fn add(&mut self, name: &Name<'_>, blocks: &mut Region<'_>) -> Result<()> {
        let used = self.entries.len() * ENTRY_BYTES + self.names.len();
        if used + ENTRY_BYTES + name.name.len() > BLOCK_BYTES {
            self.write(blocks)?;
            blocks.pad_to(blocks.position().next_multiple_of(BLOCK_BYTES as u64))?;
        }
        self.entries
            .push((name.number, self.names.len() as u16, name.kind));
        self.names.extend_from_slice(name.name);
        Ok(())
    }

    fn write(&mut self, blocks: &mut Region<'_>) -> Result<()> {
        let names_at = (self.entries.len() * ENTRY_BYTES) as u16;
        for (number, offset, kind) in self.entries.drain(..) {
            blocks.write(&entry(number, names_at + offset, kind))?;
        }
        blocks.write(&self.names)?;
        self.names.clear();
        Ok(())
    }
}
