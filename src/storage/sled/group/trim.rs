//! The change log: what a group adds to it, and what it takes out: what the trimmer has found to go, and what a write supersedes
//! where the log was trimmed already.

use super::Group;
use crate::storage::StoreError;
use crate::storage::sled::change_log;
use crate::storage::sled::journal::Mutation;
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
        let (first, changes) = match self.trees.run_of(sequence) {
            // It cannot be told what would have to stay, so all of it does.
            Err(error @ StoreError::Damaged { .. }) => {
                self.trees.damage().note_index(&error);
                return Ok(());
            }
            Ok(None) => return Ok(()),
            run => run?.unwrap_or_default(),
        };
        let kept = self.trimmed_runs.entry(first).or_insert(changes);
        let before = kept.len();
        kept.retain(|change| change.sequence != sequence);
        self.state.contents.trimmed.removed += (before - kept.len()) as u64;
        Ok(())
    }

    /// What the log comes to: runs that something was taken out of, and those of the changes that the group makes.
    pub(super) fn log_mutations(&mut self) {
        for (first, kept) in std::mem::take(&mut self.trimmed_runs) {
            let value = (!kept.is_empty()).then(|| change_log::encode(first, &kept));
            self.mutations.push(Mutation { tree: Tree::Changes, key: first.to_be_bytes().into(), value });
        }
        for (key, value) in change_log::entries(&std::mem::take(&mut self.changes)) {
            self.set(Tree::Changes, key, value);
        }
    }
}
