//! AdminService: how the store is doing, and what is done for its safety.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};

use super::outgoing::{Outgoing, OutgoingStream};
use super::status::ApiError;
use super::v1::{self, admin_service_server::AdminService};
use super::verification::Rate;
use super::{Api, convert};
use crate::article::url::RULES_VERSION;
use crate::storage::{ChangeRetention, Durability, StoreIdentity};

#[tonic::async_trait]
impl AdminService for Api {
    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Result<Response<v1::GetStatusResponse>, Status> {
        let stats = self.store.stats().await.map_err(ApiError::from)?;
        let identity = self.store.identity();
        let uptime = self.started.elapsed();
        let date = |date: Option<crate::article::ArticleDate>| date.map(|date| date.to_string()).unwrap_or_default();
        let contents = v1::StoreContents {
            article_count: stats.contents.articles as i64,
            day_count: stats.days as i64,
            first_date: date(stats.date_span.map(|(first, _)| first)),
            last_date: date(stats.date_span.map(|(_, last)| last)),
            earlier_revision_count: stats.contents.earlier_revisions as i64,
            last_sequence: stats.contents.last_sequence as i64,
            text_bytes: stats.contents.text_bytes as i64,
            ingest_stream_count: stats.streams as i64,
        };
        let sizes = v1::StoreSizes {
            record_bytes: stats.contents.record_bytes as i64,
            engine_bytes: stats.engine_bytes as i64,
            journal_bytes: stats.journal_bytes as i64,
            live_bytes: stats.live_bytes as i64,
            earlier_record_bytes: stats.earlier_record_bytes as i64,
        };
        let durability = match identity.durability {
            Durability::Fsync => v1::Durability::Fsync,
            Durability::Interval => v1::Durability::Interval,
        };
        Ok(Response::new(v1::GetStatusResponse {
            version: env!("CARGO_PKG_VERSION").into(),
            engine: identity.engine.into(),
            store_id: identity.store_id.to_string(),
            format_version: identity.format_version.into(),
            url_rules_version: RULES_VERSION.into(),
            durability: durability.into(),
            uptime: Some(prost_types::Duration { seconds: uptime.as_secs() as i64, nanos: uptime.subsec_nanos() as i32 }),
            contents: Some(contents),
            sizes: Some(sizes),
            last_verification: stats.last_verification.map(convert::time_to_wire),
            limits: Some(self.limits_to_wire()),
            retention: Some(retention_to_wire(&identity)),
            compression: stats.compression.as_ref().map(super::compression::to_wire),
        }))
    }

    type CreateBackupStream = OutgoingStream<v1::CreateBackupResponse>;

    async fn create_backup(&self, _: Request<v1::CreateBackupRequest>) -> Result<Response<Self::CreateBackupStream>, Status> {
        let snapshot = self.store.snapshot().await.map_err(ApiError::from)?;
        let workers = Arc::clone(&self.background);
        Ok(Outgoing::respond(self, &self.drain.over, |out| async move { super::backup::send(snapshot, &workers, &out).await }))
    }

    type VerifyStoreStream = OutgoingStream<v1::VerifyStoreResponse>;

    async fn verify_store(&self, request: Request<v1::VerifyStoreRequest>) -> Result<Response<Self::VerifyStoreStream>, Status> {
        let rate = Rate::of_request(request.into_inner().entries_per_second)?;
        let running = Arc::clone(&self.verifying).try_lock_owned().map_err(|_| ApiError::VerificationRunning)?;
        let store = Arc::clone(&self.store);
        // It can take hours, and nothing is lost where it is begun again: no reason for a server to wait before it stops.
        Ok(Outgoing::respond(self, &self.drain.begun, |out| async move {
            let _running = running;
            super::verification::send(&*store, rate, &out).await
        }))
    }
}

fn retention_to_wire(identity: &StoreIdentity) -> v1::Retention {
    let ChangeRetention { age, count, rebuild_time } = identity.changes;
    let wire = |time: Duration| prost_types::Duration { seconds: time.as_secs() as i64, nanos: time.subsec_nanos() as i32 };
    v1::Retention {
        history: identity.history.to_string(),
        change_age: age.map(wire),
        change_count: count.map(|count| i64::try_from(count).unwrap_or(i64::MAX)),
        change_rebuild_time: Some(wire(rebuild_time)),
    }
}

impl Api {
    fn limits_to_wire(&self) -> v1::ServerLimits {
        let limits = &self.limits;
        v1::ServerLimits {
            article_bytes: limits.article.article_bytes as i64,
            url_bytes: limits.article.url_bytes as i64,
            request_bytes: limits.request_bytes as i64,
            response_bytes: limits.response_bytes as i64,
            default_page_size: limits.default_page_size as i32,
            max_page_size: limits.max_page_size as i32,
            lookup_keys: limits.lookup_keys as i32,
            batch_articles: limits.batch_articles as i32,
        }
    }
}
