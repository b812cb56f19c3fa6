//! A recording of everything that a daemon does to its files, made by strace, as operations with the times between which each
//! took place.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// What is recorded, and calls that must not occur on the recorded files, since a replay does not know them.
const MODELLED: &str = "openat,close,pwrite64,write,fsync,fdatasync,sync_file_range,rename,unlink,unlinkat,rmdir,ftruncate,lseek,mkdir";
const NOT_MODELLED: &str = "pwritev,pwritev2,writev,fallocate,truncate,link,linkat,renameat,renameat2,mkdirat,copy_file_range,sendfile";

/// The number of a file, which keeps it under any name.
pub type FileNumber = usize;

/// What was done. Paths are relative to the recorded folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    Create { file: FileNumber, path: String },
    Write { file: FileNumber, at: u64, bytes: Vec<u8> },
    SetLength { file: FileNumber, length: u64 },
    Sync { file: FileNumber },
    SyncFolder { path: String },
    Rename { from: String, to: String },
    Unlink { path: String },
    MakeFolder { path: String },
}

/// An operation, and when it began and ended, in microseconds of the system's clock.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub began: u64,
    pub ended: u64,
    pub operation: Operation,
}

/// strace, recording with the bytes of every write, one file a thread. It runs beside the daemon.
pub fn recording(prefix: &Path) -> Vec<OsString> {
    let trace = format!("trace={MODELLED},{NOT_MODELLED}");
    let options = ["strace", "-D", "-f", "-ff", "--seccomp-bpf", "-qq", "-xx", "-s", "33554432", "-ttt", "-T", "-e", "signal=none", "-e"];
    options.into_iter().map(OsString::from).chain([trace.into(), "-o".into(), prefix.into()]).collect()
}

/// Reads recordings of several lives of a daemon, one after the other.
#[derive(Default)]
pub struct Reader {
    operations: Vec<Recorded>,
    files: usize,
    /// Which file has which name.
    names: HashMap<String, FileNumber>,
    folders: HashSet<String>,
}

/// What a descriptor of the daemon stands for.
enum Open {
    File { file: FileNumber, at: u64 },
    Folder(String),
}

impl Reader {
    /// Takes in the recording of one life, which has ended. `root` is the folder whose contents count. `killed` says
    /// whether SIGKILL ended it.
    pub fn read(&mut self, prefix: &Path, root: &Path, killed: bool) -> Result<(), String> {
        let (folder, name) = (prefix.parent().unwrap_or(root), prefix.file_name().unwrap_or_default().to_string_lossy().into_owned());
        let failed = |error| format!("no recording of system calls: {error}");
        let mut calls = Vec::new();
        for entry in fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(&format!("{name}."))) {
                let text = fs::read(&path).map_err(failed)?;
                let mut of_thread = Vec::new();
                for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                    of_thread.extend(Call::parse(line).map_err(|error| format!("{error}: {:.200}", String::from_utf8_lossy(line)))?);
                }
                // Where a thread is killed before strace has asked for the result of its last call, strace shows that of another.
                let last = of_thread.last_mut().filter(|last| killed && last.has_strange_result());
                last.into_iter().for_each(|last| last.result = None);
                calls.append(&mut of_thread);
            }
        }
        // A call that the end of the life cut short may have done something as late as then.
        let end = calls.iter().map(|call| call.ended).max().unwrap_or_default();
        calls.iter_mut().filter(|call| call.result.is_none()).for_each(|call| call.ended = end);
        // A descriptor is free when its close begins, and taken when its open has ended.
        calls.sort_by_key(|call| if call.name == "close" { call.began } else { call.ended });
        let root = format!("{}/", root.display());
        let mut open = HashMap::new();
        calls.into_iter().try_for_each(|call| {
            let text = format!("{} of {:?}", call.name, call.paths);
            self.take(call, &root, &mut open).map_err(|error| format!("{text}: {error}"))
        })
    }

    /// Everything, in the order in which it ended.
    pub fn operations(self) -> Vec<Recorded> {
        self.operations
    }

    fn take(&mut self, call: Call, root: &str, open: &mut HashMap<i64, Open>) -> Result<(), String> {
        let descriptor = call.numbers.first().copied().unwrap_or(-1);
        // Paths may be relative to an open folder. The recorded folder itself has the empty name.
        let folder = match open.get(&descriptor) {
            Some(Open::Folder(path)) => Some(format!("{root}{path}")),
            _ => None,
        };
        let absolute = |path: &String| match &folder {
            Some(folder) if !path.starts_with('/') => format!("{folder}/{path}/"),
            _ => format!("{path}/"),
        };
        let below = |number: usize| {
            let path = absolute(call.paths.get(number)?);
            path.strip_prefix(root).map(|path| path.trim_end_matches('/').to_owned())
        };
        if call.name == "close" {
            open.remove(&descriptor);
            return Ok(());
        }
        // What failed did nothing; whether a call that was cut short did something, its files tell.
        let happened = match call.result {
            Some(result) => result >= 0,
            None => {
                let exists = |number: usize| below(number).is_some_and(|path| Path::new(&format!("{root}{path}")).exists());
                match call.name.as_str() {
                    "openat" | "mkdir" => exists(0) && below(0).is_some_and(|path| !self.is_known(&path)),
                    "rename" => !exists(0) && exists(1),
                    "unlink" | "unlinkat" | "rmdir" => !exists(0) && below(0).is_some_and(|path| self.is_known(&path)),
                    "pwrite64" | "write" | "ftruncate" => true,
                    _ => false,
                }
            }
        };
        if !happened {
            return Ok(());
        }
        let mut operations = Vec::new();
        match (call.name.as_str(), open.get_mut(&descriptor)) {
            ("openat", _) => {
                let Some(path) = below(0) else { return Ok(()) };
                if path.is_empty() || self.folders.contains(&path) {
                    open.extend(call.result.map(|descriptor| (descriptor, Open::Folder(path))));
                    return Ok(());
                }
                let file = match self.names.get(&path) {
                    Some(file) => *file,
                    None => {
                        self.files += 1;
                        self.names.insert(path.clone(), self.files);
                        operations.push(Operation::Create { file: self.files, path });
                        self.files
                    }
                };
                if call.flags.contains("O_APPEND") {
                    return Err("appending is not modelled".into());
                }
                if call.flags.contains("O_TRUNC") {
                    operations.push(Operation::SetLength { file, length: 0 });
                }
                open.extend(call.result.map(|descriptor| (descriptor, Open::File { file, at: 0 })));
            }
            ("pwrite64", Some(Open::File { file, .. })) => {
                let at = call.numbers.get(2).copied().ok_or("its place is not recorded")? as u64;
                let written = call.result.map_or_else(|| self.found(root, *file, at, &call.bytes), |result| result as usize);
                let bytes = call.bytes.get(..written).ok_or_else(|| format!("{written} of {} bytes, {call:?}", call.bytes.len()))?;
                operations.push(Operation::Write { file: *file, at, bytes: bytes.to_vec() });
            }
            ("write", Some(Open::File { file, at })) => {
                let written = call.result.map_or_else(|| self.found(root, *file, *at, &call.bytes), |result| result as usize);
                let bytes = call.bytes.get(..written).ok_or_else(|| format!("{written} of {} bytes, {call:?}", call.bytes.len()))?;
                operations.push(Operation::Write { file: *file, at: *at, bytes: bytes.to_vec() });
                *at += written as u64;
            }
            ("fsync" | "fdatasync", Some(Open::File { file, .. })) => operations.push(Operation::Sync { file: *file }),
            ("fsync" | "fdatasync", Some(Open::Folder(path))) => operations.push(Operation::SyncFolder { path: path.clone() }),
            // Starts writing, waits perhaps, and makes nothing durable: the disk's cache is not flushed, nor is the length.
            ("sync_file_range", _) => {}
            ("lseek", Some(Open::File { at, .. })) => *at = call.result.unwrap_or_default() as u64,
            ("ftruncate", Some(Open::File { file, .. })) => {
                let length = call.numbers.get(1).copied().ok_or("its length is not recorded")? as u64;
                let there = self.path(root, *file).and_then(|path| fs::metadata(path).ok()).map(|file| file.len());
                if call.result.is_none() && there != Some(length) {
                    return Ok(());
                }
                operations.push(Operation::SetLength { file: *file, length });
            }
            ("rename", _) => {
                let (Some(from), Some(to)) = (below(0), below(1)) else { return Ok(()) };
                self.rename(&from, &to)?;
                operations.push(Operation::Rename { from, to });
            }
            ("unlink" | "unlinkat" | "rmdir", _) => {
                let Some(path) = below(0) else { return Ok(()) };
                if self.names.remove(&path).is_none() && !self.folders.remove(&path) {
                    return Err("there is no such file".into());
                }
                operations.push(Operation::Unlink { path });
            }
            ("mkdir", _) => {
                let Some(path) = below(0) else { return Ok(()) };
                self.folders.insert(path.clone());
                operations.push(Operation::MakeFolder { path });
            }
            ("pwrite64" | "write" | "fsync" | "fdatasync", None) => {}
            (_, None) if below(0).is_none() && below(1).is_none() => {}
            _ => return Err("a replay does not know this call".into()),
        }
        self.operations.extend(operations.into_iter().map(|operation| Recorded { began: call.began, ended: call.ended, operation }));
        Ok(())
    }

    fn is_known(&self, path: &str) -> bool {
        self.names.contains_key(path) || self.folders.contains(path)
    }

    /// Where a file is now.
    fn path(&self, root: &str, file: FileNumber) -> Option<String> {
        self.names.iter().find(|(_, number)| **number == file).map(|(path, _)| format!("{root}{path}"))
    }

    /// How many of these bytes are in a file: as many as a write that was cut short wrote, or could have written.
    fn found(&self, root: &str, file: FileNumber, at: u64, bytes: &[u8]) -> usize {
        let mut there = vec![0; bytes.len()];
        let mut read = 0;
        // What cannot be read was not written; if it was, the recording does not lead to what is there, which is noticed.
        let file = self.path(root, file).and_then(|path| fs::File::open(path).ok());
        while let Some(more) = file.as_ref().and_then(|file| file.read_at(&mut there[read..], at + read as u64).ok()) {
            read += more;
            if more == 0 {
                break;
            }
        }
        bytes.iter().zip(&there[..read]).take_while(|(written, there)| written == there).count()
    }

    /// A file, or a folder with everything in it.
    fn rename(&mut self, from: &str, to: &str) -> Result<(), String> {
        if let Some(file) = self.names.remove(from) {
            self.names.insert(to.to_owned(), file);
            return Ok(());
        }
        if !self.folders.contains(from) {
            return Err("there is no such file".into());
        }
        let moved = |path: &str| moved(path, from, to).unwrap_or_else(|| path.to_owned());
        self.names = self.names.drain().map(|(path, file)| (moved(&path), file)).collect();
        self.folders = self.folders.drain().map(|path| moved(&path)).collect();
        Ok(())
    }
}

/// The new path of something at `from` or below it, once that is renamed.
pub fn moved(path: &str, from: &str, to: &str) -> Option<String> {
    let rest = path.strip_prefix(from).filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
    Some(format!("{to}{rest}"))
}

/// A line of a recording.
#[derive(Debug)]
struct Call {
    began: u64,
    ended: u64,
    name: String,
    /// Arguments that are paths, or the bytes of a write.
    paths: Vec<String>,
    bytes: Vec<u8>,
    numbers: Vec<i64>,
    flags: String,
    /// `None` where the process ended meanwhile: whether something was done is not known.
    result: Option<i64>,
}

impl Call {
    /// Whether it seems to have failed, or to have written another number of bytes than it was to; or whether its file tells better.
    fn has_strange_result(&self) -> bool {
        let of_success = match self.name.as_str() {
            "write" | "pwrite64" => self.result == Some(self.bytes.len() as i64),
            "ftruncate" => false,
            _ => self.result.is_some_and(|result| result >= 0),
        };
        !of_success
    }

    /// Reads a line such as `1700000000.000001 pwrite64(5, "\x61", 1, 0) = 1 <0.000009>`; `None` where it is no call.
    fn parse(line: &[u8]) -> Result<Option<Self>, String> {
        // A call that was cut short is one without a result.
        let cut = [&b" <unfinished ...>"[..], b" <detached ...>"].into_iter().find_map(|mark| {
            let at = line.windows(mark.len()).rposition(|window| window == mark)?;
            Some([&line[..at], b")"].concat())
        });
        let line = cut.as_deref().unwrap_or(line);
        let find = |from: usize, wanted: &[u8]| line[from..].windows(wanted.len()).position(|window| window == wanted).map(|at| from + at);
        let text = |range: std::ops::Range<usize>| String::from_utf8_lossy(&line[range]).into_owned();
        let space = find(0, b" ").ok_or("a line without a time")?;
        let began = micros(&text(0..space))?;
        let Some(bracket) = find(space, b"(") else { return Ok(None) };
        let name = text(space + 1..bracket);
        if name.starts_with("+++") || name.starts_with("---") {
            return Ok(None);
        }
        let mut call = Self {
            began,
            ended: began,
            name,
            paths: Vec::new(),
            bytes: Vec::new(),
            numbers: Vec::new(),
            flags: String::new(),
            result: None,
        };
        let mut at = bracket + 1;
        let is_write = matches!(call.name.as_str(), "write" | "pwrite64");
        while line.get(at).is_some_and(|byte| *byte != b')') {
            if line[at] == b'"' {
                let end = find(at + 1, b"\"").ok_or("a string without an end")?;
                let bytes = unescape(&line[at + 1..end])?;
                if line.get(end + 1) == Some(&b'.') {
                    return Err("a string was cut off".into());
                }
                if is_write {
                    call.bytes = bytes
                } else {
                    call.paths.push(String::from_utf8_lossy(&bytes).into_owned())
                }
                at = end + 1;
            } else {
                let end = (at..line.len()).find(|at| matches!(line[*at], b',' | b')')).ok_or("a call without an end")?;
                let argument = text(at..end);
                match argument.trim().parse() {
                    Ok(number) => call.numbers.push(number),
                    Err(_) => call.flags.push_str(&argument),
                }
                at = end;
            }
            while line.get(at).is_some_and(|byte| matches!(byte, b',' | b' ')) {
                at += 1;
            }
        }
        let rest = text(at..line.len());
        let result = rest.split_once("= ").map(|(_, rest)| rest.split(' ').next().unwrap_or_default().to_owned());
        call.result = result.and_then(|result| result.parse().ok());
        // A call that was cut short has no result, or no time.
        match rest.rsplit_once('<').and_then(|(_, took)| took.strip_suffix('>')) {
            Some(took) if call.result.is_some() => call.ended = began + micros(took)?,
            _ => call.result = None,
        }
        Ok(Some(call))
    }
}

fn micros(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no time");
    let (seconds, micros) = text.split_once('.').ok_or_else(wrong)?;
    let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
    if micros.len() == 6 { Ok(number(seconds)? * 1_000_000 + number(micros)?) } else { Err(wrong()) }
}

/// The bytes of `\x61\x62`.
fn unescape(text: &[u8]) -> Result<Vec<u8>, String> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let byte = |escape: &[u8]| match escape {
        [b'\\', b'x', high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    text.chunks(4).map(|escape| byte(escape).ok_or_else(|| "a string that is not in hexadecimal".to_owned())).collect()
}
