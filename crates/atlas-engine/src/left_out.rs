//! Extended attributes that are not shown because one entry has too many of them.

use atlas_core::printable;
use atlas_origin::Entry;
use parking_lot::Mutex;

use crate::core::Core;

#[derive(Default)]
pub(crate) struct LeftOut(Mutex<State>);

#[derive(Default)]
struct State {
    attributes: u64,
    entries: u64,
    /// Path of the first such entry.
    first: Vec<u8>,
    told: u64,
}

impl LeftOut {
    pub(crate) fn count(&self, entry: &Entry, path: impl FnOnce() -> Vec<u8>) {
        if entry.left_out == 0 {
            return;
        }
        let mut state = self.0.lock();
        if state.entries == 0 {
            state.first = path();
        }
        state.entries += 1;
        state.attributes += u64::from(entry.left_out);
    }

    /// Tells of what was counted since the last time.
    pub(crate) fn tell(&self, core: &Core) {
        let mut state = self.0.lock();
        if state.told == state.entries {
            return;
        }
        state.told = state.entries;
        let text = format!(
            "{} extended attributes of {} entries are not shown: 64 KiB and 255 of them are kept \
             of an entry, the first with more is {}",
            state.attributes,
            state.entries,
            printable(&state.first)
        );
        drop(state);
        core.warn("AttributesLeftOut", text);
    }
}
