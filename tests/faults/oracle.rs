//! The oracle: what the store must hold, known from outside.
//!
//! Of each key it knows the states that are possible (one, once everything is acknowledged) and the writes in flight, which may
//! or may not have happened; writers take turns at a key, so the order of its writes is certain. What readers saw narrows that:
//! nothing that was seen may disappear. Everything that it learns is an event with a time, so that it can be asked about an
//! earlier moment.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use dateline::client::v1;

use super::articles::{Place, same_content};
use super::history::{Answer, Event, KeyHistory, Write};

/// What tells writes in flight from one another.
pub type WriteId = u64;

/// Who writes: writes of one call, or of one ingest stream, come one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller(pub u64);

/// Where an ingest stream stands.
#[derive(Debug, Clone, Default)]
pub struct StreamHistory {
    /// Items that were sent.
    pub sent: i64,
    /// Items below this one are acknowledged.
    pub acknowledged: i64,
    pub committing: bool,
    pub finished: bool,
    /// Keys and writes of the items that are not acknowledged, by item.
    pub in_flight: VecDeque<(i64, usize, WriteId)>,
    /// The last articles that were sent, to send some of them again.
    pub recent: VecDeque<(i64, Arc<v1::Article>)>,
}

/// What was known of a key when a reader asked for it.
#[derive(Debug, Clone, Copy)]
pub struct Glance {
    /// The store is at least here.
    revision: u64,
    /// The article was there for certain.
    live: bool,
    deletions: u64,
}

/// What the store must hold.
pub struct Oracle {
    places: Arc<Vec<Place>>,
    numbers: HashMap<(String, String), usize>,
    keys: Vec<KeyHistory>,
    streams: BTreeMap<String, StreamHistory>,
    next_id: u64,
    log: Option<Vec<(u64, Event)>>,
}

/// An oracle that everybody shares.
pub type Shared = Arc<Mutex<Oracle>>;

/// Looks at a shared oracle. What a thread that panicked left behind is reported by that panic.
pub fn lock(oracle: &Mutex<Oracle>) -> std::sync::MutexGuard<'_, Oracle> {
    oracle.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Microseconds of the system's clock, which other programs' recordings have too.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

impl Oracle {
    /// Of an empty store.
    pub fn new(places: Arc<Vec<Place>>) -> Self {
        let numbers = places.iter().enumerate().map(|(number, place)| ((place.date.clone(), place.url.clone()), number)).collect();
        let keys = vec![KeyHistory::default(); places.len()];
        Self { places, numbers, keys, streams: BTreeMap::new(), next_id: 0, log: None }
    }

    /// Remembers everything that it learns from now on.
    pub fn with_log(mut self) -> Self {
        self.log = Some(Vec::new());
        self
    }

    /// What it knew at an earlier moment.
    pub fn as_of(&self, time: u64) -> Result<Self, String> {
        let mut earlier = Self::new(Arc::clone(&self.places));
        for (_, event) in self.log.iter().flatten().take_while(|(at, _)| *at <= time) {
            earlier.take(event.clone())?;
        }
        Ok(earlier)
    }

    /// The moment of something that it learned.
    pub fn moment(&self, chance: &mut fastrand::Rng) -> Option<u64> {
        let log = self.log.as_ref().filter(|log| !log.is_empty())?;
        Some(log[chance.usize(..log.len())].0)
    }

    pub fn places(&self) -> &Arc<Vec<Place>> {
        &self.places
    }

    /// The number of the key of an article that the store gave.
    pub fn number(&self, article: &v1::Article) -> Result<usize, String> {
        let key = (article.date.clone(), article.canonical_url.clone());
        self.numbers.get(&key).copied().ok_or_else(|| format!("the store gave an article that nobody wrote: {} {}", key.0, key.1))
    }

    /// A write is about to be sent. None where the key is another caller's just now.
    pub fn begin(&mut self, key: usize, write: Write, caller: Caller, item: Option<(&str, i64)>) -> Option<WriteId> {
        if self.keys[key].in_flight.iter().any(|other| other.caller != caller) {
            return None;
        }
        self.next_id += 1;
        let id = self.next_id;
        let item = item.map(|(stream, item)| (stream.to_owned(), item));
        self.take(Event::Begun { key, id, caller, write, item }).is_ok().then_some(id)
    }

    /// A write was acknowledged, with the revision where the answer names it.
    pub fn answered(&mut self, key: usize, id: WriteId, answer: Answer, revision: Option<u64>) -> Result<(), String> {
        self.take(Event::Answered { key, id, answer, revision })
    }

    /// A write was refused for certain: nothing happened.
    pub fn refused(&mut self, key: usize, id: WriteId) -> Result<(), String> {
        self.take(Event::Refused { key, id })
    }

    /// An ingest stream was acknowledged below this item.
    pub fn stream_acknowledged(&mut self, stream: &str, next_item: i64) -> Result<(), String> {
        self.take(Event::StreamAcknowledged { stream: stream.to_owned(), next_item })
    }

    /// A commit is about to be sent, or was acknowledged.
    pub fn stream_commits(&mut self, stream: &str, done: bool) -> Result<(), String> {
        self.take(Event::StreamCommits { stream: stream.to_owned(), done })
    }

    /// An ingest stream was opened again: items below this one happened, the others did not; `None` where it is finished.
    pub fn stream_found(&mut self, stream: &str, next_item: Option<i64>) -> Result<(), String> {
        self.take(Event::StreamFound { stream: stream.to_owned(), next_item })
    }

    pub fn streams(&self) -> &BTreeMap<String, StreamHistory> {
        &self.streams
    }

    /// An article for a rewrite without a change: the one that is stored, where that is certain.
    pub fn stored(&self, key: usize) -> Option<Arc<v1::Article>> {
        self.keys[key].certain().and_then(|state| state.article.clone())
    }

    /// Whether this is the content of a write that was not acknowledged.
    pub fn is_in_flight(&self, key: usize, found: &v1::Article) -> bool {
        let same = |write: &Write| matches!(write, Write::Put(article) if same_content(article, found));
        self.keys[key].in_flight.iter().any(|other| same(&other.write))
    }

    /// To be taken before a read is sent.
    pub fn glance(&self, key: usize) -> Glance {
        let history = &self.keys[key];
        let live = history.possible.iter().all(|state| state.article.is_some());
        Glance {
            revision: history.possible.iter().map(|state| state.revision).min().unwrap_or_default(),
            live: live && history.in_flight.iter().all(|write| !matches!(write.write, Write::Delete)),
            deletions: history.deletions,
        }
    }

    /// What a reader got while others wrote.
    pub fn saw(&mut self, key: usize, before: Glance, found: Option<&v1::Article>) -> Result<(), String> {
        match found {
            Some(article) => {
                let (revision, hash) = (article.revision as u64, hash(article));
                if revision < before.revision {
                    let text = format!("a reader saw revision {revision} after {} had been acknowledged", before.revision);
                    return Err(self.about(key, &text));
                }
                let time = article.update_time.map(|time| (time.seconds, time.nanos));
                self.take(Event::SawArticle { key, revision, hash, time })
            }
            None if before.live && self.keys[key].deletions == before.deletions => {
                Err(self.about(key, "a reader did not find it though it was there throughout"))
            }
            None if before.live => self.take(Event::SawNone { key, revision: before.revision }),
            None => Ok(()),
        }
    }

    /// What is there after a restart; from here on that is certain. Gives whether a write in flight is in it.
    pub fn observe(&mut self, key: usize, found: Option<&v1::Article>) -> Result<Option<bool>, String> {
        let history = &self.keys[key];
        let states = history.reachable();
        let matches = |article: &Option<Arc<v1::Article>>, revision: u64| match (article, found) {
            (None, None) => true,
            (Some(article), Some(found)) => same_content(article, found) && revision == found.revision as u64,
            _ => false,
        };
        let fitting: Vec<_> = states.iter().filter(|state| matches(&state.article, state.revision)).cloned().collect();
        if let Some(allowed) = history.allow(fitting) {
            let landed = (!history.in_flight.is_empty()).then(|| !history.possible.iter().any(|state| allowed.contains(state)));
            self.take(Event::Observed { key, states: allowed })?;
            if let Some(found) = found {
                let time = found.update_time.map(|time| (time.seconds, time.nanos));
                self.take(Event::SawArticle { key, revision: found.revision as u64, hash: hash(found), time })?;
            }
            return Ok(landed);
        }
        let found = found.map_or("nothing".into(), |article| format!("revision {} ({:?})", article.revision, article.title));
        let text = format!("after the restart the store holds {found}; {}", self.keys[key].describe());
        Err(self.about(key, &text))
    }

    /// Earlier revisions that the store keeps in all; only once every key was observed.
    pub fn earlier_revisions(&self) -> Option<u64> {
        self.keys.iter().map(|history| history.certain().map(|state| state.kept)).sum()
    }

    /// A sentence about a key.
    pub fn about(&self, key: usize, text: &str) -> String {
        format!("{} {}: {text}", self.places[key].date, self.places[key].url)
    }

    fn take(&mut self, event: Event) -> Result<(), String> {
        if let Some(log) = &mut self.log {
            log.push((now(), event.clone()));
        }
        match event {
            Event::Begun { key, id, caller, write, item } => {
                if let (Some((stream, item)), Write::Put(article)) = (&item, &write) {
                    let stream = self.streams.entry(stream.clone()).or_default();
                    stream.sent = stream.sent.max(item + 1);
                    stream.in_flight.push_back((*item, key, id));
                    stream.recent.push_back((*item, Arc::clone(article)));
                    if stream.recent.len() > 64 {
                        stream.recent.pop_front();
                    }
                }
                self.keys[key].begin(id, caller, write);
                Ok(())
            }
            Event::Answered { key, id, answer, revision } => {
                self.keys[key].answer(id, answer, revision).map_err(|text| self.about(key, &text))
            }
            Event::Refused { key, id } => {
                self.keys[key].refuse(id);
                Ok(())
            }
            Event::SawArticle { key, revision, hash, time } => {
                let history = &mut self.keys[key];
                let told = history.see(revision, hash).and_then(|()| history.time_of(revision, time));
                told.map_err(|text| self.about(key, &text))
            }
            Event::SawNone { key, revision } => {
                let history = &mut self.keys[key];
                history.gone = history.gone.max(Some(revision));
                Ok(())
            }
            Event::StreamAcknowledged { stream, next_item } => {
                let history = self.streams.entry(stream).or_default();
                history.acknowledged = history.acknowledged.max(next_item);
                history.in_flight.retain(|(item, ..)| *item >= next_item);
                Ok(())
            }
            Event::StreamCommits { stream, done } => {
                let history = self.streams.entry(stream).or_default();
                (history.committing, history.finished) = (true, done);
                Ok(())
            }
            Event::StreamFound { stream, next_item } => self.stream_stands(&stream, next_item),
            Event::Observed { key, states } => {
                self.keys[key].settle(states);
                Ok(())
            }
        }
    }

    fn stream_stands(&mut self, stream: &str, next_item: Option<i64>) -> Result<(), String> {
        let history = self.streams.entry(stream.to_owned()).or_default();
        let StreamHistory { sent, acknowledged, committing, finished, .. } = *history;
        let contradiction = match next_item {
            None => (!committing).then(|| "is finished, though nobody committed it".to_owned()),
            Some(_) if finished => Some("goes on, though its commit was acknowledged".to_owned()),
            Some(next) if next < acknowledged => {
                Some(format!("goes on at item {next}, though those below {acknowledged} were acknowledged"))
            }
            Some(next) if next > sent => Some(format!("goes on at item {next}, though only {sent} were sent")),
            Some(_) => None,
        };
        if let Some(text) = contradiction {
            return Err(format!("the ingest stream {stream} {text}"));
        }
        let next = next_item.unwrap_or(sent);
        (history.sent, history.acknowledged) = (next, next);
        (history.committing, history.finished) = (next_item.is_none(), next_item.is_none());
        history.recent.retain(|(item, _)| *item < next);
        for (item, key, id) in std::mem::take(&mut history.in_flight) {
            if item < next { self.keys[key].happened(id) } else { self.keys[key].refuse(id) }
        }
        Ok(())
    }
}

/// What tells one content from another.
pub fn hash(article: &v1::Article) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&article.url, &article.title, &article.lead, &article.body).hash(&mut hasher);
    hasher.finish()
}

/// The hashes of what was ever written under a key.
pub type Written = HashSet<u64>;
