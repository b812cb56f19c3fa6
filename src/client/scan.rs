//! Scanning articles: a scan that goes on where it was interrupted.
//!
//! A message comes whole or not at all, with the token that resumes after it, so each article is given once and in order, however
//! often the connection breaks or the server is started anew.

use std::vec::IntoIter;

use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::reconnect::Backoff;
use super::v1::{self, article_service_client::ArticleServiceClient, stream_articles_response::Event};
use super::{ClientError, Reconnect, cut_off};

/// The articles that a filter selects, in order: what [`Client::scan`](super::Client::scan) gives.
///
/// What is there throughout is given exactly once. It holds one message of the server, 1 MiB or one larger article, and the server
/// reads no further ahead than whoever calls [`next`](Self::next).
///
/// To copy a store and keep the copy up to date, scan it, and then watch it from the scan's token:
///
/// ```no_run
/// use dateline::client::v1::watch_articles_request::Start;
/// use dateline::client::{Client, ClientError, WatchEvent, v1};
///
/// async fn follow() -> Result<(), ClientError> {
///     let client = Client::connect("http://127.0.0.1:50051").await?;
///     let mut scan = client.scan(v1::StreamArticlesRequest::default()).await?;
///     let token = scan.watch_token().to_owned();
///     while let Some(article) = scan.next().await? {
///         println!("{} {}", article.date, article.title);
///     }
///     let start = Some(Start::ResumeToken(token));
///     let mut watch = client.watch(v1::WatchArticlesRequest { start, ..Default::default() }).await?;
///     loop {
///         if let WatchEvent::Changes(message) = watch.next().await? {
///             println!("{} changes", message.changes.len());
///         }
///     }
/// }
/// ```
#[derive(Debug)]
pub struct Scan {
    articles: ArticleServiceClient<Channel>,
    /// Begins after the last message.
    request: v1::StreamArticlesRequest,
    watch_token: String,
    stream: Option<Streaming<v1::StreamArticlesResponse>>,
    batch: IntoIter<v1::Article>,
    /// Articles that came over this connection.
    received: i64,
    ended: bool,
    backoff: Backoff,
}

impl Scan {
    pub(super) async fn begin(
        articles: ArticleServiceClient<Channel>,
        request: v1::StreamArticlesRequest,
        reconnect: Reconnect,
    ) -> Result<Self, ClientError> {
        let backoff = Backoff::new(reconnect);
        let batch = Vec::new().into_iter();
        let mut scan = Self { articles, request, watch_token: String::new(), stream: None, batch, received: 0, ended: false, backoff };
        scan.watch_token = scan.open().await?;
        Ok(scan)
    }

    /// For a watch that begins where this scan did: taken before its first article, so that such a watch, after the scan, misses
    /// no change.
    pub fn watch_token(&self) -> &str {
        &self.watch_token
    }

    /// The next article; `None` at the end. May be dropped while it waits, without a loss.
    ///
    /// # Errors
    /// Where coming back would be of no use (the server refuses the request, or what is stored is damaged), or was tried in vain
    /// for as long as [`Reconnect`] says.
    pub async fn next(&mut self) -> Result<Option<v1::Article>, ClientError> {
        loop {
            if let Some(article) = self.batch.next() {
                return Ok(Some(article));
            }
            if self.ended {
                return Ok(None);
            }
            if let Err(status) = self.receive().await {
                self.stream = None;
                self.backoff.interrupted(status)?;
            }
        }
    }

    async fn receive(&mut self) -> Result<(), Status> {
        if self.stream.is_none() {
            self.backoff.pause().await;
            self.open().await?;
        }
        let ended = || Status::unavailable(cut_off("the stream of articles was cut off before its end").message);
        let stream = self.stream.as_mut().ok_or_else(ended)?;
        let response = stream.message().await?.ok_or_else(ended)?;
        self.backoff.progress();
        match response.event {
            Some(Event::Batch(v1::ArticleBatch { articles, resume_token })) => {
                self.request.resume_token = resume_token;
                self.received += articles.len() as i64;
                self.batch = articles.into_iter();
            }
            Some(Event::Ended(v1::StreamEnded { article_count })) if article_count == self.received => self.ended = true,
            Some(Event::Ended(v1::StreamEnded { article_count })) => {
                let text = format!("{} articles of {article_count} arrived", self.received);
                return Err(Status::data_loss(text));
            }
            Some(Event::Started(_)) | None => {}
        }
        Ok(())
    }

    /// Begins the call. Gives its watch token.
    async fn open(&mut self) -> Result<String, Status> {
        let mut stream = self.articles.stream_articles(self.request.clone()).await?.into_inner();
        match stream.message().await?.and_then(|response| response.event) {
            Some(Event::Started(started)) => {
                (self.stream, self.received) = (Some(stream), 0);
                Ok(started.watch_token)
            }
            _ => Err(Status::unavailable(cut_off("the server did not begin the scan").message)),
        }
    }
}
