//! A folder for one store and its log, which can be kept where a test failed.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::plan::Plan;

/// A folder for one store.
pub struct Scratch {
    folder: TempDir,
    keep: Option<PathBuf>,
}

impl Scratch {
    pub fn new(plan: &Plan) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|error| format!("no temporary folder: {error}"))?;
        Ok(Self { folder, keep: plan.keep.clone() })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The data folder, which does not exist yet.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Adds to an error where its data folder is kept, if it is to be.
    pub fn explain(&self, error: &str) -> String {
        let Some(keep) = &self.keep else { return error.to_owned() };
        let name = self.folder.path().file_name().unwrap_or_default();
        match copy(self.folder.path(), &keep.join(name)) {
            Ok(()) => format!("{error}\nthe data folder is kept in {}", keep.join(name).display()),
            Err(failure) => format!("{error}\nthe data folder cannot be kept: {failure}"),
        }
    }
}

/// Copies a folder with everything in it.
pub fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in from.read_dir()? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
