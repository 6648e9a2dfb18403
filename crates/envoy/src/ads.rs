//! The server of delta ADS: one method of gRPC on a Unix socket, whose streams each have a [`Delta`].

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::server::{NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};

use crate::delta::{self, Delta, Effect, Kind, Model, Settled};
use crate::streamed::{self, Answered};

/// What Envoy sends at most in one message: the versions of all it holds.
const MAX_MESSAGE: usize = 16 << 20;

/// Responses that wait to be taken: at most one of each kind is under way.
const WAITING: usize = 8;

/// Streams' events that wait for the link.
const EVENTS: usize = 64;

/// The messages of `envoy.service.discovery.v3`, as far as they are used.
mod message {
    use std::collections::HashMap;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct DeltaDiscoveryRequest {
        #[prost(string, tag = "2")]
        pub(super) type_url: String,
        #[prost(string, repeated, tag = "3")]
        pub(super) resource_names_subscribe: Vec<String>,
        #[prost(string, repeated, tag = "4")]
        pub(super) resource_names_unsubscribe: Vec<String>,
        #[prost(map = "string, string", tag = "5")]
        pub(super) initial_resource_versions: HashMap<String, String>,
        #[prost(string, tag = "6")]
        pub(super) response_nonce: String,
        #[prost(message, optional, tag = "7")]
        pub(super) error_detail: Option<Status>,
    }

    /// `google.rpc.Status`
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Status {
        #[prost(string, tag = "2")]
        pub(super) message: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct DeltaDiscoveryResponse {
        #[prost(string, tag = "1")]
        pub(super) system_version_info: String,
        #[prost(message, repeated, tag = "2")]
        pub(super) resources: Vec<Resource>,
        #[prost(string, tag = "4")]
        pub(super) type_url: String,
        #[prost(string, tag = "5")]
        pub(super) nonce: String,
        #[prost(string, repeated, tag = "6")]
        pub(super) removed_resources: Vec<String>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Resource {
        #[prost(string, tag = "1")]
        pub(super) version: String,
        #[prost(message, optional, tag = "2")]
        pub(super) resource: Option<Any>,
        #[prost(string, tag = "3")]
        pub(super) name: String,
    }

    /// `google.protobuf.Any`
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Any {
        #[prost(string, tag = "1")]
        pub(super) type_url: String,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) value: Vec<u8>,
    }
}

use message::{Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};

/// What a stream tells the link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// An Envoy has come; it says what it holds and is told the rest.
    Opened,
    Settled(Settled),
    Closed,
}

/// An event with the number of its stream: each that comes later has a higher one.
pub(crate) type Told = (u64, Event);

/// The service. All streams follow the same model.
#[derive(Debug, Clone)]
pub(crate) struct Ads {
    model: watch::Receiver<Arc<Model>>,
    events: mpsc::Sender<Told>,
    streams: Arc<std::sync::atomic::AtomicU64>,
}

impl Ads {
    pub(crate) fn new(model: watch::Receiver<Arc<Model>>) -> (Self, mpsc::Receiver<Told>) {
        let (events, told) = mpsc::channel(EVENTS);
        (Self { model, events, streams: Arc::default() }, told)
    }

    /// Serves on a socket for as long as anybody may ask.
    pub(crate) async fn serve(self, socket: tokio::net::UnixListener) -> Result<(), tonic::transport::Error> {
        let incoming = tokio_stream::wrappers::UnixListenerStream::new(socket);
        tonic::transport::Server::builder().add_service(self).serve_with_incoming(incoming).await
    }
}

impl NamedService for Ads {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

impl tower_service::Service<http::Request<Body>> for Ads {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answered;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answered {
        streamed::answer(self.clone(), ("DeltaAggregatedResources", MAX_MESSAGE), request)
    }
}

impl StreamingService<DeltaDiscoveryRequest> for Ads {
    type Response = DeltaDiscoveryResponse;
    type ResponseStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Self::ResponseStream>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<DeltaDiscoveryRequest>>) -> Self::Future {
        let (responses, outgoing) = mpsc::channel(WAITING);
        let number = self.streams.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        let stream = Stream { number, model: self.model.clone(), events: self.events.clone(), responses };
        tokio::spawn(stream.run(request.into_inner()));
        Box::pin(std::future::ready(Ok(Response::new(ReceiverStream::new(outgoing)))))
    }
}

/// One Envoy that is connected.
struct Stream {
    number: u64,
    model: watch::Receiver<Arc<Model>>,
    events: mpsc::Sender<Told>,
    responses: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
}

impl Stream {
    async fn run(mut self, mut requests: Streaming<DeltaDiscoveryRequest>) {
        let mut delta = Delta::new(Arc::clone(&self.model.borrow_and_update()));
        self.tell(Event::Opened).await;
        loop {
            let next = delta.next_deadline();
            let effects = tokio::select! {
                received = requests.message() => match received {
                    Ok(Some(request)) =>
                        parse(request).map_or_else(Vec::new, |request| delta.request(request, Instant::now())),
                    Ok(None) => break,
                    Err(error) => {
                        tracing::debug!(%error, "a stream to Envoy ended");
                        break;
                    }
                },
                changed = self.model.changed() => match changed {
                    Ok(()) => delta.want(Arc::clone(&self.model.borrow_and_update())),
                    Err(_) => break,
                },
                () = at(next) => delta.pass(Instant::now()),
            };
            if !self.carry_out(effects).await {
                break;
            }
        }
        self.tell(Event::Closed).await;
    }

    async fn tell(&self, event: Event) {
        // The link has ended, and with it this server.
        drop(self.events.send((self.number, event)).await);
    }

    /// Whether Envoy is still there.
    async fn carry_out(&self, effects: Vec<Effect>) -> bool {
        for effect in effects {
            match effect {
                Effect::Send(response) => {
                    if self.responses.send(Ok(message(response))).await.is_err() {
                        return false;
                    }
                }
                Effect::Settled(settled) => self.tell(Event::Settled(settled)).await,
            }
        }
        true
    }
}

/// At this time; never, if there is none.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

/// `None`: of a kind that was never offered.
fn parse(request: DeltaDiscoveryRequest) -> Option<delta::Request> {
    let initial: HashMap<String, String> = request.initial_resource_versions;
    Some(delta::Request {
        kind: Kind::of_url(&request.type_url)?,
        subscribe: request.resource_names_subscribe,
        unsubscribe: request.resource_names_unsubscribe,
        initial: initial.into_iter().collect::<BTreeMap<_, _>>(),
        nonce: request.response_nonce,
        error: request.error_detail.map(|status| status.message),
    })
}

fn message(response: delta::Response) -> DeltaDiscoveryResponse {
    let type_url = response.kind.type_url();
    let resource = |(name, resource): (String, delta::Resource)| Resource {
        version: resource.version,
        resource: Some(Any { type_url: type_url.clone(), value: resource.body.to_vec() }),
        name,
    };
    DeltaDiscoveryResponse {
        system_version_info: response.generation.to_string(),
        resources: response.upserts.into_iter().map(resource).collect(),
        type_url: type_url.clone(),
        nonce: response.nonce,
        removed_resources: response.removed,
    }
}
