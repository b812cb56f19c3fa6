//! Invented articles: as long, as compressible and as spread over hosts and days as news is, and nothing but noise.
//!
//! An article follows from the seed and its number alone, its key from the first few random numbers of it: millions need no memory.

use std::f64::consts::TAU;

use dateline::client::v1;
use fastrand::Rng;
use jiff::ToSpan as _;
use jiff::civil::{Date, date};

use super::language::{Language, alias_table};

/// Hosts, and the exponent of how unevenly articles are spread over them.
const HOSTS: usize = 2_000;
const HOST_EXPONENT: f64 = 0.9;

/// Articles of a day in the mean, and days at most: with more articles a day holds more.
const DAY_ARTICLES: usize = 250;
const MAX_DAYS: usize = 12_000;
/// The first day. With all days and what the phases add it ends before today.
const FIRST_DAY: Date = date(1990, 1, 1);

/// The length of a text in bytes is log-normal: the median, the spread, and the longest.
const MEDIAN_BYTES: f64 = 3_350.0;
const SPREAD: f64 = 0.8;
const LONGEST: f64 = 110_000.0;

const SECTIONS: [&str; 8] = ["politics", "world", "business", "sport", "culture", "science", "local", "opinion"];

/// Makes articles.
pub struct Generator {
    seed: u64,
    day_articles: usize,
    languages: Vec<Language>,
    /// Host, and the number of its language.
    hosts: Vec<(String, usize)>,
    host_ranks: Vec<(f32, u32)>,
}

/// What an article begins with.
struct Head {
    date: Date,
    url: String,
    title: String,
    host: usize,
    section: &'static str,
    rng: Rng,
}

impl Generator {
    /// For so many articles to be loaded, and as many more as the phases write.
    pub fn new(seed: u64, count: usize) -> Self {
        let languages = Language::all(seed);
        let mut rng = Rng::with_seed(seed ^ 0x6f73_7473);
        let by_share: Vec<usize> =
            languages.iter().enumerate().flat_map(|(number, language)| vec![number; language.share() as usize]).collect();
        let hosts = (0..HOSTS).map(|number| {
            let mut name = String::new();
            languages[0].slug(&mut name, 2, &mut rng);
            let prefix = ["www.", "www.", "", "news.", "m."][rng.usize(..5)];
            (format!("{prefix}{name}{number}.example"), by_share[rng.usize(..by_share.len())])
        });
        Self {
            seed,
            day_articles: DAY_ARTICLES.max(count.div_ceil(MAX_DAYS)),
            hosts: hosts.collect(),
            host_ranks: alias_table(&(0..HOSTS).map(|rank| (rank as f64 + 1.5).powf(-HOST_EXPONENT)).collect::<Vec<_>>()),
            languages,
        }
    }

    /// The key of an article.
    pub fn key(&self, number: usize) -> v1::ArticleKey {
        let head = self.head(number);
        v1::ArticleKey { date: head.date.to_string(), url: head.url }
    }

    /// An article.
    pub fn article(&self, number: usize) -> v1::Article {
        let Head { date, url, title, host, section, mut rng } = self.head(number);
        let (host, language) = &self.hosts[host];
        let language = &self.languages[*language];
        let topic: Vec<usize> = (0..rng.usize(20..60)).map(|_| language.rare_word(&mut rng)).collect();
        let length = (MEDIAN_BYTES * (SPREAD * normal(&mut rng)).exp()).min(LONGEST) as usize;
        let (mut lead, mut body) = (String::new(), String::with_capacity(length + 400));
        if rng.u8(..) < 203 {
            let words = rng.usize(15..35);
            language.sentence(&mut lead, words, &topic, &mut rng);
        }
        let wanted = length.saturating_sub(lead.len() + title.len()).max(80);
        let mut paragraph = rng.usize(2..6);
        while body.len() < wanted {
            let words = rng.usize(6..30);
            language.sentence(&mut body, words, &topic, &mut rng);
            paragraph -= 1;
            if paragraph == 0 {
                body.push('\n');
                paragraph = rng.usize(2..6);
            }
        }
        let mut authors = Vec::new();
        if rng.bool() {
            let mut name = String::new();
            language.sentence(&mut name, 2, &[], &mut rng);
            authors.push(name.trim_end_matches(['.', ' ', '。', '।']).to_owned());
        }
        let second = jiff::tz::Offset::UTC.to_timestamp(date.at(rng.i8(6..23), rng.i8(0..60), 0, 0)).map_or(0, |time| time.as_second());
        let time = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        v1::Article {
            url,
            date: date.to_string(),
            title,
            lead,
            body,
            authors,
            section: section.to_owned(),
            language: language.tag().to_owned(),
            publisher: host.clone(),
            publish_time: time(second),
            crawl_time: time(second + 3_600),
            ..Default::default()
        }
    }

    fn head(&self, number: usize) -> Head {
        let mut rng = Rng::with_seed(self.seed ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        // Articles come day after day, with stragglers of the days before.
        let straggler = if rng.u8(..) < 13 { rng.usize(1..8) } else { 0 };
        let day = (number / self.day_articles).saturating_sub(straggler);
        let date = FIRST_DAY.saturating_add((day as i64).days());
        let slot = rng.usize(..HOSTS);
        let (own, other) = self.host_ranks[slot];
        let host = if rng.f32() < own { slot } else { other as usize };
        let section = SECTIONS[rng.usize(..SECTIONS.len())];
        let (name, language) = &self.hosts[host];
        let language = &self.languages[*language];
        let mut title = String::new();
        if rng.u8(..) < 245 {
            let words = rng.usize(4..13);
            language.sentence(&mut title, words, &[], &mut rng);
        }
        let scheme = if rng.u8(..) < 64 { "http" } else { "https" };
        let mut url = format!("{scheme}://{name}/{section}/{:04}/{:02}/{:02}/", date.year(), date.month(), date.day());
        // Hosts that write in another script mostly keep their URLs in ASCII.
        if language.tag() == "en" || rng.u8(..) < 26 {
            let words = rng.usize(3..9);
            language.slug(&mut url, words, &mut rng);
            url.push('-');
        }
        url.push_str(&number.to_string());
        if rng.u8(..) < 128 {
            url.push_str(".html");
        }
        Head { date, url, title, host, section, rng }
    }
}

/// A number of the standard normal distribution, by Box and Muller.
fn normal(rng: &mut Rng) -> f64 {
    (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (TAU * rng.f64()).cos()
}
