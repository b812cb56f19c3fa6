//! The model: what a store should hold after the operations so far, in plain maps.
//!
//! It foretells every outcome but the times, which it takes from the store and then holds the store to.

use std::collections::BTreeMap;
use std::sync::Arc;

use dateline::article::{Article, ArticleDate, ArticleHead, ArticleKey, Digest, Etag, FieldViolation, Reason, StoredArticle, Timestamp};
use dateline::storage::stream::RECENT_ITEMS;
use dateline::storage::{
    BatchOutcome, Bookmark, ChangeKind, History, IngestPosition, ItemHash, OpenedStream, Precondition, Rejection, RejectionCause,
    StoreError, StreamAdvance, StreamState, Write, WriteBatch, WriteOutcome, WriteRefusal, Written,
};

use super::operation::{Batch, Condition, Opening, PlannedAdvance, PlannedWrite, STREAMS, stream_id};

/// What a store should hold. Cheap to clone: texts are shared.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// How many earlier revisions the store keeps.
    pub history: History,
    pub articles: BTreeMap<ArticleKey, Kept>,
    pub changes: Vec<Changed>,
    deleted: BTreeMap<ArticleKey, ArticleHead>,
    streams: [Stream; STREAMS],
    /// What openings gave out since the store was opened.
    epochs: [Vec<u64>; STREAMS],
}

#[derive(Debug, Clone)]
pub struct Kept {
    pub stored: Arc<StoredArticle>,
    pub earlier_revisions: u64,
}

/// What is kept of an ingest stream.
#[derive(Debug, Clone, Default)]
struct Stream {
    /// Where it ever advanced.
    position: Option<IngestPosition>,
    /// Of all items, unless it is finished.
    hashes: Vec<ItemHash>,
    rejections: Vec<Rejection>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    pub kind: ChangeKind,
    pub key: ArticleKey,
    pub revision: u64,
    pub digest: Digest,
}

impl Model {
    /// A store that keeps so many earlier revisions, and holds nothing yet.
    pub fn of(history: History) -> Self {
        Self { history, ..Self::default() }
    }

    /// What to submit for a batch, given everything that was planned before it; the model then has the batch planned too.
    pub fn plan(&mut self, batch: &Batch) -> WriteBatch {
        let mut after = self.clone();
        let mut writes = Vec::new();
        for planned in &batch.writes {
            let write = after.precise(planned);
            drop(after.write(&write, None));
            writes.push(write);
        }
        let stream = batch.stream.map(|planned| self.advance(planned, writes.len()));
        if let (Some(planned), Some(advance)) = (batch.stream, &stream) {
            if !self.takes(planned.stream, advance) {
                return WriteBatch { writes, stream };
            }
            let (next_item, state) = (advance.next_item, advance.state);
            after.streams[planned.stream].position = Some(IngestPosition { next_item, state, ..IngestPosition::new(unknown_time()) });
        }
        *self = after;
        WriteBatch { writes, stream }
    }

    /// Carries a batch out, and compares what the store said of it.
    pub fn carry_out(&mut self, batch: &Batch, outcome: Result<BatchOutcome, StoreError>) {
        let advance = batch.stream.map(|planned| (planned.stream, self.advance(planned, batch.writes.len())));
        if let Some((stream, advance)) = &advance
            && !self.takes(*stream, advance)
        {
            assert!(matches!(outcome, Err(StoreError::StreamTakenOver)), "{outcome:?} for {advance:?}");
            return;
        }
        let BatchOutcome { outcomes, position } = outcome.unwrap();
        assert_eq!(outcomes.len(), batch.writes.len());
        for (planned, outcome) in batch.writes.iter().zip(&outcomes) {
            let write = self.precise(planned);
            let expected = self.write(&write, outcome.as_ref().ok().map(Written::head));
            assert_eq!(*outcome, expected, "{planned:?}");
        }
        let expected = advance.map(|(stream, advance)| self.advanced(stream, &advance, &outcomes, position.as_ref()));
        assert_eq!(position, expected, "{:?}", batch.stream);
    }

    /// Takes in that a stream was opened, and compares where the store says that it is.
    pub fn opened(&mut self, stream: usize, opened: OpenedStream) {
        assert!(!self.epochs[stream].contains(&opened.epoch), "{opened:?} was given out before: {:?}", self.epochs);
        assert!(self.is_at(stream, &opened), "{opened:?}, expected {:?}", self.streams[stream]);
        self.epochs[stream].push(opened.epoch);
    }

    /// Whether a stream is where it was opened.
    pub fn is_at(&self, stream: usize, OpenedStream { position, recent, .. }: &OpenedStream) -> bool {
        let Stream { position: expected, hashes, .. } = &self.streams[stream];
        let new = IngestPosition::new(position.update_time);
        position == expected.as_ref().unwrap_or(&new) && *recent == hashes[hashes.len().saturating_sub(RECENT_ITEMS)..]
    }

    /// The rejections of a stream.
    pub fn rejections(&self, stream: usize) -> &[Rejection] {
        &self.streams[stream].rejections
    }

    /// The store was closed and opened: nobody holds a stream any more.
    pub fn reopened(&mut self) {
        self.epochs = Default::default();
    }

    pub fn sequence(&self) -> u64 {
        self.changes.len() as u64
    }

    /// The dates of a URL's articles, latest first.
    pub fn dates_of(&self, key: &ArticleKey) -> Vec<ArticleDate> {
        self.articles.keys().rev().filter(|other| other.url == key.url).map(|other| other.date).collect()
    }

    /// The write with its condition as a precondition on what is there now.
    fn precise(&self, planned: &PlannedWrite) -> Write {
        match *planned {
            PlannedWrite::Put { place, spelling, text, condition } => {
                let article = place.article(spelling, text);
                let precondition = self.precondition(article.key(), condition);
                Write::Put { article: Box::new(article), precondition }
            }
            PlannedWrite::Delete { place, condition } => {
                let key = place.key();
                let precondition = self.precondition(&key, condition);
                Write::Delete { key, precondition }
            }
        }
    }

    fn precondition(&self, key: &ArticleKey, condition: Condition) -> Precondition {
        // Where there is none, the last one there was, if any: an etag of a deleted article must bring nothing back.
        let head = self.articles.get(key).map(|kept| &kept.stored.head).or(self.deleted.get(key));
        let etag = head.map_or(Etag { revision: 1, digest: Digest::from_bytes([1; 32]) }, ArticleHead::etag);
        match condition {
            Condition::Nothing => Precondition::None,
            Condition::MustNotExist => Precondition::MustNotExist,
            Condition::CurrentEtag => Precondition::Etag(etag),
            Condition::EarlierEtag => Precondition::Etag(Etag { revision: etag.revision - 1, ..etag }),
            Condition::OtherEtag => Precondition::Etag(Etag { digest: Digest::from_bytes([2; 32]), ..etag }),
        }
    }

    /// Carries a write out. The times of a revision that it makes are those of `told`, and must make sense.
    fn write(&mut self, write: &Write, told: Option<&ArticleHead>) -> WriteOutcome {
        match write {
            Write::Put { article, precondition } => {
                self.check(article.key(), *precondition)?;
                Ok(self.put(article, told))
            }
            Write::Delete { key, precondition } => {
                self.check(key, *precondition)?;
                let Kept { stored, .. } = self.articles.remove(key).ok_or(WriteRefusal::NotFound)?;
                let head = stored.head.clone();
                self.deleted.insert(key.clone(), head.clone());
                self.changed(ChangeKind::Deleted, &head);
                Ok(Written::Deleted(head))
            }
        }
    }

    fn check(&self, key: &ArticleKey, precondition: Precondition) -> Result<(), WriteRefusal> {
        let current = self.articles.get(key).map(|kept| kept.stored.head.etag());
        match precondition {
            Precondition::None => Ok(()),
            Precondition::MustNotExist => current.map_or(Ok(()), |_| Err(WriteRefusal::AlreadyExists)),
            Precondition::Etag(etag) => {
                let current = current.ok_or(WriteRefusal::NotFound)?;
                if current == etag { Ok(()) } else { Err(WriteRefusal::EtagMismatch) }
            }
        }
    }

    fn put(&mut self, article: &Article, told: Option<&ArticleHead>) -> Written {
        let (key, digest) = (article.key().clone(), article.digest());
        let before = self.articles.get(&key).cloned();
        if let Some(Kept { stored, .. }) = &before
            && stored.head.digest == digest
        {
            return Written::Unchanged(stored.head.clone());
        }
        let deleted = self.deleted.remove(&key);
        let last = before.as_ref().map(|kept| &kept.stored.head).or(deleted.as_ref());
        let update_time = told.map_or(unknown_time(), |told| told.update_time);
        if told.is_some() {
            assert!(last.is_none_or(|last| last.update_time < update_time), "{told:?} is no newer than {last:?}");
        }
        let head = ArticleHead {
            key: key.clone(),
            revision: last.map_or(1, |last| last.revision + 1),
            digest,
            sequence: self.sequence() + 1,
            create_time: before.as_ref().map_or(update_time, |kept| kept.stored.head.create_time),
            update_time,
            text_bytes: article.text_bytes() as u64,
        };
        let earlier_revisions = before.as_ref().map_or(0, |kept| match self.history {
            History::All => kept.earlier_revisions + 1,
            History::Last(count) => count.min(kept.earlier_revisions + 1),
        });
        let stored = Arc::new(StoredArticle { head: head.clone(), article: article.clone() });
        self.articles.insert(key, Kept { stored, earlier_revisions });
        if before.is_some() {
            self.changed(ChangeKind::Updated, &head);
            return Written::Updated(head);
        }
        self.changed(ChangeKind::Created, &head);
        Written::Created(head)
    }

    fn changed(&mut self, kind: ChangeKind, head: &ArticleHead) {
        self.changes.push(Changed { kind, key: head.key.clone(), revision: head.revision, digest: head.digest });
    }

    fn advance(&self, planned: PlannedAdvance, writes: usize) -> StreamAdvance {
        let PlannedAdvance { stream, opening, rejected, bookmark, finish } = planned;
        let latest = self.epochs[stream].last().copied();
        let epoch = match opening {
            // The first that will be given out, where none was.
            Opening::Latest => latest.unwrap_or(1),
            Opening::Earlier => latest.unwrap_or(1) - 1,
            Opening::Later => latest.unwrap_or(1) + 1,
        };
        let first_item = self.streams[stream].position.as_ref().map_or(0, |position| position.next_item);
        let next_item = first_item + writes as u64 + rejected;
        let state = if finish { StreamState::Finished } else { StreamState::Open };
        let violation = [FieldViolation::new("date", Reason::InvalidDate, "is none")];
        let rejections = (first_item..first_item + rejected).map(|item| Rejection::invalid(item, &violation)).collect();
        let hashes = (first_item..next_item).map(|item| ItemHash::of_bytes(&(stream as u64 + item).to_be_bytes())).collect();
        let bookmark = bookmark.map(|byte| Bookmark::try_from(&vec![byte; byte.into()][..]).unwrap());
        StreamAdvance { id: stream_id(stream), epoch, next_item, rejections, hashes, bookmark, state }
    }

    /// Whether the store takes a batch of this stream.
    fn takes(&self, stream: usize, advance: &StreamAdvance) -> bool {
        let finished = self.streams[stream].position.as_ref().is_some_and(|position| position.state == StreamState::Finished);
        self.epochs[stream].last() == Some(&advance.epoch) && !finished
    }

    fn advanced(
        &mut self,
        stream: usize,
        advance: &StreamAdvance,
        outcomes: &[WriteOutcome],
        told: Option<&IngestPosition>,
    ) -> IngestPosition {
        let kept = &mut self.streams[stream];
        let before = kept.position.clone().unwrap_or_else(|| IngestPosition::new(unknown_time()));
        let mut counts = before.counts;
        counts.rejected += advance.rejections.len() as u64;
        kept.rejections.extend(advance.rejections.iter().cloned());
        // The rejected ones come first.
        for (outcome, item) in outcomes.iter().zip(before.next_item + advance.rejections.len() as u64..) {
            match outcome {
                Ok(Written::Created(_)) => counts.created += 1,
                Ok(Written::Updated(_)) => counts.updated += 1,
                Ok(Written::Unchanged(_)) | Err(WriteRefusal::NotFound) => counts.unchanged += 1,
                Ok(Written::Deleted(_)) => counts.deleted += 1,
                Err(refusal) => {
                    counts.rejected += 1;
                    kept.rejections.push(Rejection { item, cause: RejectionCause::Refused(*refusal) });
                }
            }
        }
        let update_time = told.map_or(unknown_time(), |told| told.update_time);
        assert!(before.update_time <= update_time, "{told:?} after {before:?}");
        let bookmark = advance.bookmark.clone().unwrap_or(before.bookmark);
        let position = IngestPosition { next_item: advance.next_item, counts, state: advance.state, update_time, bookmark };
        assert_eq!(position.counts.total(), position.next_item, "every item has one outcome");
        kept.hashes.extend(&advance.hashes);
        if position.state == StreamState::Finished {
            (kept.hashes, kept.rejections) = Default::default();
        }
        kept.position = Some(position.clone());
        position
    }
}

/// Stands for a time while the store has not told it.
fn unknown_time() -> Timestamp {
    Timestamp::from_parts(0, 0).unwrap()
}
