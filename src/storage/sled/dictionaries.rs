//! Compression dictionaries in the trees, and the thread that learns them.
//!
//! A dictionary goes through the committer like any write, and contents are encoded with it only after that: so it is durable, and
//! in the journal, before the first record that needs it. None is ever removed or replaced.

use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Weak};

use tokio::sync::{mpsc, oneshot};

use super::committer::Command;
use super::entry::{Fields, State, seal, unseal};
use super::journal::Mutation;
use super::keys::{self, Tree};
use super::shared::Shared;
use super::trees::{Trees, sled_error};
use crate::storage::StoreError;
use crate::storage::compression::learning::{Learner, MAX_SAMPLES};
use crate::storage::compression::{Compression, Dictionary, Gain};
use crate::storage::record::encode_content;
use crate::workers::lower_priority;

/// Samples that wait for the thread at most, a few kilobytes each; further ones are passed over.
const QUEUE_SAMPLES: usize = 256;

/// Bytes of a piece: sled moves a leaf, which holds up to sixteen, into a file of its own where it has more than 128 KiB.
const PIECE_BYTES: usize = 6 << 10;

/// What puts a dictionary into the trees, in pieces.
pub fn mutations(dictionary: &Dictionary) -> impl Iterator<Item = Mutation> {
    let Dictionary { id, create_time, sequence, samples, gain, content } = dictionary;
    let mut head = Vec::new();
    head.extend_from_slice(&create_time.as_micros().to_be_bytes());
    head.extend_from_slice(&sequence.to_be_bytes());
    [*samples, gain.plain, gain.with_dictionary].iter().for_each(|number| head.extend_from_slice(&number.to_be_bytes()));
    head.extend_from_slice(&(content.len() as u32).to_be_bytes());
    let pieces = std::iter::once(head).chain(content.chunks(PIECE_BYTES).map(<[u8]>::to_vec));
    (0..).zip(pieces).map(|(number, piece)| {
        let key = piece_key(*id, number);
        Mutation { tree: Tree::Dictionaries, key: key.into(), value: Some(seal(Tree::Dictionaries, &key, &piece)) }
    })
}

/// The key of a piece: 0 is what there is to tell of the dictionary, its content follows.
fn piece_key(id: u32, number: u16) -> [u8; 6] {
    let [a, b, c, d] = id.to_be_bytes();
    let [e, f] = number.to_be_bytes();
    [a, b, c, d, e, f]
}

/// Puts dictionaries together from their pieces, which come in the order of their keys.
#[derive(Default)]
pub struct Assembly {
    /// The dictionary so far, how many bytes its content has in the end, and the number of the next piece.
    begun: Option<(Dictionary, usize, u16)>,
}

impl Assembly {
    /// Takes the next piece. Gives the dictionary of which it is the last. One of which a piece is missing never comes.
    ///
    /// # Errors
    /// Where the piece is damaged; what was begun is given up then.
    pub fn take(&mut self, key: &[u8], value: &[u8]) -> Result<Option<Dictionary>, StoreError> {
        let begun = self.begun.take();
        let (id, number, mut fields) = piece(key, value)?;
        let (dictionary, bytes, next) = match begun {
            _ if number == 0 => {
                let (create_time, sequence) = (fields.time()?, fields.u64()?);
                let mut number = || fields.bytes().map(u32::from_be_bytes);
                let (samples, gain) = (number()?, Gain { plain: number()?, with_dictionary: number()? });
                let bytes = number()? as usize;
                (Dictionary { id, create_time, sequence, samples, gain, content: Vec::new() }, bytes, 1)
            }
            Some((mut dictionary, bytes, next)) if dictionary.id == id && number == next => {
                dictionary.content.extend_from_slice(fields.rest());
                (dictionary, bytes, next.saturating_add(1))
            }
            _ => return Ok(None),
        };
        if dictionary.content.len() >= bytes {
            return if dictionary.content.len() == bytes { Ok(Some(dictionary)) } else { Err(fields.damaged()) };
        }
        self.begun = Some((dictionary, bytes, next));
        Ok(None)
    }
}

/// Opens a piece: the id of its dictionary, its number, what it holds.
pub fn piece<'a>(key: &[u8], value: &'a [u8]) -> Result<(u32, u16, Fields<'a>), StoreError> {
    let fields = unseal(Tree::Dictionaries, key, value)?;
    let parts =
        key.split_first_chunk::<4>().and_then(|(id, number)| Some((u32::from_be_bytes(*id), u16::from_be_bytes(number.try_into().ok()?))));
    let (id, number) = parts.filter(|(id, _)| *id > 0).ok_or_else(|| fields.damaged())?;
    Ok((id, number, fields))
}

/// Makes all dictionaries known that are whole. One that is damaged is damage to the index, which does not keep the store from being opened: only
/// the articles that need it cannot be read until then.
pub fn load(trees: &Trees) -> Result<(), StoreError> {
    let (mut sound, mut assembly) = (Vec::new(), Assembly::default());
    for entry in trees.tree(Tree::Dictionaries).iter() {
        let (key, value) = entry.map_err(sled_error)?;
        match assembly.take(&key, &value) {
            Ok(dictionary) => sound.extend(dictionary),
            Err(error) => trees.damage().note_index(&error),
        }
    }
    sound.retain(|dictionary| !trees.compression().knows(dictionary.id));
    trees.compression().add(sound);
    Ok(())
}

/// Notes where not all dictionaries are known up to the last there was, and that their ids are taken all the same.
pub fn check(trees: &Trees, last: u32) {
    let known = trees.compression().stats().dictionaries.len();
    if known < last as usize {
        trees.damage().note_index(&StoreError::damaged("the compression dictionaries", format!("of {last} there are {known}")));
    }
    trees.compression().reserve(last);
}

/// Samples of the articles of a whole store, from all over it.
pub fn samples(trees: &Trees, state: &State) -> Result<Learner, StoreError> {
    let mut learner = Learner::default();
    let step = (state.contents.articles as usize / MAX_SAMPLES).max(1);
    for entry in trees.tree(Tree::Articles).iter().step_by(step) {
        let (key, record) = entry.map_err(sled_error)?;
        // What cannot be read is for the reader behind this one to tell.
        if let Ok(Some(stored)) = trees.decode(&keys::parse_article_key(&key)?, Tree::Articles, &key, record) {
            learner.offer(&encode_content(&stored.article));
        }
    }
    Ok(learner)
}

/// The state of the learning thread.
pub struct Learning {
    compression: Arc<Compression>,
    /// Not to be kept alive: it holds the folder and its lock, and a training outlives the store by a good part of a second.
    shared: Weak<Shared>,
    committer: mpsc::WeakSender<Command>,
    offered: Receiver<Vec<u8>>,
    learner: Learner,
}

impl Learning {
    /// Has samples offered from now on.
    pub fn begin(compression: Arc<Compression>, shared: &Arc<Shared>, committer: mpsc::WeakSender<Command>) -> Self {
        let learner = Learner::new(compression.newest().map_or(0, |newest| newest.sequence));
        let (samples, offered) = sync_channel(QUEUE_SAMPLES);
        compression.offer_to(samples, learner.stride());
        Self { compression, shared: Arc::downgrade(shared), committer, offered, learner }
    }

    /// Learns until no more samples are offered.
    pub fn run(mut self) {
        let mut first = self.compression.newest().is_none();
        if !first {
            lower_priority();
        }
        while let Ok(sample) = self.offered.recv() {
            self.learner.offer(&sample);
            let Some(sequence) = self.shared.upgrade().map(|shared| shared.sequence()) else { return };
            if !self.learner.is_due(sequence) {
                continue;
            }
            if let Some(dictionary) = self.learner.learn(sequence, &self.compression)
                && let Err(error) = self.store(dictionary)
            {
                // Nothing depends on it yet.
                tracing::debug!(%error, "a compression dictionary was not stored");
            }
            self.compression.set_stride(self.learner.stride());
            // Until there is a first dictionary every article that comes costs more to write and to read; nobody waits for another.
            if std::mem::take(&mut first) {
                lower_priority();
            }
        }
    }

    fn store(&self, dictionary: Dictionary) -> Result<(), StoreError> {
        self.shared.upgrade().ok_or(StoreError::Closed)?.writable().map_err(StoreError::Failed)?;
        let (reply, done) = oneshot::channel();
        let committer = self.committer.upgrade().ok_or(StoreError::Closed)?;
        committer.blocking_send(Command::AddDictionary { dictionary, reply }).map_err(|_| StoreError::Closed)?;
        drop(committer);
        done.blocking_recv().unwrap_or(Err(StoreError::Closed))
    }
}

#[cfg(test)]
pub mod tests {
    use std::path::Path;

    use super::*;
    use crate::article::{Article, ArticleDraft, Limits, Timestamp};
    use crate::storage::compression::learning::train;
    use crate::storage::sled::SledStore;
    use crate::storage::{ArticleStore as _, FindingKind, StoreOptions, Write, WriteBatch};

    fn body(number: u64) -> String {
        let draw = |place: u64| xxhash_rust::xxh3::xxh3_64(&[number.to_be_bytes(), place.to_be_bytes()].concat());
        let sentence =
            |place| format!("The office of {:x} told reporters that {:x} was on its way. ", draw(place) % 5000, draw(!place) % 5000);
        (0..20).map(sentence).collect()
    }

    /// An article of those that [`dictionary`] is learned from.
    pub fn article(number: u64) -> Article {
        let url = format!("https://example.com/{number}");
        let draft = ArticleDraft { date: "2024-05-01".into(), url, body: body(number), ..ArticleDraft::default() };
        draft.validate(&Limits::default()).unwrap()
    }

    /// A dictionary that is of use for them.
    pub fn dictionary(id: u32) -> Dictionary {
        let samples: Vec<_> = (1000..1300).map(|number| encode_content(&article(number))).collect();
        Dictionary {
            id,
            create_time: Timestamp::now(),
            sequence: 300,
            samples: 300,
            gain: Gain::default(),
            content: train(&samples).unwrap(),
        }
    }

    /// Stores a dictionary.
    pub async fn add(store: &SledStore, dictionary: Dictionary) {
        let (reply, done) = oneshot::channel();
        store.send(Command::AddDictionary { dictionary, reply }).await.unwrap();
        done.await.unwrap().unwrap();
    }

    /// Stores articles.
    pub async fn put(store: &SledStore, numbers: std::ops::Range<u64>) {
        let writes = numbers.map(|number| Write::put(article(number))).collect();
        let outcome = store.write(WriteBatch { writes, stream: None }).await.unwrap();
        outcome.outcomes.into_iter().for_each(|outcome| drop(outcome.unwrap()));
    }

    /// Opens a store, whose articles must be these.
    pub async fn open(path: &Path, numbers: std::ops::Range<u64>) -> SledStore {
        let store = SledStore::open(path, StoreOptions::default()).unwrap();
        for number in numbers {
            assert_eq!(store.article(article(number).key()).await.unwrap().unwrap().article, article(number), "{number}");
        }
        store
    }

    async fn findings(store: &SledStore) -> Vec<(FindingKind, String)> {
        let (mut cursor, mut findings) = (None, Vec::new());
        loop {
            let step = store.verify(cursor).await.unwrap();
            findings.extend(step.findings.into_iter().map(|finding| (finding.kind, finding.detail)));
            cursor = step.next;
            if cursor.is_none() {
                return findings;
            }
        }
    }

    #[test]
    fn entries_of_every_earlier_version_are_read() {
        let create_time = Timestamp::from_micros(1_714_550_400_000_000).unwrap();
        let gain = Gain { plain: 7, with_dictionary: 6 };
        let dictionary = Dictionary { id: 3, create_time, sequence: 5, samples: 4, gain, content: b"what zstd knows".to_vec() };
        let golden = [
            ("000000030000", "019c6f36c4bdf55afb0006175fdf8aa00000000000000000050000000400000007000000060000000f"),
            ("000000030001", "01cc7d2813940482d277686174207a737464206b6e6f7773"),
        ];
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let written: Vec<_> = mutations(&dictionary).map(|Mutation { key, value, .. }| (key, value.unwrap())).collect();
        let text: Vec<_> = written.iter().map(|(key, value)| (hex(key), hex(value))).collect();
        let text: Vec<_> = text.iter().map(|(key, value)| (&key[..], &value[..])).collect();
        assert_eq!(text, golden);
        let whole: Vec<_> = assembled(&written).into_iter().map(Result::unwrap).collect();
        assert_eq!(whole, [None, Some(dictionary)]);
        for (number, (_, value)) in written.iter().enumerate() {
            for at in 0..value.len() {
                let mut damaged = written.clone();
                damaged[number].1[at] ^= 1;
                assert!(assembled(&damaged).iter().any(Result::is_err), "{number} {at}");
                damaged[number].1 = value[..at].to_vec();
                assert!(assembled(&damaged).iter().any(Result::is_err), "{number} {at}");
            }
        }
    }

    fn assembled(pieces: &[(Vec<u8>, Vec<u8>)]) -> Vec<Result<Option<Dictionary>, StoreError>> {
        let mut assembly = Assembly::default();
        pieces.iter().map(|(key, value)| assembly.take(key, value)).collect()
    }

    #[test]
    fn a_dictionary_without_one_of_its_pieces_is_none_and_the_next_one_is_whole() {
        let large = |id| Dictionary { id, content: vec![7; 5 * PIECE_BYTES], ..dictionary(1) };
        let pieces: Vec<_> = [1, 2].iter().flat_map(|id| mutations(&large(*id)).collect::<Vec<_>>()).collect();
        let pieces: Vec<_> = pieces.into_iter().map(|Mutation { key, value, .. }| (key, value.unwrap())).collect();
        assert_eq!(pieces.len(), 12);
        for missing in 0..6 {
            let mut rest = pieces.clone();
            rest.remove(missing);
            let assembled: Vec<_> = assembled(&rest).into_iter().flat_map(Result::ok).flatten().map(|found| found.id).collect();
            assert_eq!(assembled, [2], "{missing}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_damaged_or_missing_is_said_never_guessed_and_comes_back_from_the_journal() {
        for (missing, damaged) in [(false, 1u32), (true, 1), (true, 2)] {
            let folder = tempfile::tempdir().unwrap();
            let store = open(folder.path(), 0..0).await;
            put(&store, 0..10).await;
            add(&store, dictionary(1)).await;
            put(&store, 10..30).await;
            add(&store, dictionary(2)).await;
            put(&store, 30..40).await;
            assert_eq!(findings(&store).await, []);
            let tree = store.trees.tree(Tree::Dictionaries);
            match missing {
                true => tree.remove(piece_key(damaged, 1)),
                false => tree.insert(piece_key(damaged, 1), vec![1; 100]),
            }
            .unwrap();
            store.close().await.unwrap();
            drop(store);

            let store = open(folder.path(), 0..10).await;
            let (lost, other) = if damaged == 1 { (10..30, 35) } else { (30..40, 25) };
            for number in lost.clone() {
                let error = store.article(article(number).key()).await.unwrap_err();
                let named = format!("dictionary {damaged} is not there");
                assert!(matches!(&error, StoreError::Damaged { detail, .. } if detail.contains(&named)), "{error}");
            }
            assert_eq!(store.article(article(other).key()).await.unwrap().unwrap().article, article(other));
            let found = findings(&store).await;
            let of = |kind| found.iter().filter(|(found, _)| *found == kind).count();
            assert_eq!(
                (of(FindingKind::RecordDamaged), of(FindingKind::EntryDamaged)),
                (lost.clone().count(), usize::from(!missing)),
                "{found:?}"
            );
            // An id is not given twice, whatever became of its dictionary; and an article that is stored again is whole again.
            assert_eq!(store.trees.compression().next_id(), 3);
            put(&store, lost.start..lost.start + 1).await;
            let mended = article(lost.start);
            assert_eq!(store.article(mended.key()).await.unwrap().unwrap().article, mended);
            store.close().await.unwrap();
            drop(store);

            let store = open(folder.path(), 0..40).await;
            assert_eq!(findings(&store).await, []);
            assert_eq!(store.stats().await.unwrap().compression.unwrap().dictionaries.len(), 2);
            store.close().await.unwrap();
        }
    }
}
