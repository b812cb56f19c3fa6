//! Many writers at once: each write is decided by one order of all, and each writer's own order is kept.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::Violation;
use super::kit::{OrViolation as _, Site, batch, holds, same, sequence, unexpected};
use crate::article::ArticleKey;
use crate::storage::{ArticleStore, BatchOutcome, ChangeKind, LogPlace, Precondition, Write, WriteOutcome, WriteRefusal, Written};

const WRITERS: u64 = 16;
const WRITES: u64 = 25;

pub async fn check(store: Arc<dyn ArticleStore>) -> Result<(), Violation> {
    one_writer_is_kept_in_order(&*store).await?;
    dropped_outcomes_are_written(&*store).await?;
    one_creates_what_many_create(&store).await?;
    etags_lose_no_update(&store).await?;
    who_waits_sees_every_change(&store).await?;
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let store = Arc::clone(&store);
        writers.spawn(async move { one_writer_is_kept_in_order(&*store).await });
    }
    all_of(writers).await
}

async fn all_of(mut writers: JoinSet<Result<(), Violation>>) -> Result<(), Violation> {
    while let Some(done) = writers.join_next().await {
        done.or_violation("no writer panics")??;
    }
    Ok(())
}

fn only(outcome: BatchOutcome) -> Result<WriteOutcome, Violation> {
    let promise = "a batch has an outcome a write";
    let found = outcome.outcomes.len();
    let first = outcome.outcomes.into_iter().next().filter(|_| found == 1);
    first.ok_or_else(|| Violation::new(promise, format!("{found} outcomes of one write")))
}

/// Follows the log by waiting alone, while others write.
async fn who_waits_sees_every_change(store: &Arc<dyn ArticleStore>) -> Result<(), Violation> {
    let first = store.sequence();
    let last = first + WRITERS / 4 * WRITES;
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let store = Arc::clone(store);
        tasks.spawn(async move {
            let promise = "who waits sees every change, in order";
            let mut seen = first;
            while seen < last {
                let sequence = store.sequence_after(seen).await.or_violation(promise)?;
                holds("what is told can be read", sequence > seen && sequence <= store.sequence(), || format!("{sequence} after {seen}"))?;
                for change in store.changes(LogPlace::after(seen), 7).await.or_violation(promise)? {
                    seen += 1;
                    same(promise, &change.sequence, &seen)?;
                }
                holds(promise, seen > first, || format!("nothing after {seen}, though told of {sequence}"))?;
            }
            Ok(())
        });
    }
    for _ in 0..WRITERS / 4 {
        let store = Arc::clone(store);
        tasks.spawn(async move { one_writer_is_kept_in_order(&*store).await });
    }
    all_of(tasks).await
}

/// Submits without waiting for any outcome, and ends with the last.
async fn one_writer_is_kept_in_order(store: &dyn ArticleStore) -> Result<(), Violation> {
    let site = Site::new()?;
    let promise = "the writes of one writer are carried out in its order";
    let before = sequence(store).await?;
    let mut pending = Vec::new();
    for number in 0..WRITES {
        let write = Write::put(site.article("/ordered", &format!("text {number}"))?);
        pending.push(store.submit(batch([write])).await.or_violation(promise)?);
    }
    let mut key: Option<ArticleKey> = None;
    for (number, pending) in (1..).zip(pending) {
        let outcome = only(pending.await.or_violation(promise)?)?;
        let revision = outcome.as_ref().map(|written| written.head().revision);
        same(promise, &revision, &Ok(number))?;
        key = outcome.ok().map(|written| written.head().key.clone());
    }
    let Some(key) = key else { return Ok(()) };
    let last = store.article(&key).await.or_violation(promise)?;
    same("the last write stands", &last.map(|last| last.article), &Some(site.article("/ordered", &format!("text {}", WRITES - 1))?))?;
    let changes = store.changes(LogPlace::after(before), usize::MAX).await.or_violation(promise)?;
    let revisions: Vec<u64> = changes.iter().filter(|change| change.key == key).map(|change| change.revision).collect();
    same("the change log keeps a writer's order", &revisions, &(1..=WRITES).collect())
}

async fn dropped_outcomes_are_written(store: &dyn ArticleStore) -> Result<(), Violation> {
    let site = Site::new()?;
    let promise = "what was submitted is carried out, whether anybody waits or not";
    let article = site.article("/dropped", "nobody waits")?;
    drop(store.submit(batch([Write::put(article.clone())])).await.or_violation(promise)?);
    // This one comes after it.
    let last = site.article("/waited", "somebody waits")?;
    store.write(batch([Write::put(last)])).await.or_violation(promise)?;
    let found = store.article(article.key()).await.or_violation(promise)?;
    same(promise, &found.map(|found| found.article), &Some(article))
}

async fn one_creates_what_many_create(store: &Arc<dyn ArticleStore>) -> Result<(), Violation> {
    let site = Arc::new(Site::new()?);
    let before = sequence(&**store).await?;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let (store, site) = (Arc::clone(store), Arc::clone(&site));
        writers.spawn(async move {
            for number in 0..WRITES {
                let article = site.article(&format!("/{number}"), &format!("by {writer}"))?;
                let key = article.key().clone();
                let write = Write::Put { article: Box::new(article), precondition: Precondition::MustNotExist };
                let promise = "what must not exist is Created or refused as AlreadyExists";
                let outcome = only(store.write(batch([write])).await.or_violation(promise)?)?;
                let fits = matches!(&outcome, Err(WriteRefusal::AlreadyExists))
                    || matches!(&outcome, Ok(Written::Created(head)) if head.revision == 1);
                if !fits {
                    return Err(unexpected(promise, &key, &outcome));
                }
            }
            Ok(())
        });
    }
    all_of(writers).await?;
    let promise = "of many who create an article one does";
    let changes = store.changes(LogPlace::after(before), usize::MAX).await.or_violation(promise)?;
    let all_created = changes.iter().all(|change| change.kind == ChangeKind::Created && change.revision == 1);
    holds(promise, all_created && changes.len() as u64 == WRITES, || format!("{} changes for {WRITES} articles", changes.len()))
}

async fn etags_lose_no_update(store: &Arc<dyn ArticleStore>) -> Result<(), Violation> {
    const UPDATES: u64 = 5;
    let site = Arc::new(Site::new()?);
    let promise = "of writers who hold the same etag one gets through";
    let counter = |site: &Site, count: u64| site.article("/counter", &count.to_string());
    store.write(batch([Write::put(counter(&site, 0)?)])).await.or_violation(promise)?;
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        let (store, site) = (Arc::clone(store), Arc::clone(&site));
        writers.spawn(async move {
            let mut updates = 0;
            while updates < UPDATES {
                let current = store.article(counter(&site, 0)?.key()).await.or_violation(promise)?;
                let Some(current) = current else { return Err(Violation::new(promise, "the article is gone")) };
                let count: u64 = current.article.body().parse().or_violation(promise)?;
                let next = counter(&site, count + 1)?;
                let key = next.key().clone();
                let write = Write::Put { article: Box::new(next), precondition: Precondition::Etag(current.head.etag()) };
                match only(store.write(batch([write])).await.or_violation(promise)?)? {
                    Ok(Written::Updated(head)) if head.revision == current.head.revision + 1 => updates += 1,
                    Err(WriteRefusal::EtagMismatch) => {}
                    other => return Err(unexpected(promise, &key, &other)),
                }
            }
            Ok(())
        });
    }
    all_of(writers).await?;
    let last = store.article(counter(&site, 0)?.key()).await.or_violation(promise)?;
    let found = last.map(|last| (last.article.body().to_owned(), last.head.revision));
    same("no update is lost", &found, &Some(((WRITERS * UPDATES).to_string(), WRITERS * UPDATES + 1)))
}
