//! An origin that may be missing when the data set is opened: what is cached is served meanwhile.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use atlas_core::{Error, ErrorKind, Result, VersionTag};
use atlas_origin::{Counters, Entry, Listed, Origin, ReadRequest};
use parking_lot::{Condvar, Mutex};

use crate::core::closing;

/// Between two attempts to open an origin that is missing.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How long the data set is held up for an origin that does not answer.
const PATIENCE: Duration = Duration::from_secs(1);

type Open = Box<dyn Fn() -> Result<Arc<dyn Origin>> + Send>;

pub(crate) struct LateOrigin {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

enum State {
    Open(Arc<dyn Origin>),
    Missing(Error),
    /// Nobody needs it any more.
    Dropped,
}

impl LateOrigin {
    /// Calls `open` until it succeeds, on a thread of its own: that has the rights of the caller,
    /// and an origin that hangs holds up nobody who needs nothing from it.
    ///
    /// # Errors
    /// No thread could be started.
    pub(crate) fn new(open: Open) -> Result<Self> {
        let silent = Error::new(
            ErrorKind::OriginGone,
            libc::EIO,
            "open the origin: no answer",
        );
        let shared = Arc::new(Shared {
            state: Mutex::new(State::Missing(silent)),
            changed: Condvar::new(),
        });
        let thread_shared = Arc::clone(&shared);
        let mut state = shared.state.lock();
        thread::Builder::new()
            .name("atlas-origin".to_owned())
            .spawn(move || thread_shared.keep_trying(&open))
            .map_err(|error| Error::from_io(&error, "start opening the origin"))?;
        // The first attempt wakes this, whatever it found.
        let _ = shared.changed.wait_for(&mut state, PATIENCE);
        drop(state);
        Ok(Self { shared })
    }

    fn get(&self) -> Result<Arc<dyn Origin>> {
        match &*self.shared.state.lock() {
            State::Open(origin) => Ok(Arc::clone(origin)),
            State::Missing(error) => Err(error.clone()),
            State::Dropped => Err(closing()),
        }
    }
}

impl Drop for LateOrigin {
    fn drop(&mut self) {
        let before = std::mem::replace(&mut *self.shared.state.lock(), State::Dropped);
        self.shared.changed.notify_all();
        drop(before);
    }
}

impl Shared {
    fn keep_trying(&self, open: &Open) {
        loop {
            let opened = open();
            let mut state = self.state.lock();
            if matches!(*state, State::Dropped) {
                return;
            }
            *state = match opened {
                Ok(origin) => State::Open(origin),
                // Whatever keeps the root from being opened says nothing about any entry below.
                Err(error) => State::Missing(Error {
                    kind: ErrorKind::OriginGone,
                    ..error
                }),
            };
            self.changed.notify_all();
            if matches!(*state, State::Open(_)) {
                return;
            }
            self.changed.wait_for(&mut state, RETRY_INTERVAL);
            if matches!(*state, State::Dropped) {
                return;
            }
        }
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

    fn counters(&self) -> Counters {
        self.get()
            .map_or_else(|_| Counters::default(), |origin| origin.counters())
    }
}
