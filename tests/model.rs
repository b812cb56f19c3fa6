//! The model test: random operations on the engine and on plain maps, which must agree after every one.
//!
//! Operations are batches, ingest streams, restarts and crashes with writes under way. `PROPTEST_CASES` raises the number of
//! cases.

#[path = "model/agreement.rs"]
mod agreement;
#[path = "model/expected.rs"]
mod expected;
#[path = "model/image.rs"]
mod image;
#[path = "model/operation.rs"]
mod operation;
#[path = "model/reclaim.rs"]
mod reclaim;
#[path = "model/run.rs"]
mod run;

use dateline::storage::{ArticleStore as _, History};
use proptest::prelude::*;

use operation::{Operation, Question, operations};
use run::Run;

async fn compare(history: History, operations: Vec<(Operation, Vec<Question>)>) {
    let mut run = Run::begin(history);
    for (number, (operation, questions)) in operations.into_iter().enumerate() {
        run.carry_out(number, operation).await;
        agreement::check(run.store(), &run.model, &questions).await;
    }
    run.store().close().await.unwrap();
    assert!(!run.path.join("sled/blobs").read_dir().is_ok_and(|mut files| files.next().is_some()), "sled made a blob file");
}

/// How many earlier revisions are kept: all as often as fewer.
fn history() -> impl Strategy<Value = History> {
    prop_oneof![Just(History::All), (0..3u64).prop_map(History::Last)]
}

/// Enough to be quick, unless more are asked for.
fn config() -> ProptestConfig {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_some() { config } else { ProptestConfig { cases: 24, ..config } }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_store_does_what_maps_do(history in history(), operations in operations()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(compare(history, operations));
    }
}
