//! Folders that were used a moment ago, so that a slow origin is not asked for every name on the
//! way to each of their files.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Descriptors that one origin keeps.
const KEPT: usize = 64;

/// After so long a folder is looked up again: its path may lead to another one by now, or the
/// identity may have lost the way to it.
const AGE: Duration = Duration::from_secs(1);

/// The folder seen longest ago goes first: with ages this short, uses need no bookkeeping.
#[derive(Debug, Default)]
pub(super) struct Folders {
    by_path: Mutex<HashMap<Box<[u8]>, Seen>>,
}

/// When the whole way to a folder was last looked up, and the folder.
type Seen = (Instant, Arc<OwnedFd>);

impl Folders {
    pub(super) fn get(&self, path: &[u8]) -> Option<Seen> {
        let by_path = self.by_path.lock();
        let (seen, folder) = by_path.get(path)?;
        (seen.elapsed() < AGE).then(|| (*seen, Arc::clone(folder)))
    }

    /// `seen` is when the way to `folder` was looked up: for one that was opened in a remembered
    /// parent, when the parent's was, or ages would add up.
    pub(super) fn remember(&self, path: &[u8], folder: OwnedFd, seen: Instant) -> Arc<OwnedFd> {
        let folder = Arc::new(folder);
        let mut by_path = self.by_path.lock();
        let replaced = by_path.insert(path.into(), (seen, Arc::clone(&folder)));
        let oldest = if by_path.len() > KEPT {
            let entry = by_path.iter().min_by_key(|(_, (seen, _))| *seen);
            entry.map(|(path, _)| path.clone())
        } else {
            None
        };
        let evicted = oldest.and_then(|path| by_path.remove(&path));
        drop(by_path);
        // Closing may take as long as the origin likes: never under the lock.
        drop((replaced, evicted));
        folder
    }

    pub(super) fn clear(&self) {
        let all = std::mem::take(&mut *self.by_path.lock());
        drop(all);
    }
}
