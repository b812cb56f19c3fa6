//! What is known of one key: the states that it may be in, the writes in flight, and what readers saw.

use std::collections::VecDeque;
use std::sync::Arc;

use dateline::client::v1;

use super::articles::{same_content, same_digest};
use super::oracle::{Caller, WriteId, Written, hash};

/// A change of one article.
#[derive(Debug, Clone)]
pub enum Write {
    Put(Arc<v1::Article>),
    Delete,
}

/// What the store said that a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Created,
    Updated,
    Unchanged,
    Deleted,
    /// There was nothing to delete.
    Missing,
}

impl Answer {
    /// What a put did; None for an outcome that no put of the load can have.
    pub fn of(outcome: v1::Outcome) -> Option<Self> {
        match outcome {
            v1::Outcome::Created => Some(Self::Created),
            v1::Outcome::Updated => Some(Self::Updated),
            v1::Outcome::Unchanged => Some(Self::Unchanged),
            v1::Outcome::Rejected | v1::Outcome::Deleted | v1::Outcome::Unspecified => None,
        }
    }
}

/// Something that the oracle learned.
#[derive(Debug, Clone)]
pub enum Event {
    Begun { key: usize, id: WriteId, caller: Caller, write: Write, item: Option<(String, i64)> },
    Answered { key: usize, id: WriteId, answer: Answer, revision: Option<u64> },
    Refused { key: usize, id: WriteId },
    SawArticle { key: usize, revision: u64, hash: u64, time: Option<(i64, i32)> },
    SawNone { key: usize, revision: u64 },
    StreamAcknowledged { stream: String, next_item: i64 },
    StreamCommits { stream: String, done: bool },
    StreamFound { stream: String, next_item: Option<i64> },
    Observed { key: usize, states: Vec<State> },
}

/// What may be stored under a key.
#[derive(Debug, Clone, Default)]
pub struct State {
    pub article: Option<Arc<v1::Article>>,
    /// The latest revision, also of an article that is gone.
    pub revision: u64,
    /// Earlier revisions that are kept.
    pub kept: u64,
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        let same = match (&self.article, &other.article) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other) || same_content(one, other),
            _ => false,
        };
        same && (self.revision, self.kept) == (other.revision, other.kept)
    }
}

impl State {
    /// The state after a write, and what the store must say about it.
    fn after(&self, write: &Write) -> (Self, Answer) {
        match (write, &self.article) {
            (Write::Put(new), Some(old)) if same_digest(new, old) => (self.clone(), Answer::Unchanged),
            (Write::Put(new), old) => {
                let kept = if old.is_some() { self.kept + 1 } else { 0 };
                let answer = if old.is_some() { Answer::Updated } else { Answer::Created };
                (Self { article: Some(Arc::clone(new)), revision: self.revision + 1, kept }, answer)
            }
            (Write::Delete, Some(_)) => (Self { article: None, kept: 0, ..self.clone() }, Answer::Deleted),
            (Write::Delete, None) => (self.clone(), Answer::Missing),
        }
    }
}

/// A write that was sent and not answered.
#[derive(Debug, Clone)]
pub struct InFlight {
    pub id: WriteId,
    pub caller: Caller,
    pub write: Write,
}

/// What is known of one key.
#[derive(Debug, Clone)]
pub struct KeyHistory {
    /// Without the writes in flight; one of these for certain.
    pub possible: Vec<State>,
    /// In the order in which they were sent.
    pub in_flight: VecDeque<InFlight>,
    /// Deletions that were ever begun.
    pub deletions: u64,
    /// The latest revision that a reader saw, and the hash of its content.
    seen: Option<(u64, u64)>,
    /// The latest revision that a reader found to be deleted.
    pub gone: Option<u64>,
    /// The latest revision whose time is known, and its time.
    time: Option<(u64, (i64, i32))>,
    written: Written,
}

impl Default for KeyHistory {
    fn default() -> Self {
        let (in_flight, written) = Default::default();
        Self { possible: vec![State::default()], in_flight, deletions: 0, seen: None, gone: None, time: None, written }
    }
}

impl KeyHistory {
    /// The state, where there is no doubt about it.
    pub fn certain(&self) -> Option<&State> {
        match &self.possible[..] {
            [state] if self.in_flight.is_empty() => Some(state),
            _ => None,
        }
    }

    pub fn begin(&mut self, id: WriteId, caller: Caller, write: Write) {
        match &write {
            Write::Put(article) => drop(self.written.insert(hash(article))),
            Write::Delete => self.deletions += 1,
        }
        self.in_flight.push_back(InFlight { id, caller, write });
    }

    pub fn answer(&mut self, id: WriteId, answer: Answer, revision: Option<u64>) -> Result<(), String> {
        let Some(write) = self.in_flight.pop_front().filter(|first| first.id == id) else {
            return Err("a write was acknowledged before an earlier one of the same caller".into());
        };
        let fits = |state: &State, said: Answer| said == answer && revision.is_none_or(|revision| revision == state.revision);
        let next: Vec<_> = self.possible.iter().map(|state| state.after(&write.write)).filter(|(state, said)| fits(state, *said)).collect();
        if next.is_empty() {
            let text = format!("the store answered {answer:?}, revision {revision:?}, to {}; {}", brief(&write.write), self.describe());
            return Err(text);
        }
        self.possible = distinct(next.into_iter().map(|(state, _)| state));
        Ok(())
    }

    /// A write happened for certain, though its answer was lost.
    pub fn happened(&mut self, id: WriteId) {
        if let Some(at) = self.in_flight.iter().position(|write| write.id == id)
            && let Some(InFlight { write, .. }) = self.in_flight.remove(at)
        {
            self.possible = distinct(self.possible.iter().map(|state| state.after(&write).0));
        }
    }

    /// A write did not happen for certain.
    pub fn refuse(&mut self, id: WriteId) {
        self.in_flight.retain(|write| write.id != id);
    }

    /// A reader saw this content under this revision.
    pub fn see(&mut self, revision: u64, hash: u64) -> Result<(), String> {
        if !self.written.contains(&hash) {
            return Err(format!("a reader saw revision {revision} with a text that was never written"));
        }
        match self.seen {
            Some((seen, other)) if seen == revision && other != hash => Err(format!("readers saw two texts as revision {revision}")),
            Some((seen, _)) if seen >= revision => Ok(()),
            _ => {
                self.seen = Some((revision, hash));
                Ok(())
            }
        }
    }

    /// When a revision was stored: later than the one before, and always the same.
    pub fn time_of(&mut self, revision: u64, time: Option<(i64, i32)>) -> Result<(), String> {
        let Some(time) = time else { return Err(format!("revision {revision} has no update time")) };
        match self.time {
            Some((known, at)) if known == revision && at != time => Err(format!("revision {revision} has two update times")),
            Some((known, at)) if known < revision && at >= time => {
                Err(format!("revision {revision} has an update time before that of revision {known}"))
            }
            Some((known, _)) if known >= revision => Ok(()),
            _ => {
                self.time = Some((revision, time));
                Ok(())
            }
        }
    }

    /// All states that the key may be in: the writes in flight happened up to one of them, or none did.
    pub fn reachable(&self) -> Vec<State> {
        let mut states = self.possible.clone();
        let mut last = states.clone();
        for write in &self.in_flight {
            last = last.iter().map(|state| state.after(&write.write).0).collect();
            states.extend(last.iter().cloned());
        }
        distinct(states)
    }

    /// Those of these states that nothing a reader saw forbids; `None` where there is none.
    pub fn allow(&self, states: Vec<State>) -> Option<Vec<State>> {
        let seen = |state: &State| match (self.seen, &state.article) {
            (Some((revision, _)), _) if state.revision < revision => false,
            (Some((revision, seen)), Some(article)) if state.revision == revision => hash(article) == seen,
            _ => true,
        };
        let gone = |state: &State| self.gone.is_none_or(|revision| state.revision > revision || state.article.is_none());
        let allowed: Vec<_> = states.into_iter().filter(|state| seen(state) && gone(state)).collect();
        (!allowed.is_empty()).then_some(allowed)
    }

    /// What is there was observed.
    pub fn settle(&mut self, states: Vec<State>) {
        self.possible = states;
        self.in_flight.clear();
    }

    /// What it may be, for people.
    pub fn describe(&self) -> String {
        let state = |state: &State| {
            let article = state.article.as_ref().map_or("nothing".into(), |article| format!("{:?}", article.title));
            format!("{article} at revision {}", state.revision)
        };
        let possible: Vec<_> = self.possible.iter().map(state).collect();
        let in_flight: Vec<_> = self.in_flight.iter().map(|write| brief(&write.write)).collect();
        let seen = self.seen.map(|(revision, _)| format!("; a reader saw revision {revision}")).unwrap_or_default();
        let gone = self.gone.map(|revision| format!("; a reader found revision {revision} deleted")).unwrap_or_default();
        format!("acknowledged: {}; in flight: [{}]{seen}{gone}", possible.join(" or "), in_flight.join(", "))
    }
}

fn brief(write: &Write) -> String {
    match write {
        Write::Put(article) => format!("put {:?}", article.title),
        Write::Delete => "delete".into(),
    }
}

fn distinct(states: impl IntoIterator<Item = State>) -> Vec<State> {
    let mut distinct: Vec<State> = Vec::new();
    for state in states {
        if !distinct.contains(&state) {
            distinct.push(state);
        }
    }
    distinct
}
