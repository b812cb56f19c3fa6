//! Ingest streams through the front door: what is told when one is opened again, and what is noticed when items come again.

use std::time::Duration;

use dateline::client::{Client, ClientError, IngestEvent, IngestReceiver, IngestSender, v1};

use super::harness::{Daemon, article, key};

const LONG: Duration = Duration::from_secs(30);

type Opened = (IngestSender, IngestReceiver, v1::IngestOpened);

async fn open(client: &Client, id: &str) -> Opened {
    client.ingest(id, false).await.unwrap()
}

fn put(number: i64) -> v1::Article {
    article("2024-05-01", &format!("https://example.com/{number}"), "T", &format!("text {number}"))
}

fn rejected(number: i64) -> v1::Article {
    article("0201-01-01", &format!("https://example.com/{number}"), "T", "B")
}

fn delete(date: &str, url: &str) -> v1::IngestItem {
    v1::IngestItem { item: Some(v1::ingest_item::Item::Delete(key(date, url))) }
}

fn item(article: v1::Article) -> v1::IngestItem {
    v1::IngestItem { item: Some(v1::ingest_item::Item::Article(article)) }
}

/// What is acknowledged, until everything below this item is.
async fn acknowledged(receiver: &mut IngestReceiver, next_item: i64) -> Vec<v1::ItemOutcome> {
    let mut outcomes = Vec::new();
    loop {
        let event = tokio::time::timeout(LONG, receiver.next()).await.expect("an acknowledgement comes").unwrap();
        let Some(IngestEvent::Ack(ack)) = event else { panic!("{event:?} instead of an acknowledgement") };
        outcomes.extend(ack.outcomes);
        if ack.next_item >= next_item {
            return outcomes;
        }
    }
}

/// With what the server ends the stream.
async fn ended(receiver: &mut IngestReceiver) -> ClientError {
    loop {
        match tokio::time::timeout(LONG, receiver.next()).await.expect("the stream ends") {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without a reason"),
            Err(error) => return error,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_item_under_a_recent_number_is_a_conflict() {
    let mut daemon = Daemon::start().await;
    let (mut sender, mut receiver, _) = open(&daemon.client, "again").await;
    let mut items: Vec<_> = (0..1500).map(put).collect();
    items[1400] = rejected(1400);
    for (first, items) in (0..).step_by(300).zip(items.chunks(300)) {
        sender.send(first, items.to_vec()).await.unwrap();
    }
    assert_eq!(acknowledged(&mut receiver, 1500).await.len(), 1);
    // On the same connection.
    sender.send(1399, items[1399..1402].to_vec()).await.unwrap();
    sender.send(1499, vec![put(7)]).await.unwrap();
    let conflict = ended(&mut receiver).await;
    assert_eq!(conflict.reason, "ITEM_CONFLICT", "{conflict}");
    assert!(conflict.message.contains("1499"), "{conflict}");

    daemon.kill_and_restart().await;
    let mut respelled: Vec<_> = items[476..].to_vec();
    for article in &mut respelled {
        if article.date == "2024-05-01" {
            article.url = article.url.replace("https://", "http://www.") + "#top";
            article.crawl_time = Some(dateline::client::time_to_wire("2024-05-02T00:00:00Z".parse().unwrap()));
        }
    }
    let (mut sender, mut receiver, opened) = open(&daemon.client, "again").await;
    assert_eq!((opened.next_item, opened.rejections.len()), (1500, 1));
    sender.send(476, respelled.into_iter().chain([put(1500)]).collect()).await.unwrap();
    assert_eq!(acknowledged(&mut receiver, 1501).await, []);
    // What is older is not known any more: 476 was, while it was one of the last 1,024.
    sender.send(476, vec![put(7)]).await.unwrap();
    sender.send(1501, vec![put(1501)]).await.unwrap();
    assert_eq!(acknowledged(&mut receiver, 1502).await, []);

    for (number, other) in [(478, put(479)), (1400, put(1400)), (1401, rejected(1401)), (1501, rejected(1))] {
        daemon.kill_and_restart().await;
        let (mut sender, mut receiver, _) = open(&daemon.client, "again").await;
        sender.send(number, vec![other]).await.unwrap();
        let conflict = ended(&mut receiver).await;
        assert_eq!(conflict.reason, "ITEM_CONFLICT", "{number}: {conflict}");
        assert!(conflict.message.contains(&number.to_string()), "{conflict}");
    }
    let request = v1::CountArticlesRequest::default();
    assert_eq!(daemon.client.count_articles(request).await.unwrap().counts[0].article_count, 1501);
}

#[tokio::test(flavor = "multi_thread")]
async fn rejections_are_told_when_a_stream_is_opened_again() {
    let mut daemon = Daemon::start().await;
    let (mut sender, mut receiver, opened) = open(&daemon.client, "rejected").await;
    assert_eq!((opened.rejections, opened.more_rejections, opened.bookmark), (vec![], false, vec![]));
    let mut told = Vec::new();
    for first in (0..10_500).step_by(500) {
        let items = (first..first + 500).map(|number| if number % 500 == 0 { put(number) } else { rejected(number) });
        sender.send(first, items.collect()).await.unwrap();
        told.extend(acknowledged(&mut receiver, first + 500).await);
    }
    assert_eq!(told.len(), 10_500 - 21);
    daemon.kill_and_restart().await;
    let (_sender, _receiver, opened) = open(&daemon.client, "rejected").await;
    assert_eq!(opened.counts.unwrap().rejected, told.len() as i64);
    assert!(opened.rejections == told[told.len() - 10_000..], "{} rejections", opened.rejections.len());
    assert_eq!(opened.rejections[0].error.as_ref().unwrap().fields[0].field, "date");
}

#[tokio::test(flavor = "multi_thread")]
async fn deletions_and_bookmarks_are_parts_of_a_stream() {
    let mut daemon = Daemon::start().await;
    let (mut sender, mut receiver, _) = open(&daemon.client, "mixed").await;
    let url = "https://example.com/1";
    let items = vec![
        item(put(1)),
        delete("2024-05-01", "http://www.example.com/1#top"),
        delete("2024-05-01", url),
        delete("2024-05-99", url),
        v1::IngestItem { item: None },
        item(put(2)),
    ];
    let message = v1::IngestItems { items: items.clone(), bookmark: Some(vec![0, 255]), ..Default::default() };
    sender.send_items(message.clone()).await.unwrap();
    let outcomes = acknowledged(&mut receiver, 6).await;
    let told: Vec<_> = outcomes.iter().map(|outcome| (outcome.item, outcome.outcome(), outcome.etag.is_empty())).collect();
    use v1::Outcome::{Deleted, Rejected, Unchanged};
    assert_eq!(told, [(1, Deleted, false), (2, Unchanged, true), (3, Rejected, true), (4, Rejected, true)]);
    assert_eq!(outcomes[2].error.as_ref().unwrap().fields[0].field, "delete.date");

    daemon.kill_and_restart().await;
    let (mut sender, mut receiver, opened) = open(&daemon.client, "mixed").await;
    let counts = v1::OutcomeCounts { created: 2, unchanged: 1, rejected: 2, deleted: 1, ..Default::default() };
    assert_eq!((opened.next_item, opened.counts, &opened.bookmark[..]), (6, Some(counts), &[0, 255][..]));
    // The bookmark of what was sent before is not believed again, one alone is.
    sender.send_items(v1::IngestItems { bookmark: Some(b"old".to_vec()), ..message }).await.unwrap();
    sender.send_items(v1::IngestItems { first_item: 6, bookmark: Some(b"alone".to_vec()), ..Default::default() }).await.unwrap();
    assert_eq!(acknowledged(&mut receiver, 6).await, []);
    let (mut sender, mut receiver, opened) = open(&daemon.client, "mixed").await;
    assert_eq!(opened.bookmark, b"alone");
    sender.send_items(v1::IngestItems { first_item: 1, items: vec![delete("2024-05-02", url)], ..Default::default() }).await.unwrap();
    assert_eq!(ended(&mut receiver).await.reason, "ITEM_CONFLICT");

    let bookmark = |bytes: usize| v1::IngestItems { first_item: 6, bookmark: Some(vec![7; bytes]), ..Default::default() };
    let both = v1::IngestItems { articles: vec![put(3)], ..v1::IngestItems { first_item: 6, items, ..Default::default() } };
    let many = v1::IngestItems { first_item: 6, items: vec![v1::IngestItem { item: None }; 10_001], ..Default::default() };
    for (id, message, reason) in [
        ("mixed", bookmark(4097), "INVALID_ARGUMENT"),
        ("mixed", both, "STREAM_PROTOCOL"),
        ("mixed", many, "TOO_MANY_ITEMS"),
        ("", v1::IngestItems { first_item: 0, ..bookmark(1) }, "INVALID_ARGUMENT"),
    ] {
        let (mut sender, mut receiver, _) = open(&daemon.client, id).await;
        sender.send_items(message).await.unwrap();
        assert_eq!(ended(&mut receiver).await.reason, reason);
    }
    let (mut sender, mut receiver, _) = open(&daemon.client, "mixed").await;
    sender.send_items(bookmark(4096)).await.unwrap();
    acknowledged(&mut receiver, 6).await;
    assert_eq!(open(&daemon.client, "mixed").await.2.bookmark, [7; 4096]);
}

#[tokio::test(flavor = "multi_thread")]
async fn dates_far_ahead_are_taken_where_the_stream_says_so() {
    let daemon = Daemon::start().await;
    let ahead = article("2999-01-01", "https://example.com/ahead", "T", "B");
    for (accept_future_dates, outcome) in [(false, v1::Outcome::Rejected), (true, v1::Outcome::Created)] {
        let open = v1::IngestOpen { report_all_outcomes: true, accept_future_dates, ..Default::default() };
        let (mut sender, mut receiver, _) = daemon.client.open_ingest(open).await.unwrap();
        sender.send(0, vec![ahead.clone()]).await.unwrap();
        assert_eq!(acknowledged(&mut receiver, 1).await[0].outcome(), outcome);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_do_not_advance_are_forgotten() {
    let daemon = Daemon::start_with(|command| _ = command.env("DATELINE_STREAM_EXPIRY_SECONDS", "1")).await;
    let (mut sender, mut receiver, _) = open(&daemon.client, "idle").await;
    sender.send(0, vec![put(0), rejected(1)]).await.unwrap();
    acknowledged(&mut receiver, 2).await;
    let (other, mut finished, _) = open(&daemon.client, "finished").await;
    other.commit(0).await.unwrap();
    assert!(matches!(finished.next().await.unwrap(), Some(IngestEvent::Committed(_))));
    let gone = async {
        while daemon.client.status().await.unwrap().contents.unwrap().ingest_stream_count > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, gone).await.expect("streams are forgotten by themselves");
    // Who held it is told, and begins again.
    sender.send(2, vec![put(2)]).await.unwrap();
    assert_eq!(ended(&mut receiver).await.reason, "STREAM_INTERRUPTED");
    let (.., opened) = open(&daemon.client, "idle").await;
    assert_eq!((opened.next_item, opened.counts.unwrap_or_default(), opened.rejections), (0, v1::OutcomeCounts::default(), vec![]));
    assert_eq!(open(&daemon.client, "finished").await.2.next_item, 0);
}
