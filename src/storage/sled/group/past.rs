//! What of an article's past stays when it is written again, and what goes.

use super::{Group, Payload};
use crate::article::ArticleKey;
use crate::storage::sled::keys::{self, Tree};
use crate::storage::sled::stored::StoredRecord;
use crate::storage::sled::trees::sled_error;
use crate::storage::{History, StoreError};

/// Earlier revisions that one update removes at most: where fewer are kept than before, the rest goes with the next updates.
const SURPLUS_STEP: usize = 100;

impl Group<'_> {
    /// Takes note that the latest record of an article, with this payload, becomes an earlier revision, or goes where none are
    /// kept. Gives the key under which it is to stand then.
    pub(super) fn keep_earlier(&mut self, key_bytes: &[u8], revision: u64, payload: Payload) -> Result<Option<Vec<u8>>, StoreError> {
        // Where more are there than go now, this one stays until they are gone: those that are kept have no hole.
        if self.history == History::Last(0) && self.earlier_count(key_bytes)? < SURPLUS_STEP {
            self.state.revisions_dropped = true;
            self.release(payload)?;
            return Ok(None);
        }
        let revision_key = keys::revision_key(key_bytes, revision);
        self.additions.entry(key_bytes.to_vec()).or_default().push((revision_key.clone(), payload));
        self.state.contents.earlier_revisions += 1;
        self.state.earlier_record_bytes += payload.record_bytes();
        Ok(Some(revision_key))
    }

    /// How many earlier revisions an article has as the group sees it; at most about as many as one update removes.
    fn earlier_count(&self, key_bytes: &[u8]) -> Result<usize, StoreError> {
        let added = self.additions.get(key_bytes).map_or(0, Vec::len);
        if self.purged.contains(key_bytes) {
            return Ok(added);
        }
        let (start, end) = (self.first_stored(key_bytes), keys::revision_key(key_bytes, u64::MAX));
        let stored = self.trees.tree(Tree::Revisions).range(start..end).keys().take(SURPLUS_STEP);
        stored.map(|key| key.map_err(sled_error)).try_fold(added, |count, key| key.map(|_| count + 1))
    }

    /// Where the stored earlier revisions of an article begin that this group has not removed.
    fn first_stored(&self, key_bytes: &[u8]) -> Vec<u8> {
        self.dropped.get(key_bytes).cloned().unwrap_or_else(|| keys::revisions_prefix(key_bytes))
    }

    /// Removes the earlier revisions that are too many now that an article has its latest one, the oldest first: those that stay
    /// have consecutive numbers.
    pub(super) fn drop_surplus(&mut self, key: &ArticleKey, key_bytes: &[u8], latest: u64) -> Result<(), StoreError> {
        let History::Last(count) = self.history else { return Ok(()) };
        if latest.saturating_sub(count) <= 1 {
            return Ok(());
        }
        let first_kept = keys::revision_key(key_bytes, latest.saturating_sub(count));
        let mut surplus = Vec::new();
        if !self.purged.contains(key_bytes) {
            let start = self.first_stored(key_bytes);
            if start < first_kept {
                for entry in self.trees.tree(Tree::Revisions).range(start..first_kept.clone()).take(SURPLUS_STEP) {
                    let (revision_key, value) = entry.map_err(sled_error)?;
                    surplus.push((revision_key.to_vec(), payload_of(key, &value)));
                }
                let next = match surplus.last() {
                    Some((last, _)) if surplus.len() == SURPLUS_STEP => [&last[..], &[0]].concat(),
                    _ => first_kept.clone(),
                };
                self.dropped.insert(key_bytes.to_vec(), next);
            }
        }
        if surplus.len() < SURPLUS_STEP
            && let Some(additions) = self.additions.get_mut(key_bytes)
        {
            let count = additions.iter().take_while(|(revision_key, _)| *revision_key < first_kept).count();
            surplus.extend(additions.drain(..count).map(|(revision_key, payload)| (revision_key, Some(payload))));
        }
        self.state.revisions_dropped |= !surplus.is_empty();
        self.remove_revisions(surplus)
    }

    /// Removes the earlier revisions of an article, those stored and those that this group adds.
    pub(super) fn purge_revisions(&mut self, key: &ArticleKey, key_bytes: &[u8]) -> Result<(), StoreError> {
        let mut purged: Vec<_> =
            self.additions.remove(key_bytes).unwrap_or_default().into_iter().map(|(key, payload)| (key, Some(payload))).collect();
        if self.purged.insert(key_bytes.to_vec()) {
            let prefix = keys::revisions_prefix(key_bytes);
            let start = self.dropped.remove(key_bytes).unwrap_or_else(|| prefix.clone());
            for entry in self.trees.tree(Tree::Revisions).range(start..).take_while(|entry| stands_under(entry, &prefix)) {
                let (revision_key, value) = entry.map_err(sled_error)?;
                purged.push((revision_key.to_vec(), payload_of(key, &value)));
            }
        }
        self.remove_revisions(purged)
    }

    fn remove_revisions(&mut self, revisions: Vec<(Vec<u8>, Option<Payload>)>) -> Result<(), StoreError> {
        let contents = &mut self.state.contents;
        contents.earlier_revisions = contents.earlier_revisions.saturating_sub(revisions.len() as u64);
        for (revision_key, payload) in revisions {
            if let Some(payload) = payload {
                self.release(payload)?;
                self.state.earlier_record_bytes = self.state.earlier_record_bytes.saturating_sub(payload.record_bytes());
            }
            self.clear(Tree::Revisions, revision_key);
        }
        Ok(())
    }
}

/// The payload of a damaged record stays in use by nobody until its segment is rewritten.
fn payload_of(key: &ArticleKey, value: &[u8]) -> Option<Payload> {
    StoredRecord::decode(key, value).ok().map(|record| Payload::of(&record))
}

fn stands_under(entry: &sled::Result<(sled::IVec, sled::IVec)>, prefix: &[u8]) -> bool {
    entry.as_ref().map_or(true, |(key, _)| key.starts_with(prefix))
}
