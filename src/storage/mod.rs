//! Storage: what every engine promises, in words that know no trees, bytes or files.
//!
//! [`ArticleStore`] is the contract; its comments are the promises, and the suite in [`contract`] checks them against every
//! engine. The engines are [`sled`], which keeps articles on disk, and [`memory`], the reference that is simple enough to be
//! right by reading.

mod batch;
pub mod compression;
pub mod contract;
mod error;
pub mod memory;
mod planted;
pub mod record;
mod retention;
pub mod sled;
mod snapshot;
mod stats;
pub mod stream;
pub mod token;
mod verification;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::article::{ArticleDate, ArticleHead, ArticleKey, CanonicalUrl, Filter, StoredArticle, Timestamp};

pub use batch::{
    BatchOutcome, IngestStreamId, InvalidStreamId, OutcomeCounts, PendingCommit, Precondition, Write, WriteBatch, WriteOutcome,
    WriteRefusal, Written,
};
pub use error::StoreError;
pub use retention::{ChangeRetention, FoundRevision, History, InvalidHistory, LogPlace, Trimmed};
pub use snapshot::{Snapshot, SnapshotInfo, SnapshotItem, StoreBuilder};
pub use stats::StoreStats;
pub use stream::{Bookmark, IngestPosition, ItemHash, OpenedStream, Rejection, RejectionCause, StreamAdvance, StreamState};
pub use verification::{Finding, FindingKind, VerifyCursor, VerifyStep};

/// Articles by key, durable, in order.
///
/// Promises that hold for every method of every engine:
///
/// * **OK means durable.** A write's outcome is given only when the article, its index entries, its entry in the change log
///   and the position of its ingest stream survive any crash.
/// * **All or nothing.** After any crash an acknowledged write is in every index; an unacknowledged one is there whole or
///   not at all.
/// * **Readers see only what is durable**: of each article the latest revision or none. Nothing a reader saw disappears in
///   a crash.
/// * **Order.** Scans run in the order of [`ArticleKey`]; the changes of one article in the order of its revisions. A scan
///   that goes on from a key neither skips nor repeats what was there throughout.
/// * **Integrity.** What is stored carries checksums that are checked on read; damage is [`StoreError::Damaged`] for that
///   article, never a wrong or a silently missing one.
/// * **Bounded.** No call holds more than a page in memory. No reader blocks a writer for longer than a page takes.
///
/// Every method may also fail with [`StoreError::Closed`], [`StoreError::Failed`] and [`StoreError::Io`]. Dropping a
/// future before it is done cancels a read; a write that was submitted is carried out all the same.
#[async_trait]
pub trait ArticleStore: Send + Sync + 'static {
    /// What kind of store this is, and which one.
    fn identity(&self) -> StoreIdentity;

    /// Whether the store can write.
    fn health(&self) -> StoreHealth;

    /// Returns when [`health`](Self::health) is another than this one, with the one that it is then.
    async fn health_changed(&self, seen: &StoreHealth) -> StoreHealth;

    /// The number of the latest change that readers can see; 0 before the first.
    fn sequence(&self) -> u64;

    /// Returns once [`sequence`](Self::sequence) is greater than this one, with what it is then: at once where it is already.
    /// Whoever waits is woken, and delays no writer.
    ///
    /// # Errors
    /// [`StoreError::Failed`] and [`StoreError::Closed`] as soon as the store is, also for who waits already.
    async fn sequence_after(&self, seen: u64) -> Result<u64, StoreError>;

    /// The article under a key, or `None`.
    async fn article(&self, key: &ArticleKey) -> Result<Option<StoredArticle>, StoreError>;

    /// Of all articles with this URL, the one with the latest date, or `None`.
    async fn latest_article(&self, url: &CanonicalUrl) -> Result<Option<StoredArticle>, StoreError>;

    /// The dates under which articles with this URL are stored, latest first, at most `limit`.
    async fn article_dates(&self, url: &CanonicalUrl, limit: usize) -> Result<Vec<ArticleDate>, StoreError>;

    /// The article under a key in this revision.
    ///
    /// Of an article that is there, as many revisions are kept as [`History`] says, and their numbers are consecutive up to the
    /// latest. One that is missing among them is [`StoreError::Damaged`]. One that is older than those since the article was
    /// created is [`FoundRevision::NotKept`] where any were dropped since then: numbers go on after a deletion, so it cannot be told
    /// whether this one was dropped or deleted.
    async fn revision(&self, key: &ArticleKey, revision: u64) -> Result<FoundRevision, StoreError>;

    /// The article under a key as it was at an instant: of its revisions the one with the latest `update_time` that is not
    /// after it. [`FoundRevision::Missing`] where the article did not exist yet, and [`FoundRevision::NotKept`] where it did and
    /// that revision is not kept: never a later one.
    ///
    /// A deletion takes the past with it. While an article is deleted, nothing is found as of any instant, also of those
    /// before the deletion. Created again, it exists from its new `create_time` on, and before that not.
    ///
    /// For an instant that has passed, the answer changes only by a deletion, and where the revision is dropped. That holds by
    /// the clock of the store, whose times never go back for one article.
    async fn revision_as_of(&self, key: &ArticleKey, instant: Timestamp) -> Result<FoundRevision, StoreError>;

    /// A page of an article's revisions that are kept, newest first, the latest included. Empty where there is no such article, and where
    /// it has no revision before the one that the request names.
    async fn revisions(&self, request: &RevisionsRequest) -> Result<Page<StoredArticle, u64>, StoreError>;

    /// The same page without texts. The text budget does not apply.
    async fn revision_heads(&self, request: &RevisionsRequest) -> Result<Page<ArticleHead, u64>, StoreError>;

    /// The articles under the first of these keys: one result a key, in their order, until the articles found hold more
    /// than `text_budget` bytes of text. Gives at least one result where there is a key. Damage concerns its own key alone.
    async fn articles(&self, keys: &[ArticleKey], text_budget: usize) -> Result<Vec<LookupResult>, StoreError>;

    /// A page of the articles that the request selects.
    async fn scan(&self, request: &ScanRequest) -> Result<Page<StoredArticle>, StoreError>;

    /// The same page without texts, at a fraction of the cost. The text budget does not apply.
    async fn scan_heads(&self, request: &ScanRequest) -> Result<Page<ArticleHead>, StoreError>;

    /// Counts articles; groups without one are left out.
    async fn count(&self, request: &CountRequest) -> Result<Vec<CountOfGroup>, StoreError>;

    /// Hands a batch over to be written, waiting where the store is behind. When this returns, the batch's place in the
    /// order of all writes is fixed; the future that it returns gives the outcome once that is durable.
    ///
    /// Every write of the batch has an outcome of its own, and a refused one stops no other. The writes of one batch are
    /// carried out in order. The position of its ingest stream becomes durable together with them.
    ///
    /// # Errors
    /// [`StoreError::DiskFull`], [`StoreError::StreamTakenOver`] where the batch's stream was opened again since, and
    /// [`StoreError::StreamInterrupted`] where it does not go on where the stream is (it may have been forgotten since); the
    /// whole batch is not written then.
    async fn submit(&self, batch: WriteBatch) -> Result<PendingCommit, StoreError>;

    /// Opens an ingest stream, new or known, and fences off whoever opened it before: batches of theirs that were not
    /// carried out yet fail with [`StoreError::StreamTakenOver`].
    ///
    /// A stream's hashes, rejections and bookmark become durable with its position. One that did not advance for longer than
    /// [`StoreOptions::stream_expiry`] is forgotten, whether it is finished or not: opened then, it is new.
    async fn open_stream(&self, id: &IngestStreamId) -> Result<OpenedStream, StoreError>;

    /// A page of the rejections of an ingest stream that is open, in the order of their items: of the last
    /// [`KEPT_REJECTIONS`](stream::KEPT_REJECTIONS). `from` is 0 for the first page, then where the page before says that it goes
    /// on. A stream that is finished keeps none.
    async fn rejections(&self, id: &IngestStreamId, from: u64, limit: usize) -> Result<Page<Rejection, u64>, StoreError>;

    /// What was trimmed from the change log so far. It is announced here before it goes.
    fn trimmed(&self) -> Trimmed;

    /// The changes after a place in the order in which they were made, at most `limit`.
    ///
    /// Trimming takes superseded changes and old deletions away, as [`ChangeRetention`] says. Applied in order to nothing, all that
    /// is there from [`Trimmed::beginning`] on gives the articles that the store holds; with the pages of one reading in the same
    /// [`begun`](LogPlace::begun), whatever is written and trimmed meanwhile.
    ///
    /// # Errors
    /// [`StoreError::ChangesTrimmed`] where something is gone that whoever stands there needs: see [`Trimmed::serves`].
    async fn changes(&self, place: LogPlace, limit: usize) -> Result<Vec<Change>, StoreError>;

    /// A consistent view of everything that the store holds now, while writing goes on. Includes every write whose outcome was
    /// given before the call. At most one at a time: a second call fails with [`StoreError::SnapshotBusy`].
    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError>;

    /// Looks at the next part of everything that is stored: every record and checksum, every index against the records, the
    /// change log, the totals. Begins where `cursor` is `None`. A step takes some milliseconds (the one
    /// that counts everything a second per million articles) and blocks nobody. What is
    /// written meanwhile is no finding.
    ///
    /// When the last step ends a verification without a finding, its time becomes [`StoreStats::last_verification`].
    async fn verify(&self, cursor: Option<VerifyCursor>) -> Result<VerifyStep, StoreError>;

    /// What the store holds and what it takes.
    async fn stats(&self) -> Result<StoreStats, StoreError>;

    /// Writes out everything, closes the files and refuses every later call. Submitted batches are still carried out.
    async fn close(&self) -> Result<(), StoreError>;

    /// Submits a batch and waits for its outcome.
    async fn write(&self, batch: WriteBatch) -> Result<BatchOutcome, StoreError> {
        self.submit(batch).await?.await
    }
}

/// How a store is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreOptions {
    /// What an outcome promises.
    pub durability: Durability,
    /// How long an ingest stream is kept after it last advanced; for ever where it is `None`. Default 7 days.
    pub stream_expiry: Option<Duration>,
    /// How many earlier revisions are kept. Where that is another than before, each article has it from its next update on; where
    /// many are too many then, some go with each of its next updates.
    pub history: History,
    /// Which changes are trimmed from the change log, now and then.
    pub changes: ChangeRetention,
    /// Bytes of memory for what is replaced while a snapshot is read; past that it fails with [`StoreError::SnapshotTooOld`].
    /// Default 64 MiB.
    pub snapshot_note_bytes: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        let (durability, history, changes) = Default::default();
        Self { durability, stream_expiry: Some(Duration::from_secs(7 * 24 * 3600)), history, changes, snapshot_note_bytes: 64 << 20 }
    }
}

/// What the outcome of a write promises.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// It survives any crash and any loss of power.
    #[default]
    Fsync,
    /// It survives a crash of the process. A loss of power, or of the disk while it is synced, may take the writes that were
    /// acknowledged last: those of one group, which is on its way to the disk already, so some milliseconds' worth. Readers
    /// still see only what is durable; a read waits for the writes that were acknowledged before it.
    Interval,
}

/// Opens the store in a folder, and creates it where the folder is empty or missing. Blocks while it recovers.
///
/// # Errors
/// [`StoreError::CannotOpen`] where the folder is in use or none of ours, [`StoreError::Damaged`] where something that was
/// acknowledged is missing.
pub fn open(folder: &Path, options: StoreOptions) -> Result<Arc<dyn ArticleStore>, StoreError> {
    Ok(Arc::new(sled::SledStore::open(folder, options)?))
}

/// Begins a new store in a folder that is empty or missing. With an id it becomes that store again, and tokens that it gave
/// out stay good; without one it gets an id of its own.
///
/// # Errors
/// [`StoreError::CannotOpen`] where the folder holds something.
pub fn build(folder: &Path, store_id: Option<StoreId>) -> Result<Box<dyn StoreBuilder>, StoreError> {
    Ok(Box::new(sled::SledBuilder::begin(folder, store_id)?))
}

/// Writes a store anew, so that nothing out of use takes space any more, and puts the new one in the place of the old. The
/// store must not be open. Blocks; `progress` is told how many items are done.
///
/// # Errors
/// As [`open`]; the store is as it was then.
pub fn compact(folder: &Path, progress: impl FnMut(u64)) -> Result<(), StoreError> {
    sled::compact(folder, progress)
}

/// One result of [`ArticleStore::articles`].
pub type LookupResult = Result<Option<StoredArticle>, StoreError>;

/// What kind of store it is, and which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreIdentity {
    /// The engine's name: `sled` or `memory`.
    pub engine: &'static str,
    /// Drawn at random when the store was created.
    pub store_id: StoreId,
    /// The version of the stored format.
    pub format_version: u16,
    /// What the outcome of a write promises.
    pub durability: Durability,
    /// How many earlier revisions are kept.
    pub history: History,
    /// Which changes are trimmed from the change log.
    pub changes: ChangeRetention,
}

/// Identifies a store: 128 random bits, written as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreId(pub [u8; 16]);

impl StoreId {
    /// A new one.
    ///
    /// # Errors
    /// Where the operating system gives no random numbers.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
        Ok(Self(bytes))
    }
}

impl std::fmt::Display for StoreId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for StoreId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// Whether a store can write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreHealth {
    /// It can.
    Serving,
    /// It cannot as long as there is no room on the disk: writes are refused, reads go on.
    Full,
    /// It cannot any more, for this reason, and stays so; reading may still work. Opening it again is the remedy.
    Failed(String),
}

/// In which direction a scan runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// In the order of the keys.
    Ascending,
    /// In the reverse order.
    Descending,
}

/// Which page of which articles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanRequest {
    /// Which articles.
    pub filter: Filter,
    /// In which direction.
    pub direction: Direction,
    /// Where to go on: after this key in the direction of the scan; from the beginning where it is `None`.
    pub after: Option<ArticleKey>,
    /// How many articles at most; at least 1.
    pub limit: usize,
    /// The page ends after the article with which its texts exceed this many bytes.
    pub text_budget: usize,
}

impl ScanRequest {
    /// The day at which the scan begins, after what it has seen already, and the day at which it ends.
    pub(crate) fn days(&self) -> (ArticleDate, ArticleDate) {
        let (from, to) = (self.filter.dates.from, self.filter.dates.to);
        match self.direction {
            Direction::Ascending => (self.after.as_ref().map_or(from, |after| from.max(after.date)), to),
            Direction::Descending => (self.after.as_ref().map_or(to, |after| to.min(after.date)), from),
        }
    }
}

/// Which page of an article's revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisionsRequest {
    /// Of which article.
    pub key: ArticleKey,
    /// Where to go on: with the one before this revision; with the latest where it is `None`.
    pub before: Option<u64>,
    /// How many revisions at most; at least 1.
    pub limit: usize,
    /// The page ends after the revision with which its texts exceed this many bytes.
    pub text_budget: usize,
}

/// A part of a scan, or of an article's revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T, P = ArticleKey> {
    /// The articles in order.
    pub items: Vec<T>,
    /// Where the next page goes on; `None` at the end. May be set on a page that is short or, of a scan, even empty.
    pub next: Option<P>,
}

/// What to count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountRequest {
    /// Which articles.
    pub filter: Filter,
    /// How to group them, and after which group to go on.
    pub group_by: GroupBy,
    /// How many groups at most.
    pub limit: usize,
}

/// How to group a count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupBy {
    /// Everything in one group.
    Total,
    /// A group a day, after this day.
    Day(Option<ArticleDate>),
    /// A group a host, after this host. Hosts order by their reversed labels.
    Host(Option<CountedHost>),
}

/// A host as the count by hosts knows it: the host part of the URL key, up to and including its `)`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CountedHost(String);

impl CountedHost {
    /// The host of a URL.
    pub fn of(url: &CanonicalUrl) -> Self {
        Self::of_key(url.key())
    }

    /// The host part of a URL key.
    pub(crate) fn of_key(key: &str) -> Self {
        Self(key.split_inclusive(')').next().unwrap_or_default().to_owned())
    }

    /// The host part of the URL key.
    pub fn key_prefix(&self) -> &str {
        &self.0
    }

    /// The host as people write it: `example.com`, `example.com:8080`.
    pub fn host(&self) -> String {
        CanonicalUrl::from_stored_key(&format!("{}/", self.0)).host()
    }
}

/// How many articles a group holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountOfGroup {
    /// The group.
    pub group: CountedGroup,
    /// At least 1, but for [`CountedGroup::Total`].
    pub count: u64,
}

/// A group of a count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CountedGroup {
    /// Everything.
    Total,
    /// A day.
    Day(ArticleDate),
    /// A host.
    Host(CountedHost),
}

/// One entry of the change log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its place: 1, 2, 3 ... without a gap as long as nothing is trimmed.
    pub sequence: u64,
    /// What happened.
    pub kind: ChangeKind,
    /// To which article.
    pub key: ArticleKey,
    /// The revision that the change made; for a deletion the last one there was.
    pub revision: u64,
    /// The digest of that revision.
    pub digest: crate::article::Digest,
    /// When.
    pub commit_time: Timestamp,
}

/// What happened to an article.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It was created, for the first time or after a deletion.
    Created,
    /// A revision was made.
    Updated,
    /// It was deleted.
    Deleted,
}

/// Running totals, kept up to date with every write.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Contents {
    /// Articles, each with its latest revision.
    pub articles: u64,
    /// Earlier revisions that are kept.
    pub earlier_revisions: u64,
    /// Changes ever made: the number of the latest.
    pub last_sequence: u64,
    /// Bytes of title, lead and body of all articles.
    pub text_bytes: u64,
    /// Bytes of their records as stored, compressed.
    pub record_bytes: u64,
    /// What was trimmed from the change log.
    pub trimmed: Trimmed,
}
