//! Ingest streams: how far they have come, and what is kept of them so that a client can go on after any cut.
//!
//! Beside its position a stream keeps hashes of its recent items, to notice where a number comes again with another content, and
//! its recent rejections, to tell them to a client that missed them.

use std::fmt;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use super::StoreOptions;
use super::batch::{IngestStreamId, OutcomeCounts, WriteOutcome, WriteRefusal};
use crate::article::{Article, ArticleKey, FieldViolation, Timestamp};

/// Items of a stream that are known again by their hashes: the last so many.
pub const RECENT_ITEMS: usize = 1024;
/// Rejections of a stream that are kept: the last so many.
pub const KEPT_REJECTIONS: u64 = 10_000;
/// Violations that are kept of one item, and bytes of the texts of each.
const KEPT_VIOLATIONS: usize = 8;
const KEPT_TEXT_BYTES: usize = 256;

/// The instant before which a stream must have advanced last to be forgotten now; `None` where none is.
pub(crate) fn forgotten_before(options: &StoreOptions, now: Timestamp) -> Option<Timestamp> {
    let expiry = i64::try_from(options.stream_expiry?.as_micros()).ok()?;
    Timestamp::from_micros(now.as_micros().checked_sub(expiry)?)
}

/// How far an ingest stream has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestPosition {
    /// The number of the next item: all below are durable or rejected.
    pub next_item: u64,
    /// The outcomes of the items below.
    pub counts: OutcomeCounts,
    /// Whether it was ended for good.
    pub state: StreamState,
    /// When it last advanced.
    pub update_time: Timestamp,
    /// What the client noted last.
    pub bookmark: Bookmark,
}

impl IngestPosition {
    /// The position of a stream that begins now.
    pub fn new(now: Timestamp) -> Self {
        let (counts, bookmark) = (OutcomeCounts::default(), Bookmark::default());
        Self { next_item: 0, counts, state: StreamState::Open, update_time: now, bookmark }
    }

    /// The position after a batch that [continues](StreamAdvance::continues) here.
    pub(crate) fn after(self, advance: &StreamAdvance, outcomes: &[WriteOutcome], now: Timestamp) -> Self {
        let mut counts = self.counts;
        outcomes.iter().for_each(|outcome| counts.add(outcome));
        counts.rejected += advance.rejections.len() as u64;
        Self {
            next_item: advance.next_item,
            counts,
            state: advance.state,
            update_time: now.max(self.update_time),
            bookmark: advance.bookmark.clone().unwrap_or(self.bookmark),
        }
    }

    /// Whether the stream last advanced before this instant, so long ago that it is forgotten.
    pub(crate) fn expired(&self, forgotten_before: Option<Timestamp>) -> bool {
        forgotten_before.is_some_and(|instant| self.update_time < instant)
    }
}

/// Whether an ingest stream goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamState {
    /// It does.
    Open,
    /// It was ended for good.
    Finished,
}

/// Bytes that a client keeps with its stream's position, and that say nothing to anybody else. Cheap to clone.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Bookmark(Arc<[u8]>);

/// The bytes are too many for a [`Bookmark`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is longer than {} bytes", Bookmark::MAX_BYTES)]
pub struct BookmarkTooLong;

impl Bookmark {
    /// Bytes of a bookmark at most.
    pub const MAX_BYTES: usize = 4096;

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<&[u8]> for Bookmark {
    type Error = BookmarkTooLong;

    fn try_from(bytes: &[u8]) -> Result<Self, BookmarkTooLong> {
        if bytes.len() <= Self::MAX_BYTES { Ok(Self(bytes.into())) } else { Err(BookmarkTooLong) }
    }
}

impl fmt::Debug for Bookmark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// Tells the items of a stream apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ItemHash(pub u64);

impl ItemHash {
    /// Of an article: the same for whatever has the same key and digest.
    pub fn of_article(article: &Article) -> Self {
        Self::of(1, &[&key_bytes(article.key()), article.digest().as_bytes()])
    }

    /// Of the deletion of an article.
    pub fn of_deletion(key: &ArticleKey) -> Self {
        Self::of(2, &[&key_bytes(key)])
    }

    /// Of an item that is neither, as it was received.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self::of(3, &[bytes])
    }

    // The hashes are stored: what goes into them may only change with the kind.
    fn of(kind: u8, parts: &[&[u8]]) -> Self {
        let mut hasher = Xxh3::new();
        hasher.update(&[kind]);
        for part in parts {
            hasher.update(&(part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        Self(hasher.digest())
    }
}

fn key_bytes(key: &ArticleKey) -> Vec<u8> {
    [&key.date.number().to_be_bytes(), key.url.key().as_bytes()].concat()
}

/// An item of a stream that was rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// Its number.
    pub item: u64,
    /// Why.
    pub cause: RejectionCause,
}

/// Why an item was rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RejectionCause {
    /// It is not what it should be.
    Invalid(Vec<FieldViolation>),
    /// It could not be written.
    Refused(WriteRefusal),
}

impl Rejection {
    /// The rejection of an item that is not what it should be. Keeps the first few violations, and the beginning of long texts.
    pub fn invalid(item: u64, violations: &[FieldViolation]) -> Self {
        let short = |text: &str| {
            let end = (0..=text.len().min(KEPT_TEXT_BYTES)).rev().find(|end| text.is_char_boundary(*end));
            text[..end.unwrap_or(0)].to_owned()
        };
        let kept = violations.iter().take(KEPT_VIOLATIONS);
        let kept = kept.map(|FieldViolation { field, reason, description }| FieldViolation::new(short(field), *reason, short(description)));
        Self { item, cause: RejectionCause::Invalid(kept.collect()) }
    }
}

/// An ingest stream, opened by [`ArticleStore::open_stream`](super::ArticleStore::open_stream).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedStream {
    /// Tells this opening from earlier and later ones.
    pub epoch: u64,
    /// How far it has come; item 0 and no outcomes where it is new.
    pub position: IngestPosition,
    /// The hashes of the last items before that position, in their order: at most [`RECENT_ITEMS`], and fewer where some are not
    /// known.
    pub recent: Vec<ItemHash>,
}

/// How far a batch brings its ingest stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamAdvance {
    /// The stream.
    pub id: IngestStreamId,
    /// The opening that the batch belongs to.
    pub epoch: u64,
    /// The number of the next item after the batch. Its items (the writes and the rejected ones) follow those of the batch
    /// before it without a gap.
    pub next_item: u64,
    /// Those of the items that were rejected before they came here, in their order. The others are the writes, in theirs.
    pub rejections: Vec<Rejection>,
    /// The hashes of all items of the batch, in their order; none where they are not to be known again.
    pub hashes: Vec<ItemHash>,
    /// Replaces the bookmark of the stream, where it is set.
    pub bookmark: Option<Bookmark>,
    /// Whether the stream goes on.
    pub state: StreamState,
}

impl StreamAdvance {
    /// An advance up to this item, with nothing rejected or kept beside.
    pub fn to(id: IngestStreamId, epoch: u64, next_item: u64) -> Self {
        Self { id, epoch, next_item, rejections: Vec::new(), hashes: Vec::new(), bookmark: None, state: StreamState::Open }
    }

    /// Whether a batch of so many writes goes on where the stream is.
    pub(crate) fn continues(&self, position: &IngestPosition, writes: usize) -> bool {
        let items = writes as u64 + self.rejections.len() as u64;
        self.next_item.checked_sub(items) == Some(position.next_item)
    }

    /// All rejections of the batch, with those of its writes that were refused.
    pub(crate) fn all_rejections(&self, first_item: u64, outcomes: &[WriteOutcome]) -> Vec<Rejection> {
        let refused = |outcome: &WriteOutcome| outcome.as_ref().err().copied().filter(|refusal| *refusal != WriteRefusal::NotFound);
        if outcomes.iter().all(|outcome| refused(outcome).is_none()) {
            return self.rejections.clone();
        }
        let (mut before, mut outcomes) = (self.rejections.iter().peekable(), outcomes.iter());
        let of_item = |item| match before.next_if(|rejection| rejection.item == item) {
            Some(rejection) => Some(rejection.clone()),
            None => outcomes.next().and_then(refused).map(|refusal| Rejection { item, cause: RejectionCause::Refused(refusal) }),
        };
        (first_item..self.next_item).filter_map(of_item).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::article::Reason;
    use crate::storage::Written;

    #[test]
    fn refused_writes_are_rejections_of_their_items() {
        let violations = [FieldViolation::new("date", Reason::InvalidDate, "x".repeat(300))];
        let (first, second) = (Rejection::invalid(11, &violations), Rejection::invalid(14, &violations));
        let RejectionCause::Invalid(kept) = &first.cause else { panic!("{first:?}") };
        assert_eq!(kept[0].description.len(), KEPT_TEXT_BYTES);
        let id: IngestStreamId = "stream".parse().unwrap();
        let advance = StreamAdvance { rejections: vec![first.clone(), second.clone()], ..StreamAdvance::to(id, 1, 15) };
        let refused = |item, refusal| Rejection { item, cause: RejectionCause::Refused(refusal) };
        let outcomes = [Err(WriteRefusal::Damaged), Err(WriteRefusal::NotFound), Err(WriteRefusal::EtagMismatch)];
        let expected = [refused(10, WriteRefusal::Damaged), first.clone(), refused(13, WriteRefusal::EtagMismatch), second.clone()];
        assert_eq!(advance.all_rejections(10, &outcomes), expected);
        assert_eq!(advance.all_rejections(10, &[const { Err(WriteRefusal::NotFound) }; 3] as &[Result<Written, _>]), [first, second]);
        assert!(advance.continues(&IngestPosition { next_item: 10, ..IngestPosition::new(Timestamp::now()) }, 3));
    }
}
