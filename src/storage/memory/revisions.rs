//! Reading revisions of the reference engine: all that an article has had since it was last created.

use super::{Kept, State};
use crate::article::{ArticleKey, StoredArticle, Timestamp};
use crate::storage::{FoundRevision, History, Page, RevisionsRequest};

impl Kept {
    /// Newest first.
    fn revisions(&self) -> impl Iterator<Item = &StoredArticle> {
        std::iter::once(&self.latest).chain(self.earlier_revisions.iter().rev())
    }

    /// Lets go of the oldest where there are more than are to be kept.
    pub fn drop_surplus(&mut self, history: History) {
        if let History::Last(count) = history {
            let surplus = self.earlier_revisions.len().saturating_sub(usize::try_from(count).unwrap_or(usize::MAX));
            self.earlier_revisions.drain(..surplus);
        }
    }

    /// Whether the first revision since the article was created was dropped.
    fn lacks_first(&self) -> bool {
        self.revisions().last().is_some_and(|oldest| oldest.head.update_time > oldest.head.create_time)
    }
}

impl State {
    pub fn revision(&self, key: &ArticleKey, revision: u64) -> FoundRevision {
        let Some(kept) = self.articles.get(key) else { return FoundRevision::Missing };
        match kept.revisions().find(|stored| stored.head.revision == revision) {
            None if revision > 0 && revision < kept.latest.head.revision && kept.lacks_first() => FoundRevision::NotKept,
            found => found.cloned().into(),
        }
    }

    pub fn revision_as_of(&self, key: &ArticleKey, instant: Timestamp) -> FoundRevision {
        let Some(kept) = self.articles.get(key) else { return FoundRevision::Missing };
        match kept.revisions().find(|stored| stored.head.update_time <= instant) {
            None if instant >= kept.latest.head.create_time => FoundRevision::NotKept,
            found => found.cloned().into(),
        }
    }

    /// Collects a page: `take` makes an item of a revision and tells whether the page has room for more after it.
    pub fn revisions<T>(&self, request: &RevisionsRequest, mut take: impl FnMut(&StoredArticle) -> (T, bool)) -> Page<T, u64> {
        let mut items = Vec::new();
        let kept = self.articles.get(&request.key).into_iter().flat_map(Kept::revisions);
        let mut rest = kept.filter(|stored| request.before.is_none_or(|before| stored.head.revision < before)).peekable();
        while let Some(stored) = rest.next() {
            let (item, room) = take(stored);
            items.push(item);
            if (items.len() >= request.limit || !room) && rest.peek().is_some() {
                return Page { items, next: Some(stored.head.revision) };
            }
        }
        Page { items, next: None }
    }
}
