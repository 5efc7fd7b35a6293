//! Requests that wait for their answer, and what an interrupt does to them.
//!
//! The kernel sends INTERRUPT when a signal reaches a reader whose request is already here, and
//! then lets even a killed reader wait for the answer. A read of a regular file must not fail
//! because of a signal that the reader handles; so only a reader that is dying is let go.

use std::collections::HashMap;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

const SHARDS: usize = 16;
/// Interrupts that came before their request was entered: one per session thread at most, plus
/// those of requests answered meanwhile, which nobody takes out.
const EARLY: usize = 64;
/// Bit of SIGKILL in the masks of `/proc/PID/status`. Any signal that ends a process without a core
/// dump becomes a SIGKILL to each of its threads.
const KILL_BIT: u64 = 1 << (libc::SIGKILL - 1);

#[derive(Default)]
pub(crate) struct Pending {
    shards: [Mutex<Shard>; SHARDS],
    /// Waiting requests with `interrupted` set, over all shards.
    interrupted: AtomicUsize,
}

#[derive(Default)]
struct Shard {
    waiting: HashMap<u64, Waiting>,
    early: Vec<u64>,
}

#[derive(Clone, Copy)]
struct Waiting {
    thread: u32,
    interrupted: bool,
}

impl Pending {
    fn shard(&self, unique: u64) -> &Mutex<Shard> {
        // The kernel counts uniques up in steps of two.
        &self.shards[(unique >> 1) as usize % SHARDS]
    }

    pub(crate) fn insert(&self, unique: u64, thread: u32) {
        let mut shard = self.shard(unique).lock();
        let mut interrupted = false;
        if !shard.early.is_empty() {
            let before = shard.early.len();
            shard.early.retain(|early| *early != unique);
            interrupted = shard.early.len() < before;
        }
        if interrupted {
            self.interrupted.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(former) = shard.waiting.insert(
            unique,
            Waiting {
                thread,
                interrupted,
            },
        ) && former.interrupted
        {
            self.interrupted.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Takes the request out; false if it was answered already.
    pub(crate) fn remove(&self, unique: u64) -> bool {
        let removed = self.shard(unique).lock().waiting.remove(&unique);
        if removed.is_some_and(|waiting| waiting.interrupted) {
            self.interrupted.fetch_sub(1, Ordering::Relaxed);
        }
        removed.is_some()
    }

    /// Notes that a signal reached the caller of this request.
    pub(crate) fn interrupt(&self, unique: u64) {
        let mut shard = self.shard(unique).lock();
        if let Some(waiting) = shard.waiting.get_mut(&unique) {
            if !waiting.interrupted {
                waiting.interrupted = true;
                self.interrupted.fetch_add(1, Ordering::Relaxed);
            }
        } else {
            // Another thread has read the request and is about to enter it, or it was answered.
            if shard.early.len() == EARLY {
                shard.early.remove(0);
            }
            shard.early.push(unique);
        }
    }

    /// Whether any waiting request was interrupted: its caller may be killed later, of which the
    /// kernel does not tell, so somebody has to look again.
    pub(crate) fn any_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed) > 0
    }

    /// The interrupted requests whose callers are dying.
    pub(crate) fn dying(&self) -> Vec<u64> {
        if !self.any_interrupted() {
            return Vec::new();
        }
        let mut interrupted = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            interrupted.extend(
                (shard.waiting.iter())
                    .filter(|(_, waiting)| waiting.interrupted)
                    .map(|(unique, waiting)| (*unique, waiting.thread)),
            );
        }
        interrupted.retain(|(_, thread)| is_dying(*thread));
        interrupted.into_iter().map(|(unique, _)| unique).collect()
    }
}

/// Whether a SIGKILL waits for this thread. A thread unknown here (0, or of another process
/// namespace) counts as alive: a spurious EINTR would be worse than a late end.
fn is_dying(thread: u32) -> bool {
    thread != 0
        && fs::read(format!("/proc/{thread}/status")).is_ok_and(|status| kill_waits(&status))
}

fn kill_waits(status: &[u8]) -> bool {
    status
        .split(|byte| *byte == b'\n')
        .filter_map(|line| {
            let mask = line
                .strip_prefix(b"SigPnd:")
                .or_else(|| line.strip_prefix(b"ShdPnd:"))?;
            u64::from_str_radix(str::from_utf8(mask).ok()?.trim(), 16).ok()
        })
        .any(|mask| mask & KILL_BIT != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pending_kill_is_seen_in_either_mask() {
        let status = |thread: &str, process: &str| {
            format!(
                "Name:\tcat\nSigPnd:\t{thread}\nShdPnd:\t{process}\nSigBlk:\tffffffffffffffff\n"
            )
        };
        assert!(kill_waits(
            status("0000000000000100", "0000000000000000").as_bytes()
        ));
        assert!(kill_waits(
            status("0000000000000000", "0000000000000100").as_bytes()
        ));
        assert!(!kill_waits(
            status("0000000000000002", "0000000000004000").as_bytes()
        ));
        assert!(!kill_waits(b""));
    }

    #[test]
    fn interrupts_are_counted_whatever_their_order() {
        let pending = Pending::default();
        pending.interrupt(8);
        assert!(!pending.any_interrupted());
        pending.insert(8, 0);
        assert!(pending.any_interrupted());
        assert!(pending.dying().is_empty(), "thread 0 is nobody");
        assert!(pending.remove(8));
        assert!(!pending.remove(8));
        assert!(!pending.any_interrupted());

        pending.insert(10, 0);
        pending.interrupt(10);
        pending.interrupt(10);
        pending.insert(10, 0);
        assert!(!pending.any_interrupted());
        assert!(pending.remove(10));

        (0..1000).for_each(|unique| pending.interrupt(unique * 32));
        assert_eq!(pending.shard(0).lock().early.len(), EARLY);
    }
}
