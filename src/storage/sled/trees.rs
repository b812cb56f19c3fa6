//! sled, opened: its settings and the trees.
//!
//! Mutations are applied one by one, not in sled's transactions: those take a lock that stops every reader, and what they
//! would add (all of a group or none of it after a crash) the journal gives already.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::folder::{create_folder, folder_bytes, sync_folder};
use super::journal::Mutation;
use super::keys::Tree;
use crate::storage::StoreError;

/// Bytes of memory for pages. sled also holds what is on its way to the disk, so the process takes more.
const CACHE_BYTES: u64 = 64 << 20;
/// sled's unit of writing and of reusing space. It decides how large a leaf may grow (a quarter) before sled moves it into a
/// file of its own, which it neither syncs nor reclaims well; see [`CHUNK_BYTES`]. Fixed when a store is created.
const SEGMENT_BYTES: usize = 2 << 20;
/// sled splits a leaf by the number of its values, beyond 16, and looks only when the leaf is next visited.
const LEAF_VALUES: usize = 20;
/// The largest piece of a payload that goes into one value, so that no leaf outgrows a segment's quarter.
pub const CHUNK_BYTES: usize = SEGMENT_BYTES / 4 / LEAF_VALUES - 4096;
/// How often sled writes out its buffer and, which nothing else does, collects garbage. Durability does not hang on it.
const FLUSH_EVERY_MS: u64 = 1000;

/// The trees of an open store.
#[derive(Debug)]
pub struct Trees {
    path: PathBuf,
    db: sled::Db,
    trees: [sled::Tree; Tree::ALL.len()],
    /// A handle of our own on sled's file: the only way to sync it for certain and to hear of a failed write-back.
    file: File,
}

impl Trees {
    /// Opens sled in a folder, creating it where it is missing.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        create_folder(path)?;
        let config = sled::Config::new()
            .path(path)
            .mode(sled::Mode::HighThroughput)
            .cache_capacity(CACHE_BYTES)
            .segment_size(SEGMENT_BYTES)
            .flush_every_ms(Some(FLUSH_EVERY_MS));
        let db = config.open().map_err(sled_error)?;
        let open = |tree: Tree| db.open_tree(tree.name()).map_err(sled_error);
        let trees = Tree::ALL.into_iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let trees = trees.try_into().map_err(|_| StoreError::damaged("sled", "a tree is missing"))?;
        let file = File::open(path.join("db")).map_err(|error| StoreError::io(format!("cannot open {}/db", path.display()), error))?;
        Ok(Self { path: path.to_owned(), db, trees, file })
    }

    /// One of the trees.
    pub fn tree(&self, tree: Tree) -> &sled::Tree {
        &self.trees[tree as usize - 1]
    }

    /// The value under a key.
    pub fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<sled::IVec>, StoreError> {
        self.tree(tree).get(key).map_err(sled_error)
    }

    /// Carries mutations out, in order.
    pub fn apply(&self, mutations: Vec<Mutation>) -> Result<(), StoreError> {
        for Mutation { tree, key, value } in mutations {
            match value {
                Some(value) => self.tree(tree).insert(key, value),
                None => self.tree(tree).remove(key),
            }
            .map_err(sled_error)?;
        }
        Ok(())
    }

    /// Makes everything applied so far durable. sled's own flush only hands it to the operating system.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(sled_error)?;
        self.file.sync_all().map_err(|error| StoreError::io(format!("cannot sync {}/db", self.path.display()), error))?;
        sync_folder(&self.path)
    }

    /// Bytes of sled's files.
    pub fn bytes_on_disk(&self) -> u64 {
        folder_bytes(&self.path)
    }
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
