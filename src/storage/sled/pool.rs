//! Where blocking reads run: on the caller's own thread as long as that takes microseconds, and on a pool
//! otherwise. The pool is bounded, so that a rush of calls queues instead of taking threads.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::shared::Shared;
use super::supervision::panic_text;
use crate::storage::StoreError;
use crate::workers::Workers;

/// Blocking jobs at once. More than cores, since some wait for the disk.
const JOBS: usize = 8;

/// A read on the caller's thread that takes longer had to wait: for the disk, or for a core that others use.
const SLOW: Duration = Duration::from_millis(1);
/// Each such read counts as much as so many that are not, and when this many count it is the disk: cores are not that busy.
const SLOW_WEIGHT: u64 = 8;
const SLOW_SCORE: u64 = 4 * SLOW_WEIGHT;
/// For so long all reads go to the pool then. So whatever else the thread serves waits for a disk a few times a second at most, and
/// a store that is in memory spares two changes of threads a read, which cost more than the read.
const AFTER_SLOW: Duration = Duration::from_millis(100);

/// Runs blocking work.
#[derive(Debug, Clone)]
pub struct Pool {
    jobs: Arc<Semaphore>,
    workers: Arc<Workers>,
    shared: Arc<Shared>,
    pace: Arc<Pace>,
}

/// Whether reads are fast.
#[derive(Debug)]
struct Pace {
    begun: Instant,
    /// Until so many microseconds after that they are not.
    slow_until: AtomicU64,
    score: AtomicU64,
}

impl Pace {
    fn is_slow(&self, now: Instant) -> bool {
        let now = now.duration_since(self.begun).as_micros() as u64;
        now < self.slow_until.load(Ordering::Relaxed)
    }

    /// Takes a read into account that took so long.
    fn took(&self, time: Duration, now: Instant) {
        // Two that do so at once may count as one, which changes little.
        let score = self.score.load(Ordering::Relaxed);
        let next = if time > SLOW { score + SLOW_WEIGHT } else { score.saturating_sub(1) };
        if next >= SLOW_SCORE {
            let until = now.duration_since(self.begun) + AFTER_SLOW;
            self.slow_until.store(until.as_micros() as u64, Ordering::Relaxed);
        }
        if next != score {
            self.score.store(if next >= SLOW_SCORE { 0 } else { next }, Ordering::Relaxed);
        }
    }
}

/// Tells a job to stop: since nobody waits for it any more, or since it takes longer than the caller's thread has time for.
#[derive(Debug, Clone, Default)]
pub struct Cancelled {
    gone: Arc<AtomicBool>,
    /// Of a job on the caller's thread.
    deadline: Option<Instant>,
}

impl Cancelled {
    /// # Errors
    /// Where it is to stop: the error reaches no one.
    pub fn check(&self) -> Result<(), StoreError> {
        let late = self.deadline.is_some_and(|deadline| Instant::now() > deadline);
        if late || self.gone.load(Ordering::Relaxed) { Err(StoreError::Closed) } else { Ok(()) }
    }

    /// Before something that takes milliseconds.
    ///
    /// # Errors
    /// Where it is to stop, and on the caller's thread.
    pub fn check_long(&self) -> Result<(), StoreError> {
        if self.deadline.is_some() { Err(StoreError::Closed) } else { self.check() }
    }
}

/// Sets the flag when the future that waits is dropped.
struct CancelOnDrop(Cancelled);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.gone.store(true, Ordering::Relaxed);
    }
}

impl Pool {
    /// Its jobs tell the store where they panic.
    ///
    /// # Errors
    /// Where the system has no more threads to give.
    pub fn new(shared: Arc<Shared>) -> io::Result<Self> {
        let workers = Arc::new(Workers::new("dateline-read", JOBS)?);
        let pace = Pace { begun: Instant::now(), slow_until: AtomicU64::new(0), score: AtomicU64::new(0) };
        Ok(Self { jobs: Arc::new(Semaphore::new(JOBS)), workers, shared, pace: Arc::new(pace) })
    }

    /// Runs a job on the caller's thread, where such jobs are fast at present. `None` where they are not, and where the job itself
    /// finds that it would take long, or is told so: then it is one for [`run`](Self::run).
    pub fn run_here<T>(&self, job: impl FnOnce(&Cancelled) -> Result<Option<T>, StoreError>) -> Option<Result<T, StoreError>> {
        let begun = Instant::now();
        if self.jobs.is_closed() || self.pace.is_slow(begun) {
            return None;
        }
        let cancelled = Cancelled { deadline: Some(begun + SLOW), ..Cancelled::default() };
        let result = catch_unwind(AssertUnwindSafe(|| job(&cancelled)));
        let now = Instant::now();
        self.pace.took(now.duration_since(begun), now);
        match result.unwrap_or_else(|panic| Err(self.panicked(&*panic))) {
            Err(StoreError::Closed) => None,
            result => result.transpose(),
        }
    }

    fn panicked(&self, panic: &(dyn std::any::Any + Send)) -> StoreError {
        let reason = format!("the storage engine panicked while reading: {}", panic_text(panic));
        self.shared.fail(reason.clone());
        StoreError::Failed(reason)
    }

    /// Refuses every later job; those under way finish.
    pub fn close(&self) {
        self.jobs.close();
    }

    /// Runs a job when there is room, and waits for it. A job whose waiter goes away before it began never runs.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Cancelled) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = Arc::clone(&self.jobs).acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let cancelled = Cancelled::default();
        let _guard = CancelOnDrop(cancelled.clone());
        let job = move || {
            let _permit = permit;
            cancelled.check()?;
            job(&cancelled)
        };
        let result = self.workers.run(move || catch_unwind(AssertUnwindSafe(job))).await;
        result.unwrap_or_else(|panic| Err(self.panicked(&*panic)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_slow_reads_are_nothing_and_many_are_the_disk() {
        let begun = Instant::now();
        let pace = Pace { begun, slow_until: AtomicU64::new(0), score: AtomicU64::new(0) };
        let (slow, fast) = (Duration::from_millis(2), Duration::from_micros(20));
        for number in 0..10_000 {
            pace.took(if number % 20 == 0 { slow } else { fast }, begun);
            assert!(!pace.is_slow(begun), "{number}");
        }
        for number in 0..100 {
            pace.took(if number % 4 == 0 { slow } else { fast }, begun);
        }
        assert!(pace.is_slow(begun));
        assert!(!pace.is_slow(begun + AFTER_SLOW));
    }

    #[test]
    fn a_job_on_the_callers_thread_is_told_when_it_takes_long() {
        let now = Instant::now();
        let until = |deadline| Cancelled { deadline: Some(deadline), ..Cancelled::default() };
        let (early, late) = (until(now + Duration::from_secs(3600)), until(now.checked_sub(Duration::from_millis(1)).unwrap()));
        assert!(early.check().is_ok() && late.check().is_err());
        assert!(early.check_long().is_err() && late.check_long().is_err());
        // On the pool it is told when nobody waits any more.
        let cancelled = Cancelled::default();
        assert!(cancelled.check().is_ok() && cancelled.check_long().is_ok());
        drop(CancelOnDrop(cancelled.clone()));
        assert!(cancelled.check().is_err() && cancelled.check_long().is_err());
    }
}
