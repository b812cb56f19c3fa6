//! What the model test does: random operations and questions, made of few keys and texts, so that they meet each other.

use dateline::article::{Article, ArticleDate, ArticleDraft, ArticleKey, DateRange, Filter, Limits, UrlScope};
use dateline::storage::{Direction, IngestStreamId};
use proptest::prelude::*;
use proptest::sample::select;

const DATES: [&str; 4] = ["2024-05-01", "2024-05-02", "2024-12-31", "2025-01-31"];
/// URLs, each in canonical form and in another spelling.
const URLS: [[&str; 2]; 7] = [
    ["https://a.example/", "http://www.a.example:80/?utm_source=x"],
    ["https://a.example/b", "HTTPS://user@A.example./b#top"],
    ["https://a.example/bc?x=1", "https://a.example/bc?x=1&gclid=2"],
    ["https://news.a.example/", "http://news.a.example"],
    ["https://a.example:8080/b", "http://www.a.example:8080/b"],
    ["https://b.example/x?y=z", "https://b.example/x?&y=z"],
    ["https://[2001:db8::1]/b", "http://[2001:DB8:0::1]/b"],
];
/// Bytes of the texts: most are small, and some fill several pieces of what an engine stores.
const TEXTS: [usize; 6] = [1, 50, 3_000, 30_000, 70_000, 150_000];
/// Ingest streams.
pub const STREAMS: usize = 2;

/// An article by its place in the lists above.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    date: usize,
    url: usize,
}

/// What must hold for a write, to be made a precondition when its turn comes.
#[derive(Debug, Clone, Copy)]
pub enum Condition {
    Nothing,
    MustNotExist,
    /// The etag that the article has.
    CurrentEtag,
    /// The right digest with the revision before.
    EarlierEtag,
    /// The right revision with another digest.
    OtherEtag,
}

#[derive(Debug, Clone, Copy)]
pub enum PlannedWrite {
    Put { place: Place, spelling: usize, text: usize, condition: Condition },
    Delete { place: Place, condition: Condition },
}

/// Which opening of its stream a batch claims to belong to.
#[derive(Debug, Clone, Copy)]
pub enum Opening {
    Latest,
    Earlier,
    /// One that was not given out yet.
    Later,
}

#[derive(Debug, Clone, Copy)]
pub struct PlannedAdvance {
    pub stream: usize,
    pub opening: Opening,
    pub rejected: u64,
    pub bookmark: Option<u8>,
    pub finish: bool,
}

#[derive(Debug, Clone)]
pub struct Batch {
    pub writes: Vec<PlannedWrite>,
    pub stream: Option<PlannedAdvance>,
}

#[derive(Debug, Clone)]
pub enum Operation {
    Write(Batch),
    Open(usize),
    Restart,
    /// All batches are submitted without waiting, but the first few, which are acknowledged when the image of the folder is
    /// taken; that begins when so many are submitted, and the others follow meanwhile.
    Crash {
        batches: Vec<Batch>,
        acknowledged: usize,
        submitted: usize,
    },
}

/// What is asked for after an operation.
#[derive(Debug, Clone)]
pub struct Question {
    pub filter: Filter,
    pub direction: Direction,
    pub limit: usize,
    pub text_budget: usize,
    pub places: Vec<Place>,
}

impl Place {
    pub fn key(self) -> ArticleKey {
        self.article(0, 0).key().clone()
    }

    pub fn article(self, spelling: usize, text: usize) -> Article {
        // The spelling and the crawl time are no content: another one alone makes no revision.
        let crawl_time = (spelling == 1).then(|| "2024-05-01T10:00:00Z".parse().unwrap());
        let draft = ArticleDraft {
            date: DATES[self.date].into(),
            url: URLS[self.url][spelling].into(),
            title: format!("Text {text}"),
            body: incompressible(text as u64, TEXTS[text]),
            crawl_time,
            ..ArticleDraft::default()
        };
        draft.validate(&Limits::default()).unwrap()
    }
}

fn incompressible(seed: u64, bytes: usize) -> String {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(33 + ((state >> 33) % 94) as u8)
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

pub fn stream_id(stream: usize) -> IngestStreamId {
    format!("stream-{stream}").parse().unwrap()
}

pub fn places() -> impl Iterator<Item = Place> {
    (0..DATES.len()).flat_map(|date| (0..URLS.len()).map(move |url| Place { date, url }))
}

fn place() -> impl Strategy<Value = Place> {
    (0..DATES.len(), 0..URLS.len()).prop_map(|(date, url)| Place { date, url })
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        8 => Just(Condition::Nothing),
        2 => Just(Condition::CurrentEtag),
        1 => Just(Condition::EarlierEtag),
        1 => Just(Condition::OtherEtag),
    ]
}

fn put() -> impl Strategy<Value = PlannedWrite> {
    let text = prop_oneof![12 => 0..3usize, 2 => 3..5usize, 1 => Just(5usize)];
    let condition = prop_oneof![5 => condition(), 1 => Just(Condition::MustNotExist)];
    (place(), 0..2usize, text, condition).prop_map(|(place, spelling, text, condition)| PlannedWrite::Put {
        place,
        spelling,
        text,
        condition,
    })
}

fn delete() -> impl Strategy<Value = PlannedWrite> {
    (place(), condition()).prop_map(|(place, condition)| PlannedWrite::Delete { place, condition })
}

fn advance() -> impl Strategy<Value = PlannedAdvance> {
    let opening = prop_oneof![8 => Just(Opening::Latest), 1 => Just(Opening::Earlier), 1 => Just(Opening::Later)];
    // Now and then many, so that hashes fall out of their window.
    let rejected = prop_oneof![8 => 0..3u64, 1 => 400..700u64];
    (0..STREAMS, opening, rejected, any::<Option<u8>>(), prop::bool::weighted(0.1))
        .prop_map(|(stream, opening, rejected, bookmark, finish)| PlannedAdvance { stream, opening, rejected, bookmark, finish })
}

fn batch() -> impl Strategy<Value = Batch> {
    let mixed = prop::collection::vec(prop_oneof![3 => put(), 1 => delete()], 0..6);
    let streamed = (prop::collection::vec(prop_oneof![4 => put(), 1 => delete()], 0..5), advance());
    prop_oneof![
        3 => mixed.prop_map(|writes| Batch { writes, stream: None }),
        2 => streamed.prop_map(|(writes, advance)| Batch { writes, stream: Some(advance) }),
    ]
}

fn crash() -> impl Strategy<Value = Operation> {
    (prop::collection::vec(batch(), 0..12), any::<prop::sample::Index>(), any::<prop::sample::Index>()).prop_map(
        |(batches, submitted, acknowledged)| {
            let submitted = submitted.index(batches.len() + 1);
            Operation::Crash { acknowledged: acknowledged.index(submitted + 1), submitted, batches }
        },
    )
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        10 => batch().prop_map(Operation::Write),
        3 => (0..STREAMS).prop_map(Operation::Open),
        1 => Just(Operation::Restart),
        2 => crash(),
    ]
}

fn question() -> impl Strategy<Value = Question> {
    let day = select(vec!["1600-01-01", "2024-05-01", "2024-05-02", "2024-07-01", "2024-12-31", "2025-01-31", "9999-12-31"])
        .prop_map(|day| day.parse::<ArticleDate>().unwrap());
    let scope = prop_oneof![
        Just(UrlScope::All),
        select(vec!["a.example", "a.example:8080", "[2001:db8::1]", "nobody.example"]).prop_map(|host| UrlScope::host(host).unwrap()),
        select(vec!["a.example", "example", "news.a.example", "b.a.example"]).prop_map(|domain| UrlScope::domain(domain).unwrap()),
        select(vec!["https://a.example/b", "https://a.example/", "https://a.example:8080/", "https://b.example/x/"])
            .prop_map(|prefix| UrlScope::url_prefix(prefix).unwrap()),
    ];
    let limit = prop_oneof![1..6usize, Just(1000usize)];
    let budget = select(vec![0, 1, 3_000, 100_000, usize::MAX]);
    let direction = select(vec![Direction::Ascending, Direction::Descending]);
    let places = prop::collection::vec(place(), 0..8);
    (day.clone(), day, scope, limit, budget, direction, places).prop_map(|(from, to, scope, limit, text_budget, direction, places)| {
        Question { filter: Filter { dates: DateRange { from, to }, scope }, direction, limit, text_budget, places }
    })
}

/// Operations, each with what is asked for after it.
pub fn operations() -> impl Strategy<Value = Vec<(Operation, Vec<Question>)>> {
    prop::collection::vec((operation(), prop::collection::vec(question(), 1..4)), 1..25)
}
