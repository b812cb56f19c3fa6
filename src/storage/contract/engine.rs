//! An engine as a subject of the suite, and what it promises of its own end.

use std::sync::Arc;

use async_trait::async_trait;

use super::kit::{OrViolation as _, Site, batch, holds};
use super::{GroupKind, PutOutcome, Subject, Violation};
use crate::article::{Article, ArticleDate, ArticleKey, CanonicalUrl, Filter, StoredArticle, Timestamp};
use crate::storage::{
    ArticleStore, CountRequest, CountedGroup, Direction, GroupBy, LogPlace, Precondition, RevisionsRequest, ScanRequest, StoreError, Write,
    WriteOutcome, Written,
};

/// Texts of a page at most: little, so that the suite's larger articles end pages before their limit does.
const TEXT_BUDGET: usize = 64 << 10;

/// An engine as a [`Subject`].
pub struct Engine(pub Arc<dyn ArticleStore>);

impl Engine {
    async fn write(&self, write: Write) -> Result<WriteOutcome, String> {
        let outcome = self.0.write(batch([write])).await.map_err(text)?;
        outcome.outcomes.into_iter().next().ok_or_else(|| "a batch of one write has no outcome".to_owned())
    }
}

fn text(error: StoreError) -> String {
    error.to_string()
}

fn parse(url: &str) -> Result<CanonicalUrl, String> {
    CanonicalUrl::parse(url).map_err(|error| error.to_string())
}

#[async_trait]
impl Subject for Engine {
    async fn put(&self, article: Article, precondition: Precondition) -> Result<WriteOutcome, String> {
        self.write(Write::Put { article: Box::new(article), precondition }).await
    }

    async fn delete(&self, key: ArticleKey, precondition: Precondition) -> Result<WriteOutcome, String> {
        self.write(Write::Delete { key, precondition }).await
    }

    async fn put_many(&self, articles: Vec<Article>) -> Result<Vec<PutOutcome>, String> {
        let outcome = self.0.write(batch(articles.into_iter().map(Write::put))).await.map_err(text)?;
        let put = |outcome: WriteOutcome| match outcome {
            Ok(Written::Created(head)) => Ok(PutOutcome::Created(head.etag())),
            Ok(Written::Updated(head)) => Ok(PutOutcome::Updated(head.etag())),
            Ok(Written::Unchanged(head)) => Ok(PutOutcome::Unchanged(head.etag())),
            other => Err(format!("a put without a precondition had the outcome {other:?}")),
        };
        outcome.outcomes.into_iter().map(put).collect()
    }

    async fn article(&self, key: &ArticleKey) -> Result<Option<StoredArticle>, String> {
        self.0.article(key).await.map_err(text)
    }

    async fn latest_article(&self, url: &str) -> Result<Option<StoredArticle>, String> {
        self.0.latest_article(&parse(url)?).await.map_err(text)
    }

    async fn article_dates(&self, url: &str) -> Result<Vec<ArticleDate>, String> {
        self.0.article_dates(&parse(url)?, usize::MAX).await.map_err(text)
    }

    async fn articles(&self, keys: &[ArticleKey]) -> Result<Vec<Option<StoredArticle>>, String> {
        let mut found = Vec::with_capacity(keys.len());
        while let Some(rest) = keys.get(found.len()..).filter(|rest| !rest.is_empty()) {
            let results = self.0.articles(rest, TEXT_BUDGET).await.map_err(text)?;
            if results.is_empty() || results.len() > rest.len() {
                return Err(format!("a lookup of {} keys has {} results", rest.len(), results.len()));
            }
            for result in results {
                found.push(result.map_err(text)?);
            }
        }
        Ok(found)
    }

    async fn scan(&self, filter: &Filter, direction: Direction, page_size: usize) -> Result<Vec<StoredArticle>, String> {
        let mut found = Vec::new();
        let mut request = ScanRequest { filter: filter.clone(), direction, after: None, limit: page_size, text_budget: TEXT_BUDGET };
        loop {
            let page = self.0.scan(&request).await.map_err(text)?;
            if page.items.len() > page_size {
                return Err(format!("a page of at most {page_size} articles has {}", page.items.len()));
            }
            found.extend(page.items);
            match page.next {
                Some(next) if request.after.as_ref() == Some(&next) => return Err(format!("a scan does not get past {next}")),
                Some(next) => request.after = Some(next),
                None => return Ok(found),
            }
        }
    }

    async fn count(&self, filter: &Filter, group_by: GroupKind, page_size: usize) -> Result<Vec<(String, u64)>, String> {
        let mut found = Vec::new();
        let mut group_by = match group_by {
            GroupKind::Total => GroupBy::Total,
            GroupKind::Day => GroupBy::Day(None),
            GroupKind::Host => GroupBy::Host(None),
        };
        loop {
            let request = CountRequest { filter: filter.clone(), group_by: group_by.clone(), limit: page_size };
            let groups = self.0.count(&request).await.map_err(text)?;
            let full = groups.len() >= page_size;
            for group in groups {
                let name = match group.group {
                    CountedGroup::Total => return Ok(vec![(String::new(), group.count)]),
                    CountedGroup::Day(day) => {
                        group_by = GroupBy::Day(Some(day));
                        day.to_string()
                    }
                    CountedGroup::Host(host) => {
                        let name = host.host();
                        group_by = GroupBy::Host(Some(host));
                        name
                    }
                };
                found.push((name, group.count));
            }
            if !full {
                return Ok(found);
            }
        }
    }
}

/// See [`check_closing`](super::check_closing).
pub async fn check_closing(store: &dyn ArticleStore) -> Result<(), Violation> {
    let site = Site::new()?;
    let article = site.article("/closing", "written before the end")?;
    let promise = "what was submitted before closing is carried out";
    let mut pending = Vec::new();
    for number in 0..20 {
        let write = Write::put(site.article("/closing", &format!("text {number}"))?);
        pending.push(store.submit(batch([write])).await.or_violation(promise)?);
    }
    let waits = async {
        let promise = "who waits for changes is told what there is, and of the end";
        let mut seen = 0;
        loop {
            match store.sequence_after(seen).await {
                Ok(sequence) => holds(promise, sequence > seen, || format!("{sequence} after {seen}"))?,
                Err(StoreError::Closed) => return Ok(()),
                Err(error) => return Err(Violation::new(promise, error)),
            }
            seen = store.sequence();
        }
    };
    let (closed, waited) = tokio::join!(store.close(), waits);
    closed.or_violation("a healthy store can be closed")?;
    waited?;
    for (number, pending) in pending.into_iter().enumerate() {
        let outcome = pending.await.or_violation(promise)?;
        let revisions: Vec<_> = outcome.outcomes.iter().map(|outcome| outcome.as_ref().map(|written| written.head().revision)).collect();
        holds(promise, revisions == [Ok(number as u64 + 1)], || format!("batch {number} became {revisions:?}"))?;
    }

    let (key, filter) = (article.key().clone(), site.filter()?);
    let scan = ScanRequest { filter: filter.clone(), direction: Direction::Ascending, after: None, limit: 1, text_budget: 1 };
    let count = CountRequest { filter, group_by: GroupBy::Total, limit: 1 };
    let revisions = RevisionsRequest { key: key.clone(), before: None, limit: 1, text_budget: 1 };
    let stream = "closed".parse().or_violation("the stream id of the check is one")?;
    let calls = [
        ("article", store.article(&key).await.err()),
        ("latest_article", store.latest_article(&key.url).await.err()),
        ("article_dates", store.article_dates(&key.url, 1).await.err()),
        ("articles", store.articles(std::slice::from_ref(&key), 1).await.err()),
        ("revision", store.revision(&key, 1).await.err()),
        ("revision_as_of", store.revision_as_of(&key, Timestamp::now()).await.err()),
        ("revisions", store.revisions(&revisions).await.err()),
        ("revision_heads", store.revision_heads(&revisions).await.err()),
        ("scan", store.scan(&scan).await.err()),
        ("scan_heads", store.scan_heads(&scan).await.err()),
        ("count", store.count(&count).await.err()),
        ("write", store.write(batch([Write::put(article)])).await.err()),
        ("open_stream", store.open_stream(&stream).await.err()),
        ("rejections", store.rejections(&stream, 0, 1).await.err()),
        ("sequence_after", store.sequence_after(0).await.err()),
        ("changes", store.changes(LogPlace::after(0), 1).await.err()),
        ("snapshot", store.snapshot().await.err()),
        ("verify", store.verify(None).await.err()),
        ("stats", store.stats().await.err()),
    ];
    for (call, error) in calls {
        let promise = format!("after closing, {call} is refused as Closed");
        holds(&promise, matches!(error, Some(StoreError::Closed)), || format!("it answered {error:?}"))?;
    }
    store.close().await.or_violation("closing a closed store does nothing")
}
