//! How large things may be. Every limit is enforced alike at each way in, and going over one is an error, never a cut.

use super::ArticleDate;

/// The limits on articles; see the fields for the defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all strings of an article together, the URL included. Default 3 MiB.
    pub article_bytes: usize,
    /// Bytes of a URL, both as given and canonical. Default 2,048, and at most that.
    pub url_bytes: usize,
    /// Authors, keywords and annotations of an article, each. Default 1,000.
    pub list_items: usize,
    /// Bytes of an annotation's name. Default 256.
    pub annotation_name_bytes: usize,
    /// How far ahead of today an article may be dated.
    pub horizon: DateHorizon,
}

/// How many days ahead of today (UTC) a publication date may lie before it is taken for a typing error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DateHorizon {
    /// That many days.
    Days(u32),
    /// Any date is accepted, as in restoring and mirroring.
    Unlimited,
}

impl DateHorizon {
    /// The last date that is accepted today.
    pub fn last_date(self) -> ArticleDate {
        match self {
            Self::Days(days) => ArticleDate::today().saturating_add_days(days),
            Self::Unlimited => ArticleDate::MAX,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            article_bytes: 3 << 20,
            url_bytes: super::url::MAX_BYTES,
            list_items: 1000,
            annotation_name_bytes: 256,
            horizon: DateHorizon::Days(90),
        }
    }
}
