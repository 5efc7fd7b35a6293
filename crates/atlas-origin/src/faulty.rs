//! An origin that fails on purpose.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use atlas_core::{Error, Result, VersionTag};
use parking_lot::{Condvar, Mutex};

use crate::origin::{Counters, Entry, Listed, Origin, ReadRequest, stale};

/// What is asked of an origin. Each name of `stat_many` and each request of `read_many` counts
/// by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    List,
    Stat,
    Read,
}

/// What happens to a request.
#[derive(Clone, Debug)]
pub enum Effect {
    /// It fails with this errno, and the origin is not asked.
    Fail(i32),
    /// A read finds the file cut off in its middle: half of the buffer is filled, the error is
    /// `Stale`. A listing loses its second half. No effect elsewhere.
    Short,
    /// The file changes: a read is `Stale` although its buffer was filled, attributes come with
    /// another time of change. No effect elsewhere.
    ChangedTag,
    /// It is answered so much later.
    Delay(Duration),
    /// It is not answered before the gate is opened.
    Hold(Arc<Gate>),
}

/// One rule of a [`FaultyOrigin`].
#[derive(Clone, Debug)]
pub struct Fault {
    /// Which requests are counted; `None`: all.
    pub operation: Option<Operation>,
    /// The count, from 1, of the request that is hit.
    pub at: u64,
    /// Every `at`-th request is hit, not only the first.
    pub repeat: bool,
    pub effect: Effect,
}

/// Wraps an origin and makes chosen requests fail. Of several faults that hit the same request
/// all delays and holds apply, then the first other effect.
pub struct FaultyOrigin {
    inner: Arc<dyn Origin>,
    rules: Mutex<Vec<Arc<Rule>>>,
    injected: AtomicU64,
}

struct Rule {
    fault: Fault,
    seen: AtomicU64,
}

impl FaultyOrigin {
    pub fn new(inner: Arc<dyn Origin>, faults: impl IntoIterator<Item = Fault>) -> Self {
        let origin = Self {
            inner,
            rules: Mutex::default(),
            injected: AtomicU64::new(0),
        };
        faults.into_iter().for_each(|fault| origin.add(fault));
        origin
    }

    /// One more fault; its count starts now.
    pub fn add(&self, fault: Fault) {
        self.rules.lock().push(Arc::new(Rule {
            fault,
            seen: AtomicU64::new(0),
        }));
    }

    /// From now on requests are answered by the wrapped origin alone.
    pub fn heal(&self) {
        self.rules.lock().clear();
    }

    /// Requests that were hit: a test that injected nothing has shown nothing.
    pub fn injected(&self) -> u64 {
        self.injected.load(Ordering::Relaxed)
    }

    /// Waits as the rules say; gives what else is to happen.
    fn meet(&self, operation: Operation) -> Option<Effect> {
        let rules = self.rules.lock().clone();
        let mut effect = None;
        for rule in rules {
            if !rule.hits(operation) {
                continue;
            }
            self.injected.fetch_add(1, Ordering::Relaxed);
            match &rule.fault.effect {
                Effect::Delay(time) => thread::sleep(*time),
                Effect::Hold(gate) => gate.pass(),
                other => effect = effect.or_else(|| Some(other.clone())),
            }
        }
        effect
    }

    fn stat_one(
        &self,
        name: &[u8],
        ask: impl FnOnce(&dyn Origin) -> Result<Entry>,
    ) -> Result<Entry> {
        let effect = self.meet(Operation::Stat);
        if let Some(Effect::Fail(errno)) = effect {
            return Err(injected(errno, name));
        }
        let mut entry = ask(self.inner.as_ref())?;
        if matches!(effect, Some(Effect::ChangedTag)) {
            entry.attributes.changed.seconds += 1;
        }
        Ok(entry)
    }

    /// `ask` fills the buffer it is given.
    fn read_one(
        &self,
        name: &[u8],
        buffer: &mut [u8],
        ask: impl FnOnce(&dyn Origin, &mut [u8]) -> Result<()>,
    ) -> Result<()> {
        match self.meet(Operation::Read) {
            Some(Effect::Fail(errno)) => Err(injected(errno, name)),
            Some(Effect::Short) => {
                let half = buffer.len() / 2;
                ask(self.inner.as_ref(), &mut buffer[..half])?;
                Err(stale(name, "the file has become shorter"))
            }
            Some(Effect::ChangedTag) => {
                ask(self.inner.as_ref(), buffer)?;
                Err(stale(name, "the file has changed"))
            }
            _ => ask(self.inner.as_ref(), buffer),
        }
    }
}

impl Origin for FaultyOrigin {
    fn list(&self, folder: &[u8]) -> Result<Vec<Listed>> {
        let effect = self.meet(Operation::List);
        if let Some(Effect::Fail(errno)) = effect {
            return Err(injected(errno, folder));
        }
        let mut names = self.inner.list(folder)?;
        if matches!(effect, Some(Effect::Short)) {
            names.truncate(names.len() / 2);
        }
        Ok(names)
    }

    fn stat_many(&self, folder: &[u8], names: &[&[u8]]) -> Result<Vec<Result<Entry>>> {
        // One by one below: a folder that cannot be opened is the error of the whole call.
        self.inner.stat_many(folder, &[])?;
        let one =
            |name: &&[u8]| self.stat_one(name, |origin| only(origin.stat_many(folder, &[name])));
        Ok(names.iter().map(one).collect())
    }

    fn stat(&self, path: &[u8]) -> Result<Entry> {
        self.stat_one(path, |origin| origin.stat(path))
    }

    fn read(&self, path: &[u8], tag: &VersionTag, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.read_one(path, buffer, |origin, buffer| {
            origin.read(path, tag, offset, buffer)
        })
    }

    fn read_many(
        &self,
        folder: &[u8],
        requests: &mut [ReadRequest<'_>],
    ) -> Result<Vec<Result<()>>> {
        self.inner.read_many(folder, &mut [])?;
        let one = |request: &mut ReadRequest<'_>| {
            let (name, tag) = (request.name, request.tag);
            self.read_one(name, request.buffer, |origin, buffer| {
                only(origin.read_many(folder, &mut [ReadRequest { name, tag, buffer }]))
            })
        };
        Ok(requests.iter_mut().map(one).collect())
    }

    fn counters(&self) -> Counters {
        self.inner.counters()
    }
}

impl Rule {
    fn hits(&self, operation: Operation) -> bool {
        if self
            .fault
            .operation
            .is_some_and(|counted| counted != operation)
        {
            return false;
        }
        let count = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        let at = self.fault.at.max(1);
        if self.fault.repeat {
            count.is_multiple_of(at)
        } else {
            count == at
        }
    }
}

fn injected(errno: i32, name: &[u8]) -> Error {
    let name = atlas_core::printable(name);
    Error::from_errno(errno, format_args!("injected fault at {name}"))
}

/// The answer to the only question of a list.
fn only<T>(answers: Result<Vec<Result<T>>>) -> Result<T> {
    answers?
        .pop()
        .unwrap_or_else(|| Err(injected(libc::EIO, b"an unanswered request")))
}

/// Keeps requests waiting until a test lets them go.
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    open: bool,
    arrived: usize,
}

impl Gate {
    /// Lets everybody through, now and later.
    pub fn open(&self) {
        self.state.lock().open = true;
        self.changed.notify_all();
    }

    /// Waits until `count` requests have arrived since the gate was made; false after `patience`.
    pub fn wait_for(&self, count: usize, patience: Duration) -> bool {
        let mut state = self.state.lock();
        let waiting = |state: &mut GateState| state.arrived < count;
        !self
            .changed
            .wait_while_for(&mut state, waiting, patience)
            .timed_out()
    }

    fn pass(&self) {
        let mut state = self.state.lock();
        state.arrived += 1;
        self.changed.notify_all();
        self.changed.wait_while(&mut state, |state| !state.open);
    }
}
