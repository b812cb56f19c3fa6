//! One IngestArticles call: reads items, keeps a few batches on their way, and acknowledges them in order.
//!
//! Two tasks. The reader checks messages and submits them; the acknowledger waits for what was submitted. The queue between
//! them is short, so a slow disk, or a client that does not read its acknowledgements, stops the reader and with it, through
//! flow control, the client.

use std::collections::VecDeque;

use prost::Message as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::{Code, Response, Streaming};

use super::arrival::Arrivals;
use super::budget::BudgetShare;
use super::ingest_items::{self, Checked, Items};
use super::outgoing::{Outgoing, OutgoingStream};
use super::status::{ApiError, unreadable_message};
use super::undecoded::{IngestArticlesRequest, IngestItems, IngestMessage as Message, UndecodedItems};
use super::v1::{self, ingest_articles_response::Message as Reply};
use super::{Api, STREAM_MESSAGE_BYTES, convert};
use crate::article::{DateHorizon, FieldViolation, Limits, Reason};
use crate::storage::stream::{BookmarkTooLong, RECENT_ITEMS};
use crate::storage::{
    BatchOutcome, Bookmark, IngestPosition, IngestStreamId, ItemHash, OpenedStream, OutcomeCounts, PendingCommit, StoreError,
    StreamAdvance, StreamState, WriteBatch,
};

/// Batches of one stream on their way at once.
const BATCHES_ON_THE_WAY: usize = 4;
/// Rejections that are read from the store at once: with the longest reasons they take less than a message may hold beyond 1 MiB.
const PAGE_REJECTIONS: usize = 100;

/// The reader's side of a stream.
pub struct IngestStream {
    api: Api,
    /// The id and the epoch of a stream that can be resumed.
    opened: Option<(IngestStreamId, u64)>,
    next_item: u64,
    /// The last items below that, as far as they are known.
    recent: VecDeque<ItemHash>,
    limits: Limits,
    /// The shares with which messages arrive.
    arrivals: Arrivals,
    /// That of the message that was read last.
    arrived: Option<BudgetShare>,
    acknowledger: mpsc::Sender<Step>,
}

/// What the acknowledger is to do next.
enum Step {
    Opened(v1::IngestOpened, OutcomeCounts, bool),
    Rejections(v1::IngestRejections),
    Batch { first_item: u64, items: Items, pending: JoinHandle<Result<BatchOutcome, StoreError>> },
    Commit(Option<PendingCommit>),
    Fail(ApiError),
}

impl IngestStream {
    /// Serves a stream until it ends.
    pub fn start(
        api: Api,
        messages: Streaming<IngestArticlesRequest>,
        arrivals: Arrivals,
    ) -> Response<OutgoingStream<v1::IngestArticlesResponse>> {
        let (acknowledger, steps) = mpsc::channel(BATCHES_ON_THE_WAY);
        let response = Outgoing::respond(&api, &api.drain.over, |out| acknowledge(steps, out));
        let limits = api.limits.article;
        let (next_item, recent, acknowledger_of_reader) = (0, VecDeque::new(), acknowledger.clone());
        let reader = Self { api, opened: None, next_item, recent, limits, arrivals, arrived: None, acknowledger: acknowledger_of_reader };
        tokio::spawn(async move {
            if let Err(error) = reader.read(messages).await {
                // Comes after everything that was submitted before; where the acknowledger is gone, so is the client.
                drop(acknowledger.send(Step::Fail(error)).await);
            }
        });
        response
    }

    async fn read(mut self, mut messages: Streaming<IngestArticlesRequest>) -> Result<(), ApiError> {
        let mut first = true;
        let drain = self.api.drain.begun.clone();
        loop {
            let message = tokio::select! {
                () = drain.cancelled() => return Err(ApiError::Draining),
                message = messages.message() => message,
            };
            let limit = self.api.limits.request_bytes;
            let message = message.map_err(|status| match status.code() {
                // It waited too long to be let in.
                Code::Unavailable => ApiError::Overloaded,
                _ => unreadable_message(&status, limit).unwrap_or(ApiError::StreamProtocol("the stream broke off")),
            })?;
            self.arrived = message.is_some().then(|| self.arrivals.next()).flatten();
            match message.map(|message| message.message) {
                None => return Ok(()),
                Some(Some(Message::Open(open))) if first => self.open(open).await?,
                Some(Some(Message::Open(_))) => return Err(ApiError::StreamProtocol("open is only allowed as the first message")),
                Some(Some(Message::Items(items))) => self.items(items).await?,
                Some(Some(Message::Commit(commit))) => return self.commit(commit).await,
                Some(None) => return Err(ApiError::StreamProtocol("the message is empty: set open, items or commit")),
            }
            first = false;
        }
    }

    async fn open(&mut self, open: v1::IngestOpen) -> Result<(), ApiError> {
        if open.accept_future_dates {
            self.limits.horizon = DateHorizon::Unlimited;
        }
        let mut opened = v1::IngestOpened::default();
        let mut counts = OutcomeCounts::default();
        let mut id = None;
        if !open.stream_id.is_empty() {
            let parsed: IngestStreamId = open.stream_id.parse().map_err(|error: crate::storage::InvalidStreamId| {
                FieldViolation::new("open.stream_id", Reason::InvalidArgument, error.to_string())
            })?;
            let OpenedStream { epoch, position, recent } = self.api.store.open_stream(&parsed).await?;
            let IngestPosition { next_item, counts: so_far, state, bookmark, .. } = position;
            if state == StreamState::Finished {
                return Err(ApiError::StreamFinished(so_far));
            }
            (self.next_item, self.recent, counts) = (next_item, recent.into(), so_far);
            opened.bookmark = bookmark.as_bytes().to_vec();
            self.opened = Some((parsed.clone(), epoch));
            id = Some(parsed).filter(|_| counts.rejected > 0);
        }
        (opened.next_item, opened.counts) = (self.next_item as i64, Some(convert::counts(counts)));
        let mut next = None;
        if let Some(id) = &id {
            (opened.rejections, next) = self.rejections(id, 0).await?;
        }
        opened.more_rejections = next.is_some();
        self.step(Step::Opened(opened, counts, open.report_all_outcomes)).await?;
        while let (Some(id), Some(from)) = (&id, next) {
            let rejections;
            (rejections, next) = self.rejections(id, from).await?;
            self.step(Step::Rejections(v1::IngestRejections { rejections, more_rejections: next.is_some() })).await?;
        }
        Ok(())
    }

    /// The next message's worth of rejections, and from where the one after it goes on.
    async fn rejections(&self, id: &IngestStreamId, from: u64) -> Result<(Vec<v1::ItemOutcome>, Option<u64>), ApiError> {
        let (mut rejections, mut bytes, mut next) = (Vec::new(), 0, Some(from));
        while let Some(from) = next.filter(|_| bytes < STREAM_MESSAGE_BYTES) {
            let page = self.api.store.rejections(id, from, PAGE_REJECTIONS).await?;
            next = page.next;
            for rejection in page.items {
                let outcome = convert::rejection(rejection);
                bytes += outcome.encoded_len();
                rejections.push(outcome);
            }
        }
        Ok((rejections, next))
    }

    async fn items(&mut self, items: IngestItems) -> Result<(), ApiError> {
        let IngestItems { first_item, articles, items, bookmark } = items;
        if !articles.is_empty() && !items.is_empty() {
            return Err(ApiError::StreamProtocol("a message has either articles or items"));
        }
        let mut items = if items.is_empty() { UndecodedItems::articles(articles) } else { UndecodedItems::items(items) };
        let limit = self.api.limits.batch_articles;
        if items.len() > limit {
            return Err(ApiError::TooManyItems { field: "items", limit });
        }
        let first_item =
            u64::try_from(first_item).map_err(|_| FieldViolation::new("items.first_item", Reason::InvalidArgument, "is negative"))?;
        if first_item > self.next_item {
            return Err(ApiError::ItemGap { next_item: self.next_item });
        }
        let bookmark = bookmark.map(|bytes| self.bookmark(&bytes)).transpose()?;
        // Items below were acknowledged, or are on their way: sent again, they change nothing, if they are the same.
        let known = usize::try_from(self.next_item - first_item).unwrap_or(usize::MAX);
        let sent_before = known > 0 && known >= items.len();
        if known > 0 {
            let again = items.take_front(known);
            let hashes = self.api.background.run(move || ingest_items::hashes(again)).await?;
            for (number, hash) in (first_item..).zip(hashes) {
                if self.known(number).is_some_and(|before| hash != before) {
                    return Err(ApiError::ItemConflict { item: number });
                }
            }
        }
        if items.is_empty() && (sent_before || bookmark.is_none()) {
            return Ok(());
        }
        let first_item = self.next_item;
        self.next_item += items.len() as u64;
        let limits = self.limits;
        let (Checked { items, writes, bytes }, hashes) = self.api.background.run(move || Items::check(items, &limits)).await?;
        self.recent.extend(&hashes);
        self.recent.drain(..self.recent.len().saturating_sub(RECENT_ITEMS));
        let share = self.api.ingest_share(self.arrived.take(), bytes).await?;
        let rejections = items.rejections(first_item);
        let stream = self.advance().map(|advance| StreamAdvance { rejections, hashes, bookmark, ..advance });
        let pending = self.api.store.submit(WriteBatch { writes, stream }).await?;
        // The share goes back when the batch is durable, not when the client gets around to reading that.
        let pending = tokio::spawn(async move {
            let outcome = pending.await;
            drop(share);
            outcome
        });
        self.step(Step::Batch { first_item, items, pending }).await
    }

    /// The hash of the item that came under this number, where it is known.
    fn known(&self, item: u64) -> Option<ItemHash> {
        let back = usize::try_from(self.next_item.checked_sub(item)?).ok()?;
        self.recent.get(self.recent.len().checked_sub(back)?).copied()
    }

    fn bookmark(&self, bytes: &[u8]) -> Result<Bookmark, FieldViolation> {
        let violation = |text: String| FieldViolation::new("items.bookmark", Reason::InvalidArgument, text);
        if self.opened.is_none() {
            return Err(violation("needs a stream that can be opened again: open it with a stream id".into()));
        }
        bytes.try_into().map_err(|error: BookmarkTooLong| violation(error.to_string()))
    }

    async fn commit(&mut self, commit: v1::IngestCommit) -> Result<(), ApiError> {
        if u64::try_from(commit.item_count) != Ok(self.next_item) {
            return Err(ApiError::ItemCountMismatch { received: self.next_item });
        }
        let pending = match self.advance() {
            None => None,
            Some(advance) => {
                let stream = Some(StreamAdvance { state: StreamState::Finished, ..advance });
                Some(self.api.store.submit(WriteBatch { writes: Vec::new(), stream }).await?)
            }
        };
        self.step(Step::Commit(pending)).await
    }

    fn advance(&self) -> Option<StreamAdvance> {
        let (id, epoch) = self.opened.clone()?;
        Some(StreamAdvance::to(id, epoch, self.next_item))
    }

    async fn step(&self, step: Step) -> Result<(), ApiError> {
        self.acknowledger.send(step).await.map_err(|_| ApiError::ReaderStalled)
    }
}

async fn acknowledge(mut steps: mpsc::Receiver<Step>, out: Outgoing<v1::IngestArticlesResponse>) -> Result<(), ApiError> {
    let mut counts = OutcomeCounts::default();
    let mut report_all = false;
    while let Some(step) = steps.recv().await {
        let replies = match step {
            Step::Fail(error) => return Err(error),
            Step::Opened(opened, before, all) => {
                (counts, report_all) = (before, all);
                vec![Reply::Opened(opened)]
            }
            Step::Rejections(rejections) => vec![Reply::Rejections(rejections)],
            Step::Batch { first_item, items, pending } => {
                let rejected = items.rejected();
                let outcome = pending.await.unwrap_or(Err(StoreError::Closed))?;
                outcome.outcomes.iter().for_each(|outcome| counts.add(outcome));
                counts.rejected += rejected;
                acks(first_item, items.results(outcome.outcomes), report_all).into_iter().map(Reply::Ack).collect()
            }
            Step::Commit(pending) => {
                if let Some(pending) = pending {
                    pending.await?;
                }
                vec![Reply::Committed(v1::IngestCommitted { item_count: counts.total() as i64, counts: Some(convert::counts(counts)) })]
            }
        };
        let last = matches!(replies[..], [Reply::Committed(_)]);
        for reply in replies {
            out.send(v1::IngestArticlesResponse { message: Some(reply) }, None).await?;
        }
        if last {
            return Ok(());
        }
    }
    Ok(())
}

/// Acknowledges the items of a message, in several parts where there is much to tell.
fn acks(first_item: u64, results: Vec<v1::IngestResult>, report_all: bool) -> Vec<v1::IngestAck> {
    let (mut acks, mut ack, mut bytes) = (Vec::new(), v1::IngestAck::default(), 0);
    ack.next_item = (first_item + results.len() as u64) as i64;
    for (item, result) in (first_item..).zip(results) {
        if report_all || result.outcome != i32::from(v1::Outcome::Created) {
            let outcome = convert::item_outcome(item, result);
            bytes += outcome.encoded_len();
            if bytes > STREAM_MESSAGE_BYTES && !ack.outcomes.is_empty() {
                let rest = v1::IngestAck { next_item: ack.next_item, outcomes: Vec::new() };
                acks.push(v1::IngestAck { next_item: item as i64, ..std::mem::replace(&mut ack, rest) });
                bytes = outcome.encoded_len();
            }
            ack.outcomes.push(outcome);
        }
    }
    acks.push(ack);
    acks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_of_much_comes_in_parts() {
        let error = v1::ItemError { message: "x".repeat(1000), ..Default::default() };
        let rejected = v1::IngestResult { outcome: v1::Outcome::Rejected.into(), error: Some(error), ..Default::default() };
        let created = v1::IngestResult { outcome: v1::Outcome::Created.into(), ..Default::default() };
        let mut results = vec![rejected; 5000];
        results[4999] = created.clone();
        let acks = acks(7, results, false);
        assert!(acks.len() > 4 && acks.iter().all(|ack| ack.encoded_len() < STREAM_MESSAGE_BYTES + 10_000), "{} parts", acks.len());
        let mut next = 7;
        for ack in &acks {
            for outcome in &ack.outcomes {
                assert_eq!(outcome.item, next);
                next += 1;
            }
            assert!(ack.next_item >= next);
            next = next.max(ack.next_item.min(5006));
        }
        assert_eq!((next, acks[acks.len() - 1].next_item), (5006, 5007));
        assert_eq!(super::acks(3, vec![created], false), [v1::IngestAck { next_item: 4, outcomes: vec![] }]);
    }
}
