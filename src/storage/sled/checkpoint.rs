//! Checkpoints: making sled durable by itself up to a group, so that recovery needs no journal before it.

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
    /// To ask the committer for a checkpoint when nothing is going on.
    pub committer: mpsc::WeakSender<Command>,
    /// The group of the last checkpoint before this process.
    pub checkpointed: u64,
    /// To have segments given up that are mostly out of use.
    pub reclaims: SyncSender<ReclaimRequest>,
}

impl Checkpointer {
    /// Serves requests until the committer is gone.
    pub fn run(self, requests: Receiver<CheckpointRequest>) {
        // What was replayed on opening is due too, or the next crash would replay it again.
        let mut done = self.checkpointed;
        let mut seen = self.shared.group();
        loop {
            match requests.recv_timeout(IDLE) {
                Ok(request) => match checkpoint(&self.trees, &self.folder, request.group) {
                    Ok(()) => {
                        done = request.group;
                        // Where one is waiting already, this one's segments have time until the next.
                        let _ = self.reclaims.try_send(ReclaimRequest { before_segment: request.segment });
                    }
                    Err(error) => self.shared.fail(error.to_string()),
                },
                Err(RecvTimeoutError::Timeout) => {
                    let group = self.shared.group();
                    if group == seen
                        && group != done
                        && let Some(committer) = self.committer.upgrade()
                    {
                        // Where there is no room in its queue something is going on. Waiting could be waiting for each other.
                        drop(committer.try_send(Command::Checkpoint));
                    }
                    seen = group;
                    if self.shared.health() == StoreHealth::Full && self.trees.check_room(0, 0, true).is_ok() {
                        self.shared.set_full(false);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

/// Makes everything up to a group durable in sled, and notes it.
pub fn checkpoint(trees: &Trees, folder: &Folder, group: u64) -> Result<(), StoreError> {
    trees.flush()?;
    folder.write_checkpoint(Checkpoint { group })
}
