//! The domain: what an article is, what identifies it, and how large it may be.
//!
//! Nothing in here does I/O or knows of the wire, of files or of storage. Input from outside is parsed into these
//! types once, at the border; whoever holds one of them need not check it again.

mod date;
mod digest;
mod draft;
mod field;
mod key;
mod limits;
mod model;
mod scope;
mod timestamp;
pub mod url;

pub use date::{ArticleDate, DateError, DateRange, FIRST_YEAR, LAST_YEAR};
pub use digest::Digest;
pub use draft::{ArticleDraft, FieldViolation, Reason, parse_date, parse_url};
pub use field::{Field, FieldAccess, FieldSet, UnknownField};
pub use key::ArticleKey;
pub use limits::{DateHorizon, Limits};
pub use model::{Article, ArticleHead, Etag, EtagError, Metadata, StoredArticle};
pub use scope::{Filter, ScopeError, UrlScope};
pub use timestamp::{Timestamp, TimestampError};
pub use url::{CanonicalUrl, UrlError};
