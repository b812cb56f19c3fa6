//! The machine and the build that figures are of.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

/// What is to be known about a machine to compare figures. Empty or 0 where the system does not tell.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The processor, as it names itself.
    pub cpu: String,
    /// Threads that run at once.
    pub cores: usize,
    /// MiB of memory.
    pub memory_mib: u64,
    /// The kernel's release.
    pub kernel: String,
    /// The file system of the data folders.
    pub file_system: String,
    /// The commit that was measured, with `-dirty` where it was changed.
    pub commit: String,
}

impl Machine {
    /// This one.
    pub fn this(folder: &Path) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let (cpus, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
        Self {
            cpu: value(&cpus, "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: value(&memory, "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0) / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            file_system: file_system(&read("/proc/self/mountinfo"), folder),
            commit: commit(),
        }
    }
}

/// The type of the file system that is mounted nearest above a folder.
fn file_system(mounts: &str, folder: &Path) -> String {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let mounts = mounts.lines().filter_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        Some((mount.split(' ').nth(4)?, file_system.split(' ').next()?))
    });
    let above = mounts.filter(|(mount, _)| folder.starts_with(mount));
    above.max_by_key(|(mount, _)| mount.len()).map(|(_, file_system)| file_system.to_owned()).unwrap_or_default()
}

fn commit() -> String {
    let describe = ["describe", "--always", "--dirty", "--exclude=*"];
    let output = Command::new("git").args(describe).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let output = output.ok().filter(|output| output.status.success());
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
