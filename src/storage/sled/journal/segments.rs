//! The journal's files as the place where payloads stay: reading them, listing and removing the files.
//!
//! Sled holds of each record its header and a [`Location`]; the payload is read from the segment that the record was made
//! durable in. A segment goes when none of its payloads is in use any more and a checkpoint has made its groups needless.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use super::{SPARE, files, segment_path};
use crate::storage::StoreError;
use crate::storage::sled::folder::sync_folder;

/// Files that are kept open for reading. Well below what a process may open by default (1,024).
const OPEN_FILES: usize = 256;

/// Where a payload begins. Its length stands in the header of its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    /// The number of the segment.
    pub segment: u64,
    /// The place in its file.
    pub offset: u64,
}

impl Location {
    /// Bytes of an encoded location.
    pub const BYTES: usize = 16;

    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.segment.to_be_bytes());
        bytes[8..].copy_from_slice(&self.offset.to_be_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8; Self::BYTES]) -> Self {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        Self { segment: number(&bytes[..8]), offset: number(&bytes[8..]) }
    }
}

/// The journal's files.
#[derive(Debug)]
pub struct Segments {
    folder: PathBuf,
    open: RwLock<HashMap<u64, Arc<File>>>,
}

impl Segments {
    /// The segments in a folder.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, open: RwLock::default() }
    }

    /// The file of a segment.
    pub fn path(&self, number: u64) -> PathBuf {
        segment_path(&self.folder, number)
    }

    /// So many bytes from a place; `None` where there is no such segment or it ends before.
    pub fn read(&self, at: Location, length: usize) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(file) = self.file(at.segment)? else { return Ok(None) };
        // Not zeroed first: with texts of kilobytes that is a good part of the cost.
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let place = at.offset + bytes.len() as u64;
            match rustix::io::pread(&*file, rustix::buffer::spare_capacity(&mut bytes), place) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    let path = segment_path(&self.folder, at.segment);
                    return Err(StoreError::io(format!("cannot read {}", path.display()), error.into()));
                }
            }
        }
        bytes.truncate(length);
        Ok(Some(bytes))
    }

    /// The numbers of all segments, in their order.
    pub fn numbers(&self) -> Result<Vec<u64>, StoreError> {
        Ok(files(&self.folder)?.into_iter().map(|(number, _)| number).collect())
    }

    /// Removes a segment that nothing needs any more. One is kept under another name, to be used again.
    pub fn remove(&self, number: u64) -> Result<(), StoreError> {
        let path = segment_path(&self.folder, number);
        let spare = self.folder.join(SPARE);
        let removed = if spare.exists() { fs::remove_file(&path) } else { fs::rename(&path, &spare) };
        removed.map_err(|error| StoreError::io(format!("cannot remove {}", path.display()), error))?;
        self.open.write().unwrap_or_else(PoisonError::into_inner).remove(&number);
        sync_folder(&self.folder)
    }

    fn file(&self, number: u64) -> Result<Option<Arc<File>>, StoreError> {
        if let Some(file) = self.open.read().unwrap_or_else(PoisonError::into_inner).get(&number) {
            return Ok(Some(Arc::clone(file)));
        }
        let path = segment_path(&self.folder, number);
        let file = match File::open(&path) {
            Ok(file) => Arc::new(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io(format!("cannot open {}", path.display()), error)),
        };
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= OPEN_FILES
            && let Some(other) = open.keys().find(|other| **other != number).copied()
        {
            open.remove(&other);
        }
        open.insert(number, Arc::clone(&file));
        Ok(Some(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_come_back() {
        let location = Location { segment: 0x0102_0304_0506_0708, offset: 9 };
        assert_eq!(Location::decode(&location.encode()), location);
    }

    #[test]
    fn payloads_are_read_and_what_is_missing_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let segments = Segments::new(folder.path().to_owned());
        fs::write(segment_path(folder.path(), 7), b"0123456789").unwrap();
        let at = |segment, offset| Location { segment, offset };
        assert_eq!(segments.read(at(7, 3), 4).unwrap().as_deref(), Some(&b"3456"[..]));
        assert_eq!(segments.read(at(7, 8), 4).unwrap(), None);
        assert_eq!(segments.read(at(8, 0), 1).unwrap(), None);
        segments.remove(7).unwrap();
        assert_eq!(segments.read(at(7, 3), 4).unwrap(), None);
        assert_eq!(segments.numbers().unwrap(), Vec::<u64>::new());
    }

    #[test]
    fn few_files_stay_open_however_many_there_are() {
        let folder = tempfile::tempdir().unwrap();
        let segments = Segments::new(folder.path().to_owned());
        for number in 0..300 {
            fs::write(segment_path(folder.path(), number), number.to_be_bytes()).unwrap();
            assert!(segments.read(Location { segment: number, offset: 0 }, 8).unwrap().is_some());
        }
        assert!(segments.open.read().unwrap().len() <= OPEN_FILES);
    }
}
