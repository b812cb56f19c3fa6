//! What is known to be damaged, so that it can be mended: the index as a whole, which the journal can build anew when the store
//! is opened next, and single texts, which come back when the same article is stored again.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::folder::Folder;
use crate::storage::StoreError;

/// So many damaged texts are remembered at most. More are mended by deleting and storing.
const TEXTS: usize = 100_000;

/// The damage that was come across since the store was opened.
#[derive(Debug)]
pub struct Damage {
    folder: Arc<Folder>,
    index: AtomicBool,
    /// The keys of articles whose latest text is damaged.
    texts: Mutex<HashSet<Vec<u8>>>,
}

impl Damage {
    /// Nothing is known yet.
    pub fn new(folder: Arc<Folder>) -> Self {
        Self { folder, index: AtomicBool::new(false), texts: Mutex::default() }
    }

    /// Notes that something is wrong with what sled holds, or is missing from it.
    pub fn note_index(&self, what: &StoreError) {
        if self.index.swap(true, Ordering::Relaxed) {
            return;
        }
        match self.folder.note_rebuild(&what.to_string()) {
            Ok(()) => tracing::error!(%what, "the indexes are damaged: they are built anew from the journal when the daemon starts again"),
            Err(error) => tracing::error!(%what, %error, "the indexes are damaged, and that could not be noted for the next start"),
        }
    }

    /// Notes that writing has failed: what sled's files hold by now is not known.
    pub fn note_failure(&self, reason: &str) {
        if !self.index.swap(true, Ordering::Relaxed)
            && let Err(error) = self.folder.note_rebuild(reason)
        {
            tracing::error!(%error, "that the indexes are to be built anew could not be noted for the next start");
        }
    }

    /// Notes that the text of an article's latest revision cannot be read.
    pub fn note_text(&self, article_key: &[u8]) {
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        if texts.len() < TEXTS {
            texts.insert(article_key.to_vec());
        }
    }

    /// Whether the text of this article is known to be damaged; forgets it, since whoever asks mends it.
    pub fn take_text(&self, article_key: &[u8]) -> bool {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner).remove(article_key)
    }
}
