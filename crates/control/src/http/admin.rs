//! The admin port: loopback TCP, read-only. The console, `/metrics` and `/healthz`.
//!
//! Architecture invariant: nothing here changes anything, and nothing is answered to a request whose `Host` is not
//! loopback: a page of the web that rebinds its name to 127.0.0.1 (DNS rebinding) is refused.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bowline_core::fault::{Fault, FaultKind};

use super::answer::Refusal;
use super::console::{self, Board};
use super::scrape::{self, Metrics};

/// What the admin port answers from.
#[derive(Debug, Clone)]
pub(crate) struct Admin {
    pub(crate) metrics: Metrics,
    pub(crate) board: Arc<Board>,
}

pub(crate) fn router(Admin { metrics, board }: Admin) -> Router {
    Router::new()
        .route(scrape::ON_ADMIN, get(own))
        .route("/metrics/targets", get(targets))
        .route("/metrics/edge", get(edge))
        .route("/metrics/instances/{env}/{instance}", get(instance))
        .route("/healthz", get(healthz))
        .with_state(metrics)
        .merge(console::router(board))
        .fallback(not_found)
        .method_not_allowed_fallback(not_found)
        .layer(from_fn(require_loopback_host))
        .layer(from_fn(console::guard))
}

async fn not_found() -> Refusal {
    Refusal::not_found(
        Fault::new(FaultKind::Invalid, "there is no such page here")
            .hint("the console is at /, metrics are at /metrics"),
    )
}

async fn own(State(metrics): State<Metrics>, headers: HeaderMap) -> Result<Response, Refusal> {
    metrics.own(&headers).await
}

async fn targets(State(metrics): State<Metrics>, headers: HeaderMap) -> Result<Response, Refusal> {
    metrics.targets(&headers, scrape::ON_ADMIN).await
}

async fn edge(State(metrics): State<Metrics>) -> Result<Response, Refusal> {
    metrics.edge().await
}

async fn instance(
    State(metrics): State<Metrics>,
    Path((env, id)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    metrics.instance(&format!("{env}/{id}")).await
}

/// 200 while the loop answers; a refused store is said but is no reason to restart the daemon.
async fn healthz(State(metrics): State<Metrics>) -> Result<&'static str, Refusal> {
    let vitals = metrics.vitals().await?;
    Ok(if vitals.degraded { "degraded\n" } else { "ok\n" })
}

async fn require_loopback_host(request: Request, next: Next) -> Response {
    let said = request.headers().get_all(header::HOST).iter().map(|host| host.to_str().unwrap_or_default());
    // What the request line names comes before the field (RFC 9112, section 3.2.2); here neither may be another's.
    let said: Vec<&str> = said.chain(request.uri().authority().map(Authority::as_str)).collect();
    match !said.is_empty() && said.iter().all(|host| is_loopback(host)) {
        true => next.run(request).await,
        false => Refusal::from(
            Fault::new(FaultKind::Refused, "the admin port answers only to a loopback host name")
                .hint("open it as http://127.0.0.1:PORT or http://localhost:PORT"),
        )
        .into_response(),
    }
}

/// `host` as in a `Host` header: a name or address, and maybe a port.
fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let is_exact = match authority.port() {
        Some(port) => {
            host.len() == authority.host().len() + ":".len() + port.as_str().len()
                && port.as_str().parse::<u16>().is_ok()
        }
        None => host == authority.host(),
    };
    let name = authority.host().to_ascii_lowercase();
    let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&name);
    let is_name = name == "localhost" || name.ends_with(".localhost");
    is_exact && (is_name || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics;

    #[test]
    fn only_loopback_names_are_answered() {
        let check = |host, expected| assert_eq!(is_loopback(host), expected, "{host}");
        check("127.0.0.1:7070", true);
        check("127.0.0.1", true);
        check("localhost:7070", true);
        check("LOCALHOST", true);
        check("console.localhost:7070", true);
        check("[::1]:7070", true);
        check("evil.example:7070", false);
        check("localhost.evil.example", false);
        check("127.0.0.1.evil.example", false);
        check("10.0.0.1:7070", false);
        check("[::2]", false);
        check("", false);
        check("localhost:", false);
        check("localhost:http", false);
        check("localhost:7070:7070", false);
        check("evil@localhost", false);
        check("[::1]evil", false);
        check("localhost/evil", false);
        check("localhost, evil.example", false);
    }

    #[test]
    fn counters_are_named_with_their_total_in_the_older_format() {
        let open = "# HELP a_seconds Time.\n# TYPE a_seconds counter\n# UNIT a_seconds seconds\na_seconds_total 1\n\
                    # HELP b B.\n# TYPE b gauge\nb 2\n# EOF\n";
        let expected = "# HELP a_seconds_total Time.\n# TYPE a_seconds_total counter\na_seconds_total 1\n\
                        # HELP b B.\n# TYPE b gauge\nb 2\n";
        assert_eq!(metrics::as_prometheus_text(open), expected);
    }
}
