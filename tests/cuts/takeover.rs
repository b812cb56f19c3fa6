//! An opening of an ingest stream reaches the server after a later one of the same client, and takes the stream over.

use std::time::{Duration, Instant};

use dateline::client::{Client, ClientError, Ingest, IngestOptions, IngestOutcomes};

use super::input::article;
use super::proxy::Proxy;
use crate::daemon::Launch;
use crate::plan::Plan;

const ITEMS: usize = 10;
const STREAM: &str = "a-stream-that-is-opened-late";
/// The server's greeting and its answer to an opening take more bytes than this.
const ANSWER_BYTES: u64 = 100;
const PATIENCE: Duration = Duration::from_secs(60);

pub async fn test(plan: Plan) -> Result<String, String> {
    let text = |error: ClientError| error.to_string();
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let daemon = Launch::on(&folder.path().join("data")).must_listen().await?;
    let proxy = Proxy::to(&daemon.address, plan.chance("late_opening")).await.map_err(|error| error.to_string())?;
    let client = Client::connect(&proxy.address).await.map_err(text)?;
    let (mut ingest, mut outcomes) = client.ingest_articles(IngestOptions::stream(STREAM)).await.map_err(text)?;
    store(&mut ingest, &mut outcomes).await.map_err(text)?;

    proxy.set_late(true);
    proxy.cut_all();
    let begun = Instant::now();
    while !proxy.keeps(STREAM) {
        if begun.elapsed() > PATIENCE {
            return Err("the client does not open its stream again".into());
        }
        tokio::time::sleep(Duration::from_millis(2)).await; // ok: looks again whether the condition holds.
    }
    proxy.set_late(false);
    proxy.cut_all();
    // Another connection goes on with the stream, before the server comes upon the opening that was late.
    store(&mut ingest, &mut outcomes).await.map_err(text)?;
    tokio::time::timeout(PATIENCE, proxy.deliver(ANSWER_BYTES)).await.map_err(|_| "the server does not answer")?;
    store(&mut ingest, &mut outcomes).await.map_err(|error| format!("taken over by itself: {error}"))?;

    // Anybody else who takes the stream over has it.
    let other = daemon.connect().await?.ingest(STREAM, false).await.map_err(text)?;
    match store(&mut ingest, &mut outcomes).await {
        Err(error) if error.reason == "STREAM_TAKEN_OVER" => {}
        other => return Err(format!("taken over by another client: {other:?}")),
    }
    if other.2.next_item != 3 * ITEMS as i64 {
        return Err(format!("{:?}", other.2));
    }
    daemon.kill().await?;
    Ok("the stream went on, and was given up to another client".into())
}

/// Stores some articles, and waits for their outcomes.
async fn store(ingest: &mut Ingest, outcomes: &mut IngestOutcomes) -> Result<(), ClientError> {
    for _ in 0..ITEMS {
        let key = ("2024-05-01".to_owned(), format!("https://example.com/{}", ingest.next_item()));
        ingest.push(article(&key, "text".into())).await?;
    }
    for _ in 0..ITEMS {
        outcomes.next().await?;
    }
    Ok(())
}
