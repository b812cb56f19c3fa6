//! Forgetting ingest streams that did not advance for long.
//!
//! A thread looks through them now and then, and has the committer remove some at a time, among the writes of everybody else. The
//! committer looks again: a stream that advanced meanwhile stays. One that is opened before its turn is forgotten then.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::committer::Command;
use super::shared::Shared;
use super::streams;
use super::trees::Trees;
use crate::article::Timestamp;
use crate::storage::stream::forgotten_before;
use crate::storage::{IngestStreamId, StoreError, StoreOptions};

/// Streams are looked through so often at least, and for short expiries at most.
const EVERY: Duration = Duration::from_secs(3600);
const AT_MOST_EVERY: Duration = Duration::from_secs(1);
/// Streams that are looked at at once.
const PAGE_STREAMS: usize = 1000;

/// The state of the thread.
pub struct Expiry {
    pub trees: Arc<Trees>,
    pub shared: Arc<Shared>,
    pub committer: mpsc::WeakSender<Command>,
    pub options: StoreOptions,
}

impl Expiry {
    /// Forgets streams until the other end of `stopped` is dropped.
    pub fn run(self, stopped: &Receiver<()>) {
        let Some(expiry) = self.options.stream_expiry else { return };
        loop {
            if let Err(error) = self.forget() {
                match error {
                    // The next time is early enough.
                    StoreError::Closed | StoreError::DiskFull | StoreError::Failed(_) => {}
                    error => tracing::warn!(%error, "ingest streams could not be looked through"),
                }
            }
            if stopped.recv_timeout((expiry / 4).clamp(AT_MOST_EVERY, EVERY)) != Err(RecvTimeoutError::Timeout) {
                return;
            }
        }
    }

    fn forget(&self) -> Result<(), StoreError> {
        let Some(before) = forgotten_before(&self.options, Timestamp::now()) else { return Ok(()) };
        let mut after = None;
        loop {
            self.shared.writable().map_err(StoreError::Failed)?;
            let page = streams::page(&self.trees, after.as_ref(), PAGE_STREAMS)?;
            let expired: Vec<_> = page.iter().filter(|(_, position)| position.expired(Some(before))).map(|(id, _)| id.clone()).collect();
            if !expired.is_empty() {
                // As long as there are some on this page, it may be that not all of them were removed at once.
                self.ask(expired, before)?;
            } else if let Some((last, _)) = page.into_iter().next_back() {
                after = Some(last);
            } else {
                return Ok(());
            }
        }
    }

    fn ask(&self, ids: Vec<IngestStreamId>, before: Timestamp) -> Result<(), StoreError> {
        let (reply, done) = oneshot::channel();
        let committer = self.committer.upgrade().ok_or(StoreError::Closed)?;
        committer.blocking_send(Command::ForgetStreams { ids, before, reply }).map_err(|_| StoreError::Closed)?;
        drop(committer);
        done.blocking_recv().unwrap_or(Err(StoreError::Closed))
    }
}
