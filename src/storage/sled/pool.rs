//! The pool for blocking reads and for compression: bounded, so that a rush of calls queues instead of taking threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Semaphore;

use super::shared::Shared;
use super::supervision::panic_text;
use crate::storage::StoreError;

/// Blocking jobs at once. More than cores, since some wait for the disk.
const JOBS: usize = 16;

/// Runs blocking work apart from the runtime's own threads.
#[derive(Debug, Clone)]
pub struct Pool {
    jobs: Arc<Semaphore>,
    shared: Arc<Shared>,
}

/// Tells a job that nobody waits for it any more.
#[derive(Debug, Clone, Default)]
pub struct Cancelled(Arc<AtomicBool>);

impl Cancelled {
    /// # Errors
    /// Where nobody waits any more: the error reaches no one.
    pub fn check(&self) -> Result<(), StoreError> {
        if self.0.load(Ordering::Relaxed) { Err(StoreError::Closed) } else { Ok(()) }
    }
}

/// Sets the flag when the future that waits is dropped.
struct CancelOnDrop(Cancelled);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

impl Pool {
    /// Its jobs tell the store where they panic.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { jobs: Arc::new(Semaphore::new(JOBS)), shared }
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
        let job = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            cancelled.check()?;
            job(&cancelled)
        });
        match job.await {
            Ok(result) => result,
            Err(error) if error.is_panic() => {
                let reason = format!("the storage engine panicked while reading: {}", panic_text(&*error.into_panic()));
                self.shared.fail(reason.clone());
                Err(StoreError::Failed(reason))
            }
            Err(_) => Err(StoreError::Closed),
        }
    }
}
