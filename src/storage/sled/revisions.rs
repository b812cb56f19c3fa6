//! Reading revisions: the latest stands in the tree of articles, the earlier ones in a tree of their own.
//!
//! A reader looks at one after the other while groups are applied: a revision moves from one tree to the other, and a deletion
//! takes them away one by one, and an update those that are too many. So where one is missing that should be there, the article's
//! record decides: if it is another by now, the reader begins again; if it is the same, the revision was dropped or is lost.

use super::entry::State;
use super::keys::{self, STATE_KEY, Tree};
use super::pool::Cancelled;
use super::reader::TRIES;
use super::stored::StoredRecord;
use super::trees::{Trees, sled_error};
use crate::article::{ArticleHead, ArticleKey, StoredArticle, Timestamp};
use crate::storage::record::HEADER_BYTES;
use crate::storage::{FoundRevision, Page, RevisionsRequest, StoreError};

/// A state with the bytes of the earlier revisions, which those written before these were counted lack.
pub fn with_earlier_bytes(trees: &Trees, mut state: State) -> Result<State, StoreError> {
    if state.contents.earlier_revisions > 0 && state.earlier_record_bytes == 0 {
        for entry in trees.tree(Tree::Revisions).iter() {
            let (key, value) = entry.map_err(sled_error)?;
            // What is damaged is for verification to find.
            let record = keys::parse_revision_key(&key).and_then(|key| StoredRecord::decode(&key, &value));
            state.earlier_record_bytes += record.map_or(0, |record| (HEADER_BYTES + record.header.payload_bytes()) as u64);
        }
    }
    Ok(state)
}

/// An article as it stands at one moment.
struct Standing<'a> {
    key: &'a ArticleKey,
    key_bytes: &'a [u8],
    record: sled::IVec,
    latest: ArticleHead,
}

/// A revision was not where it should be.
enum Missing {
    /// It was there, or should be since it is younger than the oldest.
    Revision(u64),
    /// It is older than the oldest, and nothing was ever dropped.
    First(u64),
    Failed(StoreError),
}

impl From<StoreError> for Missing {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

impl Trees {
    /// The article under a key in a revision.
    pub fn revision(&self, key: &ArticleKey, revision: u64) -> Result<FoundRevision, StoreError> {
        let found = self.standing(key, |standing| {
            let oldest = self.oldest_revision(standing)?;
            if revision > standing.latest.revision || revision == 0 {
                Ok(FoundRevision::Missing)
            } else if revision < oldest {
                self.before_oldest(standing, oldest)
            } else {
                self.kept_revision(standing, revision).map(Some).map(FoundRevision::from)
            }
        });
        Ok(found?.unwrap_or(FoundRevision::Missing))
    }

    /// The article under a key as it was at an instant.
    pub fn revision_as_of(&self, key: &ArticleKey, instant: Timestamp) -> Result<FoundRevision, StoreError> {
        let found = self.standing(key, |standing| {
            if instant < standing.latest.create_time {
                return Ok(FoundRevision::Missing);
            }
            // The times of revisions grow with their numbers: what is looked for lies from `from` to before `to`.
            let (mut from, mut to) = (self.oldest_revision(standing)?, standing.latest.revision + 1);
            if self.kept_head(standing, from)?.update_time > instant {
                return self.before_oldest(standing, from);
            }
            while to - from > 1 {
                let middle = from + (to - from) / 2;
                if self.kept_head(standing, middle)?.update_time <= instant {
                    from = middle;
                } else {
                    to = middle;
                }
            }
            self.kept_revision(standing, from).map(Some).map(FoundRevision::from)
        });
        Ok(found?.unwrap_or(FoundRevision::Missing))
    }

    /// A page of an article's revisions.
    pub fn revisions(&self, request: &RevisionsRequest, cancelled: &Cancelled) -> Result<Page<StoredArticle, u64>, StoreError> {
        let collect = |standing: &Standing<'_>| {
            let mut text_bytes = 0;
            self.revision_page(standing, request, cancelled, |revision| {
                let stored = self.kept_revision(standing, revision)?;
                text_bytes += stored.article.size();
                Ok((stored, text_bytes <= request.text_budget))
            })
        };
        Ok(self.standing(&request.key, collect)?.unwrap_or(Page { items: Vec::new(), next: None }))
    }

    /// A page of the heads of an article's revisions.
    pub fn revision_heads(&self, request: &RevisionsRequest, cancelled: &Cancelled) -> Result<Page<ArticleHead, u64>, StoreError> {
        let collect = |standing: &Standing<'_>| {
            self.revision_page(standing, request, cancelled, |revision| Ok((self.kept_head(standing, revision)?, true)))
        };
        Ok(self.standing(&request.key, collect)?.unwrap_or(Page { items: Vec::new(), next: None }))
    }

    /// Collects a page: `take` makes an item of a revision and tells whether the page has room for more after it.
    fn revision_page<T>(
        &self,
        standing: &Standing<'_>,
        request: &RevisionsRequest,
        cancelled: &Cancelled,
        mut take: impl FnMut(u64) -> Result<(T, bool), Missing>,
    ) -> Result<Page<T, u64>, Missing> {
        let mut items = Vec::new();
        let oldest = self.oldest_revision(standing)?;
        let newest = request.before.map_or(standing.latest.revision, |before| before.saturating_sub(1).min(standing.latest.revision));
        for revision in (oldest..=newest).rev() {
            cancelled.check()?;
            let (item, room) = take(revision)?;
            items.push(item);
            if (items.len() >= request.limit || !room) && revision > oldest {
                return Ok(Page { items, next: Some(revision) });
            }
        }
        Ok(Page { items, next: None })
    }

    /// Looks at an article and its revisions, again where it changes meanwhile. `None` where there is no such article.
    fn standing<T>(&self, key: &ArticleKey, mut look: impl FnMut(&Standing<'_>) -> Result<T, Missing>) -> Result<Option<T>, StoreError> {
        self.check_day(key.date)?;
        let key_bytes = keys::article_key(key);
        for _ in 0..TRIES {
            let Some(record) = self.get(Tree::Articles, &key_bytes)? else { return Ok(None) };
            let latest = StoredRecord::decode(key, &record)?.header.into_head();
            let standing = Standing { key, key_bytes: &key_bytes, record, latest };
            match look(&standing) {
                Ok(found) => return Ok(Some(found)),
                Err(Missing::Failed(error)) => return Err(error),
                Err(Missing::Revision(revision)) => {
                    // What is not among the kept ones any more was dropped meanwhile.
                    if self.stands(&standing, |trees| Ok(trees.oldest_revision(&standing)? <= revision))? {
                        return Err(lost(key, revision));
                    }
                }
                Err(Missing::First(revision)) => {
                    if self.stands(&standing, |_| Ok(true))? {
                        return Err(lost(key, revision));
                    }
                }
            }
        }
        Err(StoreError::damaged(format!("article {key}"), "it changed all the time while it was read"))
    }

    /// Whether an article is as it was, and this holds of it: between groups, since the trees disagree while one is applied.
    fn stands(&self, standing: &Standing<'_>, holds: impl FnOnce(&Self) -> Result<bool, StoreError>) -> Result<bool, StoreError> {
        self.between_groups(|trees| {
            let same = trees.get(Tree::Articles, standing.key_bytes)?.as_ref() == Some(&standing.record);
            Ok(same && holds(trees)?)
        })
    }

    /// The number of the oldest revision that is kept.
    fn oldest_revision(&self, standing: &Standing<'_>) -> Result<u64, StoreError> {
        let earlier = self.tree(Tree::Revisions).scan_prefix(keys::revisions_prefix(standing.key_bytes)).keys().next();
        let oldest = earlier.transpose().map_err(sled_error)?.map(|key| keys::parse_revision_number(&key)).transpose()?;
        Ok(oldest.map_or(standing.latest.revision, |oldest| oldest.min(standing.latest.revision)))
    }

    /// What there is before the oldest revision: nothing where that is the first since the article was created; else what was
    /// dropped, or damage where nothing ever was.
    fn before_oldest(&self, standing: &Standing<'_>, oldest: u64) -> Result<FoundRevision, Missing> {
        let head = self.kept_head(standing, oldest)?;
        if head.update_time == head.create_time {
            return Ok(FoundRevision::Missing);
        }
        // Between groups, since the state comes last in each.
        let state = self.between_groups(|trees| trees.get(Tree::State, STATE_KEY))?;
        match state.map(|value| State::decode(&value)).transpose()? {
            Some(State { revisions_dropped: true, .. }) => Ok(FoundRevision::NotKept),
            _ => Err(Missing::First(oldest.saturating_sub(1))),
        }
    }

    /// A revision that should be there.
    fn kept_revision(&self, standing: &Standing<'_>, revision: u64) -> Result<StoredArticle, Missing> {
        let (tree, key_bytes, record) = self.record_of(standing, revision)?;
        match self.decode(standing.key, tree, &key_bytes, record)? {
            Some(stored) if stored.head.revision == revision => Ok(stored),
            // Replaced or deleted meanwhile; or what stands there is another revision, which is damage.
            _ => Err(Missing::Revision(revision)),
        }
    }

    /// The head of a revision that should be there.
    fn kept_head(&self, standing: &Standing<'_>, revision: u64) -> Result<ArticleHead, Missing> {
        if revision == standing.latest.revision {
            return Ok(standing.latest.clone());
        }
        let (_, _, record) = self.record_of(standing, revision)?;
        let head = StoredRecord::decode(standing.key, &record)?.header.into_head();
        if head.revision == revision { Ok(head) } else { Err(Missing::Revision(revision)) }
    }

    fn record_of(&self, standing: &Standing<'_>, revision: u64) -> Result<(Tree, Vec<u8>, sled::IVec), Missing> {
        if revision == standing.latest.revision {
            return Ok((Tree::Articles, standing.key_bytes.to_vec(), standing.record.clone()));
        }
        let key_bytes = keys::revision_key(standing.key_bytes, revision);
        let record = self.get(Tree::Revisions, &key_bytes)?.ok_or(Missing::Revision(revision))?;
        Ok((Tree::Revisions, key_bytes, record))
    }
}

fn lost(key: &ArticleKey, revision: u64) -> StoreError {
    StoreError::damaged(format!("revision {revision} of article {key}"), "it is missing")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::article::{ArticleDraft, Limits};
    use crate::storage::sled::SledStore;
    use crate::storage::{ArticleStore as _, StoreOptions, Write, WriteBatch};

    #[tokio::test]
    async fn a_revision_that_is_lost_or_another_is_damage() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path(), StoreOptions::default()).unwrap();
        let mut heads = Vec::new();
        for title in ["one", "two", "three", "four", "five"] {
            let draft =
                ArticleDraft { date: "2024-05-01".into(), url: "https://example.com/a".into(), title: title.into(), ..Default::default() };
            let write = Write::put(draft.validate(&Limits::default()).unwrap());
            let outcome = store.write(WriteBatch { writes: vec![write], stream: None }).await.unwrap();
            heads.push(outcome.outcomes[0].as_ref().unwrap().head().clone());
        }
        let key = &heads[0].key;
        let (time, place) = (|at: usize| heads[at].update_time, |revision| keys::revision_key(&keys::article_key(key), revision));
        let earlier = store.trees.tree(Tree::Revisions);
        let damaged = |found: Result<FoundRevision, StoreError>| matches!(found, Err(StoreError::Damaged { .. }));

        let third = earlier.remove(place(3)).unwrap().unwrap();
        assert!(damaged(store.revision(key, 3).await) && damaged(store.revision_as_of(key, time(2)).await));
        let request = RevisionsRequest { key: key.clone(), before: None, limit: 10, text_budget: usize::MAX };
        assert!(matches!(store.revisions(&request).await, Err(StoreError::Damaged { .. })));
        assert!(matches!(store.revision_heads(&request).await, Err(StoreError::Damaged { .. })));
        // What stands there is whole, but has another number.
        let second = earlier.get(place(2)).unwrap().unwrap();
        earlier.insert(place(3), second).unwrap();
        assert!(damaged(store.revision(key, 3).await) && damaged(store.revision_as_of(key, time(2)).await));
        earlier.insert(place(3), third).unwrap();
        assert_eq!(store.revision(key, 3).await.unwrap().kept().unwrap().head, heads[2]);
        assert_eq!(store.revision_as_of(key, time(2)).await.unwrap().kept().unwrap().head, heads[2]);

        let first = earlier.remove(place(1)).unwrap().unwrap();
        assert!(damaged(store.revision_as_of(key, time(0)).await));
        assert_eq!(store.revision_as_of(key, time(1)).await.unwrap().kept().unwrap().head, heads[1]);
        earlier.insert(place(1), [&first[..first.len() / 2], &[1], &first[first.len() / 2 + 1..]].concat()).unwrap();
        assert!(damaged(store.revision(key, 1).await));
        store.close().await.unwrap();
    }
}
