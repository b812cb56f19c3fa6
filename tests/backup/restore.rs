//! What `dateline restore` refuses, and that it never leaves half a store.

use std::fs;
use std::process::Stdio;

use super::super::*;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/backup-v1.backup");

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_whole_backup_becomes_no_store() {
    let folder = tempfile::tempdir().unwrap();
    let (file, data) = (folder.path().join("bad.backup"), folder.path().join("data"));
    let golden = fs::read(GOLDEN).unwrap();
    let end = golden.len();
    let flipped = |at: usize| {
        let mut bytes = golden.clone();
        bytes[at] ^= 0x10;
        bytes
    };
    let bad: [(Vec<u8>, &str); 12] = [
        (Vec::new(), "no backup of dateline"),
        (b"PK\x03\x04 another program's archive, and long enough for a header".to_vec(), "no backup of dateline"),
        (flipped(3), "no backup of dateline"),
        (flipped(17), "format 17"),
        (flipped(40), "header fails its checksum"),
        (flipped(101), "block 0 says that it holds"),
        (flipped(200), "block 0 fails its checksum"),
        (flipped(end - 40), "trailer"),
        (golden[..90].to_vec(), "ends within the header"),
        (golden[..300].to_vec(), "ends within block 0"),
        (golden[..end - 1].to_vec(), "ends within the trailer"),
        ([&golden[..], b"\0"].concat(), "followed by something"),
    ];
    for (bytes, expected) in bad {
        fs::write(&file, bytes).unwrap();
        for args in [&["restore", text(&file), "--data", text(&data)][..], &["verify", "--backup", text(&file)]] {
            let complaint = fail(args, 1).await;
            assert!(complaint.contains(expected), "expected {expected:?}: {complaint}");
        }
        assert_eq!(names(folder.path()), [PathBuf::from("bad.backup")], "{expected}");
    }
    let missing = fail(&["restore", text(&folder.path().join("missing")), "--data", text(&data)], 1).await;
    assert!(missing.contains("cannot open"), "{missing}");
    fail(&["restore", text(&file)], 2).await;

    succeed(&["restore", GOLDEN, "--data", text(&data)]).await;
    assert_eq!(names(folder.path()), [PathBuf::from("bad.backup"), PathBuf::from("data")]);
    let daemon = Daemon::start_in(folder, |_| ()).await;
    let titles: Vec<_> = everything(&daemon).await.into_iter().map(|article| (article.date, article.revision)).collect();
    assert_eq!(titles, [("2024-05-01".to_owned(), 2), ("9999-12-31".to_owned(), 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_holds_anything_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("precious.txt"), "x").unwrap();
    let refused = fail(&["restore", GOLDEN, "--data", text(&data)], 1).await;
    assert!(refused.contains("is not an empty folder"), "{refused}");
    assert_eq!(names(&data), [PathBuf::from("precious.txt")]);
    assert_eq!(names(folder.path()), [PathBuf::from("data")]);
    let file = data.join("precious.txt");
    let refused = fail(&["restore", GOLDEN, "--data", text(&file)], 1).await;
    assert!(refused.contains("is not an empty folder"), "{refused}");
    assert_eq!(fs::read(&file).unwrap(), b"x");

    fs::remove_file(file).unwrap();
    succeed(&["restore", GOLDEN, "--data", text(&data)]).await;
    let refused = fail(&["restore", GOLDEN, "--data", text(&data)], 1).await;
    assert!(refused.contains("is not an empty folder"), "{refused}");
    succeed(&["verify", "--data", text(&data)]).await;
}

fn bytes_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
            Ok(metadata) => metadata.len(),
            // Gone meanwhile.
            Err(_) => 0,
        })
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_killed_leaves_no_store_or_a_whole_one() {
    let source = Daemon::start().await;
    store(&source, &articles(3000, 2000)).await;
    let expected = everything(&source).await;
    let folder = tempfile::tempdir().unwrap();
    let (file, data) = (folder.path().join("store.backup"), folder.path().join("data"));
    let making = folder.path().join("data.making");
    succeed(&["backup", text(&file), "--server", &source.address]).await;
    succeed(&["restore", text(&file), "--data", text(&data)]).await;
    let whole = bytes_below(&data);
    fs::remove_dir_all(&data).unwrap();

    let mut killed_before_the_end = 0;
    for tenths in [0, 1, 3, 5, 7, 9] {
        let mut restore = dateline(&["restore", text(&file), "--data", text(&data)]).stdout(Stdio::null()).spawn().unwrap();
        until("a part of the restore", async || {
            let there = making.exists() && bytes_below(&making) >= whole * tenths / 10;
            there || restore.try_wait().unwrap().is_some()
        })
        .await;
        restore.kill().unwrap();
        restore.wait().unwrap();
        if data.exists() {
            succeed(&["verify", "--data", text(&data)]).await;
            fs::remove_dir_all(&data).unwrap();
        } else {
            killed_before_the_end += 1;
        }
    }
    assert!(killed_before_the_end > 0, "no kill came before the end");

    // What is left of the last one is in nobody's way.
    succeed(&["restore", text(&file), "--data", text(&data)]).await;
    assert_eq!(names(folder.path()), [PathBuf::from("data"), PathBuf::from("store.backup")]);
    let restored = Daemon::start_in(folder, |_| ()).await;
    same(&everything(&restored).await, &expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_told_to_stop_cleans_up() {
    let source = Daemon::start().await;
    store(&source, &articles(6000, 3000)).await;
    let folder = tempfile::tempdir().unwrap();
    let (file, data) = (folder.path().join("store.backup"), folder.path().join("data"));
    succeed(&["backup", text(&file), "--server", &source.address]).await;
    let mut restore = dateline(&["restore", text(&file), "--data", text(&data)]).spawn().unwrap();
    until("the beginning of the restore", async || folder.path().join("data.making/STORE").exists()).await;
    assert!(Command::new("kill").arg(restore.id().to_string()).status().unwrap().success());
    assert_eq!(restore.wait().unwrap().code(), Some(1));
    assert_eq!(names(folder.path()), [PathBuf::from("store.backup")]);
}
