//! `dateline status`: what a server holds and how it is doing.

use std::io::Write as _;

use clap::Args;
use serde_json::json;

use super::output::bytes;
use super::{CommandError, ServerArgs};
use crate::article::Timestamp;
use crate::client::v1::{Durability, Retention};

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
    let durability = match status.durability() {
        Durability::Fsync => "fsync",
        Durability::Interval => "interval",
        Durability::Unspecified => "unknown",
    };
    let (contents, sizes) = (status.contents.unwrap_or_default(), status.sizes.unwrap_or_default());
    let uptime = status.uptime.unwrap_or_default().seconds;
    let verified = status.last_verification.and_then(|time| Timestamp::from_parts(time.seconds, time.nanos).ok());
    let verified = verified.map(|time| time.to_string());
    let retention = status.retention.unwrap_or_default();
    let mut out = std::io::stdout().lock();
    if args.json {
        let object = json!({
            "version": status.version, "engine": status.engine, "store_id": status.store_id,
            "format_version": status.format_version, "url_rules_version": status.url_rules_version, "uptime_seconds": uptime,
            "durability": durability, "last_verification": verified,
            "article_count": contents.article_count, "day_count": contents.day_count,
            "first_date": contents.first_date, "last_date": contents.last_date,
            "earlier_revision_count": contents.earlier_revision_count, "last_sequence": contents.last_sequence,
            "ingest_stream_count": contents.ingest_stream_count, "text_bytes": contents.text_bytes, "record_bytes": sizes.record_bytes,
            "engine_bytes": sizes.engine_bytes, "journal_bytes": sizes.journal_bytes, "live_bytes": sizes.live_bytes,
            "earlier_record_bytes": sizes.earlier_record_bytes, "history": retention.history,
            "change_retention_age_seconds": retention.change_age.map(|age| age.seconds),
            "change_retention_count": retention.change_count,
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
    let (earlier, earlier_bytes) = (contents.earlier_revision_count, bytes(sizes.earlier_record_bytes));
    writeln!(out, "revisions  {earlier} earlier ones, {earlier_bytes} as stored; kept are {}", retention.history)?;
    writeln!(out, "changes    {} in all; kept are {}", contents.last_sequence, kept_changes(&retention))?;
    writeln!(out, "streams    {} ingest streams kept", contents.ingest_stream_count)?;
    writeln!(out, "text       {}, {} as stored", bytes(contents.text_bytes), bytes(sizes.record_bytes))?;
    let on_disk = bytes(sizes.engine_bytes + sizes.journal_bytes);
    let (engine, journal, live) = (bytes(sizes.engine_bytes), bytes(sizes.journal_bytes), bytes(sizes.live_bytes));
    writeln!(out, "on disk    {on_disk}: {engine} of indexes, and {journal} of journal, of which {live} are in use")?;
    writeln!(out, "durability {durability}")?;
    writeln!(out, "verified   {}", verified.as_deref().unwrap_or("never"))?;
    Ok(())
}

/// Which changes a server keeps, as people say it.
fn kept_changes(retention: &Retention) -> String {
    let age = retention.change_age.map(|age| format!("those of the last {} s", age.seconds));
    let count = retention.change_count.map(|count| format!("the last {count}"));
    match (age, count) {
        (None, None) => "all".to_owned(),
        (Some(one), None) | (None, Some(one)) => format!("{one}, and the latest of each article"),
        (Some(age), Some(count)) => format!("{age} that are among {count}, and the latest of each article"),
    }
}

fn span(first: &str, last: &str) -> String {
    if first.is_empty() { String::new() } else { format!(", {first} to {last}") }
}
