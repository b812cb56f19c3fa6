//! ChangeService: following the change log.
//!
//! A watcher is pulled along by its reader: the next message is made when the one before it was taken. So whoever does not read
//! costs one message, and no writer waits for any watcher: they look at the log, and are woken when it grows.

use std::time::Duration;

use prost::Message as _;
use tokio::time::{Instant, sleep_until};
use tonic::{Request, Response, Status};

use super::outgoing::{Outgoing, OutgoingStream};
use super::status::ApiError;
use super::v1::{self, change_service_server::ChangeService, watch_articles_request::Start};
use super::{Api, EndsWithDrain, convert};
use crate::article::{FieldSet, FieldViolation, Filter, Reason, Timestamp};
use crate::storage::token::{Place, TokenError, TokenScope};
use crate::storage::{Change, ChangeKind, LogPlace, StoreError, StoreHealth};

/// What a watcher may hold at once beside the message that is being sent: half for a page of the log, half for the next message.
const WATCHER_BYTES: usize = 256 << 10;
/// Bytes of a message, which may also be one larger change.
const MESSAGE_BYTES: usize = WATCHER_BYTES / 2;
/// Changes of a page of the log: with URLs of 2 KiB they take half of what a watcher may hold.
const PAGE_CHANGES: usize = 50;
/// A watcher hears something at least so often.
const MARK_EVERY: Duration = Duration::from_secs(10);

#[tonic::async_trait]
impl ChangeService for Api {
    type WatchArticlesStream = OutgoingStream<v1::WatchArticlesResponse>;

    async fn watch_articles(&self, request: Request<v1::WatchArticlesRequest>) -> Result<Response<Self::WatchArticlesStream>, Status> {
        let watcher = self.watcher(&request.into_inner())?;
        let drain = self.drain.clone();
        let store = self.store.clone();
        let mut response = Outgoing::respond(self, &self.drain.over, |out| async move {
            tokio::select! {
                biased;
                () = drain.begun.cancelled() => match store.health() {
                    StoreHealth::Failed(reason) => Err(StoreError::Failed(reason).into()),
                    StoreHealth::Serving | StoreHealth::Full => Err(ApiError::Draining),
                },
                ended = watcher.run(&out) => ended,
            }
        });
        response.extensions_mut().insert(EndsWithDrain);
        Ok(response)
    }

    async fn get_change_bounds(&self, _: Request<v1::GetChangeBoundsRequest>) -> Result<Response<v1::GetChangeBoundsResponse>, Status> {
        let (latest, trimmed) = (self.store.sequence(), self.store.trimmed());
        let first = self.store.changes(LogPlace::after(0), 1).await.map_err(ApiError::from)?;
        let earliest_age = first.first().filter(|first| first.sequence <= latest).map(|first| {
            let micros = Timestamp::now().as_micros().saturating_sub(first.commit_time.as_micros()).max(0);
            prost_types::Duration { seconds: micros / 1_000_000, nanos: (micros % 1_000_000) as i32 * 1000 }
        });
        Ok(Response::new(v1::GetChangeBoundsResponse {
            earliest_token: self.earliest_token(),
            latest_token: TokenScope::changes(self.store_id()).write(&Place::Change(latest)),
            change_count: latest.saturating_sub(trimmed.removed) as i64,
            earliest_age,
            trimmed_count: trimmed.removed as i64,
        }))
    }
}

impl Api {
    fn watcher(&self, request: &v1::WatchArticlesRequest) -> Result<Watcher, ApiError> {
        let filter = convert::filter(request.filter.as_ref())?;
        let fields = convert::read_mask(request.read_mask.as_ref())?;
        let tokens = TokenScope::watch(self.store_id(), &filter);
        let place = match &request.start {
            None => return Err(FieldViolation::new("start", Reason::Required, "is missing: set resume_token or position").into()),
            Some(Start::ResumeToken(token)) => self.place(tokens, token)?,
            Some(Start::Position(position)) => match v1::WatchStart::try_from(*position) {
                Ok(v1::WatchStart::Beginning) => self.store.trimmed().beginning(),
                Ok(v1::WatchStart::Now) => LogPlace::after(self.store.sequence()),
                Ok(v1::WatchStart::Unspecified) | Err(_) => {
                    return Err(FieldViolation::new("position", Reason::InvalidArgument, "is neither the beginning nor now").into());
                }
            },
        };
        if !self.store.trimmed().serves(place) {
            return Err(self.trimmed());
        }
        Ok(Watcher { api: self.clone(), filter, tokens, place, content: request.include_articles.then_some(fields) })
    }

    /// The token of a watch of everything that is kept.
    fn earliest_token(&self) -> String {
        TokenScope::changes(self.store_id()).write(&Place::Change(0))
    }

    fn trimmed(&self) -> ApiError {
        ApiError::ChangesTrimmed { earliest_token: self.earliest_token() }
    }

    /// The place in the log that a token names.
    fn place(&self, tokens: TokenScope, token: &str) -> Result<LogPlace, ApiError> {
        let place = match tokens.read(token) {
            Err(TokenError::Mismatch) => TokenScope::changes(self.store_id()).read(token),
            read => read,
        };
        match place.map_err(|error| ApiError::token("resume_token", error))? {
            // A place that this store has not come to belongs to another history of it.
            Place::Change(after) | Place::Rebuild { after, .. } if after > self.store.sequence() => {
                Err(ApiError::TokenMismatch("resume_token"))
            }
            Place::Change(0) | Place::Rebuild { after: 0, .. } => Ok(self.store.trimmed().beginning()),
            Place::Change(after) => Ok(LogPlace::after(after)),
            Place::Rebuild { after, begun } => Ok(LogPlace { after, begun: Some(begun) }),
            _ => Err(ApiError::TokenMismatch("resume_token")),
        }
    }
}

/// One WatchArticles call.
struct Watcher {
    api: Api,
    filter: Filter,
    tokens: TokenScope,
    /// After the last change that was sent or does not match.
    place: LogPlace,
    /// The fields of the articles that changes are to carry.
    content: Option<FieldSet>,
}

/// What a page of the log comes to.
enum Found {
    /// These changes match, and take so many bytes.
    Changes(Vec<v1::ArticleChange>, usize),
    /// The next change that matches takes more bytes than there is room for.
    Larger(usize),
}

impl Watcher {
    async fn run(mut self, out: &Outgoing<v1::WatchArticlesResponse>) -> Result<(), ApiError> {
        out.send(self.message(Vec::new()), None).await?;
        let mut mark_at = Instant::now() + MARK_EVERY;
        loop {
            tokio::select! {
                biased;
                () = out.gone() => return Ok(()),
                grown = self.api.store.sequence_after(self.place.after) => drop(grown?),
                () = sleep_until(mark_at) => {} // ok: the time of a mark, unless the log grows before.
            }
            out.ready().await?;
            let mut share = out.share(WATCHER_BYTES).await?;
            let mut found = self.find(MESSAGE_BYTES).await?;
            if let Found::Larger(bytes) = found {
                drop(share);
                share = out.share(bytes).await?;
                found = self.find(bytes).await?;
            }
            let (changes, bytes) = match found {
                Found::Changes(changes, bytes) => (changes, bytes),
                // A revision does not grow; and if it did, the next round would ask for more.
                Found::Larger(_) => continue,
            };
            if changes.is_empty() && Instant::now() < mark_at {
                continue;
            }
            share.shrink(bytes);
            out.send(self.message(changes), Some(share)).await?;
            mark_at = Instant::now() + MARK_EVERY;
        }
    }

    fn message(&self, changes: Vec<v1::ArticleChange>) -> v1::WatchArticlesResponse {
        let LogPlace { after, begun } = self.place;
        let place = begun.map_or(Place::Change(after), |begun| Place::Rebuild { after, begun });
        v1::WatchArticlesResponse { changes, resume_token: self.tokens.write(&place), last_sequence: after as i64 }
    }

    /// Goes through the next page of the log as far as there is room for what matches.
    async fn find(&mut self, room: usize) -> Result<Found, ApiError> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        let page = match self.api.store.changes(self.place, PAGE_CHANGES).await {
            Err(StoreError::ChangesTrimmed) => return Err(self.api.trimmed()),
            page => page?,
        };
        let is_end = page.len() < PAGE_CHANGES;
        for change in page {
            if self.filter.contains(&change.key) {
                let wire = match self.wire(&change).await {
                    Ok(wire) => wire,
                    Err(error) if found.is_empty() => return Err(error),
                    // What comes before it is sent first; then it is met again.
                    Err(_) => break,
                };
                let size = wire.encoded_len() + 8;
                if bytes + size > room {
                    if found.is_empty() {
                        return Ok(Found::Larger(size));
                    }
                    break;
                }
                bytes += size;
                found.push(wire);
            }
            self.place.after = change.sequence;
        }
        if is_end && self.place.after >= self.api.store.trimmed().horizon {
            // It has everything now. From here on it is to hear of everything that it misses.
            self.place.begun = None;
        }
        Ok(Found::Changes(found, bytes))
    }

    async fn wire(&self, change: &Change) -> Result<v1::ArticleChange, ApiError> {
        let mut wire = convert::change_to_wire(change);
        if let Some(fields) = self.content.filter(|_| change.kind != ChangeKind::Deleted) {
            let revision = self.api.store.revision(&change.key, change.revision).await?;
            wire.article = revision.kept().map(|stored| convert::article_to_wire(stored, fields));
        }
        Ok(wire)
    }
}
