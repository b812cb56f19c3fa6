//! What a SIGKILL leaves: the files of a store at one instant, taken while it is open and writes.
//!
//! Files cannot be read all at once, so they are read in such an order, and again where they changed, that the result could
//! have lain on the disk at one instant as far as a store can tell.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// In how much the journal is read; its frames begin at multiples of that.
const BLOCK: usize = 4096;
/// How often an image is begun again because the store made a checkpoint or sled wrote meanwhile.
const TRIES: usize = 1000;

/// The files of a folder by their paths within it.
#[derive(PartialEq, Eq)]
pub struct Image(BTreeMap<PathBuf, Vec<u8>>);

impl Image {
    /// Takes the image of an open store's folder. Whatever was acknowledged before is in it.
    pub fn take(folder: &Path) -> Self {
        // A file that is gone when it is to be read is a change like any other.
        let taken = (0..TRIES).find_map(|_| Self::attempt(folder).ok().flatten());
        taken.expect("the folder must come to rest between two checkpoints")
    }

    /// Lays the files down in another folder.
    pub fn restore(&self, folder: &Path) {
        for (path, bytes) in &self.0 {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }

    fn attempt(folder: &Path) -> io::Result<Option<Self>> {
        let before = checkpoint(folder)?;
        // sled first: what it holds by then is in the journal, which is read after it.
        let mut sled = BTreeMap::new();
        read(folder, Path::new("sled"), &mut sled)?;
        let mut again = BTreeMap::new();
        read(folder, Path::new("sled"), &mut again)?;
        if sled != again {
            return Ok(None);
        }
        let mut files = sled;
        for name in &before.1 {
            files.insert(Path::new("journal").join(name), read_backwards(&folder.join("journal").join(name))?);
        }
        files.insert("STORE".into(), fs::read(folder.join("STORE"))?);
        files.extend(before.0.clone().map(|bytes| ("CHECKPOINT".into(), bytes)));
        // A checkpoint meanwhile may have dropped a part of the journal that the sled of before still needs.
        Ok((checkpoint(folder)? == before).then_some(Self(files)))
    }
}

/// What a checkpoint changes: its file, if there was one yet, and which files the journal has.
fn checkpoint(folder: &Path) -> io::Result<(Option<Vec<u8>>, Vec<PathBuf>)> {
    let file = match fs::read(folder.join("CHECKPOINT")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        read => Some(read?),
    };
    let names = folder.join("journal").read_dir()?.map(|entry| Ok(PathBuf::from(entry?.file_name())));
    let mut names = names.collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok((file, names))
}

fn read(folder: &Path, path: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) -> io::Result<()> {
    for entry in folder.join(path).read_dir()? {
        let entry = entry?;
        let path = path.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            read(folder, &path, files)?;
        } else {
            files.insert(path, fs::read(entry.path())?);
        }
    }
    Ok(())
}

/// Reads a journal file from its end to its beginning: a frame that is written meanwhile is then never found behind a gap,
/// which would look like damage.
fn read_backwards(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let mut bytes = vec![0; file.metadata()?.len() as usize];
    for (number, block) in bytes.chunks_mut(BLOCK).enumerate().rev() {
        file.read_exact_at(block, (number * BLOCK) as u64)?;
    }
    Ok(bytes)
}
