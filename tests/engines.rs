//! The contract suite on every engine.

use std::path::Path;
use std::sync::Arc;

use dateline::storage::contract;
use dateline::storage::memory::MemoryStore;
use dateline::storage::sled::SledStore;
use dateline::storage::{ArticleStore, StoreHealth, StoreOptions};

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_engine_keeps_its_promises() {
    let store: Arc<dyn ArticleStore> = Arc::new(MemoryStore::new().unwrap());
    assert_eq!((store.identity().engine, store.identity().format_version), ("memory", 1));
    passes(&store).await;
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
    closes(&store).await;
    drop(store);
    no_blobs(folder.path());
}

async fn open(folder: &Path) -> Arc<dyn ArticleStore> {
    let folder = folder.to_owned();
    let opened = tokio::task::spawn_blocking(move || SledStore::open(&folder, StoreOptions::default())).await.unwrap();
    Arc::new(opened.unwrap())
}

async fn passes(store: &Arc<dyn ArticleStore>) {
    if let Err(violation) = contract::check_engine(Arc::clone(store)).await {
        panic!("{violation}");
    }
    assert_eq!(store.health(), StoreHealth::Serving);
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
