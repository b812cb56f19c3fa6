//! Reading the journal back after a crash, and telling a cut-off end from damage.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::frame::{FrameHeader, HEADER_BYTES, Intact, Mutation, decode_mutations};
use super::{BLOCK, disk_full_or, files, header};
use crate::storage::planted::{Fault, planted};
use crate::storage::{StoreError, StoreId};

/// What replaying found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replay {
    /// The last group of the journal, or the one it was to start after where there is none.
    pub last_group: u64,
    /// Groups that were applied.
    pub applied: u64,
    /// The number that the next file gets.
    pub next_number: u64,
}

/// Reads all groups after `after`, in order, and hands each to `apply`, the last one only once it is durable. Groups up to `synced`
/// are known to be.
///
/// # Errors
/// Where a group is missing or damaged. A frame that was being written when the machine stopped, and so was never
/// acknowledged, is no damage: nothing follows it.
pub fn replay(
    folder: &Path,
    store_id: StoreId,
    after: u64,
    synced: u64,
    apply: impl FnMut(u64, Vec<Mutation>) -> Result<(), StoreError>,
) -> Result<Replay, StoreError> {
    let files = files(folder)?;
    let mut groups = LastDurable::new(synced, apply);
    let mut replay = Replay { last_group: after, applied: 0, next_number: files.last().map_or(1, |(number, _)| number + 1) };
    // Backwards to the segment that the group after the checkpoint is in: those before it hold contents alone.
    let mut needed = Vec::new();
    for (number, path) in files.iter().rev() {
        let reader = SegmentReader::open(path, store_id, *number)?;
        let reached = reader.first_group <= after + 1;
        needed.push(reader);
        if reached {
            break;
        }
    }
    let mut expected = None;
    for mut reader in needed.into_iter().rev() {
        if reader.first_group > *expected.get_or_insert(after + 1) {
            return Err(missing(&reader.path, reader.first_group));
        }
        while let Some(frame) = reader.next_frame(after + 1)? {
            if frame.group > after {
                replay.last_group = frame.group;
                replay.applied += 1;
                groups.hand_on(&reader, frame)?;
            }
        }
        expected = Some(reader.next_group.max(after + 1));
    }
    groups.finish()?;
    Ok(replay)
}

/// A frame that was read.
#[derive(Debug)]
pub(super) struct FoundFrame {
    pub group: u64,
    pub content: Vec<u8>,
    /// Where in the file it begins.
    at: u64,
}

/// Hands groups on one behind, so that the last one of the journal is made durable before anything is built on it.
///
/// Every frame but the last was synced before the next was written. The last may be in the system's cache alone: its process was
/// killed before the sync ended, or the sync failed. Whoever went on from it would lose it, and what follows with it, in a power
/// cut. It is written once more because a system that failed to write a page may take it for written.
pub(super) struct LastDurable<A> {
    synced: u64,
    apply: A,
    waiting: Option<(PathBuf, FoundFrame)>,
}

impl<A: FnMut(u64, Vec<Mutation>) -> Result<(), StoreError>> LastDurable<A> {
    /// Groups up to `synced` are known to be durable.
    pub fn new(synced: u64, apply: A) -> Self {
        Self { synced, apply, waiting: None }
    }

    /// Takes the next frame that is to be applied.
    pub fn hand_on(&mut self, reader: &SegmentReader, frame: FoundFrame) -> Result<(), StoreError> {
        // A path a frame is little beside its content.
        match self.waiting.replace((reader.path.clone(), frame)) {
            Some((_, before)) => (self.apply)(before.group, decode_mutations(&before.content)?),
            None => Ok(()),
        }
    }

    /// Makes the last frame durable, and has it applied.
    pub fn finish(mut self) -> Result<(), StoreError> {
        let Some((path, last)) = self.waiting else { return Ok(()) };
        if last.group > self.synced && !planted(Fault::LastFrameNotSynced) {
            write_again(&path, last.at, HEADER_BYTES + last.content.len())?;
        }
        (self.apply)(last.group, decode_mutations(&last.content)?)
    }
}

fn write_again(path: &Path, at: u64, length: usize) -> Result<(), StoreError> {
    let fail = |error| StoreError::io(format!("cannot make the end of the journal {} durable", path.display()), error);
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(fail)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, at).map_err(fail)?;
    file.write_all_at(&bytes, at).map_err(|error| disk_full_or(error, fail))?;
    file.sync_data().map_err(|error| disk_full_or(error, fail))
}

fn missing(path: &Path, group: u64) -> StoreError {
    StoreError::damaged(format!("the journal {}", path.display()), format!("acknowledged groups before group {group} are missing"))
}

/// Reads one segment from its first frame to its last.
pub struct SegmentReader {
    path: PathBuf,
    file: File,
    length: u64,
    number: u64,
    first_group: u64,
    next_group: u64,
    at: u64,
    /// The first group of which the frame, or a payload in it, is damaged.
    damaged_group: Option<u64>,
    passed_over: bool,
    /// Up to this group a frame counts of which only payloads are damaged. None of them is the last one, which may be torn.
    mutations_suffice: u64,
}

impl SegmentReader {
    /// Opens a segment and verifies its header.
    pub fn open(path: &Path, store_id: StoreId, number: u64) -> Result<Self, StoreError> {
        Self::open_with(path, store_id, number, 0)
    }

    /// The same, where of groups up to this one the mutations are wanted though a payload may be damaged.
    pub fn open_with(path: &Path, store_id: StoreId, number: u64, mutations_suffice: u64) -> Result<Self, StoreError> {
        let fail = |error| StoreError::io(format!("cannot read the journal {}", path.display()), error);
        let file = File::open(path).map_err(fail)?;
        let length = file.metadata().map_err(fail)?.len();
        let mut reader = Self {
            path: path.to_owned(),
            file,
            length,
            number,
            first_group: 0,
            next_group: 0,
            at: BLOCK as u64,
            damaged_group: None,
            passed_over: false,
            mutations_suffice,
        };
        let block = reader.read(0, BLOCK)?.ok_or_else(|| reader.damaged("its header is cut short"))?;
        let first_group = block[32..40].iter().fold(0, |group, byte| group << 8 | u64::from(*byte));
        if block != header(store_id, number, first_group) {
            return Err(reader.damaged("its header fails its checksum or belongs to another store"));
        }
        (reader.first_group, reader.next_group) = (first_group, first_group);
        Ok(reader)
    }

    /// The mutations of the next group that can be read, or `None` where the frames end.
    pub fn next_group(&mut self) -> Result<Option<Vec<Mutation>>, StoreError> {
        self.next_frame(u64::MAX)?.map(|frame| decode_mutations(&frame.content)).transpose()
    }

    /// Whether there was a group that could not be read.
    pub fn passed_over(&self) -> bool {
        self.passed_over
    }

    /// # Errors
    /// Where a frame was passed over, or a payload is damaged.
    pub fn whole(&self) -> Result<(), StoreError> {
        self.damaged_group.map_or(Ok(()), |group| Err(self.damaged(&format!("group {group} is damaged"))))
    }

    /// The next frame, or `None` where the frames end. One that is damaged is passed over where its group is below `needed`.
    pub(super) fn next_frame(&mut self, needed: u64) -> Result<Option<FoundFrame>, StoreError> {
        let frame = match self.frame_at(self.at)? {
            Some(frame) => Some(frame),
            None => self.frame_after_damage(needed)?,
        };
        let Some((header, content)) = frame else { return Ok(None) };
        if header.group < self.next_group || header.group > self.next_group.max(needed) {
            return Err(self.damaged(&format!("group {} stands where group {} should", header.group, self.next_group)));
        }
        let at = self.at;
        self.at += (HEADER_BYTES + content.len()).next_multiple_of(BLOCK) as u64;
        self.next_group = header.group + 1;
        Ok(Some(FoundFrame { group: header.group, content, at }))
    }

    /// A frame is synced before the next is written, so only the last can be cut off: any frame after this place means that
    /// an acknowledged one is damaged.
    fn frame_after_damage(&mut self, needed: u64) -> Result<Option<(FrameHeader, Vec<u8>)>, StoreError> {
        let mut at = self.at + BLOCK as u64;
        while at < self.length {
            match self.frame_at(at)? {
                Some((header, content)) if (self.next_group..=needed).contains(&header.group) => {
                    self.at = at;
                    self.damaged_group.get_or_insert(self.next_group);
                    self.passed_over = true;
                    return Ok(Some((header, content)));
                }
                Some((header, _)) if header.group >= self.next_group => {
                    return Err(self.damaged(&format!("group {} is damaged", self.next_group)));
                }
                _ => at += BLOCK as u64,
            }
        }
        Ok(None)
    }

    /// The frame that begins at this place, if there is one and its checksums hold.
    fn frame_at(&mut self, at: u64) -> Result<Option<(FrameHeader, Vec<u8>)>, StoreError> {
        let Some(head) = self.read(at, HEADER_BYTES)? else { return Ok(None) };
        let Some((header, checksums)) = head.first_chunk().and_then(|head| FrameHeader::decode(head, self.number)) else { return Ok(None) };
        let Some(content) = self.read(at + HEADER_BYTES as u64, header.content_bytes as usize)? else { return Ok(None) };
        match checksums.compare(header.checksums(self.number, &content)) {
            Some(Intact::Whole) => Ok(Some((header, content))),
            Some(Intact::Mutations) if header.group <= self.mutations_suffice => {
                self.damaged_group.get_or_insert(header.group);
                Ok(Some((header, content)))
            }
            Some(Intact::Mutations) | None => Ok(None),
        }
    }

    /// So many bytes from a place, or `None` where the file ends before.
    fn read(&self, at: u64, length: usize) -> Result<Option<Vec<u8>>, StoreError> {
        if at + length as u64 > self.length {
            return Ok(None);
        }
        let mut bytes = vec![0; length];
        let read = self.file.read_exact_at(&mut bytes, at);
        read.map_err(|error| StoreError::io(format!("cannot read the journal {}", self.path.display()), error))?;
        Ok(Some(bytes))
    }

    pub(super) fn damaged(&self, detail: &str) -> StoreError {
        StoreError::damaged(format!("the journal {}", self.path.display()), detail)
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::PAYLOADS_AT;
    use super::super::{Frame, Journal, Segments, file_name};
    use super::*;
    use crate::storage::sled::keys::Tree;

    const STORE: StoreId = StoreId([5; 16]);

    fn mutations(group: u64) -> Vec<Mutation> {
        let put = Mutation {
            tree: Tree::Articles,
            key: group.to_be_bytes().into(),
            value: Some(vec![group as u8; (group as usize * 1500) % 9000]),
        };
        vec![put, Mutation { tree: Tree::Urls, key: vec![1], value: None }]
    }

    fn written(folder: &Path, groups: std::ops::RangeInclusive<u64>) -> Journal {
        let mut journal = Journal::create(folder, STORE, 1, *groups.start()).unwrap();
        for group in groups {
            journal.append(Frame::new(group, &[vec![7; group as usize]], mutations(group).iter())).unwrap();
        }
        journal
    }

    fn groups(folder: &Path, after: u64) -> Result<Vec<u64>, StoreError> {
        let mut groups = Vec::new();
        replay(folder, STORE, after, 0, |group, found| {
            assert_eq!(found, mutations(group));
            groups.push(group);
            Ok(())
        })?;
        Ok(groups)
    }

    #[test]
    fn what_was_appended_is_replayed_over_several_files() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = written(folder.path(), 1..=5);
        journal.rotate(6).unwrap();
        journal.append(Frame::new(6, &[], mutations(6).iter())).unwrap();
        assert_eq!(groups(folder.path(), 0).unwrap(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(groups(folder.path(), 4).unwrap(), [5, 6]);
        Segments::new(folder.path().to_owned()).remove(1).unwrap();
        assert_eq!(groups(folder.path(), 5).unwrap(), [6]);
        assert!(groups(folder.path(), 3).is_err(), "groups 4 and 5 are gone");
        // The spare file is used again, and what it held before is not taken for frames of the new one.
        journal.rotate(7).unwrap();
        assert!(!folder.path().join("spare.log").exists());
        assert_eq!(groups(folder.path(), 5).unwrap(), [6]);
        journal.append(Frame::new(7, &[], mutations(7).iter())).unwrap();
        assert_eq!(groups(folder.path(), 5).unwrap(), [6, 7]);
    }

    #[test]
    fn a_last_group_that_is_not_known_to_be_synced_is_written_again_before_it_is_applied() {
        let folder = tempfile::tempdir().unwrap();
        drop(written(folder.path(), 1..=4));
        let path = folder.path().join(file_name(1));
        let (whole, long_ago) = (std::fs::read(&path).unwrap(), std::time::SystemTime::UNIX_EPOCH);
        let written_before = |synced: u64| {
            File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
            let mut written = Vec::new();
            let replayed = replay(folder.path(), STORE, 0, synced, |_, _| {
                written.push(path.metadata().unwrap().modified().unwrap() > long_ago);
                Ok(())
            });
            assert_eq!(replayed.unwrap().last_group, 4);
            written
        };
        assert_eq!(written_before(3), [false, false, false, true]);
        assert_eq!(written_before(4), [false; 4]);
        assert_eq!(std::fs::read(&path).unwrap(), whole);
    }

    #[test]
    fn a_cut_off_last_frame_is_no_damage_but_any_other_is() {
        let folder = tempfile::tempdir().unwrap();
        let end = written(folder.path(), 1..=4).end;
        let path = folder.path().join(file_name(1));
        let whole = std::fs::read(&path).unwrap();
        let mutation_bytes = mutations(4).iter().map(|m| 10 + m.key.len() + m.value.as_ref().map_or(0, Vec::len)).sum::<usize>();
        let last = (PAYLOADS_AT + 4 + mutation_bytes).next_multiple_of(BLOCK);
        let start_of_last = end as usize - last;
        let mut torn = whole.clone();
        torn[start_of_last + 100..].fill(0);
        std::fs::write(&path, &torn).unwrap();
        assert_eq!(groups(folder.path(), 0).unwrap(), [1, 2, 3]);
        std::fs::write(&path, &whole[..start_of_last + 50]).unwrap();
        assert_eq!(groups(folder.path(), 0).unwrap(), [1, 2, 3]);
        for at in (0..start_of_last).step_by(97) {
            let mut damaged = whole.clone();
            damaged[at] ^= 4;
            std::fs::write(&path, &damaged).unwrap();
            // A byte of the padding between frames may change without harm; nothing else may.
            assert!(
                groups(folder.path(), 0).map_or_else(|error| matches!(error, StoreError::Damaged { .. }), |found| found == [1, 2, 3, 4]),
                "{at}"
            );
            // What a checkpoint made needless may be damaged; the header of the segment may not.
            if at >= BLOCK {
                assert_eq!(groups(folder.path(), 4).unwrap(), [0; 0], "{at}");
            }
        }
        std::fs::write(&path, &whole).unwrap();
        assert!(replay(folder.path(), StoreId([6; 16]), 0, 0, |_, _| Ok(())).is_err(), "another store's journal");
    }
}
