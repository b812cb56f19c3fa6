//! The connections of an ingest stream, one after the other: sends, takes acknowledgements, and opens the stream again.

use std::collections::VecDeque;
use std::time::Duration;

use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use tonic_types::StatusExt as _;

use super::super::reconnect::Backoff;
use super::super::v1::{self, ingest_articles_request::Message, ingest_articles_response::Message as Reply};
use super::super::v1::{IngestArticlesRequest, IngestArticlesResponse, ingest_service_client::IngestServiceClient};
use super::super::{ClientError, MESSAGES_ON_THE_WAY, Reconnect, cut_off};
use super::Order;

/// Articles of a message, and about how many bytes of them.
const MESSAGE_ARTICLES: usize = 500;
const MESSAGE_BYTES: usize = 512 << 10;
/// For so long the server may still come upon an opening of ours that was on its way when its connection broke.
const LATE_OPENING: Duration = Duration::from_secs(60);

/// What keeps an ingest stream going.
pub struct Driver {
    client: IngestServiceClient<Channel>,
    open: v1::IngestOpen,
    orders: mpsc::UnboundedReceiver<Order>,
    outcomes: mpsc::UnboundedSender<(v1::ItemOutcome, OwnedSemaphorePermit)>,
    /// All items below this number are durable or rejected.
    acknowledged: i64,
    /// The items from there on.
    kept: VecDeque<Kept>,
    /// The outcomes of the acknowledged items, those of earlier runs included.
    counts: v1::OutcomeCounts,
    /// No item from this number on was ever sent.
    sent: i64,
    finish: Option<oneshot::Sender<v1::IngestCommitted>>,
    /// A commit was sent at least once.
    committing: bool,
    /// Openings that the server may not have seen yet, and the time of the last.
    unanswered: (u32, Instant),
    backoff: Backoff,
}

struct Kept {
    article: v1::Article,
    bytes: usize,
    room: OwnedSemaphorePermit,
}

/// One connection.
pub struct Connection {
    requests: mpsc::Sender<IngestArticlesRequest>,
    replies: Streaming<IngestArticlesResponse>,
    progress: Progress,
}

/// What was sent over a connection.
struct Progress {
    /// The number of the item to send next.
    next: i64,
    /// Bytes of the items from there on.
    waiting_bytes: usize,
    commit_sent: bool,
}

/// Why a connection has ended.
enum Ended {
    /// It broke, or the server ended it.
    Broken(Box<Status>),
    /// Coming back would be of no use.
    ForGood(ClientError),
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        Self::Broken(Box::new(status))
    }
}

impl Ended {
    fn for_good(reason: &str, message: String) -> Self {
        Self::ForGood(ClientError { reason: reason.into(), message })
    }
}

impl Driver {
    /// Opens the stream.
    pub async fn begin(
        client: IngestServiceClient<Channel>,
        open: v1::IngestOpen,
        orders: mpsc::UnboundedReceiver<Order>,
        outcomes: mpsc::UnboundedSender<(v1::ItemOutcome, OwnedSemaphorePermit)>,
        reconnect: Reconnect,
    ) -> Result<(Self, Connection, v1::IngestOpened), ClientError> {
        let mut driver = Self {
            client,
            open,
            orders,
            outcomes,
            acknowledged: 0,
            kept: VecDeque::new(),
            counts: v1::OutcomeCounts::default(),
            sent: 0,
            finish: None,
            committing: false,
            unanswered: (0, Instant::now()),
            backoff: Backoff::new(reconnect),
        };
        let (connection, opened) = driver.open().await?;
        driver.acknowledged = opened.next_item;
        driver.sent = opened.next_item;
        driver.counts = opened.counts.unwrap_or_default();
        Ok((driver, connection, opened))
    }

    /// Keeps the stream going until it is finished.
    pub async fn drive(&mut self, first: Connection) -> Result<(), ClientError> {
        let mut connection = Some(first);
        loop {
            let ended = match connection.take() {
                Some(mut connected) => match self.run(&mut connected).await {
                    Ok(()) => return Ok(()),
                    Err(ended) => ended,
                },
                None => match self.reopen().await {
                    Ok(reopened) => {
                        connection = Some(reopened);
                        continue;
                    }
                    Err(ended) => ended,
                },
            };
            match ended {
                Ended::ForGood(error) => return Err(error),
                Ended::Broken(status) => {
                    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
                    match reason.as_str() {
                        "STREAM_FINISHED" if self.committing => return self.committed_before(&status),
                        "STREAM_TAKEN_OVER" if self.by_itself() => {}
                        _ => self.backoff.interrupted(*status)?,
                    }
                }
            }
            self.backoff.pause().await;
        }
    }

    /// Whether it may be an opening of this client that took the stream over: one that was on its way when its connection broke,
    /// and that the server came upon after a later one.
    fn by_itself(&mut self) -> bool {
        let (count, last) = self.unanswered;
        self.unanswered.0 = count.saturating_sub(1);
        count > 0 && last.elapsed() < LATE_OPENING
    }

    async fn open(&mut self) -> Result<(Connection, v1::IngestOpened), Status> {
        let (requests, messages) = mpsc::channel(MESSAGES_ON_THE_WAY);
        let ended = || Status::unavailable(cut_off("the server did not open the ingest stream").message);
        requests.try_send(request(Message::Open(self.open.clone()))).map_err(|_| ended())?;
        self.unanswered = (self.unanswered.0 + 1, Instant::now());
        let opening = async {
            let mut replies = self.client.ingest_articles(Request::new(ReceiverStream::new(messages))).await?.into_inner();
            let mut opened = match replies.message().await?.and_then(|response| response.message) {
                Some(Reply::Opened(opened)) => opened,
                _ => return Err(ended()),
            };
            opened.rejections.retain(|rejection| rejection.item >= self.acknowledged);
            while opened.more_rejections {
                let Some(Reply::Rejections(more)) = replies.message().await?.and_then(|response| response.message) else {
                    return Err(ended());
                };
                opened.rejections.extend(more.rejections.into_iter().filter(|rejection| rejection.item >= self.acknowledged));
                opened.more_rejections = more.more_rejections;
            }
            Ok((replies, opened))
        };
        let opened = opening.await;
        if opened.as_ref().err().is_none_or(|status| status.get_details_error_info().is_some()) {
            self.unanswered.0 -= 1;
        }
        let (replies, opened) = opened?;
        let progress = Progress { next: opened.next_item, waiting_bytes: 0, commit_sent: false };
        Ok((Connection { requests, replies, progress }, opened))
    }

    async fn reopen(&mut self) -> Result<Connection, Ended> {
        let (mut connection, opened) = self.open().await?;
        self.catch_up(opened)?;
        connection.progress.waiting_bytes = self.kept.iter().map(|kept| kept.bytes).sum();
        if self.kept.is_empty() {
            self.backoff.nothing_is_late();
        }
        Ok(connection)
    }

    /// Takes in what the server had done when the connection broke.
    fn catch_up(&mut self, opened: v1::IngestOpened) -> Result<(), Ended> {
        let v1::IngestOpened { next_item, counts, rejections, .. } = opened;
        if next_item < self.acknowledged {
            let text = format!(
                "the server has gone back to item {next_item} of this ingest stream, of which {} were acknowledged: it was restored from a backup, or has forgotten the stream",
                self.acknowledged
            );
            return Err(Ended::for_good("ITEMS_LOST", text));
        }
        if next_item > self.sent {
            return Err(Ended::for_good("STREAM_TAKEN_OVER", "another client has gone on with this ingest stream".into()));
        }
        let (now, before) = (counts.unwrap_or_default(), self.counts);
        let done = [
            (v1::Outcome::Created, now.created - before.created),
            (v1::Outcome::Updated, now.updated - before.updated),
            (v1::Outcome::Unchanged, now.unchanged - before.unchanged),
            (v1::Outcome::Deleted, now.deleted - before.deleted),
            // The server may have forgotten some.
            (v1::Outcome::Rejected, now.rejected - before.rejected - rejections.len() as i64),
        ];
        let mut possible = done.into_iter().filter(|(_, number)| *number > 0);
        let outcome = match (possible.next(), possible.next()) {
            (Some((outcome, _)), None) => outcome,
            _ => v1::Outcome::Unspecified,
        };
        if next_item > self.acknowledged {
            self.backoff.progress();
        }
        let mut rejections = rejections.into_iter().peekable();
        while self.acknowledged < next_item {
            let item = self.acknowledged;
            let rejection = rejections.next_if(|rejection| rejection.item == item);
            self.tell(rejection.unwrap_or_else(|| v1::ItemOutcome { item, outcome: outcome.into(), ..Default::default() }))?;
        }
        self.counts = now;
        Ok(())
    }

    /// Uses a connection until the stream is finished.
    async fn run(&mut self, connection: &mut Connection) -> Result<(), Ended> {
        let Connection { requests, replies, progress } = connection;
        let mut open = true;
        loop {
            let message = open.then(|| self.next_message(progress)).flatten();
            tokio::select! {
                reply = replies.message() => {
                    match reply?.and_then(|response| response.message) {
                        Some(Reply::Ack(ack)) => self.acknowledged(ack)?,
                        Some(Reply::Committed(committed)) => {
                            self.finished(committed);
                            return Ok(());
                        }
                        Some(Reply::Opened(_) | Reply::Rejections(_)) => {}
                        None => return Err(Status::unavailable(cut_off("the ingest stream was cut off").message).into()),
                    }
                }
                room = requests.reserve(), if message.is_some() => match (room, message) {
                    (Ok(room), Some(next)) => room.send(self.message(progress, next)),
                    // It has ended; the reply says why.
                    _ => open = false,
                },
                order = self.orders.recv(), if self.finish.is_none() => match order {
                    Some(order) => {
                        self.take(order, progress);
                        while progress.waiting_bytes < MESSAGE_BYTES && let Ok(order) = self.orders.try_recv() {
                            self.take(order, progress);
                        }
                    }
                    // It was dropped.
                    None => return Ok(()),
                },
            }
        }
    }

    fn take(&mut self, order: Order, progress: &mut Progress) {
        match order {
            Order::Article(article, room) => {
                let bytes = article.encoded_len();
                progress.waiting_bytes += bytes;
                self.kept.push_back(Kept { article: *article, bytes, room });
            }
            Order::Finish(reply) => self.finish = Some(reply),
        }
    }

    /// What is to be sent next. While items are on their way, few others wait until they are more: each message costs the server
    /// a round of its own.
    fn next_message(&self, progress: &Progress) -> Option<Next> {
        let on_the_way = usize::try_from(progress.next - self.acknowledged).unwrap_or_default();
        let waiting = self.kept.len() - on_the_way.min(self.kept.len());
        let full = waiting >= MESSAGE_ARTICLES || progress.waiting_bytes >= MESSAGE_BYTES;
        if waiting > 0 && (full || on_the_way == 0 || self.finish.is_some()) {
            return Some(Next::Items(on_the_way));
        }
        (self.kept.is_empty() && self.finish.is_some() && !progress.commit_sent).then_some(Next::Commit)
    }

    fn message(&mut self, progress: &mut Progress, next: Next) -> IngestArticlesRequest {
        match next {
            Next::Items(on_the_way) => {
                let (mut articles, mut bytes) = (Vec::new(), 0);
                for kept in self.kept.iter().skip(on_the_way) {
                    if articles.len() == MESSAGE_ARTICLES || (bytes + kept.bytes > MESSAGE_BYTES && !articles.is_empty()) {
                        break;
                    }
                    bytes += kept.bytes;
                    articles.push(kept.article.clone());
                }
                let first_item = progress.next;
                progress.next += articles.len() as i64;
                progress.waiting_bytes -= bytes;
                self.sent = self.sent.max(progress.next);
                request(Message::Items(v1::IngestItems { first_item, articles, ..Default::default() }))
            }
            Next::Commit => {
                (progress.commit_sent, self.committing) = (true, true);
                request(Message::Commit(v1::IngestCommit { item_count: self.acknowledged }))
            }
        }
    }

    fn acknowledged(&mut self, ack: v1::IngestAck) -> Result<(), Ended> {
        self.backoff.progress();
        let mut outcomes = ack.outcomes.into_iter().peekable();
        while self.acknowledged < ack.next_item {
            let item = self.acknowledged;
            let outcome = outcomes.next_if(|outcome| outcome.item == item).unwrap_or_else(|| v1::ItemOutcome {
                item,
                outcome: v1::Outcome::Created.into(),
                ..Default::default()
            });
            match outcome.outcome() {
                v1::Outcome::Created => self.counts.created += 1,
                v1::Outcome::Updated => self.counts.updated += 1,
                v1::Outcome::Unchanged => self.counts.unchanged += 1,
                v1::Outcome::Deleted => self.counts.deleted += 1,
                v1::Outcome::Rejected | v1::Outcome::Unspecified => self.counts.rejected += 1,
            }
            self.tell(outcome)?;
        }
        Ok(())
    }

    /// Gives the outcome of the first item that is kept.
    fn tell(&mut self, outcome: v1::ItemOutcome) -> Result<(), Ended> {
        let Some(kept) = self.kept.pop_front() else {
            return Err(Ended::for_good("STREAM_PROTOCOL", "the server acknowledges what was not sent".into()));
        };
        self.acknowledged += 1;
        // Where nobody wants to know, there is room for others at once.
        drop(self.outcomes.send((outcome, kept.room)));
        Ok(())
    }

    fn finished(&mut self, committed: v1::IngestCommitted) {
        if let Some(finish) = self.finish.take() {
            // Whoever asked for the end may be gone.
            _ = finish.send(committed);
        }
    }

    /// The stream was finished and the answer was lost with the connection: the refusal to open it again has the same counts.
    fn committed_before(&mut self, status: &Status) -> Result<(), ClientError> {
        let metadata = status.get_details_error_info().map(|info| info.metadata).unwrap_or_default();
        let number = |name: &str| metadata.get(name).and_then(|number| number.parse::<i64>().ok());
        let counts = v1::OutcomeCounts {
            created: number("created").unwrap_or(self.counts.created),
            updated: number("updated").unwrap_or(self.counts.updated),
            unchanged: number("unchanged").unwrap_or(self.counts.unchanged),
            rejected: number("rejected").unwrap_or(self.counts.rejected),
            deleted: number("deleted").unwrap_or(self.counts.deleted),
        };
        let item_count = number("item_count").unwrap_or(self.acknowledged);
        if item_count != self.acknowledged {
            return Err(status.clone().into());
        }
        self.finished(v1::IngestCommitted { item_count, counts: Some(counts) });
        Ok(())
    }
}

/// What is sent next.
#[derive(Clone, Copy)]
enum Next {
    /// Items, after so many that are on their way.
    Items(usize),
    Commit,
}

fn request(message: Message) -> IngestArticlesRequest {
    IngestArticlesRequest { message: Some(message) }
}
