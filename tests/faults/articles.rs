//! The articles that the load writes: a fixed set of keys, and texts that are all different.

use dateline::client::v1;
use prost_types::Timestamp;

/// Hosts of every kind: subdomains that stand together in the order of keys, a port, a punycode name, an IP literal.
const HOSTS: [&str; 7] =
    ["example.com", "news.example.com", "example.org", "a.example.net:8080", "blog.example.co.uk", "xn--bcher-kva.example", "192.0.2.7"];
/// Days over which the keys are spread. They lie far back, so that a clock that jumps never makes them days ahead.
const DAYS: usize = 12;

/// One key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub date: String,
    /// The canonical URL.
    pub url: String,
    pub host: &'static str,
}

impl Place {
    /// The key as a message.
    pub fn key(&self) -> v1::ArticleKey {
        v1::ArticleKey { date: self.date.clone(), url: self.url.clone() }
    }
}

/// The first so many keys. Neighbours share their URL under two dates.
pub fn places(count: usize) -> Vec<Place> {
    let place = |number: usize| {
        let url = number / 2;
        let host = HOSTS[url % HOSTS.len()];
        let day = (url + 5 * (number % 2)) % DAYS;
        Place { date: format!("2001-03-{:02}", day + 1), url: format!("https://{host}/{}/article-{url}", url % 5), host }
    };
    (0..count).map(place).collect()
}

/// How large the texts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Texts {
    /// Mostly a few kilobytes, now and then up to 300.
    Mixed,
    /// Mostly 100 to 300 kilobytes that do not compress, so that the journal fills quickly.
    Heavy,
    /// At most a kilobyte.
    Small,
}

/// An article that was never written before; `number` tells it from all others.
pub fn article(place: &Place, number: u64, texts: Texts, chance: &mut fastrand::Rng) -> v1::Article {
    let size = match (texts, chance.u8(..100)) {
        (Texts::Small, _) => chance.usize(20..1000),
        (Texts::Heavy, 20..) => chance.usize(100_000..300_000),
        (Texts::Mixed, 0..2) => chance.usize(20_000..300_000),
        (Texts::Mixed, 2..12) => chance.usize(3_000..20_000),
        _ => chance.usize(100..3_000),
    };
    let mut article = v1::Article {
        url: spelling(place, chance),
        date: place.date.clone(),
        title: format!("Number {number} of {}", place.host),
        lead: if chance.bool() { String::new() } else { words(100, chance) },
        body: if size > 10_000 { noise(size, chance) } else { words(size, chance) },
        crawl_time: chance.bool().then(|| instant(chance)),
        ..Default::default()
    };
    if chance.u8(..4) == 0 {
        article.authors = (0..chance.usize(..4)).map(|_| words(12, chance)).collect();
        article.keywords = (0..chance.usize(..6)).map(|_| words(8, chance)).collect();
        article.section = words(10, chance);
        article.language = "en-GB".into();
        article.publisher = "Line\r\nends \u{85} and \0 are kept".into();
        article.publish_time = Some(instant(chance));
        article.annotations.insert("number".into(), number.to_string());
    }
    article
}

/// One of the spellings of a URL that have the same canonical form.
fn spelling(place: &Place, chance: &mut fastrand::Rng) -> String {
    let path = &place.url["https://".len()..];
    match chance.u8(..5) {
        0 => format!("http://{path}"),
        1 => format!("{}?utm_source=feed", place.url),
        2 => format!("{}#top", place.url),
        _ => place.url.clone(),
    }
}

fn instant(chance: &mut fastrand::Rng) -> Timestamp {
    Timestamp { seconds: chance.i64(946_684_800..1_700_000_000), nanos: chance.i32(0..1_000_000) * 1000 }
}

fn words(bytes: usize, chance: &mut fastrand::Rng) -> String {
    const WORDS: [&str; 16] = [
        "the",
        "store",
        "writes",
        "journal",
        "before",
        "Bücher",
        "every",
        "acknowledged",
        "article",
        "後",
        "again",
        "crash",
        "power",
        "is",
        "kept",
        "whole",
    ];
    let mut text = String::with_capacity(bytes + 16);
    while text.len() < bytes {
        text.push_str(WORDS[chance.usize(..WORDS.len())]);
        text.push(' ');
    }
    text
}

fn noise(bytes: usize, chance: &mut fastrand::Rng) -> String {
    (0..bytes).map(|_| char::from(chance.u8(b' '..=b'~'))).collect()
}

/// Whether two articles agree in everything that a client sets, the spelling of the URL included.
pub fn same_content(one: &v1::Article, other: &v1::Article) -> bool {
    one.url == other.url && one.crawl_time == other.crawl_time && same_digest(one, other)
}

/// Whether two articles agree in what makes a revision: everything that a client sets but the URL's spelling and the crawl time.
pub fn same_digest(one: &v1::Article, other: &v1::Article) -> bool {
    digested(one) == digested(other)
}

fn digested(article: &v1::Article) -> impl PartialEq {
    let v1::Article { date, title, lead, body, section, language, publisher, .. } = article;
    let v1::Article { publish_time, modify_time, authors, keywords, annotations, .. } = article;
    (date, title, lead, body, section, language, publisher, publish_time, modify_time, authors, keywords, annotations)
}
