//! Single flight: who fetches an extent, and who waits for it.

use std::collections::HashMap;
use std::sync::Arc;

use atlas_core::{Address, Result};
use parking_lot::Mutex;

/// Called once with the bytes of the extent, or with the error that everybody gets.
pub(crate) type Waiter = Box<dyn FnOnce(Result<&[u8]>) + Send>;

const SHARDS: usize = 64;

/// The extents that are being fetched now. At most one fetch of an extent is under way at a time.
pub(crate) struct Flights {
    shards: [Mutex<HashMap<Address, Vec<Waiter>>>; SHARDS],
}

/// What became of a request for an extent.
pub(crate) enum Joined {
    /// The caller must fetch it, and land the flight.
    Leader(Flight),
    /// Somebody else is fetching it; the waiter will be called.
    Waiting,
}

/// The duty to fetch one extent. Dropped without landing (its job was thrown away when the data set
/// was closed), it lets the next request start anew and drops the waiters uncalled.
pub(crate) struct Flight {
    flights: Arc<Flights>,
    address: Address,
    landed: bool,
}

impl Flights {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            shards: std::array::from_fn(|_| Mutex::default()),
        })
    }

    fn shard(&self, address: Address) -> &Mutex<HashMap<Address, Vec<Waiter>>> {
        &self.shards[(address.page() as usize) % SHARDS]
    }

    /// Join the flight for the extent at `address`, or become its leader. `waiter` is called in both
    /// cases when the flight lands. `arrived` is asked under the lock: when the extent has become
    /// readable meanwhile, nothing starts and the waiter comes back.
    pub(crate) fn join(
        self: &Arc<Self>,
        address: Address,
        waiter: Option<Waiter>,
        arrived: impl FnOnce() -> bool,
    ) -> std::result::Result<Joined, Option<Waiter>> {
        let mut shard = self.shard(address).lock();
        if let Some(waiters) = shard.get_mut(&address) {
            waiters.extend(waiter);
            return Ok(Joined::Waiting);
        }
        // A leader sets the live bit before it leaves the table, so under this lock either the
        // flight or the bit is seen.
        if arrived() {
            return Err(waiter);
        }
        shard.insert(address, waiter.into_iter().collect());
        Ok(Joined::Leader(Flight {
            flights: Arc::clone(self),
            address,
            landed: false,
        }))
    }

    /// Have the waiter that `make` makes called when the flight for the extent at `address` lands.
    /// False: there is no such flight (any more), and `make` was not called.
    pub(crate) fn wait(&self, address: Address, make: impl FnOnce() -> Waiter) -> bool {
        match self.shard(address).lock().get_mut(&address) {
            Some(waiters) => {
                waiters.push(make());
                true
            }
            None => false,
        }
    }

    fn remove(&self, address: Address) -> Vec<Waiter> {
        let waiters = self.shard(address).lock().remove(&address);
        waiters.unwrap_or_default()
    }
}

impl Flight {
    /// Give the flight up unless somebody waits for it; then it comes back and must be landed.
    pub(crate) fn abandon(mut self) -> Option<Self> {
        let mut shard = self.flights.shard(self.address).lock();
        if shard
            .get(&self.address)
            .is_some_and(|waiters| !waiters.is_empty())
        {
            drop(shard);
            return Some(self);
        }
        shard.remove(&self.address);
        drop(shard);
        self.landed = true;
        None
    }

    /// Answer everybody who waits. Successful fills must have set the live bit before.
    pub(crate) fn land(mut self, outcome: &Result<&[u8]>) {
        self.landed = true;
        for waiter in self.flights.remove(self.address) {
            waiter(outcome.clone());
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.landed {
            // A waiter that is dropped may answer somebody: never under the lock.
            let waiters = self.flights.remove(self.address);
            drop(waiters);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn leader(flights: &Arc<Flights>, waiter: Option<Waiter>) -> Flight {
        match flights.join(Address(0), waiter, || false) {
            Ok(Joined::Leader(flight)) => flight,
            _ => panic!("expected to lead"),
        }
    }

    #[test]
    fn one_leads_and_all_are_answered() {
        let flights = Flights::new();
        let answered = Arc::new(AtomicUsize::new(0));
        let waiter = || -> Option<Waiter> {
            let answered = Arc::clone(&answered);
            Some(Box::new(move |bytes| {
                assert_eq!(bytes, Ok(b"abc".as_slice()));
                answered.fetch_add(1, Ordering::Relaxed);
            }))
        };
        let flight = leader(&flights, waiter());
        for _ in 0..3 {
            assert!(matches!(
                flights.join(Address(0), waiter(), || panic!("not asked while in flight")),
                Ok(Joined::Waiting)
            ));
        }
        flight.land(&Ok(b"abc"));
        assert_eq!(answered.load(Ordering::Relaxed), 4);
        assert!(flights.join(Address(0), None, || true).is_err());
    }

    #[test]
    fn only_a_lonely_flight_is_given_up() {
        let flights = Flights::new();
        assert!(leader(&flights, None).abandon().is_none());
        let flight = leader(&flights, None);
        let joined = flights.join(Address(0), Some(Box::new(|_| {})), || false);
        assert!(matches!(joined, Ok(Joined::Waiting)));
        flight.abandon().expect("somebody waits").land(&Ok(b""));
    }

    #[test]
    fn a_dropped_flight_can_start_anew() {
        let flights = Flights::new();
        drop(leader(&flights, None));
        assert!(!flights.wait(Address(0), || panic!("nobody would call it")));
        leader(&flights, None).land(&Ok(b""));
    }
}
