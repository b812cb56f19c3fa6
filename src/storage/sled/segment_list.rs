//! What a group says of the journal's segments: how much of each is in use, and, with the first group of a segment, all that are
//! needed. So the journal alone tells which of its files there have to be, and where each ends.

use std::collections::{BTreeMap, HashSet};

use super::entry::SegmentUsage;
use super::journal::{Journal, Mutation};
use super::keys::Tree;
use super::trees::Trees;
use crate::storage::StoreError;

/// Where the next group goes.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The segment that it goes into.
    pub segment: u64,
    /// Whether it is the first there.
    pub opens_segment: bool,
    /// The group before it.
    pub last_group: u64,
}

impl Place {
    /// The place behind the last group of a journal.
    pub fn next(journal: &Journal, last_group: u64) -> Self {
        Self { segment: journal.number(), opens_segment: journal.bytes() == 0, last_group }
    }
}

/// The mutations of the tree of segments for a group: `changed` are the segments whose use it changes, `given_up` those that are
/// needed no more.
pub fn mutations(
    trees: &Trees,
    place: Place,
    changed: impl IntoIterator<Item = (u64, SegmentUsage)>,
    given_up: &HashSet<u64>,
) -> Result<Vec<Mutation>, StoreError> {
    let mut usages: BTreeMap<_, _> = changed.into_iter().collect();
    if place.opens_segment {
        for (segment, usage) in trees.segment_usages()? {
            usages.entry(segment).or_insert(usage);
        }
        usages.entry(place.segment).or_default();
    }
    let set = |(segment, mut usage): (u64, SegmentUsage)| {
        if segment != place.segment && usage.last_group == 0 {
            usage.last_group = place.last_group;
        }
        let key = segment.to_be_bytes();
        Mutation { tree: Tree::Segments, key: key.into(), value: Some(usage.encode(&key)) }
    };
    let cleared = given_up.iter().map(|segment| Mutation { tree: Tree::Segments, key: segment.to_be_bytes().into(), value: None });
    Ok(usages.into_iter().filter(|(segment, _)| !given_up.contains(segment)).map(set).chain(cleared).collect())
}
