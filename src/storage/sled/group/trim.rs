//! Taking changes out of the change log: what the trimmer has found to go, and what a write supersedes where the log was trimmed
//! already.

use super::Group;
use crate::storage::StoreError;
use crate::storage::sled::keys::Tree;

/// A step of trimming. Numbers that are lower than what they were change nothing.
#[derive(Debug, Clone, Default)]
pub struct TrimStep {
    /// Changes that go; those that are gone already are left alone.
    pub remove: Vec<u64>,
    /// What [`Trimmed`](crate::storage::Trimmed) says afterwards.
    pub horizon: u64,
    pub swept: u64,
    pub deletions: u64,
    /// How far deletions are swept afterwards.
    pub deletions_swept: u64,
    /// A new mark, and when it is made.
    pub mark: Option<(u64, i64)>,
}

impl Group<'_> {
    /// Carries a step of trimming out.
    pub fn trim(&mut self, step: TrimStep) -> Result<(), StoreError> {
        let TrimStep { remove, horizon, swept, deletions, deletions_swept, mark } = step;
        remove.into_iter().try_for_each(|sequence| self.remove_change(sequence))?;
        let trimmed = &mut self.state.contents.trimmed;
        trimmed.horizon = trimmed.horizon.max(horizon);
        trimmed.swept = trimmed.swept.max(swept);
        trimmed.deletions = trimmed.deletions.max(deletions);
        let sweep = &mut self.state.deletions;
        sweep.swept = sweep.swept.max(deletions_swept);
        if let Some(mark) = mark {
            (sweep.mark, sweep.mark_time) = mark;
        }
        self.trims = true;
        Ok(())
    }

    /// A change has a later one of the same article now. Where the trimmer will not come to it again, it goes at once.
    pub(super) fn supersede_change(&mut self, sequence: u64) -> Result<(), StoreError> {
        if sequence <= self.horizon { self.remove_change(sequence) } else { Ok(()) }
    }

    fn remove_change(&mut self, sequence: u64) -> Result<(), StoreError> {
        let key = sequence.to_be_bytes();
        if self.trees.get(Tree::Changes, &key)?.is_some() && self.removed_changes.insert(sequence) {
            self.clear(Tree::Changes, key.into());
            self.state.contents.trimmed.removed += 1;
        }
        Ok(())
    }
}
