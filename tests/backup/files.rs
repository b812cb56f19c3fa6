//! The file that `dateline backup` writes, what becomes of it when something goes wrong, and who may make one.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

use dateline::client::{Client, v1};
use tonic_types::StatusExt as _;
use v1::admin_service_client::AdminServiceClient;
use v1::create_backup_response::Part;

use super::super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_appears_whole_under_its_name_and_over_nothing_else() {
    let daemon = Daemon::start().await;
    store(&daemon, &articles(20, 500)).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.backup");
    let (path, server) = (text(&file), daemon.address.as_str());
    let told = succeed_json(&["backup", path, "--json", "--server", server]).await;
    let written = std::fs::read(&file).unwrap();
    let sha256: String = <sha2::Sha256 as sha2::Digest>::digest(&written).iter().map(|byte| format!("{byte:02x}")).collect();
    let status = daemon.client.status().await.unwrap();
    assert_eq!((&told["sha256"], &told["bytes"]), (&sha256.into(), &written.len().into()));
    assert_eq!((&told["article_count"], &told["last_sequence"]), (&20.into(), &20.into()));
    assert_eq!(told["store_id"], status.store_id);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(names(folder.path()), [PathBuf::from("store.backup")]);

    let refused = fail(&["backup", path, "--server", server], 1).await;
    assert!(refused.contains("there already") && refused.contains("--force"), "{refused}");
    assert_eq!(std::fs::read(&file).unwrap(), written);
    store(&daemon, &[article("2024-06-01", "https://one.example/", "T", "B")]).await;
    let printed = succeed(&["backup", path, "--force", "--server", server]).await;
    assert!(printed.contains("21 articles") && printed.contains("up to change 21"), "{printed}");
    let checked = succeed_json(&["verify", "--backup", path, "--json"]).await;
    assert_eq!((&checked["article_count"], &checked["finding_count"]), (&21.into(), &0.into()));

    let unreachable = fail(&["backup", text(&folder.path().join("other")), "--server", "127.0.0.1:1"], 1).await;
    assert!(unreachable.contains("no server answers"), "{unreachable}");
    let nowhere = fail(&["backup", text(&folder.path().join("missing/other")), "--server", server], 1).await;
    assert!(nowhere.contains("cannot create"), "{nowhere}");
    assert_eq!(names(folder.path()), [PathBuf::from("store.backup")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_cut_off_leaves_nothing_behind() {
    let mut daemon = Daemon::start_with(|command| {
        command.env("DATELINE_DRAIN_SECONDS", "0");
    })
    .await;
    // More than fits on the way between a server and a client that was stopped.
    store(&daemon, &articles(40, 1 << 20)).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.backup");
    let part = folder.path().join("store.backup.part");
    let mut backup = dateline(&["backup", text(&file), "--server", &daemon.address]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    until("the first bytes", async || std::fs::metadata(&part).is_ok_and(|part| part.len() > 0)).await;
    let signal = |name: &str| assert!(Command::new("kill").args([name, &backup.id().to_string()]).status().unwrap().success());
    signal("-STOP");
    daemon.terminate();
    assert!(daemon.ended().success());
    signal("-CONT");
    assert_eq!(backup.wait().unwrap().code(), Some(1));
    assert_eq!(names(folder.path()), Vec::<PathBuf>::new());
}

/// A client's connection that holds little of what it does not read.
async fn begin_without_reading(address: &str) -> tonic::Streaming<v1::CreateBackupResponse> {
    let channel = tonic::transport::Endpoint::from_shared(address.to_owned()).unwrap().connect().await.unwrap();
    let mut stream = AdminServiceClient::new(channel).create_backup(v1::CreateBackupRequest {}).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert!(matches!(first.part, Some(Part::Started(_))), "{first:?}");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_does_not_read_stops_no_writer_and_only_other_backups() {
    let daemon = Daemon::start().await;
    let stored = articles(12, 1 << 20);
    store(&daemon, &stored).await;
    let before = everything(&daemon).await;
    let mut stream = begin_without_reading(&daemon.address).await;
    let folder = tempfile::tempdir().unwrap();
    let (file, restored) = (folder.path().join("store.backup"), folder.path().join("data"));
    let refused = fail(&["backup", text(&file), "--server", &daemon.address], 1).await;
    assert!(refused.contains("BACKUP_RUNNING"), "{refused}");

    let begun = Instant::now();
    for some in &stored {
        let changed = v1::Article { body: "Another text".into(), ..some.clone() };
        let response = daemon.client.put_article(v1::PutArticleRequest { article: Some(changed), ..Default::default() }).await.unwrap();
        assert_eq!(response.outcome(), v1::Outcome::Updated);
    }
    assert!(begun.elapsed() < PATIENCE / 2, "writes waited {:?} for the reader of a backup", begun.elapsed());

    // Read on now: it is the store as it was before those writes.
    let mut bytes = Vec::new();
    let trailer = loop {
        match stream.message().await.unwrap().unwrap().part.unwrap() {
            Part::Data(data) => {
                assert!(data.len() <= 1 << 20);
                bytes.extend(data);
            }
            Part::Trailer(trailer) => break trailer,
            Part::Started(_) => panic!("a backup begins once"),
        }
    };
    assert!(stream.message().await.unwrap().is_none());
    assert_eq!((trailer.article_count, trailer.byte_count), (12, bytes.len() as i64));
    std::fs::write(&file, bytes).unwrap();
    succeed(&["restore", text(&file), "--data", text(&restored)]).await;
    let daemon_of_backup = Daemon::start_in(folder, |_| ()).await;
    same(&everything(&daemon_of_backup).await, &before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_nobody_wants_any_more_makes_room_for_the_next() {
    let daemon = Daemon::start().await;
    store(&daemon, &articles(12, 1 << 20)).await;
    let client = Client::connect(&daemon.address).await.unwrap();
    let stream = begin_without_reading(&daemon.address).await;
    assert_eq!(client.create_backup().await.unwrap_err().reason, "BACKUP_RUNNING");
    drop(stream);
    until("the end of a backup that is dropped", async || client.create_backup().await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_fails_where_more_is_overwritten_meanwhile_than_is_held_back() {
    let daemon = Daemon::start_with(|command| {
        command.env("DATELINE_BACKUP_NOTE_BYTES", "2000");
    })
    .await;
    let stored = articles(12, 1 << 20);
    store(&daemon, &stored).await;
    let mut stream = begin_without_reading(&daemon.address).await;
    for some in &stored {
        let changed = v1::Article { body: "Another text".into(), ..some.clone() };
        daemon.client.put_article(v1::PutArticleRequest { article: Some(changed), ..Default::default() }).await.unwrap();
    }
    let status = loop {
        match stream.message().await {
            Ok(message) => assert!(!matches!(message.expect("an end").part, Some(Part::Trailer(_))), "it says that it is whole"),
            Err(status) => break status,
        }
    };
    let reason = status.get_details_error_info().expect("ErrorInfo").reason;
    assert_eq!((status.code(), reason.as_str()), (tonic::Code::Aborted, "SNAPSHOT_TOO_OLD"));
    drop(stream);
    // At a quieter time the next one is whole.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.backup");
    succeed(&["backup", text(&file), "--server", &daemon.address]).await;
    succeed(&["verify", "--backup", text(&file)]).await;
}
