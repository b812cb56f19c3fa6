//! Ingesting articles: an ingest stream that goes on where it was interrupted.
//!
//! What is not acknowledged yet is kept. When the connection breaks, the stream is opened again, the server tells which item
//! comes next, and the rest is sent again; so each article is stored once, however often that happens.

mod driver;

use std::sync::{Arc, OnceLock};

use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Channel;

use super::v1::{self, ingest_service_client::IngestServiceClient};
use super::{ClientError, Reconnect, cut_off};
use driver::Driver;

/// What the window is counted in, so that any window fits a semaphore.
const UNIT: usize = 1024;

/// How an ingest stream is to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestOptions {
    /// The stream's id: 1 to 128 printable ASCII characters without spaces. Opened again, also by another process, it goes on
    /// where it was. Empty: one that nobody else knows.
    pub stream_id: String,
    /// Whether the outcomes of created articles carry their etag; those of others always do. Default false.
    pub report_all_outcomes: bool,
    /// Bytes of articles that are given and whose outcome was not taken yet, at most. An article larger than all of it has it for
    /// itself. Default 16 MiB.
    pub window_bytes: usize,
}

impl Default for IngestOptions {
    fn default() -> Self {
        Self { stream_id: String::new(), report_all_outcomes: false, window_bytes: 16 << 20 }
    }
}

impl IngestOptions {
    /// The stream of this id.
    pub fn stream(id: impl Into<String>) -> Self {
        Self { stream_id: id.into(), ..Self::default() }
    }
}

/// The end of an ingest stream that articles are given to: what [`Client::ingest_articles`](super::Client::ingest_articles)
/// gives, with the one that tells their outcomes.
///
/// A stream ends with [`finish`](Self::finish). Dropped before, it stops where it is, and its id can be opened again.
///
/// ```no_run
/// use dateline::client::{Client, ClientError, IngestOptions, v1};
///
/// async fn store(articles: Vec<v1::Article>) -> Result<(), ClientError> {
///     let client = Client::connect("http://127.0.0.1:50051").await?;
///     let (mut ingest, mut outcomes) = client.ingest_articles(IngestOptions::stream("crawl-2024-05-01")).await?;
///     // What an earlier run of this program has stored is not given again.
///     let stored = usize::try_from(ingest.next_item()).unwrap_or(usize::MAX);
///     let give = async move {
///         for article in articles.into_iter().skip(stored) {
///             ingest.push(article).await?;
///         }
///         ingest.finish().await
///     };
///     // Outcomes are taken at the same time: the window has no room for more articles otherwise.
///     let take = async {
///         while let Some(outcome) = outcomes.next().await? {
///             if let Some(error) = outcome.error {
///                 eprintln!("article {}: {}", outcome.item, error.message);
///             }
///         }
///         Ok::<_, ClientError>(())
///     };
///     let (committed, ()) = tokio::try_join!(give, take)?;
///     println!("{} articles", committed.item_count);
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct Ingest {
    orders: mpsc::UnboundedSender<Order>,
    window: Arc<Semaphore>,
    window_units: u32,
    next_item: i64,
    counts_before: v1::OutcomeCounts,
    ended: Arc<OnceLock<ClientError>>,
    /// Ends the connection when it is dropped.
    _alive: DropGuard,
}

/// The end of an ingest stream that tells what became of the articles.
///
/// Each article given has one outcome, in their order. Where the connection broke after articles were stored and before that was
/// acknowledged, the server tells again which were rejected; of the others it knows how many had which outcome, but not which,
/// and where that leaves a doubt, their outcome is `OUTCOME_UNSPECIFIED`. The counts that [`Ingest::finish`] gives are exact all
/// the same.
///
/// Outcomes that are not taken count as on the way: [`Ingest::push`] waits when the window is full. Whoever does not care for
/// them drops this end.
#[derive(Debug)]
pub struct IngestOutcomes {
    outcomes: mpsc::UnboundedReceiver<(v1::ItemOutcome, OwnedSemaphorePermit)>,
    ended: Arc<OnceLock<ClientError>>,
}

/// What the driver is told.
#[derive(Debug)]
enum Order {
    Article(Box<v1::Article>, OwnedSemaphorePermit),
    Finish(oneshot::Sender<v1::IngestCommitted>),
}

impl Ingest {
    pub(super) async fn begin(
        client: IngestServiceClient<Channel>,
        options: IngestOptions,
        reconnect: Reconnect,
    ) -> Result<(Self, IngestOutcomes), ClientError> {
        let IngestOptions { mut stream_id, report_all_outcomes, window_bytes } = options;
        if stream_id.is_empty() {
            stream_id = random_id()?;
        }
        let window_units = u32::try_from(window_bytes.div_ceil(UNIT)).unwrap_or(u32::MAX).max(1);
        let window = Arc::new(Semaphore::new((window_units as usize).min(Semaphore::MAX_PERMITS)));
        let (orders, ordered) = mpsc::unbounded_channel();
        let (teller, outcomes) = mpsc::unbounded_channel();
        let open = v1::IngestOpen { stream_id, report_all_outcomes, ..Default::default() };
        let (mut driver, connection, opened) = Driver::begin(client, open, ordered, teller, reconnect).await?;
        let (ended, alive) = (Arc::new(OnceLock::new()), CancellationToken::new());
        let (ending, closing, dropped) = (Arc::clone(&ended), Arc::clone(&window), alive.clone());
        tokio::spawn(async move {
            let failed = tokio::select! {
                () = dropped.cancelled() => None,
                ended = driver.drive(connection) => ended.err(),
            };
            // First the reason, then the end: whoever finds the end looks for the reason.
            if let Some(error) = failed {
                _ = ending.set(error);
            }
            closing.close();
            drop(driver);
        });
        let counts_before = opened.counts.unwrap_or_default();
        let next_item = opened.next_item;
        let ingest = Self { orders, window, window_units, next_item, counts_before, ended: Arc::clone(&ended), _alive: alive.drop_guard() };
        Ok((ingest, IngestOutcomes { outcomes, ended }))
    }

    /// The number of the article to give next. At first that is 0, or where an earlier run of the stream stopped.
    pub fn next_item(&self) -> i64 {
        self.next_item
    }

    /// The outcomes of the articles that earlier runs of the stream had stored.
    pub fn counts_before(&self) -> v1::OutcomeCounts {
        self.counts_before
    }

    /// Gives the next article, and its number. Waits while the window is full; dropped while it waits, it takes nothing.
    ///
    /// # Errors
    /// Where the stream has ended: another client took it over (`STREAM_TAKEN_OVER`), a message was too large, or coming back was
    /// tried in vain for as long as [`Reconnect`] says. Articles without an outcome may have been stored all the same; the
    /// stream's id, opened again, tells.
    pub async fn push(&mut self, article: v1::Article) -> Result<i64, ClientError> {
        let units = u32::try_from(article.encoded_len().div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, self.window_units);
        let room = Arc::clone(&self.window).acquire_many_owned(units).await.map_err(|_| reason(&self.ended))?;
        self.orders.send(Order::Article(Box::new(article), room)).map_err(|_| reason(&self.ended))?;
        self.next_item += 1;
        Ok(self.next_item - 1)
    }

    /// Ends the stream for good, once all articles are durable or rejected. Gives their number and outcomes, those of earlier runs
    /// of the stream included.
    ///
    /// # Errors
    /// As [`push`](Self::push); the stream may have been finished all the same.
    pub async fn finish(self) -> Result<v1::IngestCommitted, ClientError> {
        let (reply, committed) = oneshot::channel();
        self.orders.send(Order::Finish(reply)).map_err(|_| reason(&self.ended))?;
        committed.await.map_err(|_| reason(&self.ended))
    }
}

impl IngestOutcomes {
    /// The next outcome; `None` when the stream was finished, or dropped. May be dropped while it waits, without a loss.
    ///
    /// # Errors
    /// Where the stream has ended otherwise, as [`Ingest::push`] says.
    pub async fn next(&mut self) -> Result<Option<v1::ItemOutcome>, ClientError> {
        match self.outcomes.recv().await {
            Some((outcome, _room)) => Ok(Some(outcome)),
            None => self.ended.get().map_or(Ok(None), |error| Err(error.clone())),
        }
    }
}

/// Why a stream has ended.
fn reason(ended: &OnceLock<ClientError>) -> ClientError {
    ended.get().cloned().unwrap_or_else(|| cut_off("the ingest stream has ended"))
}

fn random_id() -> Result<String, ClientError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| cut_off(&format!("the system gives no random numbers: {error}")))?;
    Ok(format!("client-{}", bytes.map(|byte| format!("{byte:02x}")).concat()))
}
