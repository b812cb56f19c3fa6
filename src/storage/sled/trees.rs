//! sled, opened: its settings and the trees.
//!
//! Mutations are applied one by one, not in sled's transactions: those take a lock that stops every reader, and what they
//! would add (all of a group or none of it after a crash) the journal gives already.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use super::damage::Damage;
use super::days::DayChecks;
use super::dictionaries;
use super::entry::SegmentUsage;
use super::folder::{Folder, create_folder, folder_bytes, sync_folder};
use super::journal::{Mutation, Segments};
use super::keys::{self, Tree};
use super::pin::Pins;
use super::room;
use super::running::Running;
use crate::storage::StoreError;
use crate::storage::compression::Compression;

/// Bytes of pages that sled keeps in memory. It looks at what to let go only once 64 pages of one of its 256 lists were
/// touched, so up to 16,384 pages more stay: values are kept small (payloads stand in the journal), so that this is little.
const CACHE_BYTES: u64 = 64 << 20;

/// How often sled writes out its buffer and, which nothing else does, collects garbage. Durability does not hang on it.
#[derive(Debug, Clone, Copy)]
#[repr(u64)]
pub enum CollectEveryMs {
    /// While it serves: what was given up meanwhile waits in the file to be used again.
    Serving = 1000,
    /// While it is built: the file becomes less than half as large, for some 5 µs of CPU an article.
    Building = 20,
}

/// The trees of an open store.
#[derive(Debug)]
pub struct Trees {
    path: PathBuf,
    db: sled::Db,
    trees: [sled::Tree; Tree::ALL.len()],
    segments: Arc<Segments>,
    pins: Pins,
    day_checks: DayChecks,
    damage: Arc<Damage>,
    compression: Arc<Compression>,
    /// Held while a group is applied: who holds it sees whole groups.
    applying: Mutex<()>,
    /// A handle of our own on sled's file: the only way to sync it for certain and to hear of a failed write-back.
    file: File,
    /// The last of all: it tells when sled has ended.
    running: Running,
}

impl Trees {
    /// Opens sled in its place in a data folder, creating it where it is missing. The payloads are read from the journal's
    /// segments.
    pub fn open(folder: &Arc<Folder>, segments: Arc<Segments>, collect: CollectEveryMs) -> Result<Self, StoreError> {
        let path = &folder.sled_path();
        create_folder(path)?;
        let running = Running::begin(Arc::clone(folder))?;
        let config = sled::Config::new()
            .path(path)
            .mode(sled::Mode::HighThroughput)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(Some(collect as u64));
        let conf = path.join("conf");
        let new = !conf.exists();
        let db = config.open().map_err(sled_error)?;
        if new {
            // sled writes it once, syncs it never, and opens nothing without it.
            let synced = File::open(&conf).and_then(|conf| conf.sync_all());
            synced.map_err(|error| StoreError::io(format!("cannot sync {}", conf.display()), error))?;
            sync_folder(path)?;
        }
        let open = |tree: Tree| db.open_tree(tree.name()).map_err(sled_error);
        let trees = Tree::ALL.into_iter().map(open).collect::<Result<Vec<_>, _>>()?;
        take_over_urls(&db, &trees[Tree::Urls.place()])?;
        let trees = trees.try_into().map_err(|_| StoreError::damaged("sled", "a tree is missing"))?;
        let file = File::open(path.join("db")).map_err(|error| StoreError::io(format!("cannot open {}/db", path.display()), error))?;
        let trees = Self {
            path: path.to_owned(),
            db,
            trees,
            segments,
            pins: Pins::default(),
            day_checks: DayChecks::default(),
            damage: Arc::new(Damage::new(Arc::clone(folder))),
            compression: Arc::default(),
            applying: Mutex::default(),
            file,
            running,
        };
        dictionaries::load(&trees)?;
        Ok(trees)
    }

    /// One of the trees.
    pub fn tree(&self, tree: Tree) -> &sled::Tree {
        &self.trees[tree.place()]
    }

    /// Where the payloads are.
    pub fn segments(&self) -> &Arc<Segments> {
        &self.segments
    }

    /// The value under a key.
    pub fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<sled::IVec>, StoreError> {
        self.tree(tree).get(key).map_err(sled_error)
    }

    /// How much of a segment's payloads is in use; nothing where it holds none.
    pub fn segment_usage(&self, segment: u64) -> Result<SegmentUsage, StoreError> {
        let key = segment.to_be_bytes();
        self.get(Tree::Segments, &key)?.map_or(Ok(SegmentUsage::default()), |value| SegmentUsage::decode(&key, &value))
    }

    /// The segments that are needed, in their order.
    pub fn segment_usages(&self) -> Result<Vec<(u64, SegmentUsage)>, StoreError> {
        let decode = |entry: sled::Result<(sled::IVec, sled::IVec)>| {
            let (key, value) = entry.map_err(sled_error)?;
            let segment = key[..].try_into().map(u64::from_be_bytes);
            let segment = segment.map_err(|_| StoreError::damaged("a key of the segments", "it is no number"))?;
            Ok((segment, SegmentUsage::decode(&key, &value)?))
        };
        self.tree(Tree::Segments).iter().map(decode).collect()
    }

    /// Bytes of payloads that are in use, in all segments.
    pub fn live_bytes(&self) -> Result<u64, StoreError> {
        Ok(self.segment_usages()?.iter().map(|(_, usage)| usage.live_bytes).sum())
    }

    /// What is known of the days.
    pub fn day_checks(&self) -> &DayChecks {
        &self.day_checks
    }

    /// What is known to be damaged.
    pub fn damage(&self) -> &Arc<Damage> {
        &self.damage
    }

    /// How contents are encoded and decoded.
    pub fn compression(&self) -> &Arc<Compression> {
        &self.compression
    }

    /// Checks that there is room for a group of so many bytes in a segment of so many, and for what sled makes of it. One that
    /// does not grow the store may take more of what is kept free.
    pub fn check_room(&self, segment_bytes: u64, group_bytes: u64, grows: bool) -> Result<(), StoreError> {
        let file = self.file.metadata().map_err(|error| StoreError::io(format!("cannot look at {}/db", self.path.display()), error))?;
        room::check(&self.path, file.len(), segment_bytes, group_bytes, grows)
    }

    /// What snapshots hold back.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Looks at the trees while no group is being applied. Writers wait meanwhile: not for long jobs.
    pub fn between_groups<T>(&self, look: impl FnOnce(&Self) -> T) -> T {
        let _applying = self.applying.lock().unwrap_or_else(PoisonError::into_inner);
        look(self)
    }

    /// Carries the mutations of a group out, in order.
    pub fn apply(&self, mutations: Vec<Mutation>) -> Result<(), StoreError> {
        let _applying = self.applying.lock().unwrap_or_else(PoisonError::into_inner);
        let pin = self.pins.current();
        let mut learned = false;
        for mutation in mutations {
            if let Some(pin) = &pin {
                pin.note(&mutation, || self.get(mutation.tree, &mutation.key))?;
            }
            let Mutation { tree, key, value } = mutation;
            learned |= tree == Tree::Dictionaries;
            match value {
                Some(value) => self.tree(tree).insert(key, value),
                None => self.tree(tree).remove(key),
            }
            .map_err(sled_error)?;
        }
        if learned { dictionaries::load(self) } else { Ok(()) }
    }

    /// Makes everything applied so far durable. sled's own flush only hands it to the operating system.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(sled_error)?;
        self.file.sync_all().map_err(|error| StoreError::io(format!("cannot sync {}/db", self.path.display()), error))?;
        sync_folder(&self.path)
    }

    /// Says that everything is durable and nothing more will be applied: sled's files can be believed once these are dropped.
    pub fn close(&self) {
        self.running.close();
    }

    /// Bytes of sled's files.
    pub fn bytes_on_disk(&self) -> u64 {
        folder_bytes(&self.path)
    }
}

/// Moves what stands in the index by URL of format 5 to the one there is now. Where it was cut off, it begins again.
fn take_over_urls(db: &sled::Db, urls: &sled::Tree) -> Result<(), StoreError> {
    if !db.tree_names().iter().any(|name| *name == keys::URLS_NAME_OF_FORMAT_5) {
        return Ok(());
    }
    let earlier = db.open_tree(keys::URLS_NAME_OF_FORMAT_5).map_err(sled_error)?;
    for key in earlier.iter().keys() {
        let key = keys::url_index_key_of_format_5(&key.map_err(sled_error)?);
        let key = key.ok_or_else(|| StoreError::damaged("a key of the index by URL", "it is no URL key and date"))?;
        urls.insert(key, sled::IVec::default()).map_err(sled_error)?;
    }
    db.flush().map_err(sled_error)?;
    db.drop_tree(keys::URLS_NAME_OF_FORMAT_5).map_err(sled_error)?;
    tracing::info!("the index by URL was taken over from format 5");
    Ok(())
}

/// What an error of sled means for the store.
pub fn sled_error(error: sled::Error) -> StoreError {
    match error {
        sled::Error::Corruption { at, .. } => StoreError::damaged("sled's file", format!("a page at {at:?} fails its checksum")),
        sled::Error::Io(source) if source.kind() == std::io::ErrorKind::StorageFull => StoreError::DiskFull,
        sled::Error::Io(source) => StoreError::io("sled cannot read or write its file", source),
        other => StoreError::Failed(format!("sled: {other}")),
    }
}
