//! Counting: by the manifests of the days where every URL counts, else by the keys of the articles, day by day.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::entry::Manifest;
use super::keys::{self, Tree};
use super::pool::Cancelled;
use super::trees::{Trees, sled_error};
use crate::article::{ArticleDate, Filter, UrlScope};
use crate::storage::{CountOfGroup, CountRequest, CountedGroup, CountedHost, GroupBy, StoreError};

/// After how many keys a count looks whether anybody still waits for it.
const KEYS_BETWEEN_CHECKS: usize = 1024;

impl Trees {
    /// How many articles a filter selects, in groups.
    pub fn count(&self, request: &CountRequest, cancelled: &Cancelled) -> Result<Vec<CountOfGroup>, StoreError> {
        let CountRequest { filter, group_by, limit } = request;
        match group_by {
            GroupBy::Total => {
                let days = self.counted_days(filter, None, usize::MAX, cancelled)?;
                Ok(vec![CountOfGroup { group: CountedGroup::Total, count: days.values().sum() }])
            }
            GroupBy::Day(after) => {
                let days = self.counted_days(filter, *after, *limit, cancelled)?;
                Ok(days.into_iter().map(|(day, count)| CountOfGroup { group: CountedGroup::Day(day), count }).collect())
            }
            GroupBy::Host(after) => self.counted_hosts(filter, after.as_ref(), *limit, cancelled),
        }
    }

    /// The first days after a day that have articles that are selected, and how many.
    fn counted_days(
        &self,
        filter: &Filter,
        after: Option<ArticleDate>,
        limit: usize,
        cancelled: &Cancelled,
    ) -> Result<BTreeMap<ArticleDate, u64>, StoreError> {
        let mut days = BTreeMap::new();
        for (day, mut count) in self.manifests(filter, after)? {
            if days.len() == limit {
                break;
            }
            if filter.scope != UrlScope::All {
                count = 0;
                self.visit_day(day, filter, None, cancelled, |_| {
                    count += 1;
                    true
                })?;
            }
            if count > 0 {
                days.insert(day, count);
            }
        }
        Ok(days)
    }

    /// The first hosts after a host, in the order of their keys. No more of them than the limit are ever in memory: what comes
    /// after those that fit is passed over.
    fn counted_hosts(
        &self,
        filter: &Filter,
        after: Option<&CountedHost>,
        limit: usize,
        cancelled: &Cancelled,
    ) -> Result<Vec<CountOfGroup>, StoreError> {
        let mut hosts: BTreeMap<CountedHost, u64> = BTreeMap::new();
        for day in self.manifests(filter, None)?.into_keys() {
            // A day's articles stand host by host: the map is asked once a host.
            let mut current: Option<(CountedHost, u64)> = None;
            self.visit_day(day, filter, after, cancelled, |url| {
                if let Some((host, count)) = &mut current
                    && url.starts_with(host.key_prefix())
                {
                    *count += 1;
                    return true;
                }
                add(&mut hosts, current.take(), limit);
                let host = CountedHost::of_key(url);
                let fits = hosts.len() < limit || hosts.last_key_value().is_some_and(|(last, _)| host <= *last);
                current = fits.then_some((host, 1));
                fits
            })?;
            add(&mut hosts, current, limit);
        }
        Ok(hosts.into_iter().map(|(host, count)| CountOfGroup { group: CountedGroup::Host(host), count }).collect())
    }

    /// Visits the URL keys of a day's articles that a filter's scope selects, behind those of a host, until the visitor has enough.
    fn visit_day(
        &self,
        day: ArticleDate,
        filter: &Filter,
        after: Option<&CountedHost>,
        cancelled: &Cancelled,
        mut visit: impl FnMut(&str) -> bool,
    ) -> Result<(), StoreError> {
        self.check_day(day)?;
        let whole = keys::article_prefix(day, filter.scope.key_prefix());
        let behind = after.and_then(|after| keys::after_prefix(&keys::article_prefix(day, after.key_prefix())));
        let start = behind.map_or(whole.clone(), |behind| behind.max(whole.clone()));
        let end = keys::after_prefix(&whole);
        if end.as_ref().is_some_and(|end| start >= *end) {
            return Ok(());
        }
        let range = (Bound::Included(start), end.map_or(Bound::Unbounded, Bound::Excluded));
        for (number, key) in self.tree(Tree::Articles).range::<Vec<u8>, _>(range).keys().enumerate() {
            if number % KEYS_BETWEEN_CHECKS == 0 {
                cancelled.check()?;
            }
            let key = key.map_err(sled_error)?;
            if !visit(keys::url_key_of(&key)?) {
                break;
            }
        }
        Ok(())
    }

    /// What the manifests say of the days that a filter selects, after a day.
    fn manifests(&self, filter: &Filter, after: Option<ArticleDate>) -> Result<BTreeMap<ArticleDate, u64>, StoreError> {
        if filter.dates.is_empty() || after.is_some_and(|after| after >= filter.dates.to) {
            return Ok(BTreeMap::new());
        }
        let from = after.and_then(ArticleDate::tomorrow).map_or(filter.dates.from, |next| next.max(filter.dates.from));
        let entries = self.tree(Tree::Days).range(keys::day_key(from)..=keys::day_key(filter.dates.to));
        let decode = |entry: sled::Result<(sled::IVec, sled::IVec)>| {
            let (key, value) = entry.map_err(sled_error)?;
            Ok((keys::parse_day_key(&key)?, Manifest::decode(&key, &value)?.count))
        };
        entries.map(decode).collect()
    }
}

fn add(hosts: &mut BTreeMap<CountedHost, u64>, counted: Option<(CountedHost, u64)>, limit: usize) {
    if let Some((host, count)) = counted {
        *hosts.entry(host).or_default() += count;
        if hosts.len() > limit {
            hosts.pop_last();
        }
    }
}
