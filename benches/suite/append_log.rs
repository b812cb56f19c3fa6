//! The least that a durable put can cost: one thread appends what came meanwhile to a file, syncs it once for all, and answers.
//!
//! The ceiling's puts go through this. Nothing is framed, and the file is filled beforehand and written over from its start again,
//! so that a sync has no metadata to write: a store that keeps what it is given can hardly do with less.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use tokio::sync::{mpsc, oneshot};

/// Appends that wait at most.
const WAITING: usize = 1024;
/// Bytes of the file.
const FILE_BYTES: usize = 64 << 20;

struct Append {
    bytes: Vec<u8>,
    done: oneshot::Sender<io::Result<()>>,
}

/// A file that is appended to.
#[derive(Debug, Clone)]
pub struct AppendLog {
    appends: mpsc::Sender<Append>,
}

impl AppendLog {
    /// One in a new file, which is made at the first append.
    ///
    /// # Errors
    /// Where the system has no thread to give.
    pub fn new(path: &Path) -> io::Result<Self> {
        let (appends, queue) = mpsc::channel(WAITING);
        let path = path.to_owned();
        std::thread::Builder::new().name("append".into()).spawn(move || run(&path, queue))?;
        Ok(Self { appends })
    }

    /// Returns when the bytes are durable.
    ///
    /// # Errors
    /// Where they are not.
    pub async fn append(&self, bytes: Vec<u8>) -> io::Result<()> {
        let (done, is_done) = oneshot::channel();
        let gone = || io::Error::other("the appending thread has ended");
        self.appends.send(Append { bytes, done }).await.map_err(|_| gone())?;
        is_done.await.map_err(|_| gone())?
    }
}

fn run(path: &Path, mut queue: mpsc::Receiver<Append>) {
    let (mut file, mut end) = (None, 0);
    while let Some(first) = queue.blocking_recv() {
        let mut group = vec![first];
        while let Ok(append) = queue.try_recv() {
            group.push(append);
        }
        let written = append(path, &mut file, &mut end, &group);
        for Append { done, .. } in group {
            let result = match &written {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            };
            // Whoever waited may have gone.
            drop(done.send(result));
        }
    }
}

fn append(path: &Path, file: &mut Option<File>, end: &mut u64, group: &[Append]) -> io::Result<()> {
    let file = match file {
        Some(file) => file,
        None => file.insert(filled(path)?),
    };
    let bytes = group.iter().map(|append| &append.bytes[..]).collect::<Vec<_>>().concat();
    if *end + bytes.len() as u64 > FILE_BYTES as u64 {
        *end = 0;
    }
    file.write_all_at(&bytes, *end)?;
    *end += bytes.len() as u64;
    file.sync_data()
}

fn filled(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().create_new(true).write(true).open(path)?;
    file.write_all_at(&vec![0; FILE_BYTES], 0)?;
    file.sync_all()?;
    Ok(file)
}
