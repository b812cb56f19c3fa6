//! Clients that write over ingest streams with several messages on their way, and go on where the last connection stopped.

use std::collections::VecDeque;
use std::sync::Arc;

use dateline::client::{ClientError, IngestEvent, IngestReceiver, IngestSender, v1};

use super::history::Write;
use super::load::{Counters, LoadClient, answer, fresh_caller, refuses};
use super::oracle::{Caller, WriteId, lock};
use super::writers::{answered, new_put};

/// Messages on their way.
const MESSAGES: usize = 6;

/// An item that is not acknowledged.
struct Pending {
    item: i64,
    key: usize,
    id: WriteId,
}

/// Ingests over one stream after the other until told to stop.
pub async fn ingest(mut client: LoadClient) -> Result<(), String> {
    while client.go_on() {
        let stream = stream_to_go_on(&client);
        let report_all = client.chance.bool();
        match answer(client.client.ingest(&stream, report_all)).await? {
            Ok((sender, receiver, opened)) => {
                lock(&client.oracle).stream_found(&stream, Some(opened.next_item))?;
                let run =
                    Run { stream, caller: fresh_caller(), next: opened.next_item, pending: VecDeque::new(), messages: VecDeque::new() };
                if !run.go(&mut client, sender, receiver).await? {
                    return Ok(());
                }
            }
            Err(error) if error.reason == "STREAM_FINISHED" => lock(&client.oracle).stream_found(&stream, None)?,
            Err(error) if refuses(&error) => tokio::task::yield_now().await,
            Err(error) => {
                client.counters.break_off(&error);
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The unfinished stream of this client, or a new one.
fn stream_to_go_on(client: &LoadClient) -> String {
    let own = format!("stream-{}-", client.number);
    let oracle = lock(&client.oracle);
    let streams: Vec<_> = oracle.streams().iter().filter(|(name, _)| name.starts_with(&own)).collect();
    let unfinished = streams.iter().find(|(_, history)| !history.finished).map(|(name, _)| (*name).clone());
    unfinished.unwrap_or_else(|| format!("{own}{}", streams.len()))
}

/// One connection's part of a stream.
struct Run {
    stream: String,
    caller: Caller,
    next: i64,
    pending: VecDeque<Pending>,
    /// For each message on its way, the item after its last.
    messages: VecDeque<i64>,
}

impl Run {
    /// Gives whether the connection holds.
    async fn go(mut self, client: &mut LoadClient, mut sender: IngestSender, mut receiver: IngestReceiver) -> Result<bool, String> {
        if !self.repeat(client, &mut sender).await? {
            return Ok(false);
        }
        // Most runs are left open, so that the next connection goes on with the stream.
        let mut left = client.chance.usize(20..400);
        while client.go_on() && left > 0 {
            if self.messages.len() < MESSAGES {
                left -= 1;
                let articles = self.begin_items(client);
                if articles.is_empty() {
                    tokio::task::yield_now().await;
                    continue;
                }
                let first = self.next;
                self.next += articles.len() as i64;
                self.messages.push_back(self.next);
                if answer(sender.send(first, articles)).await?.is_err() {
                    return self.broken(client, &mut receiver).await;
                }
            } else if !self.receive(client, &mut receiver).await? {
                return Ok(false);
            }
        }
        if client.chance.u8(..4) > 0 {
            return Ok(true);
        }
        while !self.messages.is_empty() {
            if !self.receive(client, &mut receiver).await? {
                return Ok(false);
            }
        }
        self.commit(client, sender, &mut receiver).await
    }

    /// Sends some items again: nothing may happen.
    async fn repeat(&mut self, client: &mut LoadClient, sender: &mut IngestSender) -> Result<bool, String> {
        let again = client.chance.usize(..5);
        let recent = lock(&client.oracle).streams().get(&self.stream).map(|history| history.recent.clone()).unwrap_or_default();
        let recent: Vec<_> = recent.into_iter().rev().take(again).collect();
        let Some((first, _)) = recent.last() else { return Ok(true) };
        let first = *first;
        let articles = recent.into_iter().rev().map(|(_, article)| (*article).clone()).collect();
        Ok(answer(sender.send(first, articles)).await?.is_ok())
    }

    fn begin_items(&mut self, client: &mut LoadClient) -> Vec<v1::Article> {
        let mut articles = Vec::new();
        for _ in 0..client.chance.usize(1..15) {
            let key = client.pick();
            let Write::Put(article) = new_put(client, key) else { continue };
            let item = self.next + articles.len() as i64;
            let begun = lock(&client.oracle).begin(key, Write::Put(Arc::clone(&article)), self.caller, Some((&self.stream, item)));
            if let Some(id) = begun {
                self.pending.push_back(Pending { item, key, id });
                articles.push((*article).clone());
            }
        }
        articles
    }

    /// Takes an acknowledgement. Gives whether the connection holds.
    async fn receive(&mut self, client: &LoadClient, receiver: &mut IngestReceiver) -> Result<bool, String> {
        match answer(receiver.next()).await? {
            Ok(Some(IngestEvent::Ack(ack))) => self.acknowledged(client, &ack).map(|()| true),
            Ok(Some(IngestEvent::Committed(_))) => Err(format!("the ingest stream {} was committed by nobody", self.stream)),
            Ok(None) => Ok(false),
            Err(error) => self.ended(client, &error),
        }
    }

    /// The server ended the stream: after what it has acknowledged meanwhile, the receiver says why.
    async fn broken(mut self, client: &LoadClient, receiver: &mut IngestReceiver) -> Result<bool, String> {
        let mut acknowledged = self.messages.len();
        while acknowledged > 0 {
            acknowledged -= 1;
            match answer(receiver.next()).await? {
                Ok(Some(IngestEvent::Ack(ack))) => self.acknowledged(client, &ack)?,
                Ok(_) => return Ok(false),
                Err(error) => return self.ended(client, &error),
            }
        }
        Ok(false)
    }

    /// A full disk ends the stream, which is opened again to learn how far it came; any other error ends the client.
    fn ended(&self, client: &LoadClient, error: &ClientError) -> Result<bool, String> {
        if refuses(error) {
            Counters::add(&client.counters.refused, self.pending.len());
        } else {
            client.counters.break_off(error);
        }
        Ok(refuses(error))
    }

    fn acknowledged(&mut self, client: &LoadClient, ack: &v1::IngestAck) -> Result<(), String> {
        let mut done = 0;
        while let Some(&Pending { item, key, id }) = self.pending.front().filter(|pending| pending.item < ack.next_item) {
            self.pending.pop_front();
            let told = ack.outcomes.iter().find(|outcome| outcome.item == item);
            let outcome = told.map_or(v1::Outcome::Created, v1::ItemOutcome::outcome);
            answered(&client.oracle, key, id, outcome, None, told.and_then(|told| told.error.as_ref()))?;
            done += 1;
        }
        self.messages.retain(|end| *end > ack.next_item);
        Counters::add(&client.counters.acknowledged, done);
        lock(&client.oracle).stream_acknowledged(&self.stream, ack.next_item)
    }

    async fn commit(self, client: &LoadClient, sender: IngestSender, receiver: &mut IngestReceiver) -> Result<bool, String> {
        lock(&client.oracle).stream_commits(&self.stream, false)?;
        if answer(sender.commit(self.next)).await?.is_err() {
            return Ok(false);
        }
        match answer(receiver.next()).await? {
            Ok(Some(IngestEvent::Committed(committed))) => {
                let total = committed.counts.map_or(0, |counts| counts.created + counts.updated + counts.unchanged + counts.rejected);
                if (committed.item_count, total) != (self.next, self.next) {
                    return Err(format!("the ingest stream {} of {} items was committed as {committed:?}", self.stream, self.next));
                }
                lock(&client.oracle).stream_commits(&self.stream, true)?;
                Ok(true)
            }
            Ok(Some(IngestEvent::Ack(ack))) => Err(format!("the ingest stream {} acknowledged {} again", self.stream, ack.next_item)),
            Ok(None) => Ok(false),
            Err(error) => Ok(refuses(&error)),
        }
    }
}
