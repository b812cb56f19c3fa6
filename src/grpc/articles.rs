//! ArticleService: reads and writes of articles.

use tonic::{Request, Response, Status};

use super::budget::BudgetShare;
use super::outgoing::{Outgoing, OutgoingStream};
use super::status::ApiError;
use super::v1::{self, article_service_server::ArticleService};
use super::{Api, STREAM_MESSAGE_BYTES, Transit, convert};
use crate::article::url::RULES_VERSION;
use crate::article::{ArticleDraft, ArticleKey, Etag, FieldSet, FieldViolation, Filter, Reason};
use crate::storage::token::{Place, TokenScope};
use crate::storage::{
    CountRequest, CountedGroup, Direction, GroupBy, Page, Precondition, ScanRequest, Write, WriteBatch, WriteOutcome, Written,
};

/// How often an update is merged anew because the article changed meanwhile, before the client is told.
const MERGE_TRIES: usize = 16;
/// Articles of one step of DeleteArticles.
const DELETE_STEP: usize = 500;
/// Bytes of the texts that a stream reads and sends at once, or one larger text: they come out of the core's cache as they went in,
/// and others have their turn in between.
const STREAM_TEXT_BYTES: usize = 64 << 10;
/// Keys that a lookup looks for at once.
const LOOKUP_STEP: usize = 100;
/// Dates in an answer of ResolveUrl.
const RESOLVED_DATES: usize = 1000;

#[tonic::async_trait]
impl ArticleService for Api {
    async fn get_article(&self, request: Request<v1::GetArticleRequest>) -> Result<Response<v1::GetArticleResponse>, Status> {
        let article = Some(self.get(request.into_inner()).await?);
        Ok(Response::new(v1::GetArticleResponse { article }))
    }

    type LookupArticlesStream = OutgoingStream<v1::LookupArticlesResponse>;

    async fn lookup_articles(&self, request: Request<v1::LookupArticlesRequest>) -> Result<Response<Self::LookupArticlesStream>, Status> {
        let v1::LookupArticlesRequest { keys, read_mask } = request.into_inner();
        let fields = convert::read_mask(read_mask.as_ref()).map_err(ApiError::from)?;
        if keys.len() > self.limits.lookup_keys {
            return Err(ApiError::TooManyItems { field: "keys", limit: self.limits.lookup_keys }.into());
        }
        let api = self.clone();
        Ok(Outgoing::respond(self, &self.drain.over, |out| async move { api.lookup(&keys, fields, &out).await }))
    }

    async fn list_articles(&self, request: Request<v1::ListArticlesRequest>) -> Result<Response<v1::ListArticlesResponse>, Status> {
        let (page, share) = self.list(request.into_inner()).await?;
        let mut response = Response::new(page);
        response.extensions_mut().insert(Transit::whole(Some(share)));
        Ok(response)
    }

    type StreamArticlesStream = OutgoingStream<v1::StreamArticlesResponse>;

    async fn stream_articles(&self, request: Request<v1::StreamArticlesRequest>) -> Result<Response<Self::StreamArticlesStream>, Status> {
        let v1::StreamArticlesRequest { filter, order, read_mask, resume_token } = request.into_inner();
        let scan = self.scan_of(filter.as_ref(), order, "resume_token", &resume_token)?;
        let fields = convert::read_mask(read_mask.as_ref()).map_err(ApiError::from)?;
        let api = self.clone();
        Ok(Outgoing::respond(self, &self.drain.over, |out| async move { api.stream(scan, fields, &out).await }))
    }

    async fn put_article(&self, request: Request<v1::PutArticleRequest>) -> Result<Response<v1::PutArticleResponse>, Status> {
        let written = self.put(request.into_inner()).await?;
        let (outcome, _) = convert::outcome(&written);
        let article = Some(convert::head_to_wire(written.head(), FieldSet::ALL));
        Ok(Response::new(v1::PutArticleResponse { outcome: outcome.into(), article }))
    }

    async fn delete_article(&self, request: Request<v1::DeleteArticleRequest>) -> Result<Response<v1::DeleteArticleResponse>, Status> {
        let v1::DeleteArticleRequest { key, etag, allow_missing } = request.into_inner();
        let key = convert::key("key", key.as_ref(), &self.limits.article).map_err(ApiError::from)?;
        let precondition = if etag.is_empty() { Precondition::None } else { Precondition::Etag(parse_etag("etag", &etag)?) };
        match self.write_one(Write::Delete { key: key.clone(), precondition }).await? {
            Ok(_) => Ok(Response::new(v1::DeleteArticleResponse { deleted: true })),
            Err(crate::storage::WriteRefusal::NotFound) if allow_missing => Ok(Response::new(v1::DeleteArticleResponse { deleted: false })),
            Err(refusal) => Err(ApiError::refused(refusal, key).into()),
        }
    }

    async fn delete_articles(&self, request: Request<v1::DeleteArticlesRequest>) -> Result<Response<v1::DeleteArticlesResponse>, Status> {
        let v1::DeleteArticlesRequest { filter, validate_only } = request.into_inner();
        if filter.as_ref().is_none_or(|filter| *filter == v1::ArticleFilter::default()) {
            let violation =
                FieldViolation::new("filter", Reason::InvalidFilter, "is empty: to delete everything, set its start_date to 1600-01-01");
            return Err(ApiError::from(violation).into());
        }
        let filter = convert::filter(filter.as_ref()).map_err(ApiError::from)?;
        Ok(Response::new(self.delete_all(filter, validate_only).await?))
    }

    async fn list_article_revisions(
        &self,
        request: Request<v1::ListArticleRevisionsRequest>,
    ) -> Result<Response<v1::ListArticleRevisionsResponse>, Status> {
        Ok(Response::new(self.revisions(request.into_inner()).await?))
    }

    async fn count_articles(&self, request: Request<v1::CountArticlesRequest>) -> Result<Response<v1::CountArticlesResponse>, Status> {
        Ok(Response::new(self.count(request.into_inner()).await?))
    }

    async fn resolve_url(&self, request: Request<v1::ResolveUrlRequest>) -> Result<Response<v1::ResolveUrlResponse>, Status> {
        let text = request.into_inner().url;
        let url = convert::url("url", &text, &self.limits.article).map_err(ApiError::from)?;
        let resolution = crate::article::CanonicalUrl::resolve(&text);
        let applied_rules = resolution.map(|found| found.applied.iter().map(|rule| rule.name().to_owned()).collect()).unwrap_or_default();
        let dates = self.store.article_dates(&url, RESOLVED_DATES).await.map_err(ApiError::from)?;
        Ok(Response::new(v1::ResolveUrlResponse {
            canonical_url: url.to_string(),
            url_key: url.key().to_owned(),
            host: url.host(),
            applied_rules,
            rules_version: RULES_VERSION.into(),
            dates: dates.into_iter().map(|date| date.to_string()).collect(),
        }))
    }
}

impl Api {
    async fn lookup(&self, keys: &[v1::ArticleKey], fields: FieldSet, out: &Outgoing<v1::LookupArticlesResponse>) -> Result<(), ApiError> {
        let parsed: Vec<_> = keys.iter().map(|key| convert::key("keys", Some(key), &self.limits.article)).collect();
        let valid: Vec<ArticleKey> = parsed.iter().filter_map(|key| key.as_ref().ok()).cloned().collect();
        let (mut rest, mut valid) = (&parsed[..], &valid[..]);
        while !rest.is_empty() {
            let share = out.share(STREAM_MESSAGE_BYTES).await?;
            let next = &valid[..valid.len().min(LOOKUP_STEP)];
            let found = if next.is_empty() { Vec::new() } else { self.store.articles(next, STREAM_TEXT_BYTES).await? };
            let (mut found, mut used) = (found.into_iter(), 0);
            let (mut results, mut bytes) = (Vec::new(), 0);
            for key in rest {
                let result = match key {
                    Err(violations) => Err(ApiError::Violations(violations.clone())),
                    Ok(key) => match found.next() {
                        None => break,
                        Some(Ok(Some(article))) => Ok(convert::article_to_wire(article, fields)),
                        Some(Ok(None)) => Err(ApiError::ArticleNotFound(key.to_string())),
                        Some(Err(error)) => Err(error.into()),
                    },
                };
                bytes += result.as_ref().map_or(256, wire_size);
                if bytes > STREAM_MESSAGE_BYTES && !results.is_empty() {
                    break;
                }
                used += usize::from(key.is_ok());
                results.push(lookup_result(result));
            }
            rest = &rest[results.len()..];
            valid = &valid[used..];
            out.send(v1::LookupArticlesResponse { results }, Some(share)).await?;
        }
        Ok(())
    }

    /// A page, with the share of the response budget that it takes.
    async fn list(&self, request: v1::ListArticlesRequest) -> Result<(v1::ListArticlesResponse, BudgetShare), ApiError> {
        let limit = convert::page_size(request.page_size, self.limits.default_page_size, self.limits.max_page_size)?;
        let fields = convert::read_mask(request.read_mask.as_ref())?;
        let mut scan = self.scan_of(request.filter.as_ref(), request.order, "page_token", &request.page_token)?;
        scan.limit = limit;
        scan.text_budget = self.limits.response_bytes / 2;
        let tokens = TokenScope::scan(self.store_id(), &scan.filter, scan.direction);
        let mut share = self.response_budget.share(self.limits.response_bytes).await?;
        let (Page { items, next }, _) = self.page(&scan, fields, self.limits.response_bytes).await?;
        let next_page_token = next.map(|key| tokens.write(&Place::Article(key))).unwrap_or_default();
        let page = v1::ListArticlesResponse { articles: items, next_page_token };
        share.shrink(prost::Message::encoded_len(&page));
        Ok((page, share))
    }

    async fn stream(&self, mut scan: ScanRequest, fields: FieldSet, out: &Outgoing<v1::StreamArticlesResponse>) -> Result<(), ApiError> {
        use v1::stream_articles_response::Event;
        let message = |event| v1::StreamArticlesResponse { event: Some(event) };
        let tokens = TokenScope::scan(self.store_id(), &scan.filter, scan.direction);
        let watch_token = TokenScope::changes(self.store_id()).write(&Place::Change(self.store.sequence()));
        out.send(message(Event::Started(v1::StreamStarted { watch_token })), None).await?;
        let mut article_count = 0;
        loop {
            let share = out.share(STREAM_MESSAGE_BYTES).await?;
            let (Page { items, next }, last) = self.page(&scan, fields, STREAM_MESSAGE_BYTES).await?;
            article_count += items.len() as i64;
            // The last batch has a token as well: without one, a stream that is cut off after it would begin anew.
            if let Some(last) = last {
                let resume_token = tokens.write(&Place::Article(last));
                out.send(message(Event::Batch(v1::ArticleBatch { articles: items, resume_token })), Some(share)).await?;
            }
            scan.after = next;
            if scan.after.is_none() {
                return out.send(message(Event::Ended(v1::StreamEnded { article_count })), None).await;
            }
        }
    }

    /// A page of articles with these fields, by the cheapest way, that takes at most so many bytes on the wire or holds one
    /// article; and the key of its last.
    async fn page(
        &self,
        scan: &ScanRequest,
        fields: FieldSet,
        wire_bytes: usize,
    ) -> Result<(Page<v1::Article>, Option<ArticleKey>), ApiError> {
        let (found, next): (Vec<(ArticleKey, v1::Article)>, _) = if fields.needs_only_head() {
            let Page { items, next } = self.store.scan_heads(scan).await?;
            let wire = |head: crate::article::ArticleHead| {
                let article = convert::head_to_wire(&head, fields);
                (head.key, article)
            };
            (items.into_iter().map(wire).collect(), next)
        } else {
            let Page { items, next } = self.store.scan(scan).await?;
            (items.into_iter().map(|article| (article.head.key.clone(), convert::article_to_wire(article, fields))).collect(), next)
        };
        let (mut items, mut last) = (Vec::with_capacity(found.len()), None);
        let mut bytes = 0;
        for (key, article) in found {
            bytes += wire_size(&article);
            if bytes > wire_bytes && !items.is_empty() {
                return Ok((Page { items, next: last.clone() }, last));
            }
            items.push(article);
            last = Some(key);
        }
        Ok((Page { items, next }, last))
    }

    fn scan_of(
        &self,
        filter: Option<&v1::ArticleFilter>,
        order: i32,
        token_field: &'static str,
        token: &str,
    ) -> Result<ScanRequest, ApiError> {
        let filter = convert::filter(filter)?;
        let direction = convert::direction(order)?;
        let after = match token {
            "" => None,
            token => match TokenScope::scan(self.store_id(), &filter, direction).read(token) {
                Ok(Place::Article(key)) => Some(key),
                Ok(_) => return Err(ApiError::TokenMismatch(token_field)),
                Err(error) => return Err(ApiError::token(token_field, error)),
            },
        };
        Ok(ScanRequest { filter, direction, after, limit: self.limits.max_page_size, text_budget: STREAM_TEXT_BYTES })
    }

    async fn put(&self, request: v1::PutArticleRequest) -> Result<Written, ApiError> {
        use v1::put_article_request::Precondition as Wire;
        let within =
            |violations: Vec<FieldViolation>| violations.into_iter().map(|violation| violation.within("article")).collect::<Vec<_>>();
        let fields = convert::update_mask(request.update_mask.as_ref())?;
        let precondition = match &request.precondition {
            None | Some(Wire::MustNotExist(false)) => Precondition::None,
            Some(Wire::MustNotExist(true)) => Precondition::MustNotExist,
            Some(Wire::Etag(etag)) => Precondition::Etag(parse_etag("etag", etag)?),
        };
        let article = request.article.ok_or_else(|| FieldViolation::new("article", Reason::Required, "is missing"))?;
        let draft = convert::draft_from_wire(article).map_err(within)?;
        let _share = self.ingest_budget.share(draft.title.len() + draft.lead.len() + draft.body.len()).await?;
        let Some(fields) = fields else {
            let article = draft.validate(&self.limits.article).map_err(within)?;
            let key = article.key().clone();
            let outcome = self.write_one(Write::Put { article: Box::new(article), precondition }).await?;
            return outcome.map_err(|refusal| ApiError::refused(refusal, key));
        };
        if precondition == Precondition::MustNotExist {
            return Err(
                FieldViolation::new("must_not_exist", Reason::InvalidArgument, "contradicts update_mask, which needs an article").into()
            );
        }
        let key = v1::ArticleKey { date: draft.date.clone(), url: draft.url.clone() };
        let key = convert::key("article", Some(&key), &self.limits.article)?;
        self.update(key, draft, fields, precondition).await
    }

    /// Merges an update into what is stored, again where that changes meanwhile.
    async fn update(
        &self,
        key: ArticleKey,
        draft: ArticleDraft,
        fields: FieldSet,
        precondition: Precondition,
    ) -> Result<Written, ApiError> {
        let limits = crate::article::Limits { horizon: crate::article::DateHorizon::Unlimited, ..self.limits.article };
        for _ in 0..MERGE_TRIES {
            let stored = self.store.article(&key).await?.ok_or_else(|| ApiError::ArticleNotFound(key.to_string()))?;
            let etag = stored.head.etag();
            if matches!(precondition, Precondition::Etag(expected) if expected != etag) {
                return Err(ApiError::EtagMismatch(key));
            }
            let merged = convert::merge(ArticleDraft::from(stored.article), draft.clone(), fields);
            let article = merged.validate(&limits)?;
            match self.write_one(Write::Put { article: Box::new(article), precondition: Precondition::Etag(etag) }).await? {
                Ok(written) => return Ok(written),
                Err(crate::storage::WriteRefusal::EtagMismatch) => {}
                Err(refusal) => return Err(ApiError::refused(refusal, key)),
            }
        }
        Err(ApiError::EtagMismatch(key))
    }

    async fn write_one(&self, write: Write) -> Result<WriteOutcome, ApiError> {
        let mut outcome = self.store.write(WriteBatch { writes: vec![write], stream: None }).await?;
        outcome.outcomes.pop().ok_or_else(|| crate::storage::StoreError::Closed.into())
    }

    async fn delete_all(&self, filter: Filter, validate_only: bool) -> Result<v1::DeleteArticlesResponse, ApiError> {
        let mut scan = ScanRequest { filter, direction: Direction::Ascending, after: None, limit: DELETE_STEP, text_budget: usize::MAX };
        let mut response = v1::DeleteArticlesResponse::default();
        loop {
            if self.drain.over.is_cancelled() {
                return Err(ApiError::Draining);
            }
            let page = self.store.scan_heads(&scan).await?;
            if validate_only {
                response.article_count += page.items.len() as i64;
                response.text_bytes += page.items.iter().map(|head| head.text_bytes as i64).sum::<i64>();
            } else {
                let delete = |head: crate::article::ArticleHead| Write::Delete { key: head.key, precondition: Precondition::None };
                let writes = page.items.into_iter().map(delete).collect();
                for written in self.store.write(WriteBatch { writes, stream: None }).await?.outcomes.into_iter().flatten() {
                    response.article_count += 1;
                    response.text_bytes += written.head().text_bytes as i64;
                }
            }
            scan.after = page.next;
            if scan.after.is_none() {
                return Ok(response);
            }
        }
    }

    async fn count(&self, request: v1::CountArticlesRequest) -> Result<v1::CountArticlesResponse, ApiError> {
        let limit = convert::page_size(request.page_size, self.limits.default_page_size, self.limits.max_page_size)?;
        let filter = convert::filter(request.filter.as_ref())?;
        let kind = match v1::CountGroup::try_from(request.group_by) {
            Ok(v1::CountGroup::Unspecified) => GroupBy::Total,
            Ok(v1::CountGroup::Day) => GroupBy::Day(None),
            Ok(v1::CountGroup::Host) => GroupBy::Host(None),
            Err(_) => return Err(FieldViolation::new("group_by", Reason::InvalidArgument, "is no group to count by").into()),
        };
        let tokens = TokenScope::count(self.store_id(), &filter, &kind);
        let group_by = match request.page_token.as_str() {
            "" => kind,
            token => match (kind, tokens.read(token).map_err(|error| ApiError::token("page_token", error))?) {
                (GroupBy::Day(_), Place::Day(day)) => GroupBy::Day(Some(day)),
                (GroupBy::Host(_), Place::Host(host)) => GroupBy::Host(Some(host)),
                _ => return Err(ApiError::TokenMismatch("page_token")),
            },
        };
        // One more than asked for tells whether another page follows.
        let mut groups = self.store.count(&CountRequest { filter, group_by, limit: limit + 1 }).await?;
        let more = groups.len() > limit;
        groups.truncate(limit);
        let place = groups.last().filter(|_| more).and_then(|last| match &last.group {
            CountedGroup::Total => None,
            CountedGroup::Day(day) => Some(Place::Day(*day)),
            CountedGroup::Host(host) => Some(Place::Host(host.clone())),
        });
        let counts = groups.into_iter().map(|counted| {
            use v1::article_count::Group;
            let group = match counted.group {
                CountedGroup::Total => None,
                CountedGroup::Day(day) => Some(Group::Date(day.to_string())),
                CountedGroup::Host(host) => Some(Group::Host(host.host())),
            };
            v1::ArticleCount { group, article_count: counted.count as i64 }
        });
        let next_page_token = place.map(|place| tokens.write(&place)).unwrap_or_default();
        Ok(v1::CountArticlesResponse { counts: counts.collect(), next_page_token })
    }
}

/// What an article takes in a message.
pub(super) fn wire_size(article: &v1::Article) -> usize {
    prost::Message::encoded_len(article) + 8
}

fn lookup_result(result: Result<v1::Article, ApiError>) -> v1::LookupResult {
    use v1::lookup_result::Result as Wire;
    v1::LookupResult { result: Some(result.map_or_else(|error| Wire::Error(convert::item_error(&error)), Wire::Article)) }
}

fn parse_etag(field: &str, text: &str) -> Result<Etag, ApiError> {
    text.parse().map_err(|error: crate::article::EtagError| FieldViolation::new(field, Reason::InvalidEtag, error.to_string()).into())
}
