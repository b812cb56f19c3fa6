//! The model test: random operations on the engine and on a map, which must agree after every one, also across restarts.
//!
//! A crash is what a SIGKILL leaves: the folder copied while the store is open, opened as it is. `PROPTEST_CASES` raises the
//! number of cases.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use dateline::article::{Article, ArticleDraft, ArticleKey, DateRange, Filter, Limits, UrlScope};
use dateline::storage::sled::SledStore;
use dateline::storage::{
    ArticleStore, ChangeKind, CountRequest, CountedGroup, Direction, GroupBy, Precondition, ScanRequest, Write, WriteBatch, Written,
};
use proptest::prelude::*;

const DATES: [&str; 3] = ["2024-05-01", "2024-05-02", "2025-01-31"];
const URLS: [&str; 5] =
    ["https://a.example/", "https://a.example/b", "https://news.a.example/", "https://a.example:8080/b", "https://b.example/x?y=z"];

#[derive(Debug, Clone)]
enum Operation {
    Put(Vec<(usize, usize, usize)>),
    Delete(usize, usize),
    Restart,
    Crash,
}

fn operation() -> impl Strategy<Value = Operation> {
    let put = (0..DATES.len(), 0..URLS.len(), 0..6usize);
    prop_oneof![
        8 => prop::collection::vec(put, 1..5).prop_map(Operation::Put),
        3 => (0..DATES.len(), 0..URLS.len()).prop_map(|(date, url)| Operation::Delete(date, url)),
        1 => Just(Operation::Restart),
        1 => Just(Operation::Crash),
    ]
}

/// One of a few texts, of which some do not compress and fill several pieces.
fn text(number: usize) -> String {
    let mut state = number as u64 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(33 + ((state >> 33) % 94) as u8)
    };
    (0..[1, 50, 3_000, 30_000, 70_000, 150_000][number]).map(|_| next()).collect()
}

fn article(date: usize, url: usize, number: usize) -> Article {
    let draft = ArticleDraft { date: DATES[date].into(), url: URLS[url].into(), body: text(number), ..ArticleDraft::default() };
    draft.validate(&Limits::default()).unwrap()
}

/// What the store should hold: every article with its revision, and the last revision of those that were deleted.
#[derive(Debug, Default)]
struct Model {
    articles: BTreeMap<ArticleKey, (Article, u64)>,
    deleted: BTreeMap<ArticleKey, u64>,
    changes: Vec<(ChangeKind, ArticleKey, u64)>,
}

impl Model {
    fn put(&mut self, article: Article) -> &'static str {
        let key = article.key().clone();
        let (revision, kind) = match self.articles.get(&key) {
            Some((stored, _)) if stored.digest() == article.digest() => return "unchanged",
            Some((_, revision)) => (revision + 1, ChangeKind::Updated),
            None => (self.deleted.remove(&key).map_or(1, |revision| revision + 1), ChangeKind::Created),
        };
        self.articles.insert(key.clone(), (article, revision));
        self.changes.push((kind, key, revision));
        if kind == ChangeKind::Created { "created" } else { "updated" }
    }

    fn delete(&mut self, key: &ArticleKey) -> bool {
        let Some((_, revision)) = self.articles.remove(key) else { return false };
        self.deleted.insert(key.clone(), revision);
        self.changes.push((ChangeKind::Deleted, key.clone(), revision));
        true
    }
}

async fn check(store: &dyn ArticleStore, model: &Model) {
    for direction in [Direction::Ascending, Direction::Descending] {
        for (scope, limit) in [
            (UrlScope::All, 3),
            (UrlScope::host("a.example").unwrap(), 1),
            (UrlScope::domain("a.example").unwrap(), 2),
            (UrlScope::url_prefix("https://a.example/b").unwrap(), 100),
        ] {
            let dates = DateRange { from: DATES[0].parse().unwrap(), to: DATES[1].parse().unwrap() };
            let filter = Filter { dates: if limit == 3 { DateRange::ALL } else { dates }, scope };
            let mut expected: Vec<_> =
                model.articles.iter().filter(|(key, _)| filter.contains(key)).map(|(_, article)| article.clone()).collect();
            if direction == Direction::Descending {
                expected.reverse();
            }
            let mut found = Vec::new();
            let mut request = ScanRequest { filter: filter.clone(), direction, after: None, limit, text_budget: 100_000 };
            loop {
                let page = store.scan(&request).await.unwrap();
                assert!(page.items.len() <= limit);
                found.extend(page.items.into_iter().map(|stored| (stored.article, stored.head.revision)));
                request.after = page.next;
                if request.after.is_none() {
                    break;
                }
            }
            assert_eq!(found, expected, "{filter:?} {direction:?}");
            for group_by in [GroupBy::Total, GroupBy::Day(None), GroupBy::Host(None)] {
                let counted = store.count(&CountRequest { filter: filter.clone(), group_by, limit: 1000 }).await.unwrap();
                assert_eq!(counted.iter().map(|group| group.count).sum::<u64>(), expected.len() as u64);
                assert!(counted.iter().all(|group| group.count > 0 || group.group == CountedGroup::Total));
            }
        }
    }
    let stats = store.stats().await.unwrap();
    assert_eq!(stats.contents.articles, model.articles.len() as u64);
    assert_eq!(stats.contents.text_bytes, model.articles.values().map(|(article, _)| article.text_bytes() as u64).sum::<u64>());
    let changes = store.changes(0, usize::MAX).await.unwrap();
    assert!(changes.iter().zip(1..).all(|(change, sequence)| change.sequence == sequence));
    let changes: Vec<_> = changes.into_iter().map(|change| (change.kind, change.key, change.revision)).collect();
    assert_eq!(changes, model.changes);
    for url in URLS {
        let url = dateline::article::CanonicalUrl::parse(url).unwrap();
        let dates: Vec<_> = model.articles.keys().rev().filter(|key| key.url == url).map(|key| key.date).collect();
        assert_eq!(store.article_dates(&url, 10).await.unwrap(), dates);
        let latest = store.latest_article(&url).await.unwrap().map(|stored| stored.head.key.date);
        assert_eq!(latest, dates.first().copied());
    }
}

async fn carry_out(operation: Operation, store: &Arc<SledStore>, model: &mut Model) {
    match operation {
        Operation::Put(puts) => {
            let articles: Vec<_> = puts.into_iter().map(|(date, url, number)| article(date, url, number)).collect();
            let writes = articles.iter().cloned().map(Write::put).collect();
            let outcomes = store.write(WriteBatch { writes, stream: None }).await.unwrap().outcomes;
            for (article, outcome) in articles.into_iter().zip(outcomes) {
                let outcome = match outcome.unwrap() {
                    Written::Created(_) => "created",
                    Written::Updated(_) => "updated",
                    Written::Unchanged(_) => "unchanged",
                    Written::Deleted(_) => "deleted",
                };
                assert_eq!(outcome, model.put(article));
            }
        }
        Operation::Delete(date, url) => {
            let key = article(date, url, 0).key().clone();
            let writes = vec![Write::Delete { key: key.clone(), precondition: Precondition::None }];
            let mut outcomes = store.write(WriteBatch { writes, stream: None }).await.unwrap().outcomes;
            assert_eq!(outcomes.remove(0).is_ok(), model.delete(&key));
            assert_eq!(store.article(&key).await.unwrap(), None);
        }
        Operation::Restart | Operation::Crash => {}
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    // In this order: a checkpoint that is taken meanwhile is then newer in sled than it says, which recovery is made for.
    let names: std::collections::BTreeSet<_> = from.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    for name in names {
        let (source, target) = (from.join(&name), to.join(&name));
        if source.is_dir() {
            copy(&source, &target);
        } else {
            std::fs::copy(source, target).unwrap();
        }
    }
}

async fn run(operations: Vec<Operation>) {
    let folder = tempfile::tempdir().unwrap();
    let mut path = folder.path().join("0");
    let mut store = Arc::new(SledStore::open(&path).unwrap());
    let mut model = Model::default();
    for (number, operation) in operations.into_iter().enumerate() {
        match operation {
            Operation::Restart => {
                store.close().await.unwrap();
                drop(store);
                store = Arc::new(SledStore::open(&path).unwrap());
            }
            Operation::Crash => {
                let copied = folder.path().join(format!("{}", number + 1));
                copy(&path, &copied);
                store.close().await.unwrap();
                path = copied;
                store = Arc::new(SledStore::open(&path).unwrap());
            }
            operation => carry_out(operation, &store, &mut model).await,
        }
        check(&*store, &model).await;
    }
    store.close().await.unwrap();
    assert!(!path.join("sled/blobs").read_dir().is_ok_and(|mut files| files.next().is_some()), "sled made a blob file");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_a_map_does(operations in prop::collection::vec(operation(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run(operations));
    }
}
