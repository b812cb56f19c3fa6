//! What is ingested, and what must come of it.

use std::collections::BTreeMap;

use dateline::client::v1;

/// Of a thousand items: how many are revisions of an earlier article, how many repeat one, and how many are no articles.
const REVISIONS: u16 = 30;
const REPETITIONS: u16 = 10;
const INVALID: u16 = 5;

/// An item, and its outcome.
#[derive(Debug, Clone)]
pub struct Item {
    pub article: v1::Article,
    pub outcome: v1::Outcome,
}

/// An article of the store: its key, its revision and its body.
pub type Stored = BTreeMap<(String, String), (i64, String)>;

/// Everything that is ingested.
#[derive(Debug)]
pub struct Input {
    pub items: Vec<Item>,
    /// What the store holds in the end.
    pub stored: Stored,
    pub counts: v1::OutcomeCounts,
}

impl Input {
    /// So many items with bodies of up to so many bytes.
    pub fn new(count: usize, body_bytes: usize, chance: &mut fastrand::Rng) -> Self {
        let mut input = Self { items: Vec::with_capacity(count), stored: Stored::new(), counts: v1::OutcomeCounts::default() };
        let mut keys: Vec<(String, String)> = Vec::new();
        for number in 0..count {
            let kind = chance.u16(..1000);
            let known = (!keys.is_empty()).then(|| keys[chance.usize(..keys.len())].clone());
            let item = match known {
                Some(key) if kind < REVISIONS => {
                    let body = text(number, body_bytes, chance);
                    input.counts.updated += 1;
                    let (revision, stored) = input.stored.get_mut(&key).expect("a known key");
                    (*revision, *stored) = (*revision + 1, body.clone());
                    Item { article: article(&key, body), outcome: v1::Outcome::Updated }
                }
                Some(key) if kind < REVISIONS + REPETITIONS => {
                    input.counts.unchanged += 1;
                    let body = input.stored[&key].1.clone();
                    Item { article: article(&key, body), outcome: v1::Outcome::Unchanged }
                }
                _ if kind < REVISIONS + REPETITIONS + INVALID => {
                    input.counts.rejected += 1;
                    let key = ("0201-01-01".to_owned(), format!("https://invalid.example/{number}"));
                    Item { article: article(&key, "text".into()), outcome: v1::Outcome::Rejected }
                }
                _ => {
                    let day = format!("2024-05-{:02}", 1 + chance.u8(..28));
                    let key = (day, format!("https://host-{}.example/{number}", chance.u8(..20)));
                    let body = text(number, body_bytes, chance);
                    input.counts.created += 1;
                    input.stored.insert(key.clone(), (1, body.clone()));
                    keys.push(key.clone());
                    Item { article: article(&key, body), outcome: v1::Outcome::Created }
                }
            };
            input.items.push(item);
        }
        input
    }
}

pub fn article((date, url): &(String, String), body: String) -> v1::Article {
    v1::Article { date: date.clone(), url: url.clone(), title: "Title".into(), body, ..Default::default() }
}

/// Printable text that is another for every number, and does not compress well.
pub fn text(number: usize, bytes: usize, chance: &mut fastrand::Rng) -> String {
    let length = chance.usize(bytes / 10..=bytes);
    let mut text = format!("{number} ");
    text.extend((0..length).map(|_| char::from(chance.u8(b'a'..=b'z'))));
    text
}
