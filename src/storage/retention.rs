//! How much of the past a store keeps.

use std::fmt;
use std::str::FromStr;

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
}
