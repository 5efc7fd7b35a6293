//! Naming a folder: from what the origin listed to entries that stay as they are for ever.

use std::sync::atomic::Ordering::Relaxed;

use atlas_core::{Error, ErrorKind, Kind, Result};

use crate::{
    FolderState, Namespace, NodeId,
    namespace::{EarlyNames, not_a_folder},
    record::{Record, State},
    tables::{TEXT_LIMIT_BYTES, damaged, text_bytes, text_too_long},
};

type Listed = Vec<(Vec<u8>, Option<Kind>)>;

/// Rows reserved for the names of one folder, which nobody else knows of.
struct Draft {
    /// The early names that have their node already.
    early: EarlyNames,
    first_node: u64,
    first_entry: u64,
    first_text: u64,
}

impl Namespace {
    /// Names the children of a Ready folder; gives their number. Sorts them, and drops names that
    /// come twice. Early names keep their nodes, and stay even if they are not listed, since they
    /// were answered. A folder that is named already stays as it is.
    ///
    /// Fails with `Invalid` on a name that no folder can hold, with the errno of the state
    /// folder's file system when that is full; the folder then stays as it was.
    pub fn name_children(&self, folder: NodeId, listed: Listed) -> Result<usize> {
        let mut names = listed;
        for (name, _) in &names {
            check_name(name)?;
        }
        sort(&mut names);
        loop {
            let draft = match self.reserve(folder, &mut names)? {
                Ok(draft) => draft,
                Err(count) => return Ok(count),
            };
            self.write_draft(folder, &names, &draft)?;
            if let Some(count) = self.publish(folder, &names, &draft)? {
                return Ok(count);
            }
        }
    }

    /// Reserves rows for `names`, to which it adds early ones that were not listed. `Err` is the
    /// number of children of a folder that is named already.
    fn reserve(
        &self,
        folder: NodeId,
        names: &mut Listed,
    ) -> Result<std::result::Result<Draft, usize>> {
        let _writer = self.write()?;
        if let Some((_, count)) = self.ready_folder(folder)?.entries() {
            return Ok(Err(count as usize));
        }
        let early = self.early.read().get(&folder).cloned().unwrap_or_default();
        let before = names.len();
        for (name, id) in &early {
            if position(&names[..before], name).is_none() {
                let kind = self.tables.record(*id).and_then(|record| record.kind());
                names.push((name.to_vec(), kind));
            }
        }
        if names.len() > before {
            sort(names);
        }
        let bytes = names.iter().map(|(name, _)| text_bytes(name)).sum();
        Ok(Ok(Draft {
            first_node: self
                .tables
                .reserve_nodes((names.len() - early.len()) as u64)?,
            first_entry: self.tables.reserve_entries(names.len() as u64)?,
            first_text: self.tables.reserve_text(bytes)?,
            early,
        }))
    }

    /// Without the lock: nothing refers to the rows of a draft.
    fn write_draft(&self, folder: NodeId, names: &Listed, draft: &Draft) -> Result<()> {
        let (mut node, mut text) = (draft.first_node, draft.first_text);
        for (index, (name, hint)) in (draft.first_entry..).zip(names) {
            let next_text = self.tables.write_text(text, name)?;
            let id = match draft.early.get(name.as_slice()) {
                Some(id) => *id,
                None => {
                    let id = NodeId(node);
                    node += 1;
                    let record = self
                        .tables
                        .record(id)
                        .ok_or_else(|| damaged("a node is missing"))?;
                    record.write_name(folder, text);
                    record.publish_named(*hint);
                    id
                }
            };
            let entry = self
                .tables
                .entry(index)
                .ok_or_else(|| damaged("an entry is missing"))?;
            entry.name.store(text, Relaxed);
            entry.node.store(id.0, Relaxed);
            text = next_text;
        }
        Ok(())
    }

    /// Makes a draft known. `None` if meanwhile a name was bound early that is not in it.
    fn publish(&self, folder: NodeId, names: &Listed, draft: &Draft) -> Result<Option<usize>> {
        let _writer = self.write()?;
        let record = self.ready_folder(folder)?;
        if let Some((_, count)) = record.entries() {
            return Ok(Some(count as usize));
        }
        if let Some(early) = self.early.read().get(&folder) {
            for (name, id) in early {
                if draft.early.contains_key(name) {
                    continue;
                }
                let Some(position) = position(names, name) else {
                    return Ok(None);
                };
                let entry = self.tables.entry(draft.first_entry + position as u64);
                let entry = entry.ok_or_else(|| damaged("an entry is missing"))?;
                entry.node.store(id.0, Relaxed);
            }
        }
        record.publish_entries(draft.first_entry, names.len() as u64);
        // Only now: a lookup that finds no early name looks again whether the folder is named.
        self.early.write().remove(&folder);
        Ok(Some(names.len()))
    }

    /// Remembers why a folder could not be listed. A folder that is named stays named.
    pub fn set_failed(&self, folder: NodeId, errno: i32) -> Result<()> {
        let _writer = self.write()?;
        let record = self.ready_folder(folder)?;
        if !record.folder_state().is_named() {
            record.publish_folder(FolderState::Failed(errno));
        }
        Ok(())
    }

    /// Remembers that a named child is no longer there. Without effect on a child that is Ready,
    /// since a generation keeps what it has answered, and in a folder that is not named.
    pub fn set_gone(&self, folder: NodeId, name: &[u8]) -> Result<()> {
        let _writer = self.write()?;
        let Some((first, count)) = self.ready_folder(folder)?.entries() else {
            return Ok(());
        };
        if let Some((_, entry)) = self.find(first, count, name) {
            let record = self.tables.record(entry.node());
            let record = record.ok_or_else(|| damaged("a node is missing"))?;
            if record.state() == State::Named {
                record.publish_gone();
            }
        }
        Ok(())
    }

    /// Whether all is known of a folder; remembers it if so. Cheap to ask again: it goes on where
    /// it stopped.
    pub fn complete_if_done(&self, folder: NodeId) -> bool {
        let Some((first, count)) = self.entries_of(folder) else {
            return false;
        };
        let Some(record) = self.tables.record(folder) else {
            return false;
        };
        if record.folder_state() == FolderState::Complete {
            return true;
        }
        let is_done = |position: u64| {
            self.tables
                .entry(first + position)
                .and_then(|entry| self.tables.record(entry.node()))
                .is_some_and(|child| matches!(child.state(), State::Ready | State::Gone))
        };
        let mut done = record.done();
        while done < count && is_done(done) {
            done += 1;
        }
        // If the disk refuses the mark, the folder is merely looked at again.
        let Ok(_writer) = self.write() else {
            return false;
        };
        record.set_done(done.max(record.done()));
        if done == count {
            record.publish_folder(FolderState::Complete);
        }
        done == count
    }

    pub(crate) fn ready_folder(&self, folder: NodeId) -> Result<Record<'_>> {
        let record = self
            .tables
            .record(folder)
            .filter(|record| record.state() == State::Ready);
        let record = record.ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                libc::ENOENT,
                "use a node: its attributes are unknown",
            )
        })?;
        if record.is_ready_folder() {
            Ok(record)
        } else {
            Err(not_a_folder())
        }
    }
}

/// By name; of two equal names one with a hint stays.
fn sort(names: &mut Listed) {
    names.sort_unstable_by(|one, other| {
        one.0
            .cmp(&other.0)
            .then_with(|| other.1.is_some().cmp(&one.1.is_some()))
    });
    names.dedup_by(|later, earlier| later.0 == earlier.0);
}

fn position(names: &[(Vec<u8>, Option<Kind>)], name: &[u8]) -> Option<usize> {
    names
        .binary_search_by(|(listed, _)| listed.as_slice().cmp(name))
        .ok()
}

/// Refuses what no POSIX folder can hold: a reader would take it for something else.
pub(crate) fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > TEXT_LIMIT_BYTES {
        return Err(text_too_long());
    }
    if matches!(name, b"" | b"." | b"..") || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
        let name = atlas_core::printable(name);
        let message = format!("store name \"{name}\": no folder can hold it");
        return Err(Error::new(ErrorKind::Invalid, libc::EINVAL, message));
    }
    Ok(())
}
