//! Comparing everything behind an image with its checksums: once before it is mounted sealed, and
//! from time to time while it is, since then no reader's bytes come past the engine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use atlas_core::{Address, Extent, extents_of};
use atlas_fs::Node;
use atlas_store::Verified;
use parking_lot::Mutex;

use super::image::Image;
use crate::core::Core;
use crate::fill;
use crate::pace::Pace;

/// Between a pass that found damage and the next: a tier that loses bytes as fast as they come
/// must not keep the machine busy.
const AFTER_DAMAGE: Duration = Duration::from_secs(5);

/// How long damage that was found waits for the origin to be repaired.
const REPAIR_PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Verification {
    state: Mutex<State>,
    bytes: Arc<AtomicU64>,
    closed: Arc<AtomicBool>,
}

#[derive(Default)]
struct State {
    /// The pace of the pass under way.
    running: Option<Arc<Pace>>,
    /// How many extents had been lost when the last pass began that found everything sound: one
    /// more, and it says nothing any more.
    sound_at: Option<u64>,
    last_end: Option<Instant>,
    last_found_damage: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// What a read of the tier gives: good enough for bytes that this process wrote.
    Tier,
    /// What the medium holds.
    Medium,
}

impl Verification {
    pub(super) fn new(closed: Arc<AtomicBool>) -> Self {
        Self {
            state: Mutex::default(),
            bytes: Arc::default(),
            closed,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Why what is cached does not count as verified.
    pub(super) fn unverified(&self, core: &Core) -> Option<String> {
        let state = self.state.lock();
        if state.sound_at == Some(core.lost_extents()) {
            return None;
        }
        Some(if state.running.is_some() {
            format!(
                "being verified: {} of {} bytes",
                self.bytes(),
                core.namespace.totals().bytes
            )
        } else {
            "not verified yet".to_owned()
        })
    }

    /// What was found damaged since the last pass that found everything sound.
    pub(super) fn damage(&self, core: &Core) -> Option<String> {
        let lost = core.lost_extents();
        let known = self.state.lock().sound_at.unwrap_or(0);
        (lost > known).then(|| format!("{} extents were damaged", lost - known))
    }

    /// Starts the pass that is due, if any. Everything is cached.
    pub(super) fn tick(
        self: &Arc<Self>,
        core: &Arc<Core>,
        image: &Arc<Image>,
        scrub_period: Option<Duration>,
        scrub_rate: Option<u64>,
    ) {
        let mut state = self.state.lock();
        if state.running.is_some() {
            return;
        }
        let since_last = state.last_end.map(|end| end.elapsed());
        let sound = state.sound_at == Some(core.lost_extents());
        let (depth, rate) = if !sound {
            if state.last_found_damage && since_last.is_some_and(|since| since < AFTER_DAMAGE) {
                return;
            }
            (Depth::Tier, None)
        } else if let Some(period) = scrub_period
            && since_last.is_some_and(|since| since >= period)
        {
            (Depth::Medium, scrub_rate)
        } else {
            return;
        };
        let pace = Arc::new(Pace::new(rate));
        let (verification, core, image) = (Arc::clone(self), Arc::clone(core), Arc::clone(image));
        let pass_pace = Arc::clone(&pace);
        let started = thread::Builder::new()
            .name("atlas-verify".to_owned())
            .spawn(move || verification.pass(&core, &image, depth, &pass_pace));
        if started.is_ok() {
            state.running = Some(pace);
        }
    }

    fn pass(&self, core: &Arc<Core>, image: &Image, depth: Depth, pace: &Pace) {
        let lost_before = core.lost_extents();
        self.bytes.store(0, Ordering::Relaxed);
        let sound = self.compare_all(core, image, depth, pace);
        let mut state = self.state.lock();
        state.running = None;
        state.last_end = Some(Instant::now());
        state.last_found_damage = !sound;
        state.sound_at = sound.then_some(lost_before);
        drop(state);
        if sound && depth == Depth::Tier {
            self.put_together(core, image);
        }
    }

    /// Everything is there, and nothing more is filled: larger pages make reads cheaper.
    fn put_together(&self, core: &Core, image: &Image) {
        for slot in &image.slots {
            if self.closed.load(Ordering::Acquire) {
                break;
            }
            // Only a matter of speed.
            let _ = core.volume.collapse(slot.start);
        }
    }

    /// Whether every extent that the image refers to is there and sound. Damage is repaired on the
    /// way, and is a no all the same.
    fn compare_all(&self, core: &Arc<Core>, image: &Image, depth: Depth, pace: &Pace) -> bool {
        let mut sound = true;
        let mut live = vec![0; image.slots.len()];
        let all = (image.index).files_in(&core.namespace, Address(0), Address(u64::MAX));
        for node in all {
            let Ok(node) = node else { return false };
            let Some(address) = node.address else {
                continue;
            };
            let size = node.attributes.size;
            for extent in extents_of(address, size, 0, size) {
                pace.wait(extent.footprint());
                if self.closed.load(Ordering::Acquire) {
                    return false;
                }
                let checked = match depth {
                    Depth::Tier => core.volume.verify(&extent),
                    Depth::Medium => core.volume.scrub(&extent),
                };
                if matches!(checked, Ok(Verified::Absent)) {
                    // Given up by somebody who has counted it, or freed: not this pass's to repair.
                    sound = false;
                } else if matches!(checked, Ok(Verified::Sound)) {
                    let slot = (image.slots)
                        .partition_point(|slot| slot.start <= extent.address)
                        .checked_sub(1);
                    if let Some(count) = slot.and_then(|slot| live.get_mut(slot)) {
                        *count += 1;
                    }
                } else {
                    sound = false;
                    core.lost_cached(&node, &extent);
                    repair(core, node, &extent);
                }
                self.bytes
                    .fetch_add(u64::from(extent.length), Ordering::Relaxed);
            }
        }
        // What was lost behind this pass's back shows in the bits.
        sound
            && (image.slots.iter().zip(live)).all(|(slot, extents)| {
                matches!(core.volume.live_extents(slot.start), Ok(live) if live >= extents)
            })
    }

    pub(super) fn close(&self) {
        if let Some(pace) = &self.state.lock().running {
            pace.stop();
        }
    }
}

/// Fetches an extent again that was found damaged. One at a time: damage may be as large as the
/// tier.
fn repair(core: &Arc<Core>, node: Node, extent: &Extent) {
    let (sender, done) = mpsc::channel();
    let answer = move |outcome: atlas_core::Result<Vec<u8>>| {
        // Nobody waits any more where the origin has taken too long.
        let _ = sender.send(outcome.is_ok());
    };
    let (offset, length) = (extent.file_offset, extent.length as usize);
    fill::read(core, node, offset, length, Box::new(answer));
    // What cannot be fetched now stays absent: the data set is not complete then.
    let _ = done.recv_timeout(REPAIR_PATIENCE);
}
