//! `dateline backup`: everything that a server's store holds, into a local file.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use indicatif::ProgressBar;
use serde_json::json;

use super::output::{bytes, progress_bar};
use super::{CommandError, ServerArgs};
use crate::article::Timestamp;
use crate::client::{BackupStream, v1};
use crate::shutdown;

/// Writes a backup of a running server's store to a local file.
///
/// The backup is the store at one point of its changes, whatever is written meanwhile. The file appears under its name when
/// it is whole, checked and on the disk; only its owner can read it. It holds the articles that are there now: what is
/// deleted later stays in it.
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  dateline backup store.backup\n  dateline backup store.backup --force --json\n\nThe SHA-256 that is printed is that of the file, as sha256sum computes it. `dateline verify --backup FILE` checks\na backup, `dateline restore FILE --data DIR` makes a store of it."
)]
pub struct BackupArgs {
    /// The file to write
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Put it in the place of a file that is there already
    #[arg(long)]
    force: bool,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Runs the command.
pub async fn run(args: BackupArgs) -> Result<(), CommandError> {
    let BackupArgs { file: path, force, json, server } = args;
    let stop = shutdown::on_signals()?;
    may_be_written(&path, force)?;
    let begun = Instant::now();
    let client = server.connect().await?;
    let mut part = Part::create(&path)?;
    let mut backup = client.create_backup().await?;
    let items = backup.started().item_count.max(0) as u64;
    let bar = progress_bar(&path.display().to_string(), items, "{prefix} {wide_bar} {percent:>3} %  {msg}  {eta} left");
    tokio::select! {
        received = receive(&mut backup, &mut part, &bar) => received?,
        () = stop.cancelled() => return Err(CommandError::Failed(format!("stopped: {} was not written", path.display()))),
    }
    may_be_written(&path, force)?;
    part.complete()?;
    bar.finish_and_clear();
    let trailer = backup.trailer().cloned().unwrap_or_default();
    report(&path, backup.started(), &trailer, begun.elapsed().as_secs_f64(), json)
}

fn may_be_written(path: &Path, force: bool) -> Result<(), CommandError> {
    if !force && path.symlink_metadata().is_ok() {
        let text = format!("{} is there already: name another file, or say --force to put the backup in its place", path.display());
        return Err(CommandError::Failed(text));
    }
    Ok(())
}

async fn receive(backup: &mut BackupStream, part: &mut Part<'_>, bar: &ProgressBar) -> Result<(), CommandError> {
    let mut received = 0;
    while let Some(data) = backup.next().await? {
        part.write(&data)?;
        received += data.len() as i64;
        bar.set_position(backup.item_count().max(0) as u64);
        bar.set_message(bytes(received));
    }
    Ok(())
}

fn report(path: &Path, started: &v1::BackupStarted, trailer: &v1::BackupTrailer, seconds: f64, json: bool) -> Result<(), CommandError> {
    let v1::BackupStarted { store_id, create_time, last_sequence, .. } = started;
    let time = create_time.and_then(|time| Timestamp::from_parts(time.seconds, time.nanos).ok()).map(|time| time.to_string());
    let mut out = std::io::stdout().lock();
    if json {
        let object = json!({
            "file": path.display().to_string(), "store_id": store_id, "create_time": time, "last_sequence": last_sequence,
            "article_count": trailer.article_count, "earlier_revision_count": trailer.earlier_revision_count,
            "tombstone_count": trailer.tombstone_count, "change_count": trailer.change_count, "stream_count": trailer.stream_count,
            "bytes": trailer.byte_count, "sha256": trailer.sha256, "seconds": seconds,
        });
        writeln!(out, "{object}")?;
        return Ok(());
    }
    let (articles, revisions) = (trailer.article_count, trailer.earlier_revision_count);
    writeln!(out, "{}: {articles} articles and {revisions} earlier revisions, up to change {last_sequence}", path.display())?;
    writeln!(out, "of store {store_id} at {}, {} in {seconds:.1} s", time.unwrap_or_default(), bytes(trailer.byte_count))?;
    writeln!(out, "sha256 {}", trailer.sha256)?;
    Ok(())
}

/// A file that is not whole yet, beside the place where it belongs; it goes where it does not become whole.
struct Part<'a> {
    path: &'a Path,
    part: PathBuf,
    file: File,
    complete: bool,
}

impl<'a> Part<'a> {
    fn create(path: &'a Path) -> Result<Self, CommandError> {
        let part = PathBuf::from(format!("{}.part", path.display()));
        let failed = |error: std::io::Error| CommandError::Failed(format!("cannot create {}: {error}", part.display()));
        // What a run before left behind may have other permissions.
        match fs::remove_file(&part) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part).map_err(failed)?;
        Ok(Self { path, part, file, complete: false })
    }

    fn write(&mut self, data: &[u8]) -> Result<(), CommandError> {
        let failed = |error: std::io::Error| CommandError::Failed(format!("cannot write {}: {error}", self.part.display()));
        self.file.write_all(data).map_err(failed)
    }

    /// Puts the file in its place, durably.
    fn complete(mut self) -> Result<(), CommandError> {
        let folder = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let placed = self.file.sync_all().and_then(|()| fs::rename(&self.part, self.path));
        placed.map_err(|error| CommandError::Failed(format!("cannot write {}: {error}", self.path.display())))?;
        self.complete = true;
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|error| CommandError::Failed(format!("cannot sync the folder {}: {error}", folder.display())))
    }
}

impl Drop for Part<'_> {
    fn drop(&mut self) {
        if !self.complete {
            // It is of no use, and the next run writes over it.
            drop(fs::remove_file(&self.part));
        }
    }
}
