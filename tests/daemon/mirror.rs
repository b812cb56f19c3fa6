//! `dateline mirror`: whatever is killed and whenever, the target comes to hold what the source holds.

use std::collections::BTreeMap;
use std::process::{Child, Output, Stdio};
use std::time::Duration;

use dateline::client::{Client, v1};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::harness::{Daemon, article, dateline, key};

const LONG: Duration = Duration::from_secs(60);
const WRITERS: usize = 3;
/// How often each of the source, the target and the mirror is killed.
const KILLS_EACH: usize = 3;
/// Articles of a writer of its own, and those that all writers share.
const ARTICLES: u64 = 40;

/// A mirror that runs until it is stopped or killed.
struct Mirror(Child);

impl Mirror {
    fn start(source: &Daemon, target: &Daemon) -> Self {
        let mut command = dateline(&["mirror", "--from", &source.address, "--to", &target.address, "--json"]);
        Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Runs a mirror until it ends by itself.
async fn mirrored(source: &Daemon, target: &Daemon, more: &[&str]) -> Output {
    let mut command = dateline(&["mirror", "--from", &source.address, "--to", &target.address]);
    let mut command = tokio::process::Command::from({
        command.args(more);
        command
    });
    tokio::time::timeout(LONG, command.kill_on_drop(true).output()).await.expect("the mirror ends").unwrap()
}

/// Brings the target up to the source. Gives what the mirror said at the end.
async fn catch_up(source: &Daemon, target: &Daemon) -> Value {
    let output = mirrored(source, target, &["--until-caught-up", "--json"]).await;
    assert!(output.status.success(), "{output:?}");
    let last = String::from_utf8(output.stdout).unwrap().lines().last().unwrap().to_owned();
    let ended: Value = serde_json::from_str(&last).unwrap();
    assert_eq!((&ended["event"], &ended["behind"], &ended["rejected"]), (&"ended".into(), &0.into(), &0.into()), "{ended}");
    ended
}

/// Everything that a store holds, without what it adds itself and may number differently.
async fn contents(daemon: &Daemon) -> BTreeMap<(String, String), v1::Article> {
    let articles = daemon.stream(None, v1::SortOrder::Ascending).await;
    let comparable = |article: v1::Article| {
        let key = (article.date.clone(), article.canonical_url.clone());
        (key, v1::Article { etag: String::new(), revision: 0, create_time: None, update_time: None, ..article })
    };
    articles.into_iter().map(comparable).collect()
}

async fn sequence(daemon: &Daemon) -> i64 {
    daemon.client.status().await.unwrap().contents.unwrap().last_sequence
}

/// Returns when a store has made so many more changes.
async fn grows(daemon: &Daemon, changes: i64) {
    comes_to(daemon, sequence(daemon).await + changes).await;
}

/// Returns when a store has made this change.
async fn comes_to(daemon: &Daemon, goal: i64) {
    let grown = async {
        while sequence(daemon).await < goal {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, grown).await.expect("the mirror passes changes on");
}

fn text(writer: usize, number: u64) -> v1::Article {
    let place = if number.is_multiple_of(3) { "all".to_owned() } else { writer.to_string() };
    let url = format!("http://www.example.com/{place}/{}?utm_source={number}", number % ARTICLES);
    v1::Article {
        lead: format!("Lead {number}\r\n"),
        publish_time: Some(prost_types::Timestamp { seconds: number as i64, nanos: 7 }),
        crawl_time: Some(prost_types::Timestamp { seconds: 1_000_000 + number as i64, nanos: 1 }),
        authors: vec!["A. Author".into(), format!("{writer}")],
        language: "en".into(),
        annotations: [("number".to_owned(), number.to_string())].into(),
        ..article("2024-05-01", &url, &format!("{writer} {number}"), &"text \u{e9}\0 ".repeat(number as usize % 200))
    }
}

/// Creates, changes and deletes articles until it is told to stop.
async fn write(client: Client, writer: usize, mut up: watch::Receiver<usize>, stop: CancellationToken) {
    for number in 0.. {
        if stop.is_cancelled() {
            return;
        }
        up.mark_unchanged();
        let article = text(writer, number);
        let written = match number % 7 {
            5 => {
                let key = Some(key(&article.date, &article.url));
                client.delete_article(v1::DeleteArticleRequest { key, allow_missing: true, ..Default::default() }).await.map(drop)
            }
            6 => client.batch_ingest_articles((number..number + 5).map(|number| text(writer, number)).collect()).await.map(drop),
            _ => client.put_article(v1::PutArticleRequest { article: Some(article), ..Default::default() }).await.map(drop),
        };
        // The source was killed and comes back, or it has already and this was said of the old connection.
        if written.is_err() {
            drop(tokio::time::timeout(Duration::from_millis(100), up.changed()).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_keeps_step_whatever_is_killed() {
    let (mut source, mut target) = (Daemon::start().await, Daemon::start().await);
    let (up, stop) = (watch::Sender::new(0), CancellationToken::new());
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(write(source.client.clone(), writer, up.subscribe(), stop.clone()));
    }
    let mut mirror = Mirror::start(&source, &target);
    let mut kills: Vec<_> = (0..3 * KILLS_EACH).map(|kill| kill % 3).collect();
    fastrand::shuffle(&mut kills);
    println!("killed in this order (0 the source, 1 the target, 2 the mirror): {kills:?}");
    for kill in kills {
        grows(&target, fastrand::i64(1..120)).await;
        match kill {
            0 => {
                source.kill_and_restart_in_place().await;
                up.send_modify(|restarts| *restarts += 1);
            }
            1 => target.kill_and_restart_in_place().await,
            _ => {
                mirror.kill();
                mirror = Mirror::start(&source, &target);
            }
        }
    }
    grows(&target, 50).await;
    stop.cancel();
    while let Some(writer) = writers.join_next().await {
        writer.unwrap();
    }
    mirror.kill();
    catch_up(&source, &target).await;
    let (expected, found) = (contents(&source).await, contents(&target).await);
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (key, article) in &expected {
        assert_eq!(found[key], *article);
    }
    assert!(expected.len() > 50, "{} articles", expected.len());
    // Nothing was passed on twice: of the source's changes, only those may be missing whose revision is gone.
    assert!(sequence(&target).await <= sequence(&source).await);
    let again = catch_up(&source, &target).await;
    assert_eq!(again["changes"], 0, "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_follows_and_stops_when_it_is_told_to() {
    let (source, target) = (Daemon::start_with(|command| _ = command.env("DATELINE_MAX_DAYS_AHEAD", "-1")).await, Daemon::start().await);
    let put = async |article: v1::Article| {
        source.client.put_article(v1::PutArticleRequest { article: Some(article), ..Default::default() }).await.unwrap();
    };
    let url = |number: u64| format!("https://example.com/{number}");
    // What is gone already, what was overwritten, and what lies far ahead.
    for (number, body) in [(1, "first"), (1, "second"), (2, "deleted"), (3, "first")] {
        put(article("2024-05-01", &url(number), "T", body)).await;
    }
    let delete = v1::DeleteArticleRequest { key: Some(key("2024-05-01", &url(2))), ..Default::default() };
    source.client.delete_article(delete.clone()).await.unwrap();
    put(article("2999-01-01", &url(4), "T", "B")).await;
    let ended = catch_up(&source, &target).await;
    assert_eq!((&ended["changes"], &ended["skipped"], &ended["created"], &ended["updated"]), (&6.into(), &1.into(), &3.into(), &1.into()));
    assert_eq!((&ended["unchanged"], &ended["sequence"]), (&1.into(), &6.into()), "{ended}");
    assert_eq!(contents(&target).await, contents(&source).await);

    let goal = sequence(&target).await + 2;
    let mut mirror = Mirror::start(&source, &target);
    put(article("2024-05-02", &url(5), "T", "followed")).await;
    let delete = v1::DeleteArticleRequest { key: Some(key("2024-05-01", &url(1))), ..delete };
    source.client.delete_article(delete).await.unwrap();
    comes_to(&target, goal).await;
    assert_eq!(contents(&target).await, contents(&source).await);
    let pid = mirror.0.id().to_string();
    assert!(std::process::Command::new("kill").arg(&pid).status().unwrap().success());
    assert!(mirror.0.wait().unwrap().success());
    assert_eq!(target.client.status().await.unwrap().contents.unwrap().ingest_stream_count, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_waits_for_a_source_that_is_away_for_long() {
    let (mut source, target) = (Daemon::start().await, Daemon::start().await);
    let put = async |source: &Daemon, number: u64| {
        let article = article("2024-05-01", &format!("https://example.com/{number}"), "T", "B");
        source.client.put_article(v1::PutArticleRequest { article: Some(article), ..Default::default() }).await.unwrap();
    };
    let _mirror = Mirror::start(&source, &target);
    put(&source, 0).await;
    comes_to(&target, 1).await;
    source.kill();
    // By then the pauses between two attempts are as long as they get.
    tokio::time::sleep(Duration::from_secs(14)).await; // ok: it is the time that matters.
    source.start_again_in_place().await;
    put(&source, 1).await;
    comes_to(&target, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_target_does_not_take_is_named() {
    let source = Daemon::start().await;
    let target = Daemon::start_with(|command| _ = command.env("DATELINE_ARTICLE_BYTES", "1000")).await;
    for (path, bytes) in [("small", 10), ("large", 2000), ("last", 20)] {
        let article = article("2024-05-01", &format!("https://example.com/{path}"), "T", &"x".repeat(bytes));
        source.client.put_article(v1::PutArticleRequest { article: Some(article), ..Default::default() }).await.unwrap();
    }
    let output = mirrored(&source, &target, &["--until-caught-up"]).await;
    let (told, error) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(told.contains("2 created") && told.contains("1 rejected"), "{told}");
    assert!(error.contains("2024-05-01 https://example.com/large: ARTICLE_TOO_LARGE"), "{error}");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(contents(&target).await.len(), 2);
    let again = mirrored(&source, &target, &["--until-caught-up"]).await;
    assert_eq!(again.status.code(), Some(0));
    assert!(String::from_utf8(again.stderr).unwrap().contains("rejected 1 articles of earlier runs"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_cannot_go_on_says_what_to_do() {
    let (source, other, target) = (Daemon::start().await, Daemon::start().await, Daemon::start().await);
    let failed = async |from: &Daemon, to: &Daemon, more: &[&str]| {
        let output = mirrored(from, to, more).await;
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (status, error) = failed(&source, &source, &[]).await;
    assert!(status == Some(2) && error.contains("same store"), "{error}");
    let output = dateline(&["mirror", "--from", "not an address", "--to", &target.address]).output().unwrap();
    assert!(output.status.code() == Some(1) && String::from_utf8_lossy(&output.stderr).contains("INVALID_ADDRESS"), "{output:?}");

    let put = |article| v1::PutArticleRequest { article: Some(article), ..Default::default() };
    for daemon in [&source, &other] {
        daemon.client.put_article(put(article("2024-05-01", "https://example.com/a", "T", "B"))).await.unwrap();
    }
    let named = |name| ["--stream", name, "--until-caught-up"];
    assert_eq!(mirrored(&source, &target, &named("copy")).await.status.code(), Some(0));
    let (status, error) = failed(&other, &target, &named("copy")).await;
    assert!(status == Some(1) && error.contains("TOKEN_MISMATCH") && error.contains("empty target"), "{error}");

    let (mut sender, mut receiver, _) = target.client.ingest("articles", false).await.unwrap();
    sender.send(0, vec![article("2024-05-01", "https://example.com/b", "T", "B")]).await.unwrap();
    receiver.next().await.unwrap();
    let (status, error) = failed(&source, &target, &named("articles")).await;
    assert!(status == Some(1) && error.contains("no mirror's") && error.contains("--stream"), "{error}");
    let (sender, mut receiver, _) = target.client.ingest("articles", false).await.unwrap();
    sender.commit(1).await.unwrap();
    receiver.next().await.unwrap();
    let (status, error) = failed(&source, &target, &named("articles")).await;
    assert!(status == Some(1) && error.contains("STREAM_FINISHED"), "{error}");

    let mut first = Mirror::start(&source, &target);
    let streams = async || target.client.status().await.unwrap().contents.unwrap().ingest_stream_count;
    let begun = async {
        while streams().await < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, begun).await.expect("the first mirror begins");
    let _second = Mirror::start(&source, &target);
    // It learns of the second when it has something to pass on.
    let taken_over = async {
        let mut number = 0;
        while first.0.try_wait().unwrap().is_none() {
            let article = article("2024-05-01", "https://example.com/a", "T", &number.to_string());
            source.client.put_article(put(article)).await.unwrap();
            number += 1;
        }
    };
    tokio::time::timeout(LONG, taken_over).await.expect("the first mirror ends");
    let error = std::io::read_to_string(first.0.stderr.take().unwrap()).unwrap();
    assert_eq!(first.0.wait().unwrap().code(), Some(1));
    assert!(error.contains("STREAM_TAKEN_OVER") && error.contains("another mirror"), "{error}");
}
