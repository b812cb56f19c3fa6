//! A sync that takes seconds: others go on reading the state before it, and a kill or a power cut in the middle leaves the state
//! before it or the one after it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dateline::client::{Client, ClientError, v1};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use v1::get_article_request::Target;

use super::articles::{Place, Texts, article, places};
use super::check::{count, scan, settle};
use super::daemon::{Daemon, Launch};
use super::disk::{Cut, Disk};
use super::history::Write;
use super::load::{answer, fresh_caller, fresh_number};
use super::means;
use super::oracle::{Oracle, Shared, WriteId, lock};
use super::plan::Plan;
use super::scratch::Scratch;
use super::strace::{Call, injecting};
use super::writers::answered;

const KEYS: usize = 40;
/// A put that takes longer waits for the sync that is held up.
const SLOW: Duration = Duration::from_millis(800);
/// No read may take longer while it is.
const READ: Duration = Duration::from_millis(700);
/// Syncs of a thread before those that are held up.
const QUICK_SYNCS: usize = 50;

/// A put that is under way.
type PutCall = JoinHandle<Result<Result<v1::PutArticleResponse, ClientError>, String>>;

pub async fn test(plan: Plan) -> Result<String, String> {
    let mut chance = plan.chance("slow_sync");
    let held = Duration::from_millis(plan.number(2000, 5000, 5000) as u64);
    let rounds = plan.number(1, 2, 8);
    let mut figures = Vec::new();
    for round in 0..rounds {
        let (text, error) = if round % 2 == 0 {
            let scratch = Scratch::new(&plan)?;
            let trace = scratch.path().join("trace");
            let told = one(&scratch.data(), &trace, held, &mut chance, async |daemon| daemon.kill().await).await;
            ("a kill", told.map_err(|error| scratch.explain(&error)))
        } else if let Err(reason) = means::disk() {
            ("no power cut", Ok(reason))
        } else {
            let disk = Disk::new(256, &[])?;
            let trace = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
            let cut = async |daemon: Daemon| {
                disk.cut(Cut::AtOnce)?;
                daemon.kill().await?;
                disk.mount_again()
            };
            ("a power cut", one(&disk.path().join("data"), trace.path(), held, &mut chance, cut).await)
        };
        figures.push(format!("{text}: {}", error.map_err(|error| format!("with {text} in the middle: {error}"))?));
    }
    Ok(format!("syncs held up for {held:?}; {}", figures.join("; ")))
}

async fn one(
    data: &Path,
    trace: &Path,
    held: Duration,
    chance: &mut fastrand::Rng,
    end: impl AsyncFnOnce(Daemon) -> Result<(), String>,
) -> Result<String, String> {
    let oracle: Shared = Arc::new(Mutex::new(Oracle::new(Arc::new(places(KEYS)))));
    let launch = Launch::on(&PathBuf::from(data));
    let sync = Call { name: "fdatasync", file: None };
    let what = format!("delay_enter={}", held.as_micros());
    let traced = launch.clone().under(injecting(trace, data, &sync, &what, &format!("{QUICK_SYNCS}+")));
    let daemon = traced.must_listen().await?;
    let client = daemon.connect().await?;
    let (key, call) = stall(&client, &oracle, chance).await?;
    let readings = read(&daemon.connect().await?, &oracle, key).await?;
    end(daemon).await?;
    call.abort();
    let daemon = launch.must_listen().await?;
    let settled = settle(&daemon.connect().await?, &oracle, chance).await?;
    daemon.stop().await?;
    Ok(format!("{readings}, then {}", if settled.landed > 0 { "the new state" } else { "the old state" }))
}

/// Overwrites articles until a put waits for a sync that is held up. Gives its key and the call.
async fn stall(client: &Client, oracle: &Shared, chance: &mut fastrand::Rng) -> Result<(usize, PutCall), String> {
    let places = Arc::clone(lock(oracle).places());
    for number in 0..20 * QUICK_SYNCS {
        let key = number % KEYS;
        let article = article(&places[key], fresh_number(), Texts::Small, chance);
        let id: WriteId = lock(oracle)
            .begin(key, Write::Put(Arc::new(article.clone())), fresh_caller(), None)
            .ok_or("a key is in use though there is one client")?;
        let client = client.clone();
        let mut call = tokio::spawn(async move {
            answer(client.put_article(v1::PutArticleRequest { article: Some(article), ..Default::default() })).await
        });
        match timeout(SLOW, &mut call).await {
            Err(_) => return Ok((key, call)),
            Ok(response) => {
                let response = response.map_err(|error| error.to_string())??.map_err(|error| error.to_string())?;
                answered(oracle, key, id, response.outcome(), None, None)?;
            }
        }
    }
    Err("no sync was held up".into())
}

/// Reads in every way while the sync is held up: at once, and the state before it.
async fn read(client: &Client, oracle: &Shared, stalled: usize) -> Result<String, String> {
    let places: Arc<Vec<Place>> = Arc::clone(lock(oracle).places());
    let mut slowest = Duration::ZERO;
    let mut took = |what: &str, began: Instant| {
        slowest = slowest.max(began.elapsed());
        if began.elapsed() > READ { Err(format!("{what} took {:?} while a sync was held up", began.elapsed())) } else { Ok(()) }
    };
    for key in [stalled, (stalled + 1) % KEYS] {
        let before = lock(oracle).glance(key);
        for target in [Target::Key(places[key].key()), Target::Url(places[key].url.clone())] {
            let began = Instant::now();
            let found = answer(client.get_article(v1::GetArticleRequest { target: Some(target), ..Default::default() })).await?;
            took("GetArticle", began)?;
            let found = found.map_err(|error| format!("GetArticle failed while a sync was held up: {error}"))?;
            if places[key].date == found.date {
                let mut oracle = lock(oracle);
                oracle.saw(key, before, Some(&found))?;
                if oracle.is_in_flight(key, &found) {
                    return Err(oracle.about(key, "a reader saw a write that was not durable"));
                }
            }
        }
    }
    let began = Instant::now();
    let found = scan(client).await?;
    took("StreamArticles", began)?;
    let began = Instant::now();
    let keys = places.iter().map(Place::key).collect();
    let results = answer(client.lookup_articles(v1::LookupArticlesRequest { keys, read_mask: None })).await?;
    took("LookupArticles", began)?;
    let results = results.map_err(|error| error.to_string())?;
    let began = Instant::now();
    let counted = answer(count(client, v1::CountGroup::Host)).await?.map_err(|error| error.to_string())?;
    took("CountArticles", began)?;
    let began = Instant::now();
    answer(client.status()).await?.map_err(|error| error.to_string())?;
    took("GetStatus", began)?;
    if (found.len(), results.len(), counted.values().sum::<i64>()) != (KEYS, KEYS, KEYS as i64) {
        return Err(format!("{} articles, {} results and the counts {counted:?}, for {KEYS} articles", found.len(), results.len()));
    }
    Ok(format!("reads took {slowest:?} at the most"))
}
