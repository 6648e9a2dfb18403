//! Metrics, on the admin port and by the API: Bowline's own, which instances have some of theirs, and those of one, with
//! Bowline's labels.
//!
//! `…/metrics/targets` is what Prometheus's `http_sd_configs` reads; each target of it is an instance, under
//! `…/metrics/instances/ENV/INSTANCE`; an Envoy that is the edge is one more, at `…/metrics/edge`. An instance is asked when somebody scrapes it, and nothing is kept.

use std::net::Ipv4Addr;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::InstanceId;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;

use super::Api;
use super::answer::{self, Refusal};
use crate::metrics::exposition::{MOST_SERIES, relabelled};
use crate::metrics::{self, Exposed, Scraped, Vitals, World, of_instance};
use crate::reconcile::request::{Answer, Door, Request as Ask};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Where they are, on the admin port and by the API.
pub(super) const ON_ADMIN: &str = "/metrics";
const BY_API: &str = "/v1/metrics";

/// `job` of what an Envoy that is the edge counts itself.
const ENVOY: &str = "bowline-envoy";

/// Below the 10 s that Prometheus waits: the reason is told before it gives up.
const LIMIT: Duration = Duration::from_secs(8);

/// Of an instance's answer. The largest exporters stay below a few MiB.
const MOST_BYTES: usize = 8 << 20;

/// Why an instance gave no metrics.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("port {0} of it is not answered")]
    Connect(u16, #[source] std::io::Error),
    #[error("its administration is not answered")]
    Administration(#[source] std::io::Error),
    #[error("it does not speak HTTP/1.1 there")]
    Broken(#[source] hyper::Error),
    #[error("it answers {path} with {status}")]
    Status { path: String, status: StatusCode },
    #[error("its answer broke off, or has more than {} MiB", MOST_BYTES >> 20)]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("its path {0:?} cannot be asked for")]
    Path(String, #[source] hyper::http::Error),
    #[error("it does not answer within {} s", LIMIT.as_secs())]
    Late,
}

/// What is told of metrics.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) registry: Arc<Registry>,
    pub(crate) world: Arc<World>,
    pub(crate) door: Door,
    /// See [`crate::ControlConfig::edge_stats`].
    pub(crate) edge_stats: Option<Arc<FilePath>>,
}

impl Metrics {
    /// Registers all of them.
    pub(crate) fn new(mut registry: Registry, world: World, door: Door, edge_stats: Option<PathBuf>) -> Self {
        let world = Arc::new(world);
        registry.register_collector(Box::new(Exposed(Arc::clone(&world))));
        Self { registry: Arc::new(registry), world, door, edge_stats: edge_stats.map(Arc::from) }
    }

    pub(super) async fn vitals(&self) -> Result<Box<Vitals>, Refusal> {
        match self.door.ask(Ask::Vitals).await {
            Ok(Answer::Vitals(vitals)) => Ok(vitals),
            Ok(other) => Err(unexpected(&other)),
            Err(refusal) => Err(refusal),
        }
    }

    /// Takes from the loop what only it knows.
    pub(crate) async fn look(&self) -> Result<(), Refusal> {
        self.world.vitals.put(*self.vitals().await?);
        Ok(())
    }

    /// Bowline's own.
    pub(super) async fn own(&self, headers: &HeaderMap) -> Result<Response, Refusal> {
        self.look().await?;
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .map_err(|error| Fault::new(FaultKind::Failed, "the metrics cannot be written").source(&error))?;
        Ok(match wants_open_metrics(headers) {
            true => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
            false => ([(header::CONTENT_TYPE, PROMETHEUS)], metrics::as_prometheus_text(&text)).into_response(),
        })
    }

    /// All instances that have metrics, as service discovery. `below`: the path that led here.
    pub(super) async fn targets(&self, headers: &HeaderMap, below: &str) -> Result<Response, Refusal> {
        // Whoever asks here has said how it is reached.
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let target = |one: Scraped| {
            let mut labels: serde_json::Map<String, Value> =
                of_instance(&one.id).into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
            labels.insert("__metrics_path__".to_owned(), format!("{below}/instances/{}", one.id).into());
            json!({ "targets": [host], "labels": labels })
        };
        let mut targets: Vec<Value> = self.scraped().await?.into_iter().map(target).collect();
        if self.edge_stats.is_some() {
            let labels = json!({ "job": ENVOY, "instance": "edge", "__metrics_path__": format!("{below}/edge") });
            targets.push(json!({ "targets": [host], "labels": labels }));
        }
        Ok(answer::json(StatusCode::OK, &targets))
    }

    /// What an Envoy that is the edge counts itself: its administration is for nobody else.
    pub(super) async fn edge(&self) -> Result<Response, Refusal> {
        let Some(socket) = &self.edge_stats else {
            let fault = Fault::new(FaultKind::Invalid, "the edge is Bowline's own");
            return Err(Refusal::not_found(fault.hint("what it counts is at /metrics")));
        };
        // What was never counted is left out: for each cluster there are hundreds.
        let asked = async {
            let stream = UnixStream::connect(socket).await.map_err(AskError::Administration)?;
            ask(stream, "envoy", "/stats/prometheus?usedonly").await
        };
        match tokio::time::timeout(LIMIT, asked).await.unwrap_or(Err(AskError::Late)) {
            Ok(text) => Ok(([(header::CONTENT_TYPE, PROMETHEUS)], text).into_response()),
            Err(error) => {
                let fault = Fault::new(FaultKind::Failed, "the metrics of Envoy cannot be read").source(&error);
                Ok(bad_gateway(fault.hint("`bowline status` says whether it runs")))
            }
        }
    }

    /// Those of one instance, of this name.
    pub(super) async fn instance(&self, name: &str) -> Result<Response, Refusal> {
        let unknown = || {
            Refusal::not_found(
                Fault::new(FaultKind::Invalid, format!("{name} has no metrics here"))
                    .hint("/metrics/targets lists those that have"),
            )
        };
        let id: InstanceId = name.parse().map_err(|_| unknown())?;
        let scraped = self.scraped().await?.into_iter().find(|one| one.id == id).ok_or_else(unknown)?;
        let text = match tokio::time::timeout(LIMIT, ask_instance(&scraped)).await.unwrap_or(Err(AskError::Late)) {
            Ok(text) => text,
            Err(error) => return Ok(unreadable(&scraped, &error)),
        };
        Ok(match relabelled(&text, &of_instance(&id), MOST_SERIES) {
            Ok(all) => {
                self.world.dropped.count(&id.slot, all.dropped);
                ([(header::CONTENT_TYPE, PROMETHEUS)], all.text).into_response()
            }
            Err(error) => unreadable(&scraped, &error),
        })
    }

    /// Instances with metrics of their own, as they are now.
    async fn scraped(&self) -> Result<Vec<Scraped>, Refusal> {
        Ok(self.vitals().await?.apps.into_iter().flat_map(|app| app.scraped).collect())
    }
}

fn unexpected(answer: &Answer) -> Refusal {
    Fault::new(FaultKind::Failed, "the daemon answered another question").caused_by(format!("{answer:?}")).into()
}

fn wants_open_metrics(headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(header::ACCEPT);
    accepts.iter().filter_map(|v| v.to_str().ok()).any(|v| v.contains("application/openmetrics-text"))
}

pub(super) async fn own(State(api): State<Api>, headers: HeaderMap) -> Result<Response, Refusal> {
    api.metrics.own(&headers).await
}

pub(super) async fn targets(State(api): State<Api>, headers: HeaderMap) -> Result<Response, Refusal> {
    api.metrics.targets(&headers, BY_API).await
}

pub(super) async fn edge(State(api): State<Api>) -> Result<Response, Refusal> {
    api.metrics.edge().await
}

pub(super) async fn instance(
    State(api): State<Api>,
    Path((env, id)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    api.metrics.instance(&format!("{env}/{id}")).await
}

/// Prometheus shows the status beside the target; the reason is in the answer, for whoever looks.
fn unreadable(scraped: &Scraped, error: &dyn std::error::Error) -> Response {
    let fault = Fault::new(FaultKind::Failed, format!("the metrics of {} cannot be read", scraped.id)).source(error);
    bad_gateway(fault.hint(format!("`metrics` of its service says {:?}", scraped.path)))
}

fn bad_gateway(fault: Fault) -> Response {
    let mut response = Refusal::from(fault).into_response();
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}

async fn ask_instance(scraped: &Scraped) -> Result<String, AskError> {
    let port = scraped.port.get();
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.map_err(|e| AskError::Connect(port, e))?;
    ask(stream, &format!("127.0.0.1:{port}"), &scraped.path).await
}

async fn ask<S>(stream: S, host: &str, path: &str) -> Result<String, AskError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(AskError::Broken)?;
    // Ends with this request, however that ends.
    let mut driving = JoinSet::new();
    driving.spawn(connection);
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::ACCEPT, PROMETHEUS)
        .body(Empty::<Bytes>::new())
        .map_err(|error| AskError::Path(path.to_owned(), error))?;
    let answer = sender.send_request(request).await.map_err(AskError::Broken)?;
    if answer.status() != StatusCode::OK {
        return Err(AskError::Status { path: path.to_owned(), status: answer.status() });
    }
    let body = Limited::new(answer.into_body(), MOST_BYTES).collect().await.map_err(AskError::Answer)?;
    Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
}
