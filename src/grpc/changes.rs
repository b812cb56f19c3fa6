//! ChangeService: not served by this version; changes are recorded all the same.

use tonic::{Request, Response, Status};

use super::Api;
use super::outgoing::OutgoingStream;
use super::status::ApiError;
use super::v1::{self, change_service_server::ChangeService};

#[tonic::async_trait]
impl ChangeService for Api {
    type WatchArticlesStream = OutgoingStream<v1::WatchArticlesResponse>;

    async fn watch_articles(&self, _: Request<v1::WatchArticlesRequest>) -> Result<Response<Self::WatchArticlesStream>, Status> {
        Err(ApiError::Unimplemented("WatchArticles").into())
    }

    async fn get_change_bounds(&self, _: Request<v1::GetChangeBoundsRequest>) -> Result<Response<v1::GetChangeBoundsResponse>, Status> {
        Err(ApiError::Unimplemented("GetChangeBounds").into())
    }
}
