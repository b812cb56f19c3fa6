//! A change log that is trimmed: what goes and what stays, who is told that they miss something, and that the rest gives the store
//! whatever is written and trimmed meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Violation;
use super::kit::{OrViolation as _, Site, batch, holds, same, sequence};
use super::pages::all_heads;
use super::revisions::{delete, write};
use super::snapshots::{snapshot_of, verify};
use crate::article::{ArticleHead, ArticleKey, Filter};
use crate::storage::{ArticleStore, Change, ChangeKind, LogPlace, SnapshotItem, StoreError, Trimmed, Write};

/// How long trimming may take to come to what is beyond the retention.
const PATIENCE: Duration = Duration::from_secs(60);
/// Articles that are written over and over.
const ARTICLES: u64 = 12;
/// Changes of a page: few, so that a reading has many.
const PAGE: usize = 7;

/// Checks an engine that keeps a small number of changes. Nobody else may write to it meanwhile.
pub async fn check(store: &Arc<dyn ArticleStore>) -> Result<(), Violation> {
    let store = &**store;
    let count = store.identity().changes.count.ok_or_else(|| Violation::new("the engine under test trims its log", "it does not"))?;
    let site = Site::new()?;
    for round in 0..10 {
        rewrite(store, &site, round).await?;
    }
    let trimmed = settled(store, count).await?;
    what_stays_is_what_is_needed(store, &trimmed).await?;
    who_misses_something_is_told(store, &trimmed).await?;
    what_is_superseded_later_goes_at_once(store, &site).await?;
    readers_from_the_beginning_are_right(store, &site, count).await?;
    deletions_go_when_their_time_is_over(store, &site, count).await?;
    what_is_beyond_both_ends_is_no_place(store).await?;
    swept(store, count).await?;
    verify(store, None).await
}

/// Writes each article, deletes some, and creates some of those again.
async fn rewrite(store: &dyn ArticleStore, site: &Site, round: u64) -> Result<(), Violation> {
    for number in 0..ARTICLES {
        let article = site.article(&format!("/{number}"), &format!("text {round}"))?;
        let key = article.key().clone();
        let mut writes = vec![Write::put(article)];
        if (number + round).is_multiple_of(4) {
            writes.push(delete(&key));
        }
        store.write(batch(writes)).await.or_violation("an article is written")?;
    }
    Ok(())
}

/// What is trimmed once everything beyond the retention is.
async fn swept(store: &dyn ArticleStore, count: u64) -> Result<Trimmed, Violation> {
    let (begun, beyond) = (Instant::now(), sequence(store).await?.saturating_sub(count));
    loop {
        let trimmed = store.trimmed();
        let sane = trimmed.deletions <= trimmed.swept && trimmed.swept <= trimmed.horizon && trimmed.horizon <= beyond;
        holds("nothing within the retention is trimmed", sane, || format!("{trimmed:?} of {beyond}"))?;
        if trimmed.swept == beyond {
            return Ok(trimmed);
        }
        holds("what is beyond the retention is trimmed", begun.elapsed() < PATIENCE, || format!("{trimmed:?} of {beyond}"))?;
        tokio::time::sleep(Duration::from_millis(20)).await; // ok: looks again whether the condition holds, up to a deadline.
    }
}

/// The same once nothing is to go any more, as long as nobody writes.
async fn settled(store: &dyn ArticleStore, count: u64) -> Result<Trimmed, Violation> {
    let begun = Instant::now();
    loop {
        let trimmed = swept(store, count).await?;
        let all = store.changes(LogPlace::after(0), usize::MAX).await.or_violation("the whole log can be read")?;
        let waits = store.identity().changes.rebuild_time > PATIENCE;
        let deletions_are_gone = !all.iter().any(|change| change.kind == ChangeKind::Deleted && change.sequence <= trimmed.deletions);
        let counted = all.len() as u64 + trimmed.removed == sequence(store).await?;
        if counted && (waits || (trimmed.deletions == trimmed.swept && deletions_are_gone)) {
            return Ok(trimmed);
        }
        holds("deletions go after a while, and are counted", begun.elapsed() < PATIENCE, || format!("{trimmed:?}"))?;
        tokio::time::sleep(Duration::from_millis(20)).await; // ok: looks again whether the condition holds, up to a deadline.
    }
}

async fn page(store: &dyn ArticleStore, place: LogPlace) -> Result<Option<Vec<Change>>, Violation> {
    match store.changes(place, PAGE).await {
        Ok(page) => Ok(Some(page)),
        Err(StoreError::ChangesTrimmed) => Ok(None),
        Err(error) => Err(Violation::new("the change log can be read", error)),
    }
}

/// The changes from a place to the end; `None` where something was trimmed that whoever reads them needs.
async fn rest(store: &dyn ArticleStore, mut place: LogPlace) -> Result<Option<Vec<Change>>, Violation> {
    let mut changes = Vec::new();
    loop {
        let Some(page) = page(store, place).await? else { return Ok(None) };
        let Some(last) = page.last() else { return Ok(Some(changes)) };
        let grows = page.first().is_some_and(|first| first.sequence > place.after) && page.is_sorted_by_key(|change| change.sequence);
        holds("changes come in order", grows, || format!("{page:?}"))?;
        place.after = last.sequence;
        changes.extend(page);
    }
}

/// What somebody knows of articles who has read changes.
#[derive(Default)]
struct Known(BTreeMap<ArticleKey, Change>);

impl Known {
    fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change.kind {
                ChangeKind::Deleted => drop(self.0.remove(&change.key)),
                ChangeKind::Created | ChangeKind::Updated => drop(self.0.insert(change.key.clone(), change)),
            }
        }
    }

    /// Nobody may write meanwhile.
    async fn is_the_store(&self, promise: &str, store: &dyn ArticleStore) -> Result<(), Violation> {
        let heads = all_heads(store, &Filter::ALL).await?;
        let told = |head: &ArticleHead| (head.key.clone(), head.revision, head.digest, head.sequence, head.update_time);
        let known = |change: &Change| (change.key.clone(), change.revision, change.digest, change.sequence, change.commit_time);
        same(promise, &self.0.values().map(known).collect::<Vec<_>>(), &heads.iter().map(told).collect())
    }
}

async fn what_stays_is_what_is_needed(store: &dyn ArticleStore, trimmed: &Trimmed) -> Result<(), Violation> {
    let promise = "the log from the beginning is there whatever was trimmed";
    let changes = rest(store, trimmed.beginning()).await?.ok_or_else(|| Violation::new(promise, "it is not"))?;
    let last = sequence(store).await?;
    same("what is there and what was trimmed are all changes", &(changes.len() as u64 + trimmed.removed), &last)?;
    holds("something was trimmed", trimmed.removed > 0, || format!("{trimmed:?}"))?;
    let above: Vec<_> = changes.iter().map(|change| change.sequence).filter(|sequence| *sequence > trimmed.horizon).collect();
    same("every change after the horizon is there", &above, &(trimmed.horizon + 1..=last).collect())?;
    let latest: BTreeMap<_, _> = changes.iter().map(|change| (&change.key, change.sequence)).collect();
    let superseded = changes.iter().find(|change| change.sequence <= trimmed.swept && latest.get(&change.key) != Some(&change.sequence));
    same("up to what is swept no superseded change is there", &superseded, &None)?;
    let mut known = Known::default();
    known.apply(changes.clone());
    known.is_the_store("a trimmed log gives what the store holds", store).await?;
    let at_once = store.changes(LogPlace::after(0), usize::MAX).await.or_violation(promise)?;
    same("the whole log can be read in one page", &at_once, &changes)?;

    let (info, items) = snapshot_of(store).await?;
    let kept: Vec<_> =
        items.into_iter().filter_map(|item| if let SnapshotItem::Change(change) = item { Some(change) } else { None }).collect();
    same("a snapshot holds the changes that are there", &(kept, info.contents.trimmed), &(changes, *trimmed))
}

async fn who_misses_something_is_told(store: &dyn ArticleStore, trimmed: &Trimmed) -> Result<(), Violation> {
    let last = sequence(store).await?;
    for after in [1, trimmed.horizon / 2, trimmed.horizon - 1] {
        same("below the horizon the log cannot be followed", &page(store, LogPlace::after(after)).await?, &None)?;
    }
    let followed = rest(store, LogPlace::after(trimmed.horizon)).await?;
    let numbers = followed.map(|changes| changes.iter().map(|change| change.sequence).collect::<Vec<_>>());
    same("from the horizon on it can be, without a gap", &numbers, &Some((trimmed.horizon + 1..=last).collect()))?;
    let began_now = LogPlace { after: 1, begun: Some(trimmed.swept) };
    holds("who began at the beginning is served anywhere", page(store, began_now).await?.is_some(), || format!("{trimmed:?}"))
}

/// A change below the horizon that was the latest of its article until now.
async fn what_is_superseded_later_goes_at_once(store: &dyn ArticleStore, site: &Site) -> Result<(), Violation> {
    let count = store.identity().changes.count.unwrap_or_default();
    let in_time = store.identity().changes.rebuild_time > PATIENCE;
    let texts = ["first", "second", "third"].map(|text| site.article("/quiet", text));
    let [first, second, third] = texts;
    let (first, second, third) = (first?, second?, third?);
    let key = first.key().clone();
    let promise = "a change below the horizon goes when it is superseded";
    let all = async || {
        let all = store.changes(LogPlace::after(0), usize::MAX).await.or_violation(promise)?;
        Ok(all.into_iter().filter(|change| change.key == key).map(|change| change.sequence).collect::<Vec<_>>())
    };
    write(store, Write::put(first.clone())).await?;
    for next in [Write::put(second), Write::put(third), delete(&key), Write::put(first)] {
        let (before, mut round) = (sequence(store).await?, 100);
        while sequence(store).await? <= before + count {
            rewrite(store, site, round).await?;
            round += 1;
        }
        let trimmed = swept(store, count).await?;
        let (stays, deleted) = (all().await?, store.article(&key).await.or_violation(promise)?.is_none());
        // A deletion may go by itself.
        holds("until then it stays", stays == [before] || (deleted && !in_time && stays.is_empty()), || {
            format!("{stays:?}, not {before}")
        })?;
        write(store, next).await?;
        same(promise, &all().await?, &vec![sequence(store).await?])?;
        holds("and is counted", store.trimmed().removed > trimmed.removed || stays.is_empty(), || {
            format!("{:?} after {trimmed:?}", store.trimmed())
        })?;
    }
    Ok(())
}

/// Reads from the beginning, page by page, while much is written and trimmed between any two pages.
async fn readers_from_the_beginning_are_right(store: &dyn ArticleStore, site: &Site, count: u64) -> Result<(), Violation> {
    let (mut place, mut known, mut begun_again) = (store.trimmed().beginning(), Known::default(), 0);
    let mut round = 1000;
    loop {
        match page(store, place).await? {
            None => {
                // Whoever needs a deletion that is gone is told, and begins again.
                begun_again += 1;
                (place, known) = (store.trimmed().beginning(), Known::default());
            }
            Some(changes) => {
                let Some(last) = changes.last() else { break };
                place.after = last.sequence;
                known.apply(changes);
            }
        }
        if round < 1006 {
            rewrite(store, site, round).await?;
            swept(store, count).await?;
            round += 1;
        }
    }
    let in_time = store.identity().changes.rebuild_time > PATIENCE;
    holds("there is time to read from the beginning", begun_again == 0 || !in_time, || format!("begun again {begun_again} times"))?;
    known.is_the_store("whoever reads from the beginning while it is trimmed knows what the store holds", store).await
}

async fn deletions_go_when_their_time_is_over(store: &dyn ArticleStore, site: &Site, count: u64) -> Result<(), Violation> {
    let gone = site.article("/gone", "deleted later")?;
    write(store, Write::put(gone.clone())).await?;
    let created = sequence(store).await?;
    // Somebody has read until here.
    let reader = LogPlace { after: created, begun: Some(store.trimmed().swept) };
    write(store, delete(gone.key())).await?;
    let deleted = sequence(store).await?;
    let in_time = store.identity().changes.rebuild_time > PATIENCE;
    let begun = Instant::now();
    loop {
        rewrite(store, site, 2000 + u64::from(begun.elapsed().subsec_micros())).await?;
        let trimmed = swept(store, count).await?;
        if trimmed.swept < deleted || (trimmed.deletions < deleted && !in_time) {
            holds("deletions go after a while", begun.elapsed() < PATIENCE, || format!("{trimmed:?}, deleted with {deleted}"))?;
            continue;
        }
        break;
    }
    let there = |changes: Vec<Change>| changes.iter().any(|change| change.sequence == deleted);
    if in_time {
        let changes = rest(store, reader).await?.map(there);
        return same("a deletion stays for whoever has read what it deletes", &changes, &Some(true));
    }
    same("whoever misses a deletion is told", &rest(store, reader).await?, &None)?;
    let (begun, beginning) = (Instant::now(), LogPlace::after(0));
    while there(store.changes(beginning, usize::MAX).await.or_violation("the log can be read")?) {
        holds("an old deletion is gone", begun.elapsed() < PATIENCE, || format!("change {deleted} is there: {:?}", store.trimmed()))?;
        tokio::time::sleep(Duration::from_millis(20)).await; // ok: looks again whether the condition holds, up to a deadline.
    }
    let again = write(store, Write::put(gone)).await?;
    same("its number of revisions stays", &again.revision, &2)
}

async fn what_is_beyond_both_ends_is_no_place(store: &dyn ArticleStore) -> Result<(), Violation> {
    let last = sequence(store).await?;
    for place in [LogPlace::after(last), LogPlace::after(u64::MAX), LogPlace { after: last, begun: Some(0) }] {
        same("after the last change comes nothing", &page(store, place).await?, &Some(Vec::new()))?;
    }
    Ok(())
}
