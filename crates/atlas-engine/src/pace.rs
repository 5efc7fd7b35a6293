//! A limit on the rate of a load.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// Hands out bytes at no more than a given rate, or at once when there is no limit.
pub(crate) struct Pace {
    bytes_per_second: Option<u64>,
    state: Mutex<State>,
    stopped: Condvar,
}

struct State {
    /// When everything handed out so far is paid for.
    paid_until: Instant,
    stopped: bool,
}

impl Pace {
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Self {
        Self {
            bytes_per_second,
            state: Mutex::new(State {
                paid_until: Instant::now(),
                stopped: false,
            }),
            stopped: Condvar::new(),
        }
    }

    /// Wait until `bytes` may be fetched, or the pace is stopped.
    pub(crate) fn wait(&self, bytes: u64) {
        let Some(rate) = self.bytes_per_second else {
            return;
        };
        let mut state = self.state.lock();
        let start = state.paid_until.max(Instant::now());
        state.paid_until = start + Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        while !state.stopped && Instant::now() < start {
            self.stopped.wait_until(&mut state, start);
        }
    }

    /// Let everybody go.
    pub(crate) fn stop(&self) {
        self.state.lock().stopped = true;
        self.stopped.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_the_rate_and_lets_go_when_stopped() {
        let pace = Pace::new(Some(1 << 20));
        let began = Instant::now();
        for _ in 0..3 {
            pace.wait(50 << 10);
        }
        assert!(
            began.elapsed() >= Duration::from_millis(95),
            "two of three had to be waited for"
        );
        pace.wait(1 << 30);
        pace.stop();
        pace.wait(1 << 30);
        assert!(began.elapsed() < Duration::from_secs(60));
        Pace::new(None).wait(u64::MAX);
    }
}
