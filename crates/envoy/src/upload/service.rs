//! `envoy.service.ext_proc.v3.ExternalProcessor`: one stream for each request.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bowline_core::patience::{Patience, TICK};
use bowline_core::upload::{Extensions, UploadFault};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_stream::Stream;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::server::{NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};

use super::judge::{Head, Heard, Judge, Refusal, Say, Wants};
use super::message::{
    BodyMutation, Changed, CommonResponse, HeaderMutation, HeaderValue, HeaderValueOption, HttpStatus,
    ImmediateResponse, OVERWRITE_IF_EXISTS_OR_ADD, ProcessingRequest, ProcessingResponse, StreamedBodyResponse, Struct,
    TrailersResponse, Value,
};
use super::places::Places;
use super::{APP, CLIENT, EXTENSIONS, LENGTH, MOST, NAME, PATIENCE};
use crate::resources::{LATE, TOO_LARGE};
use crate::streamed::{self, Answered};

/// A message of Envoy's: what it has read of a body at once, about 256 KiB, or a head.
const MAX_MESSAGE: usize = 1 << 20;

/// Messages that wait to be taken by Envoy. While it takes none, none is heard either.
const WAITING: usize = 4;

/// The service. What it holds at once is bounded.
#[derive(Debug, Clone, Default)]
pub(super) struct UploadFilter {
    places: Arc<Places>,
}

impl NamedService for UploadFilter {
    const NAME: &'static str = "envoy.service.ext_proc.v3.ExternalProcessor";
}

impl tower_service::Service<http::Request<Body>> for UploadFilter {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answered;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answered {
        streamed::answer(self.clone(), ("Process", MAX_MESSAGE), request)
    }
}

impl StreamingService<ProcessingRequest> for UploadFilter {
    type Response = ProcessingResponse;
    type ResponseStream = Answers;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answers>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<ProcessingRequest>>) -> Self::Future {
        Box::pin(std::future::ready(self.begin(request)))
    }
}

impl UploadFilter {
    fn begin(&self, request: Request<Streaming<ProcessingRequest>>) -> Result<Response<Answers>, Status> {
        let wants = wants(request.metadata())?;
        let (answers, told) = mpsc::channel(WAITING);
        tokio::spawn(stay(Judge::new(wants), request.into_inner(), answers, Arc::clone(&self.places)));
        Ok(Response::new(Answers { told, is_over: false }))
    }
}

fn wants(metadata: &MetadataMap) -> Result<Wants, Status> {
    let field = |name| {
        let value = metadata.get(name).and_then(|value| value.to_str().ok());
        value.ok_or_else(|| Status::invalid_argument(format!("{name} is missing")))
    };
    let number = |name| -> Result<u64, Status> {
        field(name)?.parse().map_err(|_| Status::invalid_argument(format!("{name} is no number")))
    };
    let extensions: Vec<String> = field(EXTENSIONS)?.split(',').map(str::to_owned).collect();
    let client = field(CLIENT)?.parse();
    Ok(Wants {
        app: field(APP)?.to_owned(),
        client: client.map_err(|_| Status::invalid_argument(format!("{CLIENT} is no address")))?,
        patience: Duration::from_millis(number(PATIENCE)?),
        extensions: Arc::new(Extensions::new(&extensions)),
        most: number(MOST)?,
    })
}

/// What is told to Envoy of one stream.
type Told = Result<Word, Status>;

#[derive(Debug)]
enum Word {
    Say(Box<ProcessingResponse>),
    /// Nothing more is to be said.
    Over,
}

/// A stream's messages. One that ends without having come to its end, because whoever judges has failed, ends with an error: a stream that
/// ends well before that would let its body on.
#[derive(Debug)]
pub(super) struct Answers {
    told: mpsc::Receiver<Told>,
    is_over: bool,
}

impl Stream for Answers {
    type Item = Result<ProcessingResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let word =
            ready!(self.told.poll_recv(cx)).unwrap_or_else(|| Err(Status::aborted("it was not judged to its end")));
        Poll::Ready(match word {
            Ok(Word::Say(message)) => Some(Ok(*message)),
            Ok(Word::Over) => {
                self.is_over = true;
                None
            }
            Err(status) => {
                self.is_over = true;
                Some(Err(status))
            }
        })
    }
}

/// Hears a request to its end, or as long as Envoy wants to know.
async fn stay(
    mut judge: Judge,
    requests: Streaming<ProcessingRequest>,
    answers: mpsc::Sender<Told>,
    places: Arc<Places>,
) {
    let patience = Patience::new(judge.wants().patience);
    let mut client = Client { requests, began: Instant::now(), patience, bytes: 0 };
    let mut place = None;
    while !judge.is_over() {
        let said = match client.next().await {
            Next::Message(message) => message.try_into().and_then(|heard: Heard| {
                if let Heard::Head(Head { is_whole: false, .. }) = heard {
                    let Wants { app, client, .. } = judge.wants();
                    place = Some(places.take(app, *client).ok_or_else(too_many)?);
                }
                let out_of_order = |_| Status::failed_precondition("this does not follow from what was said before");
                judge.handle(heard).map_err(out_of_order)
            }),
            Next::Late => Ok(vec![judge.give_up()]),
            Next::Gone => return,
        };
        let words = match said {
            Ok(said) => said.into_iter().map(|say| Ok(Word::Say(Box::new(say.into())))).collect(),
            Err(status) => {
                tracing::warn!(%status, app = judge.wants().app, "a request is not judged");
                vec![Err(status)]
            }
        };
        for word in words {
            let is_last = word.is_err();
            if answers.send(word).await.is_err() || is_last {
                return;
            }
        }
    }
    // Envoy may be gone.
    drop(answers.send(Ok(Word::Over)).await);
    drop(place);
}

fn too_many() -> Status {
    Status::resource_exhausted("too many bodies of this app or client are judged at once")
}

/// What comes of one client, through Envoy.
struct Client {
    requests: Streaming<ProcessingRequest>,
    began: Instant,
    patience: Patience,
    /// Of its body, by now.
    bytes: u64,
}

enum Next {
    Message(ProcessingRequest),
    Late,
    /// The client has gone, or Envoy.
    Gone,
}

impl Client {
    async fn next(&mut self) -> Next {
        let until = self.patience.waits(self.now());
        let until = self.began + TICK.saturating_mul(u32::try_from(until).unwrap_or(u32::MAX));
        let message = match timeout_at(until, self.requests.message()).await {
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None) | Err(_)) => return Next::Gone,
            Err(_) => return Next::Late,
        };
        self.bytes += message.request_body.as_ref().map_or(0, |body| body.body.len() as u64);
        self.patience.moved(self.now(), self.bytes);
        Next::Message(message)
    }

    /// In ticks.
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis() / TICK.as_millis()).unwrap_or(u64::MAX)
    }
}

impl TryFrom<ProcessingRequest> for Heard {
    type Error = Status;

    fn try_from(message: ProcessingRequest) -> Result<Self, Status> {
        match (message.request_headers, message.request_body, message.request_trailers) {
            (Some(head), None, None) => {
                let fields = head.headers.unwrap_or_default().headers;
                let fields = fields.into_iter().map(|field| (field.key, field.raw_value)).collect();
                Ok(Self::Head(Head { fields, is_whole: head.end_of_stream }))
            }
            (None, Some(body), None) => Ok(Self::Body { bytes: body.body, is_last: body.end_of_stream }),
            (None, None, Some(_)) => Ok(Self::Trailers),
            _ => Err(Status::unimplemented("only what a request consists of is heard")),
        }
    }
}

impl From<Say> for ProcessingResponse {
    fn from(say: Say) -> Self {
        match say {
            Say::Head { length } => Self {
                request_headers: Some(Changed::default()),
                dynamic_metadata: length.map(announced),
                ..Self::default()
            },
            Say::Body { bytes, is_last } => {
                let streamed_response = Some(StreamedBodyResponse { body: bytes, end_of_stream: is_last });
                let body_mutation = Some(BodyMutation { streamed_response });
                let request_body = Some(Changed { response: Some(CommonResponse { body_mutation }) });
                Self { request_body, ..Self::default() }
            }
            Say::Trailers => Self { request_trailers: Some(TrailersResponse {}), ..Self::default() },
            Say::Refuse(refusal) => Self { immediate_response: Some(refusal.into()), ..Self::default() },
        }
    }
}

/// `{ "bowline.upload": { "length": "…" } }`
fn announced(length: String) -> Struct {
    let length = Value { string_value: Some(length), struct_value: None };
    let own = Struct { fields: [(LENGTH.to_owned(), length)].into() };
    Struct { fields: [(NAME.to_owned(), Value { string_value: None, struct_value: Some(own) })].into() }
}

impl Refusal {
    const fn status(self) -> u16 {
        match self {
            Self::Upload(_) => 415,
            Self::TooLarge => 413,
            Self::Late => 408,
        }
    }

    const fn code(self) -> &'static str {
        match self {
            Self::Upload(fault) => fault.code(),
            Self::TooLarge => "body-too-large",
            Self::Late => "body-timeout",
        }
    }

    const fn sentence(self) -> &'static str {
        match self {
            Self::Upload(fault) => fault.sentence(),
            Self::TooLarge => TOO_LARGE,
            Self::Late => LATE,
        }
    }
}

/// As [`crate::resources`] has other refusals: the page is Envoy's.
impl From<Refusal> for ImmediateResponse {
    fn from(refusal: Refusal) -> Self {
        let mut fields = vec![
            ("content-type", "text/plain; charset=utf-8"),
            ("cache-control", "no-store"),
            ("x-bowline-error", refusal.code()),
        ];
        if refusal == Refusal::Upload(UploadFault::Encoded) {
            fields.push(("accept-encoding", "identity"));
        }
        let option = |(key, value): (&str, &str)| HeaderValueOption {
            header: Some(HeaderValue { key: key.to_owned(), raw_value: value.into() }),
            append_action: OVERWRITE_IF_EXISTS_OR_ADD,
        };
        Self {
            status: Some(HttpStatus { code: refusal.status().into() }),
            headers: Some(HeaderMutation { set_headers: fields.into_iter().map(option).collect() }),
            body: format!("{}\n", refusal.sentence()).into_bytes(),
            details: refusal.code().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    use std::future::poll_fn;

    async fn next(answers: &mut Answers) -> Option<Result<ProcessingResponse, Code>> {
        let next = poll_fn(|cx| Pin::new(&mut *answers).poll_next(cx)).await;
        next.map(|told| told.map_err(|status| status.code()))
    }

    #[tokio::test]
    async fn a_stream_ends_well_only_at_its_end() {
        let check = |words: Vec<Told>, expected: Vec<Option<Result<ProcessingResponse, Code>>>| async move {
            let (tell, told) = mpsc::channel(WAITING);
            for word in words {
                tell.send(word).await.unwrap();
            }
            drop(tell);
            let mut answers = Answers { told, is_over: false };
            for one in expected {
                assert_eq!(next(&mut answers).await, one);
            }
        };
        let message = || ProcessingResponse::from(Say::Trailers);
        let say = || Ok(Word::Say(Box::new(message())));
        check(vec![say(), Ok(Word::Over)], vec![Some(Ok(message())), None, None]).await;
        check(vec![say()], vec![Some(Ok(message())), Some(Err(Code::Aborted)), None]).await;
        check(vec![], vec![Some(Err(Code::Aborted)), None]).await;
        check(vec![Err(Status::internal("why"))], vec![Some(Err(Code::Internal)), None]).await;
    }

    #[test]
    fn a_route_that_says_nothing_lets_nothing_in() {
        let mut metadata = MetadataMap::new();
        for (name, value) in
            [(APP, "local/a"), (CLIENT, "192.0.2.1"), (EXTENSIONS, "png,txt"), (MOST, "1000"), (PATIENCE, "60000")]
        {
            assert_eq!(wants(&metadata).unwrap_err().code(), Code::InvalidArgument, "{name} is missing");
            metadata.insert(name, value.parse().unwrap());
        }
        let extensions = Arc::new(Extensions::new(&["txt", "png"].map(str::to_owned)));
        let patience = Duration::from_secs(60);
        let (app, client) = ("local/a".to_owned(), [192, 0, 2, 1].into());
        assert_eq!(wants(&metadata).unwrap(), Wants { app, client, patience, extensions, most: 1000 });
        metadata.insert(MOST, "much".parse().unwrap());
        assert_eq!(wants(&metadata).unwrap_err().code(), Code::InvalidArgument);
    }

    #[test]
    fn a_refusal_says_why_in_the_words_of_other_refusals() {
        let answer = ImmediateResponse::from(Refusal::Upload(UploadFault::Encoded));
        assert_eq!((answer.status, answer.details.as_str()), (Some(HttpStatus { code: 415 }), "upload-encoded"));
        let fields: Vec<_> = answer.headers.unwrap().set_headers.into_iter().filter_map(|one| one.header).collect();
        let names: Vec<_> = fields.iter().map(|field| field.key.as_str()).collect();
        assert_eq!(names, ["content-type", "cache-control", "x-bowline-error", "accept-encoding"]);
        assert_eq!(ImmediateResponse::from(Refusal::TooLarge).status, Some(HttpStatus { code: 413 }));
    }
}
