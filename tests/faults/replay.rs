//! What a disk may hold after a power cut, made from a recording: everything that was synced is there; of the rest, chance decides.
//!
//! Two models. *ext4* is what ext4 with `data=ordered` can leave: names (creations, renames, removals) reach the disk in the order
//! in which they were made, cut off somewhere after the last that was synced; syncing a new file or folder makes its name durable;
//! blocks that were never written are zeros. *POSIX* is harsher: only syncing a folder makes its names durable, each other change of a
//! name happens or not by itself, and a file may have its new length with anything in blocks that were never written. In both,
//! data that was not synced is there by page or by sector, old or new, and `sync_file_range` makes nothing durable.

use std::collections::{BTreeMap, HashMap};

use super::image::Image;
use super::recording::{FileNumber, Operation, Recorded, moved};

/// What a file system owes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    Ext4,
    Posix,
    /// No power cut at all: everything that was done is there.
    Running,
}

impl Model {
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Posix => "POSIX",
            Self::Running => "no power cut",
        }
    }
}

/// What became of the writes of one file that were not synced.
#[derive(Debug, Clone, Copy)]
enum Fate {
    All,
    None,
    /// So many of them, in their order.
    First(usize),
    /// Block by block; after each write to a block, none later reaches it with this probability in percent.
    Blocks {
        size: usize,
        frozen: u8,
    },
}

/// The disk after a power cut at `time`.
pub fn power_cut(recorded: &[Recorded], time: u64, model: Model, chance: &mut fastrand::Rng) -> Image {
    let begun: Vec<&Recorded> = recorded.iter().filter(|entry| entry.ended <= time || (entry.began <= time && chance.bool())).collect();
    let names = names(&begun, time, model, chance);
    let mut image = Image::default();
    for (path, entry) in names {
        match entry {
            Entry::Folder => image.folders.push(path.into()),
            Entry::File(file) => image.files.push((path.into(), content(&begun, file, time, model, chance))),
        }
    }
    image
}

#[derive(Debug, Clone, Copy)]
enum Entry {
    Folder,
    File(FileNumber),
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// The changes of names, with the folder whose sync makes each durable.
fn folder_of(operation: &Operation) -> Option<&str> {
    match operation {
        Operation::Create { path, .. } | Operation::Unlink { path } | Operation::MakeFolder { path } => Some(parent(path)),
        Operation::Rename { to, .. } => Some(parent(to)),
        _ => None,
    }
}

fn paths(operation: &Operation) -> Vec<&str> {
    match operation {
        Operation::Create { path, .. } | Operation::Unlink { path } | Operation::MakeFolder { path } => vec![path],
        Operation::Rename { from, to } => vec![from, to],
        _ => Vec::new(),
    }
}

fn names(begun: &[&Recorded], time: u64, model: Model, chance: &mut fastrand::Rng) -> BTreeMap<String, Entry> {
    let changes: Vec<&&Recorded> = begun.iter().filter(|entry| folder_of(&entry.operation).is_some()).collect();
    let durable = |change: &Recorded| {
        begun.iter().filter(|sync| sync.ended <= time && sync.began >= change.ended).any(|sync| {
            match (&sync.operation, &change.operation) {
                (Operation::SyncFolder { path }, Operation::MakeFolder { path: made }) if path == made => model == Model::Ext4,
                (Operation::SyncFolder { path }, change) => folder_of(change) == Some(path),
                (Operation::Sync { file }, Operation::Create { file: created, .. }) => model == Model::Ext4 && file == created,
                _ => false,
            }
        })
    };
    let certain = changes.iter().rposition(|change| durable(change)).map_or(0, |last| last + 1);
    let cut = chance.usize(certain..=changes.len());
    let kept_alone = chance.u8(..101);
    let mut names = BTreeMap::new();
    // Folders that should have made room for new ones under their names, and did not: the new ones are out of reach.
    let mut in_the_way: Vec<&str> = Vec::new();
    for (number, change) in changes.iter().enumerate() {
        if paths(&change.operation).iter().any(|path| in_the_way.iter().any(|folder| moved(path, folder, "").is_some())) {
            continue;
        }
        let happened = match model {
            Model::Ext4 => number < cut,
            Model::Posix => durable(change) || chance.u8(..100) < kept_alone,
            Model::Running => true,
        };
        match &change.operation {
            operation if happened => rename(&mut names, operation),
            Operation::Rename { from, .. } if matches!(names.get(from), Some(Entry::Folder)) => in_the_way.push(from),
            _ => {}
        }
    }
    names
}

/// Carries a change out, where what it needs is there.
fn rename(names: &mut BTreeMap<String, Entry>, change: &Operation) {
    let there = |names: &BTreeMap<String, Entry>, folder: &str| folder.is_empty() || names.contains_key(folder);
    match change {
        Operation::Create { file, path } if there(names, parent(path)) => drop(names.insert(path.clone(), Entry::File(*file))),
        Operation::MakeFolder { path } if there(names, parent(path)) => drop(names.insert(path.clone(), Entry::Folder)),
        // A folder goes only once it is empty.
        Operation::Unlink { path } if !names.keys().any(|other| parent(other) == path) => drop(names.remove(path)),
        Operation::Rename { from, to } if names.contains_key(from) => {
            let old = std::mem::take(names);
            names.extend(old.into_iter().map(|(path, entry)| (moved(&path, from, to).unwrap_or(path), entry)));
        }
        _ => {}
    }
}

fn content(begun: &[&Recorded], file: FileNumber, time: u64, model: Model, chance: &mut fastrand::Rng) -> Vec<u8> {
    let of_file = |entry: &&&Recorded| match &entry.operation {
        Operation::Write { file: written, .. } | Operation::SetLength { file: written, .. } => *written == file,
        _ => false,
    };
    let changes: Vec<&&Recorded> = begun.iter().filter(of_file).collect();
    let syncs = begun.iter().filter(|entry| entry.ended <= time && entry.operation == Operation::Sync { file });
    let synced = syncs.map(|sync| sync.began).max();
    let fate = match chance.u8(..8) {
        _ if model == Model::Running => Fate::All,
        0 => Fate::All,
        1 => Fate::None,
        2 => Fate::First(chance.usize(..changes.len() + 1)),
        3 => Fate::Blocks { size: 512, frozen: chance.u8(..60) },
        _ => Fate::Blocks { size: 4096, frozen: chance.u8(..60) },
    };
    let mut bytes = Vec::new();
    let mut frozen = HashMap::new();
    let (mut length, mut uncertain) = (0, 0);
    for change in changes {
        let certain = synced.is_some_and(|synced| change.ended <= synced);
        uncertain += usize::from(!certain);
        let whole = certain
            || match fate {
                Fate::All => true,
                Fate::First(kept) => uncertain <= kept,
                Fate::None | Fate::Blocks { .. } => false,
            };
        match (&change.operation, fate) {
            (Operation::SetLength { length: to, .. }, Fate::Blocks { .. }) if whole || chance.bool() => bytes.resize(*to as usize, 0),
            (Operation::SetLength { length: to, .. }, _) if whole => bytes.resize(*to as usize, 0),
            (Operation::Write { at, bytes: written, .. }, _) if whole => put(&mut bytes, *at as usize, written),
            (Operation::Write { at, bytes: written, .. }, Fate::Blocks { size, frozen: percent }) => {
                blocks(&mut bytes, *at as usize, written, size, |block| {
                    let stays = frozen.entry(block).or_insert(false);
                    *stays = *stays || chance.u8(..100) < percent;
                    !*stays
                });
            }
            _ => {}
        }
        if let Operation::Write { at, bytes: written, .. } = &change.operation {
            length = length.max(*at as usize + written.len());
        }
    }
    if model == Model::Posix && length > bytes.len() && chance.bool() {
        // The length is there before the data, and what stands there is what the disk had in that place.
        let new = chance.usize(bytes.len()..=length);
        if chance.bool() {
            bytes.resize_with(new, || chance.u8(..));
        } else {
            bytes.resize(new, 0);
        }
    }
    bytes
}

fn put(bytes: &mut Vec<u8>, at: usize, written: &[u8]) {
    if bytes.len() < at + written.len() {
        bytes.resize(at + written.len(), 0);
    }
    bytes[at..at + written.len()].copy_from_slice(written);
}

/// Writes those blocks that `keep` names.
fn blocks(bytes: &mut Vec<u8>, at: usize, written: &[u8], size: usize, mut keep: impl FnMut(usize) -> bool) {
    let mut from = 0;
    while from < written.len() {
        let block = (at + from) / size;
        let to = ((block + 1) * size - at).min(written.len());
        if keep(block) {
            put(bytes, at + from, &written[from..to]);
        }
        from = to;
    }
}
