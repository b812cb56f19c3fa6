//! Snapshots and verification while others write: a snapshot is the store at one point of its changes, and a healthy store has
//! no findings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Violation;
use super::history::kept_of;
use super::kit::{OrViolation as _, Site, batch, holds, same, sequence};
use crate::article::{ArticleKey, Digest, Timestamp};
use crate::storage::{
    ArticleStore, Change, ChangeKind, Contents, History, LogPlace, Precondition, SnapshotInfo, SnapshotItem, StoreError, StoreId,
    StreamAdvance, Write, WriteBatch,
};

/// Those who write while a snapshot is read, and to how many articles each.
const WRITERS: u64 = 4;
const ARTICLES: u64 = 20;
/// Rounds that all of them together write for each page that is read: some before, some meanwhile.
const ROUNDS: u64 = 5 * WRITERS;
/// How long a write may take.
const PATIENCE: Duration = Duration::from_secs(60);

pub async fn check(store: Arc<dyn ArticleStore>) -> Result<(), Violation> {
    a_snapshot_holds_what_was_acknowledged(&*store).await?;
    there_is_one_snapshot_at_a_time(&*store).await?;
    let writers = Writers::start(&store)?;
    let snapshot = read_beside(&*store, &writers).await;
    let verified = verify(&*store, Some(&writers)).await;
    let streams = writers.stop().await?;
    let (info, items) = snapshot?;
    verified?;
    it_is_the_store_at_one_point(&*store, &info, &items).await?;
    its_streams_are_where_their_articles_are(&items, &streams)?;
    verify(&*store, None).await
}

/// See [`snapshot_of`](super::snapshot_of).
pub async fn snapshot_of(store: &dyn ArticleStore) -> Result<(SnapshotInfo, Vec<SnapshotItem>), Violation> {
    let promise = "a snapshot can be taken and read to its end";
    let mut snapshot = store.snapshot().await.or_violation(promise)?;
    let mut items = Vec::new();
    while let Some(page) = snapshot.next_page().await.or_violation(promise)? {
        holds("a page of a snapshot holds something", !page.is_empty(), || "it is empty".to_owned())?;
        items.extend(page);
    }
    same("after its end a snapshot gives nothing", &snapshot.next_page().await.or_violation(promise)?, &None)?;
    let info = *snapshot.info();
    in_order(&items)?;
    totals_are_those_of_the_items(&info, &items)?;
    Ok((info, items))
}

/// See [`check_rebuilt`](super::check_rebuilt).
pub async fn check_rebuilt(original: &dyn ArticleStore, rebuilt: &dyn ArticleStore) -> Result<(), Violation> {
    let promise = "a store that is built of a snapshot holds what it holds";
    let ((original, expected), (rebuilt, found)) = (snapshot_of(original).await?, snapshot_of(rebuilt).await?);
    let differs = found.iter().zip(&expected).position(|(found, expected)| found != expected);
    holds(promise, differs.is_none() && found.len() == expected.len(), || {
        let at = differs.unwrap_or(found.len().min(expected.len()));
        format!("{} items instead of {}; number {at} is {:?} instead of {:?}", found.len(), expected.len(), found.get(at), expected.get(at))
    })?;
    // How large records are is each engine's own matter.
    same(promise, &rebuilt.contents, &Contents { record_bytes: rebuilt.contents.record_bytes, ..original.contents })
}

/// What all items of a kind, and the kinds, are ordered by.
fn place(item: &SnapshotItem) -> (u8, Option<&ArticleKey>, u64, &str) {
    match item {
        SnapshotItem::Article(stored) => (0, Some(&stored.head.key), 0, ""),
        SnapshotItem::EarlierRevision(stored) => (1, Some(&stored.head.key), stored.head.revision, ""),
        SnapshotItem::Tombstone { key, .. } => (2, Some(key), 0, ""),
        SnapshotItem::Change(change) => (3, None, change.sequence, ""),
        SnapshotItem::Stream { id, .. } => (4, None, 0, id.as_str()),
    }
}

fn in_order(items: &[SnapshotItem]) -> Result<(), Violation> {
    for pair in items.windows(2) {
        let [before, after] = pair else { continue };
        let ordered = place(before) < place(after);
        holds("the items of a snapshot come in order, each once", ordered, || format!("{before:?}, then {after:?}"))?;
    }
    Ok(())
}

fn totals_are_those_of_the_items(info: &SnapshotInfo, items: &[SnapshotItem]) -> Result<(), Violation> {
    let mut found = Contents { record_bytes: info.contents.record_bytes, trimmed: info.contents.trimmed, ..Contents::default() };
    for item in items {
        match item {
            SnapshotItem::Article(stored) => {
                found.articles += 1;
                found.text_bytes += stored.article.text_bytes() as u64;
            }
            SnapshotItem::EarlierRevision(_) => found.earlier_revisions += 1,
            SnapshotItem::Change(change) => found.last_sequence = change.sequence,
            SnapshotItem::Tombstone { .. } | SnapshotItem::Stream { .. } => {}
        }
    }
    same("a snapshot's totals are those of its items", &found, &info.contents)
}

async fn a_snapshot_holds_what_was_acknowledged(store: &dyn ArticleStore) -> Result<(), Violation> {
    let (site, promise) = (Site::new()?, "a snapshot holds every write whose outcome was given before");
    let (first, second) = (site.article("/snapshot", "first")?, site.article("/snapshot", "second")?);
    let gone = site.article("/gone", "deleted")?;
    store.write(batch([Write::put(first.clone()), Write::put(second.clone()), Write::put(gone.clone())])).await.or_violation(promise)?;
    let delete = Write::Delete { key: gone.key().clone(), precondition: Precondition::None };
    store.write(batch([delete])).await.or_violation(promise)?;
    let (sequence, contents) = (sequence(store).await?, store.stats().await.or_violation(promise)?.contents);
    let before = Timestamp::now();
    let (info, items) = snapshot_of(store).await?;
    same("a snapshot is taken when it is asked for", &(info.create_time >= before && info.create_time <= Timestamp::now()), &true)?;
    same("a snapshot names its store", &info.store_id, &store.identity().store_id)?;
    same("a snapshot has the totals of the store", &(info.contents, info.contents.last_sequence), &(contents, sequence))?;
    let of_site = |key: &ArticleKey| key.url == gone.key().url || key.url == first.key().url;
    let found: Vec<_> = items
        .iter()
        .filter_map(|item| match item {
            SnapshotItem::Article(stored) if of_site(&stored.head.key) => Some(format!("article {}", stored.article.body())),
            SnapshotItem::EarlierRevision(stored) if of_site(&stored.head.key) => Some(format!("earlier {}", stored.article.body())),
            SnapshotItem::Tombstone { key, revision, .. } if of_site(key) => Some(format!("tombstone {revision}")),
            SnapshotItem::Change(change) if of_site(&change.key) => Some(format!("{:?} {}", change.kind, change.revision)),
            _ => None,
        })
        .collect();
    let changes = ["Created 1", "Updated 2", "Created 1", "Deleted 1"];
    let earlier = (kept_of(store, 1) > 0).then_some("earlier first");
    let expected: Vec<_> = ["article second"].into_iter().chain(earlier).chain(["tombstone 1"]).chain(changes).map(str::to_owned).collect();
    same(promise, &found, &expected)?;
    let stored = store.article(second.key()).await.or_violation(promise)?.map(Box::new).map(SnapshotItem::Article);
    holds("a snapshot's article is the one that is read", stored.is_some_and(|stored| items.contains(&stored)), || "it is not".to_owned())
}

async fn there_is_one_snapshot_at_a_time(store: &dyn ArticleStore) -> Result<(), Violation> {
    let promise = "there is one snapshot at a time";
    let mut snapshot = store.snapshot().await.or_violation(promise)?;
    let busy = |second: Result<_, StoreError>| match second {
        Err(StoreError::SnapshotBusy) => Ok(()),
        Err(error) => Err(Violation::new(promise, format!("a second one failed with: {error}"))),
        Ok(_) => Err(Violation::new(promise, "there is a second one")),
    };
    busy(store.snapshot().await)?;
    // One that was read in part, and one that was not read at all.
    snapshot.next_page().await.or_violation(promise)?;
    busy(store.snapshot().await)?;
    drop(snapshot);
    for _ in 0..2 {
        drop(store.snapshot().await.or_violation("a snapshot that is dropped lets go")?);
    }
    Ok(())
}

/// Reads a snapshot while others write, at least once between any two pages.
async fn read_beside(store: &dyn ArticleStore, writers: &Writers) -> Result<(SnapshotInfo, Vec<SnapshotItem>), Violation> {
    let promise = "a snapshot can be taken and read while others write";
    writers.write(store).await?;
    let mut snapshot = store.snapshot().await.or_violation(promise)?;
    let mut items = Vec::new();
    loop {
        writers.write(store).await?;
        match snapshot.next_page().await.or_violation(promise)? {
            Some(page) => items.extend(page),
            None => break,
        }
    }
    let info = *snapshot.info();
    in_order(&items)?;
    totals_are_those_of_the_items(&info, &items)?;
    Ok((info, items))
}

/// What the changes up to some point leave behind.
#[derive(Debug, Default, PartialEq)]
struct Replayed {
    /// Revision, digest, number of the change, time.
    articles: BTreeMap<ArticleKey, (u64, Digest, u64, Timestamp)>,
    earlier: BTreeMap<(ArticleKey, u64), (Digest, u64, Timestamp)>,
    /// Revision, number of the change, time.
    tombstones: BTreeMap<ArticleKey, (u64, u64, Timestamp)>,
}

impl Replayed {
    fn apply(&mut self, change: Change) {
        let Change { sequence, kind, key, revision, digest, commit_time } = change;
        let before = self.articles.remove(&key);
        if kind == ChangeKind::Deleted {
            self.earlier.retain(|(earlier, _), _| *earlier != key);
            self.tombstones.insert(key, (revision, sequence, commit_time));
            return;
        }
        if let Some((revision, digest, sequence, time)) = before {
            self.earlier.insert((key.clone(), revision), (digest, sequence, time));
        }
        self.tombstones.remove(&key);
        self.articles.insert(key, (revision, digest, sequence, commit_time));
    }

    fn of(items: &[SnapshotItem]) -> Self {
        let mut held = Self::default();
        for item in items {
            match item {
                SnapshotItem::Article(stored) => {
                    let head = &stored.head;
                    let told = (head.revision, stored.article.digest(), head.sequence, head.update_time);
                    held.articles.insert(head.key.clone(), told);
                }
                SnapshotItem::EarlierRevision(stored) => {
                    let head = &stored.head;
                    let told = (stored.article.digest(), head.sequence, head.update_time);
                    held.earlier.insert((head.key.clone(), head.revision), told);
                }
                SnapshotItem::Tombstone { key, revision, sequence, delete_time } => {
                    held.tombstones.insert(key.clone(), (*revision, *sequence, *delete_time));
                }
                SnapshotItem::Change(_) | SnapshotItem::Stream { .. } => {}
            }
        }
        held
    }
}

async fn it_is_the_store_at_one_point(store: &dyn ArticleStore, info: &SnapshotInfo, items: &[SnapshotItem]) -> Result<(), Violation> {
    let promise = "a snapshot is the store at one point of its changes";
    let last = info.contents.last_sequence;
    let later = sequence(store).await? > last;
    holds("writing goes on while a snapshot is read", later, || format!("the last change is still {last}"))?;
    let mut logged = store.changes(LogPlace::after(0), usize::try_from(last).unwrap_or(usize::MAX)).await.or_violation(promise)?;
    logged.retain(|change| change.sequence <= last);
    let held: Vec<_> = items.iter().filter_map(|item| if let SnapshotItem::Change(change) = item { Some(change) } else { None }).collect();
    let alike = held.iter().zip(&logged).take_while(|(held, logged)| **held == *logged).count();
    holds("a snapshot holds the change log up to its point", alike == held.len() && alike == logged.len(), || {
        format!(
            "{} changes instead of {}; number {alike} is {:?} instead of {:?}",
            held.len(),
            logged.len(),
            held.get(alike),
            logged.get(alike)
        )
    })?;
    let mut expected = Replayed::default();
    logged.into_iter().for_each(|change| expected.apply(change));
    let found = Replayed::of(items);
    same(promise, &found.articles, &expected.articles)?;
    same(promise, &found.tombstones, &expected.tombstones)?;
    if let History::Last(count) = store.identity().history {
        let kept = |key: &ArticleKey, revision: u64| expected.articles.get(key).is_some_and(|(latest, ..)| revision + count >= *latest);
        let earlier = std::mem::take(&mut expected.earlier);
        expected.earlier = earlier.into_iter().filter(|((key, revision), _)| kept(key, *revision)).collect();
    }
    same(promise, &found.earlier, &expected.earlier)?;
    Ok(())
}

/// Item `n` of a stream created article `/n` of its site.
fn its_streams_are_where_their_articles_are(items: &[SnapshotItem], streams: &[WrittenStream]) -> Result<(), Violation> {
    let promise = "a snapshot has each ingest stream where its articles are";
    for WrittenStream { id, host } in streams {
        let articles = items.iter().filter(|item| matches!(item, SnapshotItem::Article(stored) if stored.head.key.url.host() == *host));
        let position = items.iter().find_map(|item| match item {
            SnapshotItem::Stream { id: found, position } if found.as_str() == id => Some(position.next_item),
            _ => None,
        });
        same(promise, &position.unwrap_or(0), &(articles.count() as u64))?;
    }
    Ok(())
}

/// Looks at everything, beside those who write, and finds nothing.
pub(super) async fn verify(store: &dyn ArticleStore, writers: Option<&Writers>) -> Result<(), Violation> {
    let promise = "a healthy store has no finding, whatever is written meanwhile";
    let (begun, mut cursor, mut checked) = (Timestamp::now(), None, 0);
    loop {
        if let Some(writers) = writers {
            writers.write(store).await?;
        }
        let step = store.verify(cursor).await.or_violation(promise)?;
        same(promise, &step.findings, &Vec::new())?;
        let sane = checked <= step.checked && step.checked <= step.total;
        holds("a verification tells how far it is", sane, || format!("{} of {} after {checked}", step.checked, step.total))?;
        (cursor, checked) = (step.next, step.checked);
        if cursor.is_none() {
            break;
        }
    }
    let stats = store.stats().await.or_violation(promise)?;
    // Beside writers there are more of them by now than there were when it passed.
    if writers.is_none() {
        let articles = stats.contents.articles;
        holds("a verification looks at every article", checked >= articles, || format!("it looked at {checked} entries of {articles}"))?;
    }
    let noted = stats.last_verification.is_some_and(|time| time >= begun);
    holds("a verification without a finding is noted", noted, || format!("noted is {:?}", stats.last_verification))
}

/// Tasks that create, overwrite, delete and create again, and bring ingest streams forward, until they are stopped.
pub(super) struct Writers {
    rounds: Arc<Semaphore>,
    tasks: JoinSet<Result<WrittenStream, Violation>>,
}

/// A stream that a writer brought forward, and the host of its articles.
struct WrittenStream {
    id: String,
    host: String,
}

impl Writers {
    fn start(store: &Arc<dyn ArticleStore>) -> Result<Self, Violation> {
        let rounds = Arc::new(Semaphore::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..WRITERS {
            let (store, rounds, site, streamed) = (Arc::clone(store), Arc::clone(&rounds), Site::new()?, Site::new()?);
            tasks.spawn(async move { write(&*store, &rounds, &site, &streamed).await });
        }
        Ok(Self { rounds, tasks })
    }

    /// Has them write, waits for the first of it, and lets them go on with the rest.
    async fn write(&self, store: &dyn ArticleStore) -> Result<(), Violation> {
        let (begun, before) = (Instant::now(), store.sequence());
        self.rounds.add_permits(ROUNDS as usize);
        while store.sequence() <= before {
            holds("a store takes writes while it is read", begun.elapsed() < PATIENCE, || format!("none since change {before}"))?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn stop(mut self) -> Result<Vec<WrittenStream>, Violation> {
        self.rounds.close();
        let mut streams = Vec::new();
        while let Some(done) = self.tasks.join_next().await {
            streams.push(done.or_violation("no writer panics")??);
        }
        Ok(streams)
    }
}

async fn write(store: &dyn ArticleStore, rounds: &Semaphore, site: &Site, streamed: &Site) -> Result<WrittenStream, Violation> {
    let promise = "a store takes writes while it is read";
    let id = format!("contract-{}", StoreId::random().or_violation("a random name for the check")?);
    let stream = id.parse().or_violation("the stream id of the check is one")?;
    let epoch = store.open_stream(&stream).await.or_violation(promise)?.epoch;
    let mut number = 0;
    while let Ok(round) = rounds.acquire().await {
        round.forget();
        let path = format!("/{}", number % ARTICLES);
        let mut writes = vec![Write::put(site.article(&path, &format!("text {number}"))?)];
        if number % 3 == 0 {
            let gone = site.article(&format!("/{}", (number + 7) % ARTICLES), "")?;
            writes.push(Write::Delete { key: gone.key().clone(), precondition: Precondition::None });
        }
        store.write(batch(writes)).await.or_violation(promise)?;
        let item = Write::put(streamed.article(&format!("/{number}"), "of a stream")?);
        let advance = StreamAdvance::to(stream.clone(), epoch, number + 1);
        store.write(WriteBatch { writes: vec![item], stream: Some(advance) }).await.or_violation(promise)?;
        number += 1;
    }
    let host = streamed.article("/", "x")?.key().url.host();
    Ok(WrittenStream { id, host })
}
