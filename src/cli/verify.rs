//! `dateline verify`: looks at everything that a store, or a backup, holds.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::ProgressBar;
use serde_json::json;

use super::output::{one_line, progress_bar};
use super::restore::Reading;
use super::{CommandError, ServerArgs, blocking, holds_a_store};
use crate::client::v1::{VerifyFinding, verify_store_response::Event};
use crate::shutdown;
use crate::storage::{self, Finding, StoreOptions, VerifyStep};

/// Looks at everything that is stored: every record, checksum and index.
///
/// Asks a running server, which stays in use meanwhile; with --data looks at a folder that no daemon has open, and with
/// --backup at a backup. Prints what is wrong, a finding a line.
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  dateline verify\n  dateline verify --rate 5000 --json\n  dateline verify --data dateline-data\n  dateline verify --backup store.backup\n\nEXIT STATUS: 0 nothing is wrong, 1 something is, or it could not be looked at, 2 bad usage."
)]
pub struct VerifyArgs {
    /// Look at this data folder, which no daemon may have open
    #[arg(long, value_name = "DIR", group = "what")]
    data: Option<PathBuf>,
    /// Look at this backup
    #[arg(long, value_name = "FILE", group = "what")]
    backup: Option<PathBuf>,
    /// How many entries a running server looks at in a second, at most [default: 50000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..), conflicts_with = "what")]
    rate: Option<i64>,
    /// Print JSON objects, one a line: findings, and at the end the counts
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Runs the command.
pub async fn run(args: VerifyArgs) -> Result<(), CommandError> {
    let report = Report { json: args.json, findings: 0 };
    match (args.data, args.backup) {
        (Some(data), _) => verify_folder(&data, report).await,
        (None, Some(backup)) => verify_backup(backup, args.json).await,
        (None, None) => verify_server(&args.server, args.rate.unwrap_or(0), report).await,
    }
}

async fn verify_server(server: &ServerArgs, rate: i64, mut report: Report) -> Result<(), CommandError> {
    let mut events = server.connect().await?.verify_store(rate).await?;
    let bar = bar();
    let mut checked = 0;
    while let Some(event) = events.next().await? {
        match event {
            Event::Progress(progress) => show(&bar, progress.checked_count as u64, progress.total_count as u64),
            Event::Finding(finding) => bar.suspend(|| report.finding(&finding))?,
            Event::Ended(ended) => checked = ended.checked_count,
        }
    }
    bar.finish_and_clear();
    report.end(checked as u64)
}

async fn verify_folder(data: &Path, mut report: Report) -> Result<(), CommandError> {
    holds_a_store(data)?;
    let place = data.to_owned();
    let store = blocking(move || Ok(storage::open(&place, StoreOptions::default())?)).await?;
    let bar = bar();
    let mut cursor = None;
    let checked = loop {
        let VerifyStep { checked, total, findings, next } = store.verify(cursor).await?;
        for finding in findings {
            bar.suspend(|| report.finding(&to_wire(finding)))?;
        }
        show(&bar, checked, total);
        match next {
            Some(_) => cursor = next,
            None => break checked,
        }
    };
    bar.finish_and_clear();
    store.close().await?;
    report.end(checked)
}

async fn verify_backup(path: PathBuf, json: bool) -> Result<(), CommandError> {
    let stop = shutdown::on_signals()?;
    let name = path.display().to_string();
    let (info, summary) = blocking(move || {
        let reading = Reading::begin(&path, "verifying")?;
        Ok((*reading.info(), reading.read_all(&stop, |_| Ok(()))?))
    })
    .await?;
    let mut out = std::io::stdout().lock();
    let counts = summary.counts;
    if json {
        let object = json!({
            "backup": name, "store_id": info.store_id.to_string(), "create_time": info.create_time.to_string(),
            "last_sequence": info.contents.last_sequence, "article_count": counts.articles,
            "earlier_revision_count": counts.earlier_revisions, "tombstone_count": counts.tombstones,
            "change_count": counts.changes, "stream_count": counts.streams,
            "bytes": summary.bytes, "sha256": summary.sha256_hex(), "finding_count": 0,
        });
        writeln!(out, "{object}")?;
        return Ok(());
    }
    writeln!(out, "{name} is whole: {} articles and {} earlier revisions,", counts.articles, counts.earlier_revisions)?;
    writeln!(out, "store {} as it was at {}, after change {}", info.store_id, info.create_time, info.contents.last_sequence)?;
    writeln!(out, "sha256 {}", summary.sha256_hex())?;
    Ok(())
}

/// Prints findings as they come, and counts them.
struct Report {
    json: bool,
    findings: u64,
}

impl Report {
    fn finding(&mut self, finding: &VerifyFinding) -> std::io::Result<()> {
        self.findings += 1;
        let VerifyFinding { reason, date, canonical_url, message } = finding;
        let mut out = std::io::stdout().lock();
        if self.json {
            let object = json!({
                "event": "finding", "reason": reason, "date": date, "canonical_url": canonical_url, "message": message,
            });
            return writeln!(out, "{object}");
        }
        let article = if date.is_empty() { String::new() } else { format!(" {date} {canonical_url}:") };
        writeln!(out, "{reason}:{article} {}", one_line(message))
    }

    fn end(self, checked: u64) -> Result<(), CommandError> {
        let mut out = std::io::stdout().lock();
        if self.json {
            writeln!(out, "{}", json!({ "event": "ended", "checked_count": checked, "finding_count": self.findings }))?;
        } else {
            writeln!(out, "{checked} entries were looked at, {} findings", self.findings)?;
        }
        match self.findings {
            0 => Ok(()),
            findings => Err(CommandError::Failed(format!("{findings} findings: what they name must come from a backup or its source"))),
        }
    }
}

fn bar() -> ProgressBar {
    progress_bar("verifying", 0, "{prefix} {wide_bar} {percent:>3} %  {human_pos} of about {human_len}  {eta} left")
}

fn show(bar: &ProgressBar, checked: u64, total: u64) {
    bar.set_length(total);
    bar.set_position(checked);
}

/// A finding in the words of the protocol, so that it reads the same wherever it was found.
fn to_wire(finding: Finding) -> VerifyFinding {
    let Finding { kind, key, detail } = finding;
    let (date, canonical_url) = key.map(|key| (key.date.to_string(), key.url.to_string())).unwrap_or_default();
    VerifyFinding { reason: kind.reason().into(), date, canonical_url, message: detail }
}
