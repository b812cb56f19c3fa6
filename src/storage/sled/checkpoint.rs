//! Checkpoints: making sled durable by itself up to a group, so that recovery needs no journal before it, and removing the
//! segments of which nothing is in use any more.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use tokio::sync::mpsc;

use super::committer::Command;
use super::folder::{Checkpoint, Folder};
use super::reclaim::ReclaimRequest;
use super::shared::Shared;
use super::trees::Trees;
use crate::storage::{StoreError, StoreHealth};

/// After so long without a new group a checkpoint is made, so that an idle store opens at once.
const IDLE: Duration = Duration::from_secs(3);

/// Everything up to this group is applied to the trees.
#[derive(Debug, Clone, Copy)]
pub struct CheckpointRequest {
    /// The last group that is to be durable.
    pub group: u64,
    /// The segment that is being written: those before are complete, and none of them is needed for recovery.
    pub segment: u64,
}

/// The state of the checkpoint thread.
pub struct Checkpointer {
    pub trees: Arc<Trees>,
    pub folder: Arc<Folder>,
    pub shared: Arc<Shared>,
    /// To ask the committer for a checkpoint when nothing is going on, and to tell it of segments that are gone.
    pub committer: mpsc::WeakSender<Command>,
    /// The group of the last checkpoint before this process.
    pub checkpointed: u64,
    /// To have segments emptied that are mostly out of use.
    pub reclaims: SyncSender<ReclaimRequest>,
}

impl Checkpointer {
    /// Serves requests until the committer is gone.
    pub fn run(self, requests: Receiver<CheckpointRequest>) {
        // What was replayed on opening is due too, or the next crash would replay it again.
        let mut done = self.checkpointed;
        let mut seen = self.shared.group();
        let mut removed = Vec::new();
        loop {
            match requests.recv_timeout(IDLE) {
                Ok(request) => match checkpoint(&self.trees, &self.folder, request) {
                    Ok(segments) => {
                        done = request.group;
                        removed.extend(segments);
                        // Where one is waiting already, this one's segments have time until the next.
                        let _ = self.reclaims.try_send(ReclaimRequest { before_segment: request.segment });
                    }
                    Err(error) => self.shared.fail(error.to_string()),
                },
                Err(RecvTimeoutError::Timeout) => {
                    let group = self.shared.group();
                    if group == seen && group != done {
                        self.tell_committer(Command::Checkpoint);
                    }
                    seen = group;
                    if self.shared.health() == StoreHealth::Full && self.trees.check_room(0, 0, true).is_ok() {
                        self.shared.set_full(false);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if !removed.is_empty() && self.tell_committer(Command::Forget(removed.clone())) {
                removed.clear();
            }
        }
    }

    /// Whether there was room in the committer's queue. Waiting for it could be waiting for each other.
    fn tell_committer(&self, command: Command) -> bool {
        self.committer.upgrade().is_some_and(|committer| committer.try_send(command).is_ok())
    }
}

/// Makes everything up to a group durable in sled, notes it, and removes the segments that nothing needs any more. Gives their
/// numbers.
pub fn checkpoint(trees: &Trees, folder: &Folder, request: CheckpointRequest) -> Result<Vec<u64>, StoreError> {
    trees.flush()?;
    folder.write_checkpoint(Checkpoint { group: request.group })?;
    let mut removed = Vec::new();
    for segment in trees.segments().numbers()? {
        // A segment that is complete only ever loses payloads.
        // A snapshot may still point to what is out of use; one that begins after this look does not.
        if segment < request.segment && trees.segment_usage(segment)?.live_bytes == 0 && trees.pins().current().is_none() {
            trees.segments().remove(segment)?;
            removed.push(segment);
        }
    }
    Ok(removed)
}
