//! Reading the whole journal: everything that the trees should hold, from nothing.
//!
//! Of every key the last mutation stands in some segment that is still needed, since whoever gives a segment up writes what
//! stands in it again first. So the mutations of all needed segments, in their order, give the trees. Which segments are needed
//! is said by the first group of each segment, and by the groups after it for those given up since.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::frame::decode_mutations;
use super::replay::LastDurable;
use super::{Mutation, Replay, SegmentReader, files, segment_path};
use crate::storage::sled::entry::SegmentUsage;
use crate::storage::sled::keys::Tree;
use crate::storage::{StoreError, StoreId};

/// Reads all groups of all needed segments, in order, and hands each to `apply`, the last one only once it is durable. Groups up to
/// `durable` are known to be whole on the disk, and those up to `synced` to have been synced.
///
/// # Errors
/// Where a needed segment, or a group of one, is missing or damaged; payloads may be, which whoever reads them notices. The last
/// group of the journal may be missing all the same: whoever knows which one it should be has to compare.
pub fn rebuild(
    folder: &Path,
    store_id: StoreId,
    durable: u64,
    synced: u64,
    apply: impl FnMut(u64, Vec<Mutation>) -> Result<(), StoreError>,
) -> Result<Replay, StoreError> {
    let mut groups = LastDurable::new(synced, apply);
    let files: BTreeMap<u64, PathBuf> = files(folder)?.into_iter().collect();
    let mut replay = Replay { last_group: 0, applied: 0, next_number: files.keys().last().map_or(1, |number| number + 1) };
    for (number, usage) in needed(&files, store_id, durable)? {
        let missing = || StoreError::damaged(segment_path(folder, number).display().to_string(), "it is missing");
        let path = files.get(&number).ok_or_else(missing)?;
        let mut reader = SegmentReader::open_with(path, store_id, number, usage.last_group.max(durable))?;
        while let Some(frame) = reader.next_frame(0)? {
            (replay.last_group, replay.applied) = (frame.group, replay.applied + 1);
            groups.hand_on(&reader, frame)?;
        }
        if usage.last_group != 0 && usage.last_group != replay.last_group {
            return Err(reader.damaged(&format!("it ends with group {}, but had group {}", replay.last_group, usage.last_group)));
        }
    }
    groups.finish()?;
    Ok(replay)
}

/// The segments that are needed, as the last segment says that holds a group.
fn needed(files: &BTreeMap<u64, PathBuf>, store_id: StoreId, durable: u64) -> Result<BTreeMap<u64, SegmentUsage>, StoreError> {
    for (number, path) in files.iter().rev() {
        let mut reader = SegmentReader::open_with(path, store_id, *number, durable)?;
        let mut needed = BTreeMap::new();
        let mut groups = 0;
        while let Some(frame) = reader.next_frame(0)? {
            groups += 1;
            for Mutation { tree, key, value } in decode_mutations(&frame.content)? {
                let Some(segment) = key[..].try_into().ok().map(u64::from_be_bytes).filter(|_| tree == Tree::Segments) else { continue };
                match value {
                    Some(value) => drop(needed.insert(segment, SegmentUsage::decode(&key, &value)?)),
                    None => drop(needed.remove(&segment)),
                }
            }
        }
        if groups > 0 {
            return Ok(needed);
        }
    }
    Ok(BTreeMap::new())
}

#[cfg(test)]
mod tests {
    use super::super::frame::PAYLOADS_AT;
    use super::super::{BLOCK, Frame, Journal, file_name};
    use super::*;

    const STORE: StoreId = StoreId([5; 16]);

    fn said(segment: u64, last_group: Option<u64>) -> Mutation {
        let key = segment.to_be_bytes();
        let usage = last_group.map(|last_group| SegmentUsage { last_group, ..SegmentUsage::default() }.encode(&key));
        Mutation { tree: Tree::Segments, key: key.into(), value: usage }
    }

    fn groups(folder: &Path) -> Result<Vec<u64>, StoreError> {
        let mut groups = Vec::new();
        rebuild(folder, STORE, 0, 0, |group, _| {
            groups.push(group);
            Ok(())
        })?;
        Ok(groups)
    }

    /// Three segments of three groups each; the last one says that the second is not needed.
    fn written(folder: &Path) -> Journal {
        let mut journal = Journal::create(folder, STORE, 1, 1).unwrap();
        for group in 1..=9 {
            if group > 1 && group % 3 == 1 {
                journal.rotate(group).unwrap();
            }
            let number = journal.number();
            let mut list: Vec<_> = (1..number).map(|segment| said(segment, Some(3 * segment))).collect();
            list.push(said(number, Some(0)));
            let list = if group % 3 == 1 { list } else { Vec::new() };
            let forgotten = Vec::from_iter((group == 8).then(|| said(2, None)));
            journal.append(Frame::new(group, &[], list.iter().chain(&forgotten))).unwrap();
        }
        journal
    }

    #[test]
    fn what_is_needed_is_read_and_what_was_given_up_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = written(folder.path());
        assert_eq!(groups(folder.path()).unwrap(), [1, 2, 3, 7, 8, 9]);
        std::fs::remove_file(folder.path().join(file_name(2))).unwrap();
        assert_eq!(groups(folder.path()).unwrap(), [1, 2, 3, 7, 8, 9]);
        // A new segment without a group says nothing yet.
        journal.rotate(10).unwrap();
        assert_eq!(groups(folder.path()).unwrap(), [1, 2, 3, 7, 8, 9]);
    }

    #[test]
    fn what_is_needed_and_missing_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(written(folder.path()));
        let path = folder.path().join(file_name(1));
        let whole = std::fs::read(&path).unwrap();
        // The last group of the first segment.
        std::fs::write(&path, &whole[..3 * BLOCK]).unwrap();
        assert!(groups(folder.path()).is_err());
        std::fs::write(&path, [&whole[..3 * BLOCK + 20], &[0; 24][..]].concat()).unwrap();
        assert!(groups(folder.path()).is_err());
        for at in (0..3 * BLOCK).step_by(1000) {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, damaged).unwrap();
            assert!(groups(folder.path()).map_or(true, |groups| groups == [1, 2, 3, 7, 8, 9]), "{at}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(groups(folder.path()).is_err());
    }

    #[test]
    fn a_damaged_payload_costs_no_mutation_but_a_torn_end_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(folder.path(), STORE, 1, 1).unwrap();
        for group in 1..=2 {
            let list = [said(1, Some(0))];
            journal.append(Frame::new(group, &[vec![7; 100]], list.iter())).unwrap();
        }
        let path = folder.path().join(file_name(1));
        let whole = std::fs::read(&path).unwrap();
        let after = |at: usize, durable: u64| {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, damaged).unwrap();
            let mut groups = Vec::new();
            let rebuilt = rebuild(folder.path(), STORE, durable, 0, |group, _| {
                groups.push(group);
                Ok(())
            });
            rebuilt.map(|_| groups)
        };
        let (first, last) = (BLOCK + PAYLOADS_AT + 50, 2 * BLOCK + PAYLOADS_AT + 50);
        assert_eq!(after(first, 2).unwrap(), [1, 2]);
        assert_eq!(after(first, 1).unwrap(), [1, 2]);
        assert!(after(first, 0).is_err(), "another group follows, so it is not torn");
        assert_eq!(after(last, 2).unwrap(), [1, 2]);
        assert_eq!(after(last, 1).unwrap(), [1]);
        for at in [BLOCK + 4, BLOCK + 8, BLOCK + PAYLOADS_AT - 1, BLOCK + PAYLOADS_AT + 101] {
            assert!(after(at, 2).is_err(), "{at}");
        }
    }
}
