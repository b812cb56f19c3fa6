//! The daemon is killed at random instants under load: while it serves, while it recovers, while it closes, and about when it
//! makes a checkpoint of an idle store.

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

/// Kills of one data folder, before the next one begins empty.
const KILLS_PER_STORE: usize = 25;
const KEYS: usize = 800;
/// When a daemon that is idle after the first moments of its life makes its checkpoint, about.
const CHECKPOINT: Duration = Duration::from_millis(5700);

/// What was done.
#[derive(Default)]
struct Figures {
    kills: usize,
    recovering: usize,
    closing: usize,
    acknowledged: u64,
    seen: u64,
    settled: Settled,
}

/// How one life of the daemon goes.
#[derive(Debug)]
enum Life {
    /// Load, and a kill in the middle of it.
    Loaded(Mix, Duration),
    /// Load, then idleness, then a kill about when the checkpoint comes.
    Idle(Duration),
    /// Load, SIGTERM, and a kill while it closes.
    Closing(Duration),
}

pub async fn test(plan: Plan) -> Result<String, String> {
    let mut chance = plan.chance("kills");
    let kills = plan.number(3, 100, 500);
    let mut figures = Figures::default();
    while figures.kills < kills {
        let scratch = Scratch::new(&plan)?;
        let oracle: Shared = Arc::new(Mutex::new(Oracle::new(Arc::new(places(KEYS)))));
        let until = kills.min(figures.kills + KILLS_PER_STORE);
        let result = store(&scratch, &oracle, until, &mut figures, &mut chance).await;
        let number = figures.kills;
        result.map_err(|error| scratch.explain(&format!("before kill {number}: {error}")))?;
    }
    let Figures { kills, recovering, closing, acknowledged, seen, settled } = figures;
    Ok(format!(
        "{kills} kills ({recovering} while recovering, {closing} while closing), {acknowledged} writes acknowledged, {seen} reads while \
         others wrote; of the keys with writes in flight {} had one that was whole, {} none",
        settled.landed, settled.absent
    ))
}

async fn store(scratch: &Scratch, oracle: &Shared, until: usize, figures: &mut Figures, chance: &mut fastrand::Rng) -> Result<(), String> {
    let launch = Launch::on(&scratch.data());
    while figures.kills < until {
        // Recovery is interrupted again and again now and then.
        while chance.u8(..4) == 0 && figures.kills + 1 < until {
            let starting = launch.spawn()?;
            sleep(Duration::from_micros(chance.u64(..40_000))).await; // ok: the instant of the kill is drawn by lot
            starting.kill().await?;
            figures.kills += 1;
            figures.recovering += 1;
        }
        live(&launch, oracle, figures, chance).await?;
    }
    let daemon = launch.must_listen().await?;
    figures.settled += settle(&daemon.connect().await?, oracle, chance).await?;
    daemon.stop().await
}

async fn live(launch: &Launch, oracle: &Shared, figures: &mut Figures, chance: &mut fastrand::Rng) -> Result<(), String> {
    let daemon = match launch.start().await? {
        Started::Listening(daemon) => daemon,
        Started::Ended(ended) => return Err(format!("the daemon did not start after a kill: {ended}")),
    };
    figures.settled += settle(&daemon.connect().await?, oracle, chance).await?;
    let short = Duration::from_millis(chance.u64(..500));
    let life = match chance.u8(..40) {
        0..3 => Life::Loaded(Mix::of(Texts::Heavy, KEYS), Duration::from_millis(chance.u64(500..2500))),
        3..13 => Life::Loaded(Mix::of(Texts::Mixed, 40), short),
        13 => Life::Idle(CHECKPOINT - short + Duration::from_millis(chance.u64(..300))),
        14..20 => Life::Closing(Duration::from_micros(chance.u64(..60_000))),
        _ => Life::Loaded(Mix::of(Texts::Mixed, KEYS), short),
    };
    let (mix, loaded) = match &life {
        Life::Loaded(mix, time) => (*mix, *time),
        Life::Idle(_) | Life::Closing(_) => (Mix::of(Texts::Mixed, KEYS), short),
    };
    let load = Load::start(&daemon, oracle, mix, chance).await?;
    sleep(loaded).await; // ok: the instant of the kill is drawn by lot
    let counters = match life {
        Life::Loaded(..) => {
            daemon.kill().await?;
            load.finish().await?
        }
        Life::Idle(time) => {
            let counters = load.finish().await?;
            sleep(time).await; // ok: a daemon that was idle for long enough makes a checkpoint
            daemon.kill().await?;
            counters
        }
        Life::Closing(time) => {
            daemon.terminate()?;
            sleep(time).await; // ok: the instant of the kill is drawn by lot
            daemon.kill().await?;
            figures.closing += 1;
            load.finish().await?
        }
    };
    figures.kills += 1;
    figures.acknowledged += counters.acknowledged();
    figures.seen += counters.seen();
    Ok(())
}
