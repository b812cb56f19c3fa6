//! What the transport has not taken yet of a response: handed over in small pieces, and taken back where nobody reads.
//!
//! HTTP/2 asks for the next piece of a body when the reader has made room for the one before. Whatever was handed over stays in
//! memory for as long as a reader likes; so that is little, and the rest stays here, where it can be taken back.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http::HeaderMap;
use http_body::Frame;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use tonic::body::Body;

use super::budget::BudgetShare;
use super::status::ApiError;

/// Bytes of a piece: an eighth of a message, but no fewer and no more than these. Two of them may lie in the transport for each
/// stream; each costs the server some microseconds.
const PIECE: (usize, usize) = (16 << 10, 64 << 10);

/// The part of a response that the transport has not taken. Clones are the same.
#[derive(Clone, Default)]
pub struct Transit(Arc<Mutex<State>>);

#[derive(Default)]
enum State {
    /// The response has no body yet. Whoever produces it takes it back where nobody reads.
    #[default]
    Produced,
    /// It has no body yet, is whole, and may hold a share of the response budget. Time takes it back.
    Whole(Option<BudgetShare>),
    Sending(Box<Sending>),
    /// Taken back: this is what the reader gets to hear.
    Revoked {
        status: Status,
        within_message: bool,
    },
    Over,
}

struct Sending {
    body: Body,
    /// What is left of the last frame of the body, and how much of it goes at once.
    rest: Bytes,
    piece: usize,
    /// Pieces that were taken.
    taken: u64,
    _share: Option<BudgetShare>,
}

impl Transit {
    /// A response of one message, with its share of the budget, which is held until it was taken, or taken back.
    pub fn whole(share: Option<BudgetShare>) -> Self {
        Self(Arc::new(Mutex::new(State::Whole(share))))
    }

    /// The body to give to the transport in place of this one. A whole response is taken back where nothing of it is read for so
    /// long.
    pub fn carry(self, body: Body, patience: Duration) -> TransitBody {
        let mut state = self.lock();
        let (share, patience) = match std::mem::replace(&mut *state, State::Over) {
            State::Whole(share) => (share, Some(patience)),
            _ => (None, None),
        };
        *state = State::Sending(Box::new(Sending { body, rest: Bytes::new(), piece: 0, taken: 0, _share: share }));
        drop(state);
        TransitBody { transit: self, patience, watching: None }
    }

    /// How many pieces were taken so far: grows as long as somebody reads.
    pub fn taken(&self) -> u64 {
        match &*self.lock() {
            State::Sending(sending) => sending.taken,
            _ => 0,
        }
    }

    /// Lets go of everything that was not taken. A reader who comes back gets this status, or a reset of the stream where it has
    /// the beginning of a message already.
    pub fn revoke(&self, status: Status) {
        let mut state = self.lock();
        if let State::Sending(sending) = &*state {
            let within_message = !sending.rest.is_empty();
            *state = State::Revoked { status, within_message };
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of a response, in pieces.
pub struct TransitBody {
    transit: Transit,
    /// How long the rest may lie before time takes it back; `None` where somebody else does.
    patience: Option<Duration>,
    /// Watches the time; ends with the body.
    watching: Option<AbortOnDropHandle<()>>,
}

/// Takes a response back where nothing of it is read for so long.
async fn watch(transit: Transit, patience: Duration) {
    let mut seen = transit.taken();
    loop {
        tokio::time::sleep(patience).await; // ok: the time that a reader has.
        let taken = transit.taken();
        if taken == seen {
            return transit.revoke(ApiError::ReaderStalled.into());
        }
        seen = taken;
    }
}

impl http_body::Body for TransitBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Self { transit, patience, watching } = self.get_mut();
        let mut state = transit.lock();
        match &mut *state {
            State::Sending(sending) => {
                if sending.rest.is_empty() {
                    let frame = match ready!(Pin::new(&mut sending.body).poll_frame(context)) {
                        Some(Ok(frame)) => frame,
                        end => {
                            *state = State::Over;
                            return Poll::Ready(end);
                        }
                    };
                    sending.taken += 1;
                    match frame.into_data() {
                        Ok(data) if data.len() > PIECE.0 => {
                            sending.piece = (data.len() / 8).clamp(PIECE.0, PIECE.1);
                            sending.rest = data;
                        }
                        Ok(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                        Err(frame) => return Poll::Ready(Some(Ok(frame))),
                    }
                    if let Some(patience) = patience.take() {
                        *watching = Some(AbortOnDropHandle::new(tokio::spawn(watch(transit.clone(), patience))));
                    }
                }
                sending.taken += 1;
                let bytes = sending.rest.len().min(sending.piece);
                // Copied: a piece that lies somewhere must not keep the whole message in memory.
                let piece = Bytes::copy_from_slice(&sending.rest[..bytes]);
                sending.rest.advance(bytes);
                if sending.rest.is_empty() {
                    sending.rest = Bytes::new();
                }
                Poll::Ready(Some(Ok(Frame::data(piece))))
            }
            State::Revoked { .. } => {
                let State::Revoked { status, within_message } = std::mem::replace(&mut *state, State::Over) else {
                    return Poll::Ready(None);
                };
                let mut trailers = HeaderMap::new();
                if within_message || status.add_header(&mut trailers).is_err() {
                    return Poll::Ready(Some(Err(status)));
                }
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            State::Produced | State::Whole(_) | State::Over => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &*self.transit.lock() {
            State::Sending(sending) => sending.rest.is_empty() && sending.body.is_end_stream(),
            State::Produced | State::Whole(_) | State::Over => true,
            State::Revoked { .. } => false,
        }
    }
}

impl Drop for TransitBody {
    fn drop(&mut self) {
        let state = std::mem::replace(&mut *self.transit.lock(), State::Over);
        drop(state);
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;

    use super::super::budget::ByteBudget;
    use super::*;

    async fn next(body: &mut TransitBody) -> Option<Result<Frame<Bytes>, Status>> {
        std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await
    }

    /// A body of one frame.
    struct Message(Option<Bytes>);

    impl http_body::Body for Message {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.take().map(|data| Ok(Frame::data(data))))
        }
    }

    #[tokio::test]
    async fn a_message_is_handed_over_in_pieces() {
        let message: Bytes = (0..100_000).map(|byte| byte as u8).collect();
        let mut body = Transit::whole(None).carry(Body::new(Message(Some(message.clone()))), Duration::MAX);
        let mut received = Vec::new();
        while let Some(frame) = next(&mut body).await {
            let piece = frame.unwrap().into_data().unwrap();
            assert!((1..=PIECE.0).contains(&piece.len()));
            received.extend_from_slice(&piece);
        }
        assert_eq!(received, message);
        assert!(body.is_end_stream());
    }

    #[tokio::test]
    async fn a_response_that_nobody_reads_gives_back_its_share() {
        let budget = ByteBudget::new(1 << 20);
        let transit = Transit::whole(Some(budget.share(1 << 20).await.unwrap()));
        let message = Message(Some(Bytes::from(vec![b'x'; 1 << 20])));
        let mut body = transit.carry(Body::new(message), Duration::from_millis(20));
        assert!(next(&mut body).await.unwrap().unwrap().is_data());
        // The body is still there; its share goes to whoever waits for it.
        let share = budget.share(1 << 20).await.unwrap();
        assert_eq!(next(&mut body).await.unwrap().unwrap_err().code(), tonic::Code::Unavailable);
        assert!(next(&mut body).await.is_none());
        drop(share);
    }
}
