//! Giving space back: a segment of which most payloads are no longer in use is emptied, so that a checkpoint can remove it.
//!
//! The thread reads such a segment frame by frame, and has the committer write what is still in use once more, a little at a
//! time, among the writes of everybody else. Whoever reads meanwhile finds the record pointing to one copy or the other.

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
        let (mut step, mut bytes) = (Vec::new(), 0);
        while let Some(mutations) = reader.next_group()? {
            for mutation in mutations {
                if let Some(relocation) = self.relocation(segment, &mutation)? {
                    bytes += relocation.payload.len();
                    step.push(relocation);
                }
                if bytes >= STEP_BYTES {
                    self.relocate(std::mem::take(&mut step))?;
                    bytes = 0;
                }
            }
        }
        self.relocate(step)
    }

    /// What a mutation of a segment put there and is still in use; nothing where it was replaced or deleted since.
    fn relocation(&self, segment: u64, mutation: &Mutation) -> Result<Option<Relocation>, StoreError> {
        let Mutation { tree: tree @ (Tree::Articles | Tree::Revisions), key, value: Some(_) } = mutation else { return Ok(None) };
        self.shared.writable().map_err(StoreError::Failed)?;
        let Some(value) = self.trees.get(*tree, key)? else { return Ok(None) };
        let article = if *tree == Tree::Articles { keys::parse_article_key(key) } else { keys::parse_revision_key(key) }?;
        // Damage is for verification to find; the segment stays for as long as anything points to it.
        let Ok(StoredRecord { header, location }) = StoredRecord::decode(&article, &value) else { return Ok(None) };
        if location.segment != segment {
            return Ok(None);
        }
        let payload = self.trees.segments().read(location, header.payload_bytes())?;
        let intact = payload.filter(|payload| header.matches(payload));
        Ok(intact.map(|payload| Relocation { tree: *tree, key: key.clone(), value, from: location, payload }))
    }

    fn relocate(&self, relocations: Vec<Relocation>) -> Result<(), StoreError> {
        if relocations.is_empty() {
            return Ok(());
        }
        let (reply, done) = oneshot::channel();
        let committer = self.committer.upgrade().ok_or(StoreError::Closed)?;
        committer.blocking_send(Command::Relocate { relocations, reply }).map_err(|_| StoreError::Closed)?;
        drop(committer);
        done.blocking_recv().unwrap_or(Err(StoreError::Closed))
    }
}
