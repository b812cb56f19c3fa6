//! Writes, and what becomes of them.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::StoreError;
use super::stream::{IngestPosition, StreamAdvance};
use crate::article::{Article, ArticleHead, ArticleKey, Etag};

/// Writes that are carried out in order and become durable together.
#[derive(Debug, Default)]
pub struct WriteBatch {
    /// The writes.
    pub writes: Vec<Write>,
    /// Where they belong to an ingest stream: how far they bring it.
    pub stream: Option<StreamAdvance>,
}

/// One write.
#[derive(Debug)]
pub enum Write {
    /// Stores an article under its key.
    Put {
        /// The article.
        article: Box<Article>,
        /// What must hold.
        precondition: Precondition,
    },
    /// Deletes the article with the text of all its revisions.
    Delete {
        /// Its key.
        key: ArticleKey,
        /// What must hold; [`Precondition::MustNotExist`] makes no sense here and always refuses.
        precondition: Precondition,
    },
}

impl Write {
    /// Bytes of the text that it stores.
    pub fn text_bytes(&self) -> usize {
        match self {
            Self::Put { article, .. } => article.text_bytes(),
            Self::Delete { .. } => 0,
        }
    }

    /// Stores an article, whatever is there.
    pub fn put(article: Article) -> Self {
        Self::Put { article: Box::new(article), precondition: Precondition::None }
    }
}

/// What must hold for a write to take place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    None,
    /// There is no article under the key.
    MustNotExist,
    /// There is one, with this etag.
    Etag(Etag),
}

/// What became of one write.
pub type WriteOutcome = Result<Written, WriteRefusal>;

/// A write that was carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// There was no article; now there is.
    Created(ArticleHead),
    /// There was one with another content.
    Updated(ArticleHead),
    /// There was one with the same content; nothing was written.
    Unchanged(ArticleHead),
    /// There was one; now there is none. Holds the head it had.
    Deleted(ArticleHead),
}

impl Written {
    /// The head of the article after the write, or before it where it was deleted.
    pub fn head(&self) -> &ArticleHead {
        match self {
            Self::Created(head) | Self::Updated(head) | Self::Unchanged(head) | Self::Deleted(head) => head,
        }
    }
}

/// Why one write was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteRefusal {
    /// There is an article, and there must not be.
    AlreadyExists,
    /// The article has another etag.
    EtagMismatch,
    /// There is no article to delete, or to have that etag.
    NotFound,
    /// What is stored under the key is damaged, so that its revision is not known.
    Damaged,
}

/// What became of a batch.
#[derive(Debug)]
pub struct BatchOutcome {
    /// One outcome a write, in their order.
    pub outcomes: Vec<WriteOutcome>,
    /// Where the batch belonged to an ingest stream: its position now.
    pub position: Option<IngestPosition>,
}

/// The outcome of a submitted batch, to come.
#[derive(Debug)]
pub struct PendingCommit(oneshot::Receiver<Result<BatchOutcome, StoreError>>);

impl PendingCommit {
    /// A pending outcome and the end to give it through. Where that end is dropped, the outcome is [`StoreError::Closed`].
    pub(crate) fn new() -> (oneshot::Sender<Result<BatchOutcome, StoreError>>, Self) {
        let (sender, receiver) = oneshot::channel();
        (sender, Self(receiver))
    }
}

impl Future for PendingCommit {
    type Output = Result<BatchOutcome, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|outcome| outcome.unwrap_or(Err(StoreError::Closed)))
    }
}

/// The id of an ingest stream: 1 to 128 printable ASCII characters without spaces.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IngestStreamId(Box<str>);

/// The text is no [`IngestStreamId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not 1 to 128 printable ASCII characters without spaces")]
pub struct InvalidStreamId;

impl IngestStreamId {
    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IngestStreamId {
    type Err = InvalidStreamId;

    fn from_str(text: &str) -> Result<Self, InvalidStreamId> {
        if (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidStreamId)
        }
    }
}

impl fmt::Display for IngestStreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for IngestStreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How many items had which outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutcomeCounts {
    /// There was no article before.
    pub created: u64,
    /// There was one with another content.
    pub updated: u64,
    /// There was one with the same content, or none to delete.
    pub unchanged: u64,
    /// The item is no valid article.
    pub rejected: u64,
    /// There was one, and it was deleted.
    pub deleted: u64,
}

impl OutcomeCounts {
    /// All of them together.
    pub fn total(&self) -> u64 {
        self.created + self.updated + self.unchanged + self.rejected + self.deleted
    }

    /// Counts one more.
    pub fn add(&mut self, outcome: &WriteOutcome) {
        match outcome {
            Ok(Written::Created(_)) => self.created += 1,
            Ok(Written::Updated(_)) => self.updated += 1,
            Ok(Written::Unchanged(_)) | Err(WriteRefusal::NotFound) => self.unchanged += 1,
            Ok(Written::Deleted(_)) => self.deleted += 1,
            Err(_) => self.rejected += 1,
        }
    }
}
