//! Sets of extended attributes: each distinct one is stored once, however many nodes have it.
//!
//! A set is a word with the bytes that follow, then one attribute after the other, each as it lies
//! in an image, so that the image takes the table as it is: length of the name without its prefix
//! (one byte), number of the prefix (one), length of the value (two), name, value, zeros up to the
//! next unit. Everything little-endian. Source: `struct erofs_xattr_entry` of Linux.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use atlas_core::{
    ACCESS_ACL, DEFAULT_ACL, Error, ErrorKind, ExtendedAttribute, Kind, Result, USER_PREFIX,
    printable,
};

use crate::namespace::Writer;
use crate::record::State;
use crate::tables::{Tables, damaged};
use crate::{Namespace, NewEntry, NodeId};

/// Sets and attributes begin at multiples of this.
pub(crate) const UNIT_BYTES: u64 = 4;

const UNIT: usize = UNIT_BYTES as usize;
/// Bytes of a set before its attributes, and of an attribute before its name.
const HEADER_BYTES: usize = UNIT;

/// An inode of an image refers to no more.
const MOST_ATTRIBUTES: usize = 255;

/// Sets that are looked for when another one comes: the common ones are early among them, and a
/// tree with a set for each file costs no memory for each.
const KNOWN_SETS: usize = 1 << 16;

/// Numbers of prefixes. The ACLs are nothing but prefix.
const PREFIXES: [(u8, &[u8]); 3] = [(1, USER_PREFIX), (2, ACCESS_ACL), (3, DEFAULT_ACL)];

impl Namespace {
    /// The extended attributes of a Ready node, in the order in which they were given.
    ///
    /// # Errors
    /// `NotFound` for a node that is not Ready, `Corrupt` for damaged tables: nobody knows then who
    /// may read the node.
    pub fn extended_attributes(&self, id: NodeId) -> Result<Vec<ExtendedAttribute>> {
        let record = (self.tables.record(id)).filter(|record| record.state() == State::Ready);
        let record = record.ok_or_else(|| {
            let message = "read extended attributes: the node is not known";
            Error::new(ErrorKind::NotFound, libc::ENOENT, message)
        })?;
        let set = read_set(&self.tables, record.extended())?;
        decode(&set).ok_or_else(|| damaged("extended attributes make no sense"))
    }

    /// Whether any node has extended attributes.
    pub fn has_extended_attributes(&self) -> bool {
        self.tables.extended_bytes() > 0
    }

    /// Number of the set of a new entry; 0 = none.
    pub(crate) fn store_extended(&self, writer: &mut Writer, new: &NewEntry<'_>) -> Result<u32> {
        if new.extended.is_empty() {
            return Ok(0);
        }
        if new.attributes.kind == Kind::Link || new.extended.len() > MOST_ATTRIBUTES {
            return Err(impossible(new.name));
        }
        let set = encode(new.extended).ok_or_else(|| impossible(new.name))?;
        writer.sets.number(&self.tables, &set)
    }
}

fn impossible(name: &[u8]) -> Error {
    let message = format!("store the extended attributes of \"{}\"", printable(name));
    Error::new(ErrorKind::Invalid, libc::EINVAL, message)
}

/// Numbers of sets that are there already, by a hash of their bytes. Two sets with one hash are
/// both stored as often as they come.
#[derive(Default)]
pub(crate) struct KnownSets(HashMap<u64, u32>);

impl KnownSets {
    /// Takes in a set that a record names.
    pub(crate) fn found(&mut self, tables: &Tables, number: u32) {
        if number != 0
            && let Ok(set) = read_set(tables, number)
        {
            self.remember(&set, number);
        }
    }

    fn remember(&mut self, set: &[u8], number: u32) {
        if self.0.len() < KNOWN_SETS {
            self.0.entry(hash(set)).or_insert(number);
        }
    }

    /// Under the lock of the writers.
    fn number(&mut self, tables: &Tables, set: &[u8]) -> Result<u32> {
        if let Some(number) = self.0.get(&hash(set))
            && read_set(tables, *number)? == set
        {
            return Ok(*number);
        }
        let first = tables.write_extended(set)?;
        let number = u32::try_from(first + 1).map_err(|_| {
            let message = "store extended attributes: there are too many";
            Error::new(ErrorKind::Unsupported, libc::EFBIG, message)
        })?;
        self.remember(set, number);
        Ok(number)
    }
}

fn hash(set: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    set.hash(&mut hasher);
    hasher.finish()
}

/// A set with its header; empty for number 0.
fn read_set(tables: &Tables, number: u32) -> Result<Vec<u8>> {
    let Some(first) = u64::from(number).checked_sub(1) else {
        return Ok(Vec::new());
    };
    let offset = first * UNIT_BYTES;
    let mut header = [0; HEADER_BYTES];
    tables.copy_extended(offset, &mut header)?;
    let length = u32::from_le_bytes(header);
    if offset + u64::from(length) > tables.extended_bytes() {
        return Err(damaged("extended attributes are cut short"));
    }
    let mut set = vec![0; HEADER_BYTES + length as usize];
    tables.copy_extended(offset, &mut set)?;
    Ok(set)
}

/// Where the attributes of a set begin in the table, in units.
pub(crate) fn places(tables: &Tables, number: u32) -> Result<Vec<u32>> {
    let set = read_set(tables, number)?;
    let mut places = Vec::new();
    let mut at = HEADER_BYTES;
    while at < set.len() {
        let (_, length) = attribute(&set[at..]).ok_or_else(|| damaged("a set makes no sense"))?;
        places.push(number - 1 + (at / UNIT) as u32);
        at += length;
    }
    Ok(places)
}

/// `None` for what cannot be stored: a name of another kind, or too long.
fn encode(attributes: &[ExtendedAttribute]) -> Option<Vec<u8>> {
    let mut set = vec![0; HEADER_BYTES];
    for ExtendedAttribute { name, value } in attributes {
        let (prefix, rest) = (PREFIXES.iter()).find_map(|(number, prefix)| {
            let rest = name.strip_prefix(*prefix)?;
            (rest.is_empty() != (*prefix == USER_PREFIX)).then_some((*number, rest))
        })?;
        set.push(u8::try_from(rest.len()).ok()?);
        set.push(prefix);
        set.extend(u16::try_from(value.len()).ok()?.to_le_bytes());
        set.extend_from_slice(rest);
        set.extend_from_slice(value);
        set.resize(set.len().next_multiple_of(UNIT), 0);
    }
    let length = u32::try_from(set.len() - HEADER_BYTES).ok()?;
    set[..HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
    Some(set)
}

fn decode(set: &[u8]) -> Option<Vec<ExtendedAttribute>> {
    let mut attributes = Vec::new();
    let mut rest = set.get(HEADER_BYTES..).unwrap_or_default();
    while !rest.is_empty() {
        let (found, length) = attribute(rest)?;
        attributes.push(found);
        rest = rest.get(length..)?;
    }
    Some(attributes)
}

/// The first attribute, and how many bytes it takes.
fn attribute(bytes: &[u8]) -> Option<(ExtendedAttribute, usize)> {
    let [name_length, prefix, low, high] = *bytes.first_chunk()?;
    let (_, prefix) = (PREFIXES.iter()).find(|(number, _)| *number == prefix)?;
    let name_end = HEADER_BYTES + usize::from(name_length);
    let end = name_end + usize::from(u16::from_le_bytes([low, high]));
    let name = [prefix, bytes.get(HEADER_BYTES..name_end)?].concat();
    let value = bytes.get(name_end..end)?.to_vec();
    Some((
        ExtendedAttribute { name, value },
        end.next_multiple_of(UNIT),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &[u8], value: &[u8]) -> ExtendedAttribute {
        ExtendedAttribute {
            name: name.to_vec(),
            value: value.to_vec(),
        }
    }

    #[test]
    fn sets_are_decoded_as_they_were_encoded() {
        let all = [
            one(ACCESS_ACL, &[2, 0, 0, 0]),
            one(DEFAULT_ACL, b""),
            one(b"user.a", b"12345"),
            one(&[USER_PREFIX, &[b'n'; 250]].concat(), &[0xff; 65_000]),
        ];
        for count in 0..=all.len() {
            let set = encode(&all[..count]).unwrap();
            assert_eq!(set.len() % UNIT, 0);
            assert_eq!(decode(&set).unwrap(), all[..count]);
        }
        assert_eq!(decode(&[]), Some(vec![]));
        let set = encode(&all).unwrap();
        for end in HEADER_BYTES + 1..300 {
            // Cut short: an error or fewer attributes, never a panic.
            let _ = decode(&set[..end]);
        }
    }

    #[test]
    fn what_is_never_shown_cannot_be_stored() {
        for name in [
            b"user.".as_slice(),
            b"user",
            b"security.capability",
            b"trusted.overlay.opaque",
            b"system.posix_acl_access2",
            b"system.nfs4_acl",
            b"",
        ] {
            assert_eq!(encode(&[one(name, b"v")]), None, "{name:?}");
        }
        assert_eq!(encode(&[one(b"user.a", &[0; 65_536])]), None);
        let long = [USER_PREFIX, &[b'n'; 256]].concat();
        assert_eq!(encode(&[one(&long, b"")]), None);
    }
}
