//! The change log and the totals follow every write, and no write that changed nothing.

use super::Violation;
use super::history::kept_of;
use super::kit::{OrViolation as _, Site, batch, holds, incompressible, same, sequence};
use super::pages::all_heads;
use crate::article::{Article, ArticleKey, Etag, Filter};
use crate::storage::{
    ArticleStore, Change, ChangeKind, Contents, CountRequest, GroupBy, LogPlace, Precondition, StoreStats, Write, WriteOutcome,
    WriteRefusal, Written,
};

pub async fn check(store: &dyn ArticleStore) -> Result<(), Violation> {
    one_batch_does_everything_in_order(store).await?;
    the_log_ends_where_it_says(store).await?;
    the_log_rebuilds_the_store(store).await?;
    totals_are_those_of_a_scan(store).await
}

fn put(article: &Article, precondition: Precondition) -> Write {
    Write::Put { article: Box::new(article.clone()), precondition }
}

fn delete(article: &Article, precondition: Precondition) -> Write {
    Write::Delete { key: article.key().clone(), precondition }
}

/// What became of a write: its kind and the revision.
fn told(outcome: &WriteOutcome) -> Result<(&'static str, u64), WriteRefusal> {
    outcome.as_ref().map_err(|refusal| *refusal).map(|written| match written {
        Written::Created(head) => ("created", head.revision),
        Written::Updated(head) => ("updated", head.revision),
        Written::Unchanged(head) => ("unchanged", head.revision),
        Written::Deleted(head) => ("deleted", head.revision),
    })
}

async fn contents(store: &dyn ArticleStore) -> Result<Contents, Violation> {
    Ok(stats(store).await?.contents)
}

async fn stats(store: &dyn ArticleStore) -> Result<StoreStats, Violation> {
    store.stats().await.or_violation("a store tells what it holds")
}

async fn changes(store: &dyn ArticleStore, after: u64, limit: usize) -> Result<Vec<Change>, Violation> {
    store.changes(LogPlace::after(after), limit).await.or_violation("the change log can be read")
}

async fn one_batch_does_everything_in_order(store: &dyn ArticleStore) -> Result<(), Violation> {
    use Precondition::{MustNotExist, None as Any};
    let site = Site::new()?;
    let promise = "each write of a batch sees those before it";
    let [a, b, c, e] =
        [incompressible(1, 70_000), "b".to_owned(), incompressible(2, 50_000), "e".to_owned()].map(|body| site.article("/one", &body));
    let (a, b, c, e) = (a?, b?, c?, e?);
    let (other, kept) = (site.article("/other", "other")?, [site.article("/kept", "1")?, site.article("/kept", "2")?]);
    store.write(batch([&a, &b, &kept[0], &kept[1]].map(|article| put(article, Any)))).await.or_violation(promise)?;

    let (before, sequence) = (contents(store).await?, sequence(store).await?);
    let of_a = Precondition::Etag(Etag { revision: 3, digest: a.digest() });
    let writes = [
        (delete(&b, Any), Ok(("deleted", 2))),
        (put(&a, Any), Ok(("created", 3))),
        (put(&a, Any), Ok(("unchanged", 3))),
        (put(&c, of_a), Ok(("updated", 4))),
        (put(&b, of_a), Err(WriteRefusal::EtagMismatch)),
        (put(&b, MustNotExist), Err(WriteRefusal::AlreadyExists)),
        (delete(&b, of_a), Err(WriteRefusal::EtagMismatch)),
        (delete(&b, MustNotExist), Err(WriteRefusal::AlreadyExists)),
        (delete(&b, Any), Ok(("deleted", 4))),
        (delete(&b, Any), Err(WriteRefusal::NotFound)),
        (put(&b, of_a), Err(WriteRefusal::NotFound)),
        (put(&e, MustNotExist), Ok(("created", 5))),
        (put(&other, Any), Ok(("created", 1))),
        (delete(&other, Any), Ok(("deleted", 1))),
        (delete(&other, MustNotExist), Err(WriteRefusal::NotFound)),
    ];
    let (writes, expected): (Vec<_>, Vec<_>) = writes.into_iter().unzip();
    let outcome = store.write(batch(writes)).await.or_violation(promise)?;
    same(promise, &outcome.outcomes.iter().map(told).collect::<Vec<_>>(), &expected)?;
    same("a batch of no stream has no position", &outcome.position, &None)?;

    let promise = "the change log holds every change of a batch, in order, and nothing else";
    let logged = changes(store, sequence, 100).await?;
    let found: Vec<_> =
        logged.iter().map(|change| (change.sequence - sequence, change.kind, &change.key, change.revision, change.digest)).collect();
    use ChangeKind::{Created, Deleted, Updated};
    let expected = [
        (Deleted, &b, 2),
        (Created, &a, 3),
        (Updated, &c, 4),
        (Deleted, &c, 4),
        (Created, &e, 5),
        (Created, &other, 1),
        (Deleted, &other, 1),
    ];
    let expected: Vec<_> =
        (1..).zip(expected).map(|(place, (kind, article, revision))| (place, kind, article.key(), revision, article.digest())).collect();
    same(promise, &found, &expected)?;
    for pair in [logged.get(..5), logged.get(5..)].into_iter().flatten().flat_map(|changes| changes.windows(2)) {
        let grows = pair.first().map(|change| change.commit_time) < pair.last().map(|change| change.commit_time);
        holds("the changes of one article have growing times", grows, || format!("{pair:?}"))?;
    }

    let found = store.article(e.key()).await.or_violation(promise)?;
    let head = found.as_ref().map(|found| &found.head);
    same("a head names the change that made it", &head.map(|head| head.sequence), &Some(sequence + 5))?;
    same("update_time is when the change was made", &head.map(|head| head.update_time), &logged.get(4).map(|change| change.commit_time))?;
    same("the last write of a batch stands", &found.map(|found| found.article), &Some(e.clone()))?;
    same("what a batch deleted is gone", &store.article(other.key()).await.or_violation(promise)?, &None)?;

    let after = contents(store).await?;
    let text_bytes = before.text_bytes - b.text_bytes() as u64 + e.text_bytes() as u64;
    let expected = Contents {
        articles: before.articles,
        // That of the first deletion; the one of `/kept` stays.
        earlier_revisions: before.earlier_revisions - kept_of(store, 1),
        last_sequence: sequence + 7,
        text_bytes,
        record_bytes: after.record_bytes,
        trimmed: after.trimmed,
    };
    same("the totals follow every write of a batch", &after, &expected)?;
    let outcome = store.write(batch([delete(&e, Any), delete(&kept[0], Any)])).await.or_violation(promise)?;
    same(promise, &outcome.outcomes.iter().map(told).collect::<Vec<_>>(), &vec![Ok(("deleted", 5)), Ok(("deleted", 2))])?;
    let after = contents(store).await?;
    let expected = (before.articles - 2, before.earlier_revisions - 2 * kept_of(store, 1), before.last_sequence + 9);
    same(
        "deleting takes an article and its revisions out of the totals",
        &(after.articles, after.earlier_revisions, after.last_sequence),
        &expected,
    )
}

async fn the_log_ends_where_it_says(store: &dyn ArticleStore) -> Result<(), Violation> {
    let site = Site::new()?;
    let promise = "the change log";
    let before = sequence(store).await?;
    let first = site.article("/log", "first")?;
    store.write(batch([put(&first, Precondition::None)])).await.or_violation(promise)?;
    let sequence = self::sequence(store).await?;
    same("a durable write is in the sequence that readers see", &sequence, &(before + 1))?;
    let mismatch = Precondition::Etag(Etag { revision: 9, digest: first.digest() });
    let nothing = [put(&first, Precondition::None), put(&first, mismatch), put(&first, Precondition::MustNotExist)];
    store.write(batch(nothing)).await.or_violation(promise)?;
    store.write(batch([])).await.or_violation(promise)?;
    same("a write that changes nothing is no change", &self::sequence(store).await?, &sequence)?;
    for after in [sequence, sequence + 1, u64::MAX - 1, u64::MAX] {
        same("after the last change comes nothing", &changes(store, after, 10).await?, &Vec::new())?;
    }
    same("a page of the log has at most as many changes as asked for", &changes(store, 0, 3).await?.len(), &3)?;
    same("a page of no changes is empty", &changes(store, 0, 0).await?, &Vec::new())
}

/// Applies the whole log to nothing, in pages, and compares that with what the store holds.
async fn the_log_rebuilds_the_store(store: &dyn ArticleStore) -> Result<(), Violation> {
    let mut rebuilt = std::collections::BTreeMap::<ArticleKey, Change>::new();
    let mut revisions = std::collections::BTreeMap::<ArticleKey, u64>::new();
    let mut last = 0;
    loop {
        let page = changes(store, last, 37).await?;
        if page.is_empty() {
            break;
        }
        for change in page {
            last += 1;
            same("the change log has no gap", &change.sequence, &last)?;
            let revision = revisions.entry(change.key.clone()).or_default();
            *revision += u64::from(change.kind != ChangeKind::Deleted);
            same("the changes of one article come in the order of its revisions", &change.revision, revision)?;
            let there = rebuilt.remove(&change.key);
            let later = there.as_ref().is_none_or(|before| before.commit_time < change.commit_time);
            holds("the changes of one article have growing times", later, || format!("{there:?}, then {change:?}"))?;
            same(
                "what is created was not there, and what is updated or deleted was",
                &there.is_some(),
                &(change.kind != ChangeKind::Created),
            )?;
            if change.kind != ChangeKind::Deleted {
                rebuilt.insert(change.key.clone(), change);
            }
        }
    }
    same("the log ends with the sequence that readers see", &last, &sequence(store).await?)?;
    let heads = all_heads(store, &Filter::ALL).await?;
    let stored: Vec<_> = heads.iter().map(|head| (&head.key, head.revision, head.digest, head.sequence, head.update_time)).collect();
    let logged: Vec<_> =
        rebuilt.values().map(|change| (&change.key, change.revision, change.digest, change.sequence, change.commit_time)).collect();
    let at = stored.iter().zip(&logged).take_while(|(stored, logged)| stored == logged).count();
    holds("the change log rebuilds what the store holds", stored == logged, || {
        format!("{:?} is stored, and {:?} logged", stored.get(at), logged.get(at))
    })
}

async fn totals_are_those_of_a_scan(store: &dyn ArticleStore) -> Result<(), Violation> {
    let stats = stats(store).await?;
    let heads = all_heads(store, &Filter::ALL).await?;
    same("the total of articles is that of a scan", &stats.contents.articles, &(heads.len() as u64))?;
    let text_bytes = heads.iter().map(|head| head.text_bytes).sum::<u64>();
    same("the total of text is that of a scan", &stats.contents.text_bytes, &text_bytes)?;
    same("the last sequence is the one that readers see", &stats.contents.last_sequence, &sequence(store).await?)?;
    let request = CountRequest { filter: Filter::ALL, group_by: GroupBy::Day(None), limit: usize::MAX };
    let days = store.count(&request).await.or_violation("a count by day")?;
    same("the total of days is that of a count", &stats.days, &(days.len() as u64))?;
    let span = heads.first().map(|head| head.key.date).zip(heads.last().map(|head| head.key.date));
    same("the span of dates is that of a scan", &stats.date_span, &span)
}
