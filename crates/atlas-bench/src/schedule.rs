//! When a request of the slow origin is done: a latency each, and two budgets shared by all.

use std::cell::Cell;
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::thread::{clock_nanosleep_absolute, set_current_timer_slack};
use rustix::time::{ClockId, Timespec, clock_gettime};

const SECOND: u64 = 1_000_000_000;

/// How much of an unused budget may be made up for, as time: small, so that a reader who pauses
/// gains nothing worth measuring, and large enough for a single small request to cost only its
/// latency.
const BURST_NANOSECONDS: u64 = 1_000_000;

/// How slow an origin is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Added to each metadata call and each read.
    pub latency: Duration,
    /// Shared by all readers; 0 is unlimited.
    pub bytes_per_second: u64,
    /// Metadata calls, shared by all readers; 0 is unlimited.
    pub operations_per_second: u64,
}

impl Default for Limits {
    /// A busy Lustre as one node of a capped, shared cluster sees it: 2 ms a call, 200 MB/s, 3,000
    /// metadata operations/s.
    ///
    /// The sources give effects, not these three numbers (`reference/fluid.md`, sections 3 and 4):
    /// bandwidth caps per node and operation caps per user against floods of small WAV and JPG
    /// files, accelerators at 40 % behind them, random reads of small files at 20-22 MB/s. One
    /// reader of 110 KiB files gets 14 MB/s from these defaults (look up, open, stat, read: four
    /// calls), and two readers 28, so they bracket what was measured.
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(2),
            bytes_per_second: 200_000_000,
            operations_per_second: 3_000,
        }
    }
}

/// A budget handed out in the order of asking. It keeps no tokens, only the time up to which all
/// of it is given away.
struct Budget {
    per_second: u64,
    given_until: Mutex<u64>,
}

impl Budget {
    const fn new(per_second: u64) -> Self {
        Self {
            per_second,
            given_until: Mutex::new(0),
        }
    }

    /// Takes `amount` at the time `now`; returns when it has arrived.
    fn take(&self, now: u64, amount: u64) -> u64 {
        if self.per_second == 0 {
            return now;
        }
        let cost = u128::from(amount) * u128::from(SECOND) / u128::from(self.per_second);
        let mut given_until = self.given_until.lock();
        let start = (*given_until).max(now.saturating_sub(BURST_NANOSECONDS));
        *given_until = start.saturating_add(u64::try_from(cost).unwrap_or(u64::MAX));
        (*given_until).max(now)
    }
}

pub(crate) struct Schedule {
    latency: u64,
    operations: Budget,
    bytes: Budget,
}

/// A moment of the monotonic clock, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

impl Moment {
    pub(crate) fn now() -> Self {
        let now = clock_gettime(ClockId::Monotonic);
        Self(now.tv_sec as u64 * SECOND + now.tv_nsec as u64)
    }

    /// Sleeps until then; returns at once if it has passed. A machine wakes a sleeper late by
    /// about as much each time (on virtual machines 50 us and more), so this asks to be woken that
    /// much earlier.
    pub(crate) fn wait(self) {
        thread_local! { static EXACT: Cell<bool> = const { Cell::new(false) }; }
        if !EXACT.replace(true) {
            // The kernel's default delays every wake-up by up to 50 us; refused, it stays so.
            let _ = set_current_timer_slack(NonZero::new(1));
        }
        let alarm = self.0.saturating_sub(LATENESS.load(Ordering::Relaxed));
        if Self::now().0 >= alarm {
            return;
        }
        let until = Timespec {
            tv_sec: (alarm / SECOND) as i64,
            tv_nsec: (alarm % SECOND) as i64,
        };
        while clock_nanosleep_absolute(ClockId::Monotonic, &until) == Err(rustix::io::Errno::INTR) {
        }
        // One step up or down each time leads to the median, which outliers do not move.
        let step = |lateness: u64| {
            let stepped = if Self::now().0 > self.0 {
                lateness + LATENESS_STEP
            } else {
                lateness.saturating_sub(LATENESS_STEP)
            };
            Some(stepped.min(MOST_LATENESS))
        };
        let _ = LATENESS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step);
    }
}

/// How late this machine wakes sleepers at present, in nanoseconds.
static LATENESS: AtomicU64 = AtomicU64::new(50_000);
const LATENESS_STEP: u64 = 2_000;
const MOST_LATENESS: u64 = 400_000;

impl Schedule {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            latency: u64::try_from(limits.latency.as_nanos()).unwrap_or(u64::MAX),
            operations: Budget::new(limits.operations_per_second),
            bytes: Budget::new(limits.bytes_per_second),
        }
    }

    /// When a metadata call that came at `arrival` is done.
    pub(crate) fn operation(&self, arrival: Moment) -> Moment {
        Moment(
            self.operations
                .take(arrival.0, 1)
                .saturating_add(self.latency),
        )
    }

    /// When a read of so many bytes that came at `arrival` is done.
    pub(crate) fn transfer(&self, arrival: Moment, bytes: u64) -> Moment {
        Moment(
            self.bytes
                .take(arrival.0, bytes)
                .saturating_add(self.latency),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: u64 = 1_000_000;

    fn schedule() -> Schedule {
        Schedule::new(&Limits::default())
    }

    #[test]
    fn a_lonely_request_costs_its_latency() {
        let schedule = schedule();
        let arrival = Moment(SECOND);
        assert_eq!(
            schedule.operation(arrival),
            Moment(SECOND + 2 * MILLISECOND)
        );
        assert_eq!(
            schedule.transfer(arrival, 100_000),
            Moment(SECOND + 2 * MILLISECOND)
        );
    }

    #[test]
    fn a_crowd_gets_the_rate_whatever_the_pauses() {
        let schedule = schedule();
        let last = (0..30_000)
            .map(|_| schedule.operation(Moment(SECOND)))
            .last()
            .unwrap();
        let seconds = (last.0 - SECOND) as f64 / SECOND as f64;
        assert!((seconds - 10.0).abs() < 0.01, "{seconds}");
        // A minute of silence is not saved up.
        let later = Moment(100 * SECOND);
        let last = (0..3_000)
            .map(|_| schedule.operation(later))
            .last()
            .unwrap();
        assert!(last.0 - later.0 > 999 * MILLISECOND);
        let last = (0..400)
            .map(|_| schedule.transfer(later, 1_000_000))
            .last()
            .unwrap();
        assert!((last.0 - later.0).abs_diff(2 * SECOND) < 3 * MILLISECOND);
    }

    #[test]
    fn zero_is_unlimited() {
        let schedule = Schedule::new(&Limits {
            latency: Duration::ZERO,
            bytes_per_second: 0,
            operations_per_second: 0,
        });
        assert_eq!(schedule.transfer(Moment(7), u64::MAX), Moment(7));
        assert_eq!(schedule.operation(Moment(7)), Moment(7));
    }

    #[test]
    fn waiting_lasts() {
        let until = Moment(Moment::now().0 + 3 * MILLISECOND);
        until.wait();
        assert!(Moment::now().0 >= until.0 - MOST_LATENESS);
        Moment(0).wait();
    }
}
