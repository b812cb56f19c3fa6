//! Trimming the change log: superseded changes, and deletions some time after them, go a little at a time through the committer.
//!
//! What may be missing is announced before it goes: the horizon moves in one group, and what it has passed is removed in later
//! ones. So whoever has read a page and finds themselves still served by what is announced has missed nothing. The thread holds
//! nothing: the state says how far it is, also after a crash.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::committer::Command;
use super::entry::{State, Tombstone};
use super::group::TrimStep;
use super::keys::{self, Tree};
use super::shared::Shared;
use super::stored::StoredRecord;
use super::trees::Trees;
use crate::article::{ArticleKey, Timestamp};
use crate::storage::{Change, ChangeKind, ChangeRetention, StoreError};

/// How often the thread looks whether there is something to do.
const PERIOD: Duration = Duration::from_secs(1);
/// Changes that are looked at, and at most removed, with one group: what a write may have to wait for.
const STEP_CHANGES: usize = 500;

/// The state of the trimming thread.
pub struct Trimmer {
    pub trees: Arc<Trees>,
    pub shared: Arc<Shared>,
    pub committer: mpsc::WeakSender<Command>,
    pub retention: ChangeRetention,
}

impl Trimmer {
    /// Looks now and then, until the other end of `stop` is gone.
    pub fn run(self, stop: Receiver<()>) {
        while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(PERIOD) {
            if let Err(error) = self.trim() {
                match error {
                    // Nothing is lost by waiting.
                    StoreError::Closed | StoreError::DiskFull | StoreError::Failed(_) => {}
                    error => tracing::warn!(%error, "the change log could not be trimmed"),
                }
            }
        }
    }

    fn trim(&self) -> Result<(), StoreError> {
        // A snapshot would have to keep everything aside that goes meanwhile.
        while self.trees.pins().current().is_none() {
            let Some(step) = self.next_step(&self.shared.state())? else { break };
            self.send(step)?;
        }
        Ok(())
    }

    /// What is to be done next. Follows from what is published alone, so a step that is taken twice does the same again.
    fn next_step(&self, state: &State) -> Result<Option<TrimStep>, StoreError> {
        let (trimmed, sweep) = (state.contents.trimmed, state.deletions);
        if trimmed.swept < trimmed.horizon {
            // Writes know the horizon by now: what they supersede before it, they remove.
            let (changes, swept) = self.page(trimmed.swept, trimmed.horizon)?;
            let remove = self.those(changes, |latest, change| latest > change.sequence)?;
            return Ok(Some(TrimStep { remove, swept, ..TrimStep::default() }));
        }
        if let Some(horizon) = self.beyond_retention(state)? {
            return Ok(Some(TrimStep { horizon, ..TrimStep::default() }));
        }
        if sweep.swept < trimmed.deletions {
            let (changes, deletions_swept) = self.page(sweep.swept, trimmed.deletions)?;
            let remove = self.those(changes, |latest, change| latest == change.sequence && change.kind == ChangeKind::Deleted)?;
            return Ok(Some(TrimStep { remove, deletions_swept, ..TrimStep::default() }));
        }
        let now = Timestamp::now().as_micros();
        if trimmed.deletions < sweep.mark {
            let waited = now.saturating_sub(sweep.mark_time);
            if waited < 0 {
                // The clock was set back.
                return Ok(Some(TrimStep { mark: Some((sweep.mark, now)), ..TrimStep::default() }));
            }
            if Duration::from_micros(waited.unsigned_abs()) < self.retention.rebuild_time {
                return Ok(None);
            }
            let (_, deletions) = self.page(trimmed.deletions, sweep.mark)?;
            return Ok(Some(TrimStep { deletions, ..TrimStep::default() }));
        }
        Ok((sweep.mark < trimmed.swept).then(|| TrimStep { mark: Some((trimmed.swept, now)), ..TrimStep::default() }))
    }

    /// How far the horizon can move, by one step; `None` where everything is within the retention. The last change always is: it
    /// says how far the log goes.
    fn beyond_retention(&self, state: &State) -> Result<Option<u64>, StoreError> {
        let (last, horizon) = (state.contents.last_sequence, state.contents.trimmed.horizon);
        let by_number = self.retention.count.map_or(0, |count| last.saturating_sub(count));
        let age = self.retention.age.map(|age| i64::try_from(age.as_micros()).unwrap_or(i64::MAX));
        let oldest = age.map(|age| Timestamp::now().as_micros().saturating_sub(age));
        let is_beyond = |change: &Result<Change, StoreError>| match change {
            Ok(change) => change.sequence <= by_number || oldest.is_some_and(|oldest| change.commit_time.as_micros() <= oldest),
            // One that is damaged has no age: it stays where it is, and is passed.
            Err(_) => true,
        };
        let up_to = if oldest.is_some() { last.saturating_sub(1) } else { by_number.min(last.saturating_sub(1)) };
        let changes = self.range(horizon, up_to)?;
        let count = changes.iter().take_while(|(_, change)| is_beyond(change)).count();
        Ok(count.checked_sub(1).and_then(|at| changes.get(at)).map(|(sequence, _)| *sequence))
    }

    /// The next changes after one, up to another, and how far they go.
    fn page(&self, after: u64, up_to: u64) -> Result<(Vec<Change>, u64), StoreError> {
        let changes = self.range(after, up_to)?;
        let end = changes.last().filter(|_| changes.len() == STEP_CHANGES).map_or(up_to, |(sequence, _)| *sequence);
        // What is damaged is for verification to find.
        Ok((changes.into_iter().filter_map(|(_, change)| change.ok()).collect(), end))
    }

    #[expect(clippy::type_complexity, reason = "each with its number, whatever it decodes to")]
    fn range(&self, after: u64, up_to: u64) -> Result<Vec<(u64, Result<Change, StoreError>)>, StoreError> {
        if after >= up_to {
            return Ok(Vec::new());
        }
        let mut changes = Vec::new();
        for (first, run) in self.trees.runs(after, up_to)? {
            match run {
                Ok((_, run)) => {
                    let wanted = run.into_iter().filter(|change| change.sequence > after && change.sequence <= up_to);
                    changes.extend(wanted.map(|change| (change.sequence, Ok(change))));
                }
                Err(error) => changes.push((first.max(after + 1), Err(error))),
            }
            if changes.len() >= STEP_CHANGES {
                changes.truncate(STEP_CHANGES);
                break;
            }
        }
        Ok(changes)
    }

    /// The numbers of the changes that `goes` says, given the number of the latest change of the same article.
    fn those(&self, changes: Vec<Change>, goes: impl Fn(u64, &Change) -> bool) -> Result<Vec<u64>, StoreError> {
        let mut remove = Vec::new();
        for change in changes {
            let latest = match latest_change(&self.trees, &change.key) {
                // While a group is applied an article may be found in neither tree.
                Ok(None) => self.trees.between_groups(|trees| latest_change(trees, &change.key)),
                latest => latest,
            };
            match latest {
                Ok(Some(latest)) if goes(latest, &change) => remove.push(change.sequence),
                // Where it cannot be told, the change stays.
                Ok(_) | Err(StoreError::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(remove)
    }

    fn send(&self, step: TrimStep) -> Result<(), StoreError> {
        self.shared.writable().map_err(StoreError::Failed)?;
        let (reply, done) = oneshot::channel();
        let committer = self.committer.upgrade().ok_or(StoreError::Closed)?;
        committer.blocking_send(Command::Trim { step, reply }).map_err(|_| StoreError::Closed)?;
        drop(committer);
        done.blocking_recv().unwrap_or(Err(StoreError::Closed))
    }
}

/// The number of the latest change of an article: the one that made its record, or its tombstone.
fn latest_change(trees: &Trees, key: &ArticleKey) -> Result<Option<u64>, StoreError> {
    let key_bytes = keys::article_key(key);
    if let Some(record) = trees.get(Tree::Articles, &key_bytes)? {
        return Ok(Some(StoredRecord::decode(key, &record)?.header.head().sequence));
    }
    let tombstone = trees.get(Tree::Tombstones, &key_bytes)?;
    Ok(tombstone.map(|value| Tombstone::decode(&key_bytes, &value)).transpose()?.map(|tombstone| tombstone.sequence))
}
