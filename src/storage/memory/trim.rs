//! Trimming the change log of the reference engine: with every batch, everything that is to go by then.

use super::State;
use crate::article::{ArticleKey, Timestamp};
use crate::storage::{Change, ChangeKind};

/// How far superseded changes were swept, and when that was noted: deletions up to there go some time later.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mark {
    swept: u64,
    time: Option<Timestamp>,
}

impl State {
    /// Removes what the retention says.
    pub fn trim(&mut self, now: Timestamp) {
        if !self.retention.trims() {
            return;
        }
        let later = self.changes.range(self.trimmed.horizon + 1..self.last_sequence.max(self.trimmed.horizon + 1));
        if let Some((sequence, _)) = later.take_while(|(_, change)| self.is_beyond(change, now)).last() {
            self.trimmed.horizon = *sequence;
        }
        self.remove(|state, change| change.sequence <= state.trimmed.horizon && state.latest_change(&change.key) != Some(change.sequence));
        self.trimmed.swept = self.trimmed.horizon;
        loop {
            let waited = self.mark.time.is_some_and(|time| elapsed(time, now) >= self.retention.rebuild_time.as_micros() as i64);
            if self.mark.swept > self.trimmed.deletions && waited {
                self.trimmed.deletions = self.mark.swept;
                self.remove(|state, change| change.sequence <= state.trimmed.deletions && change.kind == ChangeKind::Deleted);
            } else if self.mark.swept == self.trimmed.deletions && self.trimmed.swept > self.mark.swept {
                self.mark = Mark { swept: self.trimmed.swept, time: Some(now) };
            } else {
                return;
            }
        }
    }

    fn is_beyond(&self, change: &Change, now: Timestamp) -> bool {
        let by_number = self.retention.count.is_some_and(|count| change.sequence + count <= self.last_sequence);
        by_number || self.retention.age.is_some_and(|age| elapsed(change.commit_time, now) >= age.as_micros() as i64)
    }

    fn latest_change(&self, key: &ArticleKey) -> Option<u64> {
        let article = self.articles.get(key).map(|kept| kept.latest.head.sequence);
        article.or_else(|| self.tombstones.get(key).map(|tombstone| tombstone.sequence))
    }

    fn remove(&mut self, goes: impl Fn(&Self, &Change) -> bool) {
        let gone: Vec<u64> = self.changes.values().filter(|change| goes(self, change)).map(|change| change.sequence).collect();
        self.trimmed.removed += gone.len() as u64;
        gone.iter().for_each(|sequence| drop(self.changes.remove(sequence)));
    }
}

fn elapsed(since: Timestamp, now: Timestamp) -> i64 {
    now.as_micros() - since.as_micros()
}
