//! Opening: from sled's files and the journal after the last checkpoint to a store that holds everything acknowledged.
//!
//! What is missing is noticed here, and refused. Where sled's files are damaged or lost something, they are built anew from the
//! journal, which holds everything.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::dictionaries;
use super::entry::State;
use super::folder::{Checkpoint, Folder, sync_folder};
use super::journal::{self, Journal, Segments};
use super::keys::{STATE_KEY, Tree};
use super::running;
use super::supervision::supervised;
use super::synced::SyncedNote;
use super::trees::{CollectEveryMs, Trees};
use super::verify;
use crate::storage::StoreError;
use crate::storage::planted::{Fault, planted};

/// What an open store consists of, without its threads.
pub struct Parts {
    pub folder: Arc<Folder>,
    pub trees: Arc<Trees>,
    pub journal: Journal,
    pub synced: SyncedNote,
    pub state: State,
}

impl Parts {
    /// Opens a store; where sled's files are damaged, from the journal alone.
    pub fn open_supervised(path: &Path) -> Result<Self, StoreError> {
        let folder = Arc::new(Folder::open(path)?);
        let attempt = |source: Source| {
            let folder = Arc::clone(&folder);
            supervised(&path.display().to_string(), move || Self::open(folder, source))
        };
        if !folder.has_checkpoint() || folder.aside_path().exists() {
            return attempt(Source::Journal);
        }
        if running::is_in_doubt(&folder) {
            // Noted until it is done: sled is opened with a note of this boot then, and may have to be opened as it is.
            folder.note_rebuild("the machine stopped while the store was open, or this is a copy of an open one")?;
        }
        if let Some(reason) = folder.rebuild_reason()? {
            tracing::warn!(reason, "the indexes are built anew from the journal, which takes two seconds for every 100,000 articles");
            match attempt(Source::Journal) {
                Err(error) => tracing::warn!(%error, "they cannot be built anew: what is whole is served"),
                opened => return opened,
            }
        }
        match attempt(Source::Sled) {
            Err(refused @ (StoreError::Damaged { .. } | StoreError::Failed(_))) => {
                tracing::warn!(%refused, "sled's files are of no use: they are built anew from the journal, which takes two seconds for every 100,000 articles");
                attempt(Source::Journal).map_err(|error| {
                    tracing::warn!(%error, "they cannot be built anew");
                    refused
                })
            }
            opened => opened,
        }
    }

    fn open(folder: Arc<Folder>, source: Source) -> Result<Self, StoreError> {
        let segments = Arc::new(Segments::new(folder.journal_path()));
        let aside = folder.aside_path();
        if source == Source::Journal {
            set_aside(&folder.sled_path(), &aside)?;
        }
        let trees = Arc::new(Trees::open(&folder, segments, CollectEveryMs::Serving)?);
        let recovered = recover(&folder, &trees, source).and_then(|(journal, synced, state)| {
            if source == Source::Journal {
                trees.flush()?;
                folder.write_checkpoint(Checkpoint { group: state.group })?;
                remove_folder(&aside)?;
                folder.clear_rebuild()?;
            }
            Ok((journal, synced, state))
        });
        let (journal, synced, state) = recovered.inspect_err(|_| {
            // sled may be broken, and then its end could wait for ever: it is left behind.
            std::mem::forget(Arc::clone(&trees));
            // What sled had stays for whoever can make sense of it.
            if aside.exists()
                && let Err(error) = set_back(&folder.sled_path(), &aside)
            {
                tracing::warn!(%error, "sled's files stay aside");
            }
        })?;
        Ok(Self { folder, trees, journal, synced, state })
    }
}

/// What a store is opened from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// From sled's files, and the journal after the last checkpoint.
    Sled,
    /// From the journal alone, since nothing says that sled's files are durable, or they are damaged.
    Journal,
}

/// Applies the journal, checks that nothing acknowledged is missing, and begins a new journal file.
fn recover(folder: &Folder, trees: &Trees, source: Source) -> Result<(Journal, SyncedNote, State), StoreError> {
    let stored = |trees: &Trees| {
        let value = trees.get(Tree::State, STATE_KEY)?;
        value.map_or(Ok(State::default()), |value| State::decode(&value))
    };
    let (path, store_id) = (folder.journal_path(), folder.store_id());
    let apply = |_, mutations| trees.apply(mutations);
    let note = SyncedNote::open(&folder.synced_path(), store_id)?;
    let synced = note.read();
    let (known, replayed) = match source {
        Source::Sled => {
            let checkpoint = folder.checkpoint()?;
            let found = stored(trees)?.group;
            if found < checkpoint.group && !planted(Fault::SequenceCheckIgnored) {
                let detail = format!("it holds groups up to {found}, but group {} was durable: restore a backup", checkpoint.group);
                return Err(StoreError::damaged(folder.sled_path().display().to_string(), detail));
            }
            (found, journal::replay(&path, store_id, checkpoint.group, synced, apply)?)
        }
        // A checkpoint that cannot be read says nothing; the note of what was synced still may.
        Source::Journal => {
            let durable = folder.checkpoint().map_or(0, |checkpoint| checkpoint.group);
            (durable, journal::rebuild(&path, store_id, durable, synced, apply)?)
        }
    };
    let acknowledged = known.max(synced);
    if replayed.last_group < acknowledged && !planted(Fault::SequenceCheckIgnored) {
        let detail = format!("it ends with group {}, but group {acknowledged} was acknowledged: restore a backup", replayed.last_group);
        return Err(StoreError::damaged(path.display().to_string(), detail));
    }
    note.write(replayed.last_group.max(synced))?;
    let state = stored(trees)?;
    if replayed.applied > 0 {
        tracing::info!(groups = replayed.applied, "applied what the journal held since the last checkpoint");
    }
    check_segments(trees)?;
    dictionaries::check(trees, state.last_dictionary);
    if let Some(wrong) = verify::totals(trees)?.into_iter().next().filter(|_| !planted(Fault::SequenceCheckIgnored)) {
        return Err(StoreError::damaged(folder.sled_path().display().to_string(), format!("{}: restore a backup", wrong.detail)));
    }
    // Only now: a segment that is missing must not be taken for the new one.
    let journal = Journal::create(&path, store_id, replayed.next_number, state.group + 1)?;
    Ok((journal, note, state))
}

/// Puts a folder out of the way until what takes its place is known to be whole. What was put there before goes back first: then
/// that was never known.
fn set_aside(path: &Path, aside: &Path) -> Result<(), StoreError> {
    if aside.exists() {
        set_back(path, aside)?;
    }
    if path.exists() { move_folder(path, aside) } else { Ok(()) }
}

fn set_back(path: &Path, aside: &Path) -> Result<(), StoreError> {
    remove_folder(path)?;
    move_folder(aside, path)
}

fn move_folder(from: &Path, to: &Path) -> Result<(), StoreError> {
    std::fs::rename(from, to).map_err(|error| StoreError::io(format!("cannot move {} to {}", from.display(), to.display()), error))?;
    from.parent().map_or(Ok(()), sync_folder)
}

fn remove_folder(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::io(format!("cannot remove {}", path.display()), error))
        }
        _ => Ok(()),
    }
}

/// Checks that every segment is there that is needed.
fn check_segments(trees: &Trees) -> Result<(), StoreError> {
    let there: HashSet<u64> = trees.segments().numbers()?.into_iter().collect();
    for (segment, _) in trees.segment_usages()? {
        if !there.contains(&segment) {
            let path = trees.segments().path(segment).display().to_string();
            return Err(StoreError::damaged(path, "it is missing, and with it the text of articles: restore a backup"));
        }
    }
    Ok(())
}
