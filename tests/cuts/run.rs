//! Ingesting, watching and scanning through the proxy, while it cuts and the daemon is killed now and then.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dateline::client::{Client, Ingest, IngestOptions, IngestOutcomes, Reconnect, v1};
use tokio::sync::watch;

use super::consumer::{consume, same};
use super::input::{Input, Stored};
use super::proxy::Proxy;
use crate::daemon::{Daemon, Launch};
use crate::plan::Plan;

const CONSUMERS: usize = 2;
/// Any step of the test that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Comes back sooner than a client should that is not alone.
fn impatient(interruptions: &Arc<AtomicUsize>) -> Reconnect {
    let counted = Arc::clone(interruptions);
    Reconnect {
        first_pause: Duration::from_millis(5),
        longest_pause: Duration::from_millis(50),
        give_up_after: Duration::from_secs(60),
        notice: Some(Arc::new(move |_| _ = counted.fetch_add(1, Ordering::Relaxed))),
    }
}

pub async fn test(plan: Plan) -> Result<String, String> {
    let begun = Instant::now();
    let mut chance = plan.chance("cuts");
    let input = Arc::new(Input::new(plan.number(4_000, 40_000, 100_000), plan.number(1_500, 3_000, 5_000), &mut chance));
    let (kills, cuts_wanted) = (plan.number(2, 5, 10), plan.number(200, 800, 2_000));
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let launch = Launch::on(&folder.path().join("data"));
    let daemon = launch.must_listen().await?;
    let proxy = Proxy::to(&daemon.address, chance.fork()).await.map_err(|error| format!("no proxy: {error}"))?;
    let interruptions = Arc::new(AtomicUsize::new(0));
    let client = Client::connect(&proxy.address).await.map_err(|error| error.to_string())?.with_reconnect(impatient(&interruptions));

    let (total, until) = watch::channel(None);
    let connected = (0..CONSUMERS).map(|_| {
        let (address, until, reconnect) = (proxy.address.clone(), until.clone(), impatient(&interruptions));
        tokio::spawn(async move {
            let client = Client::connect(&address).await.map_err(|error| error.to_string())?;
            consume(client.with_reconnect(reconnect), until).await
        })
    });
    let consumers: Vec<_> = connected.collect();
    // The first connections are not cut, so that everybody has one that comes back.
    let (ingest, outcomes) = client.ingest_articles(IngestOptions::stream("cuts")).await.map_err(|error| error.to_string())?;
    proxy.set_cutting(true);
    proxy.cut_all();

    let (reached, progress) = watch::channel(0);
    let giving = tokio::spawn(give(ingest, Arc::clone(&input), chance.fork()));
    let taking = tokio::spawn(take(outcomes, Arc::clone(&input), reached));
    let restarting = restart(&launch, daemon, &proxy, progress, input.items.len(), kills);
    let ingested = async {
        let daemon = restarting.await?;
        let committed = giving.await.map_err(|error| error.to_string())??;
        let unknown = taking.await.map_err(|error| error.to_string())??;
        Ok::<_, String>((daemon, committed, unknown))
    };
    let (daemon, committed, unknown) = tokio::time::timeout(PATIENCE, ingested).await.map_err(|_| "the ingesting hangs")??;
    if (committed.item_count, committed.counts) != (input.items.len() as i64, Some(input.counts)) {
        return Err(format!("committed as {committed:?}, expected {:?}", input.counts));
    }

    // A connection that nobody cuts knows how many changes there are.
    let direct = daemon.connect().await?;
    let bounds = direct.change_bounds().await.map_err(|error| error.to_string())?;
    let changes = (input.counts.created + input.counts.updated) as usize;
    if bounds.change_count != changes as i64 {
        return Err(format!("{} changes, expected {changes}", bounds.change_count));
    }
    total.send_replace(Some(changes));
    let mut watched = 0;
    for (number, consumer) in consumers.into_iter().enumerate() {
        let replay = tokio::time::timeout(PATIENCE, consumer).await.map_err(|_| "a consumer hangs")?;
        let replay = replay.map_err(|error| error.to_string())??;
        same(&format!("consumer {number}"), &replay.stored, &input.stored)?;
        watched += replay.interruptions;
    }
    let mut scans = 0;
    while scans < 2 || proxy.cuts() < cuts_wanted {
        same("a scan", &scan(&client).await?, &input.stored)?;
        scans += 1;
    }
    daemon.stop().await?;
    Ok(format!(
        "{} items of which {} were updates, {kills} kills, {}; {} interruptions of ingesting and {scans} scans, {watched} of {CONSUMERS} \
         watches; the acknowledgements of {unknown} items were lost; {:.0} s",
        input.items.len(),
        input.counts.updated,
        proxy.report(),
        interruptions.load(Ordering::Relaxed),
        begun.elapsed().as_secs_f64()
    ))
}

async fn give(mut ingest: Ingest, input: Arc<Input>, mut chance: fastrand::Rng) -> Result<v1::IngestCommitted, String> {
    for item in &input.items {
        ingest.push(item.article.clone()).await.map_err(|error| format!("an article is not taken: {error}"))?;
        // Articles come in bursts, so that messages are of every size.
        if chance.u8(..40) == 0 {
            tokio::task::yield_now().await;
        }
    }
    ingest.finish().await.map_err(|error| format!("the stream cannot be finished: {error}"))
}

/// Checks every outcome. Gives of how many items it is not known.
async fn take(mut outcomes: IngestOutcomes, input: Arc<Input>, reached: watch::Sender<usize>) -> Result<usize, String> {
    let (mut taken, mut unknown) = (0, 0);
    while let Some(outcome) = outcomes.next().await.map_err(|error| format!("no further outcome: {error}"))? {
        let expected = input.items.get(taken).ok_or("there are more outcomes than items")?.outcome;
        match outcome.outcome() {
            _ if outcome.item != taken as i64 => return Err(format!("the outcome of item {} came after {taken} others", outcome.item)),
            // What was rejected the server tells again.
            v1::Outcome::Unspecified if expected != v1::Outcome::Rejected => unknown += 1,
            v1::Outcome::Rejected if outcome.error.is_none() => return Err(format!("item {taken} was rejected for no reason")),
            found if found == expected => {}
            found => return Err(format!("item {taken} has the outcome {found:?}, expected {expected:?}")),
        }
        taken += 1;
        reached.send_replace(taken);
    }
    if taken != input.items.len() {
        return Err(format!("{taken} outcomes of {} items", input.items.len()));
    }
    Ok(unknown)
}

/// Kills the daemon several times on the way, and starts it again behind the proxy.
async fn restart(
    launch: &Launch,
    mut daemon: Daemon,
    proxy: &Proxy,
    mut progress: watch::Receiver<usize>,
    items: usize,
    kills: usize,
) -> Result<Daemon, String> {
    for kill in 1..=kills {
        let when = items * kill / (kills + 1);
        if progress.wait_for(|taken| *taken >= when).await.is_err() {
            // It ended before: whoever waits for it says why.
            return Ok(daemon);
        }
        daemon.kill().await?;
        daemon = launch.must_listen().await?;
        proxy.set_server(&daemon.address);
    }
    Ok(daemon)
}

/// Everything that a scan gives, which must be in order and each once.
async fn scan(client: &Client) -> Result<Stored, String> {
    let mut scan = loop {
        match client.scan(v1::StreamArticlesRequest::default()).await {
            Ok(scan) => break scan,
            // Beginning is the only part that does not come back by itself.
            Err(error) if error.reason.chars().any(char::is_lowercase) => {}
            Err(error) => return Err(format!("a scan cannot begin: {error}")),
        }
    };
    let (mut stored, mut days) = (Stored::new(), String::new());
    while let Some(article) = scan.next().await.map_err(|error| format!("a scan ended: {error}"))? {
        if article.date < days {
            return Err(format!("a scan went back from {days} to {}", article.date));
        }
        days.clone_from(&article.date);
        let key = (article.date, article.canonical_url);
        if stored.insert(key.clone(), (article.revision, article.body)).is_some() {
            return Err(format!("a scan gave {key:?} twice"));
        }
    }
    Ok(stored)
}
