//! What happened to a data set, for people: bounded, drained by the node.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;

/// Events kept while nobody drains them; the oldest go first.
const CAPACITY: usize = 4096;

/// Events of one reason that are told of one data set within the interval.
const BURST: u32 = 20;
const BURST_INTERVAL: Duration = Duration::from_secs(60);

/// Whether somebody should look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Normal,
    Warning,
}

/// One thing that happened to one data set.
#[derive(Clone, Debug)]
pub struct Event {
    pub dataset: String,
    pub time: SystemTime,
    pub severity: Severity,
    /// A CamelCase word for machines.
    pub reason: &'static str,
    /// A sentence for people, printable.
    pub message: String,
}

/// The events since they were last drained.
#[derive(Default)]
pub(crate) struct EventLog {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    events: VecDeque<Event>,
    /// By data set and reason: what is told lately.
    bursts: HashMap<(String, &'static str), Burst>,
}

/// Events of one kind within one interval.
struct Burst {
    began: Instant,
    told: u32,
    untold: u64,
}

impl EventLog {
    /// Of one reason, only so many events of a data set are told in a while: an origin that fails
    /// fails for each of a million files.
    pub(crate) fn push(
        &self,
        dataset: &str,
        severity: Severity,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let mut message = message.into();
        let mut state = self.state.lock();
        let key = (dataset.to_owned(), reason);
        let burst = state.bursts.entry(key).or_insert_with(Burst::new);
        if burst.began.elapsed() >= BURST_INTERVAL {
            if burst.untold > 0 {
                let _ = write!(message, " ({} more like this before)", burst.untold);
            }
            *burst = Burst::new();
        }
        if burst.told == BURST {
            burst.untold += 1;
            return;
        }
        burst.told += 1;
        if state.events.len() == CAPACITY {
            state.events.pop_front();
        }
        state.events.push_back(Event {
            dataset: dataset.to_owned(),
            time: SystemTime::now(),
            severity,
            reason,
            message,
        });
    }

    pub(crate) fn drain(&self) -> Vec<Event> {
        self.state.lock().events.drain(..).collect()
    }

    /// Remember nothing of a data set that is gone.
    pub(crate) fn forget(&self, dataset: &str) {
        self.state.lock().bursts.retain(|(id, _), _| id != dataset);
    }
}

impl Burst {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            told: 0,
            untold: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first() {
        let log = EventLog::default();
        for number in 0..CAPACITY + 3 {
            let dataset = format!("d{}", number % 1000);
            log.push(&dataset, Severity::Normal, "Counted", number.to_string());
        }
        let drained = log.drain();
        assert_eq!(
            (drained.len(), drained[0].message.as_str()),
            (CAPACITY, "3")
        );
        assert!(log.drain().is_empty());
    }

    #[test]
    fn a_flood_of_one_kind_leaves_room_for_others() {
        let log = EventLog::default();
        let push = |reason| log.push("d", Severity::Warning, reason, "text");
        (0..1_000_000).for_each(|_| push("OriginError"));
        push("TierDegraded");
        let drained = log.drain();
        assert_eq!(drained.len(), BURST as usize + 1);
        assert_eq!(drained[BURST as usize].reason, "TierDegraded");
        log.forget("d");
        push("OriginError");
        assert_eq!(log.drain().len(), 1);
    }
}
