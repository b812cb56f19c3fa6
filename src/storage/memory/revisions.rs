//! Reading revisions of the reference engine: all that an article has had since it was last created.

use super::{Kept, State};
use crate::article::{ArticleKey, StoredArticle, Timestamp};
use crate::storage::{Page, RevisionsRequest};

impl Kept {
    /// Newest first.
    fn revisions(&self) -> impl Iterator<Item = &StoredArticle> {
        std::iter::once(&self.latest).chain(self.earlier_revisions.iter().rev())
    }
}

impl State {
    pub fn revision(&self, key: &ArticleKey, revision: u64) -> Option<StoredArticle> {
        self.articles.get(key)?.revisions().find(|stored| stored.head.revision == revision).cloned()
    }

    pub fn revision_as_of(&self, key: &ArticleKey, instant: Timestamp) -> Option<StoredArticle> {
        self.articles.get(key)?.revisions().find(|stored| stored.head.update_time <= instant).cloned()
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
