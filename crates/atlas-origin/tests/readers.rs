//! The order in which reader threads take jobs.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use atlas_origin::{
    Class, Effect, Fault, FaultyOrigin, Gate, Operation, Origin, ReaderSettings, Readers,
};
use common::{eventually, me, open};
use parking_lot::Mutex;

const PATIENCE: Duration = Duration::from_secs(20);

/// A pool whose origin answers listings only when the gate is open.
fn pool(threads: usize) -> (Readers, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let hold = Fault {
        operation: Some(Operation::List),
        at: 1,
        repeat: true,
        effect: Effect::Hold(Arc::clone(&gate)),
    };
    let inner: Arc<dyn Origin> = Arc::new(open(Path::new("/proc/self/fd")));
    let origin = Arc::new(FaultyOrigin::new(inner, [hold]));
    (
        Readers::start(&me(), origin, ReaderSettings { threads }).unwrap(),
        gate,
    )
}

fn hang(origin: &dyn Origin) {
    let _ = origin.list(b"");
}

#[test]
fn jobs_start_in_the_order_of_their_classes() {
    let (readers, gate) = pool(2);
    let order = Arc::new(Mutex::new(Vec::new()));
    let done: (Sender<()>, Receiver<()>) = channel();
    readers.submit(Class::Foreground, hang);
    readers.submit(Class::Foreground, hang);
    assert!(gate.wait_for(2, PATIENCE));
    for class in [Class::Scan, Class::Load, Class::Prefetch, Class::Foreground] {
        for number in 0..5 {
            let (order, done) = (Arc::clone(&order), done.0.clone());
            readers.submit(class, move |_| {
                order.lock().push((class, number));
                drop(done);
            });
        }
    }
    assert_eq!(readers.queued(Class::Load), 5);
    gate.open();
    drop(done.0);
    assert!(done.1.recv_timeout(PATIENCE).is_err());
    let order = order.lock();
    let background: Vec<_> = order
        .iter()
        .filter(|job| job.0 != Class::Foreground)
        .collect();
    // One thread of two is left to the background classes: their order is exact.
    assert!(background.is_sorted());
    assert_eq!(order.len(), 20);
    let first_background = order
        .iter()
        .position(|job| job.0 != Class::Foreground)
        .unwrap();
    assert!(first_background >= 4, "{order:?}");
}

#[test]
fn a_thousand_loads_do_not_hold_up_a_reader() {
    for threads in [2, 4, 16] {
        let (readers, gate) = pool(threads);
        for _ in 0..1000 {
            readers.submit(Class::Load, hang);
        }
        let background = threads - (threads / 4).max(1);
        assert!(gate.wait_for(background, PATIENCE));
        // Every thread that loads may have hangs; the rest is for whoever waits.
        let (answer, answered) = channel();
        readers.submit(Class::Foreground, move |_| answer.send(()).unwrap());
        answered.recv_timeout(PATIENCE).unwrap();
        assert_eq!(readers.queued(Class::Load), 1000 - background);
        gate.open();
        eventually("the loads run", || readers.queued(Class::Load) == 0);
    }
}

#[test]
fn foreground_jobs_may_use_every_thread() {
    let (readers, gate) = pool(8);
    for _ in 0..20 {
        readers.submit(Class::Foreground, hang);
    }
    assert!(gate.wait_for(8, PATIENCE));
    assert_eq!(readers.queued(Class::Foreground), 12);
    gate.open();
}

#[test]
fn background_threads_are_all_used_after_foreground_work() {
    let (readers, gate) = pool(8);
    let ran = Arc::new(AtomicUsize::new(0));
    for round in 1..=200 {
        for class in [Class::Foreground, Class::Load, Class::Scan, Class::Prefetch] {
            let ran = Arc::clone(&ran);
            readers.submit(class, move |_| {
                ran.fetch_add(1, Ordering::Relaxed);
            });
        }
        eventually("the jobs run", || {
            ran.load(Ordering::Relaxed) >= (round - 1) * 4
        });
    }
    eventually("all jobs run", || ran.load(Ordering::Relaxed) == 800);
    for _ in 0..20 {
        readers.submit(Class::Scan, hang);
    }
    assert!(gate.wait_for(6, PATIENCE));
    gate.open();
}

#[test]
fn background_jobs_step_back_while_readers_come() {
    let (readers, gate) = pool(16);
    readers.submit(Class::Foreground, |_| {});
    for _ in 0..100 {
        readers.submit(Class::Load, hang);
    }
    // An eighth of the threads at first, three quarters once no reader has come for a while.
    assert!(gate.wait_for(2, PATIENCE));
    assert_eq!(readers.queued(Class::Load), 98);
    assert!(gate.wait_for(12, PATIENCE));
    assert_eq!(readers.queued(Class::Load), 88);
    gate.open();
}

#[test]
fn closing_drops_what_is_queued_and_waits_for_nothing() {
    struct Noted(Arc<AtomicUsize>);
    impl Drop for Noted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let (readers, gate) = pool(2);
    readers.submit(Class::Load, hang);
    assert!(gate.wait_for(1, PATIENCE));
    let dropped = Arc::new(AtomicUsize::new(0));
    let ran = Arc::new(AtomicUsize::new(0));
    let job = || {
        let (noted, ran) = (Noted(Arc::clone(&dropped)), Arc::clone(&ran));
        move |_: &dyn Origin| {
            ran.fetch_add(1, Ordering::Relaxed);
            drop(noted);
        }
    };
    for _ in 0..10 {
        readers.submit(Class::Load, job());
    }
    readers.close();
    assert_eq!(dropped.load(Ordering::Relaxed), 10);
    readers.submit(Class::Foreground, job());
    assert_eq!(dropped.load(Ordering::Relaxed), 11);
    gate.open();
    drop(readers);
    assert_eq!(ran.load(Ordering::Relaxed), 0);
}
