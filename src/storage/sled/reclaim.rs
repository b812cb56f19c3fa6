//! Giving space back: a segment of which most payloads are no longer in use is emptied, so that a checkpoint can remove it.
//!
//! The thread reads such a segment frame by frame, and has the committer write what is still in use once more, a little at a
//! time, among the writes of everybody else. Whoever reads meanwhile finds the record pointing to one copy or the other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use tokio::sync::{mpsc, oneshot};

use super::committer::Command;
use super::folder::Folder;
use super::group::Relocation;
use super::journal::{Mutation, SegmentReader};
use super::keys::{self, Tree};
use super::shared::Shared;
use super::stored::StoredRecord;
use super::trees::Trees;
use crate::storage::StoreError;

/// About how many bytes of payloads are handed to the committer at once: what a write may have to wait for.
const STEP_BYTES: usize = 1 << 20;

/// The state of the reclaiming thread.
pub struct Reclaimer {
    pub trees: Arc<Trees>,
    pub folder: Arc<Folder>,
    pub shared: Arc<Shared>,
    pub committer: mpsc::WeakSender<Command>,
}

/// The segments below this number are complete and not needed for recovery.
#[derive(Debug, Clone, Copy)]
pub struct ReclaimRequest {
    pub before_segment: u64,
}

impl Reclaimer {
    /// Serves requests until there is nobody to make them.
    pub fn run(self, requests: Receiver<ReclaimRequest>) {
        for request in requests {
            if let Err(error) = self.reclaim(request) {
                match error {
                    // Nothing is lost by waiting for the next checkpoint.
                    StoreError::Closed | StoreError::DiskFull | StoreError::Failed(_) => {}
                    error => tracing::warn!(%error, "space could not be given back"),
                }
            }
        }
    }

    fn reclaim(&self, request: ReclaimRequest) -> Result<(), StoreError> {
        for segment in self.trees.segments().numbers()? {
            if segment >= request.before_segment {
                break;
            }
            let usage = self.trees.segment_usage(segment)?;
            if usage.live_bytes > 0 && usage.live_bytes * 2 < usage.payload_bytes {
                self.empty(segment)?;
            }
        }
        Ok(())
    }

    fn empty(&self, segment: u64) -> Result<(), StoreError> {
        let mut reader = SegmentReader::open(&self.trees.segments().path(segment), self.folder.store_id(), segment)?;
        // By their places: several mutations lead to one payload where its article was written again in the same segment, and
        // what is moved twice counts as gone twice.
        let (mut step, mut bytes) = (BTreeMap::new(), 0);
        while let Some(mutations) = reader.next_group()? {
            for mutation in mutations {
                if let Some(relocation) = self.relocation(segment, &mutation)? {
                    bytes += relocation.payload.len();
                    step.insert(relocation.from.offset, relocation);
                }
                if bytes >= STEP_BYTES {
                    self.relocate(std::mem::take(&mut step))?;
                    bytes = 0;
                }
            }
        }
        self.relocate(step)
    }

    /// What a mutation of a segment put there and is still in use, as what it was put or, where the article was written again
    /// since, as an earlier revision. Nothing where it was deleted.
    fn relocation(&self, segment: u64, mutation: &Mutation) -> Result<Option<Relocation>, StoreError> {
        self.shared.writable().map_err(StoreError::Failed)?;
        match mutation {
            Mutation { tree: Tree::Revisions, key, value: Some(_) } => self.in_use(segment, Tree::Revisions, key),
            Mutation { tree: Tree::Articles, key, value: Some(written) } => match self.in_use(segment, Tree::Articles, key)? {
                None => match StoredRecord::decode(&keys::parse_article_key(key)?, written) {
                    Ok(written) => self.in_use(segment, Tree::Revisions, &keys::revision_key(key, written.header.head().revision)),
                    Err(_) => Ok(None),
                },
                found => Ok(found),
            },
            _ => Ok(None),
        }
    }

    /// The payload of a record, where there is such a record and its payload is in the segment.
    fn in_use(&self, segment: u64, tree: Tree, key: &[u8]) -> Result<Option<Relocation>, StoreError> {
        let Some(value) = self.trees.get(tree, key)? else { return Ok(None) };
        let article = if tree == Tree::Articles { keys::parse_article_key(key) } else { keys::parse_revision_key(key) }?;
        // Damage is for verification to find; the segment stays for as long as anything points to it.
        let Ok(StoredRecord { header, location }) = StoredRecord::decode(&article, &value) else { return Ok(None) };
        if location.segment != segment {
            return Ok(None);
        }
        let payload = self.trees.segments().read(location, header.payload_bytes())?;
        let intact = payload.filter(|payload| header.matches(payload));
        Ok(intact.map(|payload| Relocation { tree, key: key.to_vec(), value, from: location, payload }))
    }

    fn relocate(&self, step: BTreeMap<u64, Relocation>) -> Result<(), StoreError> {
        if step.is_empty() {
            return Ok(());
        }
        let relocations = step.into_values().collect();
        let (reply, done) = oneshot::channel();
        let committer = self.committer.upgrade().ok_or(StoreError::Closed)?;
        committer.blocking_send(Command::Relocate { relocations, reply }).map_err(|_| StoreError::Closed)?;
        drop(committer);
        done.blocking_recv().unwrap_or(Err(StoreError::Closed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::article::{Article, ArticleDraft, Limits};
    use crate::storage::sled::SledStore;
    use crate::storage::{ArticleStore as _, Precondition, StoreOptions, Write, WriteBatch};

    fn article(path: &str, body: &str) -> Article {
        let url = format!("https://example.com{path}");
        let draft = ArticleDraft { date: "2024-05-01".into(), url, body: body.into(), ..ArticleDraft::default() };
        draft.validate(&Limits::default()).unwrap()
    }

    async fn put(store: &SledStore, path: &str, body: &str) {
        let writes = vec![Write::put(article(path, body))];
        store.write(WriteBatch { writes, stream: None }).await.unwrap().outcomes.remove(0).unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn everything_that_is_in_use_moves_and_nothing_moves_twice() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path(), StoreOptions::default()).unwrap();
        for (path, body) in [("/stays", "1"), ("/twice", "1"), ("/twice", "2"), ("/replaced", "1"), ("/deleted", "1")] {
            put(&store, path, body).await;
        }
        store.close().await.unwrap();
        drop(store);
        // Opening goes on in the next segment.
        let store = SledStore::open(folder.path(), StoreOptions::default()).unwrap();
        put(&store, "/replaced", "2").await;
        let key = article("/deleted", "1").key().clone();
        let writes = vec![Write::Delete { key, precondition: Precondition::None }];
        store.write(WriteBatch { writes, stream: None }).await.unwrap().outcomes.remove(0).unwrap();
        let live = |segment| store.trees.segment_usage(segment).unwrap().live_bytes;
        let (old, new) = (live(1), live(2));
        assert!(old > 0 && new > 0);

        let (trees, folder, shared) = (Arc::clone(&store.trees), Arc::clone(&store.folder), Arc::clone(&store.shared));
        let reclaimer = Reclaimer { trees, folder, shared, committer: store.committer.downgrade() };
        tokio::task::spawn_blocking(move || reclaimer.empty(1)).await.unwrap().unwrap();
        assert_eq!((live(1), live(2)), (0, old + new));
        for expected in [article("/stays", "1"), article("/twice", "2"), article("/replaced", "2")] {
            assert_eq!(store.article(expected.key()).await.unwrap().unwrap().article, expected);
        }
        store.close().await.unwrap();
    }
}
