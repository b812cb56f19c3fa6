//! Space: what is deleted gives its bytes back, by itself and by compaction, and nothing that is kept suffers from it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dateline::article::{Article, ArticleDraft, Limits};
use dateline::storage::{self, ArticleStore, ChangeRetention, History, Precondition, StoreOptions, Write, WriteBatch};

const MIB: usize = 1 << 20;

/// Printable text that does not compress well, from a simple generator.
fn noise() -> String {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(33 + ((state >> 33) % 94) as u8)
    };
    (0..2 * MIB).map(|_| next()).collect()
}

fn article(number: u64, round: u64, noise: &str) -> Article {
    let body = format!("{round}{noise}");
    let draft = ArticleDraft { date: "2024-05-01".into(), url: format!("https://example.com/{number}"), body, ..ArticleDraft::default() };
    draft.validate(&Limits::default()).unwrap()
}

async fn open(path: &Path) -> Arc<dyn ArticleStore> {
    open_with(path, StoreOptions::default()).await
}

async fn open_with(path: &Path, options: StoreOptions) -> Arc<dyn ArticleStore> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || storage::open(&path, options)).await.unwrap().unwrap()
}

async fn write(store: &dyn ArticleStore, write: Write) {
    let outcome = store.write(WriteBatch { writes: vec![write], stream: None }).await.unwrap();
    outcome.outcomes.into_iter().for_each(|outcome| drop(outcome.unwrap()));
}

/// Looks at everything and finds nothing wrong.
async fn verify(store: &dyn ArticleStore) {
    let mut cursor = None;
    loop {
        let step = store.verify(cursor).await.unwrap();
        assert_eq!(step.findings, []);
        cursor = step.next;
        if cursor.is_none() {
            return;
        }
    }
}

async fn bytes(store: &dyn ArticleStore) -> u64 {
    let stats = store.stats().await.unwrap();
    stats.engine_bytes + stats.journal_bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_text_gives_its_space_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let store = open(&path).await;
    let noise = noise();
    let kept: Vec<_> = (0..8).map(|number| article(number, 0, &noise)).collect();
    for article in &kept {
        write(&*store, Write::put(article.clone())).await;
    }
    // Each round writes two segments and more, among them one that is kept.
    for round in 1..=3 {
        for number in 100..180 {
            write(&*store, Write::put(article(number, round, &noise))).await;
        }
        for number in 100..180 {
            write(&*store, Write::Delete { key: article(number, 0, "").key().clone(), precondition: Precondition::None }).await;
        }
    }
    let live = kept.iter().map(|article| article.size() as u64).sum::<u64>();
    let bound = 2 * live + 4 * (64 * MIB as u64 + 16 * MIB as u64);
    let deadline = Instant::now() + Duration::from_secs(60);
    while bytes(&*store).await > bound {
        assert!(Instant::now() < deadline, "{} bytes are taken, and the bound is {bound}", bytes(&*store).await);
        tokio::time::sleep(Duration::from_millis(50)).await; // ok: the wait is for a condition, which has a deadline.
    }
    for article in &kept {
        assert_eq!(store.article(article.key()).await.unwrap().unwrap().article, *article);
    }
    verify(&*store).await;
    assert!(store.stats().await.unwrap().last_verification.is_some());
    let (sequence, store_id) = (store.sequence(), store.identity().store_id);
    store.close().await.unwrap();
    drop(store);

    let compacted = path.clone();
    tokio::task::spawn_blocking(move || storage::compact(&compacted, |_| {})).await.unwrap().unwrap();
    assert_eq!(folder.path().read_dir().unwrap().count(), 1, "compaction left something behind");
    let store = open(&path).await;
    assert_eq!((store.sequence(), store.identity().store_id), (sequence, store_id));
    assert!(bytes(&*store).await < live + 24 * MIB as u64, "{} bytes are taken", bytes(&*store).await);
    for article in &kept {
        assert_eq!(store.article(article.key()).await.unwrap().unwrap().article, *article);
    }
    // The numbers of deleted articles' revisions go on.
    let again = article(100, 9, &noise);
    write(&*store, Write::put(again.clone())).await;
    assert_eq!(store.article(again.key()).await.unwrap().unwrap().head.revision, 4);
    verify(&*store).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_overwritten_many_times_stays_within_its_bound() {
    const ARTICLES: usize = 500;
    const ROUNDS: usize = 30;
    const TEXT: usize = 16 << 10;
    let folder = tempfile::tempdir().unwrap();
    let changes = ChangeRetention { count: Some(ARTICLES as u64), rebuild_time: Duration::ZERO, ..ChangeRetention::default() };
    let store = open_with(folder.path(), StoreOptions { history: History::Last(0), changes, ..StoreOptions::default() }).await;
    let noise = noise();
    let text = |round: usize, number: usize| &noise[(round * 7919 + number * 104_729) % (noise.len() - TEXT)..][..TEXT];
    for round in 0..ROUNDS {
        for first in (0..ARTICLES).step_by(100) {
            let writes = (first..first + 100).map(|number| Write::put(article(number as u64, round as u64, text(round, number)))).collect();
            let outcome = store.write(WriteBatch { writes, stream: None }).await.unwrap();
            outcome.outcomes.into_iter().for_each(|outcome| drop(outcome.unwrap()));
        }
    }
    // Twice what stands, the segment that is written and one that is kept to be used again; and of sled's file 3 KB an article with
    // some of its segments of 512 KiB in use for what is written.
    let stats = store.stats().await.unwrap();
    let journal_bound = 2 * stats.live_bytes + 2 * (64 + 8) * MIB as u64;
    let engine_bound = ((ARTICLES * 3) << 10) as u64 + 32 * MIB as u64;
    assert!((ROUNDS * ARTICLES * TEXT) as u64 > journal_bound + engine_bound, "keeping everything would not show");
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let stats = store.stats().await.unwrap();
        if stats.journal_bytes < journal_bound && stats.engine_bytes < engine_bound {
            break;
        }
        assert!(Instant::now() < deadline, "{stats:?}, and the bounds are {journal_bound} and {engine_bound}");
        tokio::time::sleep(Duration::from_millis(50)).await; // ok: the wait is for a condition, which has a deadline.
    }
    for number in (0..ARTICLES).step_by(97) {
        let expected = article(number as u64, ROUNDS as u64 - 1, text(ROUNDS - 1, number));
        assert_eq!(store.article(expected.key()).await.unwrap().unwrap().article, expected);
    }
    verify(&*store).await;
    store.close().await.unwrap();
}
