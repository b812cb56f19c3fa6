//! How much of the past a store keeps.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::article::StoredArticle;

/// How many earlier revisions of an article are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum History {
    /// All of them, until the article is deleted.
    #[default]
    All,
    /// So many, those before the latest; none where it is 0.
    Last(u64),
}

/// The text is no [`History`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is neither `all` nor `none` nor a number of revisions")]
pub struct InvalidHistory;

impl FromStr for History {
    type Err = InvalidHistory;

    fn from_str(text: &str) -> Result<Self, InvalidHistory> {
        match text {
            "all" => Ok(Self::All),
            "none" => Ok(Self::Last(0)),
            number => number.parse().map(Self::Last).map_err(|_| InvalidHistory),
        }
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Last(0) => f.write_str("none"),
            Self::Last(count) => write!(f, "{count}"),
        }
    }
}

/// What there is of a revision that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundRevision {
    /// It is kept.
    Kept(Box<StoredArticle>),
    /// There was one since the article was last created, and it is not kept any more.
    NotKept,
    /// There is none: it was never made, or a deletion took it.
    Missing,
}

impl FoundRevision {
    /// The revision, where it is kept.
    pub fn kept(self) -> Option<StoredArticle> {
        match self {
            Self::Kept(stored) => Some(*stored),
            Self::NotKept | Self::Missing => None,
        }
    }
}

impl From<Option<StoredArticle>> for FoundRevision {
    fn from(found: Option<StoredArticle>) -> Self {
        found.map_or(Self::Missing, |stored| Self::Kept(Box::new(stored)))
    }
}

/// Which changes are trimmed from the change log: those beyond either bound that are superseded (a later change of the same article
/// is there), and deletions some time later. So the latest change of every article that is there stays, and all changes within both
/// bounds do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeRetention {
    /// Changes younger than this stay. `None`: none goes by its age.
    pub age: Option<Duration>,
    /// The latest so many changes stay. `None`: none goes by its number.
    pub count: Option<u64>,
    /// For how long at least whoever reads from the beginning can go on: deletions stay for so long after everything before them
    /// that is superseded has gone.
    pub rebuild_time: Duration,
}

impl Default for ChangeRetention {
    fn default() -> Self {
        Self { age: None, count: None, rebuild_time: Duration::from_secs(60 * 60) }
    }
}

impl ChangeRetention {
    /// Whether anything is ever trimmed.
    pub fn trims(&self) -> bool {
        self.age.is_some() || self.count.is_some()
    }
}

/// What was trimmed from a change log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Of the changes up to this one some may be gone; every later one is there. 0 where nothing was ever trimmed.
    pub horizon: u64,
    /// Of the changes up to this one every superseded one is gone; at most the horizon.
    pub swept: u64,
    /// Of the deletions up to this change some may be gone; at most what is swept.
    pub deletions: u64,
    /// How many changes are gone.
    pub removed: u64,
}

impl Trimmed {
    /// Where whoever reads the whole log begins.
    pub fn beginning(&self) -> LogPlace {
        LogPlace { after: 0, begun: Some(self.swept) }
    }

    /// Whether reading can go on from a place: everything after it is there that whoever has come to it needs.
    ///
    /// Whoever reads from the beginning misses nothing by superseded changes that are gone: the later one comes. What they need are
    /// deletions of what they have seen. Of an article whose deletion they miss they have seen nothing where everything before the
    /// deletion was swept when they began.
    pub fn serves(&self, place: LogPlace) -> bool {
        match place.begun {
            _ if place.after == 0 => true,
            None => place.after >= self.horizon,
            Some(swept) => place.after >= self.deletions || self.deletions <= swept,
        }
    }
}

/// A place in the change log to read on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPlace {
    /// After this change; 0 for the beginning.
    pub after: u64,
    /// Of whoever reads from the beginning and has not come to the end yet: what was [`swept`](Trimmed::swept) when they began.
    pub begun: Option<u64>,
}

impl LogPlace {
    /// The place of whoever has or needs nothing of what was before: after this change.
    pub fn after(sequence: u64) -> Self {
        Self { after: sequence, begun: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_they_are_written() {
        for (text, history) in [("all", History::All), ("none", History::Last(0)), ("3", History::Last(3))] {
            assert_eq!((text.parse(), history.to_string().as_str()), (Ok(history), text));
        }
        assert_eq!("0".parse(), Ok(History::Last(0)));
        for text in ["", "some", "-1", "1.5", "All"] {
            assert_eq!(text.parse::<History>(), Err(InvalidHistory), "{text}");
        }
    }

    #[test]
    fn a_place_is_served_as_long_as_nothing_is_missing_that_it_needs() {
        let trimmed = Trimmed { horizon: 100, swept: 90, deletions: 50, removed: 60 };
        let begun = |after, swept| LogPlace { after, begun: Some(swept) };
        for place in [LogPlace::after(0), LogPlace::after(100), LogPlace::after(101), begun(0, 0), begun(50, 0), begun(1, 50), begun(1, 90)]
        {
            assert!(trimmed.serves(place), "{place:?}");
        }
        for place in [LogPlace::after(1), LogPlace::after(99), begun(49, 49), begun(1, 0)] {
            assert!(!trimmed.serves(place), "{place:?}");
        }
        assert_eq!(trimmed.beginning(), begun(0, 90));
        assert!(Trimmed::default().serves(LogPlace::after(1)) && Trimmed::default().serves(begun(1, 0)));
    }
}
