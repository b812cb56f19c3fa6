//! Messages of the ingestion that hold something which is no article: the whole message is refused, whatever else it holds.

use bytes::Bytes;
use dateline::client::ClientError;
use dateline::client::v1;
use dateline::grpc::undecoded::{BatchIngestArticlesRequest, IngestArticlesRequest, IngestItems, IngestMessage};
use http::uri::PathAndQuery;
use prost::Message;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use super::harness::{Daemon, article};

/// An article's message, whole and in three ways that are none.
fn whole() -> Bytes {
    article("2024-05-01", "https://example.com/whole", "T", "Text").encode_to_vec().into()
}

fn broken() -> [Bytes; 3] {
    let whole = whole();
    let text = whole.windows(4).position(|bytes| bytes == b"Text").unwrap();
    let no_utf8 = [&whole[..text], &[0xff; 4], &whole[text + 4..]].concat();
    [no_utf8.into(), whole.slice(..whole.len() - 1), Bytes::from_static(&[0xff; 12])]
}

async fn client(daemon: &Daemon) -> Grpc<Channel> {
    let mut client = Grpc::new(Endpoint::from_shared(daemon.address.clone()).unwrap().connect().await.unwrap());
    client.ready().await.unwrap();
    client
}

fn reason(status: Status) -> String {
    ClientError::from(status).reason
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_with_an_undecodable_article_stores_nothing() {
    let daemon = Daemon::start().await;
    let path = PathAndQuery::from_static("/dateline.v1.IngestService/BatchIngestArticles");
    for broken in broken() {
        let codec: ProstCodec<BatchIngestArticlesRequest, v1::BatchIngestArticlesResponse> = ProstCodec::default();
        let request = Request::new(BatchIngestArticlesRequest { articles: vec![whole(), broken] });
        let refused = client(&daemon).await.unary(request, path.clone(), codec).await.unwrap_err();
        assert_eq!(reason(refused), "MESSAGE_UNDECODABLE");
    }
    assert_eq!(daemon.client.status().await.unwrap().contents.unwrap().article_count, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_an_undecodable_item_after_what_came_before() {
    let daemon = Daemon::start().await;
    let path = PathAndQuery::from_static("/dateline.v1.IngestService/IngestArticles");
    for (number, broken) in broken().into_iter().enumerate() {
        let codec: ProstCodec<IngestArticlesRequest, v1::IngestArticlesResponse> = ProstCodec::default();
        let items = |first_item, articles| IngestItems { first_item, articles, ..Default::default() };
        let messages = [
            IngestMessage::Open(v1::IngestOpen { stream_id: format!("stream-{number}"), ..Default::default() }),
            IngestMessage::Items(items(0, vec![whole()])),
            IngestMessage::Items(items(1, vec![whole(), broken])),
        ];
        let messages = messages.map(|message| IngestArticlesRequest { message: Some(message) });
        let request = Request::new(tokio_stream::iter(messages));
        let mut replies = client(&daemon).await.streaming(request, path.clone(), codec).await.unwrap().into_inner();
        let mut acknowledged = 0;
        let refused = loop {
            match replies.message().await {
                Ok(Some(reply)) => {
                    if let Some(v1::ingest_articles_response::Message::Ack(ack)) = reply.message {
                        acknowledged = ack.next_item;
                    }
                }
                Ok(None) => panic!("the stream ended well"),
                Err(refused) => break refused,
            }
        };
        assert_eq!((acknowledged, reason(refused)), (1, "MESSAGE_UNDECODABLE".into()));
    }
    assert_eq!(daemon.client.status().await.unwrap().contents.unwrap().article_count, 1);
}
