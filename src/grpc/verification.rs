//! VerifyStore: the store looks at everything it holds, step by step, at a rate that leaves room for others.

use std::time::Duration;

use tokio::time::Instant;

use super::outgoing::Outgoing;
use super::status::ApiError;
use super::v1::{self, verify_store_response::Event};
use crate::article::{FieldViolation, Reason};
use crate::storage::{ArticleStore, Finding, VerifyStep};

/// Entries a second where the request says nothing.
const DEFAULT_RATE: f64 = 50_000.0;
/// How often a verification tells how far it is.
const PROGRESS: Duration = Duration::from_millis(500);

/// How many entries are looked at in a second, at most.
#[derive(Debug, Clone, Copy)]
pub struct Rate(f64);

impl Rate {
    /// The rate that a request asks for.
    ///
    /// # Errors
    /// Where it is negative.
    pub fn of_request(entries_per_second: i64) -> Result<Self, ApiError> {
        match entries_per_second {
            0 => Ok(Self(DEFAULT_RATE)),
            1.. => Ok(Self(entries_per_second as f64)),
            _ => Err(FieldViolation::new("entries_per_second", Reason::InvalidArgument, "is negative").into()),
        }
    }

    /// When a step that began then and looked at so many entries is to be over.
    fn end_of_step(self, begun: Instant, entries: u64) -> Instant {
        // Some steps look at files and not at entries: of their time others have half.
        let pause = if entries > 0 { Duration::from_secs_f64(entries as f64 / self.0) } else { 2 * begun.elapsed() };
        begun + pause
    }
}

/// Verifies the store and sends what is found.
pub async fn send(store: &dyn ArticleStore, rate: Rate, out: &Outgoing<v1::VerifyStoreResponse>) -> Result<(), ApiError> {
    let (mut cursor, mut checked, mut finding_count) = (None, 0, 0);
    let mut told = Instant::now();
    loop {
        let begun = Instant::now();
        let VerifyStep { checked: now, total, findings, next } = store.verify(cursor).await?;
        finding_count += findings.len() as i64;
        for finding in findings {
            out.send(message(Event::Finding(finding_to_wire(finding))), None).await?;
        }
        let end = rate.end_of_step(begun, now.saturating_sub(checked));
        checked = now;
        if next.is_none() {
            let ended = v1::VerifyEnded { checked_count: checked as i64, finding_count };
            tracing::info!(checked, findings = finding_count, "everything that is stored was looked at");
            return out.send(message(Event::Ended(ended)), None).await;
        }
        cursor = next;
        loop {
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                let progress = v1::VerifyProgress { checked_count: checked as i64, total_count: total as i64 };
                out.send(message(Event::Progress(progress)), None).await?;
            }
            let until = end.min(told + PROGRESS);
            out.wait_until(until).await?;
            if until == end {
                break;
            }
        }
    }
}

fn message(event: Event) -> v1::VerifyStoreResponse {
    v1::VerifyStoreResponse { event: Some(event) }
}

fn finding_to_wire(finding: Finding) -> v1::VerifyFinding {
    let Finding { kind, key, detail } = finding;
    let (date, canonical_url) = key.map(|key| (key.date.to_string(), key.url.to_string())).unwrap_or_default();
    v1::VerifyFinding { reason: kind.reason().into(), date, canonical_url, message: detail }
}
