//! A snapshot of the trees, read in pages while they change.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use async_trait::async_trait;

use super::change_log;
use super::entry::{self, State, Tombstone};
use super::keys::{self, STATE_KEY, Tree};
use super::pin::Pin;
use super::pool::Pool;
use super::stored::StoredRecord;
use super::trees::{Trees, sled_error};
use crate::article::{ArticleKey, StoredArticle, Timestamp};
use crate::storage::{Contents, Snapshot, SnapshotInfo, SnapshotItem, StoreError, StoreId};

/// Entries of a page at most, and about how many bytes of text.
const PAGE_ENTRIES: usize = 1000;
const PAGE_BYTES: usize = 2 << 20;
/// The trees of which a snapshot consists, in the order of their items. Everything else follows from them.
const PARTS: [Tree; 5] = [Tree::Articles, Tree::Revisions, Tree::Tombstones, Tree::Changes, Tree::Streams];

/// A snapshot that is being read.
pub struct SledSnapshot {
    trees: Arc<Trees>,
    pool: Pool,
    info: SnapshotInfo,
    reading: Option<Reading>,
}

/// How far a snapshot was read, and what holds back what changes meanwhile.
#[derive(Clone)]
pub struct Reading {
    pin: Arc<Pin>,
    contents: Contents,
    part: usize,
    after: Option<Vec<u8>>,
}

impl SledSnapshot {
    /// A snapshot of the trees as they are now. Blocks.
    ///
    /// # Errors
    /// [`StoreError::SnapshotBusy`] where another is being read.
    pub fn begin(trees: Arc<Trees>, pool: Pool, store_id: StoreId) -> Result<Self, StoreError> {
        let reading = Reading::begin(&trees)?;
        let info = SnapshotInfo { store_id, contents: reading.contents, create_time: Timestamp::now() };
        Ok(Self { trees, pool, info, reading: Some(reading) })
    }
}

#[async_trait]
impl Snapshot for SledSnapshot {
    fn info(&self) -> &SnapshotInfo {
        &self.info
    }

    async fn next_page(&mut self) -> Result<Option<Vec<SnapshotItem>>, StoreError> {
        let Some(mut reading) = self.reading.clone() else { return Ok(None) };
        let trees = Arc::clone(&self.trees);
        let (items, reading) = self.pool.run(move |_| reading.next_page(&trees).map(|items| (items, reading))).await?;
        self.reading = items.is_some().then_some(reading);
        Ok(items)
    }
}

impl Reading {
    /// From now on changes are held back.
    pub fn begin(trees: &Trees) -> Result<Self, StoreError> {
        trees.between_groups(|trees| {
            let pin = trees.pins().begin().ok_or(StoreError::SnapshotBusy)?;
            let state = trees.get(Tree::State, STATE_KEY)?.map_or(Ok(State::default()), |value| State::decode(&value))?;
            Ok(Self { pin, contents: state.contents, part: 0, after: None })
        })
    }

    /// The next items; `None` at the end.
    pub fn next_page(&mut self, trees: &Trees) -> Result<Option<Vec<SnapshotItem>>, StoreError> {
        while let Some(&tree) = PARTS.get(self.part) {
            let items = self.page(trees, tree)?;
            if self.pin.exceeded() {
                return Err(StoreError::SnapshotTooOld);
            }
            if !items.is_empty() {
                return Ok(Some(items));
            }
        }
        Ok(None)
    }

    fn page(&mut self, trees: &Trees, tree: Tree) -> Result<Vec<SnapshotItem>, StoreError> {
        let start = self.after.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let entries = trees.tree(tree).range::<Vec<u8>, _>((start, Bound::Unbounded)).take(PAGE_ENTRIES);
        let mut entries = entries
            .map(|entry| entry.map(|(key, value)| (key.to_vec(), value)).map_err(sled_error))
            .collect::<Result<BTreeMap<_, _>, _>>()?;
        let last = (entries.len() == PAGE_ENTRIES).then(|| entries.last_key_value().map(|(key, _)| key.clone())).flatten();
        // After the page was read: what was changed before that was noted before it was changed.
        self.pin.put_right(tree, &mut entries, self.after.as_deref(), last.as_deref());
        let (mut items, mut bytes) = (Vec::with_capacity(entries.len()), 0);
        for (key, value) in entries {
            let last_sequence = self.contents.last_sequence;
            if tree == Tree::Changes {
                let (_, run) = change_log::decode(&key, &value)?;
                bytes += value.len();
                items.extend(run.into_iter().filter(|change| change.sequence <= last_sequence).map(SnapshotItem::Change));
            } else if let Some(item) = item(trees, tree, &key, &value, last_sequence)? {
                bytes += match &item {
                    SnapshotItem::Article(stored) | SnapshotItem::EarlierRevision(stored) => stored.article.size(),
                    _ => 0,
                };
                items.push(item);
            }
            if bytes > PAGE_BYTES {
                self.after = Some(key);
                return Ok(items);
            }
        }
        match last {
            Some(last) => self.after = Some(last),
            None => (self.part, self.after) = (self.part + 1, None),
        }
        Ok(items)
    }
}

/// The item of an entry; `None` for one that is newer than the snapshot.
fn item(trees: &Trees, tree: Tree, key: &[u8], value: &[u8], last_sequence: u64) -> Result<Option<SnapshotItem>, StoreError> {
    let record = |key: &ArticleKey| {
        let stored = StoredRecord::decode(key, value)?;
        if stored.header.head().sequence > last_sequence { Ok(None) } else { read(trees, key, stored).map(|stored| Some(Box::new(stored))) }
    };
    Ok(match tree {
        Tree::Articles => record(&keys::parse_article_key(key)?)?.map(SnapshotItem::Article),
        Tree::Revisions => record(&keys::parse_revision_key(key)?)?.map(SnapshotItem::EarlierRevision),
        Tree::Tombstones => {
            let Tombstone { revision, sequence, delete_time } = Tombstone::decode(key, value)?;
            let item = SnapshotItem::Tombstone { key: keys::parse_article_key(key)?, revision, sequence, delete_time };
            Some(item).filter(|_| sequence <= last_sequence)
        }
        Tree::Streams if keys::is_stream_detail(key) => None,
        Tree::Streams => Some(SnapshotItem::Stream { id: keys::parse_stream_key(key)?, position: entry::decode_position(key, value)? }),
        Tree::Segments | Tree::Urls | Tree::Changes | Tree::Days | Tree::State | Tree::Dictionaries => {
            return Err(StoreError::Failed(format!("the tree {} is no part of a snapshot", tree.name())));
        }
    })
}

/// A record with its payload. What was superseded has its payload where it was: no segment goes meanwhile.
fn read(trees: &Trees, key: &ArticleKey, stored: StoredRecord) -> Result<StoredArticle, StoreError> {
    let StoredRecord { header, location } = stored;
    let damaged = |detail: String| StoreError::damaged(format!("article {key}"), detail);
    let payload = trees.segments().read(location, header.payload_bytes())?;
    let payload = payload.ok_or_else(|| damaged("the journal does not hold its text".into()))?;
    header.decode_article(&payload, trees.compression()).map_err(|error| damaged(error.to_string()))
}
