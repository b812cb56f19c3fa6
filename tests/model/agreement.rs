//! Whether a store and the model agree: everything it holds, and random questions.

use std::collections::{BTreeMap, BTreeSet};

use dateline::article::{ArticleDate, ArticleHead, ArticleKey, Filter, StoredArticle, Timestamp};
use dateline::storage::{
    ArticleStore, Contents, CountRequest, CountedGroup, CountedHost, Direction, GroupBy, LogPlace, Page, ScanRequest, StoreStats, Trimmed,
};

use super::expected::{Changed, Model};
use super::operation::{Question, places};

/// Compares all that the store holds, and the answers to questions.
pub async fn check(store: &dyn ArticleStore, model: &Model, questions: &[Question]) {
    contents(store, model).await;
    changes(store, model).await;
    urls(store, model).await;
    for question in questions {
        scans(store, model, question).await;
        counts(store, model, question).await;
        lookups(store, model, question).await;
    }
    verified(store).await;
}

/// What nobody can ask for, such as the texts of earlier revisions, is whole too.
async fn verified(store: &dyn ArticleStore) {
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

async fn contents(store: &dyn ArticleStore, model: &Model) {
    let StoreStats { contents, days, date_span, .. } = store.stats().await.unwrap();
    let expected = Contents {
        articles: model.articles.len() as u64,
        earlier_revisions: model.articles.values().map(|kept| kept.earlier_revisions).sum(),
        last_sequence: model.sequence(),
        text_bytes: model.articles.values().map(|kept| kept.stored.article.text_bytes() as u64).sum(),
        // Nobody knows how well texts compress.
        record_bytes: contents.record_bytes,
        trimmed: Trimmed::default(),
    };
    assert_eq!(contents, expected);
    assert_eq!(contents.record_bytes == 0, model.articles.is_empty(), "{contents:?}");
    assert_eq!(store.sequence(), model.sequence());
    let dates: BTreeSet<ArticleDate> = model.articles.keys().map(|key| key.date).collect();
    assert_eq!((days, date_span), (dates.len() as u64, dates.first().copied().zip(dates.last().copied())));
}

async fn changes(store: &dyn ArticleStore, model: &Model) {
    let found = store.changes(LogPlace::after(0), usize::MAX).await.unwrap();
    let mut latest: BTreeMap<ArticleKey, Timestamp> = BTreeMap::new();
    for (change, sequence) in found.iter().zip(1..) {
        assert_eq!(change.sequence, sequence);
        let before = latest.insert(change.key.clone(), change.commit_time);
        assert!(before.is_none_or(|before| before < change.commit_time), "{change:?} is no newer than the change before it");
    }
    for (key, kept) in &model.articles {
        assert_eq!(latest.get(key), Some(&kept.stored.head.update_time), "{key}");
    }
    let middle = found.len() / 2;
    assert_eq!(
        store.changes(LogPlace::after(middle as u64), 2).await.unwrap(),
        found[middle..].iter().take(2).cloned().collect::<Vec<_>>()
    );
    let found =
        found.into_iter().map(|change| Changed { kind: change.kind, key: change.key, revision: change.revision, digest: change.digest });
    assert_eq!(found.collect::<Vec<_>>(), model.changes);
}

async fn urls(store: &dyn ArticleStore, model: &Model) {
    for key in places().map(|place| place.key()) {
        let dates = model.dates_of(&key);
        assert_eq!(store.article_dates(&key.url, usize::MAX).await.unwrap(), dates);
        assert_eq!(store.article_dates(&key.url, 1).await.unwrap(), dates[..dates.len().min(1)]);
        let latest = dates.first().map(|date| &*model.articles[&ArticleKey { date: *date, url: key.url.clone() }].stored);
        same(store.latest_article(&key.url).await.unwrap().as_ref(), latest);
    }
}

async fn scans(store: &dyn ArticleStore, model: &Model, question: &Question) {
    let Question { filter, direction, limit, text_budget, .. } = question;
    let mut expected: Vec<&StoredArticle> =
        model.articles.iter().filter(|(key, _)| filter.contains(key)).map(|(_, kept)| &*kept.stored).collect();
    if *direction == Direction::Descending {
        expected.reverse();
    }
    let mut request = ScanRequest { filter: filter.clone(), direction: *direction, after: None, limit: *limit, text_budget: *text_budget };
    let mut rest = expected.iter();
    loop {
        let Page { items, next } = store.scan(&request).await.unwrap();
        assert!(items.len() <= *limit, "{question:?}");
        let fits: usize = items.split_last().map_or(0, |(_, before)| before.iter().map(|found| found.article.text_bytes()).sum());
        assert!(fits <= *text_budget, "{question:?}: a page goes on after {fits} bytes");
        items.iter().for_each(|found| same(Some(found), rest.next().copied()));
        request.after = next;
        if request.after.is_none() {
            break;
        }
    }
    assert_eq!(rest.next().map(|missing| &missing.head.key), None, "{question:?}");

    let mut heads: Vec<ArticleHead> = Vec::new();
    loop {
        let Page { items, next } = store.scan_heads(&request).await.unwrap();
        assert!(items.len() <= *limit, "{question:?}");
        heads.extend(items);
        request.after = next;
        if request.after.is_none() {
            break;
        }
    }
    assert_eq!(heads, expected.iter().map(|stored| stored.head.clone()).collect::<Vec<_>>(), "{question:?}");
}

async fn counts(store: &dyn ArticleStore, model: &Model, question: &Question) {
    let keys: Vec<&ArticleKey> = model.articles.keys().filter(|key| question.filter.contains(key)).collect();
    let mut days: BTreeMap<ArticleDate, u64> = BTreeMap::new();
    let mut hosts: BTreeMap<CountedHost, (String, u64)> = BTreeMap::new();
    for key in &keys {
        *days.entry(key.date).or_default() += 1;
        hosts.entry(CountedHost::of(&key.url)).or_insert((key.url.host(), 0)).1 += 1;
    }
    let days: Vec<_> = days.into_iter().map(|(day, count)| (day.to_string(), count)).collect();
    let groupings = [
        (GroupBy::Total, vec![(String::new(), keys.len() as u64)]),
        (GroupBy::Day(None), days),
        (GroupBy::Host(None), hosts.into_values().collect()),
    ];
    for (group_by, expected) in groupings {
        assert_eq!(groups(store, &question.filter, group_by.clone(), question.limit).await, expected, "{group_by:?} {question:?}");
    }
}

/// The groups of a count, fetched in pages.
async fn groups(store: &dyn ArticleStore, filter: &Filter, mut group_by: GroupBy, limit: usize) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    loop {
        let page = store.count(&CountRequest { filter: filter.clone(), group_by: group_by.clone(), limit }).await.unwrap();
        assert!(page.len() <= limit);
        let full = page.len() == limit;
        for counted in page {
            let name = match counted.group {
                CountedGroup::Total => return vec![(String::new(), counted.count)],
                CountedGroup::Day(day) => {
                    group_by = GroupBy::Day(Some(day));
                    day.to_string()
                }
                CountedGroup::Host(host) => {
                    let name = host.host();
                    group_by = GroupBy::Host(Some(host));
                    name
                }
            };
            found.push((name, counted.count));
        }
        if !full {
            return found;
        }
    }
}

async fn lookups(store: &dyn ArticleStore, model: &Model, question: &Question) {
    let keys: Vec<ArticleKey> = question.places.iter().map(|place| place.key()).collect();
    let expected = |key: &ArticleKey| model.articles.get(key).map(|kept| &*kept.stored);
    let mut rest = &keys[..];
    while !rest.is_empty() {
        let results = store.articles(rest, question.text_budget).await.unwrap();
        assert!((1..=rest.len()).contains(&results.len()), "{question:?}: {} results", results.len());
        let (found, later) = rest.split_at(results.len());
        let mut text_bytes = 0;
        for (key, result) in found.iter().zip(results) {
            assert!(text_bytes <= question.text_budget, "{question:?}: a lookup goes on after {text_bytes} bytes");
            let article = result.unwrap();
            text_bytes += article.as_ref().map_or(0, |found| found.article.text_bytes());
            same(article.as_ref(), expected(key));
        }
        rest = later;
    }
    for key in &keys {
        same(store.article(key).await.unwrap().as_ref(), expected(key));
    }
}

/// Compares articles without printing their texts.
fn same(found: Option<&StoredArticle>, expected: Option<&StoredArticle>) {
    assert_eq!(found.map(|found| &found.head), expected.map(|expected| &expected.head));
    assert!(found == expected, "the text or the metadata of {:?} differ", found.map(|found| &found.head.key));
}
