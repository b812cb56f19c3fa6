//! The data folder: its lock, its identity, and files that are in place whole or not at all.
//!
//! | file | what |
//! | --- | --- |
//! | `LOCK` | held while a process has the folder open |
//! | `STORE` | which store this is and in which format; written once, and anew when the format changes |
//! | `CHECKPOINT` | up to which group sled alone is complete |
//! | `SYNCED` | up to which group the journal was synced, as far as is known |
//! | `REBUILD` | why sled is not to be believed, where something in it was found damaged: it is built anew when the store is opened next |
//! | `RUNNING` | a process has sled's files open, or had when the machine stopped or it was killed |
//! | `VERIFIED` | when everything was last looked at without a finding; missing where it never was |
//! | `journal/` | the groups since then, and the payloads of all records |
//! | `sled/` | the trees |

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::article::Timestamp;
use crate::storage::{StoreError, StoreId};

/// The version of the folder's layout and of everything in it.
pub const FORMAT_VERSION: u16 = 7;
/// The oldest that is read too. What was written with it stays as it is, and what comes is of the present version, which older
/// programs are to refuse: 3 has no compression dictionaries, 4 no compressed mutations in the journal. Up to 5 the index by URL
/// was another tree: opening makes it anew (`trees.rs`), and the journal's mutations of it are read as ones of today's. Up to 6 no
/// record's payload is LZ4.
const OLDEST_VERSION: u16 = 3;

/// An opened and locked data folder. Dropping it lets the lock go.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    store_id: StoreId,
    _lock: File,
}

/// Up to where sled is complete without the journal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last group that is in sled's files for certain.
    pub group: u64,
}

impl Folder {
    /// Opens the folder, and makes it a new store where it is empty or missing.
    ///
    /// # Errors
    /// Where another process has it open, where it is no data folder, or where it was written by another version.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        create_folder(path)?;
        let lock_path = path.join("LOCK");
        let lock = private_file(&lock_path, OpenOptions::new().create(true).truncate(false).write(true))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let text = format!(
                    "the data folder {} is in use by another dateline process: stop that one, or choose another folder",
                    path.display()
                );
                return Err(StoreError::CannotOpen(text));
            }
            Err(TryLockError::Error(error)) => return Err(StoreError::io(format!("cannot lock {}", lock_path.display()), error)),
        }
        let store_id = match read_optional(&path.join("STORE"))? {
            Some(text) => {
                let (store_id, version) = parse_identity(path, &text)?;
                if version < FORMAT_VERSION {
                    Self::write_identity(path, store_id)?;
                    tracing::info!("the data folder was of format {version}, and is of format {FORMAT_VERSION} from now on");
                }
                store_id
            }
            None => Self::create_identity(path)?,
        };
        Ok(Self { path: path.to_owned(), store_id, _lock: lock })
    }

    /// Makes a folder that is not there yet a new store, with this id or one of its own.
    pub fn create(path: &Path, store_id: Option<StoreId>) -> Result<Self, StoreError> {
        create_folder(path)?;
        if let Some(store_id) = store_id {
            Self::write_identity(path, store_id)?;
        }
        Self::open(path)
    }

    /// Which store this is.
    pub fn store_id(&self) -> StoreId {
        self.store_id
    }

    /// Where sled keeps its files.
    pub fn sled_path(&self) -> PathBuf {
        self.path.join("sled")
    }

    /// Where sled's files are put out of the way.
    pub fn aside_path(&self) -> PathBuf {
        self.path.join("sled.aside")
    }

    /// The file that says that sled is to be built anew.
    pub fn rebuild_path(&self) -> PathBuf {
        self.path.join("REBUILD")
    }

    /// The file that says that sled's files are being written to.
    pub fn running_path(&self) -> PathBuf {
        self.path.join("RUNNING")
    }

    /// Notes, durably, that sled's files are being written to, in words of the file that says so.
    pub fn write_running(&self, text: impl FnOnce(&Metadata) -> String) -> Result<(), StoreError> {
        write_whole_of(&self.path, "RUNNING", text)
    }

    /// Notes, durably, that they are not any more.
    pub fn clear_running(&self) -> Result<(), StoreError> {
        let path = self.running_path();
        fs::remove_file(&path).map_err(|error| StoreError::io(format!("cannot remove {}", path.display()), error))?;
        sync_folder(&self.path)
    }

    /// Why sled is to be built anew; nothing where it is not.
    pub fn rebuild_reason(&self) -> Result<Option<String>, StoreError> {
        Ok(read_optional(&self.rebuild_path())?.map(|reason| reason.trim_end().to_owned()))
    }

    /// Notes that sled is to be built anew when it is opened.
    pub fn note_rebuild(&self, reason: &str) -> Result<(), StoreError> {
        let path = self.rebuild_path();
        fs::write(&path, format!("{reason}\n")).map_err(|error| StoreError::io(format!("cannot write {}", path.display()), error))
    }

    /// Notes that sled was built anew.
    pub fn clear_rebuild(&self) -> Result<(), StoreError> {
        let path = self.rebuild_path();
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(|error| StoreError::io(format!("cannot remove {}", path.display()), error)),
        }
    }

    /// Where the journal's files are.
    pub fn journal_path(&self) -> PathBuf {
        self.path.join("journal")
    }

    /// Where it is noted how far the journal was synced.
    pub fn synced_path(&self) -> PathBuf {
        self.path.join("SYNCED")
    }

    /// Whether there was a checkpoint yet: before, nothing that sled holds is durable, and the journal holds everything.
    pub fn has_checkpoint(&self) -> bool {
        self.path.join("CHECKPOINT").exists()
    }

    /// The checkpoint, the zeroth where there was none yet.
    pub fn checkpoint(&self) -> Result<Checkpoint, StoreError> {
        let path = self.path.join("CHECKPOINT");
        let Some(text) = read_optional(&path)? else { return Ok(Checkpoint::default()) };
        let group = checked_line(&text, "dateline checkpoint 1 group ").and_then(|group| group.parse().ok());
        group.map(|group| Checkpoint { group }).ok_or_else(|| StoreError::damaged(path.display().to_string(), "it fails its checksum"))
    }

    /// Notes a checkpoint, durably.
    pub fn write_checkpoint(&self, checkpoint: Checkpoint) -> Result<(), StoreError> {
        write_whole(&self.path, "CHECKPOINT", &with_checksum(&format!("dateline checkpoint 1 group {}", checkpoint.group)))
    }

    /// When everything was last looked at without a finding.
    pub fn verified(&self) -> Result<Option<Timestamp>, StoreError> {
        let text = read_optional(&self.path.join("VERIFIED"))?;
        // It is only news: one that cannot be read is as good as none.
        let micros = text.as_deref().and_then(|text| checked_line(text, "dateline verified 1 at ")).and_then(|micros| micros.parse().ok());
        Ok(micros.and_then(Timestamp::from_micros))
    }

    /// Notes that everything was looked at without a finding.
    pub fn write_verified(&self, time: Timestamp) -> Result<(), StoreError> {
        write_whole(&self.path, "VERIFIED", &with_checksum(&format!("dateline verified 1 at {}", time.as_micros())))
    }

    fn create_identity(path: &Path) -> Result<StoreId, StoreError> {
        let strangers = fs::read_dir(path).and_then(|entries| {
            let names: io::Result<Vec<_>> = entries.map(|entry| entry.map(|entry| entry.file_name())).collect();
            Ok(names?.into_iter().filter(|name| name != "LOCK" && !name.to_string_lossy().ends_with(".new")).count())
        });
        if strangers.map_err(|error| StoreError::io(format!("cannot read {}", path.display()), error))? > 0 {
            let text =
                format!("{} is not empty and is no data folder of dateline (it has no file STORE): choose another folder", path.display());
            return Err(StoreError::CannotOpen(text));
        }
        let store_id = StoreId::random().map_err(|error| StoreError::io("cannot draw a store id", error))?;
        Self::write_identity(path, store_id)?;
        Ok(store_id)
    }

    fn write_identity(path: &Path, store_id: StoreId) -> Result<(), StoreError> {
        write_whole(path, "STORE", &with_checksum(&format!("dateline store {FORMAT_VERSION} id {store_id}")))
    }
}

fn parse_identity(path: &Path, text: &str) -> Result<(StoreId, u16), StoreError> {
    let file = path.join("STORE").display().to_string();
    let content = checked_line(text, "dateline store ").ok_or_else(|| StoreError::damaged(&file, "it fails its checksum"))?;
    let (version, id) = content.split_once(" id ").ok_or_else(|| StoreError::damaged(&file, "it makes no sense"))?;
    let version: u16 = version.parse().map_err(|_| StoreError::damaged(&file, "it makes no sense"))?;
    if !(OLDEST_VERSION..=FORMAT_VERSION).contains(&version) {
        let text = format!(
            "{} has format {version}, and this dateline reads formats {OLDEST_VERSION} to {FORMAT_VERSION}: use the version that wrote it",
            path.display()
        );
        return Err(StoreError::CannotOpen(text));
    }
    let id = u128::from_str_radix(id, 16).map_err(|_| StoreError::damaged(&file, "it makes no sense"))?;
    Ok((StoreId(id.to_be_bytes()), version))
}

fn with_checksum(line: &str) -> String {
    format!("{line} xxh3 {:016x}\n", xxh3_64(line.as_bytes()))
}

/// What follows `start` in a line written by [`with_checksum`]; `None` where anything about it is wrong.
fn checked_line<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    let (line, checksum) = text.strip_suffix('\n')?.rsplit_once(" xxh3 ")?;
    if format!("{:016x}", xxh3_64(line.as_bytes())) == checksum { line.strip_prefix(start) } else { None }
}

/// Creates a folder, and those above it, that only its owner can enter, and makes their names durable.
pub fn create_folder(path: &Path) -> Result<(), StoreError> {
    let missing: Vec<_> = path.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists()).collect();
    let created = DirBuilder::new().recursive(true).mode(0o700).create(path);
    created.map_err(|error| StoreError::io(format!("cannot create the folder {}", path.display()), error))?;
    let parent = |folder: &Path| folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
    // Who created it may have been killed before its name was durable. A parent that cannot be opened is somebody else's.
    if missing.is_empty() && File::open(parent(path)).is_ok() {
        sync_folder(&parent(path))?;
    }
    missing.into_iter().try_for_each(|folder| sync_folder(&parent(folder)))
}

/// Opens a file that, where it is created, only its owner can read.
pub fn private_file(path: &Path, options: &mut OpenOptions) -> Result<File, StoreError> {
    options.mode(0o600).open(path).map_err(|error| StoreError::io(format!("cannot open {}", path.display()), error))
}

/// Makes a folder's entries durable.
pub fn sync_folder(path: &Path) -> Result<(), StoreError> {
    let synced = File::open(path).and_then(|folder| folder.sync_all());
    synced.map_err(|error| StoreError::io(format!("cannot sync the folder {}", path.display()), error))
}

/// Bytes of all files below a folder; 0 where it is missing.
pub fn folder_bytes(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .map(|entry| if entry.path().is_dir() { folder_bytes(&entry.path()) } else { entry.metadata().map_or(0, |file| file.len()) })
        .sum()
}

fn read_optional(path: &Path) -> Result<Option<String>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io(format!("cannot read {}", path.display()), error)),
    }
}

fn write_whole(folder: &Path, name: &str, text: &str) -> Result<(), StoreError> {
    write_whole_of(folder, name, |_| text.to_owned())
}

/// The same with a text that speaks of the file itself.
fn write_whole_of(folder: &Path, name: &str, text: impl FnOnce(&Metadata) -> String) -> Result<(), StoreError> {
    let (path, new) = (folder.join(name), folder.join(format!("{name}.new")));
    let mut file = private_file(&new, OpenOptions::new().create(true).truncate(true).write(true))?;
    let written = file.metadata().and_then(|metadata| file.write_all(text(&metadata).as_bytes()));
    let written = written.and_then(|()| file.sync_all()).and_then(|()| fs::rename(&new, &path));
    written.map_err(|error| StoreError::io(format!("cannot write {}", path.display()), error))?;
    sync_folder(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_keeps_its_identity_and_refuses_a_second_process() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let folder = Folder::open(&path).unwrap();
        let id = folder.store_id();
        assert!(Folder::open(&path).unwrap_err().to_string().contains("in use"));
        assert_eq!(folder.checkpoint().unwrap(), Checkpoint::default());
        folder.write_checkpoint(Checkpoint { group: 7 }).unwrap();
        drop(folder);
        let folder = Folder::open(&path).unwrap();
        assert_eq!((folder.store_id(), folder.checkpoint().unwrap()), (id, Checkpoint { group: 7 }));
    }

    #[test]
    fn strangers_and_damage_are_refused_by_name() {
        let parent = tempfile::tempdir().unwrap();
        fs::write(parent.path().join("precious.txt"), "x").unwrap();
        assert!(Folder::open(parent.path()).unwrap_err().to_string().contains("no data folder"));
        let path = parent.path().join("data");
        drop(Folder::open(&path).unwrap());
        let text = fs::read(path.join("STORE")).unwrap();
        for at in 0..text.len() {
            let mut damaged = text.clone();
            damaged[at] ^= 1;
            fs::write(path.join("STORE"), damaged).unwrap();
            assert!(Folder::open(&path).is_err(), "{at}");
        }
        for version in [2, FORMAT_VERSION + 1] {
            fs::write(path.join("STORE"), with_checksum(&format!("dateline store {version} id {:032x}", 1))).unwrap();
            assert!(Folder::open(&path).unwrap_err().to_string().contains(&format!("has format {version}")));
        }
    }

    #[test]
    fn a_folder_of_an_older_format_is_of_the_present_one_once_it_was_opened() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        drop(Folder::open(&path).unwrap());
        for older in OLDEST_VERSION..FORMAT_VERSION {
            fs::write(path.join("STORE"), with_checksum(&format!("dateline store {older} id {:032x}", 7))).unwrap();
            assert_eq!(Folder::open(&path).unwrap().store_id(), StoreId(7u128.to_be_bytes()));
            assert!(fs::read_to_string(path.join("STORE")).unwrap().starts_with(&format!("dateline store {FORMAT_VERSION} id ")));
            assert_eq!(Folder::open(&path).unwrap().store_id(), StoreId(7u128.to_be_bytes()));
        }
    }
}
