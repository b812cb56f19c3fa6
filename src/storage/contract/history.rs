//! Earlier revisions where not all are kept: those that are have consecutive numbers, and none is taken for another.

use std::sync::Arc;

use super::Violation;
use super::kit::{OrViolation as _, Site, batch, holds, same};
use super::revisions::{before, consistent, delete, made, write};
use crate::article::{ArticleKey, StoredArticle, Timestamp};
use crate::storage::{ArticleStore, FoundRevision, History, RevisionsRequest, Write};

pub async fn check(store: &Arc<dyn ArticleStore>) -> Result<(), Violation> {
    as_many_are_kept_as_it_says(&**store).await?;
    totals_count_what_is_kept(&**store).await
}

/// How many earlier revisions of so many are kept.
pub(super) fn kept_of(store: &dyn ArticleStore, earlier: u64) -> u64 {
    match store.identity().history {
        History::All => earlier,
        History::Last(count) => count.min(earlier),
    }
}

async fn numbers(store: &dyn ArticleStore, key: &ArticleKey) -> Result<Vec<u64>, Violation> {
    consistent(store, key).await?;
    let request = RevisionsRequest { key: key.clone(), before: None, limit: 100, text_budget: usize::MAX };
    let page = store.revision_heads(&request).await.or_violation("a page of heads of revisions")?;
    Ok(page.items.iter().map(|head| head.revision).collect())
}

async fn as_many_are_kept_as_it_says(store: &dyn ArticleStore) -> Result<(), Violation> {
    let site = Site::new()?;
    let key = site.article("/a", "x")?.key().clone();
    let first_life = made(store, &site, 9).await?;
    is_kept(store, &key, &first_life, 0).await?;
    write(store, delete(&key)).await?;
    same("a deletion takes every revision that is kept", &numbers(store, &key).await?, &Vec::new())?;
    for stored in &first_life {
        let found = store.revision(&key, stored.head.revision).await.or_violation("a revision can be asked for")?;
        same("of a deleted article it is not told what was kept", &found, &FoundRevision::Missing)?;
    }
    let second_life = made(store, &site, 5).await?;
    is_kept(store, &key, &second_life, 11).await?;

    // Many in one batch, some before a deletion in it and some after.
    let texts: Vec<_> = (0..8).map(|number| site.article("/a", &format!("in one batch {number}"))).collect::<Result<_, _>>()?;
    let (earlier, later) = texts.split_at(3);
    let puts = |articles: &[crate::article::Article]| articles.iter().cloned().map(Write::put).collect::<Vec<_>>();
    let writes = puts(earlier).into_iter().chain([delete(&key)]).chain(puts(later));
    let outcome = store.write(batch(writes)).await.or_violation("a batch of many revisions")?;
    let heads: Vec<_> = outcome.outcomes.into_iter().flatten().map(|written| written.head().clone()).collect();
    let last_life = heads.into_iter().skip(4).zip(later.iter().cloned());
    let last_life: Vec<_> = last_life.map(|(head, article)| StoredArticle { head, article }).collect();
    is_kept(store, &key, &last_life, 21).await?;
    let more = site.article("/a", "after the batch")?;
    let head = write(store, Write::put(more.clone())).await?;
    let last_life: Vec<_> = last_life.into_iter().chain([StoredArticle { head, article: more }]).collect();
    is_kept(store, &key, &last_life, 21).await
}

/// Of the revisions since an article was created, whose numbers follow the `deleted` ones, as many are kept as should be.
async fn is_kept(store: &dyn ArticleStore, key: &ArticleKey, life: &[StoredArticle], deleted: u64) -> Result<(), Violation> {
    let earlier = life.len() as u64 - 1;
    let kept = kept_of(store, earlier);
    let latest = deleted + earlier + 1;
    let expected: Vec<_> = (latest - kept..=latest).rev().collect();
    same("as many earlier revisions are kept as the history says", &numbers(store, key).await?, &expected)?;
    let dropped = kept < earlier;
    for stored in life {
        let head = &stored.head;
        let expected = if head.revision >= latest - kept { FoundRevision::Kept(Box::new(stored.clone())) } else { FoundRevision::NotKept };
        let found = store.revision(key, head.revision).await.or_violation("a revision can be asked for")?;
        same("a revision is found as it was, or told to be not kept", &found, &expected)?;
        let found = store.revision_as_of(key, head.update_time).await.or_violation("an instant can be asked for")?;
        same("as of its instant a revision is found, or told to be not kept", &found, &expected)?;
    }
    let (oldest, first) = (life.get((earlier - kept) as usize), life.first());
    for (stored, not_kept) in [(oldest, dropped), (first, false)] {
        let Some(stored) = stored else { continue };
        let instant = before(stored.head.update_time)?;
        let expected = if not_kept { FoundRevision::NotKept } else { FoundRevision::Missing };
        let found = store.revision_as_of(key, instant).await.or_violation("an instant can be asked for")?;
        same("what is not kept is never answered by a later revision", &found, &expected)?;
    }
    let found = store.revision_as_of(key, Timestamp::now().max(life[life.len() - 1].head.update_time)).await;
    same("now it is in its latest revision", &found.or_violation("now can be asked for")?.kept().as_ref(), &life.last())?;
    for number in [0, latest + 1] {
        let found = store.revision(key, number).await.or_violation("a revision can be asked for")?;
        same("what was never made is not told to be dropped", &found, &FoundRevision::Missing)?;
    }
    if deleted > 0 {
        // Numbers go on after a deletion: where some were dropped since, these cannot be told from those.
        let expected = if dropped { FoundRevision::NotKept } else { FoundRevision::Missing };
        same("what was deleted is not found", &store.revision(key, deleted).await.or_violation("a revision can be asked for")?, &expected)?;
    }
    Ok(())
}

async fn totals_count_what_is_kept(store: &dyn ArticleStore) -> Result<(), Violation> {
    let site = Site::new()?;
    let stats = async || store.stats().await.or_violation("a store tells what it holds");
    let before = stats().await?;
    for round in 0..7 {
        write(store, Write::put(site.article("/total", &format!("text {round}"))?)).await?;
    }
    let after = stats().await?;
    let kept = kept_of(store, 6);
    same(
        "the totals count the earlier revisions that are kept",
        &(after.contents.earlier_revisions - before.contents.earlier_revisions),
        &kept,
    )?;
    let grown = after.earlier_record_bytes.saturating_sub(before.earlier_record_bytes);
    let on_disk = store.identity().engine != "memory";
    holds("and their bytes, where there are records", (grown > 0) == (kept > 0 && on_disk), || {
        format!("{grown} bytes of {kept} revisions")
    })?;
    write(store, delete(site.article("/total", "x")?.key())).await?;
    let gone = stats().await?;
    let totals = |stats: &crate::storage::StoreStats| (stats.contents.earlier_revisions, stats.earlier_record_bytes);
    same("a deletion takes them out of the totals", &totals(&gone), &totals(&before))
}
