//! Replies: owned, sendable, answered once.

use zerocopy::{FromZeros, IntoBytes};

use crate::buffer;
use crate::channel::Ticket;
use crate::filesystem::{NodeAttributes, Statistics};
use crate::protocol::{
    AttributesAnswer, EntryAnswer, ExtendedSize, NAME_BYTES, OpenAnswer, StatisticsAnswer, opened,
};
use crate::session::Profile;

/// Longest link target that the kernel takes, in bytes.
const TARGET_BYTES: usize = 4095;

/// Answer to a lookup.
pub struct ReplyEntry(pub(crate) Ticket);

impl ReplyEntry {
    pub fn found(self, node: u64, attributes: &NodeAttributes) {
        let answer = entry_answer(self.0.profile(), node, attributes);
        self.0.answer([answer.as_bytes(), &[]]);
    }

    /// There is no such name, now and (live profile) for as long as names live in the kernel.
    pub fn absent(self) {
        match self.0.profile() {
            Profile::Live => {
                let answer = EntryAnswer {
                    entry_valid_seconds: Profile::Live.lifetime_seconds(),
                    ..EntryAnswer::default()
                };
                self.0.answer([answer.as_bytes(), &[]]);
            }
            Profile::Uncached | Profile::Twin => self.0.refuse(libc::ENOENT),
        }
    }

    /// `errno` is positive, as in `libc`.
    pub fn error(self, errno: i32) {
        self.0.refuse(errno);
    }
}

pub(crate) fn entry_answer(
    profile: Profile,
    node: u64,
    attributes: &NodeAttributes,
) -> EntryAnswer {
    EntryAnswer {
        node,
        // Node ids are never used again: one generation is enough.
        generation: 0,
        entry_valid_seconds: profile.lifetime_seconds(),
        attributes_valid_seconds: profile.lifetime_seconds(),
        entry_valid_nanoseconds: 0,
        attributes_valid_nanoseconds: 0,
        attributes: attributes.wire(),
    }
}

pub struct ReplyAttributes(pub(crate) Ticket);

impl ReplyAttributes {
    pub fn attributes(self, attributes: &NodeAttributes) {
        let answer = AttributesAnswer {
            valid_seconds: self.0.profile().lifetime_seconds(),
            attributes: attributes.wire(),
            ..AttributesAnswer::default()
        };
        self.0.answer([answer.as_bytes(), &[]]);
    }

    pub fn error(self, errno: i32) {
        self.0.refuse(errno);
    }
}

/// Answer to a read of a file or of a link.
pub struct ReplyData {
    ticket: Ticket,
    /// What was asked for; `None` for the target of a link.
    size: Option<usize>,
}

impl ReplyData {
    pub(crate) const fn new(ticket: Ticket, size: Option<usize>) -> Self {
        Self { ticket, size }
    }

    /// Bytes of a file, at most those asked for, are sent from where they lie; fewer than asked
    /// for mean the end of the file. Page-aligned data is cheapest.
    pub fn data(self, data: &[u8]) {
        match self.size {
            Some(size) => self.ticket.answer([&data[..data.len().min(size)], &[]]),
            None if data.len() > TARGET_BYTES => self.ticket.refuse(libc::ENAMETOOLONG),
            None => self.ticket.answer([data, &[]]),
        }
    }

    /// Lets `read` put `size` bytes (at most those asked for) into a page-aligned buffer of this
    /// thread and answers the part that it says it filled, or its errno.
    pub fn fill(self, size: usize, read: impl FnOnce(&mut [u8]) -> Result<usize, i32>) {
        let size = size.min(self.size.unwrap_or(TARGET_BYTES));
        buffer::with_bytes(size, |bytes| {
            if bytes.len() < size {
                return self.ticket.refuse(libc::ENOMEM);
            }
            match read(bytes) {
                Ok(filled) => self.ticket.answer([&bytes[..filled.min(size)], &[]]),
                Err(errno) => self.ticket.refuse(errno),
            }
        });
    }

    /// Answers `size` bytes (at most those asked for) if `read` says that it put all of them into
    /// a page-aligned buffer of this thread; else the reply comes back.
    pub fn fill_or_return(self, size: usize, read: impl FnOnce(&mut [u8]) -> bool) -> Option<Self> {
        let size = size.min(self.size.unwrap_or(TARGET_BYTES));
        buffer::with_bytes(size, |bytes| {
            if bytes.len() == size && read(bytes) {
                self.ticket.answer([bytes, &[]]);
                None
            } else {
                Some(self)
            }
        })
    }

    pub fn error(self, errno: i32) {
        self.ticket.refuse(errno);
    }
}

pub struct ReplyStatistics(pub(crate) Ticket);

impl ReplyStatistics {
    pub fn statistics(self, statistics: &Statistics) {
        let answer = StatisticsAnswer {
            blocks: statistics.blocks,
            free_blocks: statistics.free_blocks,
            available_blocks: statistics.available_blocks,
            files: statistics.files,
            free_files: statistics.free_files,
            block_size: statistics.block_size,
            name_length: NAME_BYTES as u32,
            fragment_size: statistics.block_size,
            ..StatisticsAnswer::new_zeroed()
        };
        self.0.answer([answer.as_bytes(), &[]]);
    }

    pub fn error(self, errno: i32) {
        self.0.refuse(errno);
    }
}

/// Answer to OPEN and OPENDIR.
pub struct ReplyOpen {
    pub(crate) ticket: Ticket,
    pub(crate) folder: bool,
}

impl ReplyOpen {
    /// Opened: `handle` comes with every read and with the release.
    pub fn opened(self, handle: u64) {
        let flags = match (self.ticket.profile(), self.folder) {
            (Profile::Live, false) => opened::KEEP_CACHE | opened::NOFLUSH,
            (Profile::Live, true) => opened::KEEP_CACHE | opened::CACHE_DIR,
            (Profile::Uncached | Profile::Twin, false) => opened::DIRECT_IO | opened::NOFLUSH,
            (Profile::Uncached | Profile::Twin, true) => 0,
        };
        let answer = OpenAnswer {
            handle,
            flags,
            backing: 0,
        };
        self.ticket.answer([answer.as_bytes(), &[]]);
    }

    /// The file system needs no handles. Live: the kernel opens by itself and asks no more.
    /// Else: opened with the handle 0, since only an answer can carry the flag for direct I/O.
    pub fn unneeded(self) {
        match self.ticket.profile() {
            Profile::Live => self.ticket.refuse(libc::ENOSYS),
            Profile::Uncached | Profile::Twin => self.opened(0),
        }
    }

    pub fn error(self, errno: i32) {
        self.ticket.refuse(errno);
    }
}

/// Answer with an extended attribute or with the list of their names.
pub struct ReplyExtended {
    pub(crate) ticket: Ticket,
    /// Room at the caller; 0 asks for the size alone.
    pub(crate) size: u32,
}

impl ReplyExtended {
    /// The value whole; the caller gets its size, the bytes, or ERANGE, as it asked.
    pub fn value(self, value: &[u8]) {
        match self.size as usize {
            0 => {
                let answer = ExtendedSize {
                    size: value.len() as u32,
                    padding: 0,
                };
                self.ticket.answer([answer.as_bytes(), &[]]);
            }
            room if room < value.len() => self.ticket.refuse(libc::ERANGE),
            _ => self.ticket.answer([value, &[]]),
        }
    }

    pub fn error(self, errno: i32) {
        self.ticket.refuse(errno);
    }
}
