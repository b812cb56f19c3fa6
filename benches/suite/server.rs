//! The servers under load: each a process of its own, watched from outside through what the operating system counts.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::Fallible;

/// `/proc` counts CPU time in these units on every Linux, whatever the kernel's own clock.
const TICK: Duration = Duration::from_millis(10);
/// A server is at rest when it took less than two ticks for this long: longer than an idle store waits with its checkpoint.
const REST: Duration = Duration::from_millis(3_600);
/// It is waited for no longer than this.
const PATIENCE: Duration = Duration::from_secs(20);

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// The bare server.
    Ceiling,
    /// The daemon.
    Dateline,
}

/// How servers are started.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The daemon's program.
    pub dateline: PathBuf,
    /// The folder in which data folders are made.
    pub folder: PathBuf,
}

/// A running server; killed, and its data removed, when dropped.
pub struct Server {
    /// Which one.
    pub subject: Subject,
    /// Where it listens.
    pub address: String,
    process: Child,
    launch: Launch,
    folder: TempDir,
}

impl Server {
    /// Starts a server that holds nothing.
    ///
    /// # Errors
    /// Where it does not come up.
    pub fn start(subject: Subject, launch: &Launch) -> Fallible<Self> {
        fs::create_dir_all(&launch.folder)?;
        let folder = tempfile::Builder::new().prefix("dateline-bench-").tempdir_in(&launch.folder)?;
        let (process, address) = spawn(subject, launch, folder.path())?;
        Ok(Self { subject, address, process, launch: launch.clone(), folder })
    }

    /// Ends it without any warning and starts it again on the same data. Gives the time until it listened.
    ///
    /// # Errors
    /// Where it does not come up again.
    pub fn kill_and_restart(&mut self) -> Fallible<Duration> {
        self.process.kill()?;
        self.process.wait()?;
        let started = Instant::now();
        (self.process, self.address) = spawn(self.subject, &self.launch, self.folder.path())?;
        Ok(started.elapsed())
    }

    /// The CPU time that it took so far, in steps of 10 ms; threads that ended included.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn cpu(&self) -> Fallible<Duration> {
        cpu_of(&self.process.id().to_string())
    }

    /// Forgets how much memory it had at most.
    ///
    /// # Errors
    /// Where the system does not allow that.
    pub fn reset_peak_memory(&self) -> Fallible<()> {
        Ok(fs::write(format!("/proc/{}/clear_refs", self.process.id()), "5")?)
    }

    /// The most bytes of memory that were resident since the last reset.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn peak_memory(&self) -> Fallible<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM in /proc/PID/status")?;
        Ok(peak.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
    }

    /// What its data folder takes on disk, in bytes.
    ///
    /// # Errors
    /// Where the folder cannot be read.
    pub fn disk_bytes(&self) -> Fallible<u64> {
        allocated(self.folder.path())
    }

    /// Waits until what was begun in the background is done, and gives the CPU time that it took.
    ///
    /// # Errors
    /// Where the server is gone.
    pub async fn settle(&self) -> Fallible<Duration> {
        let before = self.cpu()?;
        if self.subject == Subject::Ceiling {
            return Ok(Duration::ZERO);
        }
        let (began, mut at_rest_since, mut last) = (Instant::now(), Instant::now(), before);
        while at_rest_since.elapsed() < REST && began.elapsed() < PATIENCE {
            sleep(Duration::from_millis(100)).await; // ok: looks again whether the server is at rest.
            let now = self.cpu()?;
            if now - last >= 2 * TICK {
                at_rest_since = Instant::now();
            }
            last = now;
        }
        Ok(last - before)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// The CPU time that everything on this machine took so far, and all that there was to take.
///
/// # Errors
/// Where `/proc` is missing.
pub fn machine_cpu() -> Fallible<(Duration, Duration)> {
    let stat = fs::read_to_string("/proc/stat")?;
    let first = stat.lines().next().ok_or("/proc/stat is empty")?;
    // User, nice, system, idle, waiting for disks, interrupts, soft interrupts, stolen; what guests took is in the first two.
    let times = first.split_whitespace().skip(1).take(8).map(str::parse).collect::<Result<Vec<u32>, _>>()?;
    let (all, idle) = (times.iter().sum::<u32>(), times.iter().skip(3).take(2).sum::<u32>());
    Ok((TICK * (all - idle), TICK * all))
}

/// The CPU time that this program took so far.
///
/// # Errors
/// Where `/proc` is missing.
pub fn own_cpu() -> Fallible<Duration> {
    cpu_of("self")
}

fn spawn(subject: Subject, launch: &Launch, folder: &Path) -> Fallible<(Child, String)> {
    let mut command = match subject {
        Subject::Ceiling => {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("--ceiling").arg(folder);
            command
        }
        Subject::Dateline => {
            let mut command = Command::new(&launch.dateline);
            command.args(["serve", "--listen", "127.0.0.1:0", "--data"]).arg(folder.join("data"));
            command
        }
    };
    let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let output = process.stdout.take().ok_or("the server has no output")?;
    let mut lines = BufReader::new(output).lines().map_while(Result::ok);
    let Some(address) = lines.find_map(|line| line.strip_prefix("listening on ").map(str::to_owned)) else {
        process.kill()?;
        return Err(format!("{subject:?} ended ({}) before it listened", process.wait()?).into());
    };
    Ok((process, address))
}

/// User and system time of `/proc/PID/stat`. The program's name comes before them and may hold anything, so they are counted from
/// its closing parenthesis.
fn cpu_of(process: &str) -> Fallible<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, rest) = stat.rsplit_once(')').ok_or("no name in /proc/PID/stat")?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut ticks = || -> Fallible<u32> { Ok(fields.next().ok_or("too few fields in /proc/PID/stat")?.parse()?) };
    Ok(TICK * (ticks()? + ticks()?))
}

fn allocated(path: &Path) -> Fallible<u64> {
    let metadata = fs::symlink_metadata(path)?;
    let mut bytes = metadata.blocks() * 512;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            bytes += allocated(&entry?.path())?;
        }
    }
    Ok(bytes)
}
