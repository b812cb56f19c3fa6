//! The change log in sled: changes that were made together stand in one entry, a run.
//!
//! sled takes some microseconds for an entry whatever it holds, so a run costs little more than a single change would. Runs are
//! short, since sled keeps thousands of leaves of sixteen entries each in memory. A run's key is the number of the change that
//! was its first when it was written; changes that are trimmed leave it, and it goes with the last of them.

use super::entry::{seal, unseal};
use super::keys::{self, Tree};
use super::trees::{Trees, sled_error};
use crate::article::{Digest, Timestamp};
use crate::storage::compression::plain;
use crate::storage::{Change, ChangeKind, StoreError};

/// Changes of a run at most; their numbers lie no further apart.
pub const RUN_CHANGES: u64 = 8;
/// A run ends with the change with which it has so many bytes before compression.
const RUN_BYTES: usize = 1500;
/// What stands in the place of a single change's kind. Both numbers, and the kinds, stand in stores: never change or reuse one.
const RUN: u8 = 4;
const COMPRESSED_RUN: u8 = 5;
/// Runs with fewer bytes are not compressed.
const SMALL_BYTES: usize = 256;
/// No run is ever this large: keys have an upper bound.
const MAX_BYTES: usize = 1 << 20;

/// The entry under a key that holds a run.
pub type Run = (u64, Vec<Change>);

/// The keys and values of the entries for changes with ascending numbers.
pub fn entries(changes: &[Change]) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    let mut rest = changes;
    std::iter::from_fn(move || {
        let first = rest.first()?.sequence;
        let mut bytes = 0;
        let count = rest.iter().take_while(|change| {
            let fits = change.sequence - first < RUN_CHANGES && bytes < RUN_BYTES;
            bytes += change.key.url.key().len() + 64;
            fits
        });
        let (run, after) = rest.split_at(count.count());
        rest = after;
        Some((first.to_be_bytes().into(), encode(first, run)))
    })
}

/// The value of an entry with these changes, at least one, whose first change was this one.
pub fn encode(first: u64, changes: &[Change]) -> Vec<u8> {
    let key = first.to_be_bytes();
    if let [change] = changes
        && change.sequence == first
    {
        let mut content = Vec::new();
        put_change(&mut content, change);
        return seal(Tree::Changes, &key, &content);
    }
    let mut content = vec![RUN];
    for change in changes {
        content.push((change.sequence - first) as u8);
        content.extend_from_slice(&(4 + change.key.url.key().len() as u16).to_be_bytes());
        put_change(&mut content, change);
    }
    let compressed = if content.len() < SMALL_BYTES { None } else { plain::compress(&content[1..]) };
    match compressed {
        Some(compressed) => seal(Tree::Changes, &key, &[&[COMPRESSED_RUN], &compressed[..]].concat()),
        None => seal(Tree::Changes, &key, &content),
    }
}

fn put_change(out: &mut Vec<u8>, change: &Change) {
    out.push(match change.kind {
        ChangeKind::Created => 1,
        ChangeKind::Updated => 2,
        ChangeKind::Deleted => 3,
    });
    out.extend_from_slice(&change.revision.to_be_bytes());
    out.extend_from_slice(&change.commit_time.as_micros().to_be_bytes());
    out.extend_from_slice(change.digest.as_bytes());
    out.extend_from_slice(&keys::article_key(&change.key));
}

/// The changes of an entry.
///
/// # Errors
/// Where it is damaged.
pub fn decode(key: &[u8], value: &[u8]) -> Result<Run, StoreError> {
    let fields = unseal(Tree::Changes, key, value)?;
    let first = key.try_into().map(u64::from_be_bytes).map_err(|_| fields.damaged())?;
    let content = fields.rest();
    let run = match content.split_first() {
        Some((&RUN, run)) => decode_run(first, run),
        Some((&COMPRESSED_RUN, compressed)) => {
            let run = plain::decompress(compressed, MAX_BYTES).ok_or_else(|| fields.damaged())?;
            decode_run(first, &run)
        }
        _ => take_change(first, content).map(|change| vec![change]),
    };
    Ok((first, run.ok_or_else(|| fields.damaged())?))
}

fn decode_run(first: u64, mut run: &[u8]) -> Option<Vec<Change>> {
    const FIXED_BYTES: usize = 1 + 8 + 8 + 32;
    let mut changes: Vec<Change> = Vec::new();
    while let Some((&offset, rest)) = run.split_first() {
        let (key_bytes, rest) = rest.split_first_chunk()?;
        let (change, rest) = rest.split_at_checked(FIXED_BYTES + usize::from(u16::from_be_bytes(*key_bytes)))?;
        let change = take_change(first.checked_add(offset.into())?, change)?;
        if changes.last().is_some_and(|last| last.sequence >= change.sequence) {
            return None;
        }
        changes.push(change);
        run = rest;
    }
    Some(changes).filter(|changes| !changes.is_empty())
}

fn take_change(sequence: u64, bytes: &[u8]) -> Option<Change> {
    let (kind, rest) = bytes.split_first()?;
    let kind = match kind {
        1 => ChangeKind::Created,
        2 => ChangeKind::Updated,
        3 => ChangeKind::Deleted,
        _ => return None,
    };
    let (revision, rest) = rest.split_first_chunk()?;
    let (commit_time, rest) = rest.split_first_chunk()?;
    let (digest, key) = rest.split_first_chunk()?;
    let commit_time = Timestamp::from_micros(i64::from_be_bytes(*commit_time))?;
    let key = keys::parse_article_key(key).ok()?;
    Some(Change { sequence, kind, key, revision: u64::from_be_bytes(*revision), digest: Digest::from_bytes(*digest), commit_time })
}

impl Trees {
    /// The changes after a sequence.
    pub fn changes(&self, after: u64, up_to: u64, limit: usize) -> Result<Vec<Change>, StoreError> {
        let mut changes = Vec::new();
        for (_, run) in self.runs(after, up_to)? {
            changes.extend(run?.1.into_iter().filter(|change| change.sequence > after && change.sequence <= up_to));
            if changes.len() >= limit {
                changes.truncate(limit);
                break;
            }
        }
        Ok(changes)
    }

    /// The runs that may hold changes after a sequence and up to another, each after the number that is its key, whatever it
    /// decodes to.
    pub fn runs(&self, after: u64, up_to: u64) -> Result<impl Iterator<Item = (u64, Result<Run, StoreError>)>, StoreError> {
        let from = after.saturating_add(1).saturating_sub(RUN_CHANGES - 1);
        let entries = (after < up_to).then(|| self.tree(Tree::Changes).range(from.to_be_bytes()..=up_to.to_be_bytes()));
        let decode = |entry: sled::Result<(sled::IVec, sled::IVec)>| match entry {
            Ok((key, value)) => {
                let first = key[..].try_into().map_or(0, u64::from_be_bytes);
                (first, decode(&key, &value))
            }
            Err(error) => (0, Err(sled_error(error))),
        };
        Ok(entries.into_iter().flatten().map(decode))
    }

    /// The run that holds a change; `None` where there is no such change.
    pub fn run_of(&self, sequence: u64) -> Result<Option<Run>, StoreError> {
        for (_, run) in self.runs(sequence.saturating_sub(1), sequence)? {
            let run = run?;
            if run.1.iter().any(|change| change.sequence == sequence) {
                return Ok(Some(run));
            }
        }
        Ok(None)
    }

    /// The number of the last change that is there; 0 where there is none.
    pub fn last_change(&self) -> Result<u64, StoreError> {
        let Some((key, value)) = self.tree(Tree::Changes).last().map_err(sled_error)? else { return Ok(0) };
        Ok(decode(&key, &value)?.1.last().map_or(0, |change| change.sequence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::article::{ArticleKey, CanonicalUrl};

    fn change(sequence: u64, path: &str) -> Change {
        let url = CanonicalUrl::parse(&format!("https://example.com/{path}")).unwrap();
        Change {
            sequence,
            kind: if sequence.is_multiple_of(3) { ChangeKind::Deleted } else { ChangeKind::Updated },
            key: ArticleKey { date: "2024-05-01".parse().unwrap(), url },
            revision: sequence + 1,
            digest: Digest::from_bytes([sequence as u8; 32]),
            commit_time: "2024-05-01T08:00:00Z".parse().unwrap(),
        }
    }

    #[test]
    fn changes_come_back_in_runs_and_damage_is_noticed() {
        let short: Vec<_> = (40..59).map(|sequence| change(sequence, &sequence.to_string())).collect();
        let long: Vec<_> = (7..20).map(|sequence| change(sequence, &"x".repeat(1900))).collect();
        let gaps: Vec<_> = [1, 8, 9, 40].map(|sequence| change(sequence, "a")).into();
        for (changes, runs) in [(short, 3), (long, 13), (gaps, 3)] {
            let entries: Vec<_> = entries(&changes).collect();
            assert_eq!(entries.len(), runs);
            let decoded: Vec<_> = entries.iter().flat_map(|(key, value)| decode(key, value).unwrap().1).collect();
            assert_eq!(decoded, changes);
            let (key, value) = &entries[0];
            for at in 0..value.len() {
                let mut damaged = value.clone();
                damaged[at] ^= 0x10;
                assert!(decode(key, &damaged).is_err(), "{at}");
                assert!(decode(key, &value[..at]).is_err(), "{at}");
            }
            assert!(decode(&1000u64.to_be_bytes(), value).is_err());
        }
    }

    #[test]
    fn a_compressed_run_of_an_earlier_version_is_read() {
        let changes: Vec<_> = (40..44).map(|sequence| change(sequence, "golden")).collect();
        let golden = include_str!("../../../tests/golden/compressed-run-v1.hex").trim();
        let digits: Vec<_> = golden.chars().map(|digit| digit.to_digit(16).unwrap() as u8).collect();
        let value: Vec<_> = digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
        assert_eq!(value[9], COMPRESSED_RUN);
        assert_eq!(decode(&40u64.to_be_bytes(), &value).unwrap().1, changes);
    }

    #[test]
    fn a_run_stays_under_its_key_when_its_first_change_goes() {
        let rest = [change(43, "b"), change(45, "c")];
        let value = encode(42, &rest[1..]);
        assert_eq!(decode(&42u64.to_be_bytes(), &value).unwrap(), (42, vec![rest[1].clone()]));
        assert_eq!(decode(&42u64.to_be_bytes(), &encode(42, &rest)).unwrap().1, rest);
    }

    #[test]
    fn content_that_makes_no_sense_is_damage_though_its_seal_holds() {
        let key = 42u64.to_be_bytes();
        let run = |content: &[u8]| decode(&key, &seal(Tree::Changes, &key, content));
        let mut reversed = vec![RUN];
        for change in [change(43, "b"), change(42, "a")] {
            reversed.push((change.sequence - 42) as u8);
            reversed.extend_from_slice(&(4 + change.key.url.key().len() as u16).to_be_bytes());
            put_change(&mut reversed, &change);
        }
        for content in [&[][..], &[RUN], &[COMPRESSED_RUN], &[RUN, 0, 0], &[COMPRESSED_RUN, 1, 2, 3], &[9; 80], &reversed] {
            assert!(run(content).is_err(), "{content:?}");
        }
    }
}
