//! What the committer tells everybody else: how far readers may see, the totals, and whether it still writes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::damage::Damage;
use super::entry::State;
use crate::storage::StoreHealth;

/// Shared between the committer, the checkpoints and the readers.
#[derive(Debug)]
pub struct Shared {
    state: Mutex<State>,
    sequence: AtomicU64,
    health: watch::Sender<StoreHealth>,
    /// The last group that writers were told of, which may be before readers see it.
    acknowledged: AtomicU64,
    /// The last group that readers see.
    published: watch::Sender<u64>,
    damage: Arc<Damage>,
}

impl Shared {
    pub fn new(state: State, damage: Arc<Damage>) -> Self {
        let sequence = AtomicU64::new(state.contents.last_sequence);
        let (acknowledged, published) = (AtomicU64::new(state.group), watch::Sender::new(state.group));
        Self { state: Mutex::new(state), sequence, health: watch::Sender::new(StoreHealth::Serving), acknowledged, published, damage }
    }

    /// Makes a group known that readers see from now on.
    pub fn publish(&self, state: &State) {
        *self.lock() = *state;
        self.sequence.store(state.contents.last_sequence, Ordering::Release);
        self.published.send_replace(state.group);
    }

    /// Notes that writers are being told of a group.
    pub fn acknowledge(&self, group: u64) {
        self.acknowledged.store(group, Ordering::Release);
    }

    /// Returns when readers see everything that writers were told of so far.
    pub async fn caught_up(&self) {
        let acknowledged = self.acknowledged.load(Ordering::Acquire);
        let mut published = self.published.subscribe();
        // The sender lives as long as this does.
        drop(published.wait_for(|group| *group >= acknowledged).await);
    }

    /// Notes whether there is room to write.
    pub fn set_full(&self, full: bool) {
        self.health.send_if_modified(|health| {
            let changed = match (&*health, full) {
                (StoreHealth::Serving, true) => Some(StoreHealth::Full),
                (StoreHealth::Full, false) => Some(StoreHealth::Serving),
                _ => None,
            };
            match &changed {
                Some(StoreHealth::Full) => tracing::warn!("the disk is full: writes are refused, reads go on"),
                Some(_) => tracing::info!("there is room on the disk again"),
                None => {}
            }
            changed.map(|changed| *health = changed).is_some()
        });
    }

    /// The number of the latest change that readers see.
    pub fn sequence(&self) -> u64 {
        self.sequence.load(Ordering::Acquire)
    }

    /// Returns once that is greater than this one, with what it is then.
    ///
    /// # Errors
    /// The reason, once the store has failed.
    pub async fn sequence_after(&self, seen: u64) -> Result<u64, String> {
        let mut published = self.published.subscribe();
        loop {
            self.writable()?;
            let sequence = self.sequence();
            if sequence > seen {
                return Ok(sequence);
            }
            // The sender lives as long as this does.
            drop(published.changed().await);
        }
    }

    /// The state after the latest group.
    pub fn state(&self) -> State {
        *self.lock()
    }

    /// The number of the latest group.
    pub fn group(&self) -> u64 {
        self.lock().group
    }

    /// Stops all writing, for good. sled is built anew when the store is opened next: where a write failed, the kernel may have
    /// dropped others that it took before.
    pub fn fail(&self, reason: String) {
        tracing::error!(reason, "the store has failed and writes no more");
        self.damage.note_failure(&reason);
        self.health.send_if_modified(|health| {
            let first = !matches!(health, StoreHealth::Failed(_));
            if first {
                *health = StoreHealth::Failed(reason);
            }
            first
        });
        // Nobody is to wait for what will never be seen.
        self.published.send_replace(u64::MAX);
    }

    /// Whether writing goes on; the reason where it does not.
    pub fn writable(&self) -> Result<(), String> {
        match self.health() {
            StoreHealth::Serving | StoreHealth::Full => Ok(()),
            StoreHealth::Failed(reason) => Err(reason),
        }
    }

    pub fn health(&self) -> StoreHealth {
        self.health.borrow().clone()
    }

    /// Returns once the health is another than this one.
    pub async fn health_changed(&self, seen: &StoreHealth) -> StoreHealth {
        let mut health = self.health.subscribe();
        let changed = health.wait_for(|health| health != seen).await.map(|health| health.clone());
        match changed {
            Ok(health) => health,
            // The sender lives as long as this does.
            Err(_) => std::future::pending().await,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // A copy of a few numbers is whole even where a holder of the lock panicked.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::folder::Folder;
    use super::*;

    #[tokio::test]
    async fn who_waits_for_changes_is_told_of_them_and_of_the_failure() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Arc::new(Folder::open(folder.path()).unwrap());
        let shared = Arc::new(Shared::new(State::default(), Arc::new(Damage::new(Arc::clone(&folder)))));
        let waiting = |seen| {
            let shared = Arc::clone(&shared);
            tokio::spawn(async move { shared.sequence_after(seen).await })
        };
        let (first, second, third) = (waiting(0), waiting(1), waiting(7));
        tokio::task::yield_now().await;
        let mut state = State { group: 1, ..State::default() };
        state.contents.last_sequence = 1;
        shared.publish(&state);
        assert_eq!(first.await.unwrap(), Ok(1));
        // A group without changes wakes nobody for good.
        shared.publish(&State { group: 2, ..state });
        state.contents.last_sequence = 3;
        shared.publish(&State { group: 3, ..state });
        assert_eq!(second.await.unwrap(), Ok(3));
        assert_eq!(folder.rebuild_reason().unwrap(), None);
        shared.fail("broken".into());
        assert_eq!(folder.rebuild_reason().unwrap().as_deref(), Some("broken"));
        assert_eq!(third.await.unwrap(), Err("broken".into()));
        assert_eq!(waiting(0).await.unwrap(), Err("broken".into()));
    }
}
