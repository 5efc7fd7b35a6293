//! Read-ahead for files of several extents: whoever reads one in order finds the next extents on
//! their way. The kernel's own read-ahead ends where its request does, one extent further.
//!
//! A reader is known by where it reads, not by its descriptor: behind an image the kernel names
//! none. As in ZFS's prefetch (dmu_zfetch), a read that goes on where an earlier one ended is a
//! stream, and what a stream gets ahead of its reader grows with what it has read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use atlas_core::{EXTENT_BYTES, extents_of};
use atlas_fs::{Node, NodeId};
use parking_lot::Mutex;

use crate::core::Core;
use crate::fill;

/// Readers that are told apart at a time.
const STREAMS: usize = 64;

/// Most bytes ahead of a reader: what hides 10 ms behind 800 MB/s.
const MOST: u64 = 8 * EXTENT_BYTES;

/// How far from where it is expected a read still belongs to a stream: the kernel sends what it
/// reads ahead in pieces, which several threads take.
const BEFORE: u64 = EXTENT_BYTES;
const BEHIND: u64 = EXTENT_BYTES / 4;

/// Extents of all readers that may be under way: a quarter of the threads that read the origin.
const MOST_UNDER_WAY: usize = 8;

struct Stream {
    node: NodeId,
    start: u64,
    /// End of what was read.
    end: u64,
    /// End of what was fetched ahead.
    ahead: u64,
}

/// The streams of a data set, the last used at the end.
#[derive(Default)]
pub(crate) struct ReadAhead {
    streams: Mutex<Vec<Stream>>,
    under_way: Arc<AtomicUsize>,
}

/// One extent of those under way, until it is dropped.
pub(crate) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl ReadAhead {
    fn place(&self) -> Option<Place> {
        let place = Place(Arc::clone(&self.under_way));
        let before = self.under_way.fetch_add(1, Ordering::AcqRel);
        (before < MOST_UNDER_WAY).then_some(place)
    }

    /// Notes a read of `length` bytes at `offset` of a file. Gives the end of what should be on its
    /// way now, and from where on it is not yet.
    fn note(&self, node: NodeId, offset: u64, length: u64) -> Option<(u64, u64)> {
        let mut streams = self.streams.lock();
        let end = offset + length;
        let found = streams.iter().position(|stream| {
            stream.node == node && offset + BEFORE >= stream.end && offset <= stream.end + BEHIND
        });
        let Some(found) = found else {
            if streams.len() == STREAMS {
                streams.remove(0);
            }
            streams.push(Stream {
                node,
                start: offset,
                end,
                ahead: end,
            });
            return None;
        };
        let mut stream = streams.remove(found);
        stream.end = stream.end.max(end);
        stream.ahead = stream.ahead.max(stream.end);
        let read = stream.end - stream.start;
        let wanted = (read >= EXTENT_BYTES).then(|| (stream.ahead, stream.end + read.min(MOST)));
        streams.push(stream);
        wanted.filter(|(from, to)| from + EXTENT_BYTES <= *to)
    }

    fn advance(&self, node: NodeId, from: u64, to: u64) {
        let mut streams = self.streams.lock();
        if let Some(stream) = streams
            .iter_mut()
            .rfind(|stream| stream.node == node && stream.ahead == from)
        {
            stream.ahead = to;
        }
    }
}

/// Tells of a read of a file; begins to fetch what it will need next if it goes on in order.
pub(crate) fn reading(core: &Arc<Core>, node: &Node, offset: u64, length: u64) {
    let size = node.attributes.size;
    let Some(address) = node.address.filter(|_| size > EXTENT_BYTES) else {
        return;
    };
    let Some((from, to)) = core.ahead.note(node.id, offset, length) else {
        return;
    };
    let mut done = from;
    let shared = Arc::new(*node);
    for extent in extents_of(address, size, from, to.min(size).saturating_sub(from)) {
        let Some(place) = core.ahead.place() else {
            break;
        };
        fill::fetch_ahead(core, &shared, extent, place);
        done = extent.file_offset + u64::from(extent.length);
    }
    core.ahead.advance(node.id, from, done);
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = EXTENT_BYTES;
    const FILE: NodeId = NodeId(7);

    #[test]
    fn a_stream_gets_more_ahead_the_longer_it_goes_on() {
        let ahead = ReadAhead::default();
        let (mut fetched, mut most) = (0, 0);
        for read in 0..64 {
            let offset = read * MIB / 2;
            let Some((from, to)) = ahead.note(FILE, offset, MIB / 2) else {
                continue;
            };
            assert!(from >= offset + MIB / 2, "nothing behind the reader");
            assert!(from >= fetched, "nothing twice");
            fetched = to;
            most = most.max(to - offset - MIB / 2);
            ahead.advance(FILE, from, to);
        }
        assert_eq!(most, MOST);
    }

    #[test]
    fn reads_in_any_order_get_nothing() {
        let ahead = ReadAhead::default();
        let mut wanted = 0;
        for read in 0..4096_u64 {
            // All pieces of 1 GiB, by a generator of full period: neighbours follow by chance.
            let offset = (read * 2837 + 1) % 4096 * (256 << 10);
            wanted += u64::from(ahead.note(FILE, offset, 256 << 10).is_some());
        }
        assert!(wanted < 40, "{wanted} of 4096");
    }

    #[test]
    fn many_readers_are_told_apart() {
        let ahead = ReadAhead::default();
        let mut streams = 0;
        for step in 0..8 {
            for reader in 0..STREAMS as u64 {
                let offset = reader * 1000 * MIB + step * MIB;
                streams += u64::from(ahead.note(FILE, offset, MIB).is_some());
            }
        }
        assert_eq!(streams, 7 * STREAMS as u64);
    }

    #[test]
    fn pieces_out_of_order_are_one_stream() {
        let ahead = ReadAhead::default();
        let mut wanted = 0;
        for block in 0..20 {
            for piece in [1, 0, 3, 2] {
                let offset = block * MIB + piece * MIB / 4;
                wanted += u64::from(ahead.note(FILE, offset, MIB / 4).is_some());
            }
        }
        assert!(wanted > 19, "{wanted}");
        assert_eq!(ahead.streams.lock().len(), 1);
    }
}
