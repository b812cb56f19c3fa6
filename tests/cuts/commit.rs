//! The connection breaks when the server has finished an ingest stream, and before the client hears of it.

use std::time::{Duration, Instant};

use dateline::client::{Client, IngestOptions, v1};

use super::input::Input;
use super::proxy::Proxy;
use crate::daemon::Launch;
use crate::plan::Plan;

/// The answer to a commit takes more bytes than this; what the transport says on the way takes fewer.
const ANSWER_BYTES: u64 = 40;
const PATIENCE: Duration = Duration::from_secs(60);

pub async fn test(plan: Plan) -> Result<String, String> {
    let text = |error: dateline::client::ClientError| error.to_string();
    let mut chance = plan.chance("lost_answer");
    let input = Input::new(500, 500, &mut chance);
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let daemon = Launch::on(&folder.path().join("data")).must_listen().await?;
    let proxy = Proxy::to(&daemon.address, chance).await.map_err(|error| error.to_string())?;
    let client = Client::connect(&proxy.address).await.map_err(text)?;
    let (mut ingest, mut outcomes) = client.ingest_articles(IngestOptions::stream("lost")).await.map_err(text)?;
    for item in &input.items {
        ingest.push(item.article.clone()).await.map_err(text)?;
    }
    for number in 0..input.items.len() {
        let outcome = outcomes.next().await.map_err(text)?.ok_or("the outcomes end early")?;
        if (outcome.item, outcome.outcome()) != (number as i64, input.items[number].outcome) {
            return Err(format!("item {number}: {outcome:?}"));
        }
    }
    proxy.set_holding(true);
    let finishing = tokio::spawn(ingest.finish());
    let begun = Instant::now();
    while proxy.held() < ANSWER_BYTES {
        if begun.elapsed() > PATIENCE {
            return Err("the server does not answer the commit".into());
        }
        tokio::time::sleep(Duration::from_millis(2)).await; // ok: looks again whether the condition holds.
    }
    // The server has answered; the client has not heard of it, and never will.
    proxy.cut_all();
    let refused = daemon.connect().await?.ingest("lost", false).await.err().map(|error| error.reason);
    if refused.as_deref() != Some("STREAM_FINISHED") {
        return Err(format!("the stream is not finished: {refused:?}"));
    }
    proxy.set_holding(false);
    let committed = finishing.await.map_err(|error| error.to_string())?.map_err(text)?;
    let expected = v1::IngestCommitted { item_count: 500, counts: Some(input.counts) };
    if committed != expected {
        return Err(format!("{committed:?}, expected {expected:?}"));
    }
    if let Some(outcome) = outcomes.next().await.map_err(text)? {
        return Err(format!("one outcome too many: {outcome:?}"));
    }
    // Whoever did not commit it is told so, as before. The first opening fails at once where its connection breaks.
    let begun = Instant::now();
    loop {
        match client.ingest_articles(IngestOptions::stream("lost")).await {
            Err(error) if error.reason == "STREAM_FINISHED" => break,
            Err(error) if error.message == "transport error" && begun.elapsed() < PATIENCE => {}
            other => return Err(format!("a finished stream was opened: {:?}", other.err())),
        }
    }
    daemon.stop().await?;
    Ok("the counts came with the refusal to open the stream again".into())
}
