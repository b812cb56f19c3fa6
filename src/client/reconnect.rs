//! When to come back after an interruption, and when to give up.
//!
//! The pauses grow from attempt to attempt, up to a bound, and are spread by chance, so that clients that were cut off together do
//! not come back together. A server that names a time to wait for is not asked before.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::ClientError;

/// How calls that come back by themselves do so.
#[derive(Clone)]
pub struct Reconnect {
    /// The pause before the first attempt; twice as long before each further one. Default 100 ms. The true pause is between half
    /// of it and all of it.
    pub first_pause: Duration,
    /// The longest pause, unless the server asks for a longer one. Default 10 s.
    pub longest_pause: Duration,
    /// After how long without any progress the call fails with the last error. Default 5 minutes. Watches never give up.
    pub give_up_after: Duration,
    /// Told of every interruption, and not of the attempts to come back that fail. Watches tell themselves.
    pub notice: Option<Notice>,
}

/// Is told why a call was interrupted.
pub type Notice = Arc<dyn Fn(&ClientError) + Send + Sync>;

impl Default for Reconnect {
    fn default() -> Self {
        Self {
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(10),
            give_up_after: Duration::from_secs(300),
            notice: None,
        }
    }
}

impl fmt::Debug for Reconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconnect")
            .field("first_pause", &self.first_pause)
            .field("longest_pause", &self.longest_pause)
            .field("give_up_after", &self.give_up_after)
            .finish_non_exhaustive()
    }
}

/// The attempts of one call.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    reconnect: Reconnect,
    pause: Duration,
    /// Since when there was no progress.
    failing_since: Option<Instant>,
    /// What the server asked for.
    at_least: Duration,
}

impl Backoff {
    pub fn new(reconnect: Reconnect) -> Self {
        Self { pause: reconnect.first_pause, reconnect, failing_since: None, at_least: Duration::ZERO }
    }

    /// Whatever was wrong is over.
    pub fn progress(&mut self) {
        self.pause = self.reconnect.first_pause;
        self.failing_since = None;
    }

    /// It is connected again, and has nothing to do that would show progress.
    pub fn nothing_is_late(&mut self) {
        self.failing_since = None;
    }

    /// Takes note of an interruption.
    ///
    /// # Errors
    /// Where coming back would be of no use, or there was no progress for too long.
    pub fn interrupted(&mut self, status: Status) -> Result<(), ClientError> {
        let passes = passes(&status);
        self.note(&status);
        let error = ClientError::from(status);
        let first = self.failing_since.is_none();
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        if !passes || since.elapsed() >= self.reconnect.give_up_after {
            return Err(error);
        }
        if let Some(notice) = self.reconnect.notice.as_ref().filter(|_| first) {
            notice(&error);
        }
        Ok(())
    }

    /// Takes note of when the server wants to be asked again.
    pub fn note(&mut self, status: &Status) {
        let asked_for = status.get_details_retry_info().and_then(|info| info.retry_delay);
        self.at_least = asked_for.unwrap_or_default().min(self.reconnect.give_up_after);
    }

    /// Waits before the next attempt.
    pub async fn pause(&mut self) {
        let pause = self.pause.mul_f64(0.5 + 0.5 * chance()).max(self.at_least);
        self.pause = self.reconnect.longest_pause.min(self.pause * 2);
        sleep(pause).await; // ok: a server that is down or starts is not asked all the time.
    }
}

/// A number between 0 and 1; where the system has no random numbers, 1.
fn chance() -> f64 {
    getrandom::u32().map_or(1.0, |number| f64::from(number) / f64::from(u32::MAX))
}

/// Whether trying again may help: the server said so, or it said nothing and the connection broke.
pub(super) fn passes(status: &Status) -> bool {
    let said_nothing = status.get_details_error_info().is_none();
    match status.code() {
        Code::Unavailable => true,
        Code::Unknown | Code::Internal | Code::Cancelled | Code::DeadlineExceeded | Code::Aborted => said_nothing,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn only_what_may_pass_is_tried_again_and_not_for_ever() {
        let mut backoff = Backoff::new(Reconnect::default());
        backoff.interrupted(Status::unavailable("down")).unwrap();
        backoff.interrupted(Status::internal("the connection broke")).unwrap();
        backoff.interrupted(Status::invalid_argument("no")).unwrap_err();
        let said = ErrorDetails::with_error_info("ETAG_MISMATCH", "dateline", std::collections::HashMap::new());
        backoff.interrupted(Status::with_error_details(Code::Aborted, "no", said)).unwrap_err();

        let mut backoff = Backoff::new(Reconnect { give_up_after: Duration::ZERO, ..Reconnect::default() });
        backoff.interrupted(Status::unavailable("down")).unwrap_err();
    }

    #[tokio::test]
    async fn pauses_grow_up_to_a_bound_and_are_never_shorter_than_the_server_asks_for() {
        let (first_pause, longest_pause) = (Duration::from_millis(8), Duration::from_millis(20));
        let mut backoff = Backoff::new(Reconnect { first_pause, longest_pause, ..Reconnect::default() });
        for pause in [8, 16, 20, 20].map(Duration::from_millis) {
            assert_eq!(backoff.pause, pause);
            let begun = Instant::now();
            backoff.pause().await;
            assert!(begun.elapsed() >= pause / 2);
        }
        backoff.progress();
        assert_eq!(backoff.pause, first_pause);
        let retry = Duration::from_millis(120);
        let busy = Status::with_error_details(Code::Unavailable, "busy", ErrorDetails::with_retry_info(Some(retry)));
        backoff.interrupted(busy).unwrap();
        let begun = Instant::now();
        backoff.pause().await;
        assert!(begun.elapsed() >= retry);
    }
}
