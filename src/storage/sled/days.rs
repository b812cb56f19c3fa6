//! Whether sled came back with every article of a day: checked against the day's manifest before the first answer from it.
//!
//! Checksums tell that what is there is right; manifests tell that nothing is missing or old. Each day is looked at once after
//! opening, by whoever needs it first or by the sweep.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::entry::Manifest;
use super::keys::{self, Tree};
use super::trees::{Trees, sled_error};
use crate::article::ArticleDate;
use crate::storage::StoreError;

/// The sweep rests so long after every day, so that it takes at most a part of one core.
const REST: Duration = Duration::from_micros(200);

/// What is known of each day since the store was opened.
#[derive(Debug, Default)]
pub struct DayChecks(RwLock<HashMap<ArticleDate, Condition>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    Whole,
    Incomplete,
}

impl Trees {
    /// Looks at a day where nobody has yet.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] where the day's articles are not those that its manifest says.
    pub fn check_day(&self, date: ArticleDate) -> Result<(), StoreError> {
        match self.known(date) {
            Some(condition) => told(date, condition),
            None => self.look_at_day(date, || self.between_groups(|trees| trees.day_is_whole(date))),
        }
    }

    /// The same for whoever decides a group, during which nothing is applied.
    pub fn check_day_in_group(&self, date: ArticleDate) -> Result<(), StoreError> {
        match self.known(date) {
            Some(condition) => told(date, condition),
            None => self.look_at_day(date, || self.day_is_whole(date)),
        }
    }

    /// Whether a day was looked at already, so that reading from it takes no longer than the reading.
    pub fn day_is_known(&self, date: ArticleDate) -> bool {
        self.known(date).is_some()
    }

    fn known(&self, date: ArticleDate) -> Option<Condition> {
        self.day_checks().0.read().unwrap_or_else(PoisonError::into_inner).get(&date).copied()
    }

    fn look_at_day(&self, date: ArticleDate, look: impl FnOnce() -> Result<bool, StoreError>) -> Result<(), StoreError> {
        let condition = match look() {
            Ok(true) => Condition::Whole,
            Ok(false) | Err(StoreError::Damaged { .. }) => Condition::Incomplete,
            Err(error) => return Err(error),
        };
        if condition == Condition::Incomplete {
            self.damage().note_index(&incomplete(date));
        }
        self.day_checks().0.write().unwrap_or_else(PoisonError::into_inner).insert(date, condition);
        told(date, condition)
    }

    fn day_is_whole(&self, date: ArticleDate) -> Result<bool, StoreError> {
        let key = keys::day_key(date);
        let manifest = self.get(Tree::Days, &key)?.map_or(Ok(Manifest::default()), |value| Manifest::decode(&key, &value))?;
        Ok(self.manifest_of(date)? == manifest)
    }
}

fn told(date: ArticleDate, condition: Condition) -> Result<(), StoreError> {
    match condition {
        Condition::Whole => Ok(()),
        Condition::Incomplete => Err(incomplete(date)),
    }
}

fn incomplete(date: ArticleDate) -> StoreError {
    StoreError::damaged(format!("the day {date}"), "its articles are not those that were stored")
}

/// Looks at every day that nobody asked for yet, one after the other, until told to stop.
pub fn sweep(trees: &Trees, stop: &Arc<AtomicBool>) {
    let mut after = None;
    while !stop.load(Ordering::Relaxed) {
        let range = after.map_or(keys::day_key(ArticleDate::MIN).to_vec(), |date| [&keys::day_key(date)[..], &[0]].concat());
        let next = trees.tree(Tree::Days).range(range..).next().map(|entry| entry.map_err(sled_error));
        let date = match next.map(|entry| entry.and_then(|(key, _)| keys::parse_day_key(&key))) {
            None => return,
            Some(Ok(date)) => date,
            Some(Err(error)) => {
                tracing::error!(%error, "the days cannot be looked at");
                return;
            }
        };
        // What is wrong was logged, and is answered to whoever asks for the day.
        drop(trees.check_day(date));
        after = Some(date);
        std::thread::sleep(REST); // ok: a pace, not a wait for anything.
    }
}
