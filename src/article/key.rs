//! The key: what makes two articles the same one.

use std::fmt;

use super::{ArticleDate, CanonicalUrl};

/// Identifies an article: its publication date and its canonical URL. One key, one article.
///
/// Keys order by date, then by the bytes of the URL's sort-friendly form, which is the order of every scan.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ArticleKey {
    /// The publication date.
    pub date: ArticleDate,
    /// The canonical URL.
    pub url: CanonicalUrl,
}

impl fmt::Display for ArticleKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.date, self.url)
    }
}

impl fmt::Debug for ArticleKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
