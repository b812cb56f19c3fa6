//! The ceiling: what the same calls cost with tonic and prost alone.
//!
//! A bare server in a process of its own, on a multi-threaded runtime, with the transport settings and the allocator of the daemon. It
//! keeps decoded messages in maps: nothing is checked or compressed, and nothing stored but what is put, which is appended to a file
//! and synced before it is answered. The calls that the load does not make answer UNIMPLEMENTED.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};

use dateline::client::v1::article_service_server::{ArticleService, ArticleServiceServer};
use dateline::client::v1::ingest_service_server::{IngestService, IngestServiceServer};
use dateline::client::v1::{self, *};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::Fallible;
use crate::append_log::AppendLog;

/// Bytes of a streamed message, as Dateline has them.
const MESSAGE_BYTES: usize = 1 << 20;
/// Bytes of a request message.
const REQUEST_BYTES: usize = 16 << 20;

/// The articles of a day: by URL, and in the order in which they came.
#[derive(Default)]
struct Day {
    by_url: HashMap<String, Arc<Article>>,
    articles: Vec<Arc<Article>>,
}

#[derive(Clone)]
struct Ceiling {
    days: Arc<RwLock<BTreeMap<String, Day>>>,
    log: AppendLog,
}

/// Serves on a free port of the loopback, and says on standard output which one, until it is killed. What is put
/// is appended to a file in this folder.
///
/// # Errors
/// Where it cannot listen.
pub async fn serve(folder: &Path) -> Fallible<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let mut out = std::io::stdout();
    writeln!(out, "listening on http://{address}")?;
    out.flush()?;
    let ceiling = Ceiling { days: Arc::default(), log: AppendLog::new(&folder.join("log"))? };
    Server::builder()
        .max_concurrent_streams(256)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .add_service(ArticleServiceServer::new(ceiling.clone()).max_decoding_message_size(REQUEST_BYTES))
        .add_service(IngestServiceServer::new(ceiling).max_decoding_message_size(REQUEST_BYTES))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)))
        .await?;
    Ok(())
}

impl Ceiling {
    fn insert(&self, articles: impl IntoIterator<Item = Article>) {
        let mut days = self.days.write().unwrap_or_else(PoisonError::into_inner);
        for article in articles {
            let article = Arc::new(article);
            let day = days.entry(article.date.clone()).or_default();
            day.by_url.insert(article.url.clone(), Arc::clone(&article));
            day.articles.push(article);
        }
    }

    fn find(&self, key: &ArticleKey) -> Option<Article> {
        let days = self.days.read().unwrap_or_else(PoisonError::into_inner);
        let article = Arc::clone(days.get(&key.date)?.by_url.get(&key.url)?);
        drop(days);
        Some(Article::clone(&article))
    }

    fn days(&self, filter: Option<ArticleFilter>) -> Vec<Arc<Article>> {
        let filter = filter.unwrap_or_default();
        let days = self.days.read().unwrap_or_else(PoisonError::into_inner);
        days.range(filter.start_date..=filter.end_date).flat_map(|(_, day)| day.articles.iter().cloned()).collect()
    }
}

fn created() -> IngestResult {
    IngestResult { outcome: Outcome::Created.into(), ..Default::default() }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl ArticleService for Ceiling {
    type LookupArticlesStream = Answers<LookupArticlesResponse>;
    type StreamArticlesStream = Answers<StreamArticlesResponse>;

    async fn get_article(&self, request: Request<GetArticleRequest>) -> Result<Response<GetArticleResponse>, Status> {
        let Some(get_article_request::Target::Key(key)) = request.into_inner().target else {
            return Err(Status::unimplemented("by key only"));
        };
        let article = self.find(&key).ok_or_else(|| Status::not_found("no such article"))?;
        Ok(Response::new(GetArticleResponse { article: Some(article) }))
    }

    async fn lookup_articles(&self, request: Request<LookupArticlesRequest>) -> Result<Response<Self::LookupArticlesStream>, Status> {
        let result = |key| lookup_result::Result::Article(self.find(&key).unwrap_or_default());
        let results = request.into_inner().keys.into_iter().map(|key| LookupResult { result: Some(result(key)) });
        let mut messages = vec![LookupArticlesResponse::default()];
        let mut bytes = 0;
        for result in results {
            let size = prost::Message::encoded_len(&result);
            if bytes + size > MESSAGE_BYTES && bytes > 0 {
                messages.push(LookupArticlesResponse::default());
                bytes = 0;
            }
            bytes += size;
            if let Some(message) = messages.last_mut() {
                message.results.push(result);
            }
        }
        Ok(Response::new(Box::pin(tokio_stream::iter(messages.into_iter().map(Ok)))))
    }

    async fn stream_articles(&self, request: Request<StreamArticlesRequest>) -> Result<Response<Self::StreamArticlesStream>, Status> {
        use stream_articles_response::Event;
        let articles = self.days(request.into_inner().filter);
        let ended = StreamEnded { article_count: articles.len() as i64 };
        let mut articles = articles.into_iter().peekable();
        let batches = std::iter::from_fn(move || {
            let (mut batch, mut bytes) = (ArticleBatch::default(), 0);
            while let Some(article) = articles.next_if(|article| {
                bytes += prost::Message::encoded_len(article.as_ref());
                bytes <= MESSAGE_BYTES || batch.articles.is_empty()
            }) {
                batch.articles.push(Article::clone(&article));
            }
            (!batch.articles.is_empty()).then_some(Event::Batch(batch))
        });
        let events = [Event::Started(StreamStarted::default())].into_iter().chain(batches).chain([Event::Ended(ended)]);
        let events = events.map(|event| Ok(StreamArticlesResponse { event: Some(event) }));
        Ok(Response::new(Box::pin(tokio_stream::iter(events))))
    }

    async fn put_article(&self, request: Request<PutArticleRequest>) -> Result<Response<PutArticleResponse>, Status> {
        let article = request.into_inner().article;
        let bytes = article.as_ref().map(prost::Message::encode_to_vec).unwrap_or_default();
        self.log.append(bytes).await.map_err(|error| Status::internal(error.to_string()))?;
        self.insert(article);
        Ok(Response::new(PutArticleResponse { outcome: v1::Outcome::Created.into(), article: None }))
    }

    async fn list_articles(&self, _: Request<ListArticlesRequest>) -> Result<Response<ListArticlesResponse>, Status> {
        Err(unimplemented())
    }

    async fn delete_article(&self, _: Request<DeleteArticleRequest>) -> Result<Response<DeleteArticleResponse>, Status> {
        Err(unimplemented())
    }

    async fn delete_articles(&self, _: Request<DeleteArticlesRequest>) -> Result<Response<DeleteArticlesResponse>, Status> {
        Err(unimplemented())
    }

    async fn list_article_revisions(
        &self,
        _: Request<ListArticleRevisionsRequest>,
    ) -> Result<Response<ListArticleRevisionsResponse>, Status> {
        Err(unimplemented())
    }

    async fn count_articles(&self, _: Request<CountArticlesRequest>) -> Result<Response<CountArticlesResponse>, Status> {
        Err(unimplemented())
    }

    async fn resolve_url(&self, _: Request<ResolveUrlRequest>) -> Result<Response<ResolveUrlResponse>, Status> {
        Err(unimplemented())
    }
}

fn unimplemented() -> Status {
    Status::unimplemented("no part of the load")
}

#[tonic::async_trait]
impl IngestService for Ceiling {
    type IngestArticlesStream = Answers<IngestArticlesResponse>;

    async fn batch_ingest_articles(
        &self,
        request: Request<BatchIngestArticlesRequest>,
    ) -> Result<Response<BatchIngestArticlesResponse>, Status> {
        let articles = request.into_inner().articles;
        let results = vec![created(); articles.len()];
        self.insert(articles);
        Ok(Response::new(BatchIngestArticlesResponse { results }))
    }

    async fn ingest_articles(
        &self,
        request: Request<Streaming<IngestArticlesRequest>>,
    ) -> Result<Response<Self::IngestArticlesStream>, Status> {
        let (replies, receiver) = mpsc::channel(4);
        let (ceiling, mut messages) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            let mut next_item = 0;
            while let Some(Ok(IngestArticlesRequest { message: Some(message) })) = messages.next().await {
                use ingest_articles_request::Message;
                use ingest_articles_response::Message as Reply;
                let reply = match message {
                    Message::Open(_) => Reply::Opened(IngestOpened::default()),
                    Message::Items(items) => {
                        next_item += items.articles.len() as i64;
                        ceiling.insert(items.articles);
                        Reply::Ack(IngestAck { next_item, outcomes: Vec::new() })
                    }
                    Message::Commit(IngestCommit { item_count }) => Reply::Committed(IngestCommitted {
                        item_count,
                        counts: Some(OutcomeCounts { created: next_item, ..Default::default() }),
                    }),
                };
                if replies.send(Ok(IngestArticlesResponse { message: Some(reply) })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
