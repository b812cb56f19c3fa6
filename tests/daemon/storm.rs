//! Followers of the change log while writers are at work and the daemon is killed: six promises, each with a test of its own.
//!
//! A kill shows what a crash of the process takes; what a loss of power takes is another test's matter.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dateline::client::{Client, Watch, WatchEvent, v1};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use v1::watch_articles_request::Start;

use super::harness::{Daemon, article, key};

const LONG: Duration = Duration::from_secs(120);
const WRITERS: usize = 4;
const KILLS: usize = 2;
/// Changes that are seen before the next kill.
const BETWEEN_KILLS: usize = 150;

/// A change, as far as it identifies itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Seen {
    pub kind: v1::ChangeType,
    pub date: String,
    pub url: String,
    pub revision: i64,
    pub digest: String,
}

impl From<v1::ArticleChange> for Seen {
    fn from(change: v1::ArticleChange) -> Self {
        let v1::ArticleKey { date, url } = change.key.clone().unwrap();
        Self { kind: change.r#type(), date, url, revision: change.revision, digest: change.digest }
    }
}

pub fn beginning() -> Start {
    Start::Position(v1::WatchStart::Beginning.into())
}

pub async fn begin(client: &Client, start: Start) -> Watch {
    client.watch(v1::WatchArticlesRequest { start: Some(start), ..Default::default() }).await.unwrap()
}

/// The next message, however often the watch is interrupted before.
pub async fn next(watch: &mut Watch) -> v1::WatchArticlesResponse {
    let next = async {
        loop {
            if let WatchEvent::Changes(message) = watch.next().await.unwrap() {
                return message;
            }
        }
    };
    tokio::time::timeout(LONG, next).await.expect("a watch says something every ten seconds")
}

/// So many changes.
pub async fn read(watch: &mut Watch, count: usize) -> Vec<Seen> {
    let reading = async {
        let mut seen = Vec::new();
        while seen.len() < count {
            seen.extend(next(watch).await.changes.into_iter().map(Seen::from));
        }
        seen
    };
    tokio::time::timeout(LONG, reading).await.expect("every change comes")
}

/// Writers that go on when the daemon comes back.
struct Storm {
    daemon: Daemon,
    up: watch::Sender<usize>,
    stop: CancellationToken,
    writers: JoinSet<Vec<(String, i64)>>,
}

impl Storm {
    async fn begin() -> Self {
        let daemon = Daemon::start().await;
        let (up, stop) = (watch::Sender::new(0), CancellationToken::new());
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            writers.spawn(write(daemon.client.clone(), writer, up.subscribe(), stop.clone()));
        }
        Self { daemon, up, stop, writers }
    }

    /// Kills the daemon when it has made some more changes.
    async fn kill(&mut self) {
        let mut watch = begin(&self.daemon.client, Start::Position(v1::WatchStart::Now.into())).await;
        read(&mut watch, BETWEEN_KILLS).await;
        self.daemon.kill_and_restart_in_place().await;
        self.up.send_modify(|restarts| *restarts += 1);
    }

    async fn kill_again_and_again(&mut self) {
        for _ in 0..KILLS {
            self.kill().await;
        }
        let mut watch = begin(&self.daemon.client, Start::Position(v1::WatchStart::Now.into())).await;
        read(&mut watch, BETWEEN_KILLS).await;
    }

    /// Ends the writers. Gives what was acknowledged to them, and the whole log.
    async fn end(mut self) -> (Daemon, Vec<(String, i64)>, Vec<Seen>) {
        self.stop.cancel();
        let mut acknowledged = Vec::new();
        while let Some(writer) = self.writers.join_next().await {
            acknowledged.extend(writer.unwrap());
        }
        let log = log(&self.daemon.client).await;
        assert!(log.len() > KILLS * BETWEEN_KILLS, "{} changes", log.len());
        (self.daemon, acknowledged, log)
    }
}

/// Puts and deletes articles, some of its own and some of all writers, until it is told to stop. Gives the URL and the revision
/// of every acknowledged put.
async fn write(client: Client, writer: usize, mut up: watch::Receiver<usize>, stop: CancellationToken) -> Vec<(String, i64)> {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        if stop.is_cancelled() {
            break;
        }
        up.mark_unchanged();
        let owner = if number % 3 == 0 { "all".to_owned() } else { writer.to_string() };
        let url = format!("https://example.com/{owner}/{}", number % 5);
        let written = if number % 11 == 10 {
            let request = v1::DeleteArticleRequest { key: Some(key("2024-05-01", &url)), allow_missing: true, ..Default::default() };
            client.delete_article(request).await.map(drop)
        } else {
            let text = article("2024-05-01", &url, &format!("{writer} {number}"), "text");
            let request = v1::PutArticleRequest { article: Some(text), ..Default::default() };
            client.put_article(request).await.map(|response| acknowledged.push((url, response.article.unwrap().revision)))
        };
        // The daemon was killed: it comes back, or has already.
        if written.is_err() {
            tokio::select! {
                () = stop.cancelled() => {}
                changed = up.changed() => changed.unwrap(),
            }
        }
    }
    acknowledged
}

async fn log(client: &Client) -> Vec<Seen> {
    let count = client.change_bounds().await.unwrap().change_count;
    let log = read(&mut begin(client, beginning()).await, count as usize).await;
    assert_eq!(log.len() as i64, count, "nobody writes any more");
    log
}

/// Follows the log from the beginning. Its list grows with every message.
struct Follower {
    seen: Arc<Mutex<Vec<Seen>>>,
    until: watch::Sender<usize>,
    task: tokio::task::JoinHandle<()>,
}

impl Follower {
    async fn begin(client: &Client) -> Self {
        let mut watch = begin(client, beginning()).await;
        let (seen, until) = (Arc::<Mutex<Vec<Seen>>>::default(), watch::Sender::new(usize::MAX));
        let (list, mut end) = (Arc::clone(&seen), until.subscribe());
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    message = next(&mut watch) => list.lock().unwrap().extend(message.changes.into_iter().map(Seen::from)),
                    changed = end.changed() => changed.unwrap(),
                }
                if list.lock().unwrap().len() >= *end.borrow() {
                    return;
                }
            }
        });
        Self { seen, until, task }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// What it has seen when it has seen so many.
    async fn end(self, count: usize) -> Vec<Seen> {
        self.until.send_replace(count);
        tokio::time::timeout(LONG, self.task).await.expect("every change comes").unwrap();
        self.seen.lock().unwrap().clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_changes_of_an_article_come_in_the_order_of_its_revisions() {
    let mut storm = Storm::begin().await;
    let follower = Follower::begin(&storm.daemon.client).await;
    storm.kill_again_and_again().await;
    let (_daemon, _, log) = storm.end().await;
    let mut latest = HashMap::<String, (i64, bool)>::new();
    let (mut updated, mut deleted) = (0, 0);
    for change in follower.end(log.len()).await {
        let (revision, there) = latest.get(&change.url).copied().unwrap_or_default();
        let expected = match change.kind {
            v1::ChangeType::Created => (revision + 1, false),
            v1::ChangeType::Updated => (revision + 1, true),
            v1::ChangeType::Deleted => (revision, true),
            v1::ChangeType::Unspecified => panic!("{change:?}"),
        };
        assert_eq!((change.revision, there), expected, "{change:?}");
        updated += usize::from(change.kind == v1::ChangeType::Updated);
        deleted += usize::from(change.kind == v1::ChangeType::Deleted);
        latest.insert(change.url, (change.revision, change.kind != v1::ChangeType::Deleted));
    }
    assert!(updated > 0 && deleted > 0, "{updated} updates, {deleted} deletions");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_change_comes_twice_on_a_watch() {
    let mut storm = Storm::begin().await;
    let follower = Follower::begin(&storm.daemon.client).await;
    storm.kill_again_and_again().await;
    let (_daemon, _, log) = storm.end().await;
    let seen = follower.end(log.len()).await;
    let mut known = HashSet::new();
    for change in &seen {
        assert!(known.insert((change.url.clone(), change.revision, change.kind)), "{change:?} came twice");
    }
    assert_eq!(seen.len(), log.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_change_is_left_out() {
    let mut storm = Storm::begin().await;
    let follower = Follower::begin(&storm.daemon.client).await;
    storm.kill_again_and_again().await;
    let (daemon, acknowledged, log) = storm.end().await;
    assert_eq!(follower.end(log.len()).await, log);
    let logged: HashSet<_> = log.iter().map(|change| (change.url.clone(), change.revision)).collect();
    let lost: Vec<_> = acknowledged.iter().filter(|put| !logged.contains(put)).collect();
    assert!(!acknowledged.is_empty() && lost.is_empty(), "acknowledged, and not in the log: {lost:?}");
    // What the log comes to is what the store holds.
    let mut there = HashMap::new();
    for change in log {
        match change.kind {
            v1::ChangeType::Deleted => there.remove(&change.url),
            _ => there.insert(change.url, (change.revision, change.digest)),
        };
    }
    let stored = daemon.stream(None, v1::SortOrder::Ascending).await;
    let stored: HashMap<_, _> = stored.into_iter().map(|found| (found.canonical_url, (found.revision, found.digest))).collect();
    assert_eq!(there, stored);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_is_resumed_where_it_was_left() {
    let mut storm = Storm::begin().await;
    let (done, mut until) = watch::channel(usize::MAX);
    let client = storm.daemon.client.clone();
    let resuming = tokio::spawn(async move {
        let (mut seen, mut start) = (Vec::new(), beginning());
        while seen.len() < *until.borrow_and_update() {
            let request = v1::WatchArticlesRequest { start: Some(start.clone()), ..Default::default() };
            // The daemon may be down just now: the same token is used again.
            let Ok(mut watch) = client.watch(request).await else {
                tokio::task::yield_now().await;
                continue;
            };
            // A mark that says where, and the changes after it: then it is left.
            for _ in 0..2 {
                let message = tokio::select! {
                    message = next(&mut watch) => message,
                    changed = until.changed() => {
                        changed.unwrap();
                        break;
                    }
                };
                start = Start::ResumeToken(message.resume_token);
                seen.extend(message.changes.into_iter().map(Seen::from));
            }
        }
        seen
    });
    storm.kill_again_and_again().await;
    let (_daemon, _, log) = storm.end().await;
    done.send_replace(log.len());
    assert_eq!(resuming.await.unwrap(), log);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_seen_survives_a_kill() {
    let mut storm = Storm::begin().await;
    let follower = Follower::begin(&storm.daemon.client).await;
    let mut before = 0;
    for _ in 0..KILLS {
        storm.kill().await;
        let seen = follower.seen();
        let log = read(&mut begin(&storm.daemon.client, beginning()).await, seen.len()).await;
        assert!(seen.len() > before, "nothing was seen since the last kill");
        assert_eq!(log[..seen.len()], seen[..], "what was seen before a kill is there after it");
        before = seen.len();
    }
    let (_daemon, _, log) = storm.end().await;
    assert_eq!(follower.end(log.len()).await, log);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_token_is_a_bookmark() {
    let mut storm = Storm::begin().await;
    let mut watch = begin(&storm.daemon.client, beginning()).await;
    let (mut bookmarks, mut seen) = (Vec::new(), 0);
    for kill in 1..=KILLS {
        while seen < kill * BETWEEN_KILLS {
            let message = next(&mut watch).await;
            seen += message.changes.len();
            bookmarks.push((message.resume_token, seen));
        }
        storm.kill().await;
    }
    storm.kill_again_and_again().await;
    let (daemon, _, log) = storm.end().await;
    let step = bookmarks.len().div_ceil(8);
    for (token, seen) in bookmarks.iter().step_by(step).chain(bookmarks.last()) {
        for _ in 0..2 {
            let mut watch = begin(&daemon.client, Start::ResumeToken(token.clone())).await;
            assert_eq!(read(&mut watch, log.len() - seen).await, log[*seen..], "the bookmark after {seen} changes");
        }
    }
}
