//! Giving space back: a segment of which most is no longer in use is emptied and given up.
//!
//! The thread reads such a segment frame by frame, and has the committer write what stands once more, a little at a time, among
//! the writes of everybody else: payloads that are in use, and every mutation that is the last of its key. So the segments that
//! are left hold all of the trees still, and sled can be built anew from them. Whoever reads meanwhile finds a record pointing
//! to one copy of its payload or the other.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use tokio::sync::{mpsc, oneshot};

use super::committer::Command;
use super::group::Relocation;
use super::journal::{Location, Mutation, SegmentReader};
use super::keys::{self, Tree};
use super::shared::Shared;
use super::stored::StoredRecord;
use super::trees::Trees;
use crate::storage::record::RecordHeader;
use crate::storage::{StoreError, StoreId};

/// About how many bytes are handed to the committer at once: what a write may have to wait for.
const STEP_BYTES: usize = 1 << 20;
/// How often a segment is gone through at most. Where an article is written meanwhile, its record becomes that of an earlier
/// revision, which the next pass finds.
const PASSES: usize = 5;
/// A complete segment of fewer bytes is a small one. Each opening of the store leaves one.
const SMALL_BYTES: u64 = 8 << 20;
/// Where there are so many small ones, they are made one.
const SMALL_SEGMENTS: usize = 4;

/// The state of the reclaiming thread.
pub struct Reclaimer {
    trees: Arc<Trees>,
    store_id: StoreId,
    shared: Arc<Shared>,
    committer: mpsc::WeakSender<Command>,
    /// Segments that were looked at and kept, since most of what they hold stands.
    kept: HashMap<u64, Kept>,
}

/// The segments below this number are complete and not needed for recovery.
#[derive(Debug, Clone, Copy)]
pub struct ReclaimRequest {
    pub before_segment: u64,
}

/// What a segment was like when it was kept.
#[derive(Debug, Clone, Copy)]
struct Kept {
    live_bytes: u64,
    /// The segment that was being written then.
    current: u64,
}

/// Something in a segment that has to be written once more before the segment can go.
enum Standing {
    /// The payload of a record. `tree` and `key` are where it stands by now: it may be an earlier revision since.
    Payload { tree: Tree, key: Vec<u8>, value: sled::IVec, location: Location, header: Box<RecordHeader> },
    /// A mutation that no later one has replaced, without a payload in the segment.
    Mutation(Mutation),
}

/// What is handed to the committer at once.
#[derive(Default)]
struct Step {
    /// By their places: several mutations lead to one payload where its article was written again in the same segment.
    relocations: BTreeMap<u64, Relocation>,
    mutations: Vec<Mutation>,
    bytes: usize,
}

impl Reclaimer {
    pub fn new(trees: Arc<Trees>, store_id: StoreId, shared: Arc<Shared>, committer: mpsc::WeakSender<Command>) -> Self {
        Self { trees, store_id, shared, committer, kept: HashMap::new() }
    }

    /// Serves requests until there is nobody to make them.
    pub fn run(mut self, requests: Receiver<ReclaimRequest>) {
        for request in requests {
            if let Err(error) = self.reclaim(request) {
                match error {
                    // Nothing is lost by waiting for the next checkpoint.
                    StoreError::Closed | StoreError::DiskFull | StoreError::Failed(_) => {}
                    error => tracing::warn!(%error, "space could not be given back"),
                }
            }
        }
    }

    fn reclaim(&mut self, request: ReclaimRequest) -> Result<(), StoreError> {
        let ReclaimRequest { before_segment } = request;
        self.remove_given_up(before_segment)?;
        let segments = self.trees.segments().numbers()?.into_iter().take_while(|segment| *segment < before_segment);
        let segments = segments.map(|segment| Ok((segment, self.file_bytes(segment)?))).collect::<Result<Vec<_>, StoreError>>()?;
        let small = |bytes: u64| bytes < SMALL_BYTES;
        let many_small = segments.iter().filter(|(_, bytes)| small(*bytes)).count() >= SMALL_SEGMENTS;
        for (segment, bytes) in segments {
            if many_small && small(bytes) || self.is_worth_it(segment, bytes, before_segment)? {
                self.empty(segment, before_segment)?;
                self.remove_given_up(before_segment)?;
            }
        }
        Ok(())
    }

    /// Removes the files of segments that were given up.
    fn remove_given_up(&mut self, before_segment: u64) -> Result<(), StoreError> {
        for segment in self.trees.segments().numbers()?.into_iter().take_while(|segment| *segment < before_segment) {
            // A snapshot may still point to what is out of use; one that begins after this look does not.
            if self.trees.get(Tree::Segments, &segment.to_be_bytes())?.is_none() && self.trees.pins().current().is_none() {
                self.trees.segments().remove(segment)?;
                self.kept.remove(&segment);
            }
        }
        Ok(())
    }

    fn file_bytes(&self, segment: u64) -> Result<u64, StoreError> {
        let path = self.trees.segments().path(segment);
        let file = std::fs::metadata(&path).map_err(|error| StoreError::io(format!("cannot look at {}", path.display()), error))?;
        Ok(file.len())
    }

    /// Whether less than half of a segment of so many bytes stands. Looks closer only where the payloads alone do not tell, and
    /// where it did not look lately.
    fn is_worth_it(&mut self, segment: u64, file_bytes: u64, current: u64) -> Result<bool, StoreError> {
        let usage = self.trees.segment_usage(segment)?;
        let live_bytes = usage.live_bytes;
        let known = self.kept.get(&segment).is_some_and(|kept| {
            // The longer it was as it is, the longer it will stay so.
            let age = kept.current.saturating_sub(segment).max(1);
            let changed = live_bytes != kept.live_bytes && live_bytes * 2 <= kept.live_bytes;
            !changed && current.saturating_sub(kept.current) < age
        });
        if known || self.trees.get(Tree::Segments, &segment.to_be_bytes())?.is_none() {
            return Ok(false);
        }
        if live_bytes * 2 >= file_bytes {
            return Ok(false);
        }
        let mut reader = self.reader(segment)?;
        let oldest = self.is_oldest(segment)?;
        // Mutations count as they are before compression, those that stand and all of them.
        let (mut standing_bytes, mut mutation_bytes, mut seen) = (0, 0, HashSet::new());
        while let Some(mutations) = reader.next_group()? {
            for mutation in mutations {
                self.shared.writable().map_err(StoreError::Failed)?;
                let bytes = mutation.frame_bytes();
                mutation_bytes += bytes as u64;
                standing_bytes += match self.standing(segment, mutation, oldest)? {
                    Some(Standing::Payload { location, header, .. }) if seen.insert(location.offset) => bytes + header.payload_bytes(),
                    Some(Standing::Mutation(_)) => bytes,
                    Some(Standing::Payload { .. }) | None => 0,
                };
            }
        }
        let all_bytes = file_bytes.max(usage.payload_bytes + mutation_bytes);
        let worth_it = standing_bytes as u64 * 2 < all_bytes;
        if !worth_it {
            self.kept.insert(segment, Kept { live_bytes, current });
        }
        Ok(worth_it)
    }

    /// Has everything written once more that stands in a segment, and the segment given up.
    fn empty(&mut self, segment: u64, current: u64) -> Result<(), StoreError> {
        for _ in 0..PASSES {
            let whole = self.write_once_more(segment)?;
            if whole && self.trees.segment_usage(segment)?.live_bytes == 0 {
                return self.command(|reply| Command::GiveUp { segment, reply });
            }
        }
        // Something is damaged: that is for verification to find, and the segment stays.
        let live_bytes = self.trees.segment_usage(segment)?.live_bytes;
        self.kept.insert(segment, Kept { live_bytes, current });
        Ok(())
    }

    /// Has everything written once more that stands in a segment. Gives whether all its mutations could be read.
    fn write_once_more(&self, segment: u64) -> Result<bool, StoreError> {
        let mut reader = self.reader(segment)?;
        let oldest = self.is_oldest(segment)?;
        let mut step = Step::default();
        while let Some(mutations) = reader.next_group()? {
            for mutation in mutations {
                self.shared.writable().map_err(StoreError::Failed)?;
                step.add(&self.trees, self.standing(segment, mutation, oldest)?)?;
                if step.bytes >= STEP_BYTES {
                    self.relocate(std::mem::take(&mut step))?;
                }
            }
        }
        self.relocate(step)?;
        Ok(!reader.passed_over())
    }

    fn reader(&self, segment: u64) -> Result<SegmentReader, StoreError> {
        // It is complete, so none of its groups is torn.
        SegmentReader::open_with(&self.trees.segments().path(segment), self.store_id, segment, u64::MAX)
    }

    /// Whether there is no needed segment before this one.
    fn is_oldest(&self, segment: u64) -> Result<bool, StoreError> {
        let first = self.trees.segment_usages()?.first().map(|(first, _)| *first);
        Ok(first.is_none_or(|first| first >= segment))
    }

    /// What a mutation of a segment put there and still stands.
    fn standing(&self, segment: u64, mutation: Mutation, oldest: bool) -> Result<Option<Standing>, StoreError> {
        let Mutation { tree, key, value } = &mutation;
        let found = match (tree, value) {
            // The latest group holds the state, and the first of the current segment all of these.
            (Tree::State | Tree::Segments, _) => return Ok(None),
            // Nothing replaces one: where sled's is another it is damaged, and the journal is what mends it.
            (Tree::Dictionaries, _) => return Ok(Some(Standing::Mutation(mutation))),
            (Tree::Revisions, Some(_)) => self.in_use(segment, Tree::Revisions, key)?,
            (Tree::Articles, Some(written)) => match self.in_use(segment, Tree::Articles, key)? {
                // Where the article was written again since, its record is that of an earlier revision.
                None => match StoredRecord::decode(&keys::parse_article_key(key)?, written) {
                    Ok(written) => self.in_use(segment, Tree::Revisions, &keys::revision_key(key, written.header.head().revision))?,
                    Err(_) => None,
                },
                found => found,
            },
            // What a removal took away must stay away, as long as there may be something.
            (_, None) if oldest => return Ok(None),
            _ => None,
        };
        if found.is_some() {
            return Ok(found);
        }
        let stands = self.trees.get(*tree, key)?.as_deref() == value.as_deref();
        Ok(stands.then_some(Standing::Mutation(mutation)))
    }

    /// A record, where there is one and its payload is in the segment.
    fn in_use(&self, segment: u64, tree: Tree, key: &[u8]) -> Result<Option<Standing>, StoreError> {
        let Some(value) = self.trees.get(tree, key)? else { return Ok(None) };
        let article = if tree == Tree::Articles { keys::parse_article_key(key) } else { keys::parse_revision_key(key) }?;
        let Ok(StoredRecord { header, location }) = StoredRecord::decode(&article, &value) else { return Ok(None) };
        let here = location.segment == segment;
        Ok(here.then(|| Standing::Payload { tree, key: key.to_vec(), value, location, header: Box::new(header) }))
    }

    fn relocate(&self, step: Step) -> Result<(), StoreError> {
        let Step { relocations, mutations: standing, .. } = step;
        if relocations.is_empty() && standing.is_empty() {
            return Ok(());
        }
        let relocations = relocations.into_values().collect();
        self.command(|reply| Command::Relocate { relocations, standing, reply })
    }

    /// Has the committer carry a command out, and waits until it is done.
    fn command(&self, command: impl FnOnce(oneshot::Sender<Result<(), StoreError>>) -> Command) -> Result<(), StoreError> {
        let (reply, done) = oneshot::channel();
        let committer = self.committer.upgrade().ok_or(StoreError::Closed)?;
        committer.blocking_send(command(reply)).map_err(|_| StoreError::Closed)?;
        drop(committer);
        done.blocking_recv().unwrap_or(Err(StoreError::Closed))
    }
}

impl Step {
    fn add(&mut self, trees: &Trees, standing: Option<Standing>) -> Result<(), StoreError> {
        match standing {
            None => {}
            Some(Standing::Mutation(mutation)) => {
                self.bytes += mutation.frame_bytes();
                self.mutations.push(mutation);
            }
            Some(Standing::Payload { tree, key, value, location, header }) => {
                let payload = trees.segments().read(location, header.payload_bytes())?;
                let Some(payload) = payload.filter(|payload| header.matches(payload)) else { return Ok(()) };
                self.bytes += payload.len() + key.len() + value.len();
                self.relocations.insert(location.offset, Relocation { tree, key, value, from: location, payload });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::article::{Article, ArticleDraft, Limits};
    use crate::storage::sled::SledStore;
    use crate::storage::{ArticleStore as _, Precondition, StoreOptions, Write, WriteBatch};

    fn article(path: &str, body: &str) -> Article {
        let url = format!("https://example.com{path}");
        let draft = ArticleDraft { date: "2024-05-01".into(), url, body: body.into(), ..ArticleDraft::default() };
        draft.validate(&Limits::default()).unwrap()
    }

    async fn put(store: &SledStore, path: &str, body: &str) {
        let writes = vec![Write::put(article(path, body))];
        store.write(WriteBatch { writes, stream: None }).await.unwrap().outcomes.remove(0).unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn everything_that_is_in_use_moves_and_nothing_moves_twice() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path(), StoreOptions::default()).unwrap();
        for (path, body) in [("/stays", "1"), ("/twice", "1"), ("/twice", "2"), ("/replaced", "1"), ("/deleted", "1")] {
            put(&store, path, body).await;
        }
        store.close().await.unwrap();
        drop(store);
        // Opening goes on in the next segment.
        let store = SledStore::open(folder.path(), StoreOptions::default()).unwrap();
        put(&store, "/replaced", "2").await;
        let key = article("/deleted", "1").key().clone();
        let writes = vec![Write::Delete { key, precondition: Precondition::None }];
        store.write(WriteBatch { writes, stream: None }).await.unwrap().outcomes.remove(0).unwrap();
        let live = |segment| store.trees.segment_usage(segment).unwrap().live_bytes;
        let (old, new) = (live(1), live(2));
        assert!(old > 0 && new > 0);

        let (trees, shared) = (Arc::clone(&store.trees), Arc::clone(&store.shared));
        let mut reclaimer = Reclaimer::new(trees, store.folder.store_id(), shared, store.committer.downgrade());
        tokio::task::spawn_blocking(move || reclaimer.empty(1, 2)).await.unwrap().unwrap();
        assert_eq!((live(1), live(2)), (0, old + new));
        for expected in [article("/stays", "1"), article("/twice", "2"), article("/replaced", "2")] {
            assert_eq!(store.article(expected.key()).await.unwrap().unwrap().article, expected);
        }
        store.close().await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_dictionary_outlives_its_segment_also_where_only_the_journal_has_it() {
        use crate::storage::sled::dictionaries::tests::{add, dictionary, open, put};

        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path(), 0..0).await;
        add(&store, dictionary(1)).await;
        put(&store, 0..20).await;
        store.close().await.unwrap();
        drop(store);
        let store = open(folder.path(), 0..20).await;
        put(&store, 20..40).await;
        store.trees.tree(Tree::Dictionaries).clear().unwrap();
        let (trees, shared) = (Arc::clone(&store.trees), Arc::clone(&store.shared));
        let mut reclaimer = Reclaimer::new(trees, store.folder.store_id(), shared, store.committer.downgrade());
        tokio::task::spawn_blocking(move || {
            reclaimer.empty(1, 2).unwrap();
            reclaimer.remove_given_up(2).unwrap();
        })
        .await
        .unwrap();
        assert_eq!(store.trees.segments().numbers().unwrap(), [2]);
        store.close().await.unwrap();
        drop(store);
        std::fs::write(folder.path().join("REBUILD"), "as a test wants").unwrap();
        open(folder.path(), 0..40).await.close().await.unwrap();
    }
}
