//! Scans, pages, `dateline ingest` and `dateline export` go on where they were when the daemon is stopped or killed and started
//! again, or when they are killed themselves, whatever is written in between.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dateline::client::{Client, v1};
use serde_json::Value;
use tonic::transport::Endpoint;
use v1::article_service_client::ArticleServiceClient;
use v1::stream_articles_response::Event;

use super::harness::{Daemon, article, dateline};

const LONG: Duration = Duration::from_secs(120);
/// Articles that are there throughout, several messages' worth of them.
const LASTING: usize = 1_500;
const BODY_BYTES: usize = 3_000;

fn lasting(number: usize) -> (String, String) {
    (format!("2024-05-{:02}", 1 + number % 9), format!("https://lasting.example/{number:05}"))
}

fn passing(round: usize, number: usize) -> (String, String) {
    (format!("2024-05-{:02}", 1 + number % 9), format!("https://passing-{round}.example/{number:05}"))
}

async fn store(client: &Client, keys: impl Iterator<Item = (String, String)>, title: &str) {
    let articles: Vec<_> = keys.map(|(date, url)| article(&date, &url, title, &"word ".repeat(BODY_BYTES / 5))).collect();
    for articles in articles.chunks(500) {
        let results = client.batch_ingest_articles(articles.to_vec()).await.unwrap();
        assert!(results.iter().all(|result| result.error.is_none()));
    }
}

/// A daemon, and what happens to it between two parts of a scan.
struct Turmoil {
    daemon: Daemon,
    round: usize,
}

impl Turmoil {
    async fn begin() -> Self {
        let daemon = Daemon::start().await;
        store(&daemon.client, (0..LASTING).map(lasting), "Before").await;
        store(&daemon.client, (0..100).map(|number| passing(0, number)), "Passing").await;
        Self { daemon, round: 0 }
    }

    /// Some articles are revised, some deleted, some created; the daemon is stopped or killed, and comes back.
    async fn stir(&mut self) {
        self.stir_and(if self.round.is_multiple_of(2) { Self::kill } else { Self::stop }).await;
    }

    fn kill(&mut self) {
        self.daemon.kill();
    }

    fn stop(&mut self) {
        self.daemon.terminate();
        assert!(self.daemon.ended().success());
    }

    async fn stir_and(&mut self, end: fn(&mut Self)) {
        let client = &self.daemon.client;
        let filter = Some(v1::ArticleFilter {
            scope: Some(v1::article_filter::Scope::Host(format!("passing-{}.example", self.round))),
            ..Default::default()
        });
        assert_eq!(client.delete_articles(v1::DeleteArticlesRequest { filter, validate_only: false }).await.unwrap().article_count, 100);
        self.round += 1;
        store(client, (0..100).map(|number| passing(self.round, number)), "Passing").await;
        let title = format!("Round {}", self.round);
        store(client, (0..LASTING).skip(self.round).step_by(37).map(lasting), &title).await;
        end(self);
        self.daemon.start_again_in_place().await;
    }
}

/// What was there throughout came exactly once, and everything in order.
fn check(found: &[v1::Article], order: v1::SortOrder) {
    let keys: Vec<_> = found.iter().map(|article| (article.date.clone(), article.canonical_url.clone())).collect();
    let mut days: Vec<_> = keys.iter().map(|(date, _)| date.clone()).collect();
    let mut expected: Vec<_> = (0..LASTING).map(lasting).collect();
    expected.sort();
    if order == v1::SortOrder::Descending {
        expected.reverse();
        days.reverse();
    }
    assert!(days.is_sorted());
    let lasting: Vec<_> = keys.iter().filter(|(_, url)| url.contains("lasting")).cloned().collect();
    assert_eq!(lasting.len(), LASTING);
    assert!(lasting == expected, "an article that was there throughout is missing, or came twice");
    let mut unique = keys;
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), found.len(), "an article came twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_cut_after_every_message_resumes_exactly() {
    let mut turmoil = Turmoil::begin().await;
    let mut request = v1::StreamArticlesRequest::default();
    let (mut found, mut calls) = (Vec::new(), 0);
    loop {
        let channel = Endpoint::from_shared(turmoil.daemon.address.clone()).unwrap().connect().await.unwrap();
        let mut stream = ArticleServiceClient::new(channel).stream_articles(request.clone()).await.unwrap().into_inner();
        assert!(matches!(stream.message().await.unwrap().unwrap().event, Some(Event::Started(_))));
        calls += 1;
        match stream.message().await.unwrap().unwrap().event.unwrap() {
            Event::Batch(batch) => {
                assert!(!batch.articles.is_empty() && !batch.resume_token.is_empty());
                found.extend(batch.articles);
                request.resume_token = batch.resume_token;
            }
            // Also after the last articles, a stream that was cut off before its end is resumed and not begun anew.
            Event::Ended(ended) => {
                assert_eq!(ended.article_count, 0);
                break;
            }
            Event::Started(_) => panic!("a stream begins once"),
        }
        drop(stream);
        turmoil.stir().await;
    }
    assert!(calls > 4, "{calls} calls");
    check(&found, v1::SortOrder::Ascending);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_go_on_across_restarts() {
    let mut turmoil = Turmoil::begin().await;
    let order = v1::SortOrder::Descending;
    let mut request = v1::ListArticlesRequest { order: order.into(), page_size: 400, ..Default::default() };
    let mut found = Vec::new();
    loop {
        let page = turmoil.daemon.client.list_articles(request.clone()).await.unwrap();
        found.extend(page.articles);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
        turmoil.stir().await;
    }
    assert!(turmoil.round >= 3);
    check(&found, order);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clients_scan_comes_back_by_itself() {
    let mut turmoil = Turmoil::begin().await;
    // This client stays; those of the daemon are new ones after each restart.
    let client = Client::connect(&turmoil.daemon.address).await.unwrap();
    let mut scan = client.scan(v1::StreamArticlesRequest::default()).await.unwrap();
    assert!(!scan.watch_token().is_empty());
    let mut found = Vec::new();
    while let Some(article) = tokio::time::timeout(LONG, scan.next()).await.unwrap().unwrap() {
        found.push(article);
        if found.len() % 400 == 0 {
            // A daemon that is stopped lets this scan go on to its end, which then is over all too soon.
            turmoil.stir_and(Turmoil::kill).await;
        }
    }
    assert!(turmoil.round >= 3);
    check(&found, v1::SortOrder::Ascending);
}

/// Lines, of which some are revisions of earlier ones, and one is rejected.
const LINES: usize = 12_000;
const REVISED: usize = 50;

fn write_lines(path: &Path) {
    let mut text = String::new();
    for number in 0..LINES {
        let url = if number % REVISED == REVISED - 1 { number - 1 } else { number };
        let date = if number == LINES / 2 { "0201-01-01" } else { "2024-05-01" };
        let body = "word ".repeat(200);
        writeln!(text, r#"{{"date":"{date}","url":"https://example.com/{url:05}","title":"{number}","body":"{body}"}}"#).unwrap();
    }
    std::fs::write(path, text).unwrap();
}

const CREATED: usize = LINES - LINES / REVISED - 1;

/// Each article with the title of its last line.
async fn check_lines(daemon: &Daemon) {
    let mut expected = BTreeMap::new();
    for number in (0..LINES).filter(|number| *number != LINES / 2) {
        let url = if number % REVISED == REVISED - 1 { number - 1 } else { number };
        expected.insert(format!("https://example.com/{url:05}"), number.to_string());
    }
    let found = daemon.stream(None, v1::SortOrder::Ascending).await;
    let revised = found.iter().filter(|article| article.revision == 2).count();
    assert_eq!((found.len(), revised), (CREATED, LINES / REVISED));
    let found: BTreeMap<_, _> = found.into_iter().map(|article| (article.canonical_url, article.title)).collect();
    assert!(found == expected, "the store is not what the file holds");
}

/// A command, ended when dropped.
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Self {
        Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Its end: the exit status and what it printed.
    fn end(mut self) -> (Option<i32>, String, String) {
        let (mut output, mut errors) = (String::new(), String::new());
        self.0.stdout.take().unwrap().read_to_string(&mut output).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        (self.0.wait().unwrap().code(), output, errors)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Waits until the daemon holds so many articles.
async fn holds(client: &Client, articles: usize) {
    let begun = Instant::now();
    while client.status().await.unwrap().contents.unwrap().article_count < articles as i64 {
        assert!(begun.elapsed() < LONG, "the articles do not come");
        tokio::task::yield_now().await;
    }
}

fn counts(json: &Value) -> [u64; 4] {
    ["created", "updated", "unchanged", "rejected"].map(|name| json[name].as_u64().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn dateline_ingest_outlasts_restarts_of_the_daemon() {
    let mut daemon = Daemon::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("articles.ndjson");
    write_lines(&file);
    let running = Running::start(dateline(&["ingest", file.to_str().unwrap(), "--json", "--server", &daemon.address]));
    holds(&daemon.client, 1_000).await;
    daemon.kill_and_restart_in_place().await;
    holds(&daemon.client, 4_000).await;
    daemon.terminate();
    assert!(daemon.ended().success());
    daemon.start_again_in_place().await;
    let (status, output, errors) = running.end();
    // One article is rejected.
    assert_eq!(status, Some(1), "{errors}");
    assert!(errors.matches("trying again").count() >= 2, "{errors}");
    let json: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(counts(&json), [CREATED, LINES / REVISED, 0, 1].map(|count| count as u64), "{json}");
    assert_eq!(json["stored_before"], 0);
    check_lines(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dateline_ingest_that_was_killed_goes_on_where_it_was() {
    let daemon = Daemon::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("articles.ndjson");
    write_lines(&file);
    let command = || dateline(&["ingest", file.to_str().unwrap(), "--json", "--server", &daemon.address]);
    for articles in [1_000, 5_000] {
        let running = Running::start(command());
        holds(&daemon.client, articles).await;
        drop(running);
    }
    let (_, output, errors) = Running::start(command()).end();
    let json: Value = serde_json::from_str(&output).unwrap_or_else(|_| panic!("{errors}"));
    assert!(json["stored_before"].as_u64().unwrap() >= 5_000 && json["articles"].as_u64().unwrap() > 0, "{json}");
    let all: Vec<_> = counts(&json).into_iter().zip(counts(&json["before"])).map(|(now, before)| now + before).collect();
    assert_eq!(all, [CREATED, LINES / REVISED, 0, 1].map(|count| count as u64), "{json}");
    check_lines(&daemon).await;
    // Finished, it is another stream, and finds everything as it is: the first of each pair of revisions is a revision again.
    let (_, output, errors) = Running::start(command()).end();
    let json: Value = serde_json::from_str(&output).unwrap_or_else(|_| panic!("{errors}"));
    let updated = 2 * LINES / REVISED;
    assert_eq!(counts(&json), [0, updated, LINES - updated - 1, 1].map(|count| count as u64), "{json}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dateline_ingest_gives_up_when_it_was_told_to_and_loses_nothing() {
    let mut daemon = Daemon::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("articles.ndjson");
    write_lines(&file);
    let address = daemon.address.clone();
    let command = |retry_for: &str| dateline(&["ingest", file.to_str().unwrap(), "--json", "--retry-for", retry_for, "--server", &address]);
    let running = Running::start(command("1"));
    holds(&daemon.client, 1_000).await;
    daemon.kill();
    let begun = Instant::now();
    let (status, output, errors) = running.end();
    assert!((1..60).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert!(status == Some(1) && output.is_empty() && errors.contains("trying again"), "{status:?} {output} {errors}");
    daemon.start_again_in_place().await;
    let (_, output, errors) = Running::start(command("60")).end();
    let json: Value = serde_json::from_str(&output).unwrap_or_else(|_| panic!("{errors}"));
    assert_eq!(json["articles"].as_u64().unwrap() + json["stored_before"].as_u64().unwrap(), LINES as u64);
    check_lines(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dateline_export_outlasts_a_kill_of_the_daemon() {
    let mut daemon = Daemon::start().await;
    store(&daemon.client, (0..5_000).map(lasting), "Title").await;
    let mut running = Running::start(dateline(&["export", "--server", &daemon.address]));
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    // Far more is left than all buffers hold, and nobody reads on before the daemon is back.
    let mut found: Vec<String> = lines.by_ref().take(100).collect();
    daemon.kill_and_restart_in_place().await;
    found.extend(lines);
    assert!(running.0.wait().unwrap().success());
    let urls: Vec<_> = found.iter().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect();
    let urls: Vec<_> =
        urls.iter().map(|line| (line["date"].as_str().unwrap().to_owned(), line["url"].as_str().unwrap().to_owned())).collect();
    let mut expected: Vec<_> = (0..5_000).map(lasting).collect();
    expected.sort();
    assert!(urls == expected, "{} lines", urls.len());
    let mut errors = String::new();
    running.0.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert!(errors.contains("trying again"), "{errors}");
}
