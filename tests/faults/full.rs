//! No room: a small disk that fills up under load, and a limit on the size of files.
//!
//! Writes are refused with DISK_FULL and nothing of them is stored, reads go on, health says so, and once there is room writing
//! goes on by itself.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dateline::client::Client;
use tokio::time::sleep;

use super::articles::{Texts, article, places};
use super::check::{scan, settle};
use super::daemon::{Daemon, Launch, PATIENCE, Started};
use super::disk::Disk;
use super::history::Write;
use super::load::{Load, Mix, answer, fresh_caller, fresh_number};
use super::means::run;
use super::oracle::{Oracle, Shared, lock};
use super::plan::Plan;
use super::scratch::Scratch;
use super::writers::answered;

const KEYS: usize = 300;
/// How long the load goes on while there is no room.
const FULL: Duration = Duration::from_secs(2);
/// Writes of about a kilobyte that may find room where larger ones did not: more than the journal is filled ahead.
const SMALL_WRITES: usize = 4000;
const MEBIBYTES: u64 = 320;
/// What a disk has left when the load begins on it.
const LEFT: u64 = 96 << 20;
/// The largest file that a daemon with such a limit may write: the journal and sled's file come to it after a moment.
const LARGEST_FILE: u64 = 24 << 20;

pub async fn disk(plan: Plan) -> Result<String, String> {
    let mut chance = plan.chance("disk_full");
    let rounds = plan.number(1, 3, 10);
    let mut figures = Vec::new();
    for round in 1..=rounds {
        let disk = Disk::new(MEBIBYTES, &[])?;
        let data = disk.path().join("data");
        let ballast = disk.path().join("ballast");
        let oracle = oracle();
        let daemon = Launch::on(&data).must_listen().await?;
        fill(&ballast, LEFT)?;
        let make_room = || fs::remove_file(&ballast).map_err(|error| format!("cannot remove {}: {error}", ballast.display()));
        let daemon = no_room(daemon, &oracle, make_room, &mut figures, &mut chance).await;
        let daemon = daemon.map_err(|error| format!("round {round}: {error}"))?;
        daemon.stop().await?;
        full_when_killed(&Launch::on(&data), &ballast, &oracle, &mut chance).await.map_err(|error| format!("round {round}: {error}"))?;
    }
    Ok(format!("{rounds} disks filled, each twice, the second time with a kill; {}", figures.join("; ")))
}

pub async fn file_size(plan: Plan) -> Result<String, String> {
    let mut chance = plan.chance("file_size_limit");
    let scratch = Scratch::new(&plan)?;
    let launch = Launch::on(&scratch.data());
    let oracle = oracle();
    let mut figures = Vec::new();
    // The soft limit alone, so that it can be raised again.
    let limited = launch.clone().under(["prlimit".to_owned(), format!("--fsize={LARGEST_FILE}:")]);
    let daemon = limited.must_listen().await?;
    let id = daemon.id().ok_or("the daemon has ended by itself")?.to_string();
    let make_room = || run("prlimit", &["--pid", &id, "--fsize=unlimited:"]).map(drop);
    let daemon = no_room(daemon, &oracle, make_room, &mut figures, &mut chance).await.map_err(|error| scratch.explain(&error))?;
    daemon.kill().await?;
    let daemon = launch.must_listen().await?;
    settle(&daemon.connect().await?, &oracle, &mut chance).await.map_err(|error| scratch.explain(&error))?;
    daemon.stop().await?;
    Ok(format!("files limited to {LARGEST_FILE} bytes; {}", figures.join("; ")))
}

fn oracle() -> Shared {
    Arc::new(Mutex::new(Oracle::new(Arc::new(places(KEYS)))))
}

/// Writes a file of zeros that leaves so many bytes of the disk.
fn fill(path: &Path, left: u64) -> Result<(), String> {
    let failed = |error| format!("cannot write {}: {error}", path.display());
    let mut file = File::create(path).map_err(failed)?;
    loop {
        match file.write_all(&[0; 1 << 16]) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => break,
            Err(error) => return Err(failed(error)),
        }
    }
    let length = file.metadata().map_err(failed)?.len();
    file.set_len(length.saturating_sub(left)).and_then(|()| file.sync_all()).map_err(failed)
}

/// Loads the daemon until there is no room, watches it for a while, makes room, and waits until it writes again.
async fn no_room(
    mut daemon: Daemon,
    oracle: &Shared,
    make_room: impl FnOnce() -> Result<(), String>,
    figures: &mut Vec<String>,
    chance: &mut fastrand::Rng,
) -> Result<Daemon, String> {
    let client = daemon.connect().await?;
    let load = Load::start(&daemon, oracle, Mix::of(Texts::Heavy, KEYS), chance).await?;
    let counters = Arc::clone(&load.counters);
    wait("no write was refused", &mut daemon, || (counters.refused() > 0, counters.broken())).await?;
    let seen = counters.seen();
    let acknowledged = counters.acknowledged();
    sleep(FULL).await; // ok: how the daemon is while there is no room, is what is to be seen
    if let Some(broken) = counters.broken() {
        return Err(format!("a client ended while there was no room: {broken}; the daemon's log: {}", daemon.log()));
    }
    let reads = counters.seen() - seen;
    if reads == 0 {
        return Err("readers saw nothing while there was no room".into());
    }
    scan(&client).await.map_err(|error| format!("while there was no room: {error}"))?;
    refused(&client, &daemon, oracle, chance).await?;
    make_room()?;
    let began = Instant::now();
    while let Err(error) = put(&client, oracle, chance).await? {
        if began.elapsed() > PATIENCE {
            return Err(format!("writing did not go on within {PATIENCE:?} after room was made: {error}"));
        }
        sleep(Duration::from_millis(20)).await; // ok: between two attempts
    }
    let resumed = began.elapsed();
    let before = counters.acknowledged();
    wait("no client wrote again after room was made", &mut daemon, || (counters.acknowledged() > before, counters.broken())).await?;
    let health = daemon.health().await?;
    if !health.iter().all(|(_, serving)| *serving) {
        return Err(format!("the daemon writes again, but its health is {health:?}"));
    }
    let counters = load.finish().await?;
    settle(&client, oracle, chance).await.map_err(|error| format!("without a restart: {error}"))?;
    figures.push(format!(
        "{acknowledged} writes acknowledged before, {} refused, {reads} reads meanwhile, writing again after {resumed:?}",
        counters.refused()
    ));
    Ok(daemon)
}

/// Small writes are refused like all others once what was set aside for them is used up, and health says so.
async fn refused(client: &Client, daemon: &Daemon, oracle: &Shared, chance: &mut fastrand::Rng) -> Result<(), String> {
    for _ in 0..SMALL_WRITES {
        let Err(error) = put(client, oracle, chance).await? else { continue };
        if error.reason != "DISK_FULL" {
            return Err(format!("a put without room was answered with {error}"));
        }
        let health = daemon.health().await?;
        return if health.iter().any(|(_, serving)| !serving) {
            Ok(())
        } else {
            Err("the daemon refuses writes for lack of room, but says that it is healthy".into())
        };
    }
    Err(format!("{SMALL_WRITES} small writes found room though larger ones did not"))
}

/// The disk fills up and the daemon is killed; it starts, or says that there is no room, and starts once there is.
async fn full_when_killed(launch: &Launch, ballast: &PathBuf, oracle: &Shared, chance: &mut fastrand::Rng) -> Result<(), String> {
    let mut daemon = launch.must_listen().await?;
    settle(&daemon.connect().await?, oracle, chance).await?;
    fill(ballast, LEFT / 2)?;
    let load = Load::start(&daemon, oracle, Mix::of(Texts::Heavy, KEYS), chance).await?;
    let counters = Arc::clone(&load.counters);
    wait("no write was refused", &mut daemon, || (counters.refused() > 0, counters.broken())).await?;
    daemon.kill().await?;
    load.finish().await?;
    match launch.start().await? {
        Started::Listening(daemon) => {
            settle(&daemon.connect().await?, oracle, chance).await.map_err(|error| format!("started on a full disk: {error}"))?;
            daemon.kill().await?;
        }
        Started::Ended(ended) if ended.with_message() => {}
        Started::Ended(ended) => return Err(format!("the daemon neither starts on a full disk nor says why: {ended}")),
    }
    fs::remove_file(ballast).map_err(|error| format!("cannot remove {}: {error}", ballast.display()))?;
    let daemon = launch.must_listen().await?;
    settle(&daemon.connect().await?, oracle, chance).await?;
    daemon.stop().await
}

/// Waits for something that the load brings about.
async fn wait<'a>(what: &str, daemon: &mut Daemon, mut done: impl FnMut() -> (bool, Option<&'a str>)) -> Result<(), String> {
    let began = Instant::now();
    loop {
        let (done, broken) = done();
        if done {
            return Ok(());
        }
        if let Some(ended) = daemon.has_ended().await? {
            return Err(format!("{what}, and the daemon ended: {ended}"));
        }
        if let Some(broken) = broken {
            return Err(format!("{what}, and a client ended: {broken}; the daemon's log: {}", daemon.log()));
        }
        if began.elapsed() > 3 * PATIENCE {
            return Err(format!("{what} within {:?}", 3 * PATIENCE));
        }
        sleep(Duration::from_millis(10)).await; // ok: between two looks
    }
}

/// A single put, outside of the load.
async fn put(client: &Client, oracle: &Shared, chance: &mut fastrand::Rng) -> Result<Result<(), dateline::client::ClientError>, String> {
    let places = Arc::clone(lock(oracle).places());
    loop {
        let key = chance.usize(..KEYS);
        let article = article(&places[key], fresh_number(), Texts::Small, chance);
        let begun = lock(oracle).begin(key, Write::Put(Arc::new(article.clone())), fresh_caller(), None);
        let Some(id) = begun else { continue };
        let request = dateline::client::v1::PutArticleRequest { article: Some(article), ..Default::default() };
        return match answer(client.put_article(request)).await? {
            Ok(response) => answered(oracle, key, id, response.outcome(), None, None).map(Ok),
            Err(error) => {
                if error.reason == "DISK_FULL" {
                    lock(oracle).refused(key, id)?;
                }
                Ok(Err(error))
            }
        };
    }
}
