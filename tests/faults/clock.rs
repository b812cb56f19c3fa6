//! A clock that jumps: the daemon is restarted an hour and years ahead and back. Times of one article never go back, changes keep
//! their order, and what was handed out before (page tokens, ingest streams) goes on.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use dateline::client::{Client, v1};

use super::articles::{Texts, article, places};
use super::check::settle;
use super::daemon::{Daemon, Launch};
use super::history::Write;
use super::load::{answer, fresh_caller, fresh_number};
use super::means;
use super::oracle::{Oracle, Shared, lock, now};
use super::plan::Plan;
use super::scratch::Scratch;
use super::writers::answered;

const KEYS: usize = 60;
/// Keys that are written with every clock; of the rest each clock gets some that are new.
const OFTEN: usize = 20;
const PAGE: i32 = 7;
/// Clocks, as the library takes them, and by how many hours each is off.
const CLOCKS: [(&str, i64); 7] =
    [("+0", 0), ("-1h", -1), ("+20y", 20 * 365 * 24), ("-1h", -1), ("-15y", -15 * 365 * 24), ("+0", 0), ("+1h", 1)];
/// A clock is believed to be in force where a new article's time is off by at most so many seconds.
const TOLERANCE: i64 = 3 * 24 * 3600;

pub async fn test(plan: Plan) -> Result<String, String> {
    let library = means::faketime()?;
    let mut chance = plan.chance("clock_jumps");
    let rounds = plan.number(1, 2, 10);
    let mut changes = 0;
    for round in 0..rounds {
        let scratch = Scratch::new(&plan)?;
        let oracle: Shared = Arc::new(Mutex::new(Oracle::new(Arc::new(places(KEYS)))));
        let mut session = Session { library: library.clone(), oracle, sequence: 0, token: None, paged: Vec::new() };
        for (number, (clock, hours)) in CLOCKS.into_iter().enumerate() {
            let told = session.run(&scratch, number, clock, hours, &mut chance).await;
            told.map_err(|error| scratch.explain(&format!("round {round}, clock {clock}: {error}")))?;
        }
        session.nothing_was_skipped().map_err(|error| scratch.explain(&format!("round {round}: {error}")))?;
        changes += session.sequence;
    }
    Ok(format!("{rounds} stores, each restarted with {} clocks; {changes} changes", CLOCKS.len()))
}

/// What goes on over all clocks.
struct Session {
    library: PathBuf,
    oracle: Shared,
    /// Changes so far.
    sequence: i64,
    /// Where listing goes on, and what it gave so far.
    token: Option<String>,
    paged: Vec<(String, String)>,
}

impl Session {
    async fn run(&mut self, scratch: &Scratch, number: usize, clock: &str, hours: i64, chance: &mut fastrand::Rng) -> Result<(), String> {
        let library = self.library.display().to_string();
        let launch = Launch::on(&scratch.data()).with("LD_PRELOAD", &library).with("FAKETIME", clock);
        let launch = launch.with("FAKETIME_DONT_FAKE_MONOTONIC", "1").with("DONT_FAKE_MONOTONIC", "1");
        let daemon: Daemon = launch.must_listen().await?;
        let client = daemon.connect().await?;
        settle(&client, &self.oracle, chance).await?;
        if number > 0 {
            self.list_on(&client).await?;
        }
        let new = OFTEN + number * 5..OFTEN + number * 5 + 5;
        for key in (0..OFTEN).chain(new.clone()) {
            self.put(&client, key, chance).await?;
        }
        settle(&client, &self.oracle, chance).await?;
        self.clock_is_in_force(&client, new.start, hours).await?;
        let status = answer(client.status()).await?.map_err(|error| error.to_string())?;
        let sequence = status.contents.map_or(0, |contents| contents.last_sequence);
        if sequence != self.sequence {
            return Err(format!("the last change has the number {sequence} after {} changes", self.sequence));
        }
        if number == 0 {
            self.list_on(&client).await?;
        }
        if chance.bool() { daemon.kill().await } else { daemon.stop().await }
    }

    async fn put(&mut self, client: &Client, key: usize, chance: &mut fastrand::Rng) -> Result<(), String> {
        let places = Arc::clone(lock(&self.oracle).places());
        let article = article(&places[key], fresh_number(), Texts::Small, chance);
        let begun = lock(&self.oracle).begin(key, Write::Put(Arc::new(article.clone())), fresh_caller(), None);
        let id = begun.ok_or("a key is in use though there is one client")?;
        let request = v1::PutArticleRequest { article: Some(article), ..Default::default() };
        let response = answer(client.put_article(request)).await?.map_err(|error| error.to_string())?;
        let revision = response.article.as_ref().map(|article| article.revision as u64);
        self.sequence += 1;
        answered(&self.oracle, key, id, response.outcome(), revision, None)
    }

    /// The time of an article that was never there before is the clock's own.
    async fn clock_is_in_force(&self, client: &Client, key: usize, hours: i64) -> Result<(), String> {
        let target = Some(v1::get_article_request::Target::Key(lock(&self.oracle).places()[key].key()));
        let found = answer(client.get_article(v1::GetArticleRequest { target, ..Default::default() })).await?;
        let time = found.map_err(|error| error.to_string())?.update_time.ok_or("an article has no update time")?;
        let off = time.seconds - (now() / 1_000_000) as i64;
        if (off - hours * 3600).abs() > TOLERANCE {
            return Err(format!("the clock is off by {off} s instead of {hours} h: the library is not in force"));
        }
        Ok(())
    }

    /// The next page of a listing that began with another clock. What was there throughout comes once.
    async fn list_on(&mut self, client: &Client) -> Result<(), String> {
        let page_token = self.token.clone().unwrap_or_default();
        if self.token.is_some() && page_token.is_empty() {
            return Ok(());
        }
        let page = answer(client.list_articles(v1::ListArticlesRequest { page_size: PAGE, page_token, ..Default::default() })).await?;
        let page = page.map_err(|error| format!("a page token from another clock: {error}"))?;
        for article in page.articles {
            let key = (article.date, article.canonical_url);
            if self.paged.iter().any(|before| *before == key || before.0 > key.0) {
                return Err(format!("a listing over several clocks gave {} {} again, or out of order", key.0, key.1));
            }
            self.paged.push(key);
        }
        self.token = Some(page.next_page_token);
        Ok(())
    }

    /// Of the articles that were there from the first clock on, the listing has those of every day that it has left behind.
    fn nothing_was_skipped(&self) -> Result<(), String> {
        let Some((last, _)) = self.paged.last() else { return Err("nothing was listed".into()) };
        let oracle = lock(&self.oracle);
        let skipped = oracle.places()[..OFTEN]
            .iter()
            .find(|place| place.date < *last && !self.paged.iter().any(|(date, url)| (date, url) == (&place.date, &place.url)));
        skipped.map_or(Ok(()), |place| Err(format!("a listing over several clocks left {} {} out", place.date, place.url)))
    }
}
