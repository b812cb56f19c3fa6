//! What the committer tells everybody else: how far readers may see, the totals, and whether it still writes.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use super::entry::State;
use crate::storage::{Contents, StoreHealth};

/// Shared between the committer, the checkpoints and the readers.
#[derive(Debug)]
pub struct Shared {
    state: Mutex<State>,
    sequence: AtomicU64,
    health: watch::Sender<StoreHealth>,
}

impl Shared {
    pub fn new(state: State) -> Self {
        let sequence = AtomicU64::new(state.contents.last_sequence);
        Self { state: Mutex::new(state), sequence, health: watch::Sender::new(StoreHealth::Serving) }
    }

    /// Makes a group known that readers see from now on.
    pub fn publish(&self, state: &State) {
        *self.lock() = *state;
        self.sequence.store(state.contents.last_sequence, Ordering::Release);
    }

    /// The number of the latest change that readers see.
    pub fn sequence(&self) -> u64 {
        self.sequence.load(Ordering::Acquire)
    }

    /// The totals after the latest group.
    pub fn contents(&self) -> Contents {
        self.lock().contents
    }

    /// The number of the latest group.
    pub fn group(&self) -> u64 {
        self.lock().group
    }

    /// Stops all writing, for good.
    pub fn fail(&self, reason: String) {
        tracing::error!(reason, "the store has failed and writes no more");
        self.health.send_if_modified(|health| {
            let first = *health == StoreHealth::Serving;
            if first {
                *health = StoreHealth::Failed(reason);
            }
            first
        });
    }

    /// Whether writing goes on; the reason where it does not.
    pub fn writable(&self) -> Result<(), String> {
        match self.health() {
            StoreHealth::Serving => Ok(()),
            StoreHealth::Failed(reason) => Err(reason),
        }
    }

    pub fn health(&self) -> StoreHealth {
        self.health.borrow().clone()
    }

    /// Returns once the store has failed.
    pub async fn failed(&self) -> String {
        let mut health = self.health.subscribe();
        loop {
            if let StoreHealth::Failed(reason) = &*health.borrow_and_update() {
                return reason.clone();
            }
            if health.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // A copy of a few numbers is whole even where a holder of the lock panicked.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
