//! The live front: what the kernel asks over FUSE, answered from the parts of the data set.
//!
//! What is known is answered on the session's thread; what needs the origin is handed to a reader
//! thread together with the reply. Node ids mean one version of one file for ever, so the kernel may
//! keep everything it is told.

use std::sync::Arc;

use atlas_core::{Attributes, Error, ErrorKind, ExtendedAttribute, Identity, Kind, PAGE_BYTES};
use atlas_fs::{Node, NodeId};
use atlas_mount::{
    Filesystem, FolderRequest, NodeAttributes, ReadRequest, ReplyAttributes, ReplyData, ReplyEntry,
    ReplyExtended, ReplyFolder, ReplyStatistics, Statistics,
};
use atlas_origin::Class;

use crate::ahead;
use crate::core::Core;
use crate::fill;
use crate::scan::{ScanProgress, ensure_named, resolve};

/// Entries taken from the namespace at once while a folder is listed.
const FOLDER_STEP: usize = 128;

/// Positions of "." and "..", before the entries of the namespace.
const DOTS: u64 = 2;

pub(crate) struct LiveFront {
    core: Arc<Core>,
    owner: Identity,
}

impl LiveFront {
    pub(crate) fn new(core: Arc<Core>, owner: Identity) -> Self {
        Self { core, owner }
    }

    fn shown(&self, node: &Node) -> NodeAttributes {
        shown(node, &self.owner)
    }

    /// What a node has; `None`: no node has any, for as long as this front is served, and the
    /// kernel need not ask again.
    fn extended(&self, node: u64) -> Result<Option<Vec<ExtendedAttribute>>, Error> {
        let core = &self.core;
        let complete = core.scan.progress() == ScanProgress::Complete;
        if complete && !core.namespace.has_extended_attributes() {
            return Ok(None);
        }
        core.namespace.extended_attributes(NodeId(node)).map(Some)
    }
}

/// Times: the generation keeps that of the modification, and a mapped front has only one time, so
/// all fronts show that one for all three. The root is its owner's alone.
fn shown(node: &Node, owner: &Identity) -> NodeAttributes {
    let attributes = if node.id == NodeId::ROOT {
        Attributes {
            permissions: 0o700,
            uid: owner.uid,
            gid: owner.gid,
            ..node.attributes
        }
    } else {
        node.attributes
    };
    let mut shown = NodeAttributes::shown(node.id.0, &attributes);
    shown.changed = shown.modified;
    shown
}

impl Filesystem for LiveFront {
    fn lookup(&self, parent: u64, name: &[u8], reply: ReplyEntry) {
        let owner = self.owner.clone();
        let done = move |outcome: Result<crate::scan::Resolved, Error>| match outcome {
            Ok(resolved) => match resolved.node {
                Some(node) => reply.found(node.id.0, &shown(&node, &owner)),
                None if resolved.certain => reply.absent(),
                None => reply.error(libc::ENOENT),
            },
            Err(error) => reply.error(error.errno),
        };
        resolve(&self.core, NodeId(parent), name, Box::new(done));
    }

    fn attributes(&self, node: u64, reply: ReplyAttributes) {
        match self.core.namespace.node(NodeId(node)) {
            Some(node) => reply.attributes(&self.shown(&node)),
            None => reply.error(libc::ESTALE),
        }
    }

    fn read_link(&self, node: u64, reply: ReplyData) {
        match self.core.namespace.link_target(NodeId(node)) {
            Some(target) => reply.data(&target),
            None => reply.error(libc::EINVAL),
        }
    }

    fn read(&self, request: ReadRequest, reply: ReplyData) {
        let Some(node) = self.core.namespace.node(NodeId(request.node)) else {
            return reply.error(libc::ESTALE);
        };
        if node.attributes.kind != Kind::File {
            return reply.error(libc::EINVAL);
        }
        let left = node.attributes.size.saturating_sub(request.offset);
        let length = u64::from(request.size).min(left) as usize;
        if length == 0 {
            return reply.data(&[]);
        }
        ahead::reading(&self.core, &node, request.offset, length as u64);
        let mut reply = reply;
        if fill::is_live(&self.core, &node, request.offset, length as u64) {
            let read =
                |buffer: &mut [u8]| fill::read_live(&self.core, &node, request.offset, buffer);
            match reply.fill_or_return(length, read) {
                None => return,
                // Damaged on the tier, or the tier fails: the origin has the bytes.
                Some(unanswered) => reply = unanswered,
            }
        }
        let done = move |outcome: Result<Vec<u8>, Error>| match outcome {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error.errno),
        };
        fill::read(&self.core, node, request.offset, length, Box::new(done));
    }

    fn read_folder(&self, request: FolderRequest, reply: ReplyFolder) {
        let folder = NodeId(request.node);
        let core = Arc::clone(&self.core);
        let owner = self.owner.clone();
        let done = move |outcome: Result<(), Error>| match outcome {
            Ok(()) => list(&core, &owner, folder, request.offset, reply),
            Err(error) => reply.error(error.errno),
        };
        ensure_named(&self.core, folder, Class::Foreground, Box::new(done));
    }

    fn extended_attribute(&self, node: u64, name: &[u8], reply: ReplyExtended) {
        match self.extended(node) {
            Ok(None) => reply.error(libc::ENOSYS),
            Ok(Some(found)) => match found.iter().find(|one| one.name == name) {
                Some(attribute) => reply.value(&attribute.value),
                None => reply.error(libc::ENODATA),
            },
            Err(error) => reply.error(errno_of(&error)),
        }
    }

    fn extended_attribute_names(&self, node: u64, reply: ReplyExtended) {
        match self.extended(node) {
            Ok(None) => reply.error(libc::ENOSYS),
            Ok(Some(found)) => {
                let names = found.iter().flat_map(|one| [one.name.as_slice(), b"\0"]);
                reply.value(&names.collect::<Vec<_>>().concat());
            }
            Err(error) => reply.error(errno_of(&error)),
        }
    }

    fn statistics(&self, _node: u64, reply: ReplyStatistics) {
        let totals = self.core.namespace.totals();
        let nodes = totals.files + totals.folders + totals.links + totals.others;
        reply.statistics(&Statistics {
            block_size: PAGE_BYTES as u32,
            blocks: totals.bytes.div_ceil(PAGE_BYTES),
            files: nodes,
            ..Statistics::default()
        });
    }
}

/// Whatever goes wrong with an ACL must not read as "there is none".
fn errno_of(error: &Error) -> i32 {
    match error.kind {
        ErrorKind::NotFound => libc::ESTALE,
        _ => libc::EIO,
    }
}

fn list(core: &Core, owner: &Identity, folder: NodeId, offset: u64, mut reply: ReplyFolder) {
    let Some(node) = core.namespace.node(folder) else {
        return reply.error(libc::ESTALE);
    };
    let dots = [(b".".as_slice(), folder), (b"..".as_slice(), node.parent)];
    for (position, (name, id)) in (1..).zip(dots) {
        if offset < position && !reply.add(name, id.0, Some(Kind::Folder), position, None) {
            return reply.send();
        }
    }
    let mut position = offset.saturating_sub(DOTS) as usize;
    loop {
        let children = core.namespace.children(folder, position, FOLDER_STEP);
        if children.is_empty() {
            return reply.send();
        }
        for child in children {
            position += 1;
            if child.gone {
                continue;
            }
            let next = position as u64 + DOTS;
            // An entry whose attributes are not known yet is listed by name alone; the kernel looks
            // it up if somebody asks for more.
            let node = core
                .namespace
                .node(child.id)
                .map(|node| shown(&node, owner));
            let known = node.as_ref().map(|attributes| (child.id.0, attributes));
            let kind = node
                .as_ref()
                .map_or(child.kind, |attributes| Some(attributes.kind));
            if !reply.add(&child.name, child.id.0, kind, next, known) {
                return reply.send();
            }
        }
    }
}
