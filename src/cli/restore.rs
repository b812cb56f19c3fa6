//! `dateline restore`: a new data folder from a backup.

use std::fs::File;
use std::io::{BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::output::progress_bar;
use super::{CommandError, blocking};
use crate::backup::{BackupError, BackupReader, BackupSummary};
use crate::shutdown;
use crate::storage::{self, SnapshotInfo, SnapshotItem};

/// Makes a new data folder from a backup. No daemon is needed.
///
/// Everything is checked: every checksum, every article's digest, all counts. The folder appears when it is whole and on the
/// disk; where anything is wrong, nothing is left behind. The new store has an id of its own, so page tokens and resume
/// tokens of the old one do not fit it.
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  dateline restore store.backup --data restored\n  dateline serve --data restored\n\nA backup of any earlier version can be restored: that is also the way from one stored format to the next."
)]
pub struct RestoreArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The folder to make: missing or empty
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub async fn run(args: RestoreArgs) -> Result<(), CommandError> {
    let RestoreArgs { file, data, json } = args;
    let stop = shutdown::on_signals()?;
    let begun = Instant::now();
    let (path, place) = (file.clone(), data.clone());
    let (info, summary) = blocking(move || {
        // The backup first: where there is none, the folder is not touched.
        let reading = Reading::begin(&path, "restoring")?;
        let info = *reading.reader.info();
        let mut builder = storage::build(&place, None)?;
        let summary = reading.read_all(&stop, |items| Ok(builder.add(items)?))?;
        builder.finish(&info.contents)?;
        Ok((info, summary))
    })
    .await?;
    let seconds = begun.elapsed().as_secs_f64();
    let SnapshotInfo { store_id, contents, create_time } = info;
    let counts = summary.counts;
    let mut out = std::io::stdout().lock();
    if json {
        let object = json!({
            "data": data.display().to_string(), "from_store_id": store_id.to_string(), "create_time": create_time.to_string(),
            "last_sequence": contents.last_sequence, "article_count": counts.articles,
            "earlier_revision_count": counts.earlier_revisions, "tombstone_count": counts.tombstones,
            "change_count": counts.changes, "stream_count": counts.streams, "sha256": summary.sha256_hex(), "seconds": seconds,
        });
        writeln!(out, "{object}")?;
        return Ok(());
    }
    let (articles, revisions) = (counts.articles, counts.earlier_revisions);
    writeln!(out, "{} holds {articles} articles and {revisions} earlier revisions in {seconds:.1} s:", data.display())?;
    writeln!(out, "store {store_id} as it was at {create_time}, after change {}", contents.last_sequence)?;
    Ok(())
}

/// A backup that is being read, with a progress bar.
pub struct Reading {
    reader: BackupReader<BufReader<File>>,
    bar: indicatif::ProgressBar,
    name: String,
}

impl Reading {
    /// Opens a backup.
    pub fn begin(path: &Path, action: &str) -> Result<Self, CommandError> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| CommandError::Failed(format!("cannot open {name}: {error}")))?;
        let bytes = file.metadata().map_or(0, |file| file.len());
        let reader = BackupReader::open(BufReader::with_capacity(1 << 18, file)).map_err(|error| wrong(&name, &error))?;
        let bar = progress_bar(action, bytes, "{prefix} {wide_bar} {percent:>3} %  {msg}  {eta} left");
        Ok(Self { reader, bar, name })
    }

    /// What the backup says of itself.
    pub fn info(&self) -> &SnapshotInfo {
        self.reader.info()
    }

    /// Reads to the end and checks everything; `take` is given all items.
    pub fn read_all(
        mut self,
        stop: &CancellationToken,
        mut take: impl FnMut(Vec<SnapshotItem>) -> Result<(), CommandError>,
    ) -> Result<BackupSummary, CommandError> {
        while let Some(items) = self.reader.next_block().map_err(|error| wrong(&self.name, &error))? {
            if stop.is_cancelled() {
                return Err(CommandError::Failed("stopped before the end of the backup".into()));
            }
            take(items)?;
            self.bar.set_position(self.reader.bytes_read());
            self.bar.set_message(format!("{} articles", self.reader.counts().articles));
        }
        self.bar.finish_and_clear();
        self.reader.summary().copied().ok_or_else(|| CommandError::Failed(format!("{} has no end", self.name)))
    }
}

fn wrong(name: &str, error: &BackupError) -> CommandError {
    let remedy = match error {
        BackupError::CutOff(_) | BackupError::Damaged { .. } | BackupError::Inconsistent(_) => ": use another backup",
        _ => "",
    };
    CommandError::Failed(format!("{name} cannot be read as a backup: {error}{remedy}"))
}
