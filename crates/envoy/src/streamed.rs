//! A gRPC service of one method that streams both ways.

use std::convert::Infallible;
use std::pin::Pin;

use prost::Message;
use tonic::body::Body;
use tonic::server::{Grpc, StreamingService};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

pub(crate) type Answered = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

/// Answers for a service whose one method has this name, and whose messages have at most so many bytes.
pub(crate) fn answer<S, Req, Res>(
    service: S,
    (only, most): (&'static str, usize),
    request: http::Request<Body>,
) -> Answered
where
    S: StreamingService<Req, Response = Res> + Send + 'static,
    S::ResponseStream: Send + 'static,
    S::Future: Send,
    Req: Message + Default + Send + 'static,
    Res: Message + Send + 'static,
{
    Box::pin(async move {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default();
        if method != only {
            return Ok(Status::new(Code::Unimplemented, format!("only {only} is there")).into_http());
        }
        let mut grpc = Grpc::new(ProstCodec::<Res, Req>::default()).max_decoding_message_size(most);
        Ok(grpc.streaming(service, request).await)
    })
}
