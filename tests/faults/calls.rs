//! The daemon is killed at chosen system calls: first the mutating calls of a whole life are counted (recovery, load, closing),
//! then lives are ended just before one of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::sleep;

use super::articles::{Texts, places};
use super::check::{Settled, settle};
use super::daemon::{Launch, Started};
use super::load::{Load, Mix};
use super::oracle::{Oracle, Shared};
use super::plan::Plan;
use super::scratch::Scratch;
use super::strace::{Call, Counts, counting, counts, injecting};

/// Kills of one data folder, before the next one begins empty.
const KILLS_PER_STORE: usize = 25;
const KEYS: usize = 300;
/// How long a traced life is loaded.
const LOADED: Duration = Duration::from_millis(400);
/// A life that ends too early to be killed is made again so often.
const TRIES: usize = 4;

#[derive(Default)]
struct Figures {
    kills: usize,
    recovering: usize,
    missed: usize,
    by_call: BTreeMap<&'static str, usize>,
    acknowledged: u64,
    settled: Settled,
}

pub async fn test(plan: Plan) -> Result<String, String> {
    let mut chance = plan.chance("system_calls");
    let kills = plan.number(2, 50, 300);
    let mut figures = Figures::default();
    while figures.kills < kills {
        let scratch = Scratch::new(&plan)?;
        let oracle: Shared = Arc::new(Mutex::new(Oracle::new(Arc::new(places(KEYS)))));
        let until = kills.min(figures.kills + KILLS_PER_STORE);
        store(&scratch, &oracle, until, &mut figures, &mut chance).await.map_err(|error| scratch.explain(&error))?;
    }
    let Figures { kills, recovering, missed, by_call, acknowledged, settled } = figures;
    Ok(format!(
        "{kills} kills ({recovering} while recovering) by call {by_call:?}, {missed} lives ended before their call, {acknowledged} writes \
         acknowledged; of the keys with writes in flight {} had one that was whole, {} none",
        settled.landed, settled.absent
    ))
}

async fn store(scratch: &Scratch, oracle: &Shared, until: usize, figures: &mut Figures, chance: &mut fastrand::Rng) -> Result<(), String> {
    let launch = Launch::on(&scratch.data());
    let trace = scratch.path().join("trace");
    let first = launch.clone().under(counting(&trace));
    let (_, creating) = whole_life(scratch, &first, oracle, figures, chance).await?;
    // Of an empty store recovery is its creation; once there are articles, it replays them.
    between(&launch, oracle, figures, chance).await?;
    let (replaying, living) = whole_life(scratch, &first, oracle, figures, chance).await?;
    let mut all = living;
    all.extend(creating.into_iter().filter(|(call, _)| call.file == Some("sled/conf")));
    let mut misses = 0;
    while figures.kills < until {
        between(&launch, oracle, figures, chance).await?;
        let (call, number) = draw(&replaying, &all, chance).ok_or("no system calls were recorded")?;
        let name = format!("call {number} of {call}");
        let traced = launch.clone().under(injecting(&trace, &scratch.data(), call, "signal=KILL", &number.to_string()));
        let killed = life(&traced, oracle, figures, chance).await.map_err(|error| format!("a kill at {name}: {error}"))?;
        if killed {
            misses = 0;
            figures.kills += 1;
            *figures.by_call.entry(call.name).or_default() += 1;
        } else {
            misses += 1;
            figures.missed += 1;
            if misses > 10 * TRIES {
                return Err(format!("{misses} lives in a row ended before their call: {name}"));
            }
        }
        let daemon = launch.must_listen().await.map_err(|error| format!("after a kill at {name}: {error}"))?;
        let settled = settle(&daemon.connect().await?, oracle, chance).await;
        figures.settled += settled.map_err(|error| format!("after a kill at {name}: {error}"))?;
        daemon.kill().await?;
    }
    Ok(())
}

/// One of the calls of recovery, or a later one. Kinds of call are equally likely, so that rare ones have their turn.
fn draw<'a>(replaying: &'a Counts, all: &'a Counts, chance: &mut fastrand::Rng) -> Option<(&'a Call, usize)> {
    let recovering = chance.u8(..3) == 0;
    let span = |(call, most): (&'a Call, &'a usize)| {
        let first = if recovering { 1 } else { replaying.get(call).map_or(1, |before| before + 1) };
        (first <= *most).then_some((call, first..=*most))
    };
    let spans: Vec<_> = (if recovering { replaying } else { all }).iter().filter_map(span).collect();
    let (call, span) = spans.get(chance.usize(..spans.len().max(1)))?;
    Some((call, chance.usize(span.clone())))
}

/// A life that leaves something for the next one's recovery.
async fn between(launch: &Launch, oracle: &Shared, figures: &mut Figures, chance: &mut fastrand::Rng) -> Result<(), String> {
    let daemon = launch.must_listen().await?;
    let load = Load::start(&daemon, oracle, mix(), chance).await?;
    sleep(Duration::from_millis(chance.u64(10..80))).await; // ok: how much there is to recover is drawn by lot
    daemon.kill().await?;
    figures.acknowledged += load.finish().await?.acknowledged();
    Ok(())
}

fn mix() -> Mix {
    Mix { singles: 2, batches: 1, streams: 1, readers: 1, ..Mix::of(Texts::Mixed, KEYS) }
}

/// Counts the calls of a life: until it listens, and in all.
async fn whole_life(
    scratch: &Scratch,
    traced: &Launch,
    oracle: &Shared,
    figures: &mut Figures,
    chance: &mut fastrand::Rng,
) -> Result<(Counts, Counts), String> {
    let trace = scratch.path().join("trace");
    let daemon = traced.must_listen().await?;
    let listening = counts(&trace, &scratch.data())?;
    let load = Load::start(&daemon, oracle, mix(), chance).await?;
    sleep(LOADED).await; // ok: what is counted is what happens in this time
    let client = daemon.connect().await?;
    figures.acknowledged += load.finish().await?.acknowledged();
    figures.settled += settle(&client, oracle, chance).await?;
    daemon.stop().await?;
    Ok((listening, counts(&trace, &scratch.data())?))
}

/// Gives whether the daemon was killed at its call.
async fn life(traced: &Launch, oracle: &Shared, figures: &mut Figures, chance: &mut fastrand::Rng) -> Result<bool, String> {
    let daemon = match traced.start().await? {
        Started::Listening(daemon) => daemon,
        Started::Ended(ended) if ended.status.code().is_none() => {
            figures.recovering += 1;
            return Ok(true);
        }
        Started::Ended(ended) => return Err(format!("the daemon did not start: {ended}")),
    };
    let load = Load::start(&daemon, oracle, mix(), chance).await?;
    sleep(LOADED).await; // ok: as long as the life whose calls were counted
    // One that is killed already cannot be told to stop.
    drop(daemon.terminate());
    let ended = daemon.ended().await?;
    figures.acknowledged += load.finish().await?.acknowledged();
    match (ended.status.code(), ended.status.success()) {
        (None, _) => Ok(true),
        (_, true) => Ok(false),
        _ => Err(format!("the daemon failed: {ended}")),
    }
}
