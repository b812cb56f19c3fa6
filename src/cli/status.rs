//! `dateline status`: what a server holds and how it is doing.

use std::io::Write as _;

use clap::Args;
use serde_json::{Value, json};

use super::output::bytes;
use super::{CommandError, ServerArgs};
use crate::article::Timestamp;
use crate::client::v1::{CompressionCost, CompressionDictionary, Durability, Retention, StoreCompression};

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
        let mut object = json!({
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
        let compression = status.compression.as_ref().map(compression_json);
        if let (Some(object), Some(Value::Object(compression))) = (object.as_object_mut(), compression) {
            object.extend(compression);
        }
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
    if let Some(compression) = &status.compression {
        let (compressed, decompressed) = (compression.compressed.unwrap_or_default(), compression.decompressed.unwrap_or_default());
        let costs = format!("{}, {}", cost(&compressed, "compressed"), cost(&decompressed, "decompressed"));
        writeln!(out, "compressed {}; since the start {costs}", dictionaries(compression))?;
    }
    let on_disk = bytes(sizes.engine_bytes + sizes.journal_bytes);
    let (engine, journal, live) = (bytes(sizes.engine_bytes), bytes(sizes.journal_bytes), bytes(sizes.live_bytes));
    writeln!(out, "on disk    {on_disk}: {engine} of indexes, and {journal} of journal, of which {live} are in use")?;
    writeln!(out, "durability {durability}")?;
    writeln!(out, "verified   {}", verified.as_deref().unwrap_or("never"))?;
    Ok(())
}

fn compression_json(compression: &StoreCompression) -> Value {
    let StoreCompression { dictionary_count, dictionary_bytes, dictionary, compressed, decompressed } = compression;
    let dictionary = dictionary.as_ref();
    let time = dictionary.and_then(trained).map(|time| time.to_string());
    let (compressed, decompressed) = (compressed.unwrap_or_default(), decompressed.unwrap_or_default());
    json!({
        "dictionary_count": dictionary_count, "dictionary_bytes": dictionary_bytes,
        "dictionary_id": dictionary.map(|dictionary| dictionary.dictionary_id),
        "dictionary_sample_count": dictionary.map(|dictionary| dictionary.sample_count), "dictionary_create_time": time,
        "compressed_article_count": compressed.article_count, "compressed_content_bytes": compressed.content_bytes,
        "compressed_bytes": compressed.compressed_bytes, "compress_micros_mean": mean_micros(&compressed),
        "decompressed_article_count": decompressed.article_count, "decompress_micros_mean": mean_micros(&decompressed),
    })
}

/// When a dictionary was trained.
fn trained(dictionary: &CompressionDictionary) -> Option<Timestamp> {
    let time = dictionary.create_time?;
    Timestamp::from_parts(time.seconds, time.nanos).ok()
}

/// Which dictionaries a server has, as people say it.
fn dictionaries(compression: &StoreCompression) -> String {
    let StoreCompression { dictionary_count, dictionary_bytes, dictionary, .. } = compression;
    match dictionary {
        None => "without a dictionary yet".to_owned(),
        Some(dictionary) => format!(
            "with dictionary {} of {dictionary_count} ({} in all), learned from {} articles{}",
            dictionary.dictionary_id,
            bytes(*dictionary_bytes),
            dictionary.sample_count,
            trained(dictionary).map(|time| format!(" at {time}")).unwrap_or_default()
        ),
    }
}

fn cost(cost: &CompressionCost, what: &str) -> String {
    match (mean_micros(cost), cost.compressed_bytes) {
        (Some(micros), 1..) => {
            let ratio = cost.content_bytes as f64 / cost.compressed_bytes as f64;
            format!("{} {what} at {micros:.1} µs ({ratio:.2}x)", cost.article_count)
        }
        _ => format!("none {what}"),
    }
}

/// Microseconds of an article in the mean.
fn mean_micros(cost: &CompressionCost) -> Option<f64> {
    let time = cost.time.unwrap_or_default();
    (cost.article_count > 0).then(|| (time.seconds as f64 * 1e6 + f64::from(time.nanos) / 1e3) / cost.article_count as f64)
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
