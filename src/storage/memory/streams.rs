//! The ingest streams of the reference engine.

use std::collections::VecDeque;

use super::State;
use crate::article::Timestamp;
use crate::storage::stream::{KEPT_REJECTIONS, RECENT_ITEMS, forgotten_before};
use crate::storage::{
    IngestPosition, IngestStreamId, ItemHash, OpenedStream, Page, Rejection, StoreError, StoreOptions, StreamAdvance, StreamState,
    WriteOutcome,
};

/// What is kept of a stream.
#[derive(Debug)]
pub struct KeptStream {
    epoch: u64,
    position: IngestPosition,
    recent: VecDeque<ItemHash>,
    rejections: VecDeque<Rejection>,
}

impl State {
    /// See [`ArticleStore::open_stream`](crate::storage::ArticleStore::open_stream).
    pub fn open_stream(&mut self, id: &IngestStreamId, options: &StoreOptions) -> OpenedStream {
        let now = Timestamp::now();
        let forgotten = forgotten_before(options, now);
        self.streams.retain(|_, stream| !stream.is_known() || !stream.position.expired(forgotten));
        self.epoch += 1;
        let stream = self.streams.entry(id.clone()).or_insert_with(|| KeptStream::new(now));
        stream.epoch = self.epoch;
        OpenedStream { epoch: stream.epoch, position: stream.position.clone(), recent: stream.recent.iter().copied().collect() }
    }
}

impl KeptStream {
    fn new(now: Timestamp) -> Self {
        Self { epoch: 0, position: IngestPosition::new(now), recent: VecDeque::new(), rejections: VecDeque::new() }
    }

    pub fn position(&self) -> &IngestPosition {
        &self.position
    }

    /// Whether it is more than opened.
    pub fn is_known(&self) -> bool {
        self.position != IngestPosition::new(self.position.update_time)
    }

    /// Checks that a batch of so many writes goes on with the stream.
    pub fn takes(&self, advance: &StreamAdvance, writes: usize) -> Result<(), StoreError> {
        if self.epoch != advance.epoch || self.position.state == StreamState::Finished {
            return Err(StoreError::StreamTakenOver);
        }
        if advance.continues(&self.position, writes) { Ok(()) } else { Err(StoreError::StreamInterrupted) }
    }

    pub fn advance(&mut self, advance: &StreamAdvance, outcomes: &[WriteOutcome], now: Timestamp) -> IngestPosition {
        let rejections = advance.all_rejections(self.position.next_item, outcomes);
        self.position = self.position.clone().after(advance, outcomes, now);
        if advance.hashes.is_empty() && !(outcomes.is_empty() && advance.rejections.is_empty()) {
            // Items without hashes come between those that were known and those to come.
            self.recent.clear();
        }
        self.recent.extend(&advance.hashes);
        self.rejections.extend(rejections);
        let (recent, kept) = match advance.state {
            StreamState::Open => (RECENT_ITEMS, KEPT_REJECTIONS as usize),
            StreamState::Finished => (0, 0),
        };
        self.recent.drain(..self.recent.len().saturating_sub(recent));
        self.rejections.drain(..self.rejections.len().saturating_sub(kept));
        self.position.clone()
    }

    /// A page of the rejections. They are numbered from the first that there ever was.
    pub fn rejections(&self, from: u64, limit: usize) -> Page<Rejection, u64> {
        let first = self.position.counts.rejected - self.rejections.len() as u64;
        let skipped = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
        let items: Vec<_> = self.rejections.iter().skip(skipped).take(limit).cloned().collect();
        let end = first.max(from) + items.len() as u64;
        Page { items, next: (end < self.position.counts.rejected).then_some(end) }
    }
}
