//! Threads that call an origin with its identity, and the order in which they do.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use atlas_core::{Identity, Result};
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::identity::{as_identity, assume};
use crate::origin::Origin;

/// A thread that had nothing to do for so long ends.
const IDLE: Duration = Duration::from_secs(10);

/// Why the origin is asked. Jobs start in this order, whatever else waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Somebody waits for it.
    Foreground,
    /// Somebody is known to want it soon.
    Prefetch,
    /// A warm-up.
    Load,
    /// The namespace.
    Scan,
}

const CLASSES: usize = 4;

/// For so long after the last foreground job readers count as active.
const FOREGROUND_ACTIVE: Duration = Duration::from_millis(200);

impl Class {
    const ORDER: [Self; CLASSES] = [Self::Foreground, Self::Prefetch, Self::Load, Self::Scan];
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReaderSettings {
    /// The most threads at a time, at least 2. Foreground jobs may use all of them; the other
    /// classes together leave a quarter, at least one, free, so that a foreground job starts at
    /// once while they are busy, and seven eighths while foreground jobs keep coming.
    pub threads: usize,
}

impl Default for ReaderSettings {
    /// 16 threads: what hides a latency of 2 ms behind 3,000 requests a second, with a margin.
    fn default() -> Self {
        Self { threads: 16 }
    }
}

type Job = Box<dyn FnOnce(&dyn Origin) + Send>;

/// A pool of threads of one identity. They start when there is work and end when there is none.
///
/// A job that is dropped without having run was queued when the pool was closed, or could not be
/// given a thread: whoever waits for its effect must notice the drop.
pub struct Readers {
    shared: Arc<Shared>,
}

struct Shared {
    identity: Identity,
    origin: Arc<dyn Origin>,
    threads: usize,
    state: Mutex<State>,
    woken: Condvar,
}

#[derive(Default)]
struct State {
    queues: [VecDeque<Job>; CLASSES],
    /// Threads that exist, and how many of them wait for work.
    threads: usize,
    idle: usize,
    /// Idle threads that were told to look for work and have not yet.
    calls: usize,
    /// Jobs under way that are not foreground.
    background: usize,
    /// When the last foreground job was submitted.
    last_foreground: Option<Instant>,
    /// Whether an idle thread waits for the moment when background jobs may use more threads.
    watching: bool,
    closed: bool,
}

impl Readers {
    /// # Errors
    /// `Denied` when this process may not act for `identity`.
    pub fn start(
        identity: &Identity,
        origin: Arc<dyn Origin>,
        settings: ReaderSettings,
    ) -> Result<Self> {
        as_identity(identity, || ())?;
        let shared = Shared {
            identity: identity.clone(),
            origin,
            threads: settings.threads.max(2),
            state: Mutex::default(),
            woken: Condvar::new(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Queues a job. Never waits.
    pub fn submit(&self, class: Class, job: impl FnOnce(&dyn Origin) + Send + 'static) {
        let shared = &self.shared;
        let mut state = shared.state.lock();
        if state.closed {
            drop(state);
            return;
        }
        state.queues[class as usize].push_back(Box::new(job));
        if class == Class::Foreground {
            state.last_foreground = Some(Instant::now());
        }
        // Where it may not start yet, the end of a job makes its thread look at the queues.
        if shared.may_start(&state, class) || shared.needs_watch(&state) {
            shared.call_thread(state);
        }
    }

    /// Jobs that wait for a thread, by class.
    pub fn queued(&self, class: Class) -> usize {
        self.shared.state.lock().queues[class as usize].len()
    }

    /// Drops what is queued and what will be submitted, and lets the threads end after the jobs
    /// that they are at. Waits for nothing: a job may hang for as long as its origin does.
    pub fn close(&self) {
        let mut state = self.shared.state.lock();
        state.closed = true;
        let queues = std::mem::take(&mut state.queues);
        self.shared.woken.notify_all();
        drop(state);
        // Dropping a job may answer somebody who calls back: never under the lock.
        drop(queues);
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Readers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Readers")
            .field("identity", &self.shared.identity)
            .finish()
    }
}

impl Shared {
    /// Threads that the classes after foreground may use at a time: fewer while readers wait, since
    /// an origin with a limit makes a reader's request queue behind all that were sent before it.
    fn background_threads(&self, state: &State) -> usize {
        let active = |last: Instant| last.elapsed() < FOREGROUND_ACTIVE;
        if state.last_foreground.is_some_and(active) {
            (self.threads / 8).max(1)
        } else {
            self.most_background_threads()
        }
    }

    fn most_background_threads(&self) -> usize {
        self.threads - (self.threads / 4).max(1)
    }

    fn may_start(&self, state: &State, class: Class) -> bool {
        class == Class::Foreground || state.background < self.background_threads(state)
    }

    /// Makes one more thread look for work, if there may be one more.
    fn call_thread(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if state.idle > state.calls {
            state.calls += 1;
            self.woken.notify_one();
        } else if state.threads < self.threads {
            state.threads += 1;
            drop(state);
            let shared = Arc::clone(self);
            let thread = thread::Builder::new().name("atlas-reader".into());
            if thread.spawn(move || shared.run()).is_err() {
                self.thread_lost();
            }
        }
    }

    fn run(self: Arc<Self>) {
        if assume(&self.identity).is_err() {
            self.thread_lost();
            return;
        }
        let _counted = CountedThread(&self);
        while let Some((class, job)) = self.next_job() {
            let _counted = (class != Class::Foreground).then(|| CountedJob(&self));
            job(self.origin.as_ref());
        }
    }

    /// Waits for a job that may start now. `None`: this thread is counted out and is to end.
    fn next_job(self: &Arc<Self>) -> Option<(Class, Job)> {
        let mut state = self.state.lock();
        let mut waited_enough = false;
        loop {
            if let Some(class) = self.next_class(&state)
                && let Some(job) = state.queues[class as usize].pop_front()
            {
                if class != Class::Foreground {
                    state.background += 1;
                }
                // Whatever kept other jobs from starting may have passed, and nobody else looks.
                if self.next_class(&state).is_some() || self.needs_watch(&state) {
                    self.call_thread(state);
                }
                return Some((class, job));
            }
            // Under the same lock as the look at the queues: whoever submits next must see that
            // this thread will not take the job.
            if state.closed || waited_enough {
                state.threads -= 1;
                return None;
            }
            state.idle += 1;
            let mut look_again = false;
            while state.calls == 0 && !state.closed && !waited_enough && !look_again {
                let watches = self.needs_watch(&state);
                state.watching |= watches;
                let patience = if watches { FOREGROUND_ACTIVE } else { IDLE };
                let timed_out = self.woken.wait_for(&mut state, patience).timed_out();
                if watches {
                    state.watching = false;
                }
                look_again = timed_out && watches;
                waited_enough = timed_out && !watches;
            }
            state.idle -= 1;
            if state.calls > 0 {
                // A call is for whoever takes it first; the thread that it woke sleeps again.
                state.calls -= 1;
                waited_enough = false;
            }
        }
    }

    /// The class whose first job may start now.
    fn next_class(&self, state: &State) -> Option<Class> {
        Class::ORDER
            .into_iter()
            .find(|&class| !state.queues[class as usize].is_empty() && self.may_start(state, class))
    }

    /// Whether jobs wait only because they step back for readers, and nobody looks for the moment
    /// when no more readers come: one idle thread has to.
    fn needs_watch(&self, state: &State) -> bool {
        !state.watching
            && state.background < self.most_background_threads()
            && Class::ORDER
                .into_iter()
                .any(|class| !state.queues[class as usize].is_empty())
            && self.next_class(state).is_none()
    }

    /// Other threads take the queued jobs in time; without any, nobody would, so they are dropped.
    fn thread_lost(&self) {
        let mut state = self.state.lock();
        state.threads -= 1;
        let dropped = (state.threads == 0).then(|| std::mem::take(&mut state.queues));
        drop(state);
        drop(dropped);
    }
}

/// Counts a thread out that a job's panic ends.
struct CountedThread<'a>(&'a Shared);

impl Drop for CountedThread<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.state.lock().threads -= 1;
        }
    }
}

/// Counts a background job out, also when it panics.
struct CountedJob<'a>(&'a Shared);

impl Drop for CountedJob<'_> {
    fn drop(&mut self) {
        self.0.state.lock().background -= 1;
    }
}
