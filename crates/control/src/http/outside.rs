//! The way in from elsewhere: a Unix socket that only the edge connects to, on which each request has a token.
//!
//! Architecture invariant: no token is logged, recorded or answered, not even a wrong one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, HttpBody};
use axum::extract::connect_info::ConnectInfo;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bowline_core::access::TokenId;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::route::CLIENT_FIELD;
use futures_util::{StreamExt, stream};

use super::access::{Caller, now};
use super::answer::{Refusal, RefusalReason};
use super::peer::{Owner, Peer};
use crate::tokens::{Denied, Tokens};

/// In one minute, so many requests of a client without a token that holds are answered each by itself and logged.
const FAILURES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// Clients that are remembered. When there are more, those of the last minute are forgotten together.
const CLIENTS: usize = 4_096;

/// Longest token that is looked at, in bytes: Bowline's own have 51.
const MAX_TOKEN: usize = 256;

/// What the door knows.
#[derive(Debug, Clone)]
pub(crate) struct Doorkeeper {
    /// `None`: the store is refused, and with it nobody's token can be known.
    pub(crate) tokens: Option<Tokens>,
    pub(crate) owner: Owner,
    pub(crate) edge_uid: Option<u32>,
    pub(crate) failures: Failures,
}

impl Doorkeeper {
    /// Other users may not even try: on this socket the edge's word for who a client is counts.
    fn is_the_edge(&self, peer: &Peer) -> bool {
        let edge = self.edge_uid.unwrap_or(self.owner.0);
        matches!(peer.uid, Some(uid) if uid == edge || uid == self.owner.0 || uid == 0)
    }
}

/// Lets whoever has a token in.
pub(super) async fn require_token(
    State(door): State<Doorkeeper>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    if !door.is_the_edge(&peer) {
        let fault = Fault::new(FaultKind::Refused, "this socket is for the edge alone");
        return Refusal::from(fault.hint("use --to https://HOST with the host of the API")).into_response();
    }
    let Some(tokens) = &door.tokens else {
        let fault = Fault::new(FaultKind::Failed, "no token can be looked up: the daemon's store is refused");
        return Refusal::unavailable(fault.hint("`bowline status` on its machine says why")).into_response();
    };
    let client = client(request.headers());
    let checked = match bearer(request.headers()) {
        None => Err(Failed::Missing),
        Some(token) => tokens.check(token, now()).map_err(Failed::Denied),
    };
    match checked {
        Ok(token) => {
            if let Err(error) = tokens.note_use(&token, now()).await {
                tracing::warn!(%error, token = %token.record.id, "the use of a token is not recorded");
            }
            request.headers_mut().remove(header::AUTHORIZATION);
            let id = token.record.id;
            request.extensions_mut().insert(Caller::Token(token));
            tokio::select! {
                // A token that revokes itself is answered.
                biased;
                response = next.run(request) => response.map(|body| while_it_holds(body, tokens.clone(), id)),
                denied = tokens.over(id) => refuse(&door.failures, Failed::Denied(denied), client),
            }
        }
        Err(failed) => refuse(&door.failures, failed, client),
    }
}

/// An answer that goes on breaks off with its token.
fn while_it_holds(body: Body, tokens: Tokens, id: TokenId) -> Body {
    if body.size_hint().exact().is_some() {
        return body;
    }
    let over = Box::pin(async move { tokens.over(id).await });
    let goes_on = Some((body.into_data_stream(), over));
    Body::from_stream(stream::unfold(goes_on, async |goes_on| {
        let (mut body, mut over) = goes_on?;
        tokio::select! {
            // Also of one that always has something to say.
            biased;
            denied = &mut over => Some((Err(axum::Error::new(std::io::Error::other(denied.as_str()))), None)),
            piece = body.next() => Some((piece?, Some((body, over)))),
        }
    }))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failed {
    Missing,
    Denied(Denied),
}

fn refuse(failures: &Failures, failed: Failed, client: Option<IpAddr>) -> Response {
    let (text, token) = match failed {
        Failed::Missing => ("this daemon wants a token", None),
        Failed::Denied(denied) => (denied.as_str(), denied.token()),
    };
    let from = client.map(tracing::field::display);
    let token = token.map(tracing::field::display);
    let (reason, seconds) = match failures.count(client, Instant::now()) {
        Counted::Few => {
            tracing::warn!(client = from, token, reason = text, "a client was not let in");
            (RefusalReason::Unauthenticated, None)
        }
        Counted::First => {
            tracing::warn!(
                client = from,
                "a client goes on without a token that holds; the rest of this minute is not logged"
            );
            (RefusalReason::TooMany, Some(WINDOW.as_secs()))
        }
        Counted::Many => (RefusalReason::TooMany, Some(WINDOW.as_secs())),
    };
    let fault = Fault::new(FaultKind::Refused, text)
        .hint("an admin makes one: bowline token create NAME --role ROLE; then: bowline login https://HOST");
    let mut response = Refusal { reason, fault }.into_response();
    let headers = response.headers_mut();
    match seconds {
        None => headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"bowline\"")),
        Some(seconds) => headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds)),
    };
    response
}

/// The one token of the one field (RFC 6750, 2.1).
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let mut fields = headers.get_all(header::AUTHORIZATION).iter();
    let field = fields.next().filter(|_| fields.next().is_none())?.as_bytes();
    let (scheme, token) = field.split_at_checked(7)?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && (1..=MAX_TOKEN).contains(&token.len())).then_some(token)
}

/// As the edge says it, which knows the proxies that are believed. One that is older than this daemon, and about to be replaced, says
/// no more than who has connected to it.
fn client(headers: &HeaderMap) -> Option<IpAddr> {
    let said = |field: &str| headers.get(field)?.to_str().ok();
    let own = said(CLIENT_FIELD).or_else(|| said("x-forwarded-for")?.rsplit(',').next());
    own?.trim().parse().ok()
}

/// Who counts as one: whoever has an IPv6 address has a network of 2⁶⁴ of them.
fn network(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        four @ IpAddr::V4(_) => four,
    }
}

/// How often each client has failed within this minute.
#[derive(Debug, Clone, Default)]
pub(crate) struct Failures(Arc<Mutex<BTreeMap<Client, (Instant, u32)>>>);

/// `None`: whose address is not known.
type Client = Option<IpAddr>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Counted {
    Few,
    /// The first that is too many.
    First,
    Many,
}

impl Failures {
    fn count(&self, client: Option<IpAddr>, now: Instant) -> Counted {
        let client = client.map(network);
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len() >= CLIENTS && !clients.contains_key(&client) {
            clients.retain(|_, (begun, _)| now.duration_since(*begun) < WINDOW);
            if clients.len() >= CLIENTS {
                clients.clear();
            }
        }
        let (begun, count) = clients.entry(client).or_insert((now, 0));
        if now.duration_since(*begun) >= WINDOW {
            (*begun, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        match *count {
            ..=FAILURES => Counted::Few,
            n if n == FAILURES + 1 => Counted::First,
            _ => Counted::Many,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_bearer_token_counts() {
        let check = |fields: &[&str], expected: Option<&str>| {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append(header::AUTHORIZATION, field.parse().unwrap());
            }
            assert_eq!(bearer(&headers), expected.map(str::as_bytes), "{fields:?}");
        };
        check(&[], None);
        check(&["Bearer bowline_x"], Some("bowline_x"));
        check(&["bearer  bowline_x "], Some("bowline_x"));
        check(&["Bearer "], None);
        check(&["Bearerbowline_x"], None);
        check(&["Basic YTpi"], None);
        check(&["Bearer a", "Bearer b"], None);
        check(&[&format!("Bearer {}", "x".repeat(MAX_TOKEN + 1))], None);
    }

    #[test]
    fn a_client_is_who_the_edge_says() {
        let check = |fields: &[(&'static str, &str)], expected: Option<&str>| {
            let fields = fields.iter().map(|(name, value)| (*name, value.parse().unwrap()));
            let headers = fields.map(|(name, value)| (name.parse().unwrap(), value)).collect();
            assert_eq!(client(&headers), expected.map(|address| address.parse().unwrap()));
        };
        let proxies = ("x-forwarded-for", "6.6.6.6, 192.0.2.1, 10.0.0.3");
        check(&[proxies, (CLIENT_FIELD, "192.0.2.1")], Some("192.0.2.1"));
        check(&[proxies], Some("10.0.0.3"));
        check(&[], None);
    }

    #[test]
    fn a_network_of_ipv6_is_one_client() {
        let failures = Failures::default();
        let client = |n: u32| Some(format!("2001:db8::{n:x}").parse().unwrap());
        for n in 0..FAILURES {
            assert_eq!(failures.count(client(n), Instant::now()), Counted::Few);
        }
        assert_eq!(failures.count(client(FAILURES), Instant::now()), Counted::First);
        assert_eq!(failures.count(Some("2001:db8:0:1::1".parse().unwrap()), Instant::now()), Counted::Few);
    }

    #[test]
    fn a_client_that_fails_often_waits_and_others_do_not() {
        let (failures, start) = (Failures::default(), Instant::now());
        let client = |n: u32| Some(IpAddr::from(n.to_be_bytes()));
        for _ in 0..FAILURES {
            assert_eq!(failures.count(client(1), start), Counted::Few);
        }
        assert_eq!(failures.count(client(1), start), Counted::First);
        assert_eq!(failures.count(client(1), start), Counted::Many);
        assert_eq!(failures.count(client(2), start), Counted::Few);
        assert_eq!(failures.count(client(1), start + WINDOW), Counted::Few, "a minute later");
        let clients = u32::try_from(CLIENTS).unwrap();
        for n in 0..clients * 3 {
            let _ = failures.count(client(n), start);
        }
        assert!(failures.0.lock().unwrap().len() <= CLIENTS, "bounded");
    }
}
