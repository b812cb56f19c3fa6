//! A data folder in memory: written out again and again, whole or damaged.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Files are written in pieces of this size, and pieces of zeros are left out: most of a journal is empty.
const PIECE: usize = 4096;

/// The files of a folder.
#[derive(Debug, Clone, Default)]
pub struct Image {
    pub folders: Vec<PathBuf>,
    /// By path within the folder, in the order of the paths.
    pub files: Vec<(PathBuf, Vec<u8>)>,
}

/// One thing done to one file.
#[derive(Debug, Clone)]
pub struct Damage {
    /// The number of the file in its image.
    pub file: usize,
    pub kind: DamageKind,
}

#[derive(Debug, Clone)]
pub enum DamageKind {
    /// One byte is changed by exclusive or.
    Flip { at: usize, mask: u8 },
    /// The file ends here.
    CutOff { at: usize },
    /// The file is missing.
    Removed,
}

impl Image {
    /// Reads a folder that nobody writes to.
    pub fn read(folder: &Path) -> io::Result<Self> {
        let mut image = Self::default();
        image.read_below(folder, Path::new(""))?;
        image.files.sort();
        Ok(image)
    }

    fn read_below(&mut self, root: &Path, below: &Path) -> io::Result<()> {
        for entry in root.join(below).read_dir()? {
            let entry = entry?;
            let path = below.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                self.folders.push(path.clone());
                self.read_below(root, &path)?;
            } else {
                self.files.push((path, fs::read(entry.path())?));
            }
        }
        Ok(())
    }

    /// Makes it the image of a machine that was started again: the note of a daemon that was running is of an earlier boot.
    pub fn of_an_earlier_boot(mut self) -> Self {
        let note = self.files.iter_mut().find(|(path, _)| path.ends_with(RUNNING_NOTE));
        if let Some((_, note)) = note {
            change_boot(note);
        }
        self
    }

    /// Writes the folder anew, damaged if so wanted.
    pub fn write(&self, folder: &Path, damage: Option<&Damage>) -> io::Result<()> {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder)?;
        self.folders.iter().try_for_each(|path| fs::create_dir_all(folder.join(path)))?;
        for (number, (path, bytes)) in self.files.iter().enumerate() {
            let damage = damage.filter(|damage| damage.file == number).map(|damage| &damage.kind);
            let bytes = match damage {
                Some(DamageKind::Removed) => continue,
                Some(DamageKind::CutOff { at }) => &bytes[..*at],
                _ => &bytes[..],
            };
            let file = File::create(folder.join(path))?;
            file.set_len(bytes.len() as u64)?;
            for (piece, at) in bytes.chunks(PIECE).zip((0..).step_by(PIECE)) {
                if piece.iter().any(|byte| *byte != 0) {
                    file.write_all_at(piece, at)?;
                }
            }
            if let Some(DamageKind::Flip { at, mask }) = damage {
                file.write_all_at(&[bytes[*at] ^ mask], *at as u64)?;
            }
        }
        Ok(())
    }

    /// What the damage is, for people.
    pub fn describe(&self, damage: &Damage) -> String {
        let (path, bytes) = &self.files[damage.file];
        format!("{} of {} bytes, {}", path.display(), bytes.len(), damage.kind)
    }
}

/// What a daemon writes into its data folder while it has it open.
const RUNNING_NOTE: &str = "RUNNING";

/// Does the same to the data folder of a daemon that ended.
pub fn make_of_an_earlier_boot(data: &Path) -> io::Result<()> {
    let path = data.join(RUNNING_NOTE);
    let mut note = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        note => note?,
    };
    change_boot(&mut note);
    OpenOptions::new().write(true).open(&path)?.write_all_at(&note, 0)
}

fn change_boot(note: &mut [u8]) {
    const BEFORE: &[u8] = b" boot ";
    // A note that is cut off before says nothing that would have to be changed.
    let at = note.windows(BEFORE.len()).position(|part| part == BEFORE).map(|at| at + BEFORE.len());
    if let Some(first) = at.and_then(|at| note.get_mut(at)) {
        *first = b'x';
    }
}

impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flip { at, mask } => write!(f, "byte {at} changed by ^ {mask:#04x}"),
            Self::CutOff { at } => write!(f, "cut off at byte {at}"),
            Self::Removed => f.write_str("removed"),
        }
    }
}
