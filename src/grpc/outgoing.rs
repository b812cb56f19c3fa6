//! Streams to clients: produced ahead by one message, charged to the response budget, and taken back where nobody reads.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status};

use super::Api;
use super::budget::{BudgetShare, ByteBudget};
use super::status::ApiError;
use super::transit::Transit;

/// What a server stream is to tonic.
pub type OutgoingStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The end through which a stream is produced.
pub struct Outgoing<T> {
    slot: Arc<Slot<T>>,
    budget: ByteBudget,
    /// Cancelled when the stream has to end.
    over: CancellationToken,
}

impl<T: Send + 'static> Outgoing<T> {
    /// Starts `produce` on a task of its own and answers with the stream of what it sends. An error that it returns ends the
    /// stream; where `over` is cancelled, nothing more is made. Where nobody reads, what waits is taken back.
    pub fn respond<F>(api: &Api, over: &CancellationToken, produce: impl FnOnce(Self) -> F) -> Response<OutgoingStream<T>>
    where
        F: Future<Output = Result<(), ApiError>> + Send + 'static,
    {
        let transit = Transit::default();
        let patience = api.limits.reader_patience;
        let slot = Arc::new(Slot { transit: transit.clone(), patience, state: Mutex::default(), changed: Notify::new() });
        let reading: OutgoingStream<T> = Box::pin(Reading(Arc::clone(&slot)));
        let out = Self { slot: Arc::clone(&slot), budget: api.response_budget.clone(), over: over.clone() };
        let produced = produce(out);
        tokio::spawn(async move {
            let ended = produced.await;
            let end = match ended {
                Err(ApiError::ReaderStalled) => return slot.revoke(),
                ended => ended.err().map(Status::from),
            };
            slot.lock().put(|state| state.end = Some(end));
            // What was produced last may lie there as well.
            if slot.when(|state| state.end_taken).await.is_err() {
                slot.revoke();
            }
        });
        let mut response = Response::new(reading);
        response.extensions_mut().insert(transit);
        response
    }

    /// Waits for a share of the response budget, for a message that is about to be made. First the reader must have taken every
    /// message before: whoever does not read has nothing made for it.
    ///
    /// # Errors
    /// Where it takes too long, the reader is gone or does not read, or the server has no more time for the stream.
    pub async fn share(&self, bytes: usize) -> Result<BudgetShare, ApiError> {
        let share = async {
            self.ready().await?;
            self.budget.share(bytes).await
        };
        tokio::select! {
            biased;
            () = self.over.cancelled() => Err(ApiError::Draining),
            share = share => share,
        }
    }

    /// Waits until then, unless the reader is gone or the server has no more time for the stream.
    ///
    /// # Errors
    /// Where it was for one of these that the waiting ended.
    pub async fn wait_until(&self, then: Instant) -> Result<(), ApiError> {
        tokio::select! {
            biased;
            () = self.over.cancelled() => Err(ApiError::Draining),
            () = self.gone() => Err(ApiError::ReaderStalled),
            () = tokio::time::sleep_until(then) => Ok(()),
        }
    }

    /// Waits until the reader has taken every message before, so that what is made then is not made for nobody.
    ///
    /// # Errors
    /// Where the reader is gone, or does not read.
    pub async fn ready(&self) -> Result<(), ApiError> {
        self.slot.when(|state| state.queued.is_none()).await
    }

    /// Returns when the reader is gone.
    pub async fn gone(&self) {
        loop {
            let changed = self.slot.changed.notified();
            if self.slot.lock().reader_gone {
                return;
            }
            changed.await;
        }
    }

    /// Sends a message when the reader has room for it.
    ///
    /// # Errors
    /// Where the reader is gone, or does not read.
    pub async fn send(&self, message: T, share: Option<BudgetShare>) -> Result<(), ApiError> {
        self.ready().await?;
        self.slot.lock().put(|state| state.queued = Some((message, share)));
        Ok(())
    }
}

/// Where the next message waits to be read.
struct Slot<T> {
    /// Where the one before it is.
    transit: Transit,
    /// How long nothing may be read before everything is taken back and goes to others.
    patience: Duration,
    state: Mutex<State<T>>,
    /// Told whenever something was read, and when nothing will be any more.
    changed: Notify,
}

struct State<T> {
    queued: Option<(T, Option<BudgetShare>)>,
    /// The share of the message that the transport is taking.
    held: Option<BudgetShare>,
    /// What comes after the last message: an error, or nothing.
    end: Option<Option<Status>>,
    end_taken: bool,
    reader_gone: bool,
    reader: Option<Waker>,
}

impl<T> Default for State<T> {
    fn default() -> Self {
        Self { queued: None, held: None, end: None, end_taken: false, reader_gone: false, reader: None }
    }
}

impl<T> State<T> {
    /// Changes what there is to be read, and tells the reader.
    fn put(&mut self, change: impl FnOnce(&mut Self)) {
        change(self);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl<T> Slot<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the state is so, for as long as the reader reads.
    async fn when(&self, is_so: impl Fn(&State<T>) -> bool) -> Result<(), ApiError> {
        let mut taken = self.transit.taken();
        let mut deadline = Instant::now() + self.patience;
        loop {
            let changed = self.changed.notified();
            {
                let state = self.lock();
                // First: the reader lets go when it has taken the end, and then what it took last is still on its way.
                if is_so(&state) {
                    return Ok(());
                }
                if state.reader_gone {
                    return Err(ApiError::ReaderStalled);
                }
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                // A message takes a slow reader longer than that, piece by piece.
                let now = self.transit.taken();
                if now == taken {
                    return Err(ApiError::ReaderStalled);
                }
                (taken, deadline) = (now, Instant::now() + self.patience);
            }
        }
    }

    /// Takes back what was not read.
    fn revoke(&self) {
        let unread = {
            let mut state = self.lock();
            state.end = Some(Some(ApiError::ReaderStalled.into()));
            (state.queued.take(), state.held.take())
        };
        drop(unread);
        self.transit.revoke(ApiError::ReaderStalled.into());
    }
}

/// The end at which a stream is read.
struct Reading<T>(Arc<Slot<T>>);

impl<T> Stream for Reading<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.0.lock();
        // The transport asks for the next message when it has taken the one before.
        state.held = None;
        let next = if let Some((message, share)) = state.queued.take() {
            state.held = share;
            Some(Ok(message))
        } else if let Some(end) = &mut state.end {
            let end = end.take();
            state.end_taken = true;
            end.map(Err)
        } else {
            state.reader = Some(context.waker().clone());
            return Poll::Pending;
        };
        drop(state);
        self.0.changed.notify_waiters();
        Poll::Ready(next)
    }
}

impl<T> Drop for Reading<T> {
    fn drop(&mut self) {
        let unread = {
            let mut state = self.0.lock();
            state.reader_gone = true;
            (state.queued.take(), state.held.take())
        };
        drop(unread);
        self.0.changed.notify_waiters();
    }
}
