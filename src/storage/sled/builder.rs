//! Making a store from the items of a snapshot: restoring a backup, and compaction.
//!
//! The new store grows in a folder beside its place and is put there when it is whole and durable. A process that ends before
//! leaves that folder, which the next attempt removes, and nothing at the place.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::change_log;
use super::dictionaries;
use super::entry::{self, Manifest, SegmentUsage, State, Tombstone};
use super::folder::{Checkpoint, Folder, sync_folder};
use super::journal::{Frame, Journal, Location, Mutation, Segments};
use super::keys::{self, STATE_KEY, Tree};
use super::segment_list;
use super::stored::StoredRecord;
use super::trees::{CollectEveryMs, Trees};
use crate::article::{ArticleDate, StoredArticle};
use crate::storage::compression::learning::Learner;
use crate::storage::compression::{Compression, Dictionary, Levels};
use crate::storage::record::{EncodedContent, HEADER_BYTES, Stamp, encode_content};
use crate::storage::{Change, Contents, SnapshotItem, StoreBuilder, StoreError, StoreId, Trimmed};

/// About how many bytes are written and applied at once.
const GROUP_BYTES: usize = 4 << 20;
/// Bytes of a segment, as the committer makes them.
const SEGMENT_BYTES: u64 = 64 << 20;

/// A store in the making.
pub struct SledBuilder {
    place: PathBuf,
    making: Making,
    journal: Journal,
    trees: Trees,
    folder: Arc<Folder>,
    state: State,
    /// Learns from what comes, where nothing was learned before.
    learner: Option<Learner>,
    /// Articles whose first revision since they were created is there.
    firsts: u64,
    changes: u64,
    mutations: Vec<Mutation>,
    /// Changes that have no mutation yet.
    log: Vec<Change>,
    payloads: Vec<Vec<u8>>,
    payload_bytes: usize,
    next_payload: Location,
    manifests: BTreeMap<ArticleDate, Manifest>,
    usages: BTreeMap<u64, SegmentUsage>,
}

/// The folder in which a store grows; it goes where it does not become one.
struct Making {
    path: PathBuf,
    keep: bool,
}

impl Drop for Making {
    fn drop(&mut self) {
        if !self.keep {
            // The next attempt removes what is left.
            drop(fs::remove_dir_all(&self.path));
        }
    }
}

impl SledBuilder {
    /// Begins a store that is to be in a folder that is empty or missing.
    pub fn begin(place: &Path, store_id: Option<StoreId>) -> Result<Self, StoreError> {
        let is_empty = || fs::read_dir(place).is_ok_and(|mut entries| entries.next().is_none());
        if place.symlink_metadata().is_ok() && !is_empty() {
            let text = format!("{} is there already and is not an empty folder: choose another place", place.display());
            return Err(StoreError::CannotOpen(text));
        }
        Self::begin_beside(place, store_id)
    }

    /// Begins a store that is to take a place, whatever is there.
    fn begin_beside(place: &Path, store_id: Option<StoreId>) -> Result<Self, StoreError> {
        let name = place.file_name().ok_or_else(|| StoreError::CannotOpen(format!("{} has no name", place.display())))?;
        let path = place.with_file_name(format!("{}.making", name.to_string_lossy()));
        if path.exists() {
            // Fails where another process is at it.
            drop(Folder::open(&path)?);
            fs::remove_dir_all(&path).map_err(|error| StoreError::io(format!("cannot remove {}", path.display()), error))?;
        }
        let folder = Arc::new(Folder::create(&path, store_id)?);
        let making = Making { path, keep: false };
        let segments = Arc::new(Segments::new(folder.journal_path()));
        let trees = Trees::open(&folder, segments, CollectEveryMs::Building)?;
        let journal = Journal::create(&folder.journal_path(), folder.store_id(), 1, 1)?;
        let next_payload = journal.next_payload();
        Ok(Self {
            place: place.to_owned(),
            making,
            journal,
            trees,
            folder,
            state: State::default(),
            learner: Some(Learner::default()),
            firsts: 0,
            changes: 0,
            mutations: Vec::new(),
            log: Vec::new(),
            payloads: Vec::new(),
            payload_bytes: 0,
            next_payload,
            manifests: BTreeMap::new(),
            usages: BTreeMap::new(),
        })
    }

    fn item(&mut self, item: SnapshotItem, content: Option<EncodedContent>) {
        let contents = &mut self.state.contents;
        match item {
            SnapshotItem::Article(stored) => {
                contents.articles += 1;
                contents.text_bytes += stored.article.text_bytes() as u64;
                self.manifests.entry(stored.head.key.date).or_default().add(&stored.head);
                self.set(Tree::Urls, keys::url_index_key(&stored.head.key), Vec::new());
                self.firsts += u64::from(is_first(&stored));
                let key = keys::article_key(&stored.head.key);
                self.state.contents.record_bytes += self.record(Tree::Articles, key, &stored, content);
            }
            SnapshotItem::EarlierRevision(stored) => {
                contents.earlier_revisions += 1;
                self.firsts += u64::from(is_first(&stored));
                let key = keys::revision_key(&keys::article_key(&stored.head.key), stored.head.revision);
                self.state.earlier_record_bytes += self.record(Tree::Revisions, key, &stored, content);
            }
            SnapshotItem::Tombstone { key, revision, sequence, delete_time } => {
                let key = keys::article_key(&key);
                let value = Tombstone { revision, sequence, delete_time }.encode(&key);
                self.set(Tree::Tombstones, key, value);
            }
            SnapshotItem::Change(change) => {
                self.changes += 1;
                contents.last_sequence = contents.last_sequence.max(change.sequence);
                self.log.push(change);
            }
            SnapshotItem::Stream { id, position } => {
                let key = id.as_str().as_bytes().to_vec();
                let value = entry::encode_position(&key, &position);
                self.set(Tree::Streams, key, value);
            }
        }
    }

    /// Adds a record with its payload. Gives the bytes of both.
    fn record(&mut self, tree: Tree, key: Vec<u8>, stored: &StoredArticle, content: Option<EncodedContent>) -> u64 {
        let StoredArticle { head, article } = stored;
        let stamp =
            Stamp { sequence: head.sequence, revision: head.revision, create_time: head.create_time, update_time: head.update_time };
        if let Some(learner) = &mut self.learner {
            learner.offer(&encode_content(article));
        }
        let content = content.unwrap_or_else(|| EncodedContent::of(article, self.trees.compression()));
        let header = content.header(&head.key, &head.digest, &stamp);
        let payload = content.into_payload();
        let bytes = payload.len() as u64;
        let usage = self.usages.entry(self.next_payload.segment).or_default();
        usage.payload_bytes += bytes;
        usage.live_bytes += bytes;
        self.set(tree, key, StoredRecord::encode(&header, self.next_payload));
        self.next_payload.offset += bytes;
        self.payload_bytes += payload.len();
        self.payloads.push(payload);
        HEADER_BYTES as u64 + bytes
    }

    /// Learns from what came so far, where it is time to.
    fn learn(&mut self) -> Result<(), StoreError> {
        let written = self.state.contents.articles + self.state.contents.earlier_revisions;
        if let Some(learner) = self.learner.as_mut().filter(|learner| learner.is_due(written))
            && let Some(dictionary) = learner.learn(written, self.trees.compression())
        {
            // It is used as soon as it is there.
            self.add_dictionary(&dictionary);
            self.flush()?;
        }
        Ok(())
    }

    /// Learns from these contents alone, and encodes what comes as compaction does.
    fn learn_from(&mut self, mut samples: Learner, sequence: u64) -> Result<(), StoreError> {
        let compression = self.trees.compression();
        compression.set_levels(Levels::COMPACTING);
        let dictionary = samples.learn(sequence, compression);
        self.learner = None;
        if let Some(dictionary) = dictionary {
            self.add_dictionary(&dictionary);
            self.flush()?;
        }
        Ok(())
    }

    fn add_dictionary(&mut self, dictionary: &Dictionary) {
        self.state.last_dictionary = dictionary.id;
        self.mutations.extend(dictionaries::mutations(dictionary));
    }

    fn set(&mut self, tree: Tree, key: Vec<u8>, value: Vec<u8>) {
        self.mutations.push(Mutation { tree, key, value: Some(value) });
    }

    /// Writes out what came together.
    fn flush(&mut self) -> Result<(), StoreError> {
        for (key, value) in change_log::entries(&std::mem::take(&mut self.log)) {
            self.set(Tree::Changes, key, value);
        }
        let mut usages = std::mem::take(&mut self.usages);
        for (segment, usage) in &mut usages {
            // Several groups share a segment.
            let before = self.trees.segment_usage(*segment)?;
            usage.payload_bytes += before.payload_bytes;
            usage.live_bytes += before.live_bytes;
        }
        let place = segment_list::Place::next(&self.journal, self.state.group);
        self.mutations.extend(segment_list::mutations(&self.trees, place, usages, &HashSet::new())?);
        self.state.group += 1;
        self.set(Tree::State, STATE_KEY.into(), self.state.encode());
        let (mutations, payloads) = (std::mem::take(&mut self.mutations), std::mem::take(&mut self.payloads));
        self.payload_bytes = 0;
        self.journal.append(Frame::new(self.state.group, &payloads, mutations.iter()))?;
        self.trees.apply(mutations)?;
        if self.journal.bytes() >= SEGMENT_BYTES {
            self.journal.rotate(self.state.group + 1)?;
        }
        self.next_payload = self.journal.next_payload();
        Ok(())
    }

    /// Makes everything durable and checks that it is what it should be. Gives the folder that it is in.
    fn complete(mut self, contents: &Contents) -> Result<(PathBuf, Making), StoreError> {
        for (date, manifest) in std::mem::take(&mut self.manifests) {
            let key = keys::day_key(date);
            self.set(Tree::Days, key.into(), manifest.encode(&key));
        }
        self.state.contents.last_sequence = self.state.contents.last_sequence.max(contents.last_sequence);
        self.state.contents.trimmed =
            Trimmed { removed: self.state.contents.last_sequence.saturating_sub(self.changes), ..contents.trimmed };
        self.state.deletions.swept = contents.trimmed.deletions;
        self.state.revisions_dropped = self.firsts < self.state.contents.articles;
        self.flush()?;
        let told = |contents: &Contents| Contents { record_bytes: 0, ..*contents };
        if told(&self.state.contents) != told(contents) {
            let detail = format!("it should hold {contents:?}, and its items come to {:?}", self.state.contents);
            return Err(StoreError::damaged("the snapshot", detail));
        }
        self.trees.flush()?;
        self.folder.write_checkpoint(Checkpoint { group: self.state.group })?;
        self.trees.close();
        Ok((self.place, self.making))
    }
}

impl StoreBuilder for SledBuilder {
    fn add(&mut self, items: Vec<SnapshotItem>) -> Result<(), StoreError> {
        let contents = encode(&items, self.trees.compression());
        for (item, content) in items.into_iter().zip(contents) {
            self.item(item, content);
            if self.payload_bytes + 256 * (self.mutations.len() + self.log.len()) > GROUP_BYTES {
                self.flush()?;
                self.learn()?;
            }
        }
        Ok(())
    }

    fn finish(self: Box<Self>, contents: &Contents) -> Result<(), StoreError> {
        let (place, mut making) = self.complete(contents)?;
        // Goes over an empty folder, and over nothing else.
        fs::rename(&making.path, &place).map_err(|error| StoreError::io(format!("cannot create {}", place.display()), error))?;
        making.keep = true;
        sync_parent(&place)
    }
}

/// See [`storage::compact`](crate::storage::compact).
pub fn compact(path: &Path, mut progress: impl FnMut(u64)) -> Result<(), StoreError> {
    let parts = super::recovery::Parts::open_supervised(path)?;
    let mut builder = SledBuilder::begin_beside(path, Some(parts.folder.store_id()))?;
    let samples = dictionaries::samples(&parts.trees, &parts.state)?;
    builder.learn_from(samples, parts.state.contents.last_sequence)?;
    let (mut snapshot, mut done) = (super::snapshot::Reading::begin(&parts.trees)?, 0);
    let contents = parts.state.contents;
    while let Some(items) = snapshot.next_page(&parts.trees)? {
        done += items.len() as u64;
        builder.add(items)?;
        progress(done);
    }
    let (place, making) = builder.complete(&contents)?;
    // Both at once: there is a whole store at the place at every moment.
    rustix::fs::renameat_with(rustix::fs::CWD, &making.path, rustix::fs::CWD, &place, rustix::fs::RenameFlags::EXCHANGE)
        .map_err(|error| StoreError::io(format!("cannot put the compacted store in the place of {}", place.display()), error.into()))?;
    sync_parent(&place)?;
    // What is removed with `making` now is the store as it was.
    drop(parts);
    Ok(())
}

/// Encodes the contents of articles and earlier revisions, on as many threads as there are cores: most of the work on them.
fn encode(items: &[SnapshotItem], compression: &Compression) -> Vec<Option<EncodedContent>> {
    let one = |item: &SnapshotItem| match item {
        SnapshotItem::Article(stored) | SnapshotItem::EarlierRevision(stored) => Some(EncodedContent::of(&stored.article, compression)),
        SnapshotItem::Tombstone { .. } | SnapshotItem::Change(_) | SnapshotItem::Stream { .. } => None,
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let parts = items.chunks(items.len().div_ceil(threads).max(1));
        let parts: Vec<_> = parts.map(|part| scope.spawn(move || part.iter().map(one).collect::<Vec<_>>())).collect();
        parts.into_iter().flat_map(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

fn is_first(stored: &StoredArticle) -> bool {
    stored.head.update_time == stored.head.create_time
}

fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync_folder(parent.unwrap_or(Path::new(".")))
}
