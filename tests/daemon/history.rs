//! `serve --history`: how many earlier revisions are kept, what is said of the others, and the space that comes back.

use std::process::Command;
use std::time::{Duration, Instant};

use dateline::client::{ClientError, v1};
use v1::get_article_request::{Target, Version};

use super::harness::{Daemon, article, dateline, key};
use super::storm::{beginning, next};

const DATE: &str = "2024-05-01";
const URL: &str = "https://example.com/a";
const MIB: i64 = 1 << 20;
const RECORD_HEADER_BYTES: i64 = 100;

async fn put(daemon: &Daemon, number: i64) -> v1::Article {
    let article = article(DATE, URL, &format!("Title {number}"), &format!("body {number} ").repeat(100));
    let request = v1::PutArticleRequest { article: Some(article), ..Default::default() };
    daemon.client.put_article(request).await.unwrap().article.unwrap()
}

async fn get(daemon: &Daemon, version: Version) -> Result<v1::Article, ClientError> {
    let target = Some(Target::Key(key(DATE, URL)));
    daemon.client.get_article(v1::GetArticleRequest { target, version: Some(version), read_mask: None }).await
}

fn reason<T: std::fmt::Debug>(result: Result<T, ClientError>) -> String {
    result.expect_err("the call must fail").reason
}

async fn numbers(daemon: &Daemon, page_size: i32) -> Vec<i64> {
    let mut request = v1::ListArticleRevisionsRequest { key: Some(key(DATE, URL)), page_size, ..Default::default() };
    let mut numbers = Vec::new();
    loop {
        let page = daemon.client.list_article_revisions(request.clone()).await.unwrap();
        numbers.extend(page.revisions.iter().map(|found| found.revision));
        if page.next_page_token.is_empty() {
            return numbers;
        }
        request.page_token = page.next_page_token;
    }
}

/// Kept are revisions `first` to the latest of these; of the others it is told that they are not kept.
async fn kept(daemon: &Daemon, heads: &[v1::Article], first: i64) {
    let latest = heads.len() as i64;
    for page_size in [1, 50] {
        assert_eq!(numbers(daemon, page_size).await, (first..=latest).rev().collect::<Vec<_>>());
    }
    for head in heads {
        for version in [Version::Revision(head.revision), Version::AsOf(head.update_time.unwrap())] {
            let found = get(daemon, version).await;
            if head.revision >= first {
                assert_eq!(found.unwrap().title, format!("Title {}", head.revision));
            } else {
                assert_eq!(reason(found), "REVISION_NOT_KEPT");
            }
        }
    }
    assert_eq!(reason(get(daemon, Version::Revision(latest + 1)).await), "REVISION_NOT_FOUND");
    assert_eq!(reason(get(daemon, Version::AsOf(prost_types::Timestamp { seconds: 1, nanos: 0 })).await), "REVISION_NOT_FOUND");

    let request = v1::WatchArticlesRequest { start: Some(beginning()), include_articles: true, ..Default::default() };
    let mut watch = daemon.client.watch(request).await.unwrap();
    let mut changes = Vec::new();
    while changes.len() < heads.len() {
        changes.extend(next(&mut watch).await.changes);
    }
    let with_article: Vec<_> = changes.iter().map(|change| (change.revision, change.article.is_some())).collect();
    assert_eq!(with_article, (1..=latest).map(|revision| (revision, revision >= first)).collect::<Vec<_>>());

    let status = daemon.client.status().await.unwrap();
    let (contents, sizes) = (status.contents.unwrap(), status.sizes.unwrap());
    assert_eq!(contents.earlier_revision_count, latest - first);
    assert_eq!(sizes.earlier_record_bytes > 0, latest > first, "{sizes:?}");
    // Nothing else is in use of the journal, which holds records without their headers.
    let headers = RECORD_HEADER_BYTES * (1 + latest - first);
    assert_eq!(sizes.live_bytes, sizes.record_bytes + sizes.earlier_record_bytes - headers, "{sizes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_earlier_revisions_are_kept_as_it_is_told() {
    let history = |text: &'static str| {
        move |command: &mut Command| {
            command.args(["--history", text]);
        }
    };
    let mut daemon = Daemon::start_with(history("2")).await;
    let mut heads = Vec::new();
    for number in 1..=5 {
        heads.push(put(&daemon, number).await);
    }
    kept(&daemon, &heads, 3).await;
    assert_eq!(daemon.client.status().await.unwrap().retention.unwrap().history, "2");

    // The setting in the environment; what is stored stays as it was until its next update.
    daemon.kill();
    daemon.start_again().await;
    kept(&daemon, &heads, 3).await;
    heads.push(put(&daemon, 6).await);
    kept(&daemon, &heads, 3).await;
    daemon
        .restart_with(|command| {
            command.env("DATELINE_HISTORY", "1");
        })
        .await;
    kept(&daemon, &heads, 3).await;
    heads.push(put(&daemon, 7).await);
    kept(&daemon, &heads, 6).await;
    daemon.restart_with(history("none")).await;
    heads.push(put(&daemon, 8).await);
    kept(&daemon, &heads, 8).await;
    let output = dateline(&["status", "--server", &daemon.address]).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("0 earlier ones, 0 B as stored; kept are none"), "{told}");
    assert!(dateline(&["verify", "--server", &daemon.address]).status().unwrap().success());

    let refused = dateline(&["serve", "--data", "nowhere", "--history", "some"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let refused = dateline(&["serve", "--data", "nowhere"]).env("DATELINE_HISTORY", "some").output().unwrap();
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(2) && error.contains("neither `all` nor `none`"), "{error}");
}

/// A page that goes on before a revision that was dropped meanwhile is the last, and empty.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_dropped_between_two_pages_is_not_on_the_next() {
    let daemon = Daemon::start_with(|command| {
        command.args(["--history", "1"]);
    })
    .await;
    for number in 1..=3 {
        put(&daemon, number).await;
    }
    let request = v1::ListArticleRevisionsRequest { key: Some(key(DATE, URL)), page_size: 1, ..Default::default() };
    let page_token = daemon.client.list_article_revisions(request.clone()).await.unwrap().next_page_token;
    assert!(!page_token.is_empty());
    for number in 4..=5 {
        put(&daemon, number).await;
    }
    let page = daemon.client.list_article_revisions(v1::ListArticleRevisionsRequest { page_token, ..request }).await.unwrap();
    assert_eq!((page.revisions.len(), page.next_page_token.as_str()), (0, ""));
}

/// Printable text that does not compress well, another for each seed.
fn noise(seed: u64, bytes: usize) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.char('!'..='~')).take(bytes).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn overwriting_takes_no_space_where_nothing_earlier_is_kept() {
    const ARTICLES: u64 = 4;
    const ROUNDS: u64 = 30;
    let daemon = Daemon::start_with(|command| {
        command.args(["--history", "none"]);
    })
    .await;
    let texts: Vec<_> = (0..ARTICLES + 1).map(|seed| noise(seed, 2 << 20)).collect();
    let text = |round: u64, number: u64| &texts[((round + number) % (ARTICLES + 1)) as usize];
    for round in 0..ROUNDS {
        let one = |number| article(DATE, &format!("https://example.com/{number}"), &format!("{round}"), text(round, number));
        let results = daemon.client.batch_ingest_articles((0..ARTICLES).map(one).collect()).await.unwrap();
        let expected = if round == 0 { v1::Outcome::Created } else { v1::Outcome::Updated };
        assert!(results.iter().all(|result| result.outcome() == expected), "{results:?}");
    }
    // The segment that is written, one that is kept to be used again, and a few megabytes.
    let bound = 150 * MIB;
    let deadline = Instant::now() + Duration::from_secs(60);
    let sizes = loop {
        let sizes = daemon.client.status().await.unwrap().sizes.unwrap();
        if sizes.journal_bytes < bound {
            break sizes;
        }
        assert!(Instant::now() < deadline, "{sizes:?}");
        tokio::time::sleep(Duration::from_millis(50)).await; // ok: the wait is for a condition, which has a deadline.
    };
    assert!(sizes.live_bytes * ROUNDS as i64 > bound + 40 * MIB, "keeping all would not show: {sizes:?}");
    let most = ARTICLES as i64 * 2 * MIB;
    assert!((most / 2..most + MIB).contains(&sizes.live_bytes), "{sizes:?}");
    for number in 0..ARTICLES {
        let target = Some(Target::Url(format!("https://example.com/{number}")));
        let found = daemon.client.get_article(v1::GetArticleRequest { target, ..Default::default() }).await.unwrap();
        assert!(found.body == *text(ROUNDS - 1, number) && found.revision == ROUNDS as i64, "article {number} is another");
    }
    assert!(dateline(&["verify", "--server", &daemon.address]).status().unwrap().success());
}
