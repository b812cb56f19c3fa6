//! `dateline status`: what a server holds and how it is doing.

use std::io::Write as _;

use clap::Args;
use serde_json::json;

use super::output::bytes;
use super::{CommandError, ServerArgs};

/// Tells what the store holds and what it takes.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// Runs the command.
pub async fn run(args: StatusArgs) -> Result<(), CommandError> {
    let status = args.server.connect().await?.status().await?;
    let (contents, sizes) = (status.contents.unwrap_or_default(), status.sizes.unwrap_or_default());
    let uptime = status.uptime.unwrap_or_default().seconds;
    let mut out = std::io::stdout().lock();
    if args.json {
        let object = json!({
            "version": status.version, "engine": status.engine, "store_id": status.store_id,
            "format_version": status.format_version, "url_rules_version": status.url_rules_version, "uptime_seconds": uptime,
            "article_count": contents.article_count, "day_count": contents.day_count,
            "first_date": contents.first_date, "last_date": contents.last_date,
            "earlier_revision_count": contents.earlier_revision_count, "last_sequence": contents.last_sequence,
            "text_bytes": contents.text_bytes, "record_bytes": sizes.record_bytes,
            "engine_bytes": sizes.engine_bytes, "journal_bytes": sizes.journal_bytes,
        });
        writeln!(out, "{object}")?;
        return Ok(());
    }
    writeln!(out, "dateline {} at {}, up {uptime} s", status.version, args.server.server)?;
    writeln!(
        out,
        "store      {} ({}, format {}, URL rules {})",
        status.store_id, status.engine, status.format_version, status.url_rules_version
    )?;
    writeln!(
        out,
        "articles   {} on {} days{}",
        contents.article_count,
        contents.day_count,
        span(&contents.first_date, &contents.last_date)
    )?;
    writeln!(out, "revisions  {} earlier ones kept, {} changes in all", contents.earlier_revision_count, contents.last_sequence)?;
    writeln!(out, "text       {}, {} as stored", bytes(contents.text_bytes), bytes(sizes.record_bytes))?;
    writeln!(out, "on disk    {} and a journal of {}", bytes(sizes.engine_bytes), bytes(sizes.journal_bytes))?;
    Ok(())
}

fn span(first: &str, last: &str) -> String {
    if first.is_empty() { String::new() } else { format!(", {first} to {last}") }
}
