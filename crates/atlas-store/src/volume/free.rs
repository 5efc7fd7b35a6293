//! Giving back all that a segment holds, for whoever wants the space and not the bytes.

use atlas_core::{Address, Error, Result};

use super::Volume;
use crate::files;

/// The extents that a call gave up: words of the bitmap, in order, none of them zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleared {
    words: Vec<(u64, u64)>,
    /// Bytes that the tier has got back.
    pub freed_bytes: u64,
    /// Why it has not got all of them: they are forgotten all the same.
    pub failure: Option<Error>,
}

impl Cleared {
    /// Whether the extent that begins at `address` was there and is no more.
    pub fn contains(&self, address: Address) -> bool {
        let (index, bit) = crate::bitmap::bit_of(address);
        self.words
            .binary_search_by_key(&index, |word| word.0)
            .ok()
            .and_then(|place| self.words.get(place))
            .is_some_and(|(_, bits)| bits & bit != 0)
    }

    /// Adds what was given up at higher addresses.
    pub fn append(&mut self, higher: Self) {
        self.words.extend(higher.words);
        self.freed_bytes += higher.freed_bytes;
        self.failure = self.failure.take().or(higher.failure);
    }
}

impl Volume {
    /// Forgets every extent of the segment that begins at `start`, and gives its space back. Its
    /// addresses stay: what is filled again lies where it lay. In the order of `clear`: bits,
    /// checksums, the hole, so that a reader under way finds the old bytes or knows that there are
    /// none.
    ///
    /// # Errors
    /// `Conflict` while the segment is leased, `NotFound` where none begins: everything stays then.
    pub fn clear_segment(&self, start: Address) -> Result<Cleared> {
        let shared = &self.shared;
        let segment = self.segment_at(start)?;
        let mut writer = segment.writer.lock();
        if writer.leases > 0 {
            return Err(super::lease::leased("clear a segment"));
        }
        let before = writer.allocated_bytes;
        let first = segment.first_word();
        let words: Vec<_> = (first..first + segment.words() as u64)
            .filter_map(|index| {
                let bits = shared.known(segment, index);
                (bits != 0).then_some((index, bits))
            })
            .collect();
        for (index, bits) in &words {
            shared.forget(segment, *index, *bits);
        }
        let withdrawn = shared.checksums.withdraw(segment.start, segment.length);
        let punched = segment
            .file()
            .map_or(Ok(()), |file| files::punch(file, 0, segment.length));
        let measured = shared.measure(segment, &mut writer);
        let failure = withdrawn.and(punched).and(measured).err();
        match &failure {
            Some(error) => shared.health.failed(error),
            None => shared.health.try_soon(),
        }
        Ok(Cleared {
            words,
            freed_bytes: before.saturating_sub(writer.allocated_bytes),
            failure,
        })
    }
}
