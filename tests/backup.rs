//! Backup, restore, verification and compaction through the front door: the real binary on real folders.

#[path = "daemon/harness.rs"]
#[expect(dead_code, reason = "the tests of the daemon use the rest")]
mod harness;

mod backup {
    mod compact;
    mod dictionaries;
    mod files;
    mod load;
    mod restore;
    mod verify;
}

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use dateline::client::v1;
use harness::{Daemon, article, dateline};

/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the program to its end, apart from the threads of the test.
async fn run(args: &[&str]) -> Output {
    let mut command: Command = dateline(args);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// Runs the program, which must do what it is asked for, and gives what it prints.
async fn succeed(args: &[&str]) -> String {
    let output = run(args).await;
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs the program, which must print one JSON object.
async fn succeed_json(args: &[&str]) -> serde_json::Value {
    serde_json::from_str(&succeed(args).await).unwrap()
}

/// Runs the program, which must fail with this status, and gives what it complains of.
async fn fail(args: &[&str], status: i32) -> String {
    let output = run(args).await;
    assert_eq!(output.status.code(), Some(status), "{args:?}: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// Waits for a condition.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what} takes too long");
        tokio::time::sleep(Duration::from_millis(2)).await; // ok: the wait is for a condition, which has a deadline.
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The names in a folder.
fn names(folder: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into()).collect();
    names.sort();
    names
}

/// Printable text that does not compress well, another for each seed.
fn noise(seed: u64, bytes: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(33 + ((state >> 33) % 94) as u8)
    };
    (0..bytes).map(|_| next()).collect()
}

/// So many articles of so many bytes each, of ten days.
fn articles(count: u64, bytes: usize) -> Vec<v1::Article> {
    let one = |number| {
        let (date, url) = (format!("2024-05-{:02}", 1 + number % 10), format!("https://stored.example/{number:06}"));
        article(&date, &url, &format!("Title {number}"), &noise(number, bytes))
    };
    (0..count).map(one).collect()
}

/// Stores articles, which must not be there yet.
async fn store(daemon: &Daemon, articles: &[v1::Article]) {
    // As many as a request may hold.
    let largest = articles.iter().map(|article| article.body.len()).max().unwrap_or(0);
    for some in articles.chunks(((8 << 20) / (largest + 1)).min(1000)) {
        for result in daemon.client.batch_ingest_articles(some.to_vec()).await.unwrap() {
            assert_eq!(result.outcome(), v1::Outcome::Created);
        }
    }
}

async fn everything(daemon: &Daemon) -> Vec<v1::Article> {
    daemon.stream(None, v1::SortOrder::Ascending).await
}

/// Compares without printing megabytes.
fn same(found: &[v1::Article], expected: &[v1::Article]) {
    let differs = found.iter().zip(expected).find(|(found, expected)| found != expected);
    let names = differs.map(|(found, expected)| [found, expected].map(|article| format!("{} {}", article.date, article.canonical_url)));
    assert_eq!((names, found.len()), (None, expected.len()));
}
