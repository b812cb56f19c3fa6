//! What a watch can be asked for, how it ends, and that whoever does not read it costs little and delays nobody.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use dateline::client::{Client, ClientError, WatchEvent, v1};
use tonic::transport::Endpoint;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;
use v1::article_filter::Scope;
use v1::change_service_client::ChangeServiceClient;
use v1::stream_articles_response::Event;
use v1::watch_articles_request::Start;

use super::harness::{Daemon, article, dateline, key};
use super::storm::{Seen, begin, beginning, next, read};

fn now() -> Start {
    Start::Position(v1::WatchStart::Now.into())
}

async fn put(client: &Client, article: v1::Article) -> v1::Article {
    client.put_article(v1::PutArticleRequest { article: Some(article), ..Default::default() }).await.unwrap().article.unwrap()
}

async fn delete(client: &Client, date: &str, url: &str) {
    let request = v1::DeleteArticleRequest { key: Some(key(date, url)), ..Default::default() };
    client.delete_article(request).await.unwrap();
}

fn reason<T: std::fmt::Debug>(result: Result<T, ClientError>) -> String {
    result.expect_err("the call must fail").reason
}

/// A watch as the protocol has it: one that does not come back.
async fn raw(address: &str, request: v1::WatchArticlesRequest) -> Streaming<v1::WatchArticlesResponse> {
    // The smallest windows that HTTP/2 has by default: a server cannot get far ahead of such a client.
    let channel = Endpoint::from_shared(address.to_owned()).unwrap().connect().await.unwrap();
    let mut stream = ChangeServiceClient::new(channel).watch_articles(request).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert!(first.changes.is_empty() && !first.resume_token.is_empty(), "the first message says where the watch begins");
    stream
}

fn ended_by(status: &Status) -> (Code, String) {
    (status.code(), status.get_details_error_info().expect("ErrorInfo").reason)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_gives_what_its_filter_selects_and_its_token_serves_no_other() {
    let daemon = Daemon::start().await;
    let client = &daemon.client;
    let watch = |start, filter| {
        let request = v1::WatchArticlesRequest { start: Some(start), filter, ..Default::default() };
        client.watch(request)
    };
    let filter = |scope| Some(v1::ArticleFilter { start_date: "2024-05-02".into(), end_date: "2024-05-03".into(), scope });
    for day in 1..=4 {
        for url in ["https://a.example/x/1", "https://news.a.example/x/1", "https://a.example:8080/1", "https://b.example/"] {
            put(client, article(&format!("2024-05-0{day}"), url, "T", "B")).await;
        }
    }
    delete(client, "2024-05-02", "https://a.example/x/1").await;
    let all = read(&mut begin(client, beginning()).await, 17).await;
    type Selects = fn(&str) -> bool;
    let cases: [(Option<Scope>, Selects); 4] = [
        (None, |_| true),
        (Some(Scope::Host("www.a.example".into())), |url| url == "https://a.example/x/1"),
        (Some(Scope::Domain("a.example".into())), |url| url.contains("a.example")),
        (Some(Scope::UrlPrefix("https://a.example/x/".into())), |url| url.starts_with("https://a.example/x/")),
    ];
    for (scope, selects) in cases {
        let wanted = |change: &&Seen| ["2024-05-02", "2024-05-03"].contains(&change.date.as_str()) && selects(&change.url);
        let expected: Vec<_> = all.iter().filter(wanted).cloned().collect();
        let mut found = watch(beginning(), filter(scope.clone())).await.unwrap();
        assert_eq!(read(&mut found, expected.len()).await, expected, "{scope:?}");
    }

    let mut narrow = watch(now(), filter(None)).await.unwrap();
    let token = next(&mut narrow).await.resume_token;
    assert_eq!(reason(watch(Start::ResumeToken(token.clone()), None).await), "TOKEN_MISMATCH");
    assert_eq!(reason(watch(Start::ResumeToken("nonsense".into()), None).await), "INVALID_TOKEN");
    let other = Daemon::start().await;
    let request = v1::WatchArticlesRequest { start: Some(Start::ResumeToken(token)), filter: filter(None), ..Default::default() };
    assert_eq!(reason(other.client.watch(request).await), "TOKEN_MISMATCH");
    assert_eq!(reason(watch(Start::Position(0), None).await), "INVALID_ARGUMENT");
    assert_eq!(reason(client.watch(v1::WatchArticlesRequest::default()).await), "REQUIRED_FIELD_MISSING");
    assert_eq!(reason(watch(now(), filter(Some(Scope::Host("a b".into())))).await), "INVALID_FILTER");

    let bounds = client.change_bounds().await.unwrap();
    assert_eq!((bounds.change_count, bounds.earliest_age.is_some()), (17, true));
    let mut earliest = watch(Start::ResumeToken(bounds.earliest_token), None).await.unwrap();
    assert_eq!(read(&mut earliest, 17).await, all);
    let mut latest = watch(Start::ResumeToken(bounds.latest_token), filter(None)).await.unwrap();
    put(client, article("2024-05-02", "https://new.example/", "T", "B")).await;
    for watch in [&mut latest, &mut narrow] {
        let seen = read(watch, 1).await;
        assert_eq!((seen.len(), seen[0].url.as_str()), (1, "https://new.example/"));
    }
    let bounds = other.client.change_bounds().await.unwrap();
    assert_eq!((bounds.change_count, bounds.earliest_age, bounds.earliest_token == bounds.latest_token), (0, None, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_carry_their_revision_while_it_is_kept() {
    let daemon = Daemon::start().await;
    let client = &daemon.client;
    // One that no message of several changes has room for.
    let large = "large ".repeat(400_000);
    for (url, body) in [("/kept", "one"), ("/gone", "one"), ("/kept", large.as_str()), ("/kept", "three"), ("/gone", "two")] {
        put(client, article("2024-05-01", &format!("https://example.com{url}"), "T", body)).await;
    }
    delete(client, "2024-05-01", "https://example.com/gone").await;
    let content = async |paths: &[&str]| {
        let read_mask = Some(v1::read_mask(paths.iter().map(ToString::to_string).collect()));
        let request = v1::WatchArticlesRequest { start: Some(beginning()), include_articles: true, read_mask, ..Default::default() };
        let mut watch = client.watch(request).await.unwrap();
        let mut changes = Vec::new();
        while changes.len() < 6 {
            changes.extend(next(&mut watch).await.changes);
        }
        changes
    };
    let changes = content(&[]).await;
    let bodies: Vec<_> = changes.iter().map(|change| change.article.as_ref().map(|found| found.body.as_str())).collect();
    assert!(bodies == [Some("one"), None, Some(&large), Some("three"), None, None], "the bodies are others");
    for change in &changes {
        let Some(found) = &change.article else { continue };
        assert_eq!((found.revision, &found.digest, found.update_time), (change.revision, &change.digest, change.commit_time));
        assert_eq!(found.canonical_url, change.key.as_ref().unwrap().url);
    }
    let masked = content(&["title"]).await;
    let expected = v1::Article { title: "T".into(), ..Default::default() };
    assert_eq!(masked.iter().filter_map(|change| change.article.clone()).collect::<Vec<_>>(), vec![expected; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_and_a_watch_from_its_token_miss_nothing() {
    let daemon = Daemon::start().await;
    let client = &daemon.client;
    for number in 0..30 {
        put(client, article("2024-05-01", &format!("https://example.com/{number}"), "T", "B")).await;
    }
    let request = v1::StreamArticlesRequest::default();
    let channel = Endpoint::from_shared(daemon.address.clone()).unwrap().connect().await.unwrap();
    let mut articles = v1::article_service_client::ArticleServiceClient::new(channel);
    let mut scan = articles.stream_articles(request).await.unwrap().into_inner();
    let Some(Event::Started(started)) = scan.message().await.unwrap().unwrap().event else { panic!("no start") };
    put(client, article("2024-05-01", "https://example.com/7", "New", "B")).await;
    put(client, article("2024-05-02", "https://example.com/x", "T", "B")).await;
    while scan.message().await.unwrap().is_some() {}
    let filter = Some(v1::ArticleFilter { scope: Some(Scope::Domain("example.com".into())), ..Default::default() });
    let request = v1::WatchArticlesRequest { start: Some(Start::ResumeToken(started.watch_token)), filter, ..Default::default() };
    let seen = read(&mut client.watch(request).await.unwrap(), 2).await;
    let seen: Vec<_> = seen.iter().map(|change| (change.url.as_str(), change.revision)).collect();
    assert_eq!(seen, [("https://example.com/7", 2), ("https://example.com/x", 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_at_once_when_the_server_stops_and_comes_back_with_it() {
    let mut daemon = Daemon::start_with(|command| {
        command.env("DATELINE_DRAIN_SECONDS", "120");
    })
    .await;
    put(&daemon.client, article("2024-05-01", "https://example.com/1", "T", "B")).await;
    let mut idle = raw(&daemon.address, v1::WatchArticlesRequest { start: Some(now()), ..Default::default() }).await;
    let mut watch = begin(&daemon.client, beginning()).await;
    read(&mut watch, 1).await;
    // Another that nobody reads: it cannot be told, and holds nothing up.
    let all = v1::WatchArticlesRequest { start: Some(now()), include_articles: true, ..Default::default() };
    let stalled = raw(&daemon.address, all).await;
    for number in 0..6 {
        put(&daemon.client, article("2024-05-01", "https://example.com/large", &format!("{number}"), &"text ".repeat(100_000))).await;
    }
    read(&mut watch, 6).await;
    while !idle.message().await.unwrap().unwrap().changes.iter().any(|change| change.revision == 6) {}
    let begun = Instant::now();
    daemon.terminate();
    let status = idle.message().await.expect_err("a watch that is under way must end");
    assert_eq!(ended_by(&status), (Code::Unavailable, "DRAINING".into()));
    assert!(status.get_details_retry_info().is_some(), "it must say that the client may come again");
    assert!(matches!(watch.next().await.unwrap(), WatchEvent::Interrupted(error) if error.reason == "DRAINING"));
    assert!(daemon.ended().success());
    assert!(begun.elapsed() < Duration::from_secs(30), "nothing was left to wait for, but it took {:?}", begun.elapsed());
    drop(stalled);

    daemon.start_again_in_place().await;
    put(&daemon.client, article("2024-05-01", "https://example.com/2", "T", "B")).await;
    let seen = read(&mut watch, 1).await;
    assert_eq!((seen.len(), seen[0].url.as_str()), (1, "https://example.com/2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_nothing_moves_its_token_on_while_much_else_happens() {
    let daemon = Daemon::start().await;
    let filter = Some(v1::ArticleFilter { scope: Some(Scope::Host("nothing.example".into())), ..Default::default() });
    let request = |start| v1::WatchArticlesRequest { start: Some(start), filter: filter.clone(), ..Default::default() };
    let mut watch = daemon.client.watch(request(now())).await.unwrap();
    let first = next(&mut watch).await;
    let begun = Instant::now();
    let write = async {
        for number in 0.. {
            put(&daemon.client, article("2024-05-01", &format!("https://example.com/{number}"), "T", "B")).await;
        }
    };
    let mark = tokio::select! {
        mark = next(&mut watch) => mark,
        () = write => unreachable!("it writes on and on"),
    };
    let waited = begun.elapsed();
    assert!(mark.changes.is_empty() && mark.resume_token != first.resume_token, "{mark:?}");
    assert!((9..15).contains(&waited.as_secs()), "{waited:?}");
    // The token has moved past what did not match: from there only what comes is looked at.
    put(&daemon.client, article("2024-05-01", "https://nothing.example/", "T", "B")).await;
    for token in [first.resume_token, mark.resume_token] {
        let seen = read(&mut daemon.client.watch(request(Start::ResumeToken(token))).await.unwrap(), 1).await;
        assert_eq!((seen.len(), seen[0].url.as_str()), (1, "https://nothing.example/"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_costs_one_message_and_delays_nobody() {
    const WATCHERS: usize = 24;
    const ARTICLES: usize = 160;
    let daemon = Daemon::start().await;
    let request = v1::WatchArticlesRequest { start: Some(now()), include_articles: true, ..Default::default() };
    let mut stalled = Vec::new();
    for _ in 0..WATCHERS {
        stalled.push(raw(&daemon.address, request.clone()).await);
    }
    let mut reading = daemon.client.watch(request).await.unwrap();
    let before = daemon.peak_memory();
    let mut slowest = Duration::ZERO;
    for number in 0..ARTICLES {
        let begun = Instant::now();
        put(&daemon.client, article("2024-05-01", &format!("https://example.com/{number}"), "T", &"text ".repeat(20_000))).await;
        slowest = slowest.max(begun.elapsed());
    }
    assert_eq!(read(&mut reading, ARTICLES).await.len(), ARTICLES);
    // All of it would be 16 MB a watcher, 384 in all.
    let grown = daemon.peak_memory() - before;
    assert!(grown < 160 << 20, "the daemon has grown by {} MiB", grown >> 20);
    assert!(slowest < Duration::from_secs(5), "a put took {slowest:?}");
    // Those who read after all have missed nothing.
    for stream in &mut stalled {
        let mut urls = Vec::new();
        while urls.len() < ARTICLES {
            let message = stream.message().await.unwrap().expect("a watch never ends by itself");
            urls.extend(message.changes.into_iter().map(|change| change.key.unwrap().url));
        }
        let expected: Vec<_> = (0..ARTICLES).map(|number| format!("https://example.com/{number}")).collect();
        assert_eq!(urls, expected);
    }
}

/// The command, ended when dropped.
struct Command(Child);

impl Drop for Command {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Waits until the file holds this token.
fn saved(path: &Path, token: &str) {
    let begun = Instant::now();
    while std::fs::read_to_string(path).unwrap_or_default().trim() != token {
        assert!(begun.elapsed() < Duration::from_secs(60), "the token was not saved");
        std::thread::sleep(Duration::from_millis(5)); // ok: looks again whether the condition holds.
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_follows_and_resumes() {
    let mut daemon = Daemon::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let address = daemon.address.clone();
    let args = ["watch", "--from-beginning", "--token-file", file.to_str().unwrap(), "--server", &address];
    let start = |more: &[&str]| {
        let mut process = dateline(&[&args[..], more].concat()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
        (Command(process), lines)
    };
    let mut own = begin(&daemon.client, beginning()).await;
    next(&mut own).await;
    let (running, mut lines) = start(&["--json", "--content", "--fields", "title"]);
    for number in 0..4 {
        if number == 2 {
            daemon.kill_and_restart_in_place().await;
        }
        let stored = put(&daemon.client, article("2024-05-01", "https://example.com/a", &format!("{number}"), "B")).await;
        let line: serde_json::Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
        let kind = if number == 0 { "created" } else { "updated" };
        let found = (line["type"].as_str(), line["url"].as_str(), line["revision"].as_i64(), line["digest"].as_str());
        assert_eq!(found, (Some(kind), Some("https://example.com/a"), Some(number + 1), Some(stored.digest.as_str())));
        assert_eq!(line["article"], serde_json::json!({ "title": format!("{number}") }));
        // Coming back begins with a mark.
        let mut message = next(&mut own).await;
        while message.changes.is_empty() {
            message = next(&mut own).await;
        }
        saved(&file, &message.resume_token);
    }
    drop(running);

    put(&daemon.client, article("2024-05-02", "https://example.com/b", "\u{1b}[31mred", "B")).await;
    delete(&daemon.client, "2024-05-01", "https://example.com/a").await;
    let (running, mut lines) = start(&[]);
    let (first, second) = (lines.next().unwrap(), lines.next().unwrap());
    assert!(first.contains("created  2024-05-02  revision 1  https://example.com/b"), "{first}");
    assert!(second.contains("deleted  2024-05-01  revision 4  https://example.com/a"), "{second}");
    drop(running);

    let output = dateline(&[&args[..], &["--host", "example.com"]].concat()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && error.contains("TOKEN_MISMATCH"), "{output:?}");
    let output = dateline(&[&args[..], &["--now"]].concat()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
