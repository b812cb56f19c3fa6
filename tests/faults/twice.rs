//! Two daemons on one data folder: the second refuses at once, by name, and the first does not notice.

use std::os::unix::fs::symlink;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::articles::{Texts, places};
use super::check::settle;
use super::daemon::{Daemon, Ended, Launch, Started};
use super::load::{Load, Mix};
use super::oracle::{Oracle, Shared};
use super::plan::Plan;
use super::scratch::Scratch;

const KEYS: usize = 100;
/// What "at once" means.
const AT_ONCE: Duration = Duration::from_secs(3);

pub async fn test(plan: Plan) -> Result<String, String> {
    let mut chance = plan.chance("two_daemons");
    let races = plan.number(3, 20, 100);
    let scratch = Scratch::new(&plan)?;
    let launch = Launch::on(&scratch.data());
    let oracle: Shared = Arc::new(Mutex::new(Oracle::new(Arc::new(places(KEYS)))));
    let first = launch.must_listen().await?;
    let load = Load::start(&first, &oracle, Mix::of(Texts::Small, KEYS), &mut chance).await?;
    let other_name = scratch.path().join("other-name");
    symlink(scratch.data(), &other_name).map_err(|error| format!("no symbolic link: {error}"))?;
    for path in [scratch.data(), other_name] {
        let began = Instant::now();
        match Launch::on(&path).start().await? {
            Started::Listening(_) => return Err(format!("a second daemon listens on {}", path.display())),
            Started::Ended(ended) => refused(&ended, &path.display().to_string())?,
        }
        if began.elapsed() > AT_ONCE {
            return Err(format!("the second daemon took {:?} to refuse", began.elapsed()));
        }
    }
    let counters = load.finish().await?;
    settle(&first.connect().await?, &oracle, &mut chance).await?;
    first.kill().await?;
    let next = launch.must_listen().await.map_err(|error| format!("after the first was killed: {error}"))?;
    settle(&next.connect().await?, &oracle, &mut chance).await?;
    next.stop().await?;
    for race in 0..races {
        race_for(&scratch, race).await.map_err(|error| format!("race {race}: {error}"))?;
    }
    Ok(format!("2 second daemons refused while {} writes were acknowledged; {races} races for a new folder", counters.acknowledged()))
}

fn refused(ended: &Ended, path: &str) -> Result<(), String> {
    let named = ended.log.lines().any(|line| line.starts_with("dateline: ") && line.contains("in use") && line.contains(path));
    if ended.with_message() && named { Ok(()) } else { Err(format!("the second daemon does not say that {path} is in use: {ended}")) }
}

/// Two daemons are started on a new folder at the same time: one of them gets it.
async fn race_for(scratch: &Scratch, race: usize) -> Result<(), String> {
    let data = scratch.path().join(format!("race-{race}"));
    let launch = Launch::on(&data);
    let (one, other) = (launch.spawn()?, launch.spawn()?);
    let (one, other) = tokio::join!(one.wait(), other.wait());
    let winner: Daemon = match (one?, other?) {
        (Started::Listening(daemon), Started::Ended(ended)) | (Started::Ended(ended), Started::Listening(daemon)) => {
            refused(&ended, &data.display().to_string())?;
            *daemon
        }
        (Started::Listening(_), Started::Listening(_)) => return Err("both listen".into()),
        (Started::Ended(one), Started::Ended(other)) => return Err(format!("neither listens: {one}; {other}")),
    };
    winner.stop().await?;
    launch.must_listen().await?.stop().await
}
