//! What a mirror has passed on so far, and how it tells of it: lines for people, or objects for programs.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};

use super::TELL_EVERY;
use crate::cli::CommandError;
use crate::client::{Client, ClientError, v1};

/// Rejected articles that are named one by one; the others are counted.
const NAMED_REJECTIONS: i64 = 100;

/// What was passed on.
pub struct Account {
    /// Changes that were sent.
    pub changes: i64,
    /// Those of them whose article the source did not have any more.
    pub skipped: i64,
    /// The last change that the target has for certain.
    pub sequence: i64,
    counts: v1::OutcomeCounts,
    /// The latest change of the source, as it last said.
    latest: Arc<AtomicI64>,
    /// Whether it was told that a side is away.
    away: bool,
    stream: String,
    json: bool,
    bar: ProgressBar,
}

impl Account {
    pub fn new(stream: &str, latest: i64, json: bool) -> Self {
        let style = ProgressStyle::with_template("{prefix} {spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
        Self {
            changes: 0,
            skipped: 0,
            sequence: 0,
            counts: v1::OutcomeCounts::default(),
            latest: Arc::new(AtomicI64::new(latest)),
            away: false,
            stream: stream.to_owned(),
            json,
            bar: ProgressBar::new_spinner().with_style(style).with_prefix("mirror"),
        }
    }

    /// Asks the source again and again how many changes it has.
    pub fn ask(&self, source: Client) -> JoinHandle<()> {
        let latest = Arc::clone(&self.latest);
        tokio::spawn(async move {
            let mut ticks = interval(TELL_EVERY);
            loop {
                ticks.tick().await;
                // A source that does not answer has no news; that it is away is for the watch to tell.
                if let Ok(Ok(status)) = timeout(TELL_EVERY, source.status()).await {
                    latest.store(status.contents.unwrap_or_default().last_sequence, Ordering::Relaxed);
                }
            }
        })
    }

    /// The target has taken an item.
    pub fn outcome(&mut self, key: &v1::ArticleKey, told: Option<v1::ItemOutcome>) -> Result<(), CommandError> {
        match told.as_ref().map_or(v1::Outcome::Created, v1::ItemOutcome::outcome) {
            v1::Outcome::Created | v1::Outcome::Unspecified => self.counts.created += 1,
            v1::Outcome::Updated => self.counts.updated += 1,
            v1::Outcome::Unchanged => self.counts.unchanged += 1,
            v1::Outcome::Deleted => self.counts.deleted += 1,
            v1::Outcome::Rejected => {
                self.counts.rejected += 1;
                if self.counts.rejected <= NAMED_REJECTIONS {
                    let v1::ArticleKey { date, url } = key;
                    let v1::ItemError { reason, message, .. } = told.and_then(|told| told.error).unwrap_or_default();
                    let object = json!({ "event": "rejected", "date": date, "url": url, "reason": reason, "message": message });
                    self.say(&format!("the target rejected {date} {url}: {reason}: {message}"), &object)?;
                }
            }
        }
        Ok(())
    }

    /// Both sides are connected. The target has rejected so many articles of all mirrors with this stream.
    pub fn connected(&mut self, rejected: i64) -> Result<(), CommandError> {
        self.away = false;
        let before = rejected - self.counts.rejected;
        if before > 0 && self.changes == 0 {
            let object = json!({ "event": "rejected_before", "count": before });
            self.say(&format!("the target rejected {before} articles of earlier runs"), &object)?;
        }
        Ok(())
    }

    /// A side is away, or was cut off.
    pub fn interruption(&mut self, side: &str, error: &ClientError) -> Result<(), CommandError> {
        if std::mem::replace(&mut self.away, true) {
            return Ok(());
        }
        let (text, object) = interruption(side, error);
        self.say(&text, &object)
    }

    /// Shows people how far it is.
    pub fn show(&self) {
        self.bar.set_message(format!("{} changes passed on, {} behind", self.changes, self.behind()));
    }

    /// Tells programs how far it is.
    pub fn progress(&self) -> Result<(), CommandError> {
        if self.json { print(&self.object("progress")) } else { Ok(()) }
    }

    /// Tells what it came to.
    ///
    /// # Errors
    /// Where something was rejected.
    pub fn end(self) -> Result<(), CommandError> {
        self.bar.finish_and_clear();
        let v1::OutcomeCounts { created, updated, unchanged, rejected, deleted } = self.counts;
        if self.json {
            print(&self.object("ended"))?;
        } else {
            let (changes, skipped, sequence, behind) = (self.changes, self.skipped, self.sequence, self.behind());
            writeln!(
                std::io::stdout().lock(),
                "{changes} changes: {created} created, {updated} updated, {deleted} deleted, {unchanged} unchanged, {rejected} rejected, {skipped} superseded; at change {sequence} of the source, {behind} behind"
            )?;
        }
        match rejected {
            0 => Ok(()),
            rejected => Err(CommandError::Failed(format!("the target rejected {rejected} articles; everything else is there"))),
        }
    }

    /// How many changes of the source the target does not have, as far as the source told.
    fn behind(&self) -> i64 {
        (self.latest.load(Ordering::Relaxed) - self.sequence).max(0)
    }

    fn object(&self, event: &str) -> Value {
        let v1::OutcomeCounts { created, updated, unchanged, rejected, deleted } = self.counts;
        json!({
            "event": event, "stream": self.stream, "changes": self.changes, "created": created, "updated": updated, "deleted": deleted,
            "unchanged": unchanged, "rejected": rejected, "skipped": self.skipped, "sequence": self.sequence, "behind": self.behind(),
        })
    }

    fn say(&self, text: &str, object: &Value) -> Result<(), CommandError> {
        if self.json {
            return print(object);
        }
        self.bar.suspend(|| eprintln!("dateline: {text}"));
        Ok(())
    }
}

/// What is said of a side that is away: as a text and as an object.
pub fn interruption(side: &str, error: &ClientError) -> (String, Value) {
    let object = json!({ "event": "interrupted", "side": side, "reason": error.reason, "message": error.message });
    (format!("the {side} cannot be reached, and is tried again: {error}"), object)
}

pub fn print(object: &Value) -> Result<(), CommandError> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{object}")?;
    Ok(out.flush()?)
}
