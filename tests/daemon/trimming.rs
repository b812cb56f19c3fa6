//! A change log that is trimmed: who comes back too late is told, and a watch from the beginning rebuilds the store.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dateline::client::{Client, ClientError, WatchEvent, v1};
use tonic::transport::Endpoint;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;
use v1::change_service_client::ChangeServiceClient;
use v1::watch_articles_request::Start;

use super::harness::{Daemon, article, dateline, key};
use super::storm::{begin, beginning, next};

const DATE: &str = "2024-05-01";
const PATIENCE: Duration = Duration::from_secs(60);

fn told(settings: &'static [&'static str]) -> impl FnOnce(&mut Command) {
    move |command| {
        command.args(settings);
    }
}

async fn put(client: &Client, url: &str, title: &str) {
    let article = article(DATE, url, title, "B");
    client.put_article(v1::PutArticleRequest { article: Some(article), ..Default::default() }).await.unwrap();
}

async fn delete(client: &Client, url: &str) {
    let request = v1::DeleteArticleRequest { key: Some(key(DATE, url)), allow_missing: true, ..Default::default() };
    client.delete_article(request).await.unwrap();
}

fn resume(token: &str) -> v1::WatchArticlesRequest {
    v1::WatchArticlesRequest { start: Some(Start::ResumeToken(token.into())), ..Default::default() }
}

async fn bounds(daemon: &Daemon) -> v1::GetChangeBoundsResponse {
    daemon.client.change_bounds().await.unwrap()
}

/// Waits for a condition.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what} takes too long");
        tokio::time::sleep(Duration::from_millis(20)).await; // ok: the wait is for a condition, which has a deadline.
    }
}

/// A watch as the protocol has it, and its first message.
async fn raw(daemon: &Daemon, request: v1::WatchArticlesRequest) -> Result<Streaming<v1::WatchArticlesResponse>, Status> {
    let channel = Endpoint::from_shared(daemon.address.clone()).unwrap().connect().await.unwrap();
    let mut stream = ChangeServiceClient::new(channel).watch_articles(request).await?.into_inner();
    stream.message().await?;
    Ok(stream)
}

/// What changes say of each article that is there: revision and digest by its URL.
type Known = BTreeMap<String, (i64, String)>;

fn apply(known: &mut Known, changes: Vec<v1::ArticleChange>) {
    for change in changes {
        let url = change.key.as_ref().unwrap().url.clone();
        match change.r#type() {
            v1::ChangeType::Deleted => drop(known.remove(&url)),
            _ => drop(known.insert(url, (change.revision, change.digest))),
        }
    }
}

async fn stored(daemon: &Daemon) -> Known {
    let articles = daemon.stream(None, v1::SortOrder::Ascending).await;
    articles.into_iter().map(|found| (found.canonical_url, (found.revision, found.digest))).collect()
}

/// Reads from there until everything that is stored is known.
async fn rebuilds(daemon: &Daemon, start: Start) {
    let (mut watch, mut known, expected) = (begin(&daemon.client, start).await, Known::new(), stored(daemon).await);
    let deadline = Instant::now() + PATIENCE;
    while known != expected {
        assert!(Instant::now() < deadline, "{known:?} instead of {expected:?}");
        apply(&mut known, next(&mut watch).await.changes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_too_late_is_told_and_begins_again() {
    let settings = &["--change-retention-count", "20", "--change-rebuild-time", "0s"];
    let mut daemon = Daemon::start_with(told(settings)).await;
    let client = daemon.client.clone();
    put(&client, "https://example.com/gone", "T").await;
    let mut watch = begin(&client, beginning()).await;
    // The second message: it knows the article that is deleted then, and has come to the end.
    next(&mut watch).await;
    let old = next(&mut watch).await.resume_token;
    drop(watch);
    delete(&client, "https://example.com/gone").await;
    for round in 0..25 {
        for number in 0..4 {
            put(&client, &format!("https://example.com/{number}"), &format!("{round}")).await;
        }
    }
    until("trimming", async || bounds(&daemon).await.trimmed_count >= 102 - 20 - 4).await;
    // 100 changes of 4 articles, the latest 20 of which are kept; of the two others, both are gone in the end.
    until("trimming of the deletion", async || bounds(&daemon).await.change_count == 20).await;
    let kept = bounds(&daemon).await;
    assert_eq!((kept.change_count, kept.trimmed_count, kept.earliest_age.is_some()), (20, 82, true));

    for round in 0..2 {
        let status = raw(&daemon, resume(&old)).await.expect_err("its token is too old");
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((status.code(), info.reason.as_str(), info.domain.as_str()), (Code::OutOfRange, "CHANGES_TRIMMED", "dateline"));
        rebuilds(&daemon, Start::ResumeToken(info.metadata["earliest_token"].clone())).await;
        rebuilds(&daemon, Start::ResumeToken(bounds(&daemon).await.earliest_token)).await;
        rebuilds(&daemon, beginning()).await;
        if round == 0 {
            daemon.kill();
            daemon.start_again().await;
            assert_eq!((bounds(&daemon).await.change_count, bounds(&daemon).await.trimmed_count), (20, 82), "a kill forgets nothing");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let (file, address) = (folder.path().join("token"), daemon.address.clone());
    std::fs::write(&file, &old).unwrap();
    let output = dateline(&["watch", "--token-file", file.to_str().unwrap(), "--server", &address]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && error.contains("CHANGES_TRIMMED"), "{output:?}");

    // A backup carries a log that says what is missing from it.
    let (backup, data) = (folder.path().join("store.backup"), folder.path().join("data"));
    let succeeds = |args: &[&str]| {
        let output = dateline(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
    };
    succeeds(&["verify", "--server", &address]);
    succeeds(&["backup", backup.to_str().unwrap(), "--server", &address]);
    succeeds(&["restore", backup.to_str().unwrap(), "--data", data.to_str().unwrap()]);
    succeeds(&["verify", "--data", data.to_str().unwrap()]);
    let restored = Daemon::start_in(folder, |_| ()).await;
    assert_eq!((bounds(&restored).await.change_count, bounds(&restored).await.trimmed_count), (20, 82));
    assert_eq!(stored(&restored).await, stored(&daemon).await);
    rebuilds(&restored, beginning()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_go_by_their_age_and_the_settings_are_told() {
    let mut daemon = Daemon::start_with(told(&["--change-retention-age", "1s"])).await;
    for round in 0..3 {
        put(&daemon.client, "https://example.com/a", &format!("{round}")).await;
    }
    delete(&daemon.client, "https://example.com/a").await;
    put(&daemon.client, "https://example.com/b", "T").await;
    until("trimming", async || bounds(&daemon).await.change_count == 2).await;
    // The deletion stays for the hour that whoever reads from the beginning has.
    let mut watch = begin(&daemon.client, beginning()).await;
    let mut changes = next(&mut watch).await.changes;
    changes.extend(next(&mut watch).await.changes);
    let kinds: Vec<_> = changes.iter().map(v1::ArticleChange::r#type).collect();
    assert_eq!(kinds, [v1::ChangeType::Deleted, v1::ChangeType::Created]);

    let retention = daemon.client.status().await.unwrap().retention.unwrap();
    let seconds = |time: Option<prost_types::Duration>| time.map(|time| time.seconds);
    assert_eq!(
        (seconds(retention.change_age), retention.change_count, seconds(retention.change_rebuild_time)),
        (Some(1), None, Some(3600))
    );
    daemon
        .restart_with(|command| {
            command.env("DATELINE_CHANGE_RETENTION_COUNT", "1000").env("DATELINE_CHANGE_RETENTION_AGE", "30d");
        })
        .await;
    let retention = daemon.client.status().await.unwrap().retention.unwrap();
    assert_eq!((seconds(retention.change_age), retention.change_count), (Some(30 * 86400), Some(1000)));
    assert_eq!(bounds(&daemon).await.trimmed_count, 3);
    let refused = dateline(&["serve", "--data", "nowhere", "--change-retention-age", "30"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
}

/// Creates, overwrites and deletes, until it is told to stop.
async fn write(client: Client, stop: Arc<AtomicBool>, writer: u64) {
    let mut random = fastrand::Rng::with_seed(writer);
    while !stop.load(Ordering::Relaxed) {
        let url = format!("https://writer-{writer}.example/{}", random.u8(..20));
        if random.u8(..4) == 0 {
            delete(&client, &url).await;
        } else {
            put(&client, &url, &random.u64(..).to_string()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_the_beginning_rebuilds_the_store_while_it_is_written_and_trimmed() {
    for rebuild_time in ["1h", "0s"] {
        let daemon = Daemon::start_with(|command| {
            command.args(["--change-retention-count", "50", "--change-rebuild-time", rebuild_time]);
        })
        .await;
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..3).map(|writer| tokio::spawn(write(daemon.client.clone(), Arc::clone(&stop), writer))).collect();
        until("trimming", async || bounds(&daemon).await.trimmed_count > 100).await;

        // Cut off after every message: it goes on where it was, or is told to begin again.
        let (mut known, mut start, mut messages, mut begun_again) = (Known::new(), beginning(), 0, 0);
        let deadline = Instant::now() + PATIENCE;
        let (mut stopped, mut expected) = (false, None);
        while expected.as_ref() != Some(&known) {
            assert!(Instant::now() < deadline, "{} articles are known instead of {:?}", known.len(), expected.map(|all| all.len()));
            match follow(&daemon.client, start.clone()).await {
                Ok((changes, token)) => {
                    apply(&mut known, changes);
                    start = Start::ResumeToken(token);
                    messages += 1;
                }
                Err(error) => {
                    assert_eq!(error.reason, "CHANGES_TRIMMED", "{error}");
                    (known, start) = (Known::new(), beginning());
                    begun_again += 1;
                }
            }
            if messages >= 40 && !stopped && bounds(&daemon).await.trimmed_count > 500 {
                stop.store(true, Ordering::Relaxed);
                stopped = true;
            }
            if stopped && expected.is_none() && writers.iter().all(tokio::task::JoinHandle::is_finished) {
                expected = Some(stored(&daemon).await);
            }
        }
        for writer in writers {
            writer.await.unwrap();
        }
        println!("{messages} messages, begun again {begun_again} times with {rebuild_time}");
        rebuilds(&daemon, beginning()).await;
        assert!(dateline(&["verify", "--server", &daemon.address]).status().unwrap().success());
    }
}

/// What is taken of it under load fits together: what is missing of its log, and how much.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_whole_while_the_log_is_written_and_trimmed() {
    let daemon = Daemon::start_with(told(&["--change-retention-count", "50", "--change-rebuild-time", "0s", "--history", "1"])).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..3).map(|writer| tokio::spawn(write(daemon.client.clone(), Arc::clone(&stop), writer))).collect();
    let folder = tempfile::tempdir().unwrap();
    for round in 1..=3 {
        until("trimming", async || bounds(&daemon).await.trimmed_count > 100 * round).await;
        let (backup, data) = (folder.path().join("store.backup"), folder.path().join(format!("{round}")));
        let (backup, data) = (backup.to_str().unwrap(), data.to_str().unwrap());
        for args in
            [&["backup", backup, "--server", &daemon.address][..], &["restore", backup, "--data", data], &["verify", "--data", data]]
        {
            let output = dateline(args).output().unwrap();
            assert!(output.status.success(), "{args:?}: {output:?}");
        }
        std::fs::remove_file(backup).unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
}

/// Writes until the daemon is gone.
async fn write_on(client: Client, writer: u64, kill: u64) {
    for number in 0.. {
        let url = format!("https://writer-{writer}.example/{}", number % 10);
        let article = article(DATE, &url, &format!("{kill} {number}"), "B");
        let put = client.put_article(v1::PutArticleRequest { article: Some(article), ..Default::default() });
        if put.await.is_err() {
            return;
        }
        if number % 7 == 0 {
            let request = v1::DeleteArticleRequest { key: Some(key(DATE, &url)), allow_missing: true, ..Default::default() };
            drop(client.delete_article(request).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_while_it_is_trimmed_leaves_a_log_that_adds_up() {
    let settings = &["--change-retention-count", "30", "--change-rebuild-time", "0s", "--history", "1"];
    let mut daemon = Daemon::start_with(told(settings)).await;
    for kill in 0..5 {
        let before = bounds(&daemon).await.trimmed_count;
        let writers: Vec<_> = (0..3).map(|writer| tokio::spawn(write_on(daemon.client.clone(), writer, kill))).collect();
        until("trimming", async || bounds(&daemon).await.trimmed_count > before + 40).await;
        daemon.kill();
        for writer in writers {
            writer.await.unwrap();
        }
        daemon.start_again_with(told(settings)).await;
        rebuilds(&daemon, beginning()).await;
        assert!(bounds(&daemon).await.trimmed_count > before + 40, "what was told of the log was durable");
        let verified = dateline(&["verify", "--server", &daemon.address]).output().unwrap();
        assert!(verified.status.success(), "{verified:?}");
    }
}

/// The changes of a message from there, with the token after them.
async fn follow(client: &Client, start: Start) -> Result<(Vec<v1::ArticleChange>, String), ClientError> {
    let mut watch = client.watch(v1::WatchArticlesRequest { start: Some(start), ..Default::default() }).await?;
    // The first message says where it begins.
    let WatchEvent::Changes(first) = watch.next().await? else { panic!("the first message came with the connection") };
    match tokio::time::timeout(Duration::from_millis(500), watch.next()).await {
        Ok(event) => match event? {
            WatchEvent::Changes(message) => Ok((message.changes, message.resume_token)),
            WatchEvent::Interrupted(error) => Err(error),
        },
        // There is nothing after it.
        Err(_) => Ok((Vec::new(), first.resume_token)),
    }
}
