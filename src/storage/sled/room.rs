//! Whether there is room for a group: asked before it is written, since sled fails for good where its own writes find none.
//!
//! A group that is refused leaves everything as it was, and the next one finds room as soon as there is some.

use std::path::Path;

use crate::storage::StoreError;

/// What is left free for sled, which writes behind the journal, and for checkpoints.
const RESERVE_BYTES: u64 = 8 << 20;
/// What is left free beside that for deleting and for giving space back, which need room themselves.
const RECLAIM_BYTES: u64 = 24 << 20;
/// sled's file may grow by so much between two looks.
const FILE_STEP_BYTES: u64 = 16 << 20;

/// Checks that a group of so many bytes can be written, here and by sled.
///
/// # Errors
/// [`StoreError::DiskFull`] where the disk, or the size that a file of this process may have, does not allow it.
pub fn check(folder: &Path, sled_file_bytes: u64, segment_bytes: u64, group_bytes: u64, grows: bool) -> Result<(), StoreError> {
    let disk = rustix::fs::statvfs(folder).map_err(|error| StoreError::io("cannot ask for the room on the disk", error.into()))?;
    let reserve = if grows { RESERVE_BYTES + RECLAIM_BYTES } else { RESERVE_BYTES };
    // As much again for sled as for the journal.
    if disk.f_bavail.saturating_mul(disk.f_frsize) < reserve + 2 * group_bytes {
        return Err(StoreError::DiskFull);
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize).current;
    let largest = (sled_file_bytes + FILE_STEP_BYTES + group_bytes).max(segment_bytes + group_bytes);
    match limit {
        Some(limit) if largest > limit => Err(StoreError::DiskFull),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_disk_holds_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(check(folder.path(), 0, 0, 1 << 50, true).is_err());
        assert!(check(folder.path(), 0, 0, 1 << 10, true).is_ok());
    }
}
