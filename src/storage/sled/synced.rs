//! How far the journal was synced, noted beside it: so that a journal that lost its end is not taken for one that was torn.
//!
//! A last frame that fails its checksum may have been on its way when the machine stopped, or may have been acknowledged and
//! damaged later. The note tells which, as far as it goes: it is written after every sync and not synced itself, so it survives the
//! end of the process, and a loss of power some seconds later. It is only ever too old.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use super::folder::private_file;
use crate::storage::{StoreError, StoreId};

const BYTES: usize = 32;

/// The note, open for writing.
#[derive(Debug)]
pub struct SyncedNote {
    file: File,
    store_id: StoreId,
}

impl SyncedNote {
    /// Opens the note of a store.
    pub fn open(path: &Path, store_id: StoreId) -> Result<Self, StoreError> {
        let file = private_file(path, OpenOptions::new().create(true).truncate(false).read(true).write(true))?;
        Ok(Self { file, store_id })
    }

    /// The last group that was noted; 0 where nothing, or nothing that makes sense, was.
    pub fn read(&self) -> u64 {
        let mut bytes = [0; BYTES];
        // A note that cannot be read is as good as none.
        if self.file.read_exact_at(&mut bytes, 0).is_err() {
            return 0;
        }
        let group = bytes[..8].iter().fold(0, |group, byte| group << 8 | u64::from(*byte));
        if bytes == self.encode(group) { group } else { 0 }
    }

    /// Notes that the journal is synced up to a group.
    pub fn write(&self, group: u64) -> Result<(), StoreError> {
        let written = self.file.write_all_at(&self.encode(group), 0);
        written.map_err(|error| StoreError::io("cannot note how far the journal is synced", error))
    }

    fn encode(&self, group: u64) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(&group.to_be_bytes());
        bytes[8..24].copy_from_slice(&self.store_id.0);
        let checksum = xxh3_64(&bytes[..24]);
        bytes[24..].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_read_and_anything_else_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("SYNCED");
        let note = SyncedNote::open(&path, StoreId([7; 16])).unwrap();
        assert_eq!(note.read(), 0);
        note.write(41).unwrap();
        note.write(42).unwrap();
        assert_eq!(SyncedNote::open(&path, StoreId([7; 16])).unwrap().read(), 42);
        assert_eq!(SyncedNote::open(&path, StoreId([8; 16])).unwrap().read(), 0);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..BYTES {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(SyncedNote::open(&path, StoreId([7; 16])).unwrap().read(), 0, "{at}");
        }
    }
}
