//! Deciding what a group of writes does: from the state before it and the writes to mutations and outcomes.
//!
//! Nothing here writes. Each write sees what those before it in the same group decided, though none of it is stored yet.

mod past;
mod trim;

use std::collections::{BTreeMap, HashMap, HashSet};

pub use trim::TrimStep;

use super::dictionaries;
use super::entry::{Manifest, SegmentUsage, State, Tombstone};
use super::journal::{Journal, Location, Mutation};
use super::keys::{self, STATE_KEY, Tree};
use super::segment_list;
use super::stored::StoredRecord;
use super::streams::StreamEntries;
use super::trees::Trees;
use crate::article::{ArticleDate, ArticleHead, ArticleKey, Digest, Timestamp};
use crate::storage::compression::{Compression, Dictionary};
use crate::storage::planted::{Fault, planted};
use crate::storage::record::{EncodedContent, HEADER_BYTES, Stamp};
use crate::storage::stream::forgotten_before;
use crate::storage::{
    Change, ChangeKind, History, IngestPosition, IngestStreamId, ItemHash, Precondition, StoreError, StoreOptions, StreamAdvance, Write,
    WriteOutcome, WriteRefusal, Written,
};

/// A write whose expensive part is done.
pub enum PreparedWrite {
    Put { key: ArticleKey, digest: Digest, content: EncodedContent, precondition: Precondition },
    Delete { key: ArticleKey, precondition: Precondition },
}

impl PreparedWrite {
    /// Does it.
    pub fn of(write: Write, compression: &Compression) -> Self {
        match write {
            Write::Put { article, precondition } => {
                let (digest, content) = (article.digest(), EncodedContent::of(&article, compression));
                Self::Put { key: article.key().clone(), digest, content, precondition }
            }
            Write::Delete { key, precondition } => Self::Delete { key, precondition },
        }
    }

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
    Live { head: ArticleHead, record: sled::IVec, payload: Payload },
    Gone(Option<Tombstone>),
}

/// Where a record's payload is and how long.
#[derive(Debug, Clone, Copy)]
struct Payload {
    location: Location,
    bytes: u64,
}

impl Payload {
    fn of(record: &StoredRecord) -> Self {
        Self { location: record.location, bytes: record.header.payload_bytes() as u64 }
    }

    fn record_bytes(self) -> u64 {
        HEADER_BYTES as u64 + self.bytes
    }
}

/// A payload to be written again so that its segment can go.
pub struct Relocation {
    /// The tree of the record, articles or revisions.
    pub tree: Tree,
    /// Its key there.
    pub key: Vec<u8>,
    /// Its value there when the payload was read.
    pub value: sled::IVec,
    /// Where the payload is.
    pub from: Location,
    /// The payload, verified.
    pub payload: Vec<u8>,
}

/// What a group comes to.
pub struct Decided {
    /// What is to be done to the trees.
    pub mutations: Vec<Mutation>,
    /// What the trees hold already, and the journal is to hold once more.
    pub standing: Vec<Mutation>,
    /// The payloads that the mutations point to, in their order from the place that the group was begun with.
    pub payloads: Vec<Vec<u8>>,
    /// The state afterwards.
    pub state: State,
    /// Whether it stores something new; otherwise it is the kind of group that gives space back.
    pub grows: bool,
}

/// A group that is being decided.
pub struct Group<'a> {
    trees: &'a Trees,
    state: State,
    history: History,
    now: Timestamp,
    mutations: Vec<Mutation>,
    standing: Vec<Mutation>,
    payloads: Vec<Vec<u8>>,
    grows: bool,
    place: segment_list::Place,
    /// Where the next payload will stand.
    next_payload: Location,
    entries: HashMap<Vec<u8>, Entry>,
    /// Earlier revisions that this group adds, by article key, so that a deletion later in the group finds them.
    additions: HashMap<Vec<u8>, Vec<(Vec<u8>, Payload)>>,
    /// Articles whose stored earlier revisions this group has removed already, though sled still has them.
    purged: HashSet<Vec<u8>>,
    /// Of articles some of whose stored earlier revisions this group has removed: the key from which on they stay.
    dropped: HashMap<Vec<u8>, Vec<u8>>,
    /// What readers know to be the horizon of the change log: what goes before it is no surprise to them.
    horizon: u64,
    /// The changes that the group makes.
    changes: Vec<Change>,
    /// What stays of the runs of the log that changes are removed from, by their keys.
    trimmed_runs: BTreeMap<u64, Vec<Change>>,
    /// Whether the state changes in more than its number.
    trims: bool,
    manifests: HashMap<ArticleDate, Manifest>,
    usages: HashMap<u64, SegmentUsage>,
    /// Segments that are given up with this group.
    given_up: HashSet<u64>,
    streams: StreamEntries<'a>,
}

impl<'a> Group<'a> {
    /// A group on top of this state, which is to be the next one of a journal, and which keeps so much of the past.
    pub fn new(trees: &'a Trees, state: State, journal: &Journal, history: History) -> Self {
        let (entries, additions, purged, dropped, changes, trimmed_runs, manifests, usages, given_up) = Default::default();
        let (mutations, standing, payloads, now) = (Vec::new(), Vec::new(), Vec::new(), Timestamp::now());
        let (place, next_payload) = (segment_list::Place::next(journal, state.group), journal.next_payload());
        Self {
            trees,
            state,
            history,
            now,
            mutations,
            standing,
            payloads,
            grows: false,
            place,
            next_payload,
            entries,
            additions,
            purged,
            dropped,
            horizon: state.contents.trimmed.horizon,
            changes,
            trimmed_runs,
            trims: false,
            manifests,
            usages,
            given_up,
            streams: StreamEntries::new(trees),
        }
    }

    /// Decides one write.
    ///
    /// # Errors
    /// Where sled fails; the group is of no use then. A damaged record refuses its own write alone.
    pub fn write(&mut self, write: PreparedWrite) -> Result<WriteOutcome, StoreError> {
        let (PreparedWrite::Put { key, .. } | PreparedWrite::Delete { key, .. }) = &write;
        let key_bytes = keys::article_key(key);
        let entry = match self.trees.check_day_in_group(key.date).and_then(|()| self.entry(key, &key_bytes)) {
            Err(error @ StoreError::Damaged { .. }) => {
                self.trees.damage().note_index(&error);
                tracing::error!(%error, "a write was refused because the record that it would replace is damaged");
                return Ok(Err(WriteRefusal::Damaged));
            }
            entry => entry?,
        };
        match write {
            PreparedWrite::Put { key, digest, content, precondition } => self.put(key, key_bytes, digest, content, precondition, entry),
            PreparedWrite::Delete { key, precondition } => self.delete(key, key_bytes, precondition, entry),
        }
    }

    /// Where a stream stands as this group sees it.
    pub fn position(&mut self, id: &IngestStreamId) -> Result<IngestPosition, StoreError> {
        Ok(self.streams.position(id)?.unwrap_or_else(|| IngestPosition::new(self.now)))
    }

    /// Brings a stream on after the writes of a batch, and gives where it stands then.
    pub fn advance(&mut self, advance: &StreamAdvance, outcomes: &[WriteOutcome]) -> Result<IngestPosition, StoreError> {
        let position = self.position(&advance.id)?;
        self.streams.advance(position, advance, outcomes, self.now)
    }

    /// Where a stream stands and the hashes of its recent items; a new one where it is to be forgotten.
    pub fn open_stream(&mut self, id: &IngestStreamId, options: &StoreOptions) -> Result<(IngestPosition, Vec<ItemHash>), StoreError> {
        self.streams.forget_expired(id, forgotten_before(options, self.now))?;
        let position = self.position(id)?;
        let recent = self.streams.recent(id, position.next_item)?;
        Ok((position, recent))
    }

    /// Forgets a stream that did not advance since this instant. Gives how many entries go.
    pub fn forget_stream(&mut self, id: &IngestStreamId, before: Timestamp) -> Result<usize, StoreError> {
        self.streams.forget_expired(id, Some(before))
    }

    /// Points a record to a new place of its payload, unless it has changed since. In a group without writes only, since
    /// those look at what stands in the trees.
    pub fn relocate(&mut self, relocation: Relocation) -> Result<(), StoreError> {
        let Relocation { tree, key, value, from, payload } = relocation;
        if self.trees.get(tree, &key)? != Some(value.clone()) {
            return Ok(());
        }
        self.release(Payload { location: from, bytes: payload.len() as u64 })?;
        let to = self.place(payload)?;
        self.set(tree, key, StoredRecord::moved(&value, to));
        Ok(())
    }

    /// Has the journal hold a mutation once more that an earlier group made, unless the tree has changed since. In a group
    /// without writes only, as [`relocate`](Self::relocate).
    pub fn keep(&mut self, mutation: Mutation) -> Result<(), StoreError> {
        let stands = || Ok::<_, StoreError>(self.trees.get(mutation.tree, &mutation.key)?.as_deref() == mutation.value.as_deref());
        // A dictionary stands for ever.
        if mutation.tree == Tree::Dictionaries || stands()? {
            self.standing.push(mutation);
        }
        Ok(())
    }

    /// Adds a compression dictionary.
    pub fn add_dictionary(&mut self, dictionary: &Dictionary) {
        self.grows = true;
        self.state.last_dictionary = self.state.last_dictionary.max(dictionary.id);
        self.mutations.extend(dictionaries::mutations(dictionary));
    }

    /// Gives a segment up that holds nothing any more: its file can go when the group is durable. One of which a payload is in use
    /// stays.
    pub fn give_up(&mut self, segment: u64) -> Result<(), StoreError> {
        if self.usage(segment)?.live_bytes == 0 {
            self.given_up.insert(segment);
        }
        Ok(())
    }

    /// What the group comes to; nothing where it changes nothing.
    pub fn finish(mut self) -> Result<Option<Decided>, StoreError> {
        for (date, manifest) in std::mem::take(&mut self.manifests) {
            let key = keys::day_key(date);
            let value = (manifest.count > 0).then(|| manifest.encode(&key));
            self.mutations.push(Mutation { tree: Tree::Days, key: key.into(), value });
        }
        self.log_mutations();
        self.mutations.extend(self.streams.take_mutations());
        let nothing = self.mutations.is_empty() && self.usages.is_empty() && self.standing.is_empty() && self.given_up.is_empty();
        if nothing && !self.trims {
            return Ok(None);
        }
        let usages = std::mem::take(&mut self.usages);
        self.mutations.extend(segment_list::mutations(self.trees, self.place, usages, &self.given_up)?);
        self.state.group += 1;
        // Last, so that sled's state never claims a group of which something is missing.
        self.set(Tree::State, STATE_KEY.to_vec(), self.state.encode());
        let Self { mutations, standing, payloads, state, grows, .. } = self;
        Ok(Some(Decided { mutations, standing, payloads, state, grows }))
    }

    fn put(
        &mut self,
        key: ArticleKey,
        key_bytes: Vec<u8>,
        digest: Digest,
        content: EncodedContent,
        precondition: Precondition,
        entry: Entry,
    ) -> Result<WriteOutcome, StoreError> {
        if let Err(refusal) = check(precondition, &entry) {
            return Ok(Err(refusal));
        }
        if let Entry::Live { head, payload, .. } = &entry
            && head.digest == digest
        {
            if self.trees.damage().take_text(&key_bytes) {
                self.mend(key_bytes, head.clone(), *payload, content)?;
            }
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
        let (record, payload) = self.store_record(&key_bytes, &head, content, &stamp)?;
        self.drop_surplus(&head.key, &key_bytes, revision)?;
        if kind == ChangeKind::Created {
            if !planted(Fault::IndexEntryLeftOut) {
                self.set(Tree::Urls, keys::url_index_key(&head.key), Vec::new());
            }
            self.state.contents.articles += 1;
        }
        self.manifest(head.key.date)?.add(&head);
        self.state.contents.text_bytes += text_bytes;
        self.state.contents.record_bytes += payload.record_bytes();
        self.log(kind, &head, update_time);
        self.entries.insert(key_bytes, Entry::Live { head: head.clone(), record, payload });
        Ok(Ok(if kind == ChangeKind::Created { Written::Created(head) } else { Written::Updated(head) }))
    }

    /// Stores the text of an article's latest revision once more, in the place of one that is damaged. The revision stays what it
    /// was.
    fn mend(&mut self, key_bytes: Vec<u8>, head: ArticleHead, damaged: Payload, content: EncodedContent) -> Result<(), StoreError> {
        let ArticleHead { sequence, revision, create_time, update_time, .. } = head;
        self.release(damaged)?;
        let (record, payload) = self.store_record(&key_bytes, &head, content, &Stamp { sequence, revision, create_time, update_time })?;
        let contents = &mut self.state.contents;
        contents.record_bytes = (contents.record_bytes + payload.record_bytes()).saturating_sub(damaged.record_bytes());
        self.entries.insert(key_bytes, Entry::Live { head, record, payload });
        Ok(())
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
        let Entry::Live { head, payload, .. } = entry else { return Ok(Err(WriteRefusal::NotFound)) };
        self.supersede_change(head.sequence)?;
        let delete_time = self.now_after(Some(head.update_time));
        self.state.contents.last_sequence += 1;
        let tombstone = Tombstone { revision: head.revision, sequence: self.state.contents.last_sequence, delete_time };

        self.clear(Tree::Urls, keys::url_index_key(&key));
        self.clear(Tree::Articles, key_bytes.clone());
        self.release(payload)?;
        self.purge_revisions(&key, &key_bytes)?;
        self.set(Tree::Tombstones, key_bytes.clone(), tombstone.encode(&key_bytes));
        self.manifest(key.date)?.remove(&head);
        let contents = &mut self.state.contents;
        contents.articles = contents.articles.saturating_sub(1);
        contents.text_bytes = contents.text_bytes.saturating_sub(head.text_bytes);
        contents.record_bytes = contents.record_bytes.saturating_sub(payload.record_bytes());
        self.log(ChangeKind::Deleted, &head, delete_time);
        self.entries.insert(key_bytes, Entry::Gone(Some(tombstone)));
        Ok(Ok(Written::Deleted(head)))
    }

    /// Takes away what a new record replaces: the live one becomes an earlier revision or goes, the tombstone goes.
    fn supersede(&mut self, key_bytes: &[u8], entry: &Entry) -> Result<(), StoreError> {
        match entry {
            Entry::Live { head, record, payload } => {
                self.supersede_change(head.sequence)?;
                if let Some(revision_key) = self.keep_earlier(key_bytes, head.revision, *payload)? {
                    self.set(Tree::Revisions, revision_key, record.to_vec());
                }
                self.manifest(head.key.date)?.remove(head);
                let contents = &mut self.state.contents;
                contents.text_bytes = contents.text_bytes.saturating_sub(head.text_bytes);
                contents.record_bytes = contents.record_bytes.saturating_sub(payload.record_bytes());
            }
            Entry::Gone(Some(tombstone)) => {
                self.supersede_change(tombstone.sequence)?;
                self.clear(Tree::Tombstones, key_bytes.to_vec());
            }
            Entry::Gone(None) => {}
        }
        Ok(())
    }

    fn store_record(
        &mut self,
        key_bytes: &[u8],
        head: &ArticleHead,
        content: EncodedContent,
        stamp: &Stamp,
    ) -> Result<(sled::IVec, Payload), StoreError> {
        let header = content.header(&head.key, &head.digest, stamp);
        let payload = content.into_payload();
        let bytes = payload.len() as u64;
        let location = self.place(payload)?;
        self.grows = true;
        let record = StoredRecord::encode(&header, location);
        self.set(Tree::Articles, key_bytes.to_vec(), record.clone());
        Ok((record.into(), Payload { location, bytes }))
    }

    /// Gives a payload its place in the group's frame.
    fn place(&mut self, payload: Vec<u8>) -> Result<Location, StoreError> {
        let (location, bytes) = (self.next_payload, payload.len() as u64);
        let usage = self.usage(location.segment)?;
        usage.payload_bytes += bytes;
        usage.live_bytes += bytes;
        self.next_payload.offset += bytes;
        self.payloads.push(payload);
        Ok(location)
    }

    /// Notes that no record points to a payload any more.
    fn release(&mut self, payload: Payload) -> Result<(), StoreError> {
        let usage = self.usage(payload.location.segment)?;
        debug_assert!(usage.live_bytes >= payload.bytes, "a payload of segment {} was released twice", payload.location.segment);
        usage.live_bytes = usage.live_bytes.saturating_sub(payload.bytes);
        Ok(())
    }

    fn entry(&self, key: &ArticleKey, key_bytes: &[u8]) -> Result<Entry, StoreError> {
        if let Some(entry) = self.entries.get(key_bytes) {
            return Ok(entry.clone());
        }
        if let Some(record) = self.trees.get(Tree::Articles, key_bytes)? {
            let stored = StoredRecord::decode(key, &record)?;
            let payload = Payload::of(&stored);
            return Ok(Entry::Live { head: stored.header.into_head(), record, payload });
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

    fn usage(&mut self, segment: u64) -> Result<&mut SegmentUsage, StoreError> {
        use std::collections::hash_map::Entry;
        match self.usages.entry(segment) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => Ok(entry.insert(self.trees.segment_usage(segment)?)),
        }
    }

    fn log(&mut self, kind: ChangeKind, head: &ArticleHead, commit_time: Timestamp) {
        let sequence = self.state.contents.last_sequence;
        self.changes.push(Change { sequence, kind, key: head.key.clone(), revision: head.revision, digest: head.digest, commit_time });
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
