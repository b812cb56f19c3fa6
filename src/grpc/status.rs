//! Errors as clients see them: the one place where a failure becomes a code, a stable reason and a text.
//!
//! Causes that are none of a client's business (paths, errors of the operating system) go to the log, not on the wire.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation as WireViolation, StatusExt as _};

use crate::article::{ArticleKey, FieldViolation, Reason};
use crate::storage::token::TokenError;
use crate::storage::{OutcomeCounts, StoreError, WriteRefusal};

/// The domain of every reason, as google.rpc.ErrorInfo has it.
pub const DOMAIN: &str = "dateline";

const CHANGES_TRIMMED: &str = "CHANGES_TRIMMED";
const CHANGES_TRIMMED_TEXT: &str =
    "changes after this token were trimmed from the change log: begin again from the beginning, and let go of what is not seen there";

/// After how long a client may try again what was refused for lack of room or time.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a call failed.
#[derive(Debug, Clone)]
pub enum ApiError {
    /// Fields of the request are wrong; at least one.
    Violations(Vec<FieldViolation>),
    /// There is no article under this key, or with this URL.
    ArticleNotFound(String),
    /// There is this article, but not in this revision or as of this time.
    RevisionNotFound {
        /// The article.
        key: ArticleKey,
        /// What was asked for.
        version: String,
    },
    /// There was a revision, and it is not kept any more.
    RevisionNotKept {
        /// The article.
        key: ArticleKey,
        /// What was asked for.
        version: String,
    },
    /// There is an article, and the precondition says that there must not be.
    AlreadyExists(ArticleKey),
    /// The article has another etag than the precondition says.
    EtagMismatch(ArticleKey),
    /// What is stored under this key is damaged.
    ArticleDamaged(ArticleKey),
    /// The token belongs to something else.
    TokenMismatch(&'static str),
    /// Changes were trimmed that a watch from there would need.
    ChangesTrimmed {
        /// Where all that is kept can be watched from.
        earliest_token: String,
    },
    /// A request message is larger than the limit.
    MessageTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// A request message is not what the protocol says.
    MessageUndecodable,
    /// More items than a call may have.
    TooManyItems {
        /// The field.
        field: &'static str,
        /// The limit.
        limit: usize,
    },
    /// An item number lies ahead of the next one.
    ItemGap {
        /// The number that should have come.
        next_item: u64,
    },
    /// An item came again with another content.
    ItemConflict {
        /// Its number.
        item: u64,
    },
    /// A message of an ingest stream came out of turn.
    StreamProtocol(&'static str),
    /// The ingest stream was finished earlier, with these outcomes.
    StreamFinished(OutcomeCounts),
    /// The number of items in a commit is not the number of items received.
    ItemCountMismatch {
        /// How many were received.
        received: u64,
    },
    /// A reader did not read for too long.
    ReaderStalled,
    /// Another verification is under way.
    VerificationRunning,
    /// There is no room or time for the call now.
    Overloaded,
    /// The server is shutting down.
    Draining,
    /// The store failed.
    Store(StoreError),
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<FieldViolation> for ApiError {
    fn from(violation: FieldViolation) -> Self {
        Self::Violations(vec![violation])
    }
}

impl From<Vec<FieldViolation>> for ApiError {
    fn from(violations: Vec<FieldViolation>) -> Self {
        Self::Violations(violations)
    }
}

impl ApiError {
    /// What the refusal of a write means for the call that asked for it.
    pub fn refused(refusal: WriteRefusal, key: ArticleKey) -> Self {
        match refusal {
            WriteRefusal::AlreadyExists => Self::AlreadyExists(key),
            WriteRefusal::EtagMismatch => Self::EtagMismatch(key),
            WriteRefusal::NotFound => Self::ArticleNotFound(key.to_string()),
            WriteRefusal::Damaged => Self::ArticleDamaged(key),
        }
    }

    /// What is wrong with a token in this field.
    pub fn token(field: &'static str, error: TokenError) -> Self {
        match error {
            TokenError::Invalid => FieldViolation::new(field, Reason::InvalidToken, error.to_string()).into(),
            TokenError::Mismatch => Self::TokenMismatch(field),
        }
    }

    /// The code, the stable reason and the text.
    pub fn describe(&self) -> (Code, &'static str, String) {
        match self {
            Self::Violations(violations) => {
                let reason = violations.first().map_or(Reason::InvalidArgument, |violation| violation.reason);
                let text = violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                (Code::InvalidArgument, reason.as_str(), text)
            }
            Self::ArticleNotFound(what) => (Code::NotFound, "ARTICLE_NOT_FOUND", format!("there is no article {what}")),
            Self::RevisionNotFound { key, version } => {
                (Code::NotFound, "REVISION_NOT_FOUND", format!("there is an article {key}, but none {version}"))
            }
            Self::RevisionNotKept { key, version } => {
                (Code::NotFound, "REVISION_NOT_KEPT", format!("there is an article {key}, but what it was {version} is not kept any more"))
            }
            Self::AlreadyExists(key) => (Code::AlreadyExists, "ARTICLE_ALREADY_EXISTS", format!("there is an article {key} already")),
            Self::EtagMismatch(key) => {
                let text = format!("article {key} was changed by somebody else: read it again and decide anew");
                (Code::Aborted, "ETAG_MISMATCH", text)
            }
            Self::ArticleDamaged(key) => (Code::DataLoss, "RECORD_DAMAGED", format!("what is stored of article {key} is damaged")),
            Self::TokenMismatch(field) => {
                let text = format!("{field} belongs to another store, filter or order: begin again without it");
                (Code::FailedPrecondition, "TOKEN_MISMATCH", text)
            }
            Self::ChangesTrimmed { .. } => (Code::OutOfRange, CHANGES_TRIMMED, CHANGES_TRIMMED_TEXT.into()),
            Self::MessageTooLarge { limit } => {
                let text = format!("the request message is larger than {limit} bytes: send fewer items at a time");
                (Code::InvalidArgument, "MESSAGE_TOO_LARGE", text)
            }
            Self::MessageUndecodable => {
                let text = "the request message cannot be decoded: it does not follow the protocol, or a string is not UTF-8";
                (Code::InvalidArgument, "MESSAGE_UNDECODABLE", text.into())
            }
            Self::TooManyItems { field, limit } => {
                (Code::InvalidArgument, "TOO_MANY_ITEMS", format!("{field} holds more than {limit} items"))
            }
            Self::ItemGap { next_item } => {
                (Code::OutOfRange, "ITEM_GAP", format!("items are missing: the next item to send has the number {next_item}"))
            }
            Self::ItemConflict { item } => {
                let text = format!("item {item} was another one before: send the same items again, or open another stream");
                (Code::FailedPrecondition, "ITEM_CONFLICT", text)
            }
            Self::StreamProtocol(text) => (Code::InvalidArgument, "STREAM_PROTOCOL", (*text).into()),
            Self::StreamFinished(_) => {
                let text = "this ingest stream was committed earlier: open another id to send the items again";
                (Code::FailedPrecondition, "STREAM_FINISHED", text.into())
            }
            Self::ItemCountMismatch { received } => {
                let text = format!("the commit names another number of items than the {received} that were received");
                (Code::FailedPrecondition, "ITEM_COUNT_MISMATCH", text)
            }
            Self::ReaderStalled => {
                let text = "nothing was read from the stream for too long: resume it with the last token";
                (Code::Unavailable, "READER_STALLED", text.into())
            }
            Self::VerificationRunning => {
                let text = "another verification of the store is under way: try again when it is done";
                (Code::Unavailable, "VERIFICATION_RUNNING", text.into())
            }
            Self::Overloaded => (Code::Unavailable, "OVERLOADED", "the server has too much to do: try again in a moment".into()),
            Self::Draining => (Code::Unavailable, "DRAINING", "the server is shutting down: try again in a moment".into()),
            Self::Store(error) => describe_store(error),
        }
    }

    fn metadata(&self) -> HashMap<String, String> {
        let pair = |name: &str, value: u64| HashMap::from([(name.to_owned(), value.to_string())]);
        match self {
            Self::ChangesTrimmed { earliest_token } => HashMap::from([("earliest_token".to_owned(), earliest_token.clone())]),
            Self::ItemGap { next_item } => pair("next_item", *next_item),
            Self::ItemConflict { item } => pair("item", *item),
            Self::StreamFinished(counts) => {
                let OutcomeCounts { created, updated, unchanged, rejected, deleted } = *counts;
                let outcomes = [("created", created), ("updated", updated), ("unchanged", unchanged), ("rejected", rejected)];
                let others = [("deleted", deleted), ("item_count", counts.total())];
                outcomes.into_iter().chain(others).map(|(name, number)| (name.to_owned(), number.to_string())).collect()
            }
            Self::ItemCountMismatch { received } => pair("received_items", *received),
            Self::MessageTooLarge { limit } | Self::TooManyItems { limit, .. } => pair("limit", *limit as u64),
            _ => HashMap::new(),
        }
    }
}

fn describe_store(error: &StoreError) -> (Code, &'static str, String) {
    match error {
        StoreError::Damaged { what, .. } => (Code::DataLoss, "RECORD_DAMAGED", format!("{what} is damaged")),
        StoreError::DiskFull => {
            (Code::ResourceExhausted, "DISK_FULL", "the server's disk is full: nothing was written, reading goes on".into())
        }
        StoreError::StreamTakenOver => {
            let text = "this ingest stream was opened by a newer connection, which goes on with it";
            (Code::FailedPrecondition, "STREAM_TAKEN_OVER", text.into())
        }
        StoreError::StreamInterrupted => {
            let text = "this ingest stream is not where its items go on: open it again, and go on from where it is then";
            (Code::Unavailable, "STREAM_INTERRUPTED", text.into())
        }
        StoreError::ChangesTrimmed => (Code::OutOfRange, CHANGES_TRIMMED, CHANGES_TRIMMED_TEXT.into()),
        StoreError::SnapshotTooOld => {
            let text = "too much was written while the backup was read: take it again at a quieter time, or read it faster";
            (Code::Aborted, "SNAPSHOT_TOO_OLD", text.into())
        }
        StoreError::SnapshotBusy => (Code::Unavailable, "BACKUP_RUNNING", "another backup is being read: try again when it is done".into()),
        StoreError::Failed(_) => {
            let text = "the server's storage has failed and writes no more: it must be restarted";
            (Code::Unavailable, "STORAGE_FAILED", text.into())
        }
        StoreError::Closed => (Code::Unavailable, "DRAINING", "the server is shutting down: try again in a moment".into()),
        StoreError::Io { .. } | StoreError::CannotOpen(_) => {
            (Code::Unavailable, "STORAGE_FAILED", "the server's storage cannot be read or written; its log says why".into())
        }
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let (code, reason, text) = error.describe();
        if let ApiError::Store(cause) = &error
            && !matches!(cause, StoreError::StreamTakenOver | StoreError::SnapshotBusy | StoreError::ChangesTrimmed | StoreError::Closed)
        {
            tracing::warn!(reason, %cause, "a call failed");
        }
        let mut details = ErrorDetails::new();
        details.set_error_info(reason, DOMAIN, error.metadata());
        if let ApiError::Violations(violations) = &error {
            let wire = |violation: &FieldViolation| WireViolation::new(&violation.field, violation.to_string());
            details.set_bad_request(violations.iter().map(wire).collect::<Vec<_>>());
        }
        if let ApiError::TooManyItems { field, .. } = &error {
            details.add_bad_request_violation(*field, text.clone());
        }
        if code == Code::Unavailable {
            details.set_retry_info(Some(RETRY_AFTER));
        }
        Self::with_error_details(code, text, details)
    }
}

/// The error that a client should see where tonic could not read a message: it answers OUT_OF_RANGE for one that is too large
/// and INTERNAL for one that it cannot decode, both without details. `None` for every other status.
pub fn unreadable_message(status: &Status, limit: usize) -> Option<ApiError> {
    match status.code() {
        Code::OutOfRange if status.details().is_empty() => Some(ApiError::MessageTooLarge { limit }),
        Code::Internal if status.details().is_empty() => Some(ApiError::MessageUndecodable),
        _ => None,
    }
}
