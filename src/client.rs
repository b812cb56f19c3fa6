//! The typed client: what the command line and the tests use, and what a Rust program can.
//!
//! Thin on purpose: requests and responses are the messages of the protocol; errors carry the stable reason.

mod ingest;
mod reconnect;
mod scan;
mod watch;

use std::fmt;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::article::{ArticleDraft, FieldViolation, Timestamp};
use crate::grpc::convert;
pub use crate::grpc::v1;
pub use ingest::{Ingest, IngestOptions, IngestOutcomes};
pub use reconnect::{Notice, Reconnect};
pub use scan::Scan;
pub use watch::{Watch, WatchEvent};

use v1::admin_service_client::AdminServiceClient;
use v1::article_service_client::ArticleServiceClient;
use v1::change_service_client::ChangeServiceClient;
use v1::ingest_service_client::IngestServiceClient;

/// Bytes of a response that the client accepts: the server's limit and some room for one that is configured higher.
const MAX_RESPONSE_BYTES: usize = 64 << 20;
/// Messages of items that wait to be sent.
const MESSAGES_ON_THE_WAY: usize = 2;
/// How long to wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// While calls are under way, the server is asked so often whether it is still there; where no answer comes in time, the connection
/// is given up. Nothing else tells of a network that swallows everything.
const KEEPALIVE: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection to a server. Cheap to clone; clones share the connection.
#[derive(Debug, Clone)]
pub struct Client {
    articles: ArticleServiceClient<Channel>,
    ingest: IngestServiceClient<Channel>,
    changes: ChangeServiceClient<Channel>,
    admin: AdminServiceClient<Channel>,
    reconnect: Reconnect,
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientError {
    /// The stable reason: as the server gave it, or `UNREACHABLE`, `INVALID_ADDRESS`, `CUT_OFF`, or the name of the code where there is none.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

impl ClientError {
    /// Whether trying again may help: the server is not there, stops, starts, or has no room or time now.
    pub fn is_passing(&self) -> bool {
        const PASSING: [&str; 14] = [
            "UNREACHABLE",
            "CUT_OFF",
            "OVERLOADED",
            "DRAINING",
            "STORAGE_FAILED",
            "DISK_FULL",
            "READER_STALLED",
            "STREAM_INTERRUPTED",
            // Names of codes: the connection broke, and no server said why.
            "Unavailable",
            "Unknown",
            "Internal",
            "Cancelled",
            "DeadlineExceeded",
            "Aborted",
        ];
        PASSING.contains(&self.reason.as_str())
    }
}

impl std::error::Error for ClientError {}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.reason)
    }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        let reason = status.get_details_error_info().map(|info| info.reason);
        Self { reason: reason.unwrap_or_else(|| format!("{:?}", status.code())), message: status.message().to_owned() }
    }
}

impl Client {
    /// Connects to a server: `http://host:port`, or `host:port`.
    ///
    /// # Errors
    /// Where the address is none, or nobody answers there.
    pub async fn connect(server: &str) -> Result<Self, ClientError> {
        let address = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
        let unreachable = |text: String| ClientError { reason: "UNREACHABLE".into(), message: text };
        let endpoint = Endpoint::from_shared(address.clone()).map_err(|_| {
            let message = format!("{server} is no address of a server: write http://HOST:PORT");
            ClientError { reason: "INVALID_ADDRESS".into(), message }
        })?;
        let endpoint = endpoint.tcp_nodelay(true).initial_stream_window_size(1 << 20).initial_connection_window_size(4 << 20);
        let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).http2_keep_alive_interval(KEEPALIVE).keep_alive_timeout(KEEPALIVE_TIMEOUT);
        let channel = endpoint.connect().await.map_err(|_| {
            unreachable(format!("no server answers at {address}: start one with `dateline serve`, or name another with --server"))
        })?;
        Ok(Self {
            articles: ArticleServiceClient::new(channel.clone()).max_decoding_message_size(MAX_RESPONSE_BYTES),
            ingest: IngestServiceClient::new(channel.clone()).max_decoding_message_size(MAX_RESPONSE_BYTES),
            changes: ChangeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_RESPONSE_BYTES),
            admin: AdminServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES),
            reconnect: Reconnect::default(),
        })
    }

    /// The same connection, with calls that come back in another way: scans, watches and ingests that begin from here on.
    pub fn with_reconnect(self, reconnect: Reconnect) -> Self {
        Self { reconnect, ..self }
    }

    /// One article.
    pub async fn get_article(&self, request: v1::GetArticleRequest) -> Result<v1::Article, ClientError> {
        let response = self.articles.clone().get_article(request).await?.into_inner();
        response.article.ok_or_else(|| cut_off("the response holds no article"))
    }

    /// Articles by key, one result a key.
    pub async fn lookup_articles(&self, request: v1::LookupArticlesRequest) -> Result<Vec<v1::LookupResult>, ClientError> {
        let mut stream = self.articles.clone().lookup_articles(request).await?.into_inner();
        let mut results = Vec::new();
        while let Some(message) = stream.message().await? {
            results.extend(message.results);
        }
        Ok(results)
    }

    /// A page of articles.
    pub async fn list_articles(&self, request: v1::ListArticlesRequest) -> Result<v1::ListArticlesResponse, ClientError> {
        Ok(self.articles.clone().list_articles(request).await?.into_inner())
    }

    /// All articles that a filter selects, one after the other, over one connection: [`scan`](Self::scan) comes back by itself.
    pub async fn stream_articles(&self, request: v1::StreamArticlesRequest) -> Result<ArticleStream, ClientError> {
        let stream = self.articles.clone().stream_articles(request).await?.into_inner();
        Ok(ArticleStream { stream, batch: Vec::new().into_iter(), ended: false })
    }

    /// A page of an article's revisions.
    pub async fn list_article_revisions(
        &self,
        request: v1::ListArticleRevisionsRequest,
    ) -> Result<v1::ListArticleRevisionsResponse, ClientError> {
        Ok(self.articles.clone().list_article_revisions(request).await?.into_inner())
    }

    /// Stores an article.
    pub async fn put_article(&self, request: v1::PutArticleRequest) -> Result<v1::PutArticleResponse, ClientError> {
        Ok(self.articles.clone().put_article(request).await?.into_inner())
    }

    /// Deletes an article.
    pub async fn delete_article(&self, request: v1::DeleteArticleRequest) -> Result<v1::DeleteArticleResponse, ClientError> {
        Ok(self.articles.clone().delete_article(request).await?.into_inner())
    }

    /// Deletes what a filter selects.
    pub async fn delete_articles(&self, request: v1::DeleteArticlesRequest) -> Result<v1::DeleteArticlesResponse, ClientError> {
        Ok(self.articles.clone().delete_articles(request).await?.into_inner())
    }

    /// A page of counts.
    pub async fn count_articles(&self, request: v1::CountArticlesRequest) -> Result<v1::CountArticlesResponse, ClientError> {
        Ok(self.articles.clone().count_articles(request).await?.into_inner())
    }

    /// The canonical form of a URL.
    pub async fn resolve_url(&self, url: &str) -> Result<v1::ResolveUrlResponse, ClientError> {
        Ok(self.articles.clone().resolve_url(v1::ResolveUrlRequest { url: url.to_owned() }).await?.into_inner())
    }

    /// Stores articles in one message.
    pub async fn batch_ingest_articles(&self, articles: Vec<v1::Article>) -> Result<Vec<v1::IngestResult>, ClientError> {
        let request = v1::BatchIngestArticlesRequest { articles };
        Ok(self.ingest.clone().batch_ingest_articles(request).await?.into_inner().results)
    }

    /// What the store holds and how it is doing.
    pub async fn status(&self) -> Result<v1::GetStatusResponse, ClientError> {
        Ok(self.admin.clone().get_status(v1::GetStatusRequest {}).await?.into_inner())
    }

    /// Begins a backup.
    pub async fn create_backup(&self) -> Result<BackupStream, ClientError> {
        use v1::create_backup_response::Part;
        let mut stream = self.admin.clone().create_backup(v1::CreateBackupRequest {}).await?.into_inner();
        match stream.message().await?.and_then(|response| response.part) {
            Some(Part::Started(started)) => {
                Ok(BackupStream { stream, started, sha256: Sha256::new(), bytes: 0, item_count: 0, trailer: None })
            }
            _ => Err(cut_off("the server did not begin the backup")),
        }
    }

    /// Has everything that is stored looked at, so many entries a second; 0 leaves that to the server.
    pub async fn verify_store(&self, entries_per_second: i64) -> Result<VerifyStream, ClientError> {
        let stream = self.admin.clone().verify_store(v1::VerifyStoreRequest { entries_per_second }).await?.into_inner();
        Ok(VerifyStream { stream, ended: false })
    }

    /// From where to where changes are kept.
    pub async fn change_bounds(&self) -> Result<v1::GetChangeBoundsResponse, ClientError> {
        Ok(self.changes.clone().get_change_bounds(v1::GetChangeBoundsRequest {}).await?.into_inner())
    }

    /// Follows changes. Returns when the server has begun.
    ///
    /// # Errors
    /// Where the server refuses the watch, or cannot be reached now. Later interruptions are none: the watch comes back.
    pub async fn watch(&self, request: v1::WatchArticlesRequest) -> Result<Watch, ClientError> {
        Watch::begin(self.changes.clone(), request, self.reconnect.clone()).await
    }

    /// Scans all articles that a filter selects. Returns when the server has begun.
    ///
    /// # Errors
    /// Where the server refuses the scan, or cannot be reached now. Later interruptions are none: the scan comes back.
    pub async fn scan(&self, request: v1::StreamArticlesRequest) -> Result<Scan, ClientError> {
        Scan::begin(self.articles.clone(), request, self.reconnect.clone()).await
    }

    /// Stores any number of articles over an ingest stream that comes back by itself. Returns when the server has opened it, with
    /// the end that articles are given to and the one that tells what became of them.
    ///
    /// # Errors
    /// Where the server refuses the stream (`STREAM_FINISHED`: it was finished earlier), or cannot be reached now. Later
    /// interruptions are none: the stream comes back.
    pub async fn ingest_articles(&self, options: IngestOptions) -> Result<(Ingest, IngestOutcomes), ClientError> {
        Ingest::begin(self.ingest.clone(), options, self.reconnect.clone()).await
    }

    /// Opens an ingest stream over one connection; an empty id makes one that cannot be resumed.
    /// [`ingest_articles`](Self::ingest_articles) comes back by itself.
    pub async fn ingest(
        &self,
        stream_id: &str,
        report_all_outcomes: bool,
    ) -> Result<(IngestSender, IngestReceiver, v1::IngestOpened), ClientError> {
        let open = v1::IngestOpen { stream_id: stream_id.to_owned(), report_all_outcomes, accept_future_dates: false };
        self.open_ingest(open).await
    }

    /// Opens an ingest stream. Gives everything that the server says of it, with all rejections that it keeps.
    pub async fn open_ingest(&self, open: v1::IngestOpen) -> Result<(IngestSender, IngestReceiver, v1::IngestOpened), ClientError> {
        use v1::ingest_articles_request::Message;
        use v1::ingest_articles_response::Message as Reply;
        let (sender, messages) = mpsc::channel(MESSAGES_ON_THE_WAY);
        let sender = IngestSender(sender);
        sender.message(Message::Open(open)).await?;
        let replies = self.ingest.clone().ingest_articles(Request::new(ReceiverStream::new(messages))).await?;
        let mut receiver = IngestReceiver(replies.into_inner());
        let mut opened = match receiver.0.message().await?.and_then(|response| response.message) {
            Some(Reply::Opened(opened)) => opened,
            _ => return Err(cut_off("the server did not open the ingest stream")),
        };
        while opened.more_rejections {
            match receiver.0.message().await?.and_then(|response| response.message) {
                Some(Reply::Rejections(more)) => {
                    opened.rejections.extend(more.rejections);
                    opened.more_rejections = more.more_rejections;
                }
                _ => return Err(cut_off("the server did not tell all that was rejected")),
            }
        }
        Ok((sender, receiver, opened))
    }
}

/// The articles of [`Client::stream_articles`].
#[derive(Debug)]
pub struct ArticleStream {
    stream: Streaming<v1::StreamArticlesResponse>,
    batch: std::vec::IntoIter<v1::Article>,
    ended: bool,
}

impl ArticleStream {
    /// The next article; `None` at the end.
    ///
    /// # Errors
    /// Where the stream was cut off before its end.
    pub async fn next(&mut self) -> Result<Option<v1::Article>, ClientError> {
        use v1::stream_articles_response::Event;
        loop {
            if let Some(article) = self.batch.next() {
                return Ok(Some(article));
            }
            if self.ended {
                return Ok(None);
            }
            match self.stream.message().await?.map(|response| response.event) {
                None => return Err(cut_off("the stream of articles was cut off before its end")),
                Some(Some(Event::Batch(batch))) => self.batch = batch.articles.into_iter(),
                Some(Some(Event::Ended(_))) => self.ended = true,
                Some(Some(Event::Started(_)) | None) => {}
            }
        }
    }
}

/// The bytes of [`Client::create_backup`].
#[derive(Debug)]
pub struct BackupStream {
    stream: Streaming<v1::CreateBackupResponse>,
    started: v1::BackupStarted,
    sha256: Sha256,
    bytes: i64,
    item_count: i64,
    trailer: Option<v1::BackupTrailer>,
}

impl BackupStream {
    /// What the backup is of.
    pub fn started(&self) -> &v1::BackupStarted {
        &self.started
    }

    /// How many items the server has put into it so far.
    pub fn item_count(&self) -> i64 {
        self.item_count
    }

    /// What it came to; `None` before its end.
    pub fn trailer(&self) -> Option<&v1::BackupTrailer> {
        self.trailer.as_ref()
    }

    /// The next bytes; `None` at the end, where all of them are known to be those that the server sent.
    ///
    /// # Errors
    /// Where the stream was cut off before its end, or something else arrived than was sent.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        use v1::create_backup_response::Part;
        while self.trailer.is_none() {
            let Some(response) = self.stream.message().await? else { return Err(cut_off("the backup was cut off before its end")) };
            self.item_count = response.item_count;
            match response.part {
                Some(Part::Data(data)) => {
                    self.sha256.update(&data);
                    self.bytes += data.len() as i64;
                    return Ok(Some(data));
                }
                Some(Part::Trailer(trailer)) => {
                    let sha256: String = self.sha256.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect();
                    if (trailer.byte_count, &trailer.sha256) != (self.bytes, &sha256) {
                        let message = "the backup that arrived is not the one that was sent: make another".into();
                        return Err(ClientError { reason: "CORRUPTED".into(), message });
                    }
                    self.trailer = Some(trailer);
                }
                Some(Part::Started(_)) | None => {}
            }
        }
        Ok(None)
    }
}

/// What [`Client::verify_store`] finds.
#[derive(Debug)]
pub struct VerifyStream {
    stream: Streaming<v1::VerifyStoreResponse>,
    ended: bool,
}

impl VerifyStream {
    /// The next event; `None` after the one that tells the end.
    ///
    /// # Errors
    /// Where the verification was cut off before its end.
    pub async fn next(&mut self) -> Result<Option<v1::verify_store_response::Event>, ClientError> {
        use v1::verify_store_response::Event;
        while !self.ended {
            match self.stream.message().await? {
                None => return Err(cut_off("the verification was cut off before its end")),
                Some(response) => {
                    self.ended = matches!(response.event, Some(Event::Ended(_)));
                    if response.event.is_some() {
                        return Ok(response.event);
                    }
                }
            }
        }
        Ok(None)
    }
}

/// The sending side of an ingest stream.
#[derive(Debug)]
pub struct IngestSender(mpsc::Sender<v1::IngestArticlesRequest>);

impl IngestSender {
    /// Sends items; waits where the server is behind.
    ///
    /// # Errors
    /// Where the stream has ended: the receiver says why.
    pub async fn send(&mut self, first_item: i64, articles: Vec<v1::Article>) -> Result<(), ClientError> {
        self.send_items(v1::IngestItems { first_item, articles, ..Default::default() }).await
    }

    /// Sends items of any kind, or a bookmark; waits where the server is behind.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_items(&mut self, items: v1::IngestItems) -> Result<(), ClientError> {
        self.message(v1::ingest_articles_request::Message::Items(items)).await
    }

    /// Ends the stream for good. The receiver gets the counts.
    pub async fn commit(self, item_count: i64) -> Result<(), ClientError> {
        self.message(v1::ingest_articles_request::Message::Commit(v1::IngestCommit { item_count })).await
    }

    async fn message(&self, message: v1::ingest_articles_request::Message) -> Result<(), ClientError> {
        let sent = self.0.send(v1::IngestArticlesRequest { message: Some(message) }).await;
        sent.map_err(|_| cut_off("the ingest stream has ended"))
    }
}

/// The receiving side of an ingest stream.
#[derive(Debug)]
pub struct IngestReceiver(Streaming<v1::IngestArticlesResponse>);

/// What an ingest stream's server tells.
#[derive(Debug, Clone, PartialEq)]
pub enum IngestEvent {
    /// Items are durable or rejected.
    Ack(v1::IngestAck),
    /// The stream is finished for good.
    Committed(v1::IngestCommitted),
}

impl IngestReceiver {
    /// The next event; `None` where the stream has ended.
    ///
    /// # Errors
    /// Where the server ended the stream, or the connection broke.
    pub async fn next(&mut self) -> Result<Option<IngestEvent>, ClientError> {
        use v1::ingest_articles_response::Message;
        loop {
            match self.0.message().await?.map(|response| response.message) {
                None => return Ok(None),
                Some(Some(Message::Ack(ack))) => return Ok(Some(IngestEvent::Ack(ack))),
                Some(Some(Message::Committed(committed))) => return Ok(Some(IngestEvent::Committed(committed))),
                Some(Some(Message::Opened(_) | Message::Rejections(_)) | None) => {}
            }
        }
    }
}

fn cut_off(message: &str) -> ClientError {
    ClientError { reason: "CUT_OFF".into(), message: message.into() }
}

/// A draft as a message.
pub fn to_wire(draft: ArticleDraft) -> v1::Article {
    convert::draft_to_wire(draft)
}

/// A message as a draft.
///
/// # Errors
/// Where an instant is out of range.
pub fn from_wire(article: v1::Article) -> Result<ArticleDraft, Vec<FieldViolation>> {
    convert::draft_from_wire(article)
}

/// An instant as a message.
pub fn time_to_wire(time: Timestamp) -> prost_types::Timestamp {
    convert::time_to_wire(time)
}
