//! What arrives: a message that takes room waits at the door until the budget has its share, before its bytes are read.
//!
//! A message is in memory twice while it is decoded, as bytes and as articles, and many streams at once would add up to far more
//! than what is stored at a time. Each message of the protocol says its length first, so its share is known, and taken in one
//! piece: streams that each hold a part and wait for the rest could wait for each other.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Frame;
use tonic::Status;
use tonic::body::Body;

use super::budget::{BudgetShare, ByteBudget};
use super::status::ApiError;

/// Messages of fewer bytes have no share while they arrive.
const SMALL_BYTES: usize = 64 << 10;
/// What goes before a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// The shares of the messages of one call that have arrived, or are arriving. Clones are the same.
#[derive(Clone, Default)]
pub struct Arrivals(Arc<Mutex<VecDeque<Option<BudgetShare>>>>);

impl Arrivals {
    /// The share of the next message, where it has one. To be called once for each message, in order.
    pub fn next(&self) -> Option<BudgetShare> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front().flatten()
    }

    fn push(&self, share: Option<BudgetShare>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(share);
    }
}

type PendingShare = Pin<Box<dyn Future<Output = Result<BudgetShare, ApiError>> + Send>>;

/// The body of a request, let in message by message.
pub struct ArrivingBody {
    body: Body,
    budget: ByteBudget,
    /// Longer messages are refused by whoever decodes them.
    limit: usize,
    arrivals: Arrivals,
    prefix: Vec<u8>,
    /// Bytes of the message that are still to come.
    left: usize,
    /// What came with the beginning of a message that waits for its share.
    rest: Bytes,
    waiting: Option<PendingShare>,
}

impl ArrivingBody {
    /// A body of messages of at most `limit` bytes, whose shares go to `arrivals`.
    pub fn new(body: Body, budget: ByteBudget, limit: usize, arrivals: Arrivals) -> Self {
        Self { body, budget, limit, arrivals, prefix: Vec::new(), left: 0, rest: Bytes::new(), waiting: None }
    }

    /// So many of these bytes as need not wait.
    fn admit(&mut self, mut data: Bytes) -> Bytes {
        let mut at = 0;
        while at < data.len() {
            if self.left > 0 {
                let bytes = self.left.min(data.len() - at);
                (self.left, at) = (self.left - bytes, at + bytes);
                continue;
            }
            self.prefix.push(data[at]);
            at += 1;
            if let Some(&[_, a, b, c, d]) = self.prefix.first_chunk::<PREFIX_BYTES>() {
                self.prefix.clear();
                self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                if self.left > SMALL_BYTES && self.left <= self.limit {
                    let (budget, bytes) = (self.budget.clone(), 2 * self.left);
                    self.waiting = Some(Box::pin(async move { budget.share(bytes).await }));
                    self.rest = data.split_off(at);
                    return data;
                }
                self.arrivals.push(None);
            }
        }
        data
    }
}

impl http_body::Body for ArrivingBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            if let Some(waiting) = &mut this.waiting {
                let share = ready!(waiting.as_mut().poll(context));
                this.waiting = None;
                match share {
                    Ok(share) => this.arrivals.push(Some(share)),
                    Err(error) => return Poll::Ready(Some(Err(error.into()))),
                }
            }
            let data = if this.rest.is_empty() {
                match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) => data,
                        Err(frame) => return Poll::Ready(Some(Ok(frame))),
                    },
                    end => return Poll::Ready(end),
                }
            } else {
                std::mem::take(&mut this.rest)
            };
            let admitted = this.admit(data);
            if !admitted.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(admitted))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && self.rest.is_empty() && self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;

    use super::*;

    fn message(bytes: usize) -> Vec<u8> {
        let mut message = vec![0];
        message.extend_from_slice(&(bytes as u32).to_be_bytes());
        message.resize(PREFIX_BYTES + bytes, b'x');
        message
    }

    /// A body of these frames.
    struct Frames(VecDeque<Bytes>);

    impl http_body::Body for Frames {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front().map(|data| Ok(Frame::data(data))))
        }
    }

    #[tokio::test]
    async fn large_messages_wait_for_their_share_and_nothing_is_changed() {
        let budget = ByteBudget::new(400 << 10);
        let sizes = [0, 10, SMALL_BYTES + 1, 3, 150 << 10, 1 << 20];
        let whole: Vec<u8> = sizes.iter().flat_map(|size| message(*size)).collect();
        for frame_bytes in [1000, 16 << 10, whole.len()] {
            let arrivals = Arrivals::default();
            let frames = Frames(whole.chunks(frame_bytes).map(Bytes::copy_from_slice).collect());
            let mut body = ArrivingBody::new(Body::new(frames), budget.clone(), 512 << 10, arrivals.clone());
            let others = budget.share(400 << 10).await.unwrap();
            let mut received = Vec::new();
            let mut next = async |received: &mut Vec<u8>| {
                let frame = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await?;
                received.extend_from_slice(&frame.unwrap().into_data().unwrap());
                Some(())
            };
            let within = std::time::Duration::from_millis(50);
            while let Ok(Some(())) = tokio::time::timeout(within, next(&mut received)).await {}
            assert_eq!(received.len(), 3 * PREFIX_BYTES + 10, "the third message waits for its share");
            assert!(arrivals.next().is_none() && arrivals.next().is_none());
            drop(others);
            // The share of the third is held until somebody takes it, and then the fifth gets its own.
            while let Ok(Some(())) = tokio::time::timeout(within, next(&mut received)).await {}
            assert!(arrivals.next().is_some() && arrivals.next().is_none());
            while next(&mut received).await.is_some() {}
            assert!(arrivals.next().is_some());
            assert!(arrivals.next().is_none(), "the last is longer than what is decoded");
            assert_eq!(received, whole);
        }
    }
}
