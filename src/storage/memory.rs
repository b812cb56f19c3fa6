//! The reference engine: articles in memory, in ordered maps behind one lock.
//!
//! It is there to be right by reading: every write is carried out inside `submit`, and every read looks at all there is that
//! could matter. What it answers is what every other engine must answer. Durability is as long as the process.

mod revisions;
mod snapshot;
mod streams;
mod trim;
mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use tokio::sync::watch;

use self::snapshot::MemorySnapshot;
use self::streams::KeptStream;
use self::trim::Mark;
use super::{
    ArticleStore, BatchOutcome, Change, ChangeKind, ChangeRetention, Contents, CountOfGroup, CountRequest, CountedGroup, CountedHost,
    Direction, Durability, FoundRevision, GroupBy, History, IngestStreamId, LogPlace, LookupResult, OpenedStream, Page, PendingCommit,
    Precondition, Rejection, RevisionsRequest, ScanRequest, Snapshot, StoreError, StoreHealth, StoreId, StoreIdentity, StoreOptions,
    StoreStats, Trimmed, VerifyCursor, VerifyStep, Write, WriteBatch, WriteOutcome, WriteRefusal, Written,
};
use crate::article::{Article, ArticleDate, ArticleHead, ArticleKey, CanonicalUrl, StoredArticle, Timestamp};

/// The version of the stored format, which nothing outlives.
const FORMAT_VERSION: u16 = 1;

/// A store in memory.
#[derive(Debug)]
pub struct MemoryStore {
    identity: StoreIdentity,
    state: Mutex<State>,
    /// Held by the snapshot that is being read.
    snapshot: Mutex<Weak<()>>,
    /// Told of every write, and of the end.
    changed: watch::Sender<()>,
    options: StoreOptions,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    history: History,
    retention: ChangeRetention,
    articles: BTreeMap<ArticleKey, Kept>,
    tombstones: BTreeMap<ArticleKey, Tombstone>,
    /// By their numbers.
    changes: BTreeMap<u64, Change>,
    last_sequence: u64,
    trimmed: Trimmed,
    mark: Mark,
    streams: BTreeMap<IngestStreamId, KeptStream>,
    /// The last that was given out.
    epoch: u64,
    last_verification: Option<Timestamp>,
}

#[derive(Debug)]
struct Kept {
    latest: StoredArticle,
    /// Oldest first.
    earlier_revisions: Vec<StoredArticle>,
}

#[derive(Debug, Clone, Copy)]
struct Tombstone {
    revision: u64,
    sequence: u64,
    delete_time: Timestamp,
}

impl MemoryStore {
    /// An empty store that keeps as much of the past as the options say; the others change nothing here.
    ///
    /// # Errors
    /// Where the operating system gives no random numbers for its id.
    pub fn new(options: StoreOptions) -> std::io::Result<Self> {
        let StoreOptions { history, changes, .. } = options;
        let (store_id, format_version, durability) = (StoreId::random()?, FORMAT_VERSION, Durability::Fsync);
        let identity = StoreIdentity { engine: "memory", store_id, format_version, durability, history, changes };
        let state = State { history, retention: changes, ..State::default() };
        Ok(Self { identity, state: Mutex::new(state), snapshot: Mutex::default(), changed: watch::Sender::new(()), options })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, unless the store is closed.
    fn open(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let state = self.lock();
        if state.closed { Err(StoreError::Closed) } else { Ok(state) }
    }
}

impl State {
    fn sequence(&self) -> u64 {
        self.last_sequence
    }

    fn article(&self, key: &ArticleKey) -> Option<StoredArticle> {
        self.articles.get(key).map(|kept| kept.latest.clone())
    }

    /// Carries a batch out, whole or not at all.
    fn write(&mut self, batch: WriteBatch) -> Result<BatchOutcome, StoreError> {
        let WriteBatch { writes, stream } = batch;
        if let Some(advance) = &stream {
            self.streams.get(&advance.id).ok_or(StoreError::StreamTakenOver)?.takes(advance, writes.len())?;
        }
        let now = Timestamp::now();
        let outcomes: Vec<_> = writes.into_iter().map(|write| self.write_one(write, now)).collect();
        self.trim(now);
        let position = stream.and_then(|advance| Some(self.streams.get_mut(&advance.id)?.advance(&advance, &outcomes, now)));
        Ok(BatchOutcome { outcomes, position })
    }

    fn write_one(&mut self, write: Write, now: Timestamp) -> WriteOutcome {
        match write {
            Write::Put { article, precondition } => {
                self.check(article.key(), precondition)?;
                Ok(self.put(*article, now))
            }
            Write::Delete { key, precondition } => {
                self.check(&key, precondition)?;
                self.delete(key, now)
            }
        }
    }

    fn check(&self, key: &ArticleKey, precondition: Precondition) -> Result<(), WriteRefusal> {
        let etag = self.articles.get(key).map(|kept| kept.latest.head.etag());
        match (precondition, etag) {
            (Precondition::None, _) | (Precondition::MustNotExist, None) => Ok(()),
            (Precondition::MustNotExist, Some(_)) => Err(WriteRefusal::AlreadyExists),
            (Precondition::Etag(_), None) => Err(WriteRefusal::NotFound),
            (Precondition::Etag(wanted), Some(etag)) if wanted == etag => Ok(()),
            (Precondition::Etag(_), Some(_)) => Err(WriteRefusal::EtagMismatch),
        }
    }

    fn put(&mut self, article: Article, now: Timestamp) -> Written {
        let (key, digest, text_bytes) = (article.key().clone(), article.digest(), article.text_bytes() as u64);
        let sequence = self.sequence() + 1;
        if let Some(kept) = self.articles.get_mut(&key) {
            let before = &kept.latest.head;
            if before.digest == digest {
                return Written::Unchanged(before.clone());
            }
            let (revision, create_time, update_time) = (before.revision + 1, before.create_time, later(now, before.update_time));
            let head = ArticleHead { key, revision, digest, sequence, create_time, update_time, text_bytes };
            let before = std::mem::replace(&mut kept.latest, StoredArticle { head: head.clone(), article });
            kept.earlier_revisions.push(before);
            kept.drop_surplus(self.history);
            self.log(ChangeKind::Updated, &head, update_time);
            return Written::Updated(head);
        }
        let tombstone = self.tombstones.remove(&key);
        let revision = tombstone.map_or(1, |tombstone| tombstone.revision + 1);
        let create_time = tombstone.map_or(now, |tombstone| later(now, tombstone.delete_time));
        let head = ArticleHead { key, revision, digest, sequence, create_time, update_time: create_time, text_bytes };
        let latest = StoredArticle { head: head.clone(), article };
        self.articles.insert(head.key.clone(), Kept { latest, earlier_revisions: Vec::new() });
        self.log(ChangeKind::Created, &head, create_time);
        Written::Created(head)
    }

    fn delete(&mut self, key: ArticleKey, now: Timestamp) -> WriteOutcome {
        let Some(Kept { latest: StoredArticle { head, .. }, .. }) = self.articles.remove(&key) else { return Err(WriteRefusal::NotFound) };
        let delete_time = later(now, head.update_time);
        self.tombstones.insert(key, Tombstone { revision: head.revision, sequence: self.sequence() + 1, delete_time });
        self.log(ChangeKind::Deleted, &head, delete_time);
        Ok(Written::Deleted(head))
    }

    fn log(&mut self, kind: ChangeKind, head: &ArticleHead, commit_time: Timestamp) {
        let ArticleHead { key, revision, digest, .. } = head.clone();
        self.last_sequence += 1;
        let sequence = self.last_sequence;
        self.changes.insert(sequence, Change { sequence, kind, key, revision, digest, commit_time });
    }

    /// The articles that a scan goes through, in its direction, whether the filter selects them or not.
    fn after<'a>(&'a self, request: &ScanRequest) -> Box<dyn Iterator<Item = (&'a ArticleKey, &'a Kept)> + 'a> {
        let after = request.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        match request.direction {
            Direction::Ascending => Box::new(self.articles.range::<ArticleKey, _>((after, Bound::Unbounded))),
            Direction::Descending => Box::new(self.articles.range::<ArticleKey, _>((Bound::Unbounded, after)).rev()),
        }
    }

    /// Collects a page: `take` makes an item of an article and tells whether the page has room for more after it.
    fn page<T>(&self, request: &ScanRequest, mut take: impl FnMut(&StoredArticle) -> (T, bool)) -> Page<T> {
        let mut items = Vec::new();
        for (key, kept) in self.after(request).filter(|(key, _)| request.filter.contains(key)) {
            let (item, room) = take(&kept.latest);
            items.push(item);
            if items.len() >= request.limit || !room {
                return Page { items, next: Some(key.clone()) };
            }
        }
        Page { items, next: None }
    }

    fn count(&self, request: &CountRequest) -> Vec<CountOfGroup> {
        let CountRequest { filter, group_by, limit } = request;
        let selected = self.articles.keys().filter(|key| filter.contains(key));
        match group_by {
            GroupBy::Total => vec![CountOfGroup { group: CountedGroup::Total, count: selected.count() as u64 }],
            GroupBy::Day(after) => groups(selected.map(|key| key.date), after.as_ref(), *limit, CountedGroup::Day),
            GroupBy::Host(after) => groups(selected.map(|key| CountedHost::of(&key.url)), after.as_ref(), *limit, CountedGroup::Host),
        }
    }

    fn stats(&self) -> StoreStats {
        let days: BTreeSet<ArticleDate> = self.articles.keys().map(|key| key.date).collect();
        let contents = Contents {
            articles: self.articles.len() as u64,
            earlier_revisions: self.articles.values().map(|kept| kept.earlier_revisions.len() as u64).sum(),
            last_sequence: self.sequence(),
            text_bytes: self.articles.values().map(|kept| kept.latest.head.text_bytes).sum(),
            // There are no records here, and no files: this stays 0, and so do the sizes.
            record_bytes: 0,
            trimmed: self.trimmed,
        };
        let date_span = days.first().copied().zip(days.last().copied());
        let (last_verification, streams) =
            (self.last_verification, self.streams.values().filter(|stream| stream.is_known()).count() as u64);
        StoreStats { contents, days: days.len() as u64, date_span, last_verification, streams, ..StoreStats::default() }
    }
}

/// The groups after one, counted, in order.
fn groups<G: Ord>(
    members: impl Iterator<Item = G>,
    after: Option<&G>,
    limit: usize,
    group: impl Fn(G) -> CountedGroup,
) -> Vec<CountOfGroup> {
    let mut counts = BTreeMap::new();
    members.filter(|member| after.is_none_or(|after| member > after)).for_each(|member| *counts.entry(member).or_insert(0) += 1);
    counts.into_iter().take(limit).map(|(member, count)| CountOfGroup { group: group(member), count }).collect()
}

/// Now, but after this instant whatever the clock says.
fn later(now: Timestamp, than: Timestamp) -> Timestamp {
    Timestamp::from_micros(than.as_micros() + 1).map_or(now, |next| next.max(now))
}

/// Adds articles to a page until they hold more than this many bytes of text.
struct Budget {
    bytes: usize,
    limit: usize,
}

impl Budget {
    fn new(limit: usize) -> Self {
        Self { bytes: 0, limit }
    }

    /// Takes an article in, and tells whether there is room for more after it.
    fn has_room_after(&mut self, article: &Article) -> bool {
        self.bytes += article.size();
        self.bytes <= self.limit
    }
}

#[async_trait]
impl ArticleStore for MemoryStore {
    fn identity(&self) -> StoreIdentity {
        self.identity
    }

    fn health(&self) -> StoreHealth {
        StoreHealth::Serving
    }

    async fn health_changed(&self, _: &StoreHealth) -> StoreHealth {
        std::future::pending().await
    }

    fn sequence(&self) -> u64 {
        self.lock().sequence()
    }

    async fn sequence_after(&self, seen: u64) -> Result<u64, StoreError> {
        let mut changed = self.changed.subscribe();
        loop {
            let sequence = self.open()?.sequence();
            if sequence > seen {
                return Ok(sequence);
            }
            // The sender lives as long as this does.
            drop(changed.changed().await);
        }
    }

    async fn article(&self, key: &ArticleKey) -> Result<Option<StoredArticle>, StoreError> {
        Ok(self.open()?.article(key))
    }

    async fn latest_article(&self, url: &CanonicalUrl) -> Result<Option<StoredArticle>, StoreError> {
        let state = self.open()?;
        let latest = state.articles.iter().rev().find(|(key, _)| key.url == *url);
        Ok(latest.map(|(_, kept)| kept.latest.clone()))
    }

    async fn article_dates(&self, url: &CanonicalUrl, limit: usize) -> Result<Vec<ArticleDate>, StoreError> {
        let state = self.open()?;
        Ok(state.articles.keys().rev().filter(|key| key.url == *url).map(|key| key.date).take(limit).collect())
    }

    async fn revision(&self, key: &ArticleKey, revision: u64) -> Result<FoundRevision, StoreError> {
        Ok(self.open()?.revision(key, revision))
    }

    async fn revision_as_of(&self, key: &ArticleKey, instant: Timestamp) -> Result<FoundRevision, StoreError> {
        Ok(self.open()?.revision_as_of(key, instant))
    }

    async fn revisions(&self, request: &RevisionsRequest) -> Result<Page<StoredArticle, u64>, StoreError> {
        let mut budget = Budget::new(request.text_budget);
        Ok(self.open()?.revisions(request, |stored| (stored.clone(), budget.has_room_after(&stored.article))))
    }

    async fn revision_heads(&self, request: &RevisionsRequest) -> Result<Page<ArticleHead, u64>, StoreError> {
        Ok(self.open()?.revisions(request, |stored| (stored.head.clone(), true)))
    }

    async fn articles(&self, keys: &[ArticleKey], text_budget: usize) -> Result<Vec<LookupResult>, StoreError> {
        let state = self.open()?;
        let mut budget = Budget::new(text_budget);
        let mut results = Vec::new();
        for key in keys {
            let found = state.article(key);
            let room = found.as_ref().is_none_or(|found| budget.has_room_after(&found.article));
            results.push(Ok(found));
            if !room {
                break;
            }
        }
        Ok(results)
    }

    async fn scan(&self, request: &ScanRequest) -> Result<Page<StoredArticle>, StoreError> {
        let mut budget = Budget::new(request.text_budget);
        Ok(self.open()?.page(request, |stored| (stored.clone(), budget.has_room_after(&stored.article))))
    }

    async fn scan_heads(&self, request: &ScanRequest) -> Result<Page<ArticleHead>, StoreError> {
        Ok(self.open()?.page(request, |stored| (stored.head.clone(), true)))
    }

    async fn count(&self, request: &CountRequest) -> Result<Vec<CountOfGroup>, StoreError> {
        Ok(self.open()?.count(request))
    }

    async fn submit(&self, batch: WriteBatch) -> Result<PendingCommit, StoreError> {
        let outcome = self.open()?.write(batch);
        self.changed.send_replace(());
        let (reply, pending) = PendingCommit::new();
        // The other end is right here.
        drop(reply.send(outcome));
        Ok(pending)
    }

    async fn open_stream(&self, id: &IngestStreamId) -> Result<OpenedStream, StoreError> {
        Ok(self.open()?.open_stream(id, &self.options))
    }

    async fn rejections(&self, id: &IngestStreamId, from: u64, limit: usize) -> Result<Page<Rejection, u64>, StoreError> {
        let state = self.open()?;
        Ok(state.streams.get(id).map_or(Page { items: Vec::new(), next: None }, |stream| stream.rejections(from, limit)))
    }

    fn trimmed(&self) -> Trimmed {
        self.lock().trimmed
    }

    async fn changes(&self, place: LogPlace, limit: usize) -> Result<Vec<Change>, StoreError> {
        let state = self.open()?;
        if !state.trimmed.serves(place) {
            return Err(StoreError::ChangesTrimmed);
        }
        Ok(state.changes.range((Bound::Excluded(place.after), Bound::Unbounded)).map(|(_, change)| change.clone()).take(limit).collect())
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        let state = self.open()?;
        Ok(Box::new(MemorySnapshot::begin(&state, self.identity.store_id, &self.snapshot)?))
    }

    async fn verify(&self, cursor: Option<VerifyCursor>) -> Result<VerifyStep, StoreError> {
        Ok(self.open()?.verify(cursor))
    }

    async fn stats(&self) -> Result<StoreStats, StoreError> {
        Ok(self.open()?.stats())
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.lock().closed = true;
        self.changed.send_replace(());
        Ok(())
    }
}
