//! What happened to a data set, for people: bounded, drained by the node.

use std::collections::VecDeque;
use std::time::SystemTime;

use parking_lot::Mutex;

/// Events kept while nobody drains them; the oldest go first.
const CAPACITY: usize = 4096;

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
    events: Mutex<VecDeque<Event>>,
}

impl EventLog {
    pub(crate) fn push(
        &self,
        dataset: &str,
        severity: Severity,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let mut events = self.events.lock();
        if events.len() == CAPACITY {
            events.pop_front();
        }
        events.push_back(Event {
            dataset: dataset.to_owned(),
            time: SystemTime::now(),
            severity,
            reason,
            message: message.into(),
        });
    }

    pub(crate) fn drain(&self) -> Vec<Event> {
        self.events.lock().drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first() {
        let log = EventLog::default();
        for number in 0..CAPACITY + 3 {
            log.push("d", Severity::Normal, "Counted", number.to_string());
        }
        let drained = log.drain();
        assert_eq!(
            (drained.len(), drained[0].message.as_str()),
            (CAPACITY, "3")
        );
        assert!(log.drain().is_empty());
    }
}
