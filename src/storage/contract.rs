//! The suite that every engine passes, and, through a client, the daemon: the promises of [`ArticleStore`] as checks.
//!
//! It runs in two worlds, so most of it works on [`Subject`], which both an engine and a client can be. What only engines
//! have (the change log, ingest streams, cursors) is checked on [`ArticleStore`] itself. No check assumes an empty store:
//! each uses hosts of its own and filters by them.

mod concurrency;
mod engine;
mod history;
mod kit;
mod log;
mod lookups;
mod pages;
mod revisions;
mod scans;
mod snapshots;
mod streams;
mod texts;
mod trimming;
mod writes;

use std::sync::Arc;

use async_trait::async_trait;

use super::{ArticleStore, Direction, Precondition, SnapshotInfo, SnapshotItem, WriteOutcome};
use crate::article::{Article, ArticleDate, ArticleKey, Etag, Filter, StoredArticle};

pub use engine::Engine;

/// What the suite asks of whatever keeps articles. An `Err` is a failure of the call itself and fails the suite.
///
/// The suite looks at no head's `sequence` and `text_bytes` here, since the wire carries neither, and at no head of
/// [`Written::Deleted`](super::Written::Deleted): a subject that does not know it may give any.
#[async_trait]
pub trait Subject: Send + Sync {
    /// Stores an article where the precondition holds.
    async fn put(&self, article: Article, precondition: Precondition) -> Result<WriteOutcome, String>;

    /// Deletes an article where the precondition holds.
    async fn delete(&self, key: ArticleKey, precondition: Precondition) -> Result<WriteOutcome, String>;

    /// Stores articles as one batch, without preconditions: one outcome an article, in their order.
    async fn put_many(&self, articles: Vec<Article>) -> Result<Vec<PutOutcome>, String>;

    /// The article under a key.
    async fn article(&self, key: &ArticleKey) -> Result<Option<StoredArticle>, String>;

    /// Of all articles with this URL, the one with the latest date.
    async fn latest_article(&self, url: &str) -> Result<Option<StoredArticle>, String>;

    /// The dates under which articles with this URL are stored, latest first.
    async fn article_dates(&self, url: &str) -> Result<Vec<ArticleDate>, String>;

    /// The articles under these keys: one result a key, in their order.
    async fn articles(&self, keys: &[ArticleKey]) -> Result<Vec<Option<StoredArticle>>, String>;

    /// Everything that the filter selects, fetched in pages of at most `page_size` and put together.
    async fn scan(&self, filter: &Filter, direction: Direction, page_size: usize) -> Result<Vec<StoredArticle>, String>;

    /// The groups of a count with their names, fetched in pages of at most `page_size` and put together. The name of a day is
    /// its date, that of a host the host as people write it, and that of the total is empty.
    async fn count(&self, filter: &Filter, group_by: GroupKind, page_size: usize) -> Result<Vec<(String, u64)>, String>;
}

/// What became of one article of [`Subject::put_many`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// There was no article; now there is, with this etag.
    Created(Etag),
    /// There was one with another content; now it has this etag.
    Updated(Etag),
    /// There was one with the same content, and this is its etag.
    Unchanged(Etag),
}

/// How [`Subject::count`] groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupKind {
    /// Everything in one group.
    Total,
    /// A group a day.
    Day,
    /// A group a host.
    Host,
}

/// A promise that was broken, and what was found instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("broken promise: {promise}: {found}")]
pub struct Violation {
    promise: String,
    found: String,
}

/// Checks everything that an engine and a client have in common.
///
/// # Errors
/// The first broken promise.
pub async fn check(subject: &dyn Subject) -> Result<(), Violation> {
    writes::check(subject).await?;
    texts::check(subject).await?;
    lookups::check(subject).await?;
    scans::check(subject).await
}

/// Checks an engine: all that [`check`] does, and what only engines have. Nobody else may write to it meanwhile.
///
/// # Errors
/// The first broken promise.
pub async fn check_engine(store: Arc<dyn ArticleStore>) -> Result<(), Violation> {
    check(&Engine(Arc::clone(&store))).await?;
    pages::check(&*store).await?;
    revisions::check(&store).await?;
    history::check(&store).await?;
    log::check(&*store).await?;
    streams::check(&*store).await?;
    concurrency::check(Arc::clone(&store)).await?;
    snapshots::check(store).await
}

/// Checks that an engine forgets ingest streams: of a store that keeps them for a fraction of a second and holds none.
///
/// # Errors
/// The first broken promise.
pub async fn check_stream_expiry(store: &dyn ArticleStore) -> Result<(), Violation> {
    streams::check_expiry(store).await
}

/// Checks of an engine what depends on how much of the past it keeps. Nobody else may write to it meanwhile.
///
/// # Errors
/// The first broken promise.
pub async fn check_past(store: Arc<dyn ArticleStore>) -> Result<(), Violation> {
    revisions::check(&store).await?;
    history::check(&store).await?;
    log::check(&*store).await?;
    snapshots::check(store).await
}

/// Checks of an engine that keeps a small number of changes what becomes of the others. Nobody else may write to it meanwhile.
///
/// # Errors
/// The first broken promise.
pub async fn check_trimming(store: Arc<dyn ArticleStore>) -> Result<(), Violation> {
    trimming::check(&store).await
}

/// Everything that a snapshot of an engine gives.
///
/// # Errors
/// Where the snapshot breaks a promise of its own: order, and totals.
pub async fn snapshot_of(store: &dyn ArticleStore) -> Result<(SnapshotInfo, Vec<SnapshotItem>), Violation> {
    snapshots::snapshot_of(store).await
}

/// Checks that a store that was built of another one's snapshot gives the same snapshot again. Nobody may write meanwhile.
///
/// # Errors
/// The first difference.
pub async fn check_rebuilt(original: &dyn ArticleStore, rebuilt: &dyn ArticleStore) -> Result<(), Violation> {
    snapshots::check_rebuilt(original, rebuilt).await
}

/// Closes an engine and checks what closing promises: what was submitted is carried out, and every later call is refused.
///
/// # Errors
/// The first broken promise.
pub async fn check_closing(store: &dyn ArticleStore) -> Result<(), Violation> {
    engine::check_closing(store).await
}
