//! What SIGTERM does: calls under way finish, new ones are refused in words that clients understand, and nothing is lost.
//!
//! A scan that nobody reads holds the drain open for as long as a test wants.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use dateline::client::{Client, ClientError, IngestEvent, v1};
use tokio::sync::mpsc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;
use v1::article_service_client::ArticleServiceClient;
use v1::stream_articles_response::Event;

use super::harness::{Daemon, article};

/// Articles of a scan, together far more than all buffers between a server and a client that does not read.
const ARTICLES: usize = 48;
const ARTICLE_BYTES: usize = 256 << 10;
/// A deadline that a drain must not wait for once all calls are done.
const LONG: Duration = Duration::from_secs(120);

fn drain_within(deadline: Duration) -> impl FnOnce(&mut Command) {
    move |command| {
        command.env("DATELINE_DRAIN_SECONDS", deadline.as_secs().to_string());
    }
}

async fn connect(address: &str) -> Channel {
    // The smallest windows that HTTP/2 has by default: a server cannot get far ahead of such a client.
    Endpoint::from_shared(address.to_owned()).unwrap().connect().await.unwrap()
}

/// What a scan finds, to be compared without printing it.
fn names(articles: &[v1::Article]) -> Vec<(String, usize)> {
    articles.iter().map(|article| (article.canonical_url.clone(), article.body.len())).collect()
}

/// A scan of everything that has begun and that nobody reads.
struct Scan {
    stream: Streaming<v1::StreamArticlesResponse>,
    resume_token: String,
}

impl Scan {
    async fn begin(channel: Channel, resume_token: &str) -> Self {
        let request = v1::StreamArticlesRequest { resume_token: resume_token.to_owned(), ..Default::default() };
        let mut stream = ArticleServiceClient::new(channel).stream_articles(request).await.unwrap().into_inner();
        let first = stream.message().await.unwrap().unwrap();
        assert!(matches!(first.event, Some(Event::Started(_))), "{first:?}");
        Self { stream, resume_token: resume_token.to_owned() }
    }

    /// Reads on: everything up to the end of the scan, or up to the error that ended it.
    async fn read(&mut self) -> (Vec<v1::Article>, Result<(), Status>) {
        let mut articles = Vec::new();
        loop {
            match self.stream.message().await {
                Err(status) => return (articles, Err(status)),
                Ok(message) => match message.expect("a scan ends with `ended` or with an error").event.unwrap() {
                    Event::Batch(batch) => {
                        articles.extend(batch.articles);
                        self.resume_token = batch.resume_token;
                    }
                    Event::Ended(_) => return (articles, Ok(())),
                    Event::Started(_) => panic!("a scan begins once"),
                },
            }
        }
    }
}

async fn store_much(client: &Client) {
    let stored = (0..ARTICLES).map(|number| {
        article("2024-05-01", &format!("https://large.example/{number:02}"), &format!("{number}"), &"text ".repeat(ARTICLE_BYTES / 5))
    });
    for result in client.batch_ingest_articles(stored.collect()).await.unwrap() {
        assert_eq!(result.outcome(), v1::Outcome::Created);
    }
}

fn refused_while_draining<T: std::fmt::Debug>(result: Result<T, Status>) {
    let status = result.expect_err("a new call must be refused");
    let info = status.get_details_error_info().expect("ErrorInfo");
    assert_eq!((status.code(), info.reason.as_str(), info.domain.as_str()), (Code::Unavailable, "DRAINING", "dateline"));
    let retry = status.get_details_retry_info().expect("RetryInfo");
    assert!(retry.retry_delay.is_some_and(|delay| !delay.is_zero()), "{retry:?}");
}

fn get() -> v1::GetArticleRequest {
    let target = Some(v1::get_article_request::Target::Url("https://large.example/00".into()));
    v1::GetArticleRequest { target, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_under_way_finish_and_new_ones_are_refused() {
    let mut daemon = Daemon::start_with(drain_within(LONG)).await;
    store_much(&daemon.client).await;
    let before = daemon.stream(None, v1::SortOrder::Ascending).await;
    assert_eq!(before.len(), ARTICLES);

    let channel = connect(&daemon.address).await;
    let mut health = HealthClient::new(channel.clone()).watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(health.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let mut scan = Scan::begin(channel.clone(), "").await;

    let begun = Instant::now();
    daemon.terminate();
    assert_eq!(health.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    let stranger = connect(&daemon.address).await;
    for channel in [&channel, &stranger] {
        let mut articles = ArticleServiceClient::new(channel.clone());
        refused_while_draining(articles.get_article(get()).await);
        refused_while_draining(articles.stream_articles(v1::StreamArticlesRequest::default()).await);
        for service in ["", "dateline.v1.ArticleService", "dateline.v1.IngestService"] {
            let check = HealthCheckRequest { service: service.into() };
            let answer = HealthClient::new(channel.clone()).check(check).await.unwrap().into_inner();
            assert_eq!(answer.status(), ServingStatus::NotServing, "{service:?}");
        }
    }

    let (articles, end) = scan.read().await;
    end.expect("a scan that was under way must reach its end");
    assert_eq!(names(&articles), names(&before));
    assert!(health.message().await.unwrap().is_none(), "watching the health ends with the server");
    assert!(daemon.ended().success());
    assert!(begun.elapsed() < LONG / 2, "nothing was left to wait for, but it took {:?}", begun.elapsed());

    daemon.start_again().await;
    assert_eq!(names(&daemon.stream(None, v1::SortOrder::Ascending).await), names(&before));
}

/// Puts articles one after the other until a call fails. Gives how many were stored, and why it ended.
async fn put_until_refused(client: Client, writer: usize) -> (usize, ClientError) {
    for number in 0.. {
        let next = article("2024-05-02", &format!("https://writer-{writer}.example/{number}"), "T", "B");
        let request = v1::PutArticleRequest { article: Some(next), ..Default::default() };
        if let Err(error) = client.put_article(request).await {
            return (number, error);
        }
    }
    unreachable!("there are more numbers than a test can count")
}

/// Sends items as fast as the server takes them until the stream is ended, and says when some are acknowledged. Gives how
/// many were, and why it ended.
async fn ingest_until_refused(client: Client, stream: String, begun: mpsc::Sender<()>) -> (i64, ClientError) {
    const ITEMS: i64 = 50;
    let (mut sender, mut receiver, _) = client.ingest(&stream, false).await.unwrap();
    let sending = tokio::spawn(async move {
        for first in (0..).step_by(ITEMS as usize) {
            let url = |number| format!("https://{stream}.example/{number}");
            let items = (first..first + ITEMS).map(|number| article("2024-05-03", &url(number), "T", &"text ".repeat(500)));
            if sender.send(first, items.collect()).await.is_err() {
                break;
            }
        }
    });
    let (mut acknowledged, mut begun) = (0, Some(begun));
    let error = loop {
        match receiver.next().await {
            Ok(Some(IngestEvent::Ack(ack))) => acknowledged = ack.next_item,
            Ok(other) => panic!("{other:?} after {acknowledged} items"),
            Err(error) => break error,
        }
        if acknowledged >= 3 * ITEMS
            && let Some(begun) = begun.take()
        {
            begun.send(()).await.unwrap();
        }
    };
    sending.await.unwrap();
    (acknowledged, error)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_is_kept_and_what_is_refused_was_not_stored() {
    let streams: Vec<String> = (0..4).map(|number| format!("stream-{number}")).collect();
    let mut daemon = Daemon::start_with(drain_within(LONG)).await;
    store_much(&daemon.client).await;
    let mut scan = Scan::begin(connect(&daemon.address).await, "").await;

    let writers: Vec<_> = (0..4).map(|writer| tokio::spawn(put_until_refused(daemon.client.clone(), writer))).collect();
    let (begun, mut has_begun) = mpsc::channel(streams.len());
    let ingest = |stream: &String| tokio::spawn(ingest_until_refused(daemon.client.clone(), stream.clone(), begun.clone()));
    let ingesting: Vec<_> = streams.iter().map(ingest).collect();
    for _ in &streams {
        has_begun.recv().await.unwrap();
    }
    daemon.terminate();
    let mut expected = ARTICLES;
    let mut acknowledged = Vec::new();
    for ingesting in ingesting {
        let (items, error) = ingesting.await.unwrap();
        assert_eq!(error.reason, "DRAINING");
        expected += items as usize;
        acknowledged.push(items);
    }
    for writer in writers {
        let (stored, error) = writer.await.unwrap();
        assert_eq!(error.reason, "DRAINING");
        expected += stored;
    }
    let (_, end) = scan.read().await;
    end.expect("a scan that was under way must reach its end");
    assert!(daemon.ended().success());

    daemon.start_again().await;
    assert_eq!(daemon.stream(None, v1::SortOrder::Ascending).await.len(), expected);
    // What a stream had submitted was acknowledged before the error: a client that comes back repeats nothing.
    for (stream, acknowledged) in streams.iter().zip(acknowledged) {
        let (sender, mut receiver, opened) = daemon.client.ingest(stream, false).await.unwrap();
        assert_eq!((opened.next_item, opened.counts.unwrap().created), (acknowledged, acknowledged));
        sender.commit(acknowledged).await.unwrap();
        assert!(matches!(receiver.next().await.unwrap(), Some(IngestEvent::Committed(_))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_that_outlasts_the_deadline_is_resumed_after_the_restart() {
    let mut daemon = Daemon::start_with(|command| {
        drain_within(Duration::from_secs(1))(command);
        command.stderr(Stdio::piped());
    })
    .await;
    store_much(&daemon.client).await;
    let before = daemon.stream(None, v1::SortOrder::Ascending).await;
    let mut scan = Scan::begin(connect(&daemon.address).await, "").await;
    daemon.terminate();
    let told = daemon.log().find(|line| line.contains("did not finish in time"));
    assert!(told.is_some(), "the log must say that a call was cut off");

    let (mut articles, end) = scan.read().await;
    refused_while_draining(end);
    assert!(articles.len() < ARTICLES);
    assert!(daemon.ended().success());
    daemon.start_again().await;
    let mut rest = Scan::begin(connect(&daemon.address).await, &scan.resume_token).await;
    let (found, end) = rest.read().await;
    end.unwrap();
    articles.extend(found);
    assert_eq!(names(&articles), names(&before));
}
