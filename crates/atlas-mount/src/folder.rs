//! Answers to READDIR and READDIRPLUS.

use std::cell::RefCell;

use atlas_core::Kind;
use zerocopy::IntoBytes;

use crate::channel::Ticket;
use crate::filesystem::NodeAttributes;
use crate::protocol::{EntryAnswer, FolderEntry, NAME_BYTES};
use crate::reply::entry_answer;

/// Names are padded to this, in bytes.
const ALIGNMENT: usize = 8;

thread_local! {
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Entries of a folder, added in order until one does not fit or none is left, then sent. Nothing
/// added and sent means: the folder ends here.
pub struct ReplyFolder {
    ticket: Ticket,
    bytes: Vec<u8>,
    /// Room at the kernel, in bytes.
    room: usize,
    with_attributes: bool,
}

impl ReplyFolder {
    pub(crate) fn new(ticket: Ticket, room: usize, with_attributes: bool) -> Self {
        Self {
            ticket,
            bytes: SPARE.take(),
            room,
            with_attributes,
        }
    }

    /// Adds an entry; false: it does not fit, send what there is. `next_offset` is what the
    /// kernel comes back with for the entries after this one; never 0. `node` is ignored where
    /// attributes are not wanted; with `None` the kernel learns the name and looks it up when it
    /// is used (as it must be for `.` and `..`). A name that no folder can hold is left out.
    pub fn add(
        &mut self,
        name: &[u8],
        inode: u64,
        kind: Option<Kind>,
        next_offset: u64,
        node: Option<(u64, &NodeAttributes)>,
    ) -> bool {
        if name.is_empty() || name.len() > NAME_BYTES || name.contains(&b'/') {
            return true;
        }
        let padded = (size_of::<FolderEntry>() + name.len()).next_multiple_of(ALIGNMENT);
        let plus = if self.with_attributes {
            size_of::<EntryAnswer>()
        } else {
            0
        };
        let end = self.bytes.len() + plus + padded;
        if end > self.room {
            return false;
        }
        if self.with_attributes {
            let answer = node.map_or_else(EntryAnswer::default, |(node, attributes)| {
                entry_answer(self.ticket.profile(), node, attributes)
            });
            self.bytes.extend_from_slice(answer.as_bytes());
        }
        let entry = FolderEntry {
            inode,
            next_offset,
            name_length: name.len() as u32,
            // The type bits of st_mode, moved down, are the d_type of readdir; 0 is unknown.
            kind: kind.map_or(0, |kind| kind.mode_bits() >> 12),
        };
        self.bytes.extend_from_slice(entry.as_bytes());
        self.bytes.extend_from_slice(name);
        self.bytes.resize(end, 0);
        true
    }

    pub fn send(self) {
        let Self {
            ticket, mut bytes, ..
        } = self;
        ticket.answer([&bytes, &[]]);
        bytes.clear();
        SPARE.set(bytes);
    }

    pub fn error(self, errno: i32) {
        self.ticket.refuse(errno);
    }
}
