//! Whether sled's files are what a process wrote: noted while one has them open.
//!
//! sled uses space again without waiting for a sync, so after the machine stopped its files may hold pages of different times that
//! fit together well enough to be read, and are wrong. What a killed process wrote the kernel still has; what was under way when the
//! machine stopped nobody knows. The note tells the two apart: it names the run of the kernel, and itself, so that neither the
//! next run takes it for its own nor whoever finds it in a copy. It goes when the store is closed and everything is synced.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::folder::{Folder, sync_folder};
use crate::storage::StoreError;
use crate::storage::planted::{Fault, planted};

/// How long sled's own threads are waited for when the store is closed. Then the note stays.
const SLED_ENDS: Duration = Duration::from_secs(10);

/// Notes that sled's files are being written to; dropped after sled, it notes their end.
#[derive(Debug)]
pub struct Running {
    // Held until the end: nobody else opens the folder before the note is gone.
    folder: Arc<Folder>,
    closed: AtomicBool,
}

impl Running {
    /// Makes the note, durably. To be called before sled is opened.
    pub fn begin(folder: Arc<Folder>) -> Result<Self, StoreError> {
        folder.write_running(|file| text(boot_id().as_deref(), file))?;
        Ok(Self { folder, closed: AtomicBool::new(false) })
    }

    /// Says that everything is in sled, up to a checkpoint: once sled has ended, the note is to go.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    fn end(&self) -> Result<(), StoreError> {
        let sled = self.folder.sled_path();
        wait_for_sled(&sled)?;
        sync_below(&sled)?;
        self.folder.clear_running()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.closed.load(Ordering::Relaxed)
            && let Err(error) = self.end()
        {
            tracing::warn!(%error, "the store is closed, but if the machine stops before it is opened again, the indexes are built anew then");
        }
    }
}

/// Whether sled's files may be other than what was written to them: the machine stopped while a process had them open, or they
/// are a copy from such a time. Where the system does not tell its runs apart, a process that was killed counts too, and so does
/// a note that cannot be read: a disk that fails there has more to hide.
pub fn is_in_doubt(folder: &Folder) -> bool {
    let path = folder.running_path();
    if planted(Fault::StoppedMachineIgnored) {
        return false;
    }
    match fs::read(&path).and_then(|noted| Ok((noted, fs::metadata(&path)?))) {
        Ok((noted, metadata)) => boot_id().is_none_or(|boot| text(Some(&boot), &metadata).as_bytes() != noted),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "what is noted of the last run cannot be read");
            true
        }
    }
}

/// What the note says in a file of its own: nothing but the same is believed.
fn text(boot: Option<&str>, file: &fs::Metadata) -> String {
    format!("dateline running 1 boot {} device {} inode {}\n", boot.unwrap_or("unknown"), file.dev(), file.ino())
}

/// What the kernel calls its present run: random, and another after each start (Linux alone has it, see random(4)).
fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let id = id.trim();
    (!id.is_empty()).then(|| id.to_owned())
}

/// Waits until nothing of sled is left, which may be writing. sled holds a lock on its file for as long.
fn wait_for_sled(sled: &Path) -> Result<(), StoreError> {
    let path = sled.join("db");
    let failed = |error| StoreError::io(format!("cannot lock {}", path.display()), error);
    let file = File::open(&path).map_err(failed)?;
    let begun = Instant::now();
    loop {
        match file.try_lock() {
            Err(fs::TryLockError::WouldBlock) if begun.elapsed() < SLED_ENDS => {
                std::thread::sleep(Duration::from_millis(1)); // ok: sled does not tell when its threads have ended
            }
            locked => return locked.map_err(|error| failed(error.into())),
        }
    }
}

/// Makes the files of a folder durable, and their names.
fn sync_below(folder: &Path) -> Result<(), StoreError> {
    let failed = |path: &Path| {
        let text = format!("cannot sync {}", path.display());
        move |error| StoreError::io(text, error)
    };
    let entries: std::io::Result<Vec<PathBuf>> = fs::read_dir(folder).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    for path in entries.map_err(failed(folder))? {
        if path.is_dir() {
            sync_below(&path)?;
        } else {
            File::open(&path).and_then(|file| file.sync_all()).map_err(failed(&path))?;
        }
    }
    sync_folder(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, Arc<Folder>) {
        let parent = tempfile::tempdir().unwrap();
        let folder = Arc::new(Folder::open(&parent.path().join("data")).unwrap());
        fs::create_dir_all(folder.sled_path().join("blobs")).unwrap();
        fs::write(folder.sled_path().join("db"), "x").unwrap();
        (parent, folder)
    }

    #[test]
    fn what_a_process_of_this_boot_left_is_not_in_doubt_and_anything_else_is() {
        let (_parent, folder) = folder();
        assert!(!is_in_doubt(&folder));
        drop(Running::begin(Arc::clone(&folder)).unwrap());
        // Only where the kernel tells its runs apart.
        assert_eq!(is_in_doubt(&folder), boot_id().is_none());
        let path = folder.running_path();
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut other = whole.clone();
            other[at] ^= 1;
            fs::write(&path, other).unwrap();
            assert!(is_in_doubt(&folder), "{at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(is_in_doubt(&folder), "{at}");
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(is_in_doubt(&folder), boot_id().is_none());
    }

    #[test]
    fn a_note_that_cannot_be_read_is_in_doubt() {
        let (_parent, folder) = folder();
        fs::create_dir(folder.running_path()).unwrap();
        assert!(is_in_doubt(&folder));
    }

    #[test]
    fn a_copy_is_in_doubt() {
        let (_parent, folder) = folder();
        drop(Running::begin(Arc::clone(&folder)).unwrap());
        let path = folder.running_path();
        let copy = path.with_extension("copy");
        fs::copy(&path, &copy).unwrap();
        fs::rename(&copy, &path).unwrap();
        assert!(is_in_doubt(&folder));
    }

    #[test]
    fn the_note_goes_once_the_store_is_closed_and_sled_has_ended() {
        let (_parent, folder) = folder();
        let running = Running::begin(Arc::clone(&folder)).unwrap();
        running.close();
        let sled = File::open(folder.sled_path().join("db")).unwrap();
        sled.try_lock().unwrap();
        let ending = std::thread::spawn(move || drop(running));
        assert!(!ending.is_finished() && folder.running_path().exists());
        drop(sled);
        ending.join().unwrap();
        assert!(!folder.running_path().exists());
        assert!(!is_in_doubt(&folder));
    }
}
