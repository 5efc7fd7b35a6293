//! Extended attributes that a data set shows: the POSIX ACLs and `user.*`.

use std::collections::HashSet;
use std::ffi::CString;
use std::sync::atomic::{AtomicBool, Ordering};

use atlas_core::{ACCESS_ACL, DEFAULT_ACL, ExtendedAttribute, Kind, USER_PREFIX};
use parking_lot::RwLock;
use rustix::io::Errno;

use super::reach::Reach;
use crate::origin::{EXTENDED_LIMIT_COUNT, Entry, USER_LIMIT_BYTES};

/// First guess at the bytes of a value or of a list of names, and what the kernel allows.
const GUESS_BYTES: usize = 1 << 10;
const LIMIT_BYTES: usize = 64 << 10;

/// Asks for extended attributes, and remembers the file systems that have none.
#[derive(Debug, Default)]
pub(super) struct ExtendedAttributes {
    without_acls: Devices,
    without_lists: Devices,
}

impl ExtendedAttributes {
    /// Whether any file system is known to have none.
    pub(super) fn may_be_needless(&self) -> bool {
        self.without_acls.any.load(Ordering::Acquire)
            && self.without_lists.any.load(Ordering::Acquire)
    }

    /// Whether the file system on `device` has none.
    pub(super) fn is_needless(&self, device: u64) -> bool {
        self.may_be_needless() && self.without_acls.has(device) && self.without_lists.has(device)
    }

    /// Adds them to what is known of an entry that is no link.
    ///
    /// # Errors
    /// Those of the origin. Attributes that the identity may not read are left out: their file is
    /// one that it may not read either. The ACL never is.
    pub(super) fn read(&self, reach: &Reach<'_>, looked: &mut Entry) -> rustix::io::Result<()> {
        let device = looked.attributes.device;
        let mut found = Vec::new();
        // Asked for by name: not every file system lists it, and most know it by now.
        if !self.without_acls.has(device) {
            match value(reach, ACCESS_ACL) {
                Ok(acl) => found.extend(acl),
                Err(Errno::OPNOTSUPP) => self.without_acls.add(device),
                Err(errno) => return Err(errno),
            }
        }
        let names = if self.without_lists.has(device) {
            Vec::new()
        } else {
            match with_room(|room| reach.list(room)) {
                Ok(names) => names,
                Err(Errno::OPNOTSUPP) => {
                    // A kernel's file system lists what it enforces, so it has no ACLs. Only FUSE
                    // may have a server that knows values but no lists; without either it answers
                    // for ACLs that there is none, as often as it is asked.
                    let values = reach.get(c"user.atlas", &mut []);
                    if found.is_empty() && values == Err(Errno::OPNOTSUPP) {
                        self.without_acls.add(device);
                    }
                    self.without_lists.add(device);
                    Vec::new()
                }
                Err(errno) => return Err(errno),
            }
        };
        let mut names: Vec<&[u8]> = names.split(|byte| *byte == 0).filter(is_shown).collect();
        names.sort_unstable();
        let folder = looked.attributes.kind == Kind::Folder;
        let mut left = USER_LIMIT_BYTES;
        for name in names {
            if name == DEFAULT_ACL {
                if folder {
                    found.extend(value(reach, name)?);
                }
                continue;
            }
            let attribute = match value(reach, name) {
                Ok(Some(attribute)) => attribute,
                Ok(None) | Err(Errno::ACCESS | Errno::PERM) => continue,
                Err(errno) => return Err(errno),
            };
            match left.checked_sub(name.len() + attribute.value.len()) {
                Some(rest) if found.len() < EXTENDED_LIMIT_COUNT => {
                    left = rest;
                    found.push(attribute);
                }
                _ => looked.left_out += 1,
            }
        }
        looked.extended = found;
        Ok(())
    }
}

fn is_shown(name: &&[u8]) -> bool {
    // Names longer than this do not exist on Linux; an origin may say anything.
    let plain = name.len() > USER_PREFIX.len() && name.len() <= 255;
    plain && name.starts_with(USER_PREFIX) || *name == DEFAULT_ACL
}

/// `None`: the entry does not have it.
fn value(reach: &Reach<'_>, name: &[u8]) -> rustix::io::Result<Option<ExtendedAttribute>> {
    let attribute = CString::new(name).map_err(|_| Errno::INVAL)?;
    match with_room(|room| reach.get(&attribute, room)) {
        Ok(value) => Ok(Some(ExtendedAttribute {
            name: name.to_vec(),
            value,
        })),
        Err(Errno::NODATA) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn with_room(ask: impl Fn(&mut [u8]) -> rustix::io::Result<usize>) -> rustix::io::Result<Vec<u8>> {
    let mut few = [0; GUESS_BYTES];
    match ask(&mut few) {
        Ok(length) => Ok(few[..length].to_vec()),
        Err(Errno::RANGE) => {
            let mut many = vec![0; LIMIT_BYTES];
            let length = ask(&mut many)?;
            many.truncate(length);
            Ok(many)
        }
        Err(errno) => Err(errno),
    }
}

/// Devices of file systems.
#[derive(Debug, Default)]
struct Devices {
    any: AtomicBool,
    known: RwLock<HashSet<u64>>,
}

impl Devices {
    fn has(&self, device: u64) -> bool {
        self.any.load(Ordering::Acquire) && self.known.read().contains(&device)
    }

    fn add(&self, device: u64) {
        self.known.write().insert(device);
        self.any.store(true, Ordering::Release);
    }
}
