//! What can go wrong in a store, in words that hold for every engine.

use std::sync::Arc;

/// Why a store did not do what was asked. The text is for the log and for operators: it may name files and causes that
/// clients have no business with, so the wire carries a text of its own.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// What is stored there fails its checksum or makes no sense.
    #[error("{what} is damaged: {detail}")]
    Damaged {
        /// Which article or which part of the store.
        what: String,
        /// What was found.
        detail: String,
    },
    /// There is no room on the disk. Nothing of the batch was written; reading goes on.
    #[error("the disk is full")]
    DiskFull,
    /// The batch's ingest stream was opened again by somebody else, who goes on with it.
    #[error("the ingest stream was taken over by a newer connection")]
    StreamTakenOver,
    /// An earlier batch of the ingest stream was not written, or the stream was forgotten, so this one would leave a gap. Nothing
    /// of it was written.
    #[error("the ingest stream is not where the batch goes on")]
    StreamInterrupted,
    /// Changes after that place in the change log were trimmed, and whoever stands there needs them.
    #[error("changes after that place were trimmed from the change log")]
    ChangesTrimmed,
    /// A snapshot pins what is superseded after it was taken, and that was more than the store holds back.
    #[error("too much was written since the snapshot was taken")]
    SnapshotTooOld,
    /// Another snapshot is being read.
    #[error("another snapshot of the store is being read")]
    SnapshotBusy,
    /// The store failed earlier and writes no more until it is opened again.
    #[error("the store has failed: {0}")]
    Failed(String),
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// The operating system refused something.
    #[error("{action}: {source}")]
    Io {
        /// What was being done.
        action: String,
        /// The cause.
        source: Arc<std::io::Error>,
    },
    /// The folder cannot be opened as a store; the text says why and what to do.
    #[error("{0}")]
    CannotOpen(String),
}

impl StoreError {
    /// An error of the operating system while doing something ("cannot create /x").
    pub fn io(action: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io { action: action.into(), source: Arc::new(source) }
    }

    /// Damage of an article or a part of the store.
    pub fn damaged(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Damaged { what: what.into(), detail: detail.into() }
    }
}
