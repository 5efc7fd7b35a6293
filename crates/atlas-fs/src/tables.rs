//! The five tables of a namespace: nodes, names, entries, early names, extended attributes.
//!
//! Rows are reserved under the lock of the writers, by advancing a counter in the header of the
//! nodes, and written afterwards. A process killed in between leaks them; nothing refers to them.

use std::{
    path::Path,
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
        fence,
    },
};

use atlas_core::{Error, ErrorKind, Result};
use atlas_store::table::{GrowableMap, Magic};

use crate::{
    NodeId,
    extended::UNIT_BYTES,
    record::{EarlyRow, Entry, RECORD_WORDS, Record},
};

/// Format of all five tables; they are only ever read together.
const FORMAT: u32 = 2;

/// File name, kind, and most bytes (of address space, not of memory) of each table.
const NODES: (&str, Magic, u64) = ("nodes", *b"atlnodes", 1 << 37);
const NAMES: (&str, Magic, u64) = ("names", *b"atlnames", 1 << 36);
const ENTRIES: (&str, Magic, u64) = ("entries", *b"atlentry", 1 << 35);
const EARLY: (&str, Magic, u64) = ("early", *b"atlearly", 1 << 34);
const EXTENDED: (&str, Magic, u64) = ("extended", *b"atlextnd", 1 << 34);

const WORD_BYTES: u64 = 8;
const RECORD_BYTES: u64 = RECORD_WORDS as u64 * WORD_BYTES;
const ENTRY_BYTES: u64 = 2 * WORD_BYTES;
const EARLY_BYTES: u64 = 3 * WORD_BYTES;

/// Bytes before a name or a target: its length.
const TEXT_HEADER_BYTES: u64 = 2;

/// Longest name or link target, in bytes. POSIX has 255 and 4095.
pub(crate) const TEXT_LIMIT_BYTES: usize = u16::MAX as usize;

/// Words in the header of the nodes: how far each table is in use, then what `Condition` says.
const USED_NODES: usize = 0;
const USED_NAMES: usize = 1;
const USED_ENTRIES: usize = 2;
const USED_EARLY: usize = 3;
const CONDITION: usize = 4;
const BOOT: usize = 5;
const USED_EXTENDED: usize = 6;

/// Whether the tables can be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
enum Condition {
    /// They are being created.
    Unborn = 0,
    /// Good as long as the machine runs: pages reach the disk in any order.
    Changing = 1,
    /// On the disk as they are.
    Settled = 2,
}

pub(crate) struct Tables {
    nodes: GrowableMap,
    names: GrowableMap,
    entries: GrowableMap,
    early: GrowableMap,
    extended: GrowableMap,
}

/// A table holds what was never written to it.
pub(crate) fn damaged(what: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        libc::EIO,
        format!("read the namespace: {what}"),
    )
}

impl Tables {
    pub(crate) fn create(folder: &Path) -> Result<Self> {
        let create = |(name, magic, most): (&str, Magic, u64)| {
            GrowableMap::create(&folder.join(name), magic, FORMAT, most)
        };
        let tables = Self {
            nodes: create(NODES)?,
            names: create(NAMES)?,
            entries: create(ENTRIES)?,
            early: create(EARLY)?,
            extended: create(EXTENDED)?,
        };
        // Node 0 is nobody: FUSE and the early names use it for "none".
        tables.reserve_nodes(1)?;
        Ok(tables)
    }

    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let open = |(name, magic, most): (&str, Magic, u64)| {
            GrowableMap::open(&folder.join(name), magic, FORMAT, most)
        };
        let tables = Self {
            nodes: open(NODES)?,
            names: open(NAMES)?,
            entries: open(ENTRIES)?,
            early: open(EARLY)?,
            extended: open(EXTENDED)?,
        };
        let condition = tables.nodes.header_word(CONDITION)?.load(Acquire);
        if condition == Condition::Unborn as u64 {
            return Err(damaged("its creation was interrupted"));
        }
        let boot = tables.nodes.header_word(BOOT)?.load(Acquire);
        if condition != Condition::Settled as u64 && boot != current_boot()? {
            return Err(damaged("the machine stopped before it was on the disk"));
        }
        for (map, used, row_bytes) in [
            (&tables.nodes, USED_NODES, RECORD_BYTES),
            (&tables.names, USED_NAMES, 1),
            (&tables.entries, USED_ENTRIES, ENTRY_BYTES),
            (&tables.early, USED_EARLY, EARLY_BYTES),
            (&tables.extended, USED_EXTENDED, UNIT_BYTES),
        ] {
            let bytes = tables.used(used).checked_mul(row_bytes);
            if bytes.is_none_or(|bytes| bytes > map.len()) {
                return Err(damaged("a table is cut short"));
            }
        }
        Ok(tables)
    }

    /// To be called before the first change after opening or `settle`, under the lock of the
    /// writers: from here on the tables are good only until the machine stops.
    pub(crate) fn unsettle(&self) -> Result<()> {
        let condition = self.nodes.header_word(CONDITION)?;
        let settled = condition.load(Acquire) == Condition::Settled as u64;
        self.nodes
            .header_word(BOOT)?
            .store(current_boot()?, Release);
        condition.store(Condition::Changing as u64, Release);
        // Only tables that the disk calls good must be taken back there before they change.
        if settled { self.nodes.sync() } else { Ok(()) }
    }

    /// Brings everything to the disk, under the lock of the writers, so that the tables can be
    /// opened after the machine was restarted.
    pub(crate) fn settle(&self) -> Result<()> {
        for map in [
            &self.names,
            &self.entries,
            &self.early,
            &self.extended,
            &self.nodes,
        ] {
            map.sync()?;
        }
        self.nodes
            .header_word(CONDITION)?
            .store(Condition::Settled as u64, Release);
        self.nodes.sync()
    }

    /// Bytes of the state folder that the tables take.
    pub(crate) fn allocated_bytes(&self) -> Result<u64> {
        [
            &self.nodes,
            &self.names,
            &self.entries,
            &self.early,
            &self.extended,
        ]
        .into_iter()
        .try_fold(0, |sum, map| Ok(sum + map.allocated_bytes()?))
    }

    fn used(&self, counter: usize) -> u64 {
        self.nodes
            .header_word(counter)
            .map_or(0, |word| word.load(Acquire))
    }

    /// One more than the highest node id in use.
    pub(crate) fn nodes_end(&self) -> u64 {
        self.used(USED_NODES)
    }

    pub(crate) fn early_end(&self) -> u64 {
        self.used(USED_EARLY)
    }

    /// Under the lock of the writers.
    fn reserve(&self, map: &GrowableMap, used: usize, row_bytes: u64, rows: u64) -> Result<u64> {
        let counter = self.nodes.header_word(used)?;
        let first = counter.load(Relaxed);
        let end = first
            .checked_add(rows)
            .ok_or_else(|| damaged("a counter overflows"))?;
        map.grow_to(end.saturating_mul(row_bytes))?;
        counter.store(end, Release);
        // The counter is advanced before any store into the rows: what was ever written, and
        // perhaps answered, is never reserved again.
        fence(Release);
        Ok(first)
    }

    /// Id of the first of `count` nodes.
    pub(crate) fn reserve_nodes(&self, count: u64) -> Result<u64> {
        self.reserve(&self.nodes, USED_NODES, RECORD_BYTES, count)
    }

    /// Index of the first of `count` entries.
    pub(crate) fn reserve_entries(&self, count: u64) -> Result<u64> {
        self.reserve(&self.entries, USED_ENTRIES, ENTRY_BYTES, count)
    }

    /// Index of an early name.
    pub(crate) fn reserve_early(&self) -> Result<u64> {
        self.reserve(&self.early, USED_EARLY, EARLY_BYTES, 1)
    }

    /// Offset of the first of several texts, of `bytes` bytes in all (`text_bytes` of each).
    pub(crate) fn reserve_text(&self, bytes: u64) -> Result<u64> {
        self.reserve(&self.names, USED_NAMES, 1, bytes)
    }

    /// Bytes of the sets of extended attributes, from the first on.
    pub(crate) fn extended_bytes(&self) -> u64 {
        self.used(USED_EXTENDED) * UNIT_BYTES
    }

    /// Stores a set of extended attributes, a whole number of units; gives its first unit.
    pub(crate) fn write_extended(&self, set: &[u8]) -> Result<u64> {
        let units = set.len() as u64 / UNIT_BYTES;
        let first = self.reserve(&self.extended, USED_EXTENDED, UNIT_BYTES, units)?;
        self.extended.copy_in(first * UNIT_BYTES, set)?;
        Ok(first)
    }

    /// Copies bytes of the sets, which lie one after the other.
    pub(crate) fn copy_extended(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > self.extended_bytes()) {
            return Err(damaged("extended attributes are missing"));
        }
        self.extended.copy_out(offset, bytes)
    }

    pub(crate) fn record(&self, id: NodeId) -> Option<Record<'_>> {
        if id.0 == 0 || id.0 >= self.nodes_end() {
            return None;
        }
        words(&self.nodes, id.0 * RECORD_BYTES).map(Record)
    }

    /// Entry `index` counts over all folders; `None` only in damaged tables.
    pub(crate) fn entry(&self, index: u64) -> Option<Entry<'_>> {
        let [name, node] = words(&self.entries, index.checked_mul(ENTRY_BYTES)?)?;
        Some(Entry { name, node })
    }

    pub(crate) fn early(&self, index: u64) -> Option<EarlyRow<'_>> {
        let [parent, name, node] = words(&self.early, index.checked_mul(EARLY_BYTES)?)?;
        Some(EarlyRow { parent, name, node })
    }

    /// Writes a text into reserved bytes; gives the offset after it.
    pub(crate) fn write_text(&self, offset: u64, text: &[u8]) -> Result<u64> {
        let length = u16::try_from(text.len()).map_err(|_| text_too_long())?;
        self.names.copy_in(offset, &length.to_le_bytes())?;
        self.names.copy_in(offset + TEXT_HEADER_BYTES, text)?;
        Ok(offset + text_bytes(text))
    }

    /// The text at an offset that a published row names; `None` only in damaged tables.
    pub(crate) fn text(&self, offset: u64) -> Option<&[u8]> {
        let end = self.used(USED_NAMES);
        let start = offset.checked_add(TEXT_HEADER_BYTES)?;
        if start > end {
            return None;
        }
        let mut length = [0; TEXT_HEADER_BYTES as usize];
        self.names.copy_out(offset, &mut length).ok()?;
        let length = u16::from_le_bytes(length);
        if start + u64::from(length) > end {
            return None;
        }
        // SAFETY: offsets come from rows that were published with Release after their text was
        // written and are read with Acquire; a text is written once, into bytes reserved for it.
        unsafe { self.names.view(start, usize::from(length)) }.ok()
    }
}

/// Bytes that a text takes in the names.
pub(crate) fn text_bytes(text: &[u8]) -> u64 {
    TEXT_HEADER_BYTES + text.len() as u64
}

pub(crate) fn text_too_long() -> Error {
    Error::new(
        ErrorKind::Invalid,
        libc::ENAMETOOLONG,
        "store a name or link target: too long",
    )
}

fn words<const N: usize>(map: &GrowableMap, offset: u64) -> Option<[&AtomicU64; N]> {
    let first = map.atomic_u64(offset).ok()?;
    let mut row = [first; N];
    for (index, word) in row.iter_mut().enumerate().skip(1) {
        *word = map.atomic_u64(offset + index as u64 * WORD_BYTES).ok()?;
    }
    Some(row)
}

/// Half of the kernel's random boot id: tells this boot of the machine from all others.
fn current_boot() -> Result<u64> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    let text = std::fs::read_to_string(PATH)
        .map_err(|error| Error::from_io(&error, format_args!("read {PATH}")))?;
    let digits: String = text
        .chars()
        .filter(char::is_ascii_hexdigit)
        .take(16)
        .collect();
    u64::from_str_radix(&digits, 16).map_err(|_| {
        Error::new(
            ErrorKind::Unsupported,
            libc::EIO,
            format!("read {PATH}: no id"),
        )
    })
}
