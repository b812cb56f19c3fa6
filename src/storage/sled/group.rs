//! Deciding what a group of writes does: from the state before it and the writes to mutations and outcomes.
//!
//! Nothing here writes. Each write sees what those before it in the same group decided, though none of it is stored yet.

use std::collections::{HashMap, HashSet};

use super::entry::{self, Manifest, State, Tombstone};
use super::journal::Mutation;
use super::keys::{self, STATE_KEY, Tree};
use super::trees::{CHUNK_BYTES, Trees, sled_error};
use crate::article::{ArticleDate, ArticleHead, ArticleKey, Digest, Timestamp};
use crate::storage::record::{EncodedContent, HEADER_BYTES, RecordHeader, Stamp};
use crate::storage::{
    Change, ChangeKind, IngestPosition, IngestStreamId, OutcomeCounts, Precondition, StoreError, StreamState, Write, WriteOutcome,
    WriteRefusal, Written,
};

/// A write whose expensive part is done.
pub enum PreparedWrite {
    Put { key: ArticleKey, digest: Digest, content: EncodedContent, precondition: Precondition },
    Delete { key: ArticleKey, precondition: Precondition },
}

impl From<Write> for PreparedWrite {
    fn from(write: Write) -> Self {
        match write {
            Write::Put { article, precondition } => {
                let (digest, content) = (article.digest(), EncodedContent::of(&article));
                Self::Put { key: article.key().clone(), digest, content, precondition }
            }
            Write::Delete { key, precondition } => Self::Delete { key, precondition },
        }
    }
}

impl PreparedWrite {
    /// About how many bytes the write adds to its group.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Put { key, content, .. } => 4 * key.url.key().len() + HEADER_BYTES + content.payload().len() + 128,
            Self::Delete { key, .. } => 4 * key.url.key().len() + 128,
        }
    }
}

/// What stands under a key as the next write of the group sees it.
#[derive(Clone)]
enum Entry {
    Live { head: ArticleHead, record: sled::IVec, record_bytes: u64 },
    Gone(Option<Tombstone>),
}

/// A group that is being decided.
pub struct Group<'a> {
    trees: &'a Trees,
    state: State,
    now: Timestamp,
    mutations: Vec<Mutation>,
    entries: HashMap<Vec<u8>, Entry>,
    /// Earlier revisions and chunks that this group adds, by article key, so that a deletion later in the group finds them.
    additions: HashMap<Vec<u8>, Vec<(Tree, Vec<u8>)>>,
    /// Articles whose stored earlier revisions this group has removed already, though sled still has them.
    purged: HashSet<Vec<u8>>,
    manifests: HashMap<ArticleDate, Manifest>,
    positions: HashMap<IngestStreamId, IngestPosition>,
}

impl<'a> Group<'a> {
    /// A group on top of this state.
    pub fn new(trees: &'a Trees, state: State) -> Self {
        let (entries, additions, purged, manifests, positions) = Default::default();
        Self { trees, state, now: Timestamp::now(), mutations: Vec::new(), entries, additions, purged, manifests, positions }
    }

    /// Decides one write.
    ///
    /// # Errors
    /// Where sled fails; the group is of no use then. A damaged record refuses its own write alone.
    pub fn write(&mut self, write: PreparedWrite) -> Result<WriteOutcome, StoreError> {
        let (PreparedWrite::Put { key, .. } | PreparedWrite::Delete { key, .. }) = &write;
        let key_bytes = keys::article_key(key);
        let entry = match self.entry(key, &key_bytes) {
            Err(StoreError::Damaged { what, detail }) => {
                tracing::error!(what, detail, "a write was refused because the record that it would replace is damaged");
                return Ok(Err(WriteRefusal::Damaged));
            }
            entry => entry?,
        };
        match write {
            PreparedWrite::Put { key, digest, content, precondition } => self.put(key, key_bytes, digest, &content, precondition, entry),
            PreparedWrite::Delete { key, precondition } => self.delete(key, key_bytes, precondition, entry),
        }
    }

    /// Where a stream stands as this group sees it.
    pub fn position(&mut self, id: &IngestStreamId) -> Result<IngestPosition, StoreError> {
        if let Some(position) = self.positions.get(id) {
            return Ok(*position);
        }
        let key = id.as_str().as_bytes();
        let new = IngestPosition { next_item: 0, counts: OutcomeCounts::default(), state: StreamState::Open, update_time: self.now };
        self.trees.get(Tree::Streams, key)?.map_or(Ok(new), |value| entry::decode_position(key, &value))
    }

    /// Records where a stream stands after the group, and gives it back with the time of the advance.
    pub fn advance(&mut self, id: &IngestStreamId, position: IngestPosition) -> IngestPosition {
        let position = IngestPosition { update_time: self.now.max(position.update_time), ..position };
        self.positions.insert(id.clone(), position);
        position
    }

    /// The group's mutations and the state after them; nothing where the group changes nothing.
    pub fn finish(mut self) -> Option<(Vec<Mutation>, State)> {
        for (date, manifest) in std::mem::take(&mut self.manifests) {
            let key = keys::day_key(date);
            let value = (manifest.count > 0).then(|| manifest.encode(&key));
            self.mutations.push(Mutation { tree: Tree::Days, key: key.into(), value });
        }
        for (id, position) in std::mem::take(&mut self.positions) {
            let key = id.as_str().as_bytes().to_vec();
            let value = Some(entry::encode_position(&key, &position));
            self.mutations.push(Mutation { tree: Tree::Streams, key, value });
        }
        if self.mutations.is_empty() {
            return None;
        }
        self.state.group += 1;
        // Last, so that sled's state never claims a group of which something is missing.
        self.set(Tree::State, STATE_KEY.to_vec(), self.state.encode());
        Some((self.mutations, self.state))
    }

    fn put(
        &mut self,
        key: ArticleKey,
        key_bytes: Vec<u8>,
        digest: Digest,
        content: &EncodedContent,
        precondition: Precondition,
        entry: Entry,
    ) -> Result<WriteOutcome, StoreError> {
        if let Err(refusal) = check(precondition, &entry) {
            return Ok(Err(refusal));
        }
        if let Entry::Live { head, .. } = &entry
            && head.digest == digest
        {
            return Ok(Ok(Written::Unchanged(head.clone())));
        }
        let (revision, create_time, not_before) = match &entry {
            Entry::Live { head, .. } => (head.revision + 1, Some(head.create_time), Some(head.update_time)),
            Entry::Gone(Some(tombstone)) => (tombstone.revision + 1, None, Some(tombstone.delete_time)),
            Entry::Gone(None) => (1, None, None),
        };
        let update_time = self.now_after(not_before);
        self.state.contents.last_sequence += 1;
        let sequence = self.state.contents.last_sequence;
        let stamp = Stamp { sequence, revision, create_time: create_time.unwrap_or(update_time), update_time };
        let text_bytes = content.text_bytes();
        let head = ArticleHead { key, revision, digest, sequence, create_time: stamp.create_time, update_time, text_bytes };

        let kind = if matches!(entry, Entry::Live { .. }) { ChangeKind::Updated } else { ChangeKind::Created };
        self.supersede(&key_bytes, &entry)?;
        let record = self.store_record(&key_bytes, &head, content, &stamp);
        let record_bytes = (HEADER_BYTES + content.payload().len()) as u64;
        if kind == ChangeKind::Created {
            self.set(Tree::Urls, keys::url_index_key(&head.key), Vec::new());
            self.state.contents.articles += 1;
        }
        self.manifest(head.key.date)?.add(&head);
        self.state.contents.text_bytes += text_bytes;
        self.state.contents.record_bytes += record_bytes;
        self.log(kind, &head, update_time);
        self.entries.insert(key_bytes, Entry::Live { head: head.clone(), record, record_bytes });
        Ok(Ok(if kind == ChangeKind::Created { Written::Created(head) } else { Written::Updated(head) }))
    }

    fn delete(
        &mut self,
        key: ArticleKey,
        key_bytes: Vec<u8>,
        precondition: Precondition,
        entry: Entry,
    ) -> Result<WriteOutcome, StoreError> {
        if let Err(refusal) = check(precondition, &entry) {
            return Ok(Err(refusal));
        }
        let Entry::Live { head, record_bytes, .. } = entry else { return Ok(Err(WriteRefusal::NotFound)) };
        let delete_time = self.now_after(Some(head.update_time));
        self.state.contents.last_sequence += 1;
        let tombstone = Tombstone { revision: head.revision, sequence: self.state.contents.last_sequence, delete_time };

        self.clear(Tree::Urls, keys::url_index_key(&key));
        self.clear(Tree::Articles, key_bytes.clone());
        self.purge_additions(&key_bytes)?;
        self.set(Tree::Tombstones, key_bytes.clone(), tombstone.encode(&key_bytes));
        self.manifest(key.date)?.remove(&head);
        let contents = &mut self.state.contents;
        contents.articles = contents.articles.saturating_sub(1);
        contents.text_bytes = contents.text_bytes.saturating_sub(head.text_bytes);
        contents.record_bytes = contents.record_bytes.saturating_sub(record_bytes);
        self.log(ChangeKind::Deleted, &head, delete_time);
        self.entries.insert(key_bytes, Entry::Gone(Some(tombstone)));
        Ok(Ok(Written::Deleted(head)))
    }

    /// Takes away what a new record replaces: keeps the live one as an earlier revision, or drops the tombstone.
    fn supersede(&mut self, key_bytes: &[u8], entry: &Entry) -> Result<(), StoreError> {
        match entry {
            Entry::Live { head, record, record_bytes } => {
                let revision_key = keys::revision_key(key_bytes, head.revision);
                self.additions.entry(key_bytes.to_vec()).or_default().push((Tree::Revisions, revision_key.clone()));
                self.set(Tree::Revisions, revision_key, record.to_vec());
                self.manifest(head.key.date)?.remove(head);
                let contents = &mut self.state.contents;
                contents.earlier_revisions += 1;
                contents.text_bytes = contents.text_bytes.saturating_sub(head.text_bytes);
                contents.record_bytes = contents.record_bytes.saturating_sub(*record_bytes);
            }
            Entry::Gone(Some(_)) => self.clear(Tree::Tombstones, key_bytes.to_vec()),
            Entry::Gone(None) => {}
        }
        Ok(())
    }

    fn store_record(&mut self, key_bytes: &[u8], head: &ArticleHead, content: &EncodedContent, stamp: &Stamp) -> sled::IVec {
        let header = content.header(&head.key, &head.digest, stamp);
        let (inline, rest) = content.payload().split_at(content.payload().len().min(CHUNK_BYTES));
        // Chunks go first: a reader that sees the record finds the rest of it.
        for (number, chunk) in rest.chunks(CHUNK_BYTES).enumerate() {
            let chunk_key = keys::chunk_key(key_bytes, head.revision, number as u16);
            self.additions.entry(key_bytes.to_vec()).or_default().push((Tree::Chunks, chunk_key.clone()));
            self.set(Tree::Chunks, chunk_key, chunk.to_vec());
        }
        let record = [&header[..], inline].concat();
        self.set(Tree::Articles, key_bytes.to_vec(), record.clone());
        record.into()
    }

    /// Removes earlier revisions and chunks of an article, those stored and those that this group adds.
    fn purge_additions(&mut self, key_bytes: &[u8]) -> Result<(), StoreError> {
        let mut purged = self.additions.remove(key_bytes).unwrap_or_default();
        if self.purged.insert(key_bytes.to_vec()) {
            let prefix = keys::revisions_prefix(key_bytes);
            for tree in [Tree::Revisions, Tree::Chunks] {
                for key in self.trees.tree(tree).scan_prefix(&prefix).keys() {
                    purged.push((tree, key.map_err(sled_error)?.to_vec()));
                }
            }
        }
        let revisions = purged.iter().filter(|(tree, _)| *tree == Tree::Revisions).count() as u64;
        self.state.contents.earlier_revisions = self.state.contents.earlier_revisions.saturating_sub(revisions);
        purged.into_iter().for_each(|(tree, key)| self.clear(tree, key));
        Ok(())
    }

    fn entry(&self, key: &ArticleKey, key_bytes: &[u8]) -> Result<Entry, StoreError> {
        if let Some(entry) = self.entries.get(key_bytes) {
            return Ok(entry.clone());
        }
        if let Some(record) = self.trees.get(Tree::Articles, key_bytes)? {
            let header =
                RecordHeader::decode(key, &record).map_err(|error| StoreError::damaged(format!("article {key}"), error.to_string()))?;
            let record_bytes = (HEADER_BYTES + header.payload_bytes()) as u64;
            return Ok(Entry::Live { head: header.into_head(), record, record_bytes });
        }
        let tombstone = self.trees.get(Tree::Tombstones, key_bytes)?;
        Ok(Entry::Gone(tombstone.map(|value| Tombstone::decode(key_bytes, &value)).transpose()?))
    }

    fn manifest(&mut self, date: ArticleDate) -> Result<&mut Manifest, StoreError> {
        use std::collections::hash_map::Entry;
        match self.manifests.entry(date) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let key = keys::day_key(date);
                let stored = self.trees.get(Tree::Days, &key)?;
                Ok(entry.insert(stored.map(|value| Manifest::decode(&key, &value)).transpose()?.unwrap_or_default()))
            }
        }
    }

    fn log(&mut self, kind: ChangeKind, head: &ArticleHead, commit_time: Timestamp) {
        let sequence = self.state.contents.last_sequence;
        let change = Change { sequence, kind, key: head.key.clone(), revision: head.revision, digest: head.digest, commit_time };
        self.set(Tree::Changes, sequence.to_be_bytes().into(), entry::encode_change(&change));
    }

    /// The time, but after this instant whatever the clock says.
    fn now_after(&self, instant: Option<Timestamp>) -> Timestamp {
        let next = instant.and_then(|instant| Timestamp::from_micros(instant.as_micros() + 1));
        next.map_or(self.now, |next| next.max(self.now))
    }

    fn set(&mut self, tree: Tree, key: Vec<u8>, value: Vec<u8>) {
        self.mutations.push(Mutation { tree, key, value: Some(value) });
    }

    fn clear(&mut self, tree: Tree, key: Vec<u8>) {
        self.mutations.push(Mutation { tree, key, value: None });
    }
}

fn check(precondition: Precondition, entry: &Entry) -> Result<(), WriteRefusal> {
    match (precondition, entry) {
        (Precondition::None, _) | (Precondition::MustNotExist, Entry::Gone(_)) => Ok(()),
        (Precondition::MustNotExist, Entry::Live { .. }) => Err(WriteRefusal::AlreadyExists),
        (Precondition::Etag(_), Entry::Gone(_)) => Err(WriteRefusal::NotFound),
        (Precondition::Etag(etag), Entry::Live { head, .. }) if head.etag() == etag => Ok(()),
        (Precondition::Etag(_), Entry::Live { .. }) => Err(WriteRefusal::EtagMismatch),
    }
}
