//! An origin that may be missing when the data set is opened: what is cached is served meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use atlas_core::{Error, ErrorKind, Result, VersionTag};
use atlas_origin::{Counters, Entry, Listed, Origin, ReadRequest};
use parking_lot::Mutex;

/// Between two attempts to open an origin that is missing.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

type Open = Box<dyn Fn() -> Result<Arc<dyn Origin>> + Send + Sync>;

pub(crate) struct LateOrigin {
    open: Open,
    state: Mutex<State>,
}

enum State {
    Open(Arc<dyn Origin>),
    Missing { error: Error, tried: Instant },
}

impl LateOrigin {
    /// Calls `open` now, and again when the origin is needed and was missing.
    pub(crate) fn new(open: Open) -> Self {
        let state = attempt(&open);
        Self {
            open,
            state: Mutex::new(state),
        }
    }

    fn get(&self) -> Result<Arc<dyn Origin>> {
        let mut state = self.state.lock();
        if let State::Missing { tried, .. } = &*state
            && tried.elapsed() >= RETRY_INTERVAL
        {
            *state = attempt(&self.open);
        }
        match &*state {
            State::Open(origin) => Ok(Arc::clone(origin)),
            State::Missing { error, .. } => Err(error.clone()),
        }
    }
}

fn attempt(open: &Open) -> State {
    match open() {
        Ok(origin) => State::Open(origin),
        // Whatever keeps the root from being opened says nothing about any entry below it.
        Err(error) => State::Missing {
            error: Error {
                kind: ErrorKind::OriginGone,
                ..error
            },
            tried: Instant::now(),
        },
    }
}

impl Origin for LateOrigin {
    fn list(&self, folder: &[u8]) -> Result<Vec<Listed>> {
        self.get()?.list(folder)
    }

    fn stat_many(&self, folder: &[u8], names: &[&[u8]]) -> Result<Vec<Result<Entry>>> {
        self.get()?.stat_many(folder, names)
    }

    fn stat(&self, path: &[u8]) -> Result<Entry> {
        self.get()?.stat(path)
    }

    fn read(&self, path: &[u8], tag: &VersionTag, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.get()?.read(path, tag, offset, buffer)
    }

    fn read_many(
        &self,
        folder: &[u8],
        requests: &mut [ReadRequest<'_>],
    ) -> Result<Vec<Result<()>>> {
        self.get()?.read_many(folder, requests)
    }

    fn acl(&self, path: &[u8], default: bool) -> Result<Option<Vec<u8>>> {
        self.get()?.acl(path, default)
    }

    fn counters(&self) -> Counters {
        match &*self.state.lock() {
            State::Open(origin) => origin.counters(),
            State::Missing { .. } => Counters::default(),
        }
    }
}
