//! The engine that keeps articles on disk: sled 0.34, with what sled alone does not promise built around it.
//!
//! A write goes: encode and compress (in the background) -> `committer` -> `journal`, synced -> sled's `trees` -> acknowledged. Payloads
//! stay in the journal; the trees hold the rest. Checkpoints make sled durable by itself; [`open`](SledStore::open) replays
//! what came after the last one. Reads go straight to the trees. Nothing outside this folder names sled.

mod builder;
mod change_log;
mod checkpoint;
mod committer;
mod counts;
mod damage;
mod days;
mod dictionaries;
mod entry;
mod expiry;
mod folder;
mod group;
mod journal;
mod keys;
mod pin;
mod pool;
mod reader;
mod reclaim;
mod recovery;
mod revisions;
mod room;
mod running;
mod segment_list;
mod shared;
mod snapshot;
mod stored;
mod streams;
mod supervision;
mod synced;
mod trees;
mod trim;
mod verify;

pub use builder::{SledBuilder, compact};

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use self::checkpoint::{Checkpointer, checkpoint};
use self::committer::{Command, Committer, PreparedBatch};
use self::dictionaries::Learning;
use self::entry::State;
use self::expiry::Expiry;
use self::folder::{Folder, folder_bytes};
use self::group::PreparedWrite;
use self::pool::{Cancelled, Pool};
use self::reclaim::Reclaimer;
use self::recovery::Parts;
use self::shared::Shared;
use self::snapshot::SledSnapshot;
use self::supervision::{PanicWatch, watch_panics};
use self::trees::Trees;
use self::trim::Trimmer;
use super::{
    ArticleStore, Change, CountOfGroup, CountRequest, Durability, FoundRevision, IngestStreamId, LogPlace, LookupResult, OpenedStream,
    Page, PendingCommit, Rejection, RevisionsRequest, ScanRequest, Snapshot, StoreError, StoreHealth, StoreIdentity, StoreOptions,
    StoreStats, Trimmed, VerifyCursor, VerifyStep, Write, WriteBatch,
};
use crate::article::{ArticleDate, ArticleHead, ArticleKey, CanonicalUrl, StoredArticle, Timestamp};
use crate::workers::Workers;

/// Batches that wait for the committer at most: past that, submitting waits.
const QUEUE_BATCHES: usize = 64;
/// A single write with at most so many bytes of text is encoded and compressed on the caller's thread.
const SMALL_WRITE_BYTES: usize = 16 << 10;
/// Texts of so many bytes are read on the caller's thread, as long as reads are fast: that takes a fraction of a millisecond, and
/// they are still in the core's cache when they are sent.
const TEXTS_HERE: usize = 64 << 10;

/// A store in a folder.
#[derive(Debug)]
pub struct SledStore {
    identity: StoreIdentity,
    folder: Arc<Folder>,
    trees: Arc<Trees>,
    shared: Arc<Shared>,
    pool: Pool,
    /// Where what comes in bulk is encoded and compressed.
    background: Workers,
    committer: mpsc::Sender<Command>,
    threads: Mutex<Option<Threads>>,
    stop_sweep: Arc<AtomicBool>,
    _panics: PanicWatch,
}

#[derive(Debug)]
struct Threads {
    committer: JoinHandle<()>,
    checkpointer: JoinHandle<()>,
    reclaimer: JoinHandle<()>,
    sweep: JoinHandle<()>,
    expiry: JoinHandle<()>,
    /// Ends the expiry when it is dropped.
    stop_expiry: std::sync::mpsc::Sender<()>,
    /// Where changes are trimmed: the thread, which ends when the other is dropped.
    trimmer: Option<(JoinHandle<()>, std::sync::mpsc::Sender<()>)>,
}

impl SledStore {
    /// Opens the store in a folder, creates it where the folder is empty or missing, and brings it up to everything that was
    /// ever acknowledged. Blocks for as long as that takes: after a crash, up to the time of writing 64 MiB.
    ///
    /// # Errors
    /// [`StoreError::CannotOpen`] where the folder is in use, is none of ours or of another version, and
    /// [`StoreError::Damaged`] where something that was acknowledged is missing.
    pub fn open(path: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let Parts { folder, trees, journal, synced, state } = Parts::open_supervised(path)?;
        let state = revisions::with_earlier_bytes(&trees, state)?;
        trees.pins().limit(options.snapshot_note_bytes);
        let shared = Arc::new(Shared::new(state, Arc::clone(trees.damage())));
        let panics = watch_panics({
            let shared = Arc::downgrade(&shared);
            move |text| {
                if let Some(shared) = shared.upgrade() {
                    shared.fail(format!("the storage engine panicked: {text}"));
                }
            }
        });
        let (commands, queue) = mpsc::channel(QUEUE_BATCHES);
        // One request waits while one is carried out: a committer that is two checkpoints ahead stops.
        let (checkpoints, requests) = std::sync::mpsc::sync_channel(1);
        let (reclaims, reclaim_requests) = std::sync::mpsc::sync_channel(1);
        let checkpointer = Checkpointer {
            trees: Arc::clone(&trees),
            folder: Arc::clone(&folder),
            shared: Arc::clone(&shared),
            committer: commands.downgrade(),
            checkpointed: folder.checkpoint()?.group,
            reclaims,
        };
        let reclaimer = Reclaimer::new(Arc::clone(&trees), folder.store_id(), Arc::clone(&shared), commands.downgrade());
        let trimmer = options.changes.trims().then(|| Trimmer {
            trees: Arc::clone(&trees),
            shared: Arc::clone(&shared),
            committer: commands.downgrade(),
            retention: options.changes,
        });
        let trim = |trimmer: Trimmer| {
            let (stop, stopped) = std::sync::mpsc::channel();
            spawn("trim", move || trimmer.run(stopped)).map(|thread| (thread, stop))
        };
        let committer = Committer {
            trees: Arc::clone(&trees),
            shared: Arc::clone(&shared),
            journal,
            synced,
            state,
            checkpoints,
            epochs: HashMap::new(),
            last_epoch: 0,
            options,
            replies: Vec::new(),
        };
        let expiry = Expiry { trees: Arc::clone(&trees), shared: Arc::clone(&shared), committer: commands.downgrade(), options };
        let learning = Learning::begin(Arc::clone(trees.compression()), &shared, commands.downgrade());
        // Left to itself in the end: it holds nothing of the folder, and cannot be interrupted where it is training.
        spawn("dictionary", move || learning.run())?;
        let stop_sweep = Arc::new(AtomicBool::new(false));
        let (stop_expiry, expiry_stopped) = std::sync::mpsc::channel();
        let threads = Threads {
            expiry: spawn("expiry", move || expiry.run(&expiry_stopped))?,
            stop_expiry,
            reclaimer: spawn("reclaim", move || reclaimer.run(reclaim_requests))?,
            checkpointer: spawn("checkpoint", move || checkpointer.run(requests))?,
            committer: spawn("committer", move || committer.run(queue))?,
            sweep: spawn("sweep", {
                let (trees, stop) = (Arc::clone(&trees), Arc::clone(&stop_sweep));
                move || days::sweep(&trees, &stop)
            })?,
            trimmer: trimmer.map(trim).transpose()?,
        };
        let identity = StoreIdentity {
            engine: "sled",
            store_id: folder.store_id(),
            format_version: folder::FORMAT_VERSION,
            durability: options.durability,
            history: options.history,
            changes: options.changes,
        };
        let no_threads = |error| StoreError::io("cannot start threads", error);
        let pool = Pool::new(Arc::clone(&shared)).map_err(no_threads)?;
        let threads = Mutex::new(Some(threads));
        let background = Workers::background("dateline-encode").map_err(no_threads)?;
        Ok(Self { identity, folder, trees, shared, pool, background, committer: commands, threads, stop_sweep, _panics: panics })
    }

    async fn read<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Trees, &Cancelled) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.caught_up().await;
        let trees = Arc::clone(&self.trees);
        self.pool.run(move |cancelled| job(&trees, cancelled)).await
    }

    /// Reads something of one article: where it is asked for, unless its day was not looked at yet or reads are slow.
    async fn read_one<T: Send + 'static>(
        &self,
        date: ArticleDate,
        job: impl FnOnce(&Trees) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.caught_up().await;
        let mut job = Some(job);
        let here = |_: &Cancelled| job.take_if(|_| self.trees.day_is_known(date)).map(|job| job(&self.trees)).transpose();
        match (self.pool.run_here(here), job) {
            (Some(found), _) => found,
            (None, Some(job)) => self.read(move |trees, _| job(trees)).await,
            // cannot happen: a job that ran has a result.
            (None, None) => Err(StoreError::Closed),
        }
    }

    /// Returns when readers see everything that was acknowledged.
    async fn caught_up(&self) {
        if self.identity.durability == Durability::Interval {
            self.shared.caught_up().await;
        }
    }

    async fn send(&self, command: Command) -> Result<(), StoreError> {
        self.shared.writable().map_err(StoreError::Failed)?;
        self.committer.send(command).await.map_err(|_| StoreError::Closed)
    }
}

fn spawn<T: Send + 'static>(name: &str, run: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>, StoreError> {
    let thread = std::thread::Builder::new().name(format!("dateline-{name}"));
    thread.spawn(run).map_err(|error| StoreError::io("cannot start a thread", error))
}

impl Drop for SledStore {
    fn drop(&mut self) {
        self.trees.compression().stop_offering();
        // sled's own end panics, or waits for ever, where it could not write: what has failed is left behind.
        if matches!(self.shared.health(), StoreHealth::Failed(_)) {
            std::mem::forget(Arc::clone(&self.trees));
        }
    }
}

#[async_trait]
impl ArticleStore for SledStore {
    fn identity(&self) -> StoreIdentity {
        self.identity
    }

    fn health(&self) -> StoreHealth {
        self.shared.health()
    }

    async fn health_changed(&self, seen: &StoreHealth) -> StoreHealth {
        self.shared.health_changed(seen).await
    }

    fn sequence(&self) -> u64 {
        self.shared.sequence()
    }

    async fn sequence_after(&self, seen: u64) -> Result<u64, StoreError> {
        tokio::select! {
            biased;
            () = self.committer.closed() => Err(self.shared.writable().map_or_else(StoreError::Failed, |()| StoreError::Closed)),
            sequence = self.shared.sequence_after(seen) => sequence.map_err(StoreError::Failed),
        }
    }

    async fn article(&self, key: &ArticleKey) -> Result<Option<StoredArticle>, StoreError> {
        let key = key.clone();
        self.read_one(key.date, move |trees| trees.article(&key)).await
    }

    async fn latest_article(&self, url: &CanonicalUrl) -> Result<Option<StoredArticle>, StoreError> {
        self.caught_up().await;
        let here = |_: &Cancelled| match self.trees.indexed_dates(url).next().transpose()? {
            None => Ok(Some(None)),
            // Where the index is ahead of the article, there may be an earlier one: that is for the pool.
            Some(date) if self.trees.day_is_known(date) => {
                let article = self.trees.article(&ArticleKey { date, url: url.clone() })?;
                Ok(article.map(Some))
            }
            Some(_) => Ok(None),
        };
        if let Some(found) = self.pool.run_here(here) {
            return found;
        }
        let url = url.clone();
        self.read(move |trees, _| trees.latest_article(&url)).await
    }

    async fn article_dates(&self, url: &CanonicalUrl, limit: usize) -> Result<Vec<ArticleDate>, StoreError> {
        let url = url.clone();
        self.read(move |trees, _| trees.article_dates(&url, limit)).await
    }

    async fn revision(&self, key: &ArticleKey, revision: u64) -> Result<FoundRevision, StoreError> {
        let key = key.clone();
        self.read_one(key.date, move |trees| trees.revision(&key, revision)).await
    }

    async fn revision_as_of(&self, key: &ArticleKey, instant: Timestamp) -> Result<FoundRevision, StoreError> {
        let key = key.clone();
        self.read_one(key.date, move |trees| trees.revision_as_of(&key, instant)).await
    }

    async fn revisions(&self, request: &RevisionsRequest) -> Result<Page<StoredArticle, u64>, StoreError> {
        let request = request.clone();
        self.read(move |trees, cancelled| trees.revisions(&request, cancelled)).await
    }

    async fn revision_heads(&self, request: &RevisionsRequest) -> Result<Page<ArticleHead, u64>, StoreError> {
        let request = request.clone();
        self.read(move |trees, cancelled| trees.revision_heads(&request, cancelled)).await
    }

    async fn articles(&self, keys: &[ArticleKey], text_budget: usize) -> Result<Vec<LookupResult>, StoreError> {
        self.caught_up().await;
        let here = |cancelled: &Cancelled| self.trees.articles(keys, text_budget, cancelled).map(Some);
        if let Some(found) = (text_budget <= TEXTS_HERE).then(|| self.pool.run_here(here)).flatten() {
            return found;
        }
        let keys = keys.to_vec();
        self.read(move |trees, cancelled| trees.articles(&keys, text_budget, cancelled)).await
    }

    async fn scan(&self, request: &ScanRequest) -> Result<Page<StoredArticle>, StoreError> {
        self.caught_up().await;
        let here = |cancelled: &Cancelled| self.trees.scan(request, cancelled).map(Some);
        if let Some(found) = (request.text_budget <= TEXTS_HERE).then(|| self.pool.run_here(here)).flatten() {
            return found;
        }
        let request = request.clone();
        self.read(move |trees, cancelled| trees.scan(&request, cancelled)).await
    }

    async fn scan_heads(&self, request: &ScanRequest) -> Result<Page<ArticleHead>, StoreError> {
        let request = request.clone();
        self.read(move |trees, cancelled| trees.scan_heads(&request, cancelled)).await
    }

    async fn count(&self, request: &CountRequest) -> Result<Vec<CountOfGroup>, StoreError> {
        let request = request.clone();
        self.read(move |trees, cancelled| trees.count(&request, cancelled)).await
    }

    async fn submit(&self, batch: WriteBatch) -> Result<PendingCommit, StoreError> {
        self.shared.writable().map_err(StoreError::Failed)?;
        let WriteBatch { writes, stream } = batch;
        // What takes microseconds is not worth another thread.
        let is_small = writes.len() <= 1 && writes.iter().all(|write| write.text_bytes() <= SMALL_WRITE_BYTES);
        let compression = Arc::clone(self.trees.compression());
        let prepare = move |writes: Vec<Write>| writes.into_iter().map(|write| PreparedWrite::of(write, &compression)).collect();
        let writes = if is_small { prepare(writes) } else { self.background.run(move || prepare(writes)).await };
        let (reply, pending) = PendingCommit::new();
        self.send(Command::Write { batch: PreparedBatch { writes, stream }, reply }).await?;
        Ok(pending)
    }

    async fn open_stream(&self, id: &IngestStreamId) -> Result<OpenedStream, StoreError> {
        let (reply, opened) = oneshot::channel();
        self.send(Command::OpenStream { id: id.clone(), reply }).await?;
        opened.await.unwrap_or(Err(StoreError::Closed))
    }

    async fn rejections(&self, id: &IngestStreamId, from: u64, limit: usize) -> Result<Page<Rejection, u64>, StoreError> {
        let id = id.clone();
        self.read(move |trees, _| streams::rejections(trees, &id, from, limit)).await
    }

    fn trimmed(&self) -> Trimmed {
        self.shared.state().contents.trimmed
    }

    async fn changes(&self, place: LogPlace, limit: usize) -> Result<Vec<Change>, StoreError> {
        self.caught_up().await;
        let up_to = self.sequence();
        let changes = self.read(move |trees, _| trees.changes(place.after, up_to, limit)).await?;
        // Only now: whatever these lack was announced before it went.
        if self.trimmed().serves(place) { Ok(changes) } else { Err(StoreError::ChangesTrimmed) }
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        self.caught_up().await;
        let (trees, pool, store_id) = (Arc::clone(&self.trees), self.pool.clone(), self.identity.store_id);
        let snapshot = self.pool.run(move |_| SledSnapshot::begin(trees, pool, store_id)).await?;
        Ok(Box::new(snapshot))
    }

    async fn verify(&self, cursor: Option<VerifyCursor>) -> Result<VerifyStep, StoreError> {
        let folder = Arc::clone(&self.folder);
        self.read(move |trees, _| {
            let before = cursor.as_ref().map_or(0, |cursor| cursor.findings);
            let step = verify::step(trees, &folder, cursor)?;
            if step.next.is_none() && before == 0 && step.findings.is_empty() {
                folder.write_verified(Timestamp::now())?;
            }
            Ok(step)
        })
        .await
    }

    async fn stats(&self) -> Result<StoreStats, StoreError> {
        self.caught_up().await;
        let State { contents, earlier_record_bytes, .. } = self.shared.state();
        let folder = Arc::clone(&self.folder);
        self.read(move |trees, _| {
            let (days, date_span) = trees.days()?;
            let (engine_bytes, journal_bytes) = (trees.bytes_on_disk(), folder_bytes(&folder.journal_path()));
            let (live_bytes, last_verification) = (trees.live_bytes()?, folder.verified()?);
            let streams = streams::count(trees)?;
            Ok(StoreStats {
                contents,
                earlier_record_bytes,
                days,
                date_span,
                engine_bytes,
                journal_bytes,
                live_bytes,
                last_verification,
                streams,
                compression: Some(trees.compression().stats()),
            })
        })
        .await
    }

    async fn close(&self) -> Result<(), StoreError> {
        // Where it is closed already, or the committer is gone, there is nobody to tell.
        drop(self.committer.send(Command::Close).await);
        self.pool.close();
        self.stop_sweep.store(true, Ordering::Relaxed);
        self.trees.compression().stop_offering();
        self.shared.writable().map_err(StoreError::Failed)?;
        let threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Threads { committer, checkpointer, reclaimer, sweep, expiry, stop_expiry, trimmer }) = threads else { return Ok(()) };
        drop(stop_expiry);
        let (trees, folder, shared) = (Arc::clone(&self.trees), Arc::clone(&self.folder), Arc::clone(&self.shared));
        let finish = tokio::task::spawn_blocking(move || {
            let ended = |_| StoreError::Failed("a thread of the store panicked".into());
            committer.join().map_err(ended)?;
            checkpointer.join().map_err(ended)?;
            reclaimer.join().map_err(ended)?;
            sweep.join().map_err(ended)?;
            expiry.join().map_err(ended)?;
            if let Some((trimmer, stop)) = trimmer {
                drop(stop);
                trimmer.join().map_err(ended)?;
            }
            shared.writable().map_err(StoreError::Failed)?;
            checkpoint(&trees, &folder, shared.group())?;
            trees.close();
            Ok(())
        });
        let finished = finish.await.unwrap_or_else(|error| Err(StoreError::Failed(error.to_string())));
        finished.inspect_err(|error| self.shared.fail(error.to_string()))
    }
}
