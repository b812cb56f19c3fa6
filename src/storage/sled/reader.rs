//! Reading from the trees. Everything here blocks; the store runs it on its pool.

use std::ops::Bound;

use super::entry;
use super::keys::{self, Tree};
use super::pool::Cancelled;
use super::stored::StoredRecord;
use super::trees::{Trees, sled_error};
use crate::article::{ArticleDate, ArticleHead, ArticleKey, CanonicalUrl, Filter, StoredArticle};
use crate::storage::record::RecordError;
use crate::storage::{Direction, LookupResult, Page, ScanRequest, StoreError};

/// How often a reader tries again where the article changes under it. Each try needs another write in between.
pub const TRIES: usize = 100;

impl Trees {
    /// The article under a key.
    pub fn article(&self, key: &ArticleKey) -> Result<Option<StoredArticle>, StoreError> {
        let key_bytes = keys::article_key(key);
        self.check_day(key.date)?;
        let Some(record) = self.get(Tree::Articles, &key_bytes)? else { return Ok(None) };
        self.decode(key, Tree::Articles, &key_bytes, record)
    }

    /// The articles under the first of these keys, until they hold more than so many bytes of text.
    pub fn articles(&self, keys: &[ArticleKey], text_budget: usize, cancelled: &Cancelled) -> Result<Vec<LookupResult>, StoreError> {
        let mut results = Vec::new();
        let mut bytes = 0;
        for key in keys {
            if self.day_is_known(key.date) { cancelled.check() } else { cancelled.check_long() }?;
            let result = self.article(key);
            bytes += result.as_ref().ok().and_then(Option::as_ref).map_or(0, |found| found.article.size());
            results.push(result);
            if bytes > text_budget {
                break;
            }
        }
        Ok(results)
    }

    /// Of all articles with this URL, the one with the latest date.
    pub fn latest_article(&self, url: &CanonicalUrl) -> Result<Option<StoredArticle>, StoreError> {
        for date in self.indexed_dates(url) {
            if let Some(article) = self.article(&ArticleKey { date: date?, url: url.clone() })? {
                return Ok(Some(article));
            }
        }
        Ok(None)
    }

    /// The dates of a URL's articles, latest first.
    pub fn article_dates(&self, url: &CanonicalUrl, limit: usize) -> Result<Vec<ArticleDate>, StoreError> {
        let mut dates = Vec::new();
        for date in self.indexed_dates(url) {
            if dates.len() == limit {
                break;
            }
            let date = date?;
            self.check_day(date)?;
            if self.get(Tree::Articles, &keys::article_prefix(date, url.key()))?.is_some() {
                dates.push(date);
            }
        }
        Ok(dates)
    }

    /// The dates under which the index has a URL, latest first. It may be a moment ahead of an article or behind it, which decides.
    pub fn indexed_dates(&self, url: &CanonicalUrl) -> impl Iterator<Item = Result<ArticleDate, StoreError>> {
        let entries = self.tree(Tree::Urls).scan_prefix(keys::url_index_prefix(url)).keys().rev();
        entries.map(|entry| keys::parse_url_index_key(&entry.map_err(sled_error)?))
    }

    /// A page of articles.
    pub fn scan(&self, request: &ScanRequest, cancelled: &Cancelled) -> Result<Page<StoredArticle>, StoreError> {
        let mut text_bytes = 0;
        self.page(request, cancelled, |key, key_bytes, record| {
            let article = self.decode(&key, Tree::Articles, key_bytes, record)?;
            text_bytes += article.as_ref().map_or(0, |article| article.article.size());
            Ok((article, text_bytes <= request.text_budget))
        })
    }

    /// A page of heads.
    pub fn scan_heads(&self, request: &ScanRequest, cancelled: &Cancelled) -> Result<Page<ArticleHead>, StoreError> {
        self.page(request, cancelled, |key, _, record| Ok((Some(StoredRecord::decode(&key, &record)?.header.into_head()), true)))
    }

    /// How many days there are, the first and the last.
    pub fn days(&self) -> Result<(u64, Option<(ArticleDate, ArticleDate)>), StoreError> {
        let days = self.tree(Tree::Days);
        let date = |entry: Option<(sled::IVec, sled::IVec)>| entry.map(|(key, _)| keys::parse_day_key(&key)).transpose();
        let span = date(days.first().map_err(sled_error)?)?.zip(date(days.last().map_err(sled_error)?)?);
        Ok((days.len() as u64, span))
    }

    /// Looks at all days from one to another, both included, in whichever order: also at those that seem to hold nothing.
    fn check_days(&self, one: ArticleDate, other: ArticleDate, cancelled: &Cancelled) -> Result<(), StoreError> {
        let days = keys::day_key(one.min(other))..=keys::day_key(one.max(other));
        for entry in self.tree(Tree::Days).range(days).keys() {
            let day = keys::parse_day_key(&entry.map_err(sled_error)?)?;
            if self.day_is_known(day) { cancelled.check() } else { cancelled.check_long() }?;
            self.check_day(day)?;
        }
        Ok(())
    }

    /// What the manifest of a day should be, from its articles.
    pub fn manifest_of(&self, date: ArticleDate) -> Result<entry::Manifest, StoreError> {
        let mut manifest = entry::Manifest::default();
        for entry in self.tree(Tree::Articles).scan_prefix(keys::article_prefix(date, "")) {
            let (key, record) = entry.map_err(sled_error)?;
            manifest.add(StoredRecord::decode(&keys::parse_article_key(&key)?, &record)?.header.head());
        }
        Ok(manifest)
    }

    /// Decodes a record that stands in a tree, with its payload from the journal: what stands there by then, and `None` where
    /// that is nothing any more.
    pub fn decode(
        &self,
        key: &ArticleKey,
        tree: Tree,
        key_bytes: &[u8],
        mut record: sled::IVec,
    ) -> Result<Option<StoredArticle>, StoreError> {
        for _ in 0..TRIES {
            let StoredRecord { header, location } =
                StoredRecord::decode(key, &record).inspect_err(|error| self.damage().note_index(error))?;
            let problem = match self.segments().read(location, header.payload_bytes())? {
                None => "the journal does not hold its text".to_owned(),
                Some(payload) => match header.decode_article(&payload, self.compression()) {
                    Ok(article) => return Ok(Some(article)),
                    Err(error) => {
                        self.note_dictionary(&error);
                        error.to_string()
                    }
                },
            };
            // A segment that is no longer needed goes: what looks damaged may only have been replaced, moved or deleted.
            match self.get(tree, key_bytes)? {
                None => return Ok(None),
                Some(now) if now != record => record = now,
                Some(_) => {
                    if tree == Tree::Articles {
                        self.damage().note_text(key_bytes);
                    }
                    return Err(StoreError::damaged(format!("article {key}"), problem));
                }
            }
        }
        Err(StoreError::damaged(format!("article {key}"), "it changed all the time while it was read"))
    }

    /// Notes where a record's dictionary is missing: the journal has it.
    pub fn note_dictionary(&self, error: &RecordError) {
        if matches!(error, RecordError::Dictionary(_)) {
            self.damage().note_index(&StoreError::damaged("a compression dictionary", error.to_string()));
        }
    }

    /// Collects a page: `take` makes an item of a record and tells whether the page has room for more after it.
    fn page<T>(
        &self,
        request: &ScanRequest,
        cancelled: &Cancelled,
        mut take: impl FnMut(ArticleKey, &[u8], sled::IVec) -> Result<(Option<T>, bool), StoreError>,
    ) -> Result<Page<T>, StoreError> {
        let mut items = Vec::new();
        let (first, last) = request.days();
        let mut day = first;
        for range in self.ranges(request)? {
            cancelled.check()?;
            let mut entries = self.tree(Tree::Articles).range::<Vec<u8>, _>(range?);
            let mut next = || match request.direction {
                Direction::Ascending => entries.next(),
                Direction::Descending => entries.next_back(),
            };
            while let Some(entry) = next() {
                let (key_bytes, record) = entry.map_err(sled_error)?;
                let key = keys::parse_article_key(&key_bytes)?;
                if day != key.date || items.is_empty() {
                    self.check_days(day, key.date, cancelled)?;
                    day = key.date;
                }
                let (item, room) = take(key.clone(), &key_bytes, record)?;
                items.extend(item);
                if items.len() >= request.limit || !room {
                    return Ok(Page { items, next: Some(key) });
                }
            }
        }
        if request.filter.dates.from <= request.filter.dates.to {
            self.check_days(day, last, cancelled)?;
        }
        Ok(Page { items, next: None })
    }

    /// The key ranges that a scan goes through, in its direction: one where every URL is wanted, else one a day that there is.
    #[expect(clippy::type_complexity, reason = "a range of keys is what sled wants to have")]
    fn ranges<'a>(
        &'a self,
        request: &'a ScanRequest,
    ) -> Result<Box<dyn Iterator<Item = Result<(Bound<Vec<u8>>, Bound<Vec<u8>>), StoreError>> + 'a>, StoreError> {
        let Filter { dates, scope } = &request.filter;
        let (mut from, mut to) = (dates.from, dates.to);
        if let Some(after) = &request.after {
            match request.direction {
                Direction::Ascending => from = from.max(after.date),
                Direction::Descending => to = to.min(after.date),
            }
        }
        if from > to {
            return Ok(Box::new(std::iter::empty()));
        }
        let prefix = scope.key_prefix();
        let bounds = move |first: ArticleDate, last: ArticleDate| {
            let start = Bound::Included(keys::article_prefix(first, prefix));
            let end = keys::after_prefix(&keys::article_prefix(last, prefix)).map_or(Bound::Unbounded, Bound::Excluded);
            match (&request.after, request.direction) {
                (Some(after), Direction::Ascending) if after.date == first => {
                    (later(start, Bound::Excluded(keys::article_key(after))), end)
                }
                (Some(after), Direction::Descending) if after.date == last => {
                    (start, earlier(end, Bound::Excluded(keys::article_key(after))))
                }
                _ => (start, end),
            }
        };
        let not_empty = |(start, end): &(Bound<Vec<u8>>, Bound<Vec<u8>>)| match (start, end) {
            (Bound::Included(start), Bound::Excluded(end)) | (Bound::Excluded(start), Bound::Excluded(end)) => start < end,
            _ => true,
        };
        if prefix.is_empty() {
            return Ok(Box::new(Some(bounds(from, to)).into_iter().filter(not_empty).map(Ok)));
        }
        let days = self.tree(Tree::Days).range(keys::day_key(from)..=keys::day_key(to)).keys();
        let days: Box<dyn Iterator<Item = sled::Result<sled::IVec>>> = match request.direction {
            Direction::Ascending => Box::new(days),
            Direction::Descending => Box::new(days.rev()),
        };
        let ranges = days.map(move |day| {
            let day = keys::parse_day_key(&day.map_err(sled_error)?)?;
            Ok(bounds(day, day))
        });
        Ok(Box::new(ranges.filter(move |range| range.as_ref().map_or(true, not_empty))))
    }
}

/// The later of two starts.
fn later(a: Bound<Vec<u8>>, b: Bound<Vec<u8>>) -> Bound<Vec<u8>> {
    let place = |bound: &Bound<Vec<u8>>| match bound {
        Bound::Included(key) => Some((key.clone(), false)),
        Bound::Excluded(key) => Some((key.clone(), true)),
        Bound::Unbounded => None,
    };
    if place(&a) >= place(&b) { a } else { b }
}

/// The earlier of two ends.
fn earlier(a: Bound<Vec<u8>>, b: Bound<Vec<u8>>) -> Bound<Vec<u8>> {
    match (&a, &b) {
        (Bound::Unbounded, _) => b,
        (_, Bound::Unbounded) => a,
        (Bound::Excluded(x) | Bound::Included(x), Bound::Excluded(y) | Bound::Included(y)) => {
            if x <= y {
                a
            } else {
                b
            }
        }
    }
}
