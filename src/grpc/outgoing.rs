//! Streams to clients: produced ahead by two messages at most, charged to the response budget, ended where nobody reads.

use std::future::Future;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::budget::{BudgetShare, ByteBudget};
use super::status::ApiError;

/// How long a reader may leave a message lying before its stream is ended and its share of the budget goes to others.
const READER_PATIENCE: Duration = Duration::from_secs(60);

/// What a server stream is to tonic.
pub type OutgoingStream<T> = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

/// The end through which a stream is produced.
pub struct Outgoing<T> {
    sender: mpsc::Sender<Result<(T, Option<BudgetShare>), Status>>,
    budget: ByteBudget,
    /// Cancelled when the stream has to end.
    over: CancellationToken,
}

impl<T: Send + 'static> Outgoing<T> {
    /// Starts `produce` on a task of its own and returns the stream of what it sends. An error that it returns ends the stream.
    pub fn stream<F>(budget: ByteBudget, over: CancellationToken, produce: impl FnOnce(Self) -> F) -> OutgoingStream<T>
    where
        F: Future<Output = Result<(), ApiError>> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(1);
        let errors = sender.clone();
        let produced = produce(Self { sender, budget, over });
        tokio::spawn(async move {
            if let Err(error) = produced.await {
                // Where the reader is gone too, nobody is left to tell.
                drop(tokio::time::timeout(READER_PATIENCE, errors.send(Err(error.into()))).await);
            }
        });
        // The share of a message goes back when the next one is asked for: then the transport has taken it.
        let mut held = None;
        Box::pin(ReceiverStream::new(receiver).map(move |message| {
            message.map(|(message, share)| {
                held = share;
                let _ = &held;
                message
            })
        }))
    }

    /// Waits for a share of the response budget, for a message that is about to be made.
    ///
    /// # Errors
    /// Where it takes too long, or the server has no more time for the stream.
    pub async fn share(&self, bytes: usize) -> Result<BudgetShare, ApiError> {
        tokio::select! {
            biased;
            () = self.over.cancelled() => Err(ApiError::Draining),
            share = self.budget.share(bytes) => share,
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
            () = self.sender.closed() => Err(ApiError::ReaderStalled),
            () = tokio::time::sleep_until(then) => Ok(()),
        }
    }

    /// Waits until the reader has taken every message before, so that what is made then is not made for nobody.
    ///
    /// # Errors
    /// Where the reader is gone, or does not read.
    pub async fn ready(&self) -> Result<(), ApiError> {
        match tokio::time::timeout(READER_PATIENCE, self.sender.reserve()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(ApiError::ReaderStalled),
        }
    }

    /// Returns when the reader is gone.
    pub async fn gone(&self) {
        self.sender.closed().await;
    }

    /// Sends a message when the reader has room for it.
    ///
    /// # Errors
    /// Where the reader is gone, or does not read.
    pub async fn send(&self, message: T, share: Option<BudgetShare>) -> Result<(), ApiError> {
        match self.sender.send_timeout(Ok((message, share)), READER_PATIENCE).await {
            Ok(()) => Ok(()),
            Err(_) => Err(ApiError::ReaderStalled),
        }
    }
}
