//! IngestService: articles in bulk.

use tonic::{Request, Response, Status, Streaming};

use super::Api;
use super::arrival::Arrivals;
use super::budget::BudgetShare;
use super::ingest_items::{Checked, Items};
use super::ingest_stream::IngestStream;
use super::outgoing::OutgoingStream;
use super::status::ApiError;
use super::undecoded::ingest_service_server::IngestService;
use super::undecoded::{BatchIngestArticlesRequest, IngestArticlesRequest, UndecodedItems};
use super::v1;
use crate::storage::WriteBatch;

#[tonic::async_trait]
impl IngestService for Api {
    async fn batch_ingest_articles(
        &self,
        request: Request<BatchIngestArticlesRequest>,
    ) -> Result<Response<v1::BatchIngestArticlesResponse>, Status> {
        let arrived = request.extensions().get::<Arrivals>().and_then(Arrivals::next);
        let articles = UndecodedItems::articles(request.into_inner().articles);
        if articles.len() > self.limits.batch_articles {
            return Err(ApiError::TooManyItems { field: "articles", limit: self.limits.batch_articles }.into());
        }
        let limits = self.limits.article;
        let (Checked { items, writes, bytes }, _) = self.background.run(move || Items::check(articles, &limits)).await?;
        let _share = self.ingest_share(arrived, bytes).await?;
        let outcome = self.store.write(WriteBatch { writes, stream: None }).await.map_err(ApiError::from)?;
        Ok(Response::new(v1::BatchIngestArticlesResponse { results: items.results(outcome.outcomes) }))
    }

    type IngestArticlesStream = OutgoingStream<v1::IngestArticlesResponse>;

    async fn ingest_articles(
        &self,
        request: Request<Streaming<IngestArticlesRequest>>,
    ) -> Result<Response<Self::IngestArticlesStream>, Status> {
        let arrivals = request.extensions().get::<Arrivals>().cloned().unwrap_or_default();
        Ok(IngestStream::start(self.clone(), request.into_inner(), arrivals))
    }
}

impl Api {
    /// The share of a message of so many bytes of text: the one that it arrived with, or one of its own. On its way, an article is
    /// there twice: as it came, and as it is to be written.
    pub(super) async fn ingest_share(&self, arrived: Option<BudgetShare>, bytes: usize) -> Result<BudgetShare, ApiError> {
        match arrived {
            Some(share) => Ok(share),
            None => self.ingest_budget.share(2 * bytes).await,
        }
    }
}
