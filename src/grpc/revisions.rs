//! GetArticle and ListArticleRevisions: an article in its versions.

use super::articles::wire_size;
use super::status::ApiError;
use super::v1::{self, get_article_request::Target, get_article_request::Version};
use super::{Api, convert};
use crate::article::{ArticleKey, FieldViolation, Reason, StoredArticle, Timestamp};
use crate::storage::token::{Place, TokenScope};
use crate::storage::{FoundRevision, Page, RevisionsRequest};

impl Api {
    pub(super) async fn get(&self, request: v1::GetArticleRequest) -> Result<v1::Article, ApiError> {
        let fields = convert::read_mask(request.read_mask.as_ref())?;
        let found = match (request.target, request.version) {
            (None, _) => return Err(FieldViolation::new("target", Reason::Required, "is missing: set key or url").into()),
            (Some(Target::Key(key)), version) => {
                let key = convert::key("key", Some(&key), &self.limits.article)?;
                match version {
                    None => self.store.article(&key).await?.ok_or_else(|| ApiError::ArticleNotFound(key.to_string()))?,
                    Some(version) => self.version(key, version).await?,
                }
            }
            (Some(Target::Url(url)), version) => {
                let url = convert::url("url", &url, &self.limits.article)?;
                let latest = self.store.latest_article(&url).await?;
                let latest = latest.ok_or_else(|| ApiError::ArticleNotFound(format!("with the URL {url}")))?;
                match version {
                    None => latest,
                    Some(version) => self.version(latest.head.key, version).await?,
                }
            }
        };
        Ok(convert::article_to_wire(found, fields))
    }

    async fn version(&self, key: ArticleKey, version: Version) -> Result<StoredArticle, ApiError> {
        let (found, version) = match version {
            Version::Revision(revision) => {
                let number = u64::try_from(revision).ok().filter(|number| *number > 0);
                let number = number.ok_or_else(|| FieldViolation::new("revision", Reason::InvalidArgument, "is less than 1"))?;
                (self.store.revision(&key, number).await?, format!("in revision {number}"))
            }
            Version::AsOf(time) => {
                let time = Timestamp::from_parts(time.seconds, time.nanos)
                    .map_err(|error| FieldViolation::new("as_of", Reason::InvalidTimestamp, error.to_string()))?;
                (self.store.revision_as_of(&key, time).await?, format!("as of {time}"))
            }
        };
        match found {
            FoundRevision::Kept(found) => return Ok(*found),
            FoundRevision::NotKept => return Err(ApiError::RevisionNotKept { key, version }),
            FoundRevision::Missing => {}
        }
        if self.is_there(&key).await? {
            Err(ApiError::RevisionNotFound { key, version })
        } else {
            Err(ApiError::ArticleNotFound(key.to_string()))
        }
    }

    async fn is_there(&self, key: &ArticleKey) -> Result<bool, ApiError> {
        let latest = RevisionsRequest { key: key.clone(), before: None, limit: 1, text_budget: 0 };
        Ok(!self.store.revision_heads(&latest).await?.items.is_empty())
    }

    pub(super) async fn revisions(&self, request: v1::ListArticleRevisionsRequest) -> Result<v1::ListArticleRevisionsResponse, ApiError> {
        let limit = convert::page_size(request.page_size, self.limits.default_page_size, self.limits.max_page_size)?;
        let fields = convert::read_mask(request.read_mask.as_ref())?;
        let key = convert::key("key", request.key.as_ref(), &self.limits.article)?;
        let tokens = TokenScope::revisions(self.store_id(), &key);
        let before = match request.page_token.as_str() {
            "" => None,
            token => match tokens.read(token).map_err(|error| ApiError::token("page_token", error))? {
                Place::Revision(revision) => Some(revision),
                _ => return Err(ApiError::TokenMismatch("page_token")),
            },
        };
        let wanted = RevisionsRequest { key, before, limit, text_budget: self.limits.response_bytes / 2 };
        let _share = self.response_budget.share(self.limits.response_bytes).await?;
        let (found, mut next): (Vec<(u64, v1::Article)>, _) = if fields.needs_only_head() {
            let Page { items, next } = self.store.revision_heads(&wanted).await?;
            (items.into_iter().map(|head| (head.revision, convert::head_to_wire(&head, fields))).collect(), next)
        } else {
            let Page { items, next } = self.store.revisions(&wanted).await?;
            (items.into_iter().map(|stored| (stored.head.revision, convert::article_to_wire(stored, fields))).collect(), next)
        };
        // What a page would go on with may have been dropped since the one before it.
        if found.is_empty() && !(before.is_some() && self.is_there(&wanted.key).await?) {
            return Err(ApiError::ArticleNotFound(wanted.key.to_string()));
        }
        let (mut revisions, mut bytes, mut last) = (Vec::with_capacity(found.len()), 0, None);
        for (revision, article) in found {
            bytes += wire_size(&article);
            if bytes > self.limits.response_bytes && last.is_some() {
                next = last;
                break;
            }
            revisions.push(article);
            last = Some(revision);
        }
        let next_page_token = next.map(|revision| tokens.write(&Place::Revision(revision))).unwrap_or_default();
        Ok(v1::ListArticleRevisionsResponse { revisions, next_page_token })
    }
}
