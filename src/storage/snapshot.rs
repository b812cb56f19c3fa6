//! Snapshots: everything that a store holds at one point of its changes, and making a new store of it.
//!
//! Backup, restore and compaction are the same thing with another destination: items flow from a [`Snapshot`] into a
//! [`StoreBuilder`], at once or through a file. Items speak of articles and changes, so that one engine's snapshot can become
//! another engine's store.

use async_trait::async_trait;

use super::{Change, Contents, IngestPosition, IngestStreamId, StoreError, StoreId};
use crate::article::{ArticleKey, StoredArticle, Timestamp};

/// What a snapshot holds, known before its first item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The store that it was taken of.
    pub store_id: StoreId,
    /// The totals at that point; `last_sequence` is the last change that is in it.
    pub contents: Contents,
    /// When it was taken.
    pub create_time: Timestamp,
}

/// One thing that a store holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotItem {
    /// The latest revision of an article.
    Article(Box<StoredArticle>),
    /// An earlier revision that is kept.
    EarlierRevision(Box<StoredArticle>),
    /// What is left of an article that was deleted and not created again.
    Tombstone {
        /// The article's key.
        key: ArticleKey,
        /// The last revision there was.
        revision: u64,
        /// The change that deleted it.
        sequence: u64,
        /// When that was.
        delete_time: Timestamp,
    },
    /// An entry of the change log.
    Change(Change),
    /// How far an ingest stream has come.
    Stream {
        /// The stream.
        id: IngestStreamId,
        /// Its position.
        position: IngestPosition,
    },
}

/// A store as it was at one point, while writing to it goes on. Dropping it lets go of what it pins.
#[async_trait]
pub trait Snapshot: Send {
    /// What it holds.
    fn info(&self) -> &SnapshotInfo;

    /// The next items, a few megabytes at most; `None` at the end. They come kind by kind in the order of [`SnapshotItem`], each
    /// kind in its own order: articles by key, earlier revisions by key and revision, tombstones by key, changes by sequence,
    /// streams by id.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] where an item cannot be read (a snapshot with a hole is none), and
    /// [`StoreError::SnapshotTooOld`] where more was superseded since it was taken than the store pins for it.
    async fn next_page(&mut self) -> Result<Option<Vec<SnapshotItem>>, StoreError>;
}

/// A store in the making: it becomes one as a whole, when it is finished, or not at all. Blocks.
pub trait StoreBuilder: Send {
    /// Takes in the next items of a snapshot, in the order in which it gave them.
    fn add(&mut self, items: Vec<SnapshotItem>) -> Result<(), StoreError>;

    /// Checks that everything is there that the snapshot says, makes it durable, and puts the store in its place.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] where the items do not come to these contents. Nothing is left behind then.
    fn finish(self: Box<Self>, contents: &Contents) -> Result<(), StoreError>;
}
