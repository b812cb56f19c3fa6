//! Backups come back as they were, or not at all.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::writer::block_checksum;
use super::*;
use crate::article::{ArticleDraft, ArticleHead, ArticleKey, DateHorizon, Limits, StoredArticle, Timestamp};
use crate::storage::{
    Bookmark, Change, ChangeKind, Contents, IngestPosition, OutcomeCounts, SnapshotInfo, SnapshotItem, StoreId, StreamState, Trimmed,
};

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn draft(date: &str, path: &str, body: &str) -> ArticleDraft {
    ArticleDraft { date: date.into(), url: format!("http://www.example.com/{path}?utm_source=x"), body: body.into(), ..Default::default() }
}

fn stored(draft: ArticleDraft, revision: u64, sequence: u64) -> StoredArticle {
    let article = draft.validate(&Limits { horizon: DateHorizon::Unlimited, ..Limits::default() }).unwrap();
    let head = ArticleHead {
        key: article.key().clone(),
        revision,
        digest: article.digest(),
        sequence,
        create_time: time("2024-05-01T08:00:00.000001Z"),
        update_time: time("2024-05-02T09:00:00.123456Z"),
        text_bytes: article.text_bytes() as u64,
    };
    StoredArticle { head, article }
}

fn change(sequence: u64, kind: ChangeKind, of: &StoredArticle) -> SnapshotItem {
    SnapshotItem::Change(Change {
        sequence,
        kind,
        key: of.head.key.clone(),
        revision: of.head.revision,
        digest: of.head.digest,
        commit_time: of.head.update_time,
    })
}

fn stream(id: &str, state: StreamState) -> SnapshotItem {
    let counts = OutcomeCounts { created: 1, updated: 2, unchanged: 3, rejected: 4, deleted: 0 };
    let (update_time, bookmark) = (time("0001-01-01T00:00:00Z"), Bookmark::default());
    SnapshotItem::Stream { id: id.parse().unwrap(), position: IngestPosition { next_item: 10, counts, state, update_time, bookmark } }
}

/// The same where the first two changes were trimmed.
fn trimmed() -> Vec<SnapshotItem> {
    everything().into_iter().filter(|item| !matches!(item, SnapshotItem::Change(change) if change.sequence < 3)).collect()
}

/// One of everything, with every field set.
fn everything() -> Vec<SnapshotItem> {
    let full = ArticleDraft {
        title: "A title".into(),
        lead: "A lead\r\n".into(),
        body: "Golden text stays readable. \0\u{1a}\u{85}".repeat(3),
        publish_time: Some(time("2024-05-01T06:00:00.123456789Z")),
        modify_time: Some(time("1969-12-31T23:59:59.999999999Z")),
        crawl_time: Some(time("2024-05-01T07:00:00Z")),
        authors: vec!["A. Author".into(), String::new(), "B. Author".into()],
        keywords: vec!["one".into(), "two".into()],
        section: "World".into(),
        language: "en".into(),
        publisher: "Example".into(),
        annotations: [("source".into(), "test".into()), ("empty".into(), String::new())].into(),
        ..draft("2024-05-01", "a", "")
    };
    let (first, second) = (stored(draft("2024-05-01", "a", "First"), 1, 1), stored(full, 2, 2));
    let other = stored(draft("9999-12-31", "b", "Other"), 1, 3);
    let deleted = stored(draft("1600-01-01", "c", "Deleted"), 7, 4);
    let delete_time = time("2024-05-03T00:00:00Z");
    vec![
        SnapshotItem::Article(Box::new(second.clone())),
        SnapshotItem::Article(Box::new(other.clone())),
        SnapshotItem::EarlierRevision(Box::new(first.clone())),
        SnapshotItem::Tombstone { key: deleted.head.key.clone(), revision: 7, sequence: 5, delete_time },
        change(1, ChangeKind::Created, &first),
        change(2, ChangeKind::Updated, &second),
        change(3, ChangeKind::Created, &other),
        change(4, ChangeKind::Created, &deleted),
        change(5, ChangeKind::Deleted, &deleted),
        stream("done", StreamState::Finished),
        stream("open", StreamState::Open),
    ]
}

fn info(items: &[SnapshotItem]) -> SnapshotInfo {
    let mut contents = Contents { record_bytes: 77, ..Contents::default() };
    let mut changes = 0;
    for item in items {
        match item {
            SnapshotItem::Article(stored) => {
                contents.articles += 1;
                contents.text_bytes += stored.head.text_bytes;
            }
            SnapshotItem::EarlierRevision(_) => contents.earlier_revisions += 1,
            SnapshotItem::Change(change) => {
                (contents.last_sequence, changes) = (change.sequence, changes + 1);
            }
            SnapshotItem::Tombstone { .. } | SnapshotItem::Stream { .. } => {}
        }
    }
    if changes < contents.last_sequence {
        let (horizon, removed) = (contents.last_sequence, contents.last_sequence - changes);
        contents.trimmed = Trimmed { horizon, swept: horizon - 1, deletions: 1, removed };
    }
    SnapshotInfo { store_id: StoreId([7; 16]), contents, create_time: time("2024-05-04T10:11:12.131415Z") }
}

fn written(info: &SnapshotInfo, items: &[SnapshotItem]) -> Result<Vec<u8>, BackupError> {
    let mut writer = BackupWriter::begin(info)?;
    let mut bytes = Vec::new();
    for item in items {
        writer.add(item)?;
        bytes.extend(writer.take(1000));
    }
    let summary = writer.finish()?;
    bytes.extend(writer.take(usize::MAX));
    assert_eq!((summary.counts.total(), summary.bytes), (items.len() as u64, bytes.len() as u64));
    assert_eq!(summary.sha256[..], *<sha2::Sha256 as sha2::Digest>::digest(&bytes));
    Ok(bytes)
}

fn read(bytes: &[u8]) -> Result<(SnapshotInfo, Vec<SnapshotItem>), BackupError> {
    let mut reader = BackupReader::open(bytes)?;
    let mut items = Vec::new();
    while let Some(block) = reader.next_block()? {
        items.extend(block);
    }
    let summary = *reader.summary().unwrap();
    assert_eq!((summary.counts.total(), summary.bytes), (items.len() as u64, bytes.len() as u64));
    assert_eq!(summary.sha256[..], *<sha2::Sha256 as sha2::Digest>::digest(bytes));
    Ok((*reader.info(), items))
}

fn comes_back(items: &[SnapshotItem]) {
    let info = info(items);
    let bytes = written(&info, items).unwrap();
    let (found_info, found) = read(&bytes).unwrap();
    assert_eq!(found_info, info);
    assert!(found == items, "{} items went in, and others came out", items.len());
}

#[test]
fn what_goes_in_comes_out() {
    comes_back(&[]);
    comes_back(&everything());
    comes_back(&trimmed());
    let article = |number: usize, body: &str| {
        SnapshotItem::Article(Box::new(stored(draft("2024-05-01", &format!("{number:06}"), body), 1, number as u64 + 1)))
    };
    // Small ones in many blocks, and one that takes as much as an article may between two that fill their blocks.
    let mut items: Vec<_> = (0..3000).map(|number| article(number, &"A body of some length. ".repeat(60))).collect();
    items.push(article(3000, &"x".repeat((3 << 20) - 100)));
    items.push(article(3001, &"y".repeat(BLOCK_BYTES)));
    let last = SnapshotItem::Change(Change {
        sequence: 3002,
        kind: ChangeKind::Created,
        key: stored(draft("2024-05-01", "a", "x"), 1, 1).head.key,
        revision: 1,
        digest: crate::article::Digest::from_bytes([1; 32]),
        commit_time: time("2024-05-01T00:00:00Z"),
    });
    items.push(last);
    comes_back(&items);
}

#[test]
fn every_changed_missing_or_added_byte_is_noticed() {
    let items = everything();
    let bytes = written(&info(&items), &items).unwrap();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            assert!(read(&changed).is_err(), "byte {at} bit {bit}");
        }
        let mut missing = bytes.clone();
        missing.remove(at);
        assert!(read(&missing).is_err(), "without byte {at}");
        match read(&bytes[..at]) {
            Err(BackupError::CutOff(_)) => {}
            Err(BackupError::NotABackup) if at < MAGIC.len() => {}
            other => panic!("cut off at {at}: {other:?}"),
        }
    }
    let added = [&bytes[..], b"\n"].concat();
    assert!(matches!(read(&added), Err(BackupError::Damaged { place: Place::End, .. })));
}

#[test]
fn errors_say_what_is_wrong() {
    let items = everything();
    let bytes = written(&info(&items), &items).unwrap();
    let with = |at: usize, new: &[u8]| {
        let mut changed = bytes.clone();
        changed[at..at + new.len()].copy_from_slice(new);
        read(&changed).unwrap_err().to_string()
    };
    assert!(read(b"").unwrap_err().to_string().contains("no backup"));
    assert!(with(0, b"x").contains("no backup"));
    assert!(with(16, &[0, 9]).contains("format 9"));
    assert!(with(40, &[0xff]).contains("the header fails its checksum"));
    assert!(with(HEADER_BYTES, &[9]).contains("block 0 begins with 9"));
    assert!(with(HEADER_BYTES + 5, &[0xff; 4]).contains("which none does"));
    assert!(with(HEADER_BYTES + 40, b"damage").contains("block 0 fails its checksum"));
    assert!(with(bytes.len() - 1, &[0xff]).contains("SHA-256"));
    assert!(read(&bytes[..bytes.len() - 1]).unwrap_err().to_string().contains("ends within the trailer"));
}

/// A backup with one block of these bytes, whose checksums all hold.
fn sealed(info: &SnapshotInfo, records: &[u8], count: u32, counts: [u64; 5]) -> Vec<u8> {
    use sha2::Digest as _;
    let mut bytes = BackupWriter::begin(info).unwrap().take(usize::MAX);
    let compressed = zstd::bulk::compress(records, 1).unwrap();
    let start = [&[BLOCK][..], &count.to_be_bytes(), &(records.len() as u32).to_be_bytes(), &(compressed.len() as u32).to_be_bytes()];
    let start = start.concat();
    bytes.extend(&start);
    bytes.extend(block_checksum(0, &start, &compressed).to_be_bytes());
    bytes.extend(&compressed);
    bytes.push(TRAILER);
    [1].into_iter().chain(counts).for_each(|number: u64| bytes.extend(number.to_be_bytes()));
    let sha256 = sha2::Sha256::digest(&bytes);
    bytes.extend(sha256.as_slice());
    bytes
}

fn records(items: &[SnapshotItem]) -> Vec<u8> {
    let mut out = Vec::new();
    items.iter().for_each(|item| record::encode(item, &mut out));
    out
}

#[test]
fn a_text_with_another_digest_is_refused_though_all_checksums_hold() {
    let items = everything();
    let mut records = records(&items);
    assert!(read(&sealed(&info(&items), &records, 11, [2, 1, 1, 5, 2])).is_ok());
    let at = records.windows(6).position(|bytes| bytes == b"Golden").unwrap();
    records[at] = b'g';
    let error = read(&sealed(&info(&items), &records, 11, [2, 1, 1, 5, 2])).unwrap_err().to_string();
    assert!(error.contains("record 0 of block 0") && error.contains("digest") && error.contains("example.com/a"), "{error}");
}

#[test]
fn items_that_do_not_fit_together_are_neither_written_nor_read() {
    let items = everything();
    let whole = info(&items);
    let refused = |info: &SnapshotInfo, items: &[SnapshotItem], expected: &str| {
        let error = written(info, items).unwrap_err();
        assert!(matches!(error, BackupError::Inconsistent(_)), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        let mut counts = ItemCounts::default();
        items.iter().for_each(|item| counts.count(Kind::of(item)));
        let error = read(&sealed(info, &records(items), items.len() as u32, counts.in_order())).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    for missing in 0..3 {
        let mut rest = items.clone();
        rest.remove(missing);
        refused(&whole, &rest, "says that it holds");
    }
    // Changes are missing from a log that was not trimmed, or not as far.
    for (missing, sequence) in (4..9).zip(1..) {
        let mut rest = items.clone();
        rest.remove(missing);
        let expected = if sequence == 5 { "changes that are kept".to_owned() } else { format!("change {sequence} is missing") };
        refused(&whole, &rest, &expected);
        let trimmed = |horizon, removed| SnapshotInfo {
            contents: Contents { trimmed: Trimmed { horizon, removed, ..Trimmed::default() }, ..whole.contents },
            ..whole
        };
        refused(&trimmed(sequence - 1, 1), &rest, if sequence == 5 { "changes in all" } else { &expected });
        refused(&trimmed(sequence, 2), &rest, "changes that are kept");
        if sequence < 5 {
            assert!(written(&trimmed(sequence, 1), &rest).is_ok());
        }
    }
    for at in 1..items.len() {
        let (mut swapped, mut twice) = (items.clone(), items.clone());
        swapped.swap(at - 1, at);
        // Of two changes the later one tells that the other is missing, before that comes.
        let changes = items[at - 1..=at].iter().all(|item| matches!(item, SnapshotItem::Change(_)));
        refused(&whole, &swapped, if changes { "is missing from the change log" } else { "comes after" });
        twice.insert(at, items[at].clone());
        refused(&whole, &twice, "comes after");
    }
    let earlier = SnapshotInfo { contents: Contents { last_sequence: 3, ..whole.contents }, ..whole };
    refused(&earlier, &items, "belongs to change 5");
    let endless = SnapshotInfo { contents: Contents { last_sequence: u64::MAX, ..whole.contents }, ..whole };
    refused(&endless, &items, "which no store makes");
    for beyond in [(1 << 62) + 1, u64::MAX] {
        let (mut revision, mut rejected) = (items.clone(), items.clone());
        if let SnapshotItem::Article(stored) = &mut revision[1] {
            stored.head.revision = beyond;
        }
        refused(&whole, &revision, "which no store does");
        if let Some(SnapshotItem::Stream { position, .. }) = rejected.last_mut() {
            position.counts.rejected = beyond;
        }
        refused(&whole, &rejected, "which no store does");
    }
    let longer = SnapshotInfo { contents: Contents { text_bytes: 1, ..whole.contents }, ..whole };
    refused(&longer, &items, "bytes of text");
}

#[test]
fn backups_of_every_earlier_format_are_read() {
    let (_, items) = read(include_bytes!("../../tests/golden/backup-v1.backup")).unwrap();
    assert!(items == everything());
    let (found, items) = read(include_bytes!("../../tests/golden/backup-v2.backup")).unwrap();
    assert!(items == trimmed() && found == info(&trimmed()));
}

fn instant() -> impl Strategy<Value = Timestamp> {
    (-62_135_596_800i64..=253_402_207_200, 0..1_000_000_000i32)
        .prop_filter_map("an instant", |(seconds, nanos)| Timestamp::from_parts(seconds, nanos).ok())
}

fn article() -> impl Strategy<Value = ArticleDraft> {
    let day = (1600..=9999u32, 1..=12u32, 1..=28u32).prop_map(|(year, month, day)| format!("{year:04}-{month:02}-{day:02}"));
    let url = "https?://(www\\.)?[a-z]{1,3}\\.(com|example:[0-9]{2,4})/[ -~]{0,12}";
    let texts = (".{0,20}", ".{0,20}", ".{1,200}", ".{0,5}", ".{0,5}", ".{0,5}");
    let times = (proptest::option::of(instant()), proptest::option::of(instant()), proptest::option::of(instant()));
    let lists = (vec(".{0,8}", 0..4), vec(".{0,8}", 0..4), btree_map(".{1,8}", ".{0,8}", 0..4));
    (day, url, texts, times, lists).prop_map(|(date, url, texts, times, lists)| {
        let (title, lead, body, section, language, publisher) = texts;
        let (publish_time, modify_time, crawl_time) = times;
        let (authors, keywords, annotations) = lists;
        ArticleDraft {
            date,
            url,
            title,
            lead,
            body,
            section,
            language,
            publisher,
            publish_time,
            modify_time,
            crawl_time,
            authors,
            keywords,
            annotations,
        }
    })
}

/// Items that fit together: each article with up to two earlier revisions and all its changes, some deleted.
fn items() -> impl Strategy<Value = Vec<SnapshotItem>> {
    let articles = vec((article(), 0..3u64, any::<bool>(), instant()), 0..12);
    let counts = proptest::array::uniform6(0..=1u64 << 62);
    let deleted_and_bookmark = (any::<bool>(), vec(any::<u8>(), 0..20));
    let streams = btree_map("[!-~]{1,128}", (counts, any::<bool>(), instant(), deleted_and_bookmark), 0..4);
    (articles, streams).prop_map(|(drafts, streams)| {
        let (mut articles, mut earlier, mut tombstones, mut changes) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new(), Vec::new());
        for (draft, revisions, deleted, time) in drafts {
            let Ok(article) = draft.clone().validate(&Limits { horizon: DateHorizon::Unlimited, ..Limits::default() }) else { continue };
            let key: ArticleKey = article.key().clone();
            if articles.contains_key(&key) || tombstones.contains_key(&key) {
                continue;
            }
            for revision in 1..=revisions + 1 {
                let kind = if revision == 1 { ChangeKind::Created } else { ChangeKind::Updated };
                let mut this = stored(draft.clone(), revision, changes.len() as u64 + 1);
                (this.head.create_time, this.head.update_time) = (time, time);
                changes.push(change(this.head.sequence, kind, &this));
                if !deleted && revision <= revisions {
                    earlier.insert((key.clone(), revision), SnapshotItem::EarlierRevision(Box::new(this)));
                } else if !deleted {
                    articles.insert(key.clone(), SnapshotItem::Article(Box::new(this)));
                } else if revision > revisions {
                    let sequence = this.head.sequence + 1;
                    changes.push(change(sequence, ChangeKind::Deleted, &this));
                    tombstones.insert(key.clone(), SnapshotItem::Tombstone { key: key.clone(), revision, sequence, delete_time: time });
                }
            }
        }
        let streams = streams.into_iter().map(|(id, (numbers, open, update_time, (deletes, bookmark)))| {
            let [next_item, created, updated, unchanged, rejected, deleted] = numbers;
            let counts = OutcomeCounts { created, updated, unchanged, rejected, deleted: if deletes { deleted } else { 0 } };
            let state = if open { StreamState::Open } else { StreamState::Finished };
            let bookmark = Bookmark::try_from(&bookmark[..]).unwrap();
            let position = IngestPosition { next_item, counts, state, update_time, bookmark };
            SnapshotItem::Stream { id: id.parse().unwrap(), position }
        });
        let kept = articles.into_values().chain(earlier.into_values()).chain(tombstones.into_values());
        kept.chain(changes).chain(streams).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_store_holds_comes_back(items in items()) {
        comes_back(&items);
    }

    #[test]
    fn damage_anywhere_is_noticed(items in items(), at in any::<prop::sample::Index>(), change in 1..=255u8) {
        let mut bytes = written(&info(&items), &items).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        prop_assert!(read(&bytes).is_err());
        prop_assert!(read(&bytes[..at]).is_err());
    }

    #[test]
    fn whatever_bytes_there_are_no_reader_panics(items in items(), noise in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8), bytes in vec(any::<u8>(), 0..400)) {
        drop(read(&bytes));
        drop(read(&[MAGIC, &bytes[..]].concat()));
        // Damage below the checksums, as only a program can make it.
        let mut records = records(&items);
        let mut counts = ItemCounts::default();
        items.iter().for_each(|item| counts.count(Kind::of(item)));
        for (at, byte) in noise {
            if !records.is_empty() {
                let at = at.index(records.len());
                records[at] = byte;
            }
        }
        drop(read(&sealed(&info(&items), &records, items.len() as u32, counts.in_order())));
        drop(read(&sealed(&info(&items), &bytes, 1, [1, 0, 0, 0, 0])));
    }
}
