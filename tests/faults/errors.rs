//! Errors of the disk: a sync or a write fails with EIO, once or from then on.
//!
//! What was in it is not acknowledged, the sync is not tried again (the kernel has dropped what it could not write, so a second
//! one succeeds and means nothing), no later write is accepted, health says so or the process ends with an error, and a restart
//! has everything that was acknowledged.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dateline::client::{Client, v1};
use tokio::time::sleep;

use super::articles::{Texts, article, places};
use super::check::{Settled, settle};
use super::daemon::{Daemon, Launch, PATIENCE, Started};
use super::failures::Failures;
use super::history::Write;
use super::load::{Load, Mix, answer, fresh_caller, fresh_number};
use super::oracle::{Oracle, Shared, lock};
use super::plan::Plan;
use super::scratch::Scratch;
use super::strace::{Call, injected, injecting};
use super::writers::answered;

const KEYS: usize = 200;
/// What fails, and up to the how many-th call of a thread.
const FAILING: [(Call, usize); 6] = [
    (Call { name: "fdatasync", file: None }, 60),
    (Call { name: "fsync", file: None }, 4),
    (Call { name: "pwrite64", file: None }, 60),
    (Call { name: "fsync", file: Some("sled/db") }, 1),
    (Call { name: "pwrite64", file: Some("sled/db") }, 6),
    (Call { name: "fsync", file: Some("CHECKPOINT.new") }, 1),
];
/// How long a load goes on at most until its error comes.
const LOADED: Duration = Duration::from_millis(1200);

#[derive(Default)]
struct Figures {
    by_end: BTreeMap<&'static str, usize>,
    acknowledged: u64,
    settled: Settled,
}

pub async fn test(plan: Plan) -> Result<String, String> {
    let mut chance = plan.chance("disk_errors");
    let rounds = plan.number(2, 24, 120);
    let mut figures = Figures::default();
    let mut failures = Failures::default();
    for round in 0..rounds {
        let (call, most) = &FAILING[round % FAILING.len()];
        let number = chance.usize(1..=*most);
        let when = if chance.bool() && !is_checkpoint(call) { format!("{number}") } else { format!("{number}+") };
        let scratch = Scratch::new(&plan)?;
        let name = format!("EIO at call {when} of {call}");
        match one(&scratch, call, &when, &mut figures, &mut chance).await {
            Ok(end) => *figures.by_end.entry(end).or_default() += 1,
            Err(error) => failures.add(call.name, &scratch.explain(&format!("{name}: {error}")), &error),
        }
    }
    let Figures { by_end, acknowledged, settled } = figures;
    let text = format!(
        "{rounds} errors, ended as {by_end:?}, {acknowledged} writes acknowledged; of the keys with writes in flight {} had one that was \
         whole, {} none",
        settled.landed, settled.absent
    );
    failures.report(text)
}

/// Whether a call is the sync of sled's file, which matters at a checkpoint: until then the journal holds everything. The kernel
/// tells of a write that was lost once on every handle, sled's and the store's own, so this call fails from then on.
fn is_checkpoint(call: &Call) -> bool {
    (call.name, call.file) == ("fsync", Some("sled/db"))
}

async fn one(
    scratch: &Scratch,
    call: &Call,
    when: &str,
    figures: &mut Figures,
    chance: &mut fastrand::Rng,
) -> Result<&'static str, String> {
    let oracle: Shared = Arc::new(Mutex::new(Oracle::new(Arc::new(places(KEYS)))));
    let launch = Launch::on(&scratch.data());
    // Something to recover, so that a part of the errors comes while that is done.
    let daemon = launch.must_listen().await?;
    let load = Load::start(&daemon, &oracle, Mix::of(Texts::Mixed, KEYS), chance).await?;
    sleep(Duration::from_millis(100)).await; // ok: how much there is to recover does not matter
    daemon.kill().await?;
    figures.acknowledged += load.finish().await?.acknowledged();

    let trace = scratch.path().join("trace");
    let traced = launch.clone().under(injecting(&trace, &scratch.data(), call, "error=EIO", when));
    let end = match traced.start().await? {
        Started::Ended(ended) if ended.with_message() => "refused to open",
        Started::Ended(ended) => return Err(format!("the daemon ended without a clear message: {ended}")),
        Started::Listening(daemon) => hit(*daemon, call, &trace, &oracle, figures, chance).await?,
    };
    if call.name != "pwrite64" {
        no_second_sync(&trace)?;
    }
    let daemon = launch.must_listen().await.map_err(|error| format!("after the error ({end}): {error}"))?;
    let settled = settle(&daemon.connect().await?, &oracle, chance).await;
    figures.settled += settled.map_err(|error| format!("after the error ({end}): {error}"))?;
    daemon.stop().await?;
    Ok(end)
}

/// Loads the daemon until its error comes, and sees how it takes it.
async fn hit(
    daemon: Daemon,
    call: &Call,
    trace: &Path,
    oracle: &Shared,
    figures: &mut Figures,
    chance: &mut fastrand::Rng,
) -> Result<&'static str, String> {
    let load = Load::start(&daemon, oracle, Mix::of(Texts::Mixed, KEYS), chance).await?;
    let began = Instant::now();
    while injected(trace) == 0 && began.elapsed() < LOADED {
        sleep(Duration::from_millis(10)).await; // ok: between two looks
    }
    let client = daemon.connect().await;
    if injected(trace) == 0 || is_checkpoint(call) {
        figures.acknowledged += load.finish().await?.acknowledged();
        return closing(daemon, trace).await;
    }
    sleep(Duration::from_millis(50)).await; // ok: others go on for a moment
    figures.acknowledged += load.finish().await?.acknowledged();
    match client {
        Ok(client) => after_the_error(daemon, &client, oracle, chance).await,
        Err(_) => ended(daemon).await,
    }
}

/// Closing makes a checkpoint, which may meet the error.
async fn closing(daemon: Daemon, trace: &Path) -> Result<&'static str, String> {
    // It may have ended by itself just now.
    drop(daemon.terminate());
    let ended = daemon.ended().await?;
    match (injected(trace) > 0, ended.status.success()) {
        (false, true) => Ok("never came to it"),
        (true, false) if ended.with_message() => Ok("failed while closing"),
        (true, true) => Err("the daemon closed with success though a part of it failed".into()),
        _ => Err(format!("the daemon ended without a clear message: {ended}")),
    }
}

async fn ended(daemon: Daemon) -> Result<&'static str, String> {
    let ended = daemon.ended().await?;
    if ended.with_message() { Ok("ended") } else { Err(format!("the daemon ended without a clear message: {ended}")) }
}

/// No write may be accepted any more, and either the process ends with an error or health says that something is wrong.
async fn after_the_error(mut daemon: Daemon, client: &Client, oracle: &Shared, chance: &mut fastrand::Rng) -> Result<&'static str, String> {
    let began = Instant::now();
    let mut acknowledged = 0;
    loop {
        if daemon.has_ended().await?.is_some() {
            return ended(daemon).await;
        }
        let written = put(client, oracle, chance).await?;
        acknowledged += usize::from(written);
        if !written && daemon.health().await.is_ok_and(|health| health.iter().any(|(_, serving)| !serving)) {
            daemon.kill().await?;
            return Ok("not serving");
        }
        if began.elapsed() > PATIENCE / 4 {
            let health = daemon.health().await;
            return Err(format!("{acknowledged} writes were acknowledged within {:?} after it, health is {health:?}", PATIENCE / 4));
        }
        sleep(Duration::from_millis(20)).await; // ok: between two attempts
    }
}

/// A single put, of which it does not matter what becomes of it.
async fn put(client: &Client, oracle: &Shared, chance: &mut fastrand::Rng) -> Result<bool, String> {
    let places = Arc::clone(lock(oracle).places());
    for _ in 0..KEYS {
        let key = chance.usize(..KEYS);
        let article = article(&places[key], fresh_number(), Texts::Small, chance);
        let begun = lock(oracle).begin(key, Write::Put(Arc::new(article.clone())), fresh_caller(), None);
        let Some(id) = begun else { continue };
        return match answer(client.put_article(v1::PutArticleRequest { article: Some(article), ..Default::default() })).await? {
            Ok(response) => answered(oracle, key, id, response.outcome(), None, None).map(|()| true),
            Err(_) => Ok(false),
        };
    }
    Ok(false)
}

/// After a sync failed, the same file must not be synced with success.
fn no_second_sync(trace: &Path) -> Result<(), String> {
    let text = fs::read(trace).map_err(|error| format!("no recording of system calls: {error}"))?;
    let text = String::from_utf8_lossy(&text);
    let file = |line: &str| line.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map(|(path, _)| path.to_owned());
    let mut failed = Vec::new();
    for line in text.lines() {
        if line.contains("(INJECTED)") {
            failed.extend(file(line));
        } else if line.ends_with("= 0") && file(line).is_some_and(|file| failed.contains(&file)) {
            return Err(format!("a sync that had failed was tried again: {line}"));
        }
    }
    Ok(())
}
