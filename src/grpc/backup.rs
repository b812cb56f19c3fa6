//! CreateBackup: a snapshot of the store as a stream of bytes, made as fast as it is read.
//!
//! What waits to be read is one part and one page of the snapshot, whatever the reader does; the store goes on meanwhile.

use super::outgoing::Outgoing;
use super::status::ApiError;
use super::{STREAM_MESSAGE_BYTES, convert, v1};
use crate::backup::{BackupError, BackupSummary, BackupWriter, ItemCounts};
use crate::storage::{Snapshot, SnapshotInfo, SnapshotItem, StoreError};
use crate::workers::Workers;

impl From<BackupError> for ApiError {
    fn from(error: BackupError) -> Self {
        let error = match error {
            BackupError::Io(cause) => StoreError::io("cannot make the backup", cause),
            other => StoreError::damaged("the snapshot", other.to_string()),
        };
        Self::Store(error)
    }
}

/// Sends the backup of a snapshot, compressed by these workers.
pub async fn send(mut snapshot: Box<dyn Snapshot>, workers: &Workers, out: &Outgoing<v1::CreateBackupResponse>) -> Result<(), ApiError> {
    use v1::create_backup_response::Part;
    let message = |part, counts: &ItemCounts| v1::CreateBackupResponse { part: Some(part), item_count: counts.total() as i64 };
    let info = *snapshot.info();
    let mut writer = BackupWriter::begin(&info)?;
    out.send(message(Part::Started(started(&info)), writer.counts()), None).await?;
    let mut summary = None;
    loop {
        // First the share, then the bytes: a reader who is slow holds back nothing that was not counted.
        let share = out.share(STREAM_MESSAGE_BYTES).await?;
        while writer.pending() < STREAM_MESSAGE_BYTES && summary.is_none() {
            let page = snapshot.next_page().await?;
            (writer, summary) = add(workers, writer, page).await?;
        }
        let data = writer.take(STREAM_MESSAGE_BYTES);
        if data.is_empty() {
            break;
        }
        out.send(message(Part::Data(data), writer.counts()), Some(share)).await?;
    }
    let Some(summary) = summary else { return Err(StoreError::Closed.into()) };
    tracing::info!(articles = summary.counts.articles, bytes = summary.bytes, "a backup was read to its end");
    out.send(message(Part::Trailer(trailer(&summary)), &summary.counts), None).await
}

/// Compresses a page, or ends the backup where there is none, apart from the threads that answer calls.
async fn add(
    workers: &Workers,
    mut writer: BackupWriter,
    page: Option<Vec<SnapshotItem>>,
) -> Result<(BackupWriter, Option<BackupSummary>), ApiError> {
    let added = workers.run(move || match page {
        Some(page) => page.iter().try_for_each(|item| writer.add(item)).map(|()| (writer, None)),
        None => writer.finish().map(|summary| (writer, Some(summary))),
    });
    Ok(added.await?)
}

fn started(info: &SnapshotInfo) -> v1::BackupStarted {
    let contents = &info.contents;
    v1::BackupStarted {
        store_id: info.store_id.to_string(),
        create_time: Some(convert::time_to_wire(info.create_time)),
        last_sequence: contents.last_sequence as i64,
        item_count: (contents.articles + contents.earlier_revisions + contents.last_sequence) as i64,
    }
}

fn trailer(summary: &BackupSummary) -> v1::BackupTrailer {
    let counts = &summary.counts;
    v1::BackupTrailer {
        article_count: counts.articles as i64,
        byte_count: summary.bytes as i64,
        sha256: summary.sha256_hex(),
        earlier_revision_count: counts.earlier_revisions as i64,
        tombstone_count: counts.tombstones as i64,
        change_count: counts.changes as i64,
        stream_count: counts.streams as i64,
    }
}
