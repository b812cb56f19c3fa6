//! What a snapshot needs of the trees as they were: values are kept aside before they are changed.
//!
//! While a snapshot is read, whatever a mutation replaces or removes is noted first, once a key. A page of the snapshot is a page
//! of the tree as it is now, put right by these notes. They are small (payloads stay in the journal, whose segments are not
//! removed meanwhile) and bounded. What is new takes none where it tells by its sequence that it is.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::journal::Mutation;
use super::keys::{self, Tree};
use crate::storage::StoreOptions;

/// What a note takes beside its key and value.
const OVERHEAD_BYTES: usize = 64;

/// The notes for one snapshot.
#[derive(Debug)]
pub struct Pin {
    /// Bytes of notes at most.
    limit: usize,
    notes: Mutex<Notes>,
    exceeded: AtomicBool,
}

#[derive(Debug, Default)]
struct Notes {
    before: BTreeMap<(u8, Vec<u8>), Option<sled::IVec>>,
    bytes: usize,
}

impl Pin {
    fn new(limit: usize) -> Self {
        Self { limit, notes: Mutex::default(), exceeded: AtomicBool::new(false) }
    }

    /// Notes what stands under the key of a mutation before it is carried out. `read` is only asked the first time.
    pub fn note<E>(&self, mutation: &Mutation, read: impl FnOnce() -> Result<Option<sled::IVec>, E>) -> Result<(), E> {
        let Mutation { tree, key, .. } = mutation;
        let absence_matters = match tree {
            // A snapshot leaves them out.
            Tree::Streams if keys::is_stream_detail(key) => return Ok(()),
            // What is there already may lose a change; what is new has later ones alone.
            Tree::Articles | Tree::Tombstones | Tree::Changes => false,
            Tree::Revisions | Tree::Streams => true,
            Tree::Urls | Tree::Days | Tree::Segments | Tree::State | Tree::Dictionaries => return Ok(()),
        };
        if self.exceeded() {
            return Ok(());
        }
        let mut notes = self.lock();
        let place = (*tree as u8, key.clone());
        if notes.before.contains_key(&place) {
            return Ok(());
        }
        let value = read()?;
        if value.is_none() && !absence_matters {
            return Ok(());
        }
        notes.bytes += place.1.len() + value.as_ref().map_or(0, |value| value.len()) + OVERHEAD_BYTES;
        notes.before.insert(place, value);
        if notes.bytes > self.limit {
            *notes = Notes::default();
            self.exceeded.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Whether more was changed than is held back: the snapshot is of no use then.
    pub fn exceeded(&self) -> bool {
        self.exceeded.load(Ordering::Acquire)
    }

    /// Puts a page of a tree right that was read just now: all its entries after `after`, up to `last` (to the end where that
    /// is `None`).
    pub fn put_right(&self, tree: Tree, page: &mut BTreeMap<Vec<u8>, sled::IVec>, after: Option<&[u8]>, last: Option<&[u8]>) {
        let place = |key: &[u8]| (tree as u8, key.to_vec());
        let start = after.map_or(Bound::Included((tree as u8, Vec::new())), |after| Bound::Excluded(place(after)));
        let end = last.map_or(Bound::Excluded((tree as u8 + 1, Vec::new())), |last| Bound::Included(place(last)));
        for ((_, key), value) in self.lock().before.range((start, end)) {
            match value {
                Some(value) => drop(page.insert(key.clone(), value.clone())),
                None => drop(page.remove(key)),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pin of the snapshot that is being read, if there is one.
#[derive(Debug)]
pub struct Pins {
    current: Mutex<Weak<Pin>>,
    /// Bytes of notes that the next pin holds at most.
    limit: AtomicUsize,
}

impl Default for Pins {
    fn default() -> Self {
        Self { current: Mutex::default(), limit: AtomicUsize::new(StoreOptions::default().snapshot_note_bytes) }
    }
}

impl Pins {
    /// Later pins hold so many bytes of notes at most.
    pub fn limit(&self, bytes: usize) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    /// A pin for a new snapshot; `None` where another is being read. It holds until it is dropped.
    pub fn begin(&self) -> Option<Arc<Pin>> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.strong_count() > 0 {
            return None;
        }
        let pin = Arc::new(Pin::new(self.limit.load(Ordering::Relaxed)));
        *current = Arc::downgrade(&pin);
        Some(pin)
    }

    /// The pin that holds now.
    pub fn current(&self) -> Option<Arc<Pin>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(entries: &[(&str, &str)]) -> BTreeMap<Vec<u8>, sled::IVec> {
        entries.iter().map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().into())).collect()
    }

    fn change(tree: Tree, key: &[u8]) -> Mutation {
        Mutation { tree, key: key.to_vec(), value: Some(Vec::new()) }
    }

    #[test]
    fn a_page_is_put_right_by_the_first_note_of_each_key() {
        let pins = Pins::default();
        let pin = pins.begin().unwrap();
        assert!(pins.begin().is_none());
        let note = |key: &str, value: Option<&str>| {
            let before = value.map(|value| value.as_bytes().into());
            pin.note(&change(Tree::Revisions, key.as_bytes()), || Ok::<_, ()>(before)).unwrap();
        };
        note("b", Some("old"));
        note("b", Some("newer"));
        note("c", None);
        note("d", Some("deleted since"));
        note("z", None);
        let mut now = page(&[("a", "a"), ("b", "new"), ("c", "created since")]);
        pin.put_right(Tree::Revisions, &mut now, None, Some(b"d"));
        assert_eq!(now, page(&[("a", "a"), ("b", "old"), ("d", "deleted since")]));
        let mut rest = page(&[("c", "created since"), ("z", "created since")]);
        pin.put_right(Tree::Revisions, &mut rest, Some(b"b"), None);
        assert_eq!(rest, page(&[("d", "deleted since")]));
        let mut other = page(&[("b", "of another tree")]);
        pin.put_right(Tree::Articles, &mut other, None, None);
        assert_eq!(other, page(&[("b", "of another tree")]));
        drop(pin);
        assert!(pins.begin().is_some());
    }

    #[test]
    fn notes_are_bounded_and_what_is_new_takes_none() {
        let pin = Pin::new(64 << 20);
        for number in 0..100_000u32 {
            pin.note(&change(Tree::Articles, &number.to_be_bytes()), || Ok::<_, ()>(None)).unwrap();
        }
        assert_eq!(pin.lock().bytes, 0);
        for number in 0..100_000u32 {
            pin.note(&change(Tree::Articles, &number.to_be_bytes()), || Ok::<_, ()>(Some(vec![0; 1000].into()))).unwrap();
        }
        assert!(pin.exceeded());
        assert_eq!(pin.lock().before.len(), 0);
    }
}
