//! Following changes: a watch that comes back by itself where it was interrupted.
//!
//! It resumes after the last message that it gave, so that whoever reads it gets every change once, however often the connection
//! breaks or the server is started anew.

use std::time::Duration;

use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::reconnect::{Backoff, passes};
use super::v1::{self, change_service_client::ChangeServiceClient, watch_articles_request::Start};
use super::{ClientError, Reconnect, cut_off};

/// The server says something every 10 seconds: a connection that is silent for so long is dead.
const SILENCE: Duration = Duration::from_secs(60);

/// Changes as they are made: what [`Client::watch`](super::Client::watch) gives.
#[derive(Debug)]
pub struct Watch {
    changes: ChangeServiceClient<Channel>,
    /// Begins after what was given last.
    request: v1::WatchArticlesRequest,
    stream: Option<Streaming<v1::WatchArticlesResponse>>,
    /// The message that came with the connection and was not given yet.
    first: Option<v1::WatchArticlesResponse>,
    backoff: Backoff,
}

/// What happens on a watch.
#[derive(Debug, Clone, PartialEq)]
pub enum WatchEvent {
    /// The next changes, or none in a progress mark, and the token that resumes after them.
    Changes(v1::WatchArticlesResponse),
    /// The watch was interrupted for this reason, or could not come back yet. Asked for the next event, it tries again.
    Interrupted(ClientError),
}

impl Watch {
    pub(super) async fn begin(
        changes: ChangeServiceClient<Channel>,
        request: v1::WatchArticlesRequest,
        reconnect: Reconnect,
    ) -> Result<Self, ClientError> {
        let mut watch = Self { changes, request, stream: None, first: None, backoff: Backoff::new(reconnect) };
        watch.open().await?;
        Ok(watch)
    }

    /// The next event. Never ends by itself; may be dropped while it waits, without a loss.
    ///
    /// # Errors
    /// Where coming back would be of no use: the token has become invalid, or what is stored is damaged.
    pub async fn next(&mut self) -> Result<WatchEvent, ClientError> {
        let received = match self.first.take() {
            Some(first) => Ok(first),
            None => self.receive().await,
        };
        match received {
            Ok(message) => {
                self.request.start = Some(Start::ResumeToken(message.resume_token.clone()));
                Ok(WatchEvent::Changes(message))
            }
            Err(status) => {
                self.stream = None;
                self.backoff.note(&status);
                if passes(&status) { Ok(WatchEvent::Interrupted(status.into())) } else { Err(status.into()) }
            }
        }
    }

    async fn receive(&mut self) -> Result<v1::WatchArticlesResponse, Status> {
        if self.stream.is_none() {
            self.backoff.pause().await;
            self.open().await?;
            if let Some(first) = self.first.take() {
                return Ok(first);
            }
        }
        let message = next_message(self.stream.as_mut()).await?;
        self.backoff.progress();
        Ok(message)
    }

    /// Begins the call, with its first message: by then it has a place in the log.
    async fn open(&mut self) -> Result<(), Status> {
        let call = self.changes.watch_articles(self.request.clone());
        let mut stream = timeout(SILENCE, call).await.map_err(|_| silent())??.into_inner();
        let first = next_message(Some(&mut stream)).await?;
        (self.first, self.stream) = (Some(first), Some(stream));
        Ok(())
    }
}

async fn next_message(stream: Option<&mut Streaming<v1::WatchArticlesResponse>>) -> Result<v1::WatchArticlesResponse, Status> {
    let ended = || Status::unavailable(cut_off("the stream of changes was cut off").message);
    let message = timeout(SILENCE, stream.ok_or_else(ended)?.message()).await.map_err(|_| silent())?;
    message?.ok_or_else(ended)
}

fn silent() -> Status {
    Status::unavailable("the server was silent for too long")
}
