//! What is known to be damaged, so that it can be mended: the index as a whole, which the journal can build anew when the store
//! is opened next, and single texts, which come back when the same article is stored again.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::storage::StoreError;

/// So many damaged texts are remembered at most. More are mended by deleting and storing.
const TEXTS: usize = 100_000;

/// The damage that was come across since the store was opened.
#[derive(Debug)]
pub struct Damage {
    /// The file that has sled built anew when the store is opened next.
    rebuild_note: PathBuf,
    index: AtomicBool,
    /// The keys of articles whose latest text is damaged.
    texts: Mutex<HashSet<Vec<u8>>>,
}

impl Damage {
    /// Nothing is known yet. `rebuild_note` is where it is noted that sled is to be built anew.
    pub fn new(rebuild_note: PathBuf) -> Self {
        Self { rebuild_note, index: AtomicBool::new(false), texts: Mutex::default() }
    }

    /// Notes that something is wrong with what sled holds, or is missing from it.
    pub fn note_index(&self, what: &StoreError) {
        if self.index.swap(true, Ordering::Relaxed) {
            return;
        }
        match std::fs::write(&self.rebuild_note, format!("{what}\n")) {
            Ok(()) => tracing::error!(%what, "the indexes are damaged: they are built anew from the journal when the daemon starts again"),
            Err(error) => tracing::error!(%what, %error, "the indexes are damaged, and that could not be noted for the next start"),
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
