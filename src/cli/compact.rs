//! `dateline compact`: writes a data folder anew, without what is out of use.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use serde_json::json;

use super::output::{bytes, progress_bar};
use super::{CommandError, blocking, holds_a_store};
use crate::storage;

/// Writes a data folder anew, so that nothing out of use takes space any more. No daemon may have it open.
///
/// The new one takes the place of the old at once when it is whole and on the disk; until then the old one is untouched.
/// Nothing changes but the size: tokens and ingest streams go on. Needs room for a second copy of what is in use.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:\n  dateline compact --data dateline-data\n\n`dateline status` tells how much is in use.")]
pub struct CompactArgs {
    /// The data folder
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub async fn run(args: CompactArgs) -> Result<(), CommandError> {
    let CompactArgs { data, json } = args;
    holds_a_store(&data)?;
    let (begun, place) = (Instant::now(), data.clone());
    let (before, items, after) = blocking(move || {
        let before = folder_bytes(&place);
        let bar = progress_bar("compacting", 0, "{prefix} {spinner} {human_pos} items");
        let mut items = 0;
        storage::compact(&place, |done| {
            items = done;
            bar.set_position(done);
        })?;
        bar.finish_and_clear();
        Ok((before, items, folder_bytes(&place)))
    })
    .await?;
    let seconds = begun.elapsed().as_secs_f64();
    let mut out = std::io::stdout().lock();
    if json {
        let object = json!({
            "data": data.display().to_string(), "items": items, "bytes_before": before, "bytes_after": after, "seconds": seconds,
        });
        writeln!(out, "{object}")?;
        return Ok(());
    }
    writeln!(out, "{}: {} before, {} after, in {seconds:.1} s", data.display(), bytes(before as i64), bytes(after as i64))?;
    Ok(())
}

/// Bytes of all files below a folder, for people: what cannot be looked at does not count.
fn folder_bytes(path: &Path) -> u64 {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
