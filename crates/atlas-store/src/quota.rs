//! Exact quotas: space is reserved before it is written, and what was written is measured.

use std::sync::Arc;

use atlas_core::{PAGE_BYTES, Result};
use parking_lot::Mutex;

/// One part in this many is held back for the metadata of the file system: ext4 takes up to
/// 0.9 MiB a GiB for extent trees, some of it only when the pages are written back.
const METADATA_PART: u64 = 200;

/// Bytes of a volume on its tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// What its files take on the file system (`st_blocks`), tables included.
    pub used_bytes: u64,
    pub quota_bytes: u64,
    /// Promised to fills that are under way.
    pub reserved_bytes: u64,
}

pub(crate) struct Quota {
    quota_bytes: u64,
    /// What the file system allocates at once.
    granule: u64,
    /// Whether it allocates metadata later than data.
    late_metadata: bool,
    accounts: Mutex<Accounts>,
}

#[derive(Default)]
struct Accounts {
    segments: u64,
    tables: u64,
    reserved: u64,
}

impl Quota {
    pub(crate) fn new(quota_bytes: u64, granule: u64, late_metadata: bool) -> Arc<Self> {
        Arc::new(Self {
            quota_bytes,
            granule,
            late_metadata,
            accounts: Mutex::default(),
        })
    }

    /// The most that filling `bytes` adjacent bytes can take: a granule more at an end than asked
    /// for, the pages of the tables, and the file system's own blocks.
    fn cost(&self, bytes: u64) -> u64 {
        let ends = if self.granule > PAGE_BYTES {
            2 * self.granule
        } else {
            0
        };
        let tables = 3 * PAGE_BYTES + self.granule;
        let data = bytes.div_ceil(PAGE_BYTES).saturating_mul(PAGE_BYTES);
        data.saturating_add(bytes / METADATA_PART + ends + tables)
    }

    fn held(&self, accounts: &Accounts) -> u64 {
        let used = accounts.segments + accounts.tables;
        let metadata = if self.late_metadata {
            used / METADATA_PART
        } else {
            0
        };
        used + metadata + accounts.reserved
    }

    pub(crate) fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        let cost = self.cost(bytes);
        let mut accounts = self.accounts.lock();
        if self.held(&accounts).checked_add(cost)? > self.quota_bytes {
            return None;
        }
        accounts.reserved += cost;
        Some(Reservation {
            quota: Arc::clone(self),
            bytes,
            cost,
        })
    }

    /// Whether not even a page can be reserved.
    pub(crate) fn full(&self) -> bool {
        self.held(&self.accounts.lock())
            .saturating_add(self.cost(PAGE_BYTES))
            > self.quota_bytes
    }

    /// A segment that took `before` bytes takes `after` now; `tables` measures all tables. It is
    /// called under the lock: an older measurement must not overwrite a newer one.
    pub(crate) fn measured(
        &self,
        before: u64,
        after: u64,
        tables: impl FnOnce() -> Result<u64>,
    ) -> Result<()> {
        let mut accounts = self.accounts.lock();
        accounts.segments = (accounts.segments + after).saturating_sub(before);
        accounts.tables = tables()?;
        Ok(())
    }

    pub(crate) fn usage(&self) -> Usage {
        let accounts = self.accounts.lock();
        Usage {
            used_bytes: accounts.segments + accounts.tables,
            quota_bytes: self.quota_bytes,
            reserved_bytes: accounts.reserved,
        }
    }
}

/// Space promised to one fill. Dropping it gives back what was not used.
pub struct Reservation {
    quota: Arc<Quota>,
    bytes: u64,
    cost: u64,
}

impl Reservation {
    /// How many bytes may be filled with it.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn belongs_to(&self, quota: &Arc<Quota>) -> bool {
        Arc::ptr_eq(&self.quota, quota)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.quota.accounts.lock().reserved -= self.cost;
    }
}
