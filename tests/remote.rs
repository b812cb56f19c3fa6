//! The contract suite on the daemon: what every engine promises, asked for through the client and the wire.
//!
//! It runs three times on one folder, with a restart as an operator makes it and a kill in between, and each time by
//! other calls where there are two ways to ask for the same.

#[path = "daemon/harness.rs"]
#[expect(dead_code, reason = "the tests of the daemon use the rest")]
mod harness;
#[path = "remote/subject.rs"]
mod subject;

use dateline::client::v1;
use dateline::storage::contract;
use harness::Daemon;
use subject::{Remote, Scans, Writes};

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_keeps_its_promises_and_its_articles() {
    let mut daemon = Daemon::start().await;
    passes(&daemon, Scans::Pages, Writes::Message).await;
    let before = everything(&daemon).await;
    daemon.restart().await;
    same(&before, &everything(&daemon).await);
    passes(&daemon, Scans::Stream, Writes::Stream).await;
    let before = everything(&daemon).await;
    daemon.kill_and_restart().await;
    same(&before, &everything(&daemon).await);
    passes(&daemon, Scans::Pages, Writes::Stream).await;
}

async fn passes(daemon: &Daemon, scans: Scans, writes: Writes) {
    let remote = Remote { client: daemon.client.clone(), scans, writes };
    if let Err(violation) = contract::check(&remote).await {
        panic!("{violation} (scans by {scans:?}, batches by {writes:?})");
    }
}

async fn everything(daemon: &Daemon) -> Vec<v1::Article> {
    let articles = daemon.stream(None, v1::SortOrder::Ascending).await;
    assert!(!articles.is_empty(), "the suite leaves articles behind");
    articles
}

/// Compares without printing megabytes.
fn same(before: &[v1::Article], after: &[v1::Article]) {
    let differs = before.iter().zip(after).find(|(before, after)| before != after);
    let names = differs.map(|(before, after)| [before, after].map(|article| format!("{} {}", article.date, article.canonical_url)));
    assert_eq!((names, before.len()), (None, after.len()), "a restart changes nothing");
}
