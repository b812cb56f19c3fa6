//! What the trees keep of ingest streams: positions, and beside each the hashes of recent items and the rejections.
//!
//! Hashes and rejections are small entries of their own, some a batch, so that an acknowledgement writes what is new and nothing
//! else. Their keys tell where they end, so those that fell out of the window are a range of keys.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use super::entry::{self, Fields, seal, unseal};
use super::journal::Mutation;
use super::keys::{self, StreamDetail, Tree, parse_stream_detail_key, stream_detail_key};
use super::trees::{Trees, sled_error};
use crate::article::{FieldViolation, Reason, Timestamp};
use crate::storage::stream::{KEPT_REJECTIONS, RECENT_ITEMS};
use crate::storage::{
    IngestPosition, IngestStreamId, ItemHash, Page, Rejection, RejectionCause, StoreError, StreamAdvance, StreamState, WriteOutcome,
    WriteRefusal,
};

/// Bytes of an entry, and at most one rejection more: values in sled are small.
const ENTRY_BYTES: usize = 2 << 10;

/// The streams as a group sees them that is being decided.
pub struct StreamEntries<'a> {
    trees: &'a Trees,
    /// Of streams that the group has to do with; none where there is no such stream.
    positions: HashMap<IngestStreamId, Option<IngestPosition>>,
    /// What the group does to the tree.
    mutations: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl<'a> StreamEntries<'a> {
    pub fn new(trees: &'a Trees) -> Self {
        Self { trees, positions: HashMap::new(), mutations: BTreeMap::new() }
    }

    /// Where a stream stands.
    pub fn position(&mut self, id: &IngestStreamId) -> Result<Option<IngestPosition>, StoreError> {
        if let Some(position) = self.positions.get(id) {
            return Ok(position.clone());
        }
        let position = position(self.trees, id)?;
        self.positions.insert(id.clone(), position.clone());
        Ok(position)
    }

    /// Brings a stream from this position on, and gives where it stands then.
    pub fn advance(
        &mut self,
        before: IngestPosition,
        advance: &StreamAdvance,
        outcomes: &[WriteOutcome],
        now: Timestamp,
    ) -> Result<IngestPosition, StoreError> {
        let StreamAdvance { id, hashes, .. } = advance;
        let rejections = advance.all_rejections(before.next_item, outcomes);
        let rejected = before.counts.rejected;
        let position = before.after(advance, outcomes, now);
        let windows = match position.state {
            StreamState::Open => {
                let skipped = hashes.len().saturating_sub(RECENT_ITEMS);
                self.add(id, StreamDetail::Hashes, position.next_item - (hashes.len() - skipped) as u64, &hashes[skipped..], encode_hash);
                let skipped = rejections.len().saturating_sub(KEPT_REJECTIONS as usize);
                self.add(id, StreamDetail::Rejections, rejected + skipped as u64, &rejections[skipped..], encode_rejection);
                [
                    (StreamDetail::Hashes, position.next_item.saturating_sub(RECENT_ITEMS as u64)),
                    (StreamDetail::Rejections, position.counts.rejected.saturating_sub(KEPT_REJECTIONS)),
                ]
            }
            // Nobody opens it any more.
            StreamState::Finished => [(StreamDetail::Hashes, u64::MAX), (StreamDetail::Rejections, u64::MAX)],
        };
        for (detail, up_to) in windows {
            if up_to > 0 {
                self.remove(id, detail, up_to)?;
            }
        }
        let key = id.as_str().as_bytes().to_vec();
        let value = entry::encode_position(&key, &position);
        self.mutations.insert(key, Some(value));
        self.positions.insert(id.clone(), Some(position.clone()));
        Ok(position)
    }

    /// Forgets a stream that last advanced before this instant. Gives how many entries go.
    pub fn forget_expired(&mut self, id: &IngestStreamId, before: Option<Timestamp>) -> Result<usize, StoreError> {
        if !self.position(id)?.is_some_and(|position| position.expired(before)) {
            return Ok(0);
        }
        let details = self.remove(id, StreamDetail::Hashes, u64::MAX)? + self.remove(id, StreamDetail::Rejections, u64::MAX)?;
        self.mutations.insert(id.as_str().as_bytes().to_vec(), None);
        self.positions.insert(id.clone(), None);
        Ok(details + 1)
    }

    /// The hashes of the last items before this one, in their order, as far as they are known.
    pub fn recent(&self, id: &IngestStreamId, next_item: u64) -> Result<Vec<ItemHash>, StoreError> {
        let first = next_item.saturating_sub(RECENT_ITEMS as u64);
        let mut recent = Vec::new();
        let mut from = None;
        for (key, value) in self.range(id, StreamDetail::Hashes, first, next_item)? {
            let hashes = decode_hashes(&key, &value)?;
            let (_, _, end) = parse_stream_detail_key(&key)?;
            let start = end.saturating_sub(hashes.len() as u64);
            if from != Some(start) {
                recent.clear();
            }
            from = Some(end);
            recent.extend(hashes);
        }
        if from != Some(next_item) {
            recent.clear();
        }
        recent.drain(..recent.len().saturating_sub(RECENT_ITEMS));
        Ok(recent)
    }

    /// What the group does to the tree.
    pub fn take_mutations(&mut self) -> impl Iterator<Item = Mutation> + use<> {
        std::mem::take(&mut self.mutations).into_iter().map(|(key, value)| Mutation { tree: Tree::Streams, key, value })
    }

    /// Adds entries for details that begin with this number.
    fn add<T>(&mut self, id: &IngestStreamId, detail: StreamDetail, first: u64, items: &[T], encode: fn(&T, &mut Vec<u8>)) {
        let (mut content, mut end) = (Vec::new(), first);
        for (number, item) in items.iter().enumerate() {
            encode(item, &mut content);
            end += 1;
            if content.len() >= ENTRY_BYTES || number + 1 == items.len() {
                let key = stream_detail_key(id, detail, end);
                let value = seal(Tree::Streams, &key, &content);
                self.mutations.insert(key, Some(value));
                content.clear();
            }
        }
    }

    /// Removes the entries that end with this number or before. Gives how many.
    fn remove(&mut self, id: &IngestStreamId, detail: StreamDetail, up_to: u64) -> Result<usize, StoreError> {
        let entries = self.range(id, detail, 0, up_to)?;
        let count = entries.len();
        self.mutations.extend(entries.into_keys().map(|key| (key, None)));
        Ok(count)
    }

    /// The entries that end after `after` and with `up_to` or before; none ends with 0.
    fn range(&self, id: &IngestStreamId, detail: StreamDetail, after: u64, up_to: u64) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, StoreError> {
        let bounds = (Bound::Excluded(stream_detail_key(id, detail, after)), Bound::Included(stream_detail_key(id, detail, up_to)));
        if after >= up_to {
            return Ok(BTreeMap::new());
        }
        let stored = self.trees.tree(Tree::Streams).range(bounds.clone());
        let mut entries = stored
            .map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec())).map_err(sled_error))
            .collect::<Result<BTreeMap<_, _>, _>>()?;
        for (key, value) in self.mutations.range(bounds) {
            match value {
                Some(value) => drop(entries.insert(key.clone(), value.clone())),
                None => drop(entries.remove(key)),
            }
        }
        Ok(entries)
    }
}

/// Where a stream stands in the trees.
fn position(trees: &Trees, id: &IngestStreamId) -> Result<Option<IngestPosition>, StoreError> {
    let key = id.as_str().as_bytes();
    trees.get(Tree::Streams, key)?.map(|value| entry::decode_position(key, &value)).transpose()
}

/// The next streams after one, with their positions. One whose position is damaged is left out: verification names it.
pub fn page(trees: &Trees, after: Option<&IngestStreamId>, limit: usize) -> Result<Vec<(IngestStreamId, IngestPosition)>, StoreError> {
    let mut page = Vec::new();
    let mut keys = PositionKeys::after(trees, after);
    while page.len() < limit
        && let Some((key, value)) = keys.next().transpose()?
    {
        if let (Ok(id), Ok(position)) = (keys::parse_stream_key(&key), entry::decode_position(&key, &value)) {
            page.push((id, position));
        }
    }
    Ok(page)
}

/// How many streams there are.
pub fn count(trees: &Trees) -> Result<u64, StoreError> {
    PositionKeys::after(trees, None).try_fold(0, |count, entry| entry.map(|_| count + 1))
}

/// The entries of positions, with a jump over the details of each.
struct PositionKeys<'a> {
    trees: &'a Trees,
    from: Vec<u8>,
}

impl<'a> PositionKeys<'a> {
    fn after(trees: &'a Trees, id: Option<&IngestStreamId>) -> Self {
        Self { trees, from: id.map_or(Vec::new(), |id| beyond_details(id.as_str().as_bytes())) }
    }
}

/// The first key that may come after a stream and its details.
fn beyond_details(id: &[u8]) -> Vec<u8> {
    [id, &[1]].concat()
}

impl Iterator for PositionKeys<'_> {
    type Item = Result<(sled::IVec, sled::IVec), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let found = self.trees.tree(Tree::Streams).range(self.from.clone()..).next()?;
            let (key, value) = match found {
                Ok(found) => found,
                Err(error) => return Some(Err(sled_error(error))),
            };
            let id = key.split(|byte| *byte == 0).next().unwrap_or_default();
            self.from = beyond_details(id);
            // Details without a position belong to a stream that is going.
            if !keys::is_stream_detail(&key) {
                return Some(Ok((key, value)));
            }
        }
    }
}

/// See [`ArticleStore::rejections`](crate::storage::ArticleStore::rejections). They are numbered from the first there ever was.
pub fn rejections(trees: &Trees, id: &IngestStreamId, from: u64, limit: usize) -> Result<Page<Rejection, u64>, StoreError> {
    let total = position(trees, id)?.map_or(0, |position| position.counts.rejected);
    let mut next = from.max(total.saturating_sub(KEPT_REJECTIONS));
    let mut items = Vec::new();
    let (start, end) = (stream_detail_key(id, StreamDetail::Rejections, next), stream_detail_key(id, StreamDetail::Rejections, u64::MAX));
    for entry in trees.tree(Tree::Streams).range((Bound::Excluded(start), Bound::Included(end))) {
        let (key, value) = entry.map_err(sled_error)?;
        let (_, _, end) = parse_stream_detail_key(&key)?;
        let rejections = decode_rejections(&key, &value)?;
        let first = end.saturating_sub(rejections.len() as u64);
        for (number, rejection) in (first..end).zip(rejections) {
            if number < next {
                continue;
            }
            if items.len() == limit {
                return Ok(Page { items, next: Some(next) });
            }
            items.push(rejection);
            next = number + 1;
        }
    }
    Ok(Page { items, next: None })
}

/// Checks an entry with details: that it can be read, and that there is its stream.
pub fn check_detail(trees: &Trees, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
    let (id, detail, end) = parse_stream_detail_key(key)?;
    let (count, counted) = match (detail, position(trees, &id)?) {
        (_, None) => return Err(StoreError::damaged(format!("the ingest stream {id}"), "there is more of it than its position")),
        (StreamDetail::Hashes, Some(position)) => (decode_hashes(key, value)?.len(), position.next_item),
        (StreamDetail::Rejections, Some(position)) => (decode_rejections(key, value)?.len(), position.counts.rejected),
    };
    if (1..=end).contains(&(count as u64)) && end <= counted {
        return Ok(());
    }
    Err(StoreError::damaged(format!("the ingest stream {id}"), format!("an entry ends with {end} and holds {count} of {counted}")))
}

fn encode_hash(hash: &ItemHash, content: &mut Vec<u8>) {
    content.extend_from_slice(&hash.0.to_be_bytes());
}

fn decode_hashes(key: &[u8], value: &[u8]) -> Result<Vec<ItemHash>, StoreError> {
    let mut fields = unseal(Tree::Streams, key, value)?;
    let mut hashes = Vec::new();
    while !fields.rest().is_empty() {
        hashes.push(ItemHash(fields.u64()?));
    }
    Ok(hashes)
}

/// Item (8 bytes), cause (1): 0 and how many violations (1) with three texts each, or the number of a refusal. A text is its
/// length (2 bytes) and its bytes.
fn encode_rejection(rejection: &Rejection, content: &mut Vec<u8>) {
    content.extend_from_slice(&rejection.item.to_be_bytes());
    let violations = match &rejection.cause {
        RejectionCause::Refused(refusal) => {
            content.push(match refusal {
                WriteRefusal::AlreadyExists => 1,
                WriteRefusal::EtagMismatch => 2,
                WriteRefusal::NotFound => 3,
                WriteRefusal::Damaged => 4,
            });
            return;
        }
        RejectionCause::Invalid(violations) => violations,
    };
    content.extend_from_slice(&[0, violations.len() as u8]);
    for violation in violations {
        for text in [&violation.field, violation.reason.as_str(), &violation.description] {
            content.extend_from_slice(&(text.len() as u16).to_be_bytes());
            content.extend_from_slice(text.as_bytes());
        }
    }
}

fn decode_rejections(key: &[u8], value: &[u8]) -> Result<Vec<Rejection>, StoreError> {
    let mut fields = unseal(Tree::Streams, key, value)?;
    let mut rejections = Vec::new();
    while !fields.rest().is_empty() {
        let item = fields.u64()?;
        let cause = match fields.u8()? {
            0 => RejectionCause::Invalid((0..fields.u8()?).map(|_| decode_violation(&mut fields)).collect::<Result<_, _>>()?),
            1 => RejectionCause::Refused(WriteRefusal::AlreadyExists),
            2 => RejectionCause::Refused(WriteRefusal::EtagMismatch),
            3 => RejectionCause::Refused(WriteRefusal::NotFound),
            4 => RejectionCause::Refused(WriteRefusal::Damaged),
            _ => return Err(fields.damaged()),
        };
        rejections.push(Rejection { item, cause });
    }
    Ok(rejections)
}

fn decode_violation(fields: &mut Fields<'_>) -> Result<FieldViolation, StoreError> {
    let (field, reason, description) = (fields.text()?, fields.text()?, fields.text()?);
    Ok(FieldViolation::new(field, Reason::parse(reason).ok_or_else(|| fields.damaged())?, description))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::article::{ArticleDraft, Limits};
    use crate::storage::sled::SledStore;
    use crate::storage::{ArticleStore as _, FindingKind, StoreHealth, StoreOptions, WriteBatch};

    fn sealed<T>(detail: StreamDetail, items: &[T], encode: fn(&T, &mut Vec<u8>)) -> (Vec<u8>, Vec<u8>) {
        let key = stream_detail_key(&"stream".parse().unwrap(), detail, 9);
        let mut content = Vec::new();
        items.iter().for_each(|item| encode(item, &mut content));
        let value = seal(Tree::Streams, &key, &content);
        (key, value)
    }

    #[test]
    fn details_of_every_earlier_version_are_read() {
        let draft =
            ArticleDraft { date: "2024-05-01".into(), url: "https://example.com/a".into(), title: "T".into(), ..Default::default() };
        let article = draft.validate(&Limits::default()).unwrap();
        let hashes = [ItemHash::of_article(&article), ItemHash::of_deletion(article.key()), ItemHash::of_bytes(b"neither")];
        let violations = [
            FieldViolation::new("date", Reason::InvalidDate, "is none"),
            FieldViolation::new("url", Reason::UrlTooLong, "is ü bytes long"),
        ];
        let mut rejections = vec![Rejection::invalid(7, &violations), Rejection::invalid(8, &[])];
        let refusals = [WriteRefusal::AlreadyExists, WriteRefusal::EtagMismatch, WriteRefusal::NotFound, WriteRefusal::Damaged];
        rejections.extend(refusals.map(|refusal| Rejection { item: 9, cause: RejectionCause::Refused(refusal) }));
        let (hashes_key, hashes_value) = sealed(StreamDetail::Hashes, &hashes, encode_hash);
        let (rejections_key, rejections_value) = sealed(StreamDetail::Rejections, &rejections, encode_rejection);
        assert_eq!(decode_hashes(&hashes_key, &hashes_value).unwrap(), hashes);
        assert_eq!(decode_rejections(&rejections_key, &rejections_value).unwrap(), rejections);
        for at in 0..rejections_value.len() {
            let mut damaged = rejections_value.clone();
            damaged[at] ^= 0x10;
            assert!(decode_rejections(&rejections_key, &damaged).is_err(), "{at}");
        }
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let text = format!("hashes {}\nrejections {}\n", hex(&hashes_value), hex(&rejections_value));
        let golden = include_str!("../../../tests/golden/streams-v1.txt");
        assert_eq!(text, golden, "format 1 is fixed: a change needs a new format and code that still reads this one");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_damaged_of_a_stream_concerns_that_stream_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path(), StoreOptions::default()).unwrap();
        let advance = async |id: &IngestStreamId| {
            let opened = store.open_stream(id).await?;
            let rejections = vec![Rejection::invalid(opened.position.next_item, &[])];
            let hashes = vec![ItemHash(7)];
            let advance =
                StreamAdvance { rejections, hashes, ..StreamAdvance::to(id.clone(), opened.epoch, opened.position.next_item + 1) };
            store.write(WriteBatch { writes: Vec::new(), stream: Some(advance) }).await
        };
        let [hashes, position, sound]: [IngestStreamId; 3] = ["hashes", "position", "sound"].map(|id| id.parse().unwrap());
        for id in [&hashes, &position, &sound] {
            advance(id).await.unwrap();
        }
        let epoch = store.open_stream(&position).await.unwrap().epoch;
        let damage = |key: &[u8]| store.trees.tree(Tree::Streams).insert(key, b"damaged".to_vec()).unwrap().unwrap();
        damage(&stream_detail_key(&hashes, StreamDetail::Hashes, 1));
        damage(position.as_str().as_bytes());
        // What is left of one that is gone.
        store.trees.tree(Tree::Streams).remove(sound.as_str()).unwrap();
        for id in [&hashes, &position] {
            assert!(matches!(advance(id).await, Err(StoreError::Damaged { .. })), "{id}");
        }
        let later = WriteBatch { writes: Vec::new(), stream: Some(StreamAdvance::to(position.clone(), epoch, 1)) };
        assert!(matches!(store.write(later).await, Err(StoreError::Damaged { .. })));
        assert_eq!(store.health(), StoreHealth::Serving);
        let (mut findings, mut cursor) = (Vec::new(), None);
        loop {
            let step = store.verify(cursor).await.unwrap();
            findings.extend(step.findings.into_iter().map(|finding| finding.kind));
            cursor = step.next;
            if cursor.is_none() {
                break;
            }
        }
        // The two that were damaged, the details of the position, and those of the one that is gone.
        assert_eq!(findings, [FindingKind::EntryDamaged; 6]);
        store.close().await.unwrap();
    }

    #[test]
    fn cut_details_are_damage_and_no_panic() {
        let key = stream_detail_key(&"stream".parse().unwrap(), StreamDetail::Rejections, 1);
        let mut content = Vec::new();
        encode_rejection(&Rejection::invalid(7, &[FieldViolation::new("date", Reason::InvalidDate, "is none")]), &mut content);
        for end in 1..content.len() {
            assert!(decode_rejections(&key, &seal(Tree::Streams, &key, &content[..end])).is_err(), "{end}");
        }
        assert!(decode_hashes(&key, &seal(Tree::Streams, &key, &content[..9])).is_err());
    }
}
