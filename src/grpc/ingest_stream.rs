//! One IngestArticles call: reads items, keeps a few batches on their way, and acknowledges them in order.
//!
//! Two tasks. The reader checks messages and submits them; the acknowledger waits for what was submitted. The queue between
//! them is short, so a slow disk, or a client that does not read its acknowledgements, stops the reader and with it, through
//! flow control, the client.

use tokio::sync::mpsc;
use tonic::Streaming;

use super::budget::BudgetShare;
use super::ingest::Items;
use super::outgoing::{Outgoing, OutgoingStream};
use super::status::{ApiError, unreadable_message};
use super::v1::{self, ingest_articles_request::Message, ingest_articles_response::Message as Reply};
use super::{Api, convert};
use crate::article::{FieldViolation, Reason};
use crate::storage::{IngestStreamId, OutcomeCounts, PendingCommit, StreamAdvance, StreamState, WriteBatch};

/// Batches of one stream on their way at once.
const BATCHES_ON_THE_WAY: usize = 4;

/// The reader's side of a stream.
pub struct IngestStream {
    api: Api,
    /// The id and the epoch of a stream that can be resumed.
    opened: Option<(IngestStreamId, u64)>,
    next_item: u64,
    acknowledger: mpsc::Sender<Step>,
}

/// What the acknowledger is to do next.
enum Step {
    Opened(v1::IngestOpened, OutcomeCounts, bool),
    Batch { first_item: u64, items: Items, pending: PendingCommit, share: BudgetShare },
    Commit(Option<PendingCommit>),
    Fail(ApiError),
}

impl IngestStream {
    /// Serves a stream until it ends.
    pub fn start(api: Api, messages: Streaming<v1::IngestArticlesRequest>) -> OutgoingStream<v1::IngestArticlesResponse> {
        let (acknowledger, steps) = mpsc::channel(BATCHES_ON_THE_WAY);
        let (budget, over) = (api.response_budget.clone(), api.drain.over.clone());
        let reader = Self { api, opened: None, next_item: 0, acknowledger: acknowledger.clone() };
        tokio::spawn(async move {
            if let Err(error) = reader.read(messages).await {
                // Comes after everything that was submitted before; where the acknowledger is gone, so is the client.
                drop(acknowledger.send(Step::Fail(error)).await);
            }
        });
        Outgoing::stream(budget, over, |out| acknowledge(steps, out))
    }

    async fn read(mut self, mut messages: Streaming<v1::IngestArticlesRequest>) -> Result<(), ApiError> {
        let mut first = true;
        let drain = self.api.drain.begun.clone();
        loop {
            let message = tokio::select! {
                () = drain.cancelled() => return Err(ApiError::Draining),
                message = messages.message() => message,
            };
            let limit = self.api.limits.request_bytes;
            let message =
                message.map_err(|status| unreadable_message(&status, limit).unwrap_or(ApiError::StreamProtocol("the stream broke off")))?;
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
        let mut counts = OutcomeCounts::default();
        if !open.stream_id.is_empty() {
            let id: IngestStreamId = open.stream_id.parse().map_err(|error: crate::storage::InvalidStreamId| {
                FieldViolation::new("open.stream_id", Reason::InvalidArgument, error.to_string())
            })?;
            let opened = self.api.store.open_stream(&id).await?;
            if opened.position.state == StreamState::Finished {
                return Err(ApiError::StreamFinished);
            }
            self.next_item = opened.position.next_item;
            counts = opened.position.counts;
            self.opened = Some((id, opened.epoch));
        }
        let opened = v1::IngestOpened { next_item: self.next_item as i64, counts: Some(convert::counts(counts)) };
        self.step(Step::Opened(opened, counts, open.report_all_outcomes)).await
    }

    async fn items(&mut self, items: v1::IngestItems) -> Result<(), ApiError> {
        let v1::IngestItems { first_item, mut articles } = items;
        let first_item =
            u64::try_from(first_item).map_err(|_| FieldViolation::new("items.first_item", Reason::InvalidArgument, "is negative"))?;
        if first_item > self.next_item {
            return Err(ApiError::ItemGap { next_item: self.next_item });
        }
        // Items below were acknowledged, or are on their way: sent again, they change nothing.
        let known = usize::try_from(self.next_item - first_item).unwrap_or(usize::MAX).min(articles.len());
        articles.drain(..known);
        if articles.is_empty() {
            return Ok(());
        }
        let first_item = self.next_item;
        self.next_item += articles.len() as u64;
        let (items, writes, bytes) = Items::validate(articles, &self.api.limits.article);
        let share = self.api.ingest_budget.share(bytes).await?;
        let stream = self.advance(items.rejected(), StreamState::Open);
        let pending = self.api.store.submit(WriteBatch { writes, stream }).await?;
        self.step(Step::Batch { first_item, items, pending, share }).await
    }

    async fn commit(&mut self, commit: v1::IngestCommit) -> Result<(), ApiError> {
        if u64::try_from(commit.item_count) != Ok(self.next_item) {
            return Err(ApiError::ItemCountMismatch { received: self.next_item });
        }
        let pending = match self.advance(0, StreamState::Finished) {
            None => None,
            stream => Some(self.api.store.submit(WriteBatch { writes: Vec::new(), stream }).await?),
        };
        self.step(Step::Commit(pending)).await
    }

    fn advance(&self, rejected: u64, state: StreamState) -> Option<StreamAdvance> {
        let (id, epoch) = self.opened.clone()?;
        Some(StreamAdvance { id, epoch, next_item: self.next_item, rejected, state })
    }

    async fn step(&self, step: Step) -> Result<(), ApiError> {
        self.acknowledger.send(step).await.map_err(|_| ApiError::ReaderStalled)
    }
}

async fn acknowledge(mut steps: mpsc::Receiver<Step>, out: Outgoing<v1::IngestArticlesResponse>) -> Result<(), ApiError> {
    let mut counts = OutcomeCounts::default();
    let mut report_all = false;
    while let Some(step) = steps.recv().await {
        let reply = match step {
            Step::Fail(error) => return Err(error),
            Step::Opened(opened, before, all) => {
                (counts, report_all) = (before, all);
                Reply::Opened(opened)
            }
            Step::Batch { first_item, items, pending, share } => {
                let rejected = items.rejected();
                let outcome = pending.await?;
                drop(share);
                outcome.outcomes.iter().for_each(|outcome| counts.add(outcome));
                counts.rejected += rejected;
                Reply::Ack(ack(first_item, items.results(outcome.outcomes), report_all))
            }
            Step::Commit(pending) => {
                if let Some(pending) = pending {
                    pending.await?;
                }
                Reply::Committed(v1::IngestCommitted { item_count: counts.total() as i64, counts: Some(convert::counts(counts)) })
            }
        };
        let last = matches!(reply, Reply::Committed(_));
        out.send(v1::IngestArticlesResponse { message: Some(reply) }, None).await?;
        if last {
            return Ok(());
        }
    }
    Ok(())
}

fn ack(first_item: u64, results: Vec<v1::IngestResult>, report_all: bool) -> v1::IngestAck {
    let next_item = (first_item + results.len() as u64) as i64;
    let items = (first_item as i64..).zip(results);
    let reported = items.filter(|(_, result)| report_all || result.outcome != i32::from(v1::Outcome::Created));
    let outcomes =
        reported.map(|(item, v1::IngestResult { outcome, etag, error })| v1::ItemOutcome { item, outcome, etag, error }).collect();
    v1::IngestAck { next_item, outcomes }
}
