//! The daemon under strace, which counts its system calls, and kills, fails or delays it at one of them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;

/// The calls that change what is on the disk, or make it durable.
const MUTATING: [&str; 11] =
    ["pwrite64", "write", "fsync", "fdatasync", "sync_file_range", "rename", "unlink", "ftruncate", "openat", "mkdir", "fallocate"];
/// Files, by their path in the data folder, that keep their names, so that calls on them can be told from others.
const STABLE: [&str; 8] = ["STORE.new", "CHECKPOINT.new", "SYNCED", "journal/spare.log", "journal", "sled/db", "sled/conf", "sled"];
/// What the daemon also does with sockets and terminals, so that it is only looked at for a file.
const ONLY_ON_FILES: [&str; 2] = ["write", "openat"];

/// A kind of call, on one file or on any.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    pub name: &'static str,
    pub file: Option<&'static str>,
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} on {}", self.name, self.file.unwrap_or("any file"))
    }
}

/// How often the busiest thread made each kind of call. strace counts for each thread apart, so this is how far it can count.
pub type Counts = BTreeMap<Call, usize>;

/// strace, recording mutating calls without what they write. It runs beside the daemon, which keeps the process id that the
/// harness started.
pub fn counting(log: &Path) -> Vec<OsString> {
    let options = ["-y", "-s", "0", "-e", &format!("trace={}", MUTATING.join(","))].map(OsString::from);
    strace(log).into_iter().chain(options).collect()
}

/// strace, doing something (`signal=KILL`, `error=EIO`, `delay_enter=5000000`) at certain calls of each thread: `3` the third,
/// `3+` also every later one.
pub fn injecting(log: &Path, data: &Path, call: &Call, what: &str, when: &str) -> Vec<OsString> {
    let mut options = strace(log);
    if let Some(file) = call.file {
        options.extend(["-P".into(), data.join(file).into()]);
    }
    let name = call.name;
    options
        .extend(["-y", "-s", "0", "-e", &format!("trace={name}"), "-e", &format!("inject={name}:{what}:when={when}")].map(OsString::from));
    options
}

fn strace(log: &Path) -> Vec<OsString> {
    ["strace", "-D", "-f", "-qq", "-o"].into_iter().map(OsString::from).chain([log.into()]).collect()
}

/// Counts the calls of a recording so far.
pub fn counts(log: &Path, data: &Path) -> Result<Counts, String> {
    let text = fs::read(log).map_err(|error| format!("no recording of system calls: {error}"))?;
    let text = String::from_utf8_lossy(&text);
    let folder = format!("{}/", data.display());
    let mut by_thread: BTreeMap<(Call, &str), usize> = BTreeMap::new();
    for line in text.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        let Some(name) = MUTATING.into_iter().find(|name| rest.strip_prefix(name).is_some_and(|rest| rest.starts_with('('))) else {
            continue;
        };
        let Some((_, path)) = rest.split_once(&folder) else { continue };
        if name == "openat" && !rest.contains("O_CREAT") {
            continue;
        }
        let path = path.split(['>', '"']).next().unwrap_or_default();
        let file = STABLE.into_iter().find(|stable| path == *stable);
        let any = (!ONLY_ON_FILES.contains(&name)).then_some(None);
        for file in any.into_iter().chain(file.map(Some)) {
            *by_thread.entry((Call { name, file }, thread)).or_default() += 1;
        }
    }
    let mut counts = Counts::new();
    for ((call, _), count) in by_thread {
        let most = counts.entry(call).or_default();
        *most = count.max(*most);
    }
    Ok(counts)
}

/// What strace did to the daemon, by its recording.
pub fn injected(log: &Path) -> usize {
    let text = fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().filter(|line| line.contains("(INJECTED)") || line.contains("(DELAYED)")).count()
}
