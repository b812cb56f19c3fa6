//! A file system of one's own: ext4 in a file on a loop device, which can be cut off as a power cut does.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::means::run;

/// Begins the names of the folders in which file systems are mounted. The id of the process follows.
const PREFIX: &str = "dateline-faults-";

/// How often, and after which pauses, unmounting is tried: longer than a call of a killed process can be held up by a tracer.
const UNMOUNT_TRIES: usize = 500;
const UNMOUNT_PAUSE: Duration = Duration::from_millis(20);

/// What still reaches the disk when the file system is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Everything: the file system is frozen first.
    AfterSync,
    /// The file system's journal, but no data that was not written yet.
    AfterLog,
    /// Nothing.
    AtOnce,
}

/// A mounted file system. It is unmounted and thrown away when dropped.
pub struct Disk {
    folder: TempDir,
    options: String,
}

impl Disk {
    /// A new file system of so many MiB, mounted with these further options.
    pub fn new(mebibytes: u64, options: &[&str]) -> Result<Self, String> {
        let folder = tempfile::Builder::new().prefix(&format!("{PREFIX}{}-", std::process::id())).tempdir();
        let folder = folder.map_err(|error| format!("no temporary folder: {error}"))?;
        let options = std::iter::once("loop").chain(options.iter().copied()).collect::<Vec<_>>().join(",");
        let disk = Self { folder, options };
        let image = File::create(disk.image()).and_then(|image| image.set_len(mebibytes << 20));
        image.and_then(|()| fs::create_dir(disk.path())).map_err(|error| format!("no file for the file system: {error}"))?;
        // The tables are written now and not by a thread of the kernel while the test runs; nothing is reserved for root.
        let lazily = "lazy_itable_init=0,lazy_journal_init=0";
        run("mkfs.ext4", &["-q", "-F", "-m", "0", "-E", lazily, &disk.image().display().to_string()])?;
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn mount(&self) -> Result<(), String> {
        run("mount", &["-o", &self.options, &self.image().display().to_string(), &self.path().display().to_string()]).map(drop)
    }

    /// Cuts the file system off from its disk, at once and while it is in use.
    pub fn cut(&self, cut: Cut) -> Result<(), String> {
        const SHUTDOWN: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(b'X', 125);
        let flags: u32 = match cut {
            Cut::AfterSync => 0,
            Cut::AfterLog => 1,
            Cut::AtOnce => 2,
        };
        let folder = File::open(self.path()).map_err(|error| format!("cannot open the file system: {error}"))?;
        // SAFETY: EXT4_IOC_SHUTDOWN reads one u32 from where its argument points to, though its number says otherwise.
        let done = unsafe { rustix::ioctl::ioctl(folder.as_fd(), rustix::ioctl::Setter::<SHUTDOWN, u32>::new(flags)) };
        done.map_err(|error| format!("the file system cannot be cut off: {error}"))
    }

    /// Mounts it again, which replays its journal. Nobody may use it any more.
    pub fn mount_again(&self) -> Result<(), String> {
        try_unmount(&self.path())?;
        self.mount()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(&self.path());
    }
}

/// A daemon that was just killed may still hold the file system for a moment.
fn try_unmount(path: &Path) -> Result<(), String> {
    let path = path.display().to_string();
    let mut last = String::new();
    for _ in 0..UNMOUNT_TRIES {
        match run("umount", &[&path]) {
            Ok(_) => return Ok(()),
            Err(_) if run("mountpoint", &["-q", &path]).is_err() => return Ok(()),
            Err(error) => last = error,
        }
        std::thread::sleep(UNMOUNT_PAUSE); // ok: between two attempts
    }
    Err(last)
}

fn unmount(path: &Path) {
    if let Err(error) = try_unmount(path) {
        eprintln!("{error}: it is unmounted once nobody uses it");
        drop(run("umount", &["-l", &path.display().to_string()]));
    }
}

/// Unmounts what runs that were killed have left behind.
pub fn clear_leftovers() {
    let Ok(mounts) = fs::read_to_string("/proc/mounts") else { return };
    for path in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
        let owner = path.split(PREFIX).nth(1).and_then(|rest| rest.split('-').next());
        if let Some(owner) = owner
            && owner.parse::<u32>().is_ok()
            && !Path::new("/proc").join(owner).exists()
        {
            unmount(Path::new(path));
            if let Some(folder) = Path::new(path).parent() {
                drop(fs::remove_dir_all(folder));
            }
        }
    }
}
