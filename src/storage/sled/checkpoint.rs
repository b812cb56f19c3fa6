//! Checkpoints: making sled durable by itself up to a group, so that the journal before can go.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::mpsc;

use super::committer::Command;
use super::folder::{Checkpoint, Folder};
use super::journal;
use super::shared::Shared;
use super::trees::Trees;
use crate::storage::StoreError;

/// After so long without a new group a checkpoint is made, so that an idle store opens at once.
const IDLE: Duration = Duration::from_secs(3);

/// Everything up to this group is applied to the trees.
#[derive(Debug, Clone, Copy)]
pub struct CheckpointRequest {
    /// The last group that is to be durable.
    pub group: u64,
    /// The journal file that goes on after it; those before are dropped.
    pub first_journal: u64,
}

/// The state of the checkpoint thread.
pub struct Checkpointer {
    pub trees: Arc<Trees>,
    pub folder: Arc<Folder>,
    pub shared: Arc<Shared>,
    /// To ask the committer for a checkpoint when nothing is going on.
    pub committer: mpsc::WeakSender<Command>,
}

impl Checkpointer {
    /// Serves requests until the committer is gone.
    pub fn run(self, requests: Receiver<CheckpointRequest>) {
        let mut done = self.shared.group();
        let mut seen = done;
        loop {
            match requests.recv_timeout(IDLE) {
                Ok(request) => match self.checkpoint(request) {
                    Ok(()) => done = request.group,
                    Err(error) => self.shared.fail(error.to_string()),
                },
                Err(RecvTimeoutError::Timeout) => {
                    let group = self.shared.group();
                    if group == seen && group != done {
                        // A full queue means that the store is not idle after all.
                        drop(self.committer.upgrade().map(|committer| committer.try_send(Command::Checkpoint)));
                    }
                    seen = group;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn checkpoint(&self, request: CheckpointRequest) -> Result<(), StoreError> {
        checkpoint(&self.trees, &self.folder, request)
    }
}

/// Makes everything up to a group durable in sled, notes it, and drops the journal before.
pub fn checkpoint(trees: &Trees, folder: &Folder, request: CheckpointRequest) -> Result<(), StoreError> {
    trees.flush()?;
    folder.write_checkpoint(Checkpoint { group: request.group })?;
    journal::drop_before(&folder.journal_path(), request.first_journal)
}
