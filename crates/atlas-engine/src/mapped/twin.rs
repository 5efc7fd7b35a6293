//! The files of the twin connection: one for each segment, of the segment's length, whose bytes come
//! from the tier where they are there and from the origin where not.
//!
//! The kernel reads them for the pages of an image. It must never be answered short, and every
//! request must be answered at some time: an unmount waits for it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use atlas_core::{Address, Error, Kind, Result, Timestamp, printable};
use atlas_fs::{Node, Slot};
use atlas_mount::{
    Filesystem, FolderRequest, NodeAttributes, OpenRequest, ROOT_NODE, ReadRequest,
    ReplyAttributes, ReplyData, ReplyEntry, ReplyFolder, ReplyOpen, ReplyStatistics, Statistics,
};
use atlas_store::Volume;
use parking_lot::Mutex;

use super::image::Image;
use crate::ahead;
use crate::core::Core;
use crate::fill;

/// Node id of the first segment; the others follow in the order of the image's slots, so that a
/// process that takes over a connection knows them.
const FIRST_NODE: u64 = ROOT_NODE + 1;

pub(crate) struct TwinFiles {
    core: Arc<Core>,
    image: Arc<Image>,
    deadlines: Arc<Deadlines>,
}

/// The bytes of one file that belong into an answer.
struct Piece {
    node: Node,
    /// Where they begin in the file.
    offset: u64,
    length: usize,
    /// Where they begin in the answer.
    at: usize,
}

impl TwinFiles {
    pub(crate) fn new(core: Arc<Core>, image: Arc<Image>, deadlines: Arc<Deadlines>) -> Self {
        Self {
            core,
            image,
            deadlines,
        }
    }

    fn slot(&self, node: u64) -> Option<&Slot> {
        let index = node.checked_sub(FIRST_NODE)?;
        self.image.slots.get(usize::try_from(index).ok()?)
    }

    /// What lies at an address. What belongs to no file is a gap: it reads as zeros.
    fn pieces(&self, start: Address, length: u64) -> Result<Vec<Piece>> {
        let end = start.plus(length);
        let mut pieces = Vec::new();
        for node in (self.image.index).files_in(&self.core.namespace, start, end) {
            let node = node?;
            let Some(address) = node.address else {
                continue;
            };
            let from = address.0.max(start.0);
            let to = end.0.min(address.0 + node.attributes.size);
            if from < to {
                pieces.push(Piece {
                    node,
                    offset: from - address.0,
                    length: (to - from) as usize,
                    at: (from - start.0) as usize,
                });
            }
        }
        Ok(pieces)
    }

    fn read_live(&self, pieces: &[Piece], buffer: &mut [u8]) -> bool {
        let mut end = 0;
        for piece in pieces {
            let range = piece.at..piece.at + piece.length;
            buffer[end..piece.at].fill(0);
            if !fill::read_live(
                &self.core,
                &piece.node,
                piece.offset,
                &mut buffer[range.clone()],
            ) {
                return false;
            }
            end = range.end;
        }
        buffer[end..].fill(0);
        true
    }
}

fn attributes(node: u64, slot: Option<&Slot>) -> NodeAttributes {
    let (kind, permissions, size) = match slot {
        Some(slot) => (Kind::File, 0o400, slot.length),
        None => (Kind::Folder, 0o500, 0),
    };
    let time = Timestamp::default();
    NodeAttributes {
        inode: node,
        kind,
        permissions,
        uid: 0,
        gid: 0,
        links: 1,
        size,
        blocks: size.div_ceil(512),
        block_size: 4096,
        device_number: 0,
        accessed: time,
        modified: time,
        changed: time,
    }
}

impl Filesystem for TwinFiles {
    fn lookup(&self, parent: u64, name: &[u8], reply: ReplyEntry) {
        let found = (FIRST_NODE..)
            .zip(&self.image.slots)
            .find(|(_, slot)| Volume::segment_name(slot.start).as_bytes() == name);
        match found {
            Some((node, slot)) if parent == ROOT_NODE => {
                reply.found(node, &attributes(node, Some(slot)));
            }
            _ => reply.absent(),
        }
    }

    fn attributes(&self, node: u64, reply: ReplyAttributes) {
        match self.slot(node) {
            None if node != ROOT_NODE => reply.error(libc::ESTALE),
            slot => reply.attributes(&attributes(node, slot)),
        }
    }

    fn read_link(&self, _node: u64, reply: ReplyData) {
        reply.error(libc::EINVAL);
    }

    fn open(&self, request: OpenRequest, reply: ReplyOpen) {
        if request.folder || self.slot(request.node).is_some() {
            reply.opened(request.node);
        } else {
            reply.error(libc::ESTALE);
        }
    }

    fn read(&self, request: ReadRequest, reply: ReplyData) {
        let Some(slot) = self.slot(request.node) else {
            return reply.error(libc::ESTALE);
        };
        let length = u64::from(request.size).min(slot.length.saturating_sub(request.offset));
        let pieces = match self.pieces(slot.start.plus(request.offset), length) {
            Ok(pieces) => pieces,
            Err(error) => {
                self.core.warn("ReadFailed", error.message);
                return reply.error(libc::EIO);
            }
        };
        for piece in &pieces {
            ahead::reading(&self.core, &piece.node, piece.offset, piece.length as u64);
        }
        let live = |piece: &Piece| {
            fill::is_live(&self.core, &piece.node, piece.offset, piece.length as u64)
        };
        let mut reply = reply;
        if pieces.iter().all(live) {
            let read = |buffer: &mut [u8]| self.read_live(&pieces, buffer);
            match reply.fill_or_return(length as usize, read) {
                None => return,
                // Damaged on the tier, or the tier fails: the origin has the bytes.
                Some(unanswered) => reply = unanswered,
            }
        }
        let gather = Gather::new(reply, length as usize);
        self.deadlines.add(&gather);
        for piece in pieces {
            gather.need(&self.core, &piece);
        }
        gather.arrived();
    }

    fn read_folder(&self, _request: FolderRequest, reply: ReplyFolder) {
        // Nobody lists it: the folder is attached nowhere, and its files are opened by name.
        reply.send();
    }

    fn statistics(&self, _node: u64, reply: ReplyStatistics) {
        reply.statistics(&Statistics {
            block_size: 4096,
            ..Statistics::default()
        });
    }
}

/// An answer that waits for bytes.
struct Gather {
    /// Pieces still missing, and one for the caller while it sets the answer up.
    missing: AtomicUsize,
    state: Mutex<GatherState>,
}

struct GatherState {
    bytes: Vec<u8>,
    failed: bool,
    /// `None` once answered.
    reply: Option<ReplyData>,
}

impl Gather {
    fn new(reply: ReplyData, length: usize) -> Arc<Self> {
        Arc::new(Self {
            missing: AtomicUsize::new(1),
            state: Mutex::new(GatherState {
                bytes: vec![0; length],
                failed: false,
                reply: Some(reply),
            }),
        })
    }

    fn need(self: &Arc<Self>, core: &Arc<Core>, piece: &Piece) {
        self.missing.fetch_add(1, Ordering::Relaxed);
        let (gather, job_core) = (Arc::clone(self), Arc::clone(core));
        let (id, at, length) = (piece.node.id, piece.at, piece.length);
        let done = move |outcome: Result<Vec<u8>>| {
            if let Err(error) = &outcome {
                job_core.failed_behind_image(id, error);
            }
            gather.take(at, outcome);
        };
        fill::read(core, piece.node, piece.offset, length, Box::new(done));
    }

    fn take(&self, at: usize, outcome: std::result::Result<Vec<u8>, Error>) {
        let mut state = self.state.lock();
        match outcome {
            Ok(bytes) => state.bytes[at..at + bytes.len()].copy_from_slice(&bytes),
            Err(_) => state.failed = true,
        }
        drop(state);
        self.arrived();
    }

    fn arrived(&self) {
        if self.missing.fetch_sub(1, Ordering::AcqRel) != 1 {
            return;
        }
        let mut state = self.state.lock();
        let bytes = std::mem::take(&mut state.bytes);
        let (failed, reply) = (state.failed, state.reply.take());
        drop(state);
        match reply {
            // Whatever the origin said, the kernel tells the reader of an image nothing else.
            Some(reply) if failed => reply.error(libc::EIO),
            Some(reply) => reply.data(&bytes),
            None => {}
        }
    }

    /// Fails the answer, if it still waits.
    fn expire(&self) -> bool {
        let reply = self.state.lock().reply.take();
        let waited = reply.is_some();
        if let Some(reply) = reply {
            reply.error(libc::EIO);
        }
        waited
    }
}

/// Answers in the order in which they become overdue.
pub(crate) struct Deadlines {
    patience: Duration,
    waiting: Mutex<VecDeque<(Instant, Weak<Gather>)>>,
}

impl Deadlines {
    pub(crate) fn new(patience: Duration) -> Self {
        Self {
            patience,
            waiting: Mutex::default(),
        }
    }

    fn add(&self, gather: &Arc<Gather>) {
        let mut waiting = self.waiting.lock();
        while waiting
            .front()
            .is_some_and(|(_, gather)| gather.strong_count() == 0)
        {
            waiting.pop_front();
        }
        waiting.push_back((Instant::now() + self.patience, Arc::downgrade(gather)));
    }

    /// Fails what is overdue.
    pub(crate) fn expire(&self, core: &Core) {
        let mut overdue = Vec::new();
        let mut waiting = self.waiting.lock();
        let now = Instant::now();
        while let Some((deadline, gather)) = waiting.front() {
            if *deadline > now && gather.strong_count() > 0 {
                break;
            }
            overdue.extend(gather.upgrade());
            waiting.pop_front();
        }
        drop(waiting);
        let expired = overdue.iter().filter(|gather| gather.expire()).count();
        if expired > 0 {
            core.warn(
                "ReadTimedOut",
                format!(
                    "{expired} reads failed: the origin has not answered for {} seconds",
                    self.patience.as_secs()
                ),
            );
        }
    }
}

impl Core {
    /// Tells of a read behind an image that failed: its reader sees no more than EIO.
    fn failed_behind_image(&self, id: atlas_fs::NodeId, error: &Error) {
        // A stale file is told of once, by whoever found out.
        if error.kind != atlas_core::ErrorKind::Stale {
            let path = printable(&self.path(id));
            self.warn("ReadFailed", format!("{path}: {error}"));
        }
    }
}
