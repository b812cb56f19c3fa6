//! The verification of the reference engine: every article against its own digest and against the change log.

use std::ops::Bound;

use super::{Kept, State};
use crate::article::{ArticleDate, ArticleHead, ArticleKey, CanonicalUrl, Timestamp};
use crate::storage::{Change, Finding, FindingKind, VerifyCursor, VerifyStep};

/// Articles of a step: few, so that a verification of a small store has several steps.
const STEP_ARTICLES: usize = 100;

impl State {
    /// See [`ArticleStore::verify`](crate::storage::ArticleStore::verify). There is one part, and its keys are those of articles.
    pub fn verify(&mut self, cursor: Option<VerifyCursor>) -> VerifyStep {
        let cursor = cursor.unwrap_or(VerifyCursor { part: 0, after: Vec::new(), findings: 0, checked: 0 });
        let after = parse(&cursor.after).map_or(Bound::Unbounded, Bound::Excluded);
        let step: Vec<_> = self.articles.range((after, Bound::Unbounded)).take(STEP_ARTICLES).collect();
        let findings: Vec<_> = step.iter().flat_map(|(_, kept)| self.findings(kept)).collect();
        let checked = cursor.checked + step.len() as u64;
        let count = cursor.findings + findings.len() as u64;
        let last = step.last().filter(|_| step.len() == STEP_ARTICLES).map(|(key, _)| bytes(key));
        let next = last.map(|after| VerifyCursor { part: 0, after, findings: count, checked });
        if next.is_none() && count == 0 {
            self.last_verification = Some(Timestamp::now());
        }
        VerifyStep { checked, total: checked.max(self.articles.len() as u64), findings, next }
    }

    fn findings(&self, Kept { latest, earlier_revisions }: &Kept) -> Vec<Finding> {
        let key = &latest.head.key;
        let finding = |kind, detail: String| Finding { kind, key: Some(key.clone()), detail };
        let mut findings = Vec::new();
        if latest.article.digest() != latest.head.digest || latest.article.key() != key {
            findings.push(finding(FindingKind::RecordDamaged, "its text is not what was stored".to_owned()));
        }
        for (number, revision) in (1..).zip(earlier_revisions) {
            let expected = latest.head.revision - earlier_revisions.len() as u64 + number - 1;
            if revision.article.digest() != revision.head.digest || revision.head.revision != expected {
                findings.push(finding(FindingKind::RevisionDamaged, format!("revision {expected} is not what was stored")));
            }
        }
        if !self.changes.get(&latest.head.sequence).is_some_and(|change| made(change, &latest.head)) {
            let detail = format!("change {} is another than the one that made it", latest.head.sequence);
            findings.push(finding(FindingKind::ChangeMissing, detail));
        }
        findings
    }
}

fn made(change: &Change, head: &ArticleHead) -> bool {
    (change.sequence, &change.key, change.revision, change.digest) == (head.sequence, &head.key, head.revision, head.digest)
}

fn bytes(key: &ArticleKey) -> Vec<u8> {
    format!("{} {}", key.date, key.url.key()).into_bytes()
}

fn parse(bytes: &[u8]) -> Option<ArticleKey> {
    let (date, url) = std::str::from_utf8(bytes).ok()?.split_once(' ')?;
    let date: ArticleDate = date.parse().ok()?;
    Some(ArticleKey { date, url: CanonicalUrl::from_stored_key(url) })
}
