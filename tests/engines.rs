//! The contract suite on every engine, and what one engine holds in another.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dateline::article::{ArticleDraft, Limits};
use dateline::backup::{BackupReader, BackupWriter};
use dateline::storage::memory::MemoryStore;
use dateline::storage::sled::SledStore;
use dateline::storage::{
    self, ArticleStore, ChangeRetention, Contents, Durability, FoundRevision, History, LogPlace, RevisionsRequest, SnapshotInfo,
    SnapshotItem, StoreError, StoreHealth, StoreOptions, Write, WriteBatch, contract,
};

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_engine_keeps_its_promises() {
    let store: Arc<dyn ArticleStore> = Arc::new(MemoryStore::new(StoreOptions::default()).unwrap());
    assert_eq!((store.identity().engine, store.identity().format_version), ("memory", 1));
    passes(&store).await;
    is_rebuilt(&*store, handed_over).await;
    closes(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sled_keeps_its_promises_and_its_articles() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let identity = store.identity();
    assert_eq!(identity.engine, "sled");
    passes(&store).await;
    let before = everything(&*store).await;
    closes(&store).await;
    drop(store);
    no_blobs(folder.path());

    let store = open(folder.path()).await;
    assert_eq!(store.identity(), identity);
    let after = everything(&*store).await;
    for article in &before {
        assert!(after.contains(article), "lost on reopening: {}", article.head.key);
    }
    // Closing was checked with one article of its own.
    assert_eq!(after.len(), before.len() + 1);
    passes(&store).await;
    is_rebuilt(&*store, through_a_backup).await;
    closes(&store).await;
    drop(store);
    no_blobs(folder.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn sled_keeps_its_promises_when_it_acknowledges_early() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let options = StoreOptions { durability: Durability::Interval, ..StoreOptions::default() };
    let opened = tokio::task::spawn_blocking(move || SledStore::open(&path, options)).await.unwrap();
    let store: Arc<dyn ArticleStore> = Arc::new(opened.unwrap());
    assert_eq!(store.identity().durability, Durability::Interval);
    for _ in 0..3 {
        passes(&store).await;
    }
    closes(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_engines_forget_streams_that_do_not_advance() {
    let options = StoreOptions { stream_expiry: Some(Duration::from_millis(300)), ..StoreOptions::default() };
    contract::check_stream_expiry(&MemoryStore::new(options).unwrap()).await.unwrap_or_else(|violation| panic!("{violation}"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let opened = tokio::task::spawn_blocking(move || SledStore::open(&path, options)).await.unwrap();
    let store: Arc<dyn ArticleStore> = Arc::new(opened.unwrap());
    contract::check_stream_expiry(&*store).await.unwrap_or_else(|violation| panic!("{violation}"));
    let mut step = store.verify(None).await.unwrap();
    while let Some(next) = step.next {
        assert_eq!(step.findings, []);
        step = store.verify(Some(next)).await.unwrap();
    }
    assert_eq!(step.findings, []);
    closes(&store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engines_keep_their_promises_where_less_of_the_past_is_kept() {
    for history in [History::Last(0), History::Last(2)] {
        let options = StoreOptions { history, ..StoreOptions::default() };
        let store: Arc<dyn ArticleStore> = Arc::new(MemoryStore::new(options).unwrap());
        past_passes(&store).await;
        closes(&store).await;

        let folder = tempfile::tempdir().unwrap();
        let store = open_with(folder.path(), options).await;
        assert_eq!(store.identity().history, history);
        past_passes(&store).await;
        is_rebuilt(&*store, through_a_backup).await;
        closes(&store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engines_keep_their_promises_where_the_change_log_is_trimmed() {
    for rebuild_time in [Duration::ZERO, Duration::from_secs(3600)] {
        let changes = ChangeRetention { count: Some(40), rebuild_time, ..ChangeRetention::default() };
        let options = StoreOptions { changes, ..StoreOptions::default() };
        let store: Arc<dyn ArticleStore> = Arc::new(MemoryStore::new(options).unwrap());
        trims(&store).await;
        closes(&store).await;

        let folder = tempfile::tempdir().unwrap();
        for durability in [Durability::Fsync, Durability::Interval] {
            let store = open_with(folder.path(), StoreOptions { durability, ..options }).await;
            trims(&store).await;
            let trimmed = store.trimmed();
            closes(&store).await;
            drop(store);
            // Opened to keep all, it goes on with a log that was trimmed.
            let store = open(folder.path()).await;
            assert!(store.trimmed().horizon >= trimmed.horizon && trimmed.removed > 0, "{:?} after {trimmed:?}", store.trimmed());
            is_rebuilt_trimmed(&store).await;
            store.close().await.unwrap();
        }
        // Compacted, it is the same log.
        let store = open(folder.path()).await;
        let before = (store.trimmed(), store.changes(LogPlace::after(0), usize::MAX).await.unwrap());
        store.close().await.unwrap();
        drop(store);
        let path = folder.path().to_owned();
        tokio::task::spawn_blocking(move || storage::compact(&path, |_| {})).await.unwrap().unwrap();
        let store = open(folder.path()).await;
        assert!((store.trimmed(), store.changes(LogPlace::after(0), usize::MAX).await.unwrap()) == before, "the log is another");
        store.close().await.unwrap();
    }
}

async fn trims(store: &Arc<dyn ArticleStore>) {
    if let Err(violation) = contract::check_trimming(Arc::clone(store)).await {
        panic!("{violation}");
    }
}

/// It holds what a store does that is built of its snapshot.
async fn is_rebuilt_trimmed(store: &Arc<dyn ArticleStore>) {
    let (info, items) = contract::snapshot_of(&**store).await.unwrap();
    let pages = through_a_backup(&info, items);
    let parent = tempfile::tempdir().unwrap();
    let place = parent.path().join("rebuilt");
    build(&place, pages, info.contents).await.unwrap();
    let rebuilt = open(&place).await;
    contract::check_rebuilt(&**store, &*rebuilt).await.unwrap();
    assert_eq!(rebuilt.trimmed(), store.trimmed());
    let mut cursor = None;
    loop {
        let step = rebuilt.verify(cursor).await.unwrap();
        assert_eq!(step.findings, []);
        cursor = step.next;
        if cursor.is_none() {
            break;
        }
    }
    closes(&rebuilt).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_many_after_a_change_of_the_setting_goes_with_the_next_updates() {
    let written = |number: u64| {
        let draft = ArticleDraft {
            date: "2024-05-01".into(),
            url: "https://example.com/a".into(),
            title: format!("{number}"),
            ..ArticleDraft::default()
        };
        draft.validate(&Limits::default()).unwrap()
    };
    let put = async |store: &dyn ArticleStore, numbers: std::ops::Range<u64>| {
        let writes = numbers.map(|number| Write::put(written(number))).collect();
        let outcome = store.write(WriteBatch { writes, stream: None }).await.unwrap();
        outcome.outcomes.into_iter().for_each(|outcome| drop(outcome.unwrap()));
    };
    let earlier = async |store: &dyn ArticleStore| store.stats().await.unwrap().contents.earlier_revisions;
    for count in [2, 0] {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).await;
        put(&*store, 0..250).await;
        assert_eq!(earlier(&*store).await, 249);
        store.close().await.unwrap();
        drop(store);
        let store = open_with(folder.path(), StoreOptions { history: History::Last(count), ..StoreOptions::default() }).await;
        assert_eq!(earlier(&*store).await, 249);
        for (number, left) in [(250, 150), (251, 51), (252, count), (253, count)] {
            put(&*store, number..number + 1).await;
            assert_eq!(earlier(&*store).await, left, "after update {number}");
            let heads = RevisionsRequest { key: written(0).key().clone(), before: None, limit: 1000, text_budget: 0 };
            let numbers: Vec<_> = store.revision_heads(&heads).await.unwrap().items.iter().map(|head| head.revision).collect();
            assert_eq!(numbers, (number + 1 - left..=number + 1).rev().collect::<Vec<_>>());
            assert_eq!(store.revision(written(0).key(), 1).await.unwrap(), FoundRevision::NotKept);
        }
        // Several updates at once.
        put(&*store, 254..300).await;
        assert_eq!(earlier(&*store).await, count);
        past_passes(&store).await;
        closes(&store).await;
    }
}

/// The items of a snapshot in pages that have nothing to do with those in which they came.
fn handed_over(_: &SnapshotInfo, items: Vec<SnapshotItem>) -> Vec<Vec<SnapshotItem>> {
    items.chunks(7).map(<[_]>::to_vec).collect()
}

/// The same items, written to a backup and read from it.
fn through_a_backup(info: &SnapshotInfo, items: Vec<SnapshotItem>) -> Vec<Vec<SnapshotItem>> {
    let mut writer = BackupWriter::begin(info).unwrap();
    items.iter().for_each(|item| writer.add(item).unwrap());
    writer.finish().unwrap();
    let backup = writer.take(usize::MAX);
    let mut reader = BackupReader::open(&backup[..]).unwrap();
    assert_eq!(reader.info(), info);
    std::iter::from_fn(|| reader.next_block().unwrap()).collect()
}

/// A new store that is built of a snapshot of this one holds the same, is another store, and works as one.
async fn is_rebuilt(store: &dyn ArticleStore, pages: fn(&SnapshotInfo, Vec<SnapshotItem>) -> Vec<Vec<SnapshotItem>>) {
    let (info, items) = contract::snapshot_of(store).await.unwrap();
    let pages = pages(&info, items);
    let parent = tempfile::tempdir().unwrap();
    let place = parent.path().join("rebuilt");

    let less = Contents { articles: info.contents.articles - 1, ..info.contents };
    let refused = build(&place, pages.clone(), less).await;
    assert!(matches!(refused, Err(StoreError::Damaged { .. })), "{refused:?}");
    assert_eq!(parent.path().read_dir().unwrap().count(), 0, "what does not become a store leaves nothing behind");
    build(&place, pages, info.contents).await.unwrap();

    let options = StoreOptions { history: store.identity().history, ..StoreOptions::default() };
    let rebuilt = open_with(&place, options).await;
    assert_ne!(rebuilt.identity().store_id, info.store_id);
    contract::check_rebuilt(store, &*rebuilt).await.unwrap();
    match options.history {
        History::All => passes(&rebuilt).await,
        History::Last(_) => past_passes(&rebuilt).await,
    }
    closes(&rebuilt).await;
    let again = build(&place, Vec::new(), Contents::default()).await;
    assert!(matches!(again, Err(StoreError::CannotOpen(_))), "{again:?}");
}

async fn build(place: &Path, pages: Vec<Vec<SnapshotItem>>, contents: Contents) -> Result<(), StoreError> {
    let place = place.to_owned();
    let built = tokio::task::spawn_blocking(move || {
        let mut builder = storage::build(&place, None)?;
        pages.into_iter().try_for_each(|page| builder.add(page))?;
        builder.finish(&contents)
    });
    built.await.unwrap()
}

async fn open(folder: &Path) -> Arc<dyn ArticleStore> {
    open_with(folder, StoreOptions::default()).await
}

async fn open_with(folder: &Path, options: StoreOptions) -> Arc<dyn ArticleStore> {
    let folder = folder.to_owned();
    let opened = tokio::task::spawn_blocking(move || SledStore::open(&folder, options)).await.unwrap();
    Arc::new(opened.unwrap())
}

async fn passes(store: &Arc<dyn ArticleStore>) {
    if let Err(violation) = contract::check_engine(Arc::clone(store)).await {
        panic!("{violation}");
    }
    assert_eq!(store.health(), StoreHealth::Serving);
}

async fn past_passes(store: &Arc<dyn ArticleStore>) {
    if let Err(violation) = contract::check_past(Arc::clone(store)).await {
        panic!("{violation}");
    }
}

async fn closes(store: &Arc<dyn ArticleStore>) {
    if let Err(violation) = contract::check_closing(&**store).await {
        panic!("{violation}");
    }
}

async fn everything(store: &dyn ArticleStore) -> Vec<dateline::article::StoredArticle> {
    use dateline::article::Filter;
    use dateline::storage::{Direction, ScanRequest};
    let mut found = Vec::new();
    let mut request = ScanRequest { filter: Filter::ALL, direction: Direction::Ascending, after: None, limit: 1000, text_budget: 1 << 20 };
    loop {
        let page = store.scan(&request).await.unwrap();
        found.extend(page.items);
        match page.next {
            Some(next) => request.after = Some(next),
            None => return found,
        }
    }
}

/// sled moves what is too large for a segment into a file of its own, and syncs none of those.
fn no_blobs(folder: &Path) {
    let blobs = std::fs::read_dir(folder.join("sled").join("blobs"));
    let names: Vec<_> = blobs.into_iter().flatten().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.is_empty(), "{names:?}");
}
