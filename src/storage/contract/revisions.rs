//! Earlier revisions: by number, by time, page by page; and that a deletion leaves none.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::Violation;
use super::kit::{OrViolation as _, Site, batch, holds, same};
use crate::article::{Article, ArticleHead, ArticleKey, StoredArticle, Timestamp};
use crate::storage::{ArticleStore, History, Page, RevisionsRequest, Write};

/// Writes of each article while it is read.
const ROUNDS: usize = 60;

pub async fn check(store: &Arc<dyn ArticleStore>) -> Result<(), Violation> {
    if store.identity().history == History::All {
        every_revision_is_found(&**store).await?;
        a_deletion_leaves_none(&**store).await?;
    }
    revisions_agree_while_they_are_made(store).await
}

async fn revision(store: &dyn ArticleStore, key: &ArticleKey, revision: u64) -> Result<Option<StoredArticle>, Violation> {
    Ok(store.revision(key, revision).await.or_violation("a revision can be asked for")?.kept())
}

async fn as_of(store: &dyn ArticleStore, key: &ArticleKey, instant: Timestamp) -> Result<Option<StoredArticle>, Violation> {
    Ok(store.revision_as_of(key, instant).await.or_violation("an article can be asked for as of an instant")?.kept())
}

/// All revisions, fetched in pages, and the same heads apart.
async fn pages(store: &dyn ArticleStore, key: &ArticleKey, limit: usize, text_budget: usize) -> Result<Vec<StoredArticle>, Violation> {
    let (mut found, mut heads) = (Vec::new(), Vec::new());
    let mut request = RevisionsRequest { key: key.clone(), before: None, limit, text_budget };
    loop {
        let Page { items, next } = store.revisions(&request).await.or_violation("a page of revisions")?;
        holds("a page of revisions has at most as many as asked for", items.len() <= limit, || items.len().to_string())?;
        holds("only the last page of revisions may be empty", !items.is_empty() || next.is_none(), || format!("{request:?}"))?;
        let but_last = items.split_last().map_or(&[][..], |(_, rest)| rest);
        let bytes: usize = but_last.iter().map(|stored| stored.article.size()).sum();
        holds("a page ends after the revision that exceeds its budget", bytes <= text_budget, || bytes.to_string())?;
        same(
            "a page goes on before its last revision",
            &next.or(items.last().map(|last| last.head.revision)),
            &items.last().map(|last| last.head.revision),
        )?;
        found.extend(items);
        request.before = next;
        if next.is_none() {
            break;
        }
    }
    request.before = None;
    loop {
        let Page { items, next } = store.revision_heads(&request).await.or_violation("a page of heads of revisions")?;
        heads.extend(items);
        request.before = next;
        if next.is_none() {
            break;
        }
    }
    same("heads of revisions are those of the revisions", &heads, &found.iter().map(|stored| stored.head.clone()).collect())?;
    Ok(found)
}

pub(super) async fn write(store: &dyn ArticleStore, write: Write) -> Result<ArticleHead, Violation> {
    let promise = "an article is written to be read in its revisions";
    let outcome = store.write(batch([write])).await.or_violation(promise)?;
    let written = outcome.outcomes.into_iter().next().ok_or_else(|| Violation::new(promise, "it has no outcome"))?;
    written.map(|written| written.head().clone()).map_err(|refusal| Violation::new(promise, format!("{refusal:?}")))
}

pub(super) fn delete(key: &ArticleKey) -> Write {
    Write::Delete { key: key.clone(), precondition: crate::storage::Precondition::None }
}

pub(super) fn before(instant: Timestamp) -> Result<Timestamp, Violation> {
    Timestamp::from_micros(instant.as_micros() - 1).ok_or_else(|| Violation::new("there was a time before", instant))
}

/// Makes revisions of different lengths, one of them in the same batch as the next, and neighbours that must not be mixed in.
pub(super) async fn made(store: &dyn ArticleStore, site: &Site, count: usize) -> Result<Vec<StoredArticle>, Violation> {
    let text = |number: usize| format!("{number} {}", "text ".repeat(number * 53 % 400));
    let mut made = Vec::new();
    for number in 0..count {
        for neighbour in ["/", "/a/", "/ab", "/a?b=c"] {
            write(store, Write::put(site.article(neighbour, &text(number))?)).await?;
        }
        let article = site.article("/a", &text(number))?;
        let head = write(store, Write::put(article.clone())).await?;
        made.push(StoredArticle { head, article });
    }
    let articles: Vec<Article> = (0..2).map(|number| site.article("/a", &text(count + number))).collect::<Result<_, _>>()?;
    let outcome = store.write(batch(articles.iter().cloned().map(Write::put))).await.or_violation("two revisions in a batch")?;
    for (article, written) in articles.into_iter().zip(outcome.outcomes.into_iter().flatten()) {
        made.push(StoredArticle { head: written.head().clone(), article });
    }
    Ok(made)
}

async fn every_revision_is_found(store: &dyn ArticleStore) -> Result<(), Violation> {
    let site = Site::new()?;
    let made = made(store, &site, 9).await?;
    let key = site.article("/a", "x")?.key().clone();
    let numbers: Vec<_> = made.iter().map(|stored| stored.head.revision).collect();
    same("revisions are numbered one by one", &numbers, &(1..=11).collect())?;
    for expected in &made {
        let promise = "a revision is found by its number, as it was";
        same(promise, &revision(store, &key, expected.head.revision).await?.as_ref(), &Some(expected))?;
        let promise = "an article is found as of the instant of its revision";
        same(promise, &as_of(store, &key, expected.head.update_time).await?.as_ref(), &Some(expected))?;
        let earlier = made.iter().find(|stored| stored.head.revision + 1 == expected.head.revision);
        let promise = "just before, it is found in the revision before";
        same(promise, &as_of(store, &key, before(expected.head.update_time)?).await?.as_ref(), &earlier)?;
    }
    for number in [0, 12, 13, u64::MAX] {
        same("a revision that was never made is not found", &revision(store, &key, number).await?, &None)?;
    }
    let latest = made.last();
    same(
        "later it is found in the latest revision",
        &as_of(store, &key, Timestamp::now().max(latest_time(&made)?)).await?.as_ref(),
        &latest,
    )?;
    let (first, last) = ("0001-01-01T00:00:00Z", "9999-12-30T22:00:00Z");
    same("at the end of time too", &as_of(store, &key, instant(last)?).await?.as_ref(), &latest)?;
    same("at the beginning of time there is nothing", &as_of(store, &key, instant(first)?).await?, &None)?;

    let newest_first: Vec<_> = made.into_iter().rev().collect();
    for (limit, text_budget) in [(1, usize::MAX), (4, usize::MAX), (11, usize::MAX), (1000, usize::MAX), (1000, 0), (1000, 1500)] {
        same("pages give every revision, newest first", &pages(store, &key, limit, text_budget).await?, &newest_first)?;
    }
    for (before, expected) in [(1, 0), (0, 0), (2, 1), (u64::MAX, 11)] {
        let request = RevisionsRequest { key: key.clone(), before: Some(before), limit: 100, text_budget: usize::MAX };
        let page = store.revisions(&request).await.or_violation("a page of revisions")?;
        same("a page begins before the revision that the request names", &(page.items.len(), page.next), &(expected, None))?;
    }
    let missing = site.article("/missing", "x")?.key().clone();
    same("what was never stored has no revision", &revision(store, &missing, 1).await?, &None)?;
    same("and was at no time there", &as_of(store, &missing, Timestamp::now()).await?, &None)?;
    same("and has no page", &pages(store, &missing, 10, usize::MAX).await?, &Vec::new())
}

fn instant(text: &str) -> Result<Timestamp, Violation> {
    text.parse().or_violation("the instant of the check is one")
}

fn latest_time(made: &[StoredArticle]) -> Result<Timestamp, Violation> {
    made.last().map(|stored| stored.head.update_time).ok_or_else(|| Violation::new("revisions were made", "none"))
}

async fn a_deletion_leaves_none(store: &dyn ArticleStore) -> Result<(), Violation> {
    let site = Site::new()?;
    let made = made(store, &site, 3).await?;
    let key = site.article("/a", "x")?.key().clone();
    write(store, delete(&key)).await?;
    let gone = |promise: &'static str| {
        let (made, key) = (&made, &key);
        async move {
            for stored in made {
                same(promise, &revision(store, key, stored.head.revision).await?, &None)?;
                same(promise, &as_of(store, key, stored.head.update_time).await?, &None)?;
            }
            Ok(())
        }
    };
    gone("a deletion takes every revision, and the past").await?;
    same("a deleted article has no page of revisions", &pages(store, &key, 10, usize::MAX).await?, &Vec::new())?;

    let mut again = Vec::new();
    for text in ["created again", "and updated"] {
        let article = site.article("/a", text)?;
        let head = write(store, Write::put(article.clone())).await?;
        again.push(StoredArticle { head, article });
    }
    gone("created again, an article has none of the revisions before").await?;
    for expected in &again {
        same("and has those since", &revision(store, &key, expected.head.revision).await?.as_ref(), &Some(expected))?;
        same("and is found as of them", &as_of(store, &key, expected.head.update_time).await?.as_ref(), &Some(expected))?;
    }
    again.reverse();
    same("pages give those since", &pages(store, &key, 1, usize::MAX).await?, &again)?;
    // Deleted, created and updated in one batch: nothing of what was before stays.
    let articles = ["third life", "its second text"].map(|text| site.article("/a", text));
    let [first, second] = articles;
    let (first, second) = (first?, second?);
    let writes = [Write::put(site.article("/a", "last of the second life")?), delete(&key), Write::put(first), Write::put(second)];
    store.write(batch(writes)).await.or_violation("a batch with a deletion")?;
    let found: Vec<_> = pages(store, &key, 10, usize::MAX).await?.iter().map(|stored| stored.head.revision).collect();
    same("a deletion within a batch takes what the batch added before it", &found, &vec![10, 9])
}

/// One writes, deletes and creates again; others read meanwhile: what they find is always a revision as it was made.
async fn revisions_agree_while_they_are_made(store: &Arc<dyn ArticleStore>) -> Result<(), Violation> {
    let site = Site::new()?;
    let key = site.article("/a", "x")?.key().clone();
    let (done, reading) = tokio::sync::watch::channel(false);
    let mut readers = JoinSet::new();
    for _ in 0..3 {
        let (store, key, reading) = (Arc::clone(store), key.clone(), reading.clone());
        readers.spawn(async move {
            while !*reading.borrow() {
                consistent(&*store, &key).await?;
                tokio::task::yield_now().await;
            }
            Ok::<_, Violation>(())
        });
    }
    for round in 0..ROUNDS {
        write(&**store, Write::put(site.article("/a", &format!("text {round}"))?)).await?;
        if round % 7 == 6 {
            write(&**store, delete(&key)).await?;
        }
    }
    done.send_replace(true);
    while let Some(read) = readers.join_next().await {
        read.or_violation("no reader panics")??;
    }
    Ok(())
}

pub(super) async fn consistent(store: &dyn ArticleStore, key: &ArticleKey) -> Result<(), Violation> {
    let request = RevisionsRequest { key: key.clone(), before: None, limit: 100, text_budget: usize::MAX };
    let page = store.revisions(&request).await.or_violation("revisions can be read while others are made")?;
    let numbers: Vec<_> = page.items.iter().map(|stored| stored.head.revision).collect();
    let expected: Vec<_> = numbers.first().map(|&latest| (0..numbers.len() as u64).map(|back| latest - back).collect()).unwrap_or_default();
    same("the revisions of a page are consecutive", &numbers, &expected)?;
    for stored in &page.items {
        same("a revision has the digest of its text", &stored.head.digest, &stored.article.digest())?;
        for found in [revision(store, key, stored.head.revision).await?, as_of(store, key, stored.head.update_time).await?] {
            // Deleted meanwhile, or the same as before.
            holds("a revision never changes", found.as_ref().is_none_or(|found| found == stored), || {
                format!("{found:?}, before {stored:?}")
            })?;
        }
    }
    Ok(())
}
