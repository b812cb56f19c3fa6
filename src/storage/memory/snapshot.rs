//! A snapshot of the reference engine: a copy of everything, handed out in pages.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_trait::async_trait;

use super::{State, Tombstone};
use crate::article::Timestamp;
use crate::storage::{Snapshot, SnapshotInfo, SnapshotItem, StoreError, StoreId};

/// Items of a page: few, so that whoever reads a small snapshot sees several pages.
const PAGE_ITEMS: usize = 100;

/// A snapshot that is being read.
#[derive(Debug)]
pub struct MemorySnapshot {
    info: SnapshotInfo,
    items: VecDeque<SnapshotItem>,
    _running: Arc<()>,
}

impl MemorySnapshot {
    /// A snapshot of this state, unless another is running.
    pub fn begin(state: &State, store_id: StoreId, running: &Mutex<Weak<()>>) -> Result<Self, StoreError> {
        let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.strong_count() > 0 {
            return Err(StoreError::SnapshotBusy);
        }
        let this = Arc::new(());
        *running = Arc::downgrade(&this);
        let info = SnapshotInfo { store_id, contents: state.stats().contents, create_time: Timestamp::now() };
        Ok(Self { info, items: items(state).collect(), _running: this })
    }
}

/// Everything, in the order that [`Snapshot::next_page`] promises.
fn items(state: &State) -> impl Iterator<Item = SnapshotItem> {
    let articles = state.articles.values().map(|kept| SnapshotItem::Article(Box::new(kept.latest.clone())));
    let earlier = state.articles.values().flat_map(|kept| &kept.earlier_revisions);
    let earlier = earlier.map(|stored| SnapshotItem::EarlierRevision(Box::new(stored.clone())));
    let tombstones = state.tombstones.iter().map(|(key, tombstone)| {
        let Tombstone { revision, sequence, delete_time } = *tombstone;
        SnapshotItem::Tombstone { key: key.clone(), revision, sequence, delete_time }
    });
    let changes = state.changes.values().cloned().map(SnapshotItem::Change);
    let streams = state.streams.iter().filter(|(_, stream)| stream.is_known());
    let streams = streams.map(|(id, stream)| SnapshotItem::Stream { id: id.clone(), position: stream.position().clone() });
    articles.chain(earlier).chain(tombstones).chain(changes).chain(streams)
}

#[async_trait]
impl Snapshot for MemorySnapshot {
    fn info(&self) -> &SnapshotInfo {
        &self.info
    }

    async fn next_page(&mut self) -> Result<Option<Vec<SnapshotItem>>, StoreError> {
        let page: Vec<_> = self.items.drain(..PAGE_ITEMS.min(self.items.len())).collect();
        Ok(Some(page).filter(|page| !page.is_empty()))
    }
}
