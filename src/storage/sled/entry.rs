//! The small values beside the records: changes, manifests, segment usage, tombstones, stream positions, the state.
//!
//! Every one is sealed the same way: format (1 byte), checksum (XXH3-64 over tree, key and content, 8 bytes), content. All
//! numbers are big-endian.

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::keys::{self, Tree};
use crate::article::{ArticleHead, Timestamp};
use crate::storage::{Bookmark, Contents, IngestPosition, OutcomeCounts, StoreError, StreamState, Trimmed};

const FORMAT: u8 = 1;
const SEAL_BYTES: usize = 9;

/// Seals content under its key.
pub fn seal(tree: Tree, key: &[u8], content: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(SEAL_BYTES + content.len());
    value.push(FORMAT);
    value.extend_from_slice(&checksum(tree, key, content).to_be_bytes());
    value.extend_from_slice(content);
    value
}

/// Opens a sealed value.
pub fn unseal<'a>(tree: Tree, key: &[u8], value: &'a [u8]) -> Result<Fields<'a>, StoreError> {
    let damaged = |detail: &str| StoreError::damaged(format!("an entry of the tree {}", tree.name()), detail);
    let (format, rest) = value.split_first().ok_or_else(|| damaged("it is empty"))?;
    let (stored, content) = rest.split_first_chunk::<8>().ok_or_else(|| damaged("it is cut short"))?;
    if checksum(tree, key, content) != u64::from_be_bytes(*stored) {
        return Err(damaged("it fails its checksum"));
    }
    if *format != FORMAT {
        return Err(damaged("its format is not known"));
    }
    Ok(Fields { tree, rest: content })
}

fn checksum(tree: Tree, key: &[u8], content: &[u8]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(&[FORMAT, tree as u8]);
    hasher.update(&(key.len() as u32).to_be_bytes());
    hasher.update(key);
    hasher.update(content);
    hasher.digest()
}

/// What is left to read of an opened value.
pub struct Fields<'a> {
    tree: Tree,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub fn bytes<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.damaged())?;
        self.rest = rest;
        Ok(*bytes)
    }

    pub fn u8(&mut self) -> Result<u8, StoreError> {
        self.bytes::<1>().map(|[byte]| byte)
    }

    pub fn u64(&mut self) -> Result<u64, StoreError> {
        self.bytes().map(u64::from_be_bytes)
    }

    /// A text after its length (2 bytes).
    pub fn text(&mut self) -> Result<&'a str, StoreError> {
        let length = self.bytes().map(u16::from_be_bytes)?;
        let (text, rest) = self.rest.split_at_checked(length.into()).ok_or_else(|| self.damaged())?;
        self.rest = rest;
        std::str::from_utf8(text).map_err(|_| self.damaged())
    }

    pub fn time(&mut self) -> Result<Timestamp, StoreError> {
        let micros = self.bytes().map(i64::from_be_bytes)?;
        Timestamp::from_micros(micros).ok_or_else(|| self.damaged())
    }

    /// What is left, without taking it.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub fn damaged(&self) -> StoreError {
        StoreError::damaged(format!("an entry of the tree {}", self.tree.name()), "its content makes no sense")
    }
}

/// A day's manifest: how many articles the day holds, and a checksum of which.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Articles of the day.
    pub count: u64,
    /// The sum, modulo 2^64, of a hash of key, revision and digest of each: the same in whatever order they came.
    pub checksum: u64,
}

impl Manifest {
    /// Takes an article in.
    pub fn add(&mut self, head: &ArticleHead) {
        self.count = self.count.wrapping_add(1);
        self.checksum = self.checksum.wrapping_add(Self::term(head));
    }

    /// Takes an article out.
    pub fn remove(&mut self, head: &ArticleHead) {
        self.count = self.count.wrapping_sub(1);
        self.checksum = self.checksum.wrapping_sub(Self::term(head));
    }

    fn term(head: &ArticleHead) -> u64 {
        let mut input = keys::article_key(&head.key);
        input.extend_from_slice(&head.revision.to_be_bytes());
        input.extend_from_slice(head.digest.as_bytes());
        xxh3_64(&input)
    }

    pub fn encode(&self, key: &[u8]) -> Vec<u8> {
        seal(Tree::Days, key, &[self.count.to_be_bytes(), self.checksum.to_be_bytes()].concat())
    }

    pub fn decode(key: &[u8], value: &[u8]) -> Result<Self, StoreError> {
        let mut fields = unseal(Tree::Days, key, value)?;
        Ok(Self { count: fields.u64()?, checksum: fields.u64()? })
    }
}

/// What is known of a segment of the journal that is still needed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SegmentUsage {
    /// Bytes of all its payloads.
    pub payload_bytes: u64,
    /// Bytes of those that a record points to.
    pub live_bytes: u64,
    /// The last group in it; 0 while it is being written.
    pub last_group: u64,
}

impl SegmentUsage {
    pub fn encode(&self, key: &[u8]) -> Vec<u8> {
        seal(Tree::Segments, key, &[self.payload_bytes, self.live_bytes, self.last_group].map(u64::to_be_bytes).concat())
    }

    pub fn decode(key: &[u8], value: &[u8]) -> Result<Self, StoreError> {
        let mut fields = unseal(Tree::Segments, key, value)?;
        Ok(Self { payload_bytes: fields.u64()?, live_bytes: fields.u64()?, last_group: fields.u64()? })
    }
}

/// What is left of a deleted article.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tombstone {
    /// The last revision there was.
    pub revision: u64,
    /// The place of the deletion in the change log.
    pub sequence: u64,
    /// When it was deleted.
    pub delete_time: Timestamp,
}

impl Tombstone {
    pub fn encode(&self, key: &[u8]) -> Vec<u8> {
        let content = [self.revision.to_be_bytes(), self.sequence.to_be_bytes(), self.delete_time.as_micros().to_be_bytes()].concat();
        seal(Tree::Tombstones, key, &content)
    }

    pub fn decode(key: &[u8], value: &[u8]) -> Result<Self, StoreError> {
        let mut fields = unseal(Tree::Tombstones, key, value)?;
        Ok(Self { revision: fields.u64()?, sequence: fields.u64()?, delete_time: fields.time()? })
    }
}

/// The position of an ingest stream. What follows the time, the count of deletions and the bookmark, is left out where there is
/// neither: positions from before there were any have no more either.
pub fn encode_position(key: &[u8], position: &IngestPosition) -> Vec<u8> {
    let mut content = vec![u8::from(position.state == StreamState::Finished)];
    let OutcomeCounts { created, updated, unchanged, rejected, deleted } = position.counts;
    for number in [position.next_item, created, updated, unchanged, rejected] {
        content.extend_from_slice(&number.to_be_bytes());
    }
    content.extend_from_slice(&position.update_time.as_micros().to_be_bytes());
    if deleted > 0 || !position.bookmark.as_bytes().is_empty() {
        content.extend_from_slice(&deleted.to_be_bytes());
        content.extend_from_slice(position.bookmark.as_bytes());
    }
    seal(Tree::Streams, key, &content)
}

/// The inverse of [`encode_position`].
pub fn decode_position(key: &[u8], value: &[u8]) -> Result<IngestPosition, StoreError> {
    let mut fields = unseal(Tree::Streams, key, value)?;
    let state = if fields.u8()? == 0 { StreamState::Open } else { StreamState::Finished };
    let next_item = fields.u64()?;
    let mut counts =
        OutcomeCounts { created: fields.u64()?, updated: fields.u64()?, unchanged: fields.u64()?, rejected: fields.u64()?, deleted: 0 };
    let update_time = fields.time()?;
    if !fields.rest.is_empty() {
        counts.deleted = fields.u64()?;
    }
    let bookmark = Bookmark::try_from(fields.rest).map_err(|_| fields.damaged())?;
    Ok(IngestPosition { next_item, counts, state, update_time, bookmark })
}

/// How far the trees are: written last with every group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct State {
    /// The number of the last group that the trees hold.
    pub group: u64,
    /// The running totals.
    pub contents: Contents,
    /// Bytes of the records of the earlier revisions that are kept, as stored; 0 in a state that was written before they were
    /// counted.
    pub earlier_record_bytes: u64,
    /// Whether an earlier revision ever went while its article stayed: then the oldest that is there need not be the first.
    pub revisions_dropped: bool,
    /// How far deletions have come on their way out of the change log.
    pub deletions: DeletionSweep,
    /// The id of the last compression dictionary; 0 where there is none. All before it are there too.
    pub last_dictionary: u32,
}

/// How far deletions have come on their way out of the change log: those up to the mark go when whoever began to read the log
/// before it was swept that far has had time to get past them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeletionSweep {
    /// Of the deletions up to this change every one is gone that is not superseded.
    pub swept: u64,
    /// How far superseded changes were swept when the mark was made.
    pub mark: u64,
    /// When that was, in microseconds since 1970.
    pub mark_time: i64,
}

impl State {
    pub fn encode(&self) -> Vec<u8> {
        let Contents { articles, earlier_revisions, last_sequence, text_bytes, record_bytes, trimmed } = self.contents;
        let numbers = [self.group, articles, earlier_revisions, last_sequence, text_bytes, record_bytes];
        let mut content = numbers.map(u64::to_be_bytes).concat();
        let learned = self.last_dictionary > 0;
        let trims = learned || (trimmed, self.deletions) != Default::default();
        if trims || (self.earlier_record_bytes, self.revisions_dropped) != (0, false) {
            content.extend_from_slice(&self.earlier_record_bytes.to_be_bytes());
            content.push(self.revisions_dropped.into());
        }
        if trims {
            let (Trimmed { horizon, swept, deletions, removed }, sweep) = (trimmed, self.deletions);
            content.extend([horizon, swept, deletions, removed, sweep.swept, sweep.mark].iter().flat_map(|number| number.to_be_bytes()));
            content.extend_from_slice(&sweep.mark_time.to_be_bytes());
        }
        if learned {
            content.extend_from_slice(&self.last_dictionary.to_be_bytes());
        }
        seal(Tree::State, keys::STATE_KEY, &content)
    }

    pub fn decode(value: &[u8]) -> Result<Self, StoreError> {
        let mut fields = unseal(Tree::State, keys::STATE_KEY, value)?;
        let group = fields.u64()?;
        let contents = Contents {
            articles: fields.u64()?,
            earlier_revisions: fields.u64()?,
            last_sequence: fields.u64()?,
            text_bytes: fields.u64()?,
            record_bytes: fields.u64()?,
            trimmed: Trimmed::default(),
        };
        let mut state = Self { group, contents, ..Self::default() };
        // What has nothing to tell of the past, or was written before it could, ends here.
        if !fields.rest.is_empty() {
            (state.earlier_record_bytes, state.revisions_dropped) = (fields.u64()?, fields.u8()? != 0);
        }
        if !fields.rest.is_empty() {
            let (horizon, swept, deletions, removed) = (fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?);
            state.contents.trimmed = Trimmed { horizon, swept, deletions, removed };
            let (swept, mark, mark_time) = (fields.u64()?, fields.u64()?, fields.bytes().map(i64::from_be_bytes)?);
            state.deletions = DeletionSweep { swept, mark, mark_time };
        }
        if !fields.rest.is_empty() {
            state.last_dictionary = fields.bytes().map(u32::from_be_bytes)?;
        }
        Ok(state)
    }
}

#[cfg(test)]
mod tests {
    use super::super::change_log;
    use super::*;
    use crate::article::{ArticleKey, CanonicalUrl, Digest};
    use crate::storage::{Change, ChangeKind};

    fn change(sequence: u64) -> Change {
        let url = CanonicalUrl::parse("https://example.com/a").unwrap();
        Change {
            sequence,
            kind: ChangeKind::Updated,
            key: ArticleKey { date: "2024-05-01".parse().unwrap(), url },
            revision: 7,
            digest: Digest::from_bytes([9; 32]),
            commit_time: "2024-05-01T08:00:00Z".parse().unwrap(),
        }
    }

    #[test]
    fn entries_of_every_earlier_version_are_read() {
        let golden = include_str!("../../../tests/golden/entries-v1.txt");
        let contents =
            Contents { articles: 1, earlier_revisions: 2, last_sequence: 3, text_bytes: 4, record_bytes: 5, trimmed: Trimmed::default() };
        let key = change(42).key;
        let time = change(42).commit_time;
        let counts = OutcomeCounts { created: 1, updated: 2, unchanged: 3, rejected: 4, deleted: 0 };
        let bookmark = Bookmark::default();
        let position = IngestPosition { next_item: 10, counts, state: StreamState::Finished, update_time: time, bookmark };
        let mut whole_position = IngestPosition { bookmark: Bookmark::try_from(&b"place"[..]).unwrap(), ..position.clone() };
        (whole_position.next_item, whole_position.counts.deleted) = (15, 5);
        for position in [&position, &whole_position] {
            assert_eq!(decode_position(b"stream", &encode_position(b"stream", position)).unwrap(), *position);
        }
        let state = State { group: 6, contents, ..State::default() };
        let past = State { earlier_record_bytes: 7, revisions_dropped: true, ..state };
        let mut trimmed = State { deletions: DeletionSweep { swept: 8, mark: 9, mark_time: 10 }, ..state };
        trimmed.contents.trimmed = Trimmed { horizon: 11, swept: 12, deletions: 13, removed: 14 };
        let learned = State { last_dictionary: 15, ..state };
        let written = [
            ("change", change_log::encode(42, &[change(42)])),
            ("manifest", Manifest { count: 1, checksum: 2 }.encode(&keys::day_key(key.date))),
            ("tombstone", Tombstone { revision: 7, sequence: 42, delete_time: time }.encode(&keys::article_key(&key))),
            ("position", encode_position(b"stream", &position)),
            ("state", state.encode()),
            ("state-of-a-past", past.encode()),
            ("state-of-a-trimmed-log", trimmed.encode()),
            ("whole_position", encode_position(b"stream", &whole_position)),
            ("state-with-dictionaries", learned.encode()),
            ("run-of-changes", change_log::encode(42, &[change(43), change(45)])),
        ];
        for state in [state, past, trimmed, learned, State { last_dictionary: 15, ..trimmed }] {
            assert_eq!(State::decode(&state.encode()).unwrap(), state);
        }
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let text: String = written.iter().map(|(name, value)| format!("{name} {}\n", hex(value))).collect();
        assert_eq!(text, golden, "format 1 is fixed: a change needs a new format and code that still reads this one");
    }
}
