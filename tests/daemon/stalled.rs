//! Clients that do not read: what their scans hold goes to others when they have had their time, however long the connection stays
//! open, and what they ingest is held no longer than until it is durable.

use std::time::{Duration, Instant};

use dateline::client::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;
use v1::article_service_client::ArticleServiceClient;
use v1::ingest_articles_request::Message;
use v1::ingest_service_client::IngestServiceClient;
use v1::stream_articles_response::Event;

use super::harness::{Daemon, article, key};

/// Articles of a scan, several messages of 1 MiB.
const ARTICLES: usize = 24;
const ARTICLE_BYTES: usize = 256 << 10;
/// With two messages each they hold the whole budget for responses, 64 MiB, more than twice over.
const STALLED: usize = 80;
const PATIENCE: Duration = Duration::from_secs(2);

/// A scan that has begun, over a connection of its own, with the smallest windows that HTTP/2 has by default.
async fn begin(address: &str) -> Streaming<v1::StreamArticlesResponse> {
    let channel = Endpoint::from_shared(address.to_owned()).unwrap().connect().await.unwrap();
    let mut stream = ArticleServiceClient::new(channel).stream_articles(v1::StreamArticlesRequest::default()).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert!(matches!(first.event, Some(Event::Started(_))), "{first:?}");
    stream
}

/// Reads what there is. Gives the URLs, and why there was no more.
async fn read(mut stream: Streaming<v1::StreamArticlesResponse>) -> (Vec<String>, Option<Status>) {
    let mut urls = Vec::new();
    loop {
        match stream.message().await {
            Err(status) => return (urls, Some(status)),
            Ok(None) => panic!("a scan ends with `ended` or with an error"),
            Ok(Some(message)) => match message.event {
                Some(Event::Batch(batch)) => urls.extend(batch.articles.into_iter().map(|article| article.canonical_url)),
                Some(Event::Ended(_)) => return (urls, None),
                other => panic!("{other:?}"),
            },
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scans_that_nobody_reads_hold_no_budget_for_ever() {
    let daemon = Daemon::start_with(|command| {
        command.env("DATELINE_READER_SECONDS", PATIENCE.as_secs().to_string());
    })
    .await;
    let stored = (0..ARTICLES).map(|number| {
        article("2024-05-01", &format!("https://large.example/{number:02}"), &format!("{number}"), &"text ".repeat(ARTICLE_BYTES / 5))
    });
    daemon.client.batch_ingest_articles(stored.collect()).await.unwrap();
    let expected: Vec<_> = (0..ARTICLES).map(|number| format!("https://large.example/{number:02}")).collect();

    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        stalled.push(begin(&daemon.address).await);
    }
    let begun = Instant::now();
    for _ in 0..3 {
        let (urls, end) = read(begin(&daemon.address).await).await;
        assert!(end.is_none(), "{end:?}");
        assert_eq!(urls, expected);
    }
    // Those before it have their time, two or three waves of them; the connections stay open all the while.
    assert!(begun.elapsed() < 10 * PATIENCE, "others had to wait {:?}", begun.elapsed());

    // Who reads after all gets the beginning, in order, and hears that the rest is gone; but for some whose time is not over.
    let mut told = 0;
    for stream in stalled {
        let (urls, end) = read(stream).await;
        assert_eq!(urls[..], expected[..urls.len()]);
        match end.as_ref().map(|end| (end.code(), end.get_details_error_info())) {
            None => assert_eq!(urls.len(), ARTICLES),
            Some((code, Some(info))) => assert_eq!((code, info.reason.as_str()), (Code::Unavailable, "READER_STALLED")),
            // In the middle of a message nothing can be said.
            Some((code, None)) => assert_eq!(code, Code::Internal, "{end:?}"),
        }
        told += usize::from(end.is_some());
    }
    assert!(told > STALLED / 2, "only {told} were ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ingest_stream_whose_acknowledgements_nobody_reads_holds_no_budget() {
    // Those on their way to the store would fill the budget for ingestion, 64 MiB, if they were held until they are acknowledged.
    const MESSAGES: usize = 7;
    const ITEMS: usize = 5;
    let daemon = Daemon::start().await;
    let large = |name: String| article("2024-05-01", &format!("https://large.example/{name}"), "T", &"text ".repeat((3 << 20) / 5 - 100));
    // The server may send nothing but the beginning of its response.
    let endpoint = Endpoint::from_shared(daemon.address.clone()).unwrap().initial_stream_window_size(0);
    let channel = endpoint.connect().await.unwrap();
    let (sender, messages) = mpsc::channel(1);
    let _replies = IngestServiceClient::new(channel).ingest_articles(ReceiverStream::new(messages)).await.unwrap();
    for message in 0..MESSAGES {
        let articles = (0..ITEMS).map(|item| large(format!("{message}-{item}"))).collect();
        let items = v1::IngestItems { first_item: (message * ITEMS) as i64, articles, ..Default::default() };
        sender.send(v1::IngestArticlesRequest { message: Some(Message::Items(items)) }).await.unwrap();
    }
    let begun = Instant::now();
    while daemon.client.status().await.unwrap().contents.unwrap().article_count < (MESSAGES * ITEMS) as i64 {
        assert!(begun.elapsed() < Duration::from_secs(120), "the articles are not stored");
        tokio::task::yield_now().await;
    }
    let results = daemon.client.batch_ingest_articles(vec![large("a".into()), large("b".into())]).await.unwrap();
    assert!(results.iter().all(|result| result.outcome() == v1::Outcome::Created));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_gets_the_whole_response_whatever_its_size() {
    let daemon = Daemon::start().await;
    // From a few hundred bytes to some pieces of 16 KiB: the stream ends before, or while, its last message is handed over.
    for keys in (1..160).step_by(6) {
        for _ in 0..10 {
            let keys: Vec<_> = (0..keys).map(|number| key("2024-05-01", &format!("https://example.com/{number}"))).collect();
            let count = keys.len();
            let results = daemon.client.lookup_articles(v1::LookupArticlesRequest { keys, read_mask: None }).await.unwrap();
            assert_eq!(results.len(), count);
        }
    }
}
