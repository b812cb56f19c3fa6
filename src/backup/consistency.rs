//! Whether the items of a snapshot fit together: their order, their numbers, and the totals that the snapshot states.
//!
//! The writer asks before it makes a backup of them, the reader before it gives them to anybody.

use super::ItemCounts;
use super::record::Kind;
use crate::article::ArticleKey;
use crate::storage::{Contents, IngestStreamId, OutcomeCounts, SnapshotInfo, SnapshotItem};

/// No store counts as far as this: numbers beyond it are no numbers of a store, which could not go on counting from there.
const MAX_NUMBER: u64 = 1 << 62;

/// What was seen of a snapshot so far.
#[derive(Debug)]
pub struct Consistency {
    contents: Contents,
    counts: ItemCounts,
    text_bytes: u64,
    /// The last change so far.
    last_change: u64,
    last: Option<Place>,
}

/// The place of an item in the order of all; see the table of the format.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Article(ArticleKey),
    EarlierRevision(ArticleKey, u64),
    Tombstone(ArticleKey),
    Change(u64),
    Stream(IngestStreamId),
}

impl Place {
    fn of(item: &SnapshotItem) -> Self {
        match item {
            SnapshotItem::Article(stored) => Self::Article(stored.head.key.clone()),
            SnapshotItem::EarlierRevision(stored) => Self::EarlierRevision(stored.head.key.clone(), stored.head.revision),
            SnapshotItem::Tombstone { key, .. } => Self::Tombstone(key.clone()),
            SnapshotItem::Change(change) => Self::Change(change.sequence),
            SnapshotItem::Stream { id, .. } => Self::Stream(id.clone()),
        }
    }

    /// The place as people name it.
    fn name(&self) -> String {
        match self {
            Self::Article(key) => format!("article {key}"),
            Self::EarlierRevision(key, revision) => format!("revision {revision} of article {key}"),
            Self::Tombstone(key) => format!("the tombstone of article {key}"),
            Self::Change(sequence) => format!("change {sequence}"),
            Self::Stream(id) => format!("ingest stream {id}"),
        }
    }
}

impl Consistency {
    /// Nothing was seen yet of the snapshot that says this of itself.
    pub fn new(info: &SnapshotInfo) -> Self {
        Self { contents: info.contents, counts: ItemCounts::default(), text_bytes: 0, last_change: 0, last: None }
    }

    /// The items so far.
    pub fn counts(&self) -> &ItemCounts {
        &self.counts
    }

    /// Takes in the next item.
    ///
    /// # Errors
    /// What does not fit, as a sentence.
    pub fn take(&mut self, item: &SnapshotItem) -> Result<(), String> {
        let place = Place::of(item);
        if let Some(last) = self.last.as_ref().filter(|last| **last >= place) {
            return Err(format!("{} comes after {}", place.name(), last.name()));
        }
        if let Some(number) = numbers(item).into_iter().find(|number| *number > MAX_NUMBER) {
            return Err(format!("{} counts to {number}, which no store does", place.name()));
        }
        let (revision, sequence) = match item {
            SnapshotItem::Article(stored) | SnapshotItem::EarlierRevision(stored) => (stored.head.revision, stored.head.sequence),
            SnapshotItem::Tombstone { revision, sequence, .. } => (*revision, *sequence),
            SnapshotItem::Change(change) => (change.revision, change.sequence),
            SnapshotItem::Stream { .. } => (1, self.contents.last_sequence),
        };
        if revision == 0 {
            return Err(format!("{} has no revision", place.name()));
        }
        // Of a store without any change, streams may be all there is.
        if sequence > self.contents.last_sequence || (sequence == 0 && !matches!(place, Place::Stream(_))) {
            let last = self.contents.last_sequence;
            return Err(format!("{} belongs to change {sequence}, and the changes are 1 to {last}", place.name()));
        }
        if let SnapshotItem::Change(change) = item {
            self.follows(change.sequence)?;
        }
        if let SnapshotItem::Article(stored) = item {
            self.text_bytes = self.text_bytes.saturating_add(stored.head.text_bytes);
        }
        self.counts.count(Kind::of(item));
        self.last = Some(place);
        Ok(())
    }

    /// Only changes that may have been trimmed are missing before this one.
    fn follows(&mut self, sequence: u64) -> Result<(), String> {
        let (missing, horizon) = (sequence - 1, self.contents.trimmed.horizon);
        if missing > self.last_change && missing > horizon {
            return Err(format!("change {missing} is missing from the change log, of which the changes up to {horizon} were trimmed"));
        }
        self.last_change = sequence;
        Ok(())
    }

    /// Checks the totals after the last item, and gives the counts.
    ///
    /// # Errors
    /// What does not fit, as a sentence.
    pub fn finish(&self) -> Result<ItemCounts, String> {
        let (counts, contents) = (self.counts, self.contents);
        if contents.last_sequence > MAX_NUMBER {
            return Err(format!("it says that there were {} changes, which no store makes", contents.last_sequence));
        }
        let totals = [
            ("articles", counts.articles, contents.articles),
            ("earlier revisions", counts.earlier_revisions, contents.earlier_revisions),
            ("bytes of text", self.text_bytes, contents.text_bytes),
            ("changes that are kept", counts.changes, contents.last_sequence.saturating_sub(contents.trimmed.removed)),
            ("changes in all", self.last_change, contents.last_sequence),
        ];
        for (what, found, stated) in totals {
            if found != stated {
                return Err(format!("it holds {found} {what}, and says that it holds {stated}"));
            }
        }
        Ok(counts)
    }
}

/// The numbers of an item from which a store goes on counting.
fn numbers(item: &SnapshotItem) -> [u64; 6] {
    match item {
        SnapshotItem::Article(stored) | SnapshotItem::EarlierRevision(stored) => [stored.head.revision, 0, 0, 0, 0, 0],
        SnapshotItem::Tombstone { revision, .. } => [*revision, 0, 0, 0, 0, 0],
        SnapshotItem::Change(change) => [change.revision, 0, 0, 0, 0, 0],
        SnapshotItem::Stream { position, .. } => {
            let OutcomeCounts { created, updated, unchanged, rejected, deleted } = position.counts;
            [position.next_item, created, updated, unchanged, rejected, deleted]
        }
    }
}
