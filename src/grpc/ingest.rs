//! IngestService: articles in bulk.

use tonic::{Request, Response, Status, Streaming};

use super::ingest_stream::IngestStream;
use super::outgoing::OutgoingStream;
use super::status::ApiError;
use super::v1::{self, ingest_service_server::IngestService};
use super::{Api, convert};
use crate::article::{Article, FieldViolation, Limits};
use crate::storage::{Write, WriteBatch, WriteOutcome};

#[tonic::async_trait]
impl IngestService for Api {
    async fn batch_ingest_articles(
        &self,
        request: Request<v1::BatchIngestArticlesRequest>,
    ) -> Result<Response<v1::BatchIngestArticlesResponse>, Status> {
        let articles = request.into_inner().articles;
        if articles.len() > self.limits.batch_articles {
            return Err(ApiError::TooManyItems { field: "articles", limit: self.limits.batch_articles }.into());
        }
        let (items, writes, bytes) = Items::validate(articles, &self.limits.article);
        let _share = self.ingest_budget.share(bytes).await?;
        let outcome = self.store.write(WriteBatch { writes, stream: None }).await.map_err(ApiError::from)?;
        Ok(Response::new(v1::BatchIngestArticlesResponse { results: items.results(outcome.outcomes) }))
    }

    type IngestArticlesStream = OutgoingStream<v1::IngestArticlesResponse>;

    async fn ingest_articles(
        &self,
        request: Request<Streaming<v1::IngestArticlesRequest>>,
    ) -> Result<Response<Self::IngestArticlesStream>, Status> {
        Ok(Response::new(IngestStream::start(self.clone(), request.into_inner())))
    }
}

/// The items of a message while their writes are under way: of each that was refused already, why.
pub struct Items(Vec<Result<(), Vec<FieldViolation>>>);

impl Items {
    /// Checks articles. Gives what to write of them, and how many bytes that is.
    pub fn validate(articles: Vec<v1::Article>, limits: &Limits) -> (Self, Vec<Write>, usize) {
        let mut writes = Vec::with_capacity(articles.len());
        let mut bytes = 0;
        let check = |article| -> Result<(), Vec<FieldViolation>> {
            let article: Article = convert::draft_from_wire(article)?.validate(limits)?;
            bytes += article.size();
            writes.push(Write::put(article));
            Ok(())
        };
        let items = Self(articles.into_iter().map(check).collect());
        (items, writes, bytes)
    }

    /// How many were refused.
    pub fn rejected(&self) -> u64 {
        self.0.iter().filter(|item| item.is_err()).count() as u64
    }

    /// The result of every item, given the outcomes of those that were written.
    pub fn results(self, outcomes: Vec<WriteOutcome>) -> Vec<v1::IngestResult> {
        let mut outcomes = outcomes.into_iter();
        let result = |item: Result<(), Vec<FieldViolation>>| match item {
            Err(violations) => Some(convert::ingest_result(Err(violations))),
            Ok(()) => outcomes.next().map(|outcome| convert::ingest_result(Ok(outcome))),
        };
        self.0.into_iter().filter_map(result).collect()
    }
}
