//! Verification: every entry of every tree against its checksums and against the others, part by part.
//!
//! A step looks at a page without stopping anybody. What looks wrong is looked at again between two groups, since the trees are
//! in disagreement while a group is applied.

use std::collections::HashMap;
use std::ops::Bound;

use super::change_log;
use super::dictionaries;
use super::entry::{self, Manifest, SegmentUsage, State, Tombstone};
use super::folder::Folder;
use super::journal::SegmentReader;
use super::keys::{self, STATE_KEY, Tree};
use super::stored::StoredRecord;
use super::streams;
use super::trees::{Trees, sled_error};
use crate::article::ArticleKey;
use crate::storage::{Finding, FindingKind, StoreError, VerifyCursor, VerifyStep};

/// Entries of a step at most, and about how many bytes of payloads.
const STEP_ENTRIES: usize = 1000;
const STEP_BYTES: usize = 4 << 20;

/// The parts in their order; a cursor holds the place in this list.
const PARTS: [Part; 11] = [
    Part::Tree(Tree::Dictionaries),
    Part::Tree(Tree::Articles),
    Part::Tree(Tree::Revisions),
    Part::Tree(Tree::Tombstones),
    Part::Tree(Tree::Urls),
    Part::Tree(Tree::Changes),
    Part::Tree(Tree::Days),
    Part::Tree(Tree::Streams),
    Part::Totals,
    Part::Usage,
    Part::Journal,
];

#[derive(Debug, Clone, Copy)]
enum Part {
    Tree(Tree),
    Totals,
    Usage,
    Journal,
}

/// What one entry comes to.
#[derive(Default)]
struct Looked {
    findings: Vec<Finding>,
    bytes: usize,
    /// How many things it holds; 1 where that is not said.
    entries: u64,
}

impl Looked {
    fn at(findings: impl IntoIterator<Item = Finding>) -> Self {
        Self { findings: findings.into_iter().collect(), ..Self::default() }
    }
}

/// Carries out a step.
pub fn step(trees: &Trees, folder: &Folder, cursor: Option<VerifyCursor>) -> Result<VerifyStep, StoreError> {
    let mut cursor = cursor.unwrap_or(VerifyCursor { part: 0, after: Vec::new(), findings: 0, checked: 0 });
    let state = state(trees)?;
    let contents = state.contents;
    let changes = contents.last_sequence.saturating_sub(contents.trimmed.removed);
    let total = 2 * contents.articles + contents.earlier_revisions + changes;
    let (findings, next) = match PARTS.get(usize::from(cursor.part)) {
        None => (Vec::new(), None),
        Some(Part::Tree(tree)) => step_of_tree(trees, *tree, &mut cursor)?,
        Some(Part::Totals) => (trees.between_groups(totals)?, None),
        Some(Part::Usage) => (usage(trees)?, None),
        Some(Part::Journal) => step_of_journal(trees, folder, &mut cursor)?,
    };
    cursor.findings += findings.len() as u64;
    let of_the_index = |finding: &&Finding| match finding.kind {
        // These may be damage to a text, which the index has no part in.
        FindingKind::RecordDamaged | FindingKind::RevisionDamaged | FindingKind::JournalDamaged => false,
        FindingKind::IndexEntryMissing | FindingKind::IndexEntryStray | FindingKind::DayIncomplete | FindingKind::ChangeMissing => true,
        FindingKind::ChangeDamaged | FindingKind::EntryDamaged | FindingKind::TotalsWrong | FindingKind::SegmentUsageWrong => true,
    };
    if let Some(finding) = findings.iter().find(of_the_index) {
        trees.damage().note_index(&StoreError::damaged(finding.kind.reason(), &finding.detail));
    }
    match next {
        Some(after) => cursor.after = after,
        None => (cursor.part, cursor.after) = (cursor.part.saturating_add(1), Vec::new()),
    }
    let checked = cursor.checked;
    let more = usize::from(cursor.part) < PARTS.len();
    Ok(VerifyStep { checked, total: total.max(checked), findings, next: more.then_some(cursor) })
}

fn state(trees: &Trees) -> Result<State, StoreError> {
    trees.get(Tree::State, STATE_KEY)?.map_or(Ok(State::default()), |value| State::decode(&value))
}

/// Looks at a page of a tree. Gives where the next one begins.
fn step_of_tree(trees: &Trees, tree: Tree, cursor: &mut VerifyCursor) -> Result<(Vec<Finding>, Option<Vec<u8>>), StoreError> {
    let start = if cursor.after.is_empty() { Bound::Unbounded } else { Bound::Excluded(cursor.after.clone()) };
    let (mut findings, mut bytes, mut entries) = (Vec::new(), 0, 0);
    for entry in trees.tree(tree).range::<Vec<u8>, _>((start, Bound::Unbounded)) {
        let (key, value) = entry.map_err(sled_error)?;
        let mut looked = look(trees, tree, &key, &value)?;
        if !looked.findings.is_empty() {
            let again = |trees: &Trees| match trees.get(tree, &key)? {
                Some(value) => look(trees, tree, &key, &value),
                None => Ok(Looked::default()),
            };
            looked.findings = trees.between_groups(again)?.findings;
        }
        findings.extend(looked.findings);
        cursor.checked += looked.entries.max(1);
        (bytes, entries) = (bytes + looked.bytes, entries + 1);
        if entries == STEP_ENTRIES || bytes > STEP_BYTES {
            return Ok((findings, Some(key.to_vec())));
        }
    }
    Ok((findings, None))
}

fn look(trees: &Trees, tree: Tree, key: &[u8], value: &[u8]) -> Result<Looked, StoreError> {
    let sound = |result: Result<(), StoreError>| Ok(Looked::at(damage(FindingKind::EntryDamaged, None, result)));
    match tree {
        Tree::Articles => look_at_article(trees, key, value),
        Tree::Revisions => {
            look_at_record(trees, FindingKind::RevisionDamaged, keys::parse_revision_key(key), value).map(|(looked, _)| looked)
        }
        // Whether there are more of them than articles is counted with the rest of what is counted.
        Tree::Urls => sound(keys::parse_url_index_key(key).map(drop)),
        Tree::Changes => look_at_run(trees, key, value),
        Tree::Days => look_at_day(trees, key, value),
        Tree::Tombstones => sound(keys::parse_article_key(key).and_then(|_| Tombstone::decode(key, value)).map(drop)),
        Tree::Streams if keys::is_stream_detail(key) => sound(streams::check_detail(trees, key, value)),
        Tree::Streams => sound(keys::parse_stream_key(key).and_then(|_| entry::decode_position(key, value)).map(drop)),
        Tree::Dictionaries => sound(dictionaries::piece(key, value).map(drop)),
        Tree::Segments | Tree::State => Ok(Looked::default()),
    }
}

/// A finding where something is damaged.
fn damage(kind: FindingKind, key: Option<&ArticleKey>, result: Result<(), StoreError>) -> Option<Finding> {
    result.err().map(|error| Finding { kind, key: key.cloned(), detail: error.to_string() })
}

/// A record with its payload. Gives the article where both are sound.
fn look_at_record(
    trees: &Trees,
    kind: FindingKind,
    key: Result<ArticleKey, StoreError>,
    value: &[u8],
) -> Result<(Looked, Option<crate::article::StoredArticle>), StoreError> {
    let key = match key {
        Ok(key) => key,
        Err(error) => return Ok((Looked::at(damage(kind, None, Err(error))), None)),
    };
    let finding = |detail: String| Looked::at([Finding { kind, key: Some(key.clone()), detail }]);
    let StoredRecord { header, location } = match StoredRecord::decode(&key, value) {
        Ok(stored) => stored,
        Err(error) => {
            trees.damage().note_index(&error);
            return Ok((finding(error.to_string()), None));
        }
    };
    let bytes = header.payload_bytes();
    let Some(payload) = trees.segments().read(location, bytes)? else {
        return Ok((finding("the journal does not hold its text".into()), None));
    };
    match header.decode_article(&payload, trees.compression()) {
        Err(error) => {
            trees.note_dictionary(&error);
            Ok((finding(error.to_string()), None))
        }
        Ok(stored) if stored.article.digest() != stored.head.digest => Ok((finding("its digest is not that of its content".into()), None)),
        Ok(stored) => Ok((Looked { bytes, ..Looked::default() }, Some(stored))),
    }
}

fn look_at_article(trees: &Trees, key: &[u8], value: &[u8]) -> Result<Looked, StoreError> {
    let (mut looked, stored) = look_at_record(trees, FindingKind::RecordDamaged, keys::parse_article_key(key), value)?;
    let Some(head) = stored.map(|stored| stored.head) else {
        trees.damage().note_text(key);
        return Ok(looked);
    };
    let finding = |kind, detail: &str| Finding { kind, key: Some(head.key.clone()), detail: detail.into() };
    if trees.get(Tree::Urls, &keys::url_index_key(&head.key))?.is_none() {
        looked.findings.push(finding(FindingKind::IndexEntryMissing, "it cannot be found by its URL alone"));
    }
    // One that is damaged is a finding of its own.
    let run = match trees.run_of(head.sequence) {
        Err(StoreError::Damaged { .. }) => None,
        run => run?,
    };
    let change = run.and_then(|(_, changes)| changes.into_iter().find(|change| change.sequence == head.sequence));
    if change.is_none_or(|change| (&change.key, change.revision, change.digest) != (&head.key, head.revision, head.digest)) {
        looked.findings.push(finding(FindingKind::ChangeMissing, "the change log does not hold its latest revision"));
    }
    Ok(looked)
}

fn look_at_run(trees: &Trees, key: &[u8], value: &[u8]) -> Result<Looked, StoreError> {
    let (_, run) = match change_log::decode(key, value) {
        Ok(run) => run,
        Err(error) => return Ok(Looked::at(damage(FindingKind::ChangeDamaged, None, Err(error)))),
    };
    let horizon = state(trees)?.contents.trimmed.horizon;
    let mut looked = Looked { entries: run.len() as u64, ..Looked::default() };
    let mut last = None;
    for change in run {
        let before = change.sequence.saturating_sub(1);
        let is_there = last == Some(before) || before <= horizon || before == 0 || is_logged(trees, before)?;
        if !is_there {
            let detail = format!("change {before} is missing from the change log");
            looked.findings.push(Finding { kind: FindingKind::ChangeMissing, key: None, detail });
        }
        last = Some(change.sequence);
    }
    Ok(looked)
}

fn is_logged(trees: &Trees, sequence: u64) -> Result<bool, StoreError> {
    match trees.run_of(sequence) {
        // One that is damaged is a finding of its own.
        Err(StoreError::Damaged { .. }) => Ok(true),
        run => Ok(run?.is_some()),
    }
}

fn look_at_day(trees: &Trees, key: &[u8], value: &[u8]) -> Result<Looked, StoreError> {
    let manifest = keys::parse_day_key(key).and_then(|date| Ok((date, Manifest::decode(key, value)?)));
    let (date, manifest) = match manifest {
        Ok(manifest) => manifest,
        Err(error) => return Ok(Looked::at(damage(FindingKind::EntryDamaged, None, Err(error)))),
    };
    let found = trees.manifest_of(date)?;
    let incomplete = || Finding {
        kind: FindingKind::DayIncomplete,
        key: None,
        detail: format!("{date} should hold {} articles and holds {}, or others than it should", manifest.count, found.count),
    };
    Ok(Looked::at((found != manifest).then(incomplete)))
}

/// The totals against what the trees say in sum.
pub fn totals(trees: &Trees) -> Result<Vec<Finding>, StoreError> {
    let contents = state(trees)?.contents;
    let mut articles = 0;
    for entry in trees.tree(Tree::Days).iter() {
        let (key, value) = entry.map_err(sled_error)?;
        // One that is damaged is a finding of its own.
        articles += Manifest::decode(&key, &value).map_or(0, |manifest| manifest.count);
    }
    let last = match trees.last_change() {
        // One that is damaged is a finding of its own.
        Err(StoreError::Damaged { .. }) => contents.last_sequence,
        last => last?,
    };
    let findings = [wrong_total("articles", contents.articles, articles), wrong_total("changes", contents.last_sequence, last)];
    Ok(findings.into_iter().flatten().collect())
}

fn wrong_total(what: &str, said: u64, found: u64) -> Option<Finding> {
    let detail = format!("there should be {said} {what}, and there are {found}");
    (said != found).then_some(Finding { kind: FindingKind::TotalsWrong, key: None, detail })
}

/// What is noted of the use of segments, and of how many earlier revisions and changes there are, against what is there: a segment
/// that counts as unused is removed. And whether the index by URL has more entries than there are articles, each of which was found
/// to have one. Nothing can be said where something is written meanwhile.
fn usage(trees: &Trees) -> Result<Vec<Finding>, StoreError> {
    let before = state(trees)?;
    let mut earlier_revisions = 0;
    let mut found: HashMap<u64, u64> = HashMap::new();
    for tree in [Tree::Articles, Tree::Revisions] {
        for entry in trees.tree(tree).iter() {
            let (key, value) = entry.map_err(sled_error)?;
            earlier_revisions += u64::from(tree == Tree::Revisions);
            let article = if tree == Tree::Articles { keys::parse_article_key(&key) } else { keys::parse_revision_key(&key) };
            // What cannot be read is a finding of its own.
            if let Ok(StoredRecord { header, location }) = article.and_then(|article| StoredRecord::decode(&article, &value)) {
                *found.entry(location.segment).or_default() += header.payload_bytes() as u64;
            }
        }
    }
    let contents = before.contents;
    // Where some were trimmed, the numbers of those that are there have gaps: how many there are tells whether more are missing.
    let changes = contents.last_sequence.saturating_sub(contents.trimmed.removed);
    let mut logged = 0;
    for (_, run) in trees.runs(0, contents.last_sequence)? {
        // One that is damaged is a finding of its own.
        logged += run.map_or(0, |(_, changes)| changes.len() as u64);
    }
    let wrong = [
        wrong_total("earlier revisions", contents.earlier_revisions, earlier_revisions),
        wrong_total("changes in the change log", changes, logged),
    ];
    let mut findings: Vec<_> = wrong.into_iter().flatten().chain(stray_index_entries(trees, contents.articles)?).collect();
    for entry in trees.tree(Tree::Segments).iter() {
        let (key, value) = entry.map_err(sled_error)?;
        let noted = SegmentUsage::decode(&key, &value).map(|usage| usage.live_bytes);
        let found = key[..].try_into().ok().and_then(|key| found.remove(&u64::from_be_bytes(key))).unwrap_or(0);
        if noted.as_ref().ok() != Some(&found) {
            let detail = format!("of segment {:?} {found} bytes are in use, and noted is {noted:?}", &key[..]);
            findings.push(Finding { kind: FindingKind::SegmentUsageWrong, key: None, detail });
        }
    }
    findings.extend(found.into_iter().map(|(segment, bytes)| {
        let detail = format!("of segment {segment} {bytes} bytes are in use, and nothing is noted");
        Finding { kind: FindingKind::SegmentUsageWrong, key: None, detail }
    }));
    if state(trees)?.group == before.group { Ok(findings) } else { Ok(Vec::new()) }
}

fn stray_index_entries(trees: &Trees, articles: u64) -> Result<Option<Finding>, StoreError> {
    let mut entries = 0;
    for key in trees.tree(Tree::Urls).iter().keys() {
        key.map_err(sled_error)?;
        entries += 1;
    }
    let detail = format!("the index by URL has {entries} entries for {articles} articles");
    Ok((entries > articles).then_some(Finding { kind: FindingKind::IndexEntryStray, key: None, detail }))
}

/// Reads the frames of the next segment that is complete.
fn step_of_journal(trees: &Trees, folder: &Folder, cursor: &mut VerifyCursor) -> Result<(Vec<Finding>, Option<Vec<u8>>), StoreError> {
    let after = cursor.after[..].try_into().map_or(0, u64::from_be_bytes);
    let mut numbers = trees.segments().numbers()?;
    // The last one is being written.
    numbers.pop();
    let Some(segment) = numbers.into_iter().find(|number| *number > after) else { return Ok((Vec::new(), None)) };
    let read = SegmentReader::open(&trees.segments().path(segment), folder.store_id(), segment).and_then(|mut reader| {
        while reader.next_group()?.is_some() {}
        reader.whole()
    });
    // What was removed meanwhile is no finding.
    let there = trees.segments().path(segment).exists();
    let finding = damage(FindingKind::JournalDamaged, None, read).filter(|_| there);
    Ok((finding.into_iter().collect(), Some(segment.to_be_bytes().into())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::article::{ArticleDraft, CanonicalUrl, Limits};
    use crate::storage::sled::SledStore;
    use crate::storage::{ArticleStore as _, StoreOptions, Write, WriteBatch};

    const URL: &str = "https://example.com/one";

    async fn store(folder: &std::path::Path) -> SledStore {
        let store = SledStore::open(folder, StoreOptions::default()).unwrap();
        let write = |date: &str| {
            let draft = ArticleDraft { date: date.into(), url: URL.into(), body: "text".into(), ..ArticleDraft::default() };
            Write::put(draft.validate(&Limits::default()).unwrap())
        };
        let writes = ["2024-05-01", "2024-05-02"].map(write).into();
        store.write(WriteBatch { writes, stream: None }).await.unwrap();
        store
    }

    async fn findings(store: &SledStore) -> Vec<FindingKind> {
        let (mut cursor, mut kinds) = (None, Vec::new());
        loop {
            let step = store.verify(cursor).await.unwrap();
            kinds.extend(step.findings.into_iter().map(|finding| finding.kind));
            cursor = step.next;
            if cursor.is_none() {
                return kinds;
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn index_entries_that_are_missing_or_too_many_are_found_and_nobody_is_misled() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path()).await;
        assert_eq!(findings(&store).await, []);
        let index = store.trees.tree(Tree::Urls);
        let url = CanonicalUrl::parse(URL).unwrap();
        let entry = |date: &str| keys::url_index_key(&ArticleKey { date: date.parse().unwrap(), url: url.clone() });

        index.insert(entry("2024-05-03"), sled::IVec::default()).unwrap();
        assert_eq!(findings(&store).await, [FindingKind::IndexEntryStray]);
        assert_eq!(store.article_dates(&url, 10).await.unwrap().len(), 2);
        assert_eq!(store.article_dates(&url, 1).await.unwrap()[0].to_string(), "2024-05-02");
        assert_eq!(store.latest_article(&url).await.unwrap().unwrap().head.key.date.to_string(), "2024-05-02");

        index.insert(b"neither fingerprint nor date", sled::IVec::default()).unwrap();
        assert_eq!(findings(&store).await, [FindingKind::EntryDamaged, FindingKind::IndexEntryStray]);
        index.remove(entry("2024-05-01")).unwrap();
        index.remove(entry("2024-05-03")).unwrap();
        assert_eq!(findings(&store).await, [FindingKind::IndexEntryMissing, FindingKind::EntryDamaged]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_index_by_url_of_format_5_is_taken_over_however_far_that_had_come() {
        let folder = tempfile::tempdir().unwrap();
        for left in 0..=2 {
            let store = store(folder.path()).await;
            assert_eq!(findings(&store).await, [], "{left}");
            let articles: Vec<_> = store.trees.tree(Tree::Articles).iter().keys().map(Result::unwrap).collect();
            store.close().await.unwrap();
            drop(store);

            // As format 5 had it, with so many entries in today's tree already.
            let db = sled::open(folder.path().join("sled")).unwrap();
            let earlier = db.open_tree(keys::URLS_NAME_OF_FORMAT_5).unwrap();
            for article in &articles {
                let (date, url) = article.split_at(4);
                earlier.insert([url, &[0], date].concat(), sled::IVec::default()).unwrap();
            }
            let today = db.open_tree(Tree::Urls.name()).unwrap();
            let surplus: Vec<_> = today.iter().keys().map(Result::unwrap).skip(left).collect();
            surplus.into_iter().for_each(|key| drop(today.remove(key).unwrap()));
            db.flush().unwrap();
            drop((earlier, today, db));

            let store = SledStore::open(folder.path(), StoreOptions::default()).unwrap();
            assert_eq!(findings(&store).await, [], "{left}");
            assert_eq!(store.article_dates(&CanonicalUrl::parse(URL).unwrap(), 10).await.unwrap().len(), 2);
            store.close().await.unwrap();
            drop(store);
            let names = sled::open(folder.path().join("sled")).unwrap().tree_names();
            assert!(!names.iter().any(|name| *name == keys::URLS_NAME_OF_FORMAT_5), "{left}");
        }
    }
}
