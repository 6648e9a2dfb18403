//! The client: HTTP/1.1 over the daemon's Unix socket, a program that leads to it, or TLS; one connection per request.

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bowline_core::fault::{Fault, FaultKind};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::Stream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::absence::{Absence, Awaited, Reached, Told};
use crate::dial::{Dialed, Dialer, Line, Way};
use crate::https::Https;
use crate::patience::{Patience, Waits, Watched};
use crate::session::{self, PROTOCOL, SPEC, Session, TUNNEL};
use crate::upload::{Parts, body};
use crate::wire;

/// Longest line of a streamed answer, in bytes: the longest fault that is sent, escaped, and room.
const MAX_LINE: usize = 512 * 1024;

/// Largest answer that is not streamed, in bytes.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// Of what is no answer of a daemon, so many characters are shown.
const MAX_SAID: usize = 200;

/// The field of an answer of a daemon that ends, and has not begun with what was asked.
pub const NOT_BEGUN: &str = "bowline-not-begun";

/// What to do when the daemon went away in the middle.
const LOST: &str = "apps that ran go on; `bowline status` shows how far it came; where the daemon has died, it brings that back or says \
                    what starts it";

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no daemon listens on {path}")]
    Unreachable { path: PathBuf, source: io::Error },
    /// In the words of the program that was to connect.
    #[error("{said}")]
    Dial { name: String, said: String },
    /// Over HTTPS.
    #[error("{cause}")]
    Https { name: String, cause: String, hint: Option<&'static str> },
    /// Not a daemon, or an edge without one: its status, and the first line of what it says.
    #[error("it answered {status}: {said}")]
    NoDaemon { status: u16, said: String, reached: Reached },
    #[error("the connection to the daemon broke")]
    Broken(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the daemon's answer cannot be read")]
    Unreadable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The daemon's own words.
    #[error("{0}")]
    Refused(Fault),
    /// The same, of a daemon that ends and has done nothing of what was asked.
    #[error("{0}")]
    NotBegun(Fault),
    /// The same, where it only has to end something first: another change of the app, or its stop.
    #[error("{0}")]
    Busy(Fault),
}

impl From<ClientError> for Fault {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Refused(fault) | ClientError::NotBegun(fault) | ClientError::Busy(fault) => fault,
            ClientError::Unreachable { .. } => {
                Self::new(FaultKind::Unreachable, "the daemon cannot be reached").source(&error).hint(LOST)
            }
            ClientError::Dial { name, said } => {
                Self::new(FaultKind::Unreachable, format!("{name} cannot be reached")).detail(said)
            }
            ClientError::Https { name, cause, hint } => {
                let fault = Self::new(FaultKind::Unreachable, format!("{name} cannot be reached")).caused_by(cause);
                hint.into_iter().fold(fault, Self::hint)
            }
            ClientError::NoDaemon { reached, .. } => {
                let (what, hint) = match reached {
                    Reached::Nobody => (
                        "the daemon there does not run",
                        "start it again on its machine (systemctl start bowline); what it ran goes on without it",
                    ),
                    Reached::Busy => ("the daemon there has too much to do", "run the command again in a moment"),
                    Reached::Lost => ("the daemon did not answer to the end", LOST),
                    Reached::Unknown => (
                        "no daemon answers there",
                        "is it the `host` of [api] in the server's server.toml, and does the daemon run?",
                    ),
                };
                Self::new(FaultKind::Unreachable, what).source(&error).hint(hint)
            }
            ClientError::Broken(_) | ClientError::Unreadable(_) => {
                Self::new(FaultKind::Unreachable, "the daemon did not answer to the end").source(&error).hint(LOST)
            }
        }
    }
}

/// Speaks to one daemon.
#[derive(Debug, Clone)]
pub struct Client {
    way: Way,
    patience: Patience,
    /// Behind an edge, which answers in the place of a daemon that is away.
    waits: Option<Told>,
}

impl Client {
    /// `socket`: the path of the daemon's `api.sock`. Nothing is connected yet.
    pub fn new(socket: &Path) -> Self {
        Self { way: Way::Socket(socket.to_owned()), patience: Patience::ENDLESS, waits: None }
    }

    /// One that reaches a daemon elsewhere. Nothing is started yet; every request starts the program once.
    pub fn dialing(dialer: Dialer) -> Self {
        Self { way: Way::Dialer(Arc::new(dialer)), patience: Patience::ENDLESS, waits: None }
    }

    /// One that reaches a daemon over HTTPS. Nothing is connected yet. A redirect is followed nowhere: a token is for one host.
    /// A daemon that is away is waited for, for 30 s; `waits` is called when that begins: once, however many requests it keeps waiting.
    pub fn https(https: Https, waits: impl Fn(Awaited) + Send + Sync + 'static) -> Self {
        let waits = Some(Told::new(waits));
        Self { way: Way::Https(Arc::new(https)), patience: Patience::OF_HTTPS, waits }
    }

    /// With other limits of time.
    #[cfg(test)]
    pub(crate) fn with(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    pub async fn who_am_i(&self) -> Result<wire::WhoAmI, ClientError> {
        self.get("/v1/whoami").await
    }

    pub async fn tokens(&self) -> Result<wire::Tokens, ClientError> {
        self.get("/v1/tokens").await
    }

    pub async fn create_token(&self, new: &wire::NewToken) -> Result<wire::CreatedToken, ClientError> {
        self.send(Method::POST, "/v1/tokens", json(new)).await
    }

    /// By its name or its id.
    pub async fn revoke_token(&self, which: &str) -> Result<wire::TokenInfo, ClientError> {
        self.send(Method::DELETE, &format!("/v1/tokens/{}", percent_encode(which)), Bytes::new()).await
    }

    pub async fn version(&self) -> Result<wire::Version, ClientError> {
        self.get("/v1/version").await
    }

    pub async fn status(&self) -> Result<wire::Status, ClientError> {
        self.get("/v1/status").await
    }

    pub async fn apply(&self, apply: &wire::Apply) -> Result<wire::Accepted, ClientError> {
        self.send_and_wait(Waits::Work, Method::POST, "/v1/apps", json(apply)).await
    }

    /// What applying would change; nothing is done.
    pub async fn plan(&self, apply: &wire::Apply) -> Result<wire::Plan, ClientError> {
        self.send_and_wait(Waits::Work, Method::POST, "/v1/plans", json(apply)).await
    }

    /// The steps of a change, from its beginning until it has ended.
    pub async fn change(&self, id: u64) -> Result<Lines<wire::ChangeEvent>, ClientError> {
        self.lines(&format!("/v1/changes/{id}")).await
    }

    pub async fn stop(&self, env: &str, app: &str, stop: wire::Stop) -> Result<wire::Stopped, ClientError> {
        let path = format!("/v1/apps/{env}/{app}/stop");
        self.send_and_wait(Waits::Work, Method::POST, &path, json(&stop)).await
    }

    pub async fn releases(&self, env: &str, app: &str) -> Result<wire::Releases, ClientError> {
        self.get(&format!("/v1/apps/{env}/{app}/releases")).await
    }

    pub async fn restart(&self, env: &str, app: &str, restart: &wire::Restart) -> Result<wire::Accepted, ClientError> {
        self.send(Method::POST, &format!("/v1/apps/{env}/{app}/restart"), json(restart)).await
    }

    pub async fn scale(&self, env: &str, app: &str, scale: &wire::Scale) -> Result<wire::Accepted, ClientError> {
        self.send(Method::POST, &format!("/v1/apps/{env}/{app}/scale"), json(scale)).await
    }

    pub async fn promote(&self, env: &str, app: &str) -> Result<wire::Accepted, ClientError> {
        self.send(Method::POST, &format!("/v1/apps/{env}/{app}/promote"), Bytes::new()).await
    }

    pub async fn abort(&self, env: &str, app: &str) -> Result<wire::Aborted, ClientError> {
        self.send(Method::POST, &format!("/v1/apps/{env}/{app}/abort"), Bytes::new()).await
    }

    pub async fn roll_back(
        &self,
        env: &str,
        app: &str,
        rollback: wire::Rollback,
    ) -> Result<wire::Accepted, ClientError> {
        self.send(Method::POST, &format!("/v1/apps/{env}/{app}/rollback"), json(&rollback)).await
    }

    /// `None` ends it. Answered when the edge serves it.
    pub async fn maintain(
        &self,
        env: &str,
        app: &str,
        wanted: Option<&wire::Maintenance>,
    ) -> Result<wire::Maintained, ClientError> {
        let path = format!("/v1/apps/{env}/{app}/maintenance");
        match wanted {
            Some(wanted) => self.send_and_wait(Waits::Work, Method::PUT, &path, json(wanted)).await,
            None => self.send_and_wait(Waits::Work, Method::DELETE, &path, Bytes::new()).await,
        }
    }

    /// Starts a run of a job; answered when it is recorded.
    pub async fn run_job(&self, env: &str, app: &str, job: &str) -> Result<wire::Run, ClientError> {
        let path = format!("/v1/apps/{env}/{app}/jobs/{}/run", percent_encode(job));
        self.send(Method::POST, &path, Bytes::new()).await
    }

    /// Ends the run of a job that is under way; answered when it has ended.
    pub async fn stop_job(&self, env: &str, app: &str, job: &str) -> Result<wire::Run, ClientError> {
        let path = format!("/v1/apps/{env}/{app}/jobs/{}/stop", percent_encode(job));
        self.send_and_wait(Waits::Work, Method::POST, &path, Bytes::new()).await
    }

    pub async fn run(
        &self,
        env: &str,
        app: &str,
        number: u32,
        query: wire::RunQuery,
    ) -> Result<wire::Run, ClientError> {
        let waits = if query.wait { Waits::Event } else { Waits::Nothing };
        let path = format!("/v1/apps/{env}/{app}/runs/{number}{}", query_string(&query));
        self.send_and_wait(waits, Method::GET, &path, Bytes::new()).await
    }

    pub async fn shutdown(&self) -> Result<wire::Stopped, ClientError> {
        self.send(Method::POST, "/v1/shutdown", Bytes::new()).await
    }

    /// Returns when the daemon is about to hand over.
    pub async fn upgrade(&self, upgrade: &wire::Upgrade) -> Result<(), ClientError> {
        self.exchange(Method::POST, "/v1/upgrade", json(upgrade)).await.map(drop)
    }

    pub async fn logs(&self, query: &wire::LogsQuery) -> Result<Lines<wire::LogLine>, ClientError> {
        self.lines(&format!("/v1/logs{}", query_string(query))).await
    }

    pub async fn events(&self, query: &wire::EventsQuery) -> Result<wire::Events, ClientError> {
        self.get(&format!("/v1/events{}", query_string(query))).await
    }

    pub async fn secrets(&self, env: &str, app: &str) -> Result<wire::Secrets, ClientError> {
        self.get(&format!("/v1/secrets/{env}/{app}")).await
    }

    pub async fn set_secret(
        &self,
        env: &str,
        app: &str,
        name: &str,
        value: Vec<u8>,
    ) -> Result<wire::SecretSet, ClientError> {
        self.send(Method::PUT, &format!("/v1/secrets/{env}/{app}/{name}"), value.into()).await
    }

    pub async fn remove_secret(&self, env: &str, app: &str, name: &str) -> Result<(), ClientError> {
        let path = format!("/v1/secrets/{env}/{app}/{name}");
        self.exchange(Method::DELETE, &path, Bytes::new()).await.map(drop)
    }

    /// Answered when the daemon has found where to run it; what happens from then on is said by the session.
    pub async fn session(&self, env: &str, app: &str, session: &wire::Session) -> Result<Session, ClientError> {
        let path = format!("/v1/apps/{env}/{app}/sessions");
        self.patiently((&Method::POST, &path), || self.begin(&path, session)).await.map(Session::new)
    }

    /// A connection to a server that Bowline runs for an app, as if on the daemon's machine. `data`: `postgres.db`.
    pub async fn tunnel(&self, env: &str, app: &str, data: &str) -> Result<TokioIo<Upgraded>, ClientError> {
        let path = format!("/v1/data/{env}/{app}/{data}/tunnel");
        let begun = self.patiently((&Method::POST, &path), || {
            self.upgrade_to(TUNNEL, &path, |request| Ok(request.body(Full::default())))
        });
        begun.await.map(TokioIo::new)
    }

    async fn begin(&self, path: &str, session: &wire::Session) -> Result<Upgraded, ClientError> {
        let asked = |request: http::request::Builder| match &self.way {
            Way::Socket(_) | Way::Dialer(_) => Ok(request.body(Full::new(json(session)))),
            // An edge takes no body with an upgrade: where the request ends would be unclear.
            Way::Https(_) => Ok(request.header(SPEC, session_spec(session)?).body(Full::default())),
        };
        self.upgrade_to(PROTOCOL, path, asked).await
    }

    /// A connection that speaks another protocol from now on.
    async fn upgrade_to(
        &self,
        protocol: &str,
        path: &str,
        asked: impl FnOnce(http::request::Builder) -> Result<http::Result<Request<Full<Bytes>>>, ClientError>,
    ) -> Result<Upgraded, ClientError> {
        let Line { stream, dialed } = self.way.connect(true).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Watched<Full<Bytes>>>(TokioIo::new(stream))
                .await
                .map_err(|e| ClientError::Broken(e.into()))?;
        let connection = tokio::spawn(connection.with_upgrades());
        let request = self.request(Method::POST, path).header("connection", "upgrade").header("upgrade", protocol);
        let request = asked(request)?.map_err(|e| ClientError::Unreadable(e.into()))?;
        let answer = match self.patience.head(Waits::Work, request, |request| sender.send_request(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(Dialed::explain(dialed, ClientError::Broken(error.into())).await),
            Err(error) => {
                connection.abort();
                return Err(ClientError::Broken(error.into()));
            }
        };
        match answer.status() {
            StatusCode::SWITCHING_PROTOCOLS => {
                hyper::upgrade::on(answer).await.map_err(|e| ClientError::Broken(e.into()))
            }
            _ => Err(self.refusal(answer).await),
        }
    }

    pub async fn data(&self, query: &wire::DataQuery) -> Result<wire::DataList, ClientError> {
        self.get(&format!("/v1/data{}", query_string(query))).await
    }

    /// `data`: `postgres.db`.
    pub async fn lend(&self, env: &str, app: &str, data: &str, lend: &wire::Lend) -> Result<wire::Lent, ClientError> {
        self.send(Method::POST, &format!("/v1/data/{env}/{app}/{data}/leases"), json(lend)).await
    }

    pub async fn give_back(&self, env: &str, app: &str, data: &str, user: &str) -> Result<(), ClientError> {
        let path = format!("/v1/data/{env}/{app}/{data}/leases/{user}");
        self.exchange(Method::DELETE, &path, Bytes::new()).await.map(drop)
    }

    pub async fn fill(&self, env: &str, app: &str, data: &str, fill: &wire::Fill) -> Result<wire::Filled, ClientError> {
        let path = format!("/v1/data/{env}/{app}/{data}/content");
        self.send_and_wait(Waits::Event, Method::PUT, &path, json(fill)).await
    }

    pub async fn remove_data(
        &self,
        env: &str,
        app: &str,
        data: &str,
        query: &wire::RemoveQuery,
    ) -> Result<wire::Removed, ClientError> {
        self.send(Method::DELETE, &format!("/v1/data/{env}/{app}/{data}{}", query_string(query)), Bytes::new()).await
    }

    /// Says what a folder is made of; answered with what is missing of it.
    pub async fn offer(&self, env: &str, app: &str, source: &wire::Source) -> Result<wire::Offered, ClientError> {
        self.send(Method::POST, &format!("/v1/sources/{env}/{app}"), json(source)).await
    }

    /// Sends what a file holds, whatever it is called. `sent` is told of every part that has not been sent before, in bytes.
    pub async fn put_content(
        &self,
        env: &str,
        app: &str,
        content: &str,
        file: File,
        sent: impl Fn(u64) + Send + Sync + 'static,
    ) -> Result<(), ClientError> {
        let parts = Parts::of(file, sent);
        let path = format!("/v1/contents/{env}/{app}/{content}");
        self.exchange_with(Waits::Work, Method::PUT, &path, || Ok(body(parts.stream()))).await.map(drop)
    }

    /// Whether [`Self::fill_with`] would be refused now.
    pub async fn may_fill(&self, env: &str, app: &str, data: &str, query: &wire::FillQuery) -> Result<(), ClientError> {
        let path = format!("/v1/data/{env}/{app}/{data}/archive{}", query_string(query));
        self.exchange_with(Waits::Work, Method::GET, &path, || Ok(Full::default())).await.map(drop)
    }

    /// Fills a volume with an archive of tar, as it is in one that is not compressed. `archive` is called whenever it is sent, for its
    /// parts from the beginning; what fails in it ends the request, and nothing is filled.
    pub async fn fill_with<S>(
        &self,
        env: &str,
        app: &str,
        data: &str,
        query: &wire::FillQuery,
        archive: impl Fn() -> io::Result<S>,
    ) -> Result<wire::Filled, ClientError>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        let path = format!("/v1/data/{env}/{app}/{data}/archive{}", query_string(query));
        let sent = || archive().map(body).map_err(|error| ClientError::Unreadable(error.into()));
        self.send_with(Waits::Event, Method::PUT, &path, sent).await
    }

    /// Puts a folder together whose contents have all arrived.
    pub async fn place(&self, env: &str, app: &str, source: &str) -> Result<wire::Placed, ClientError> {
        let path = format!("/v1/sources/{env}/{app}/{source}");
        self.send_and_wait(Waits::Work, Method::POST, &path, Bytes::new()).await
    }

    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        match &self.way {
            Way::Socket(_) | Way::Dialer(_) => request.header("host", "bowline"),
            Way::Https(https) => {
                request.header("host", https.authority()).header("authorization", https.authorization())
            }
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.send(Method::GET, path, Bytes::new()).await
    }

    async fn send<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, ClientError> {
        self.send_and_wait(Waits::Nothing, method, path, body).await
    }

    async fn send_and_wait<T: DeserializeOwned>(
        &self,
        waits: Waits,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        self.send_with(waits, method, path, || Ok(Full::new(body.clone()))).await
    }

    /// All of the answer: what broke off within it is asked for again as what broke off before it.
    async fn send_with<T: DeserializeOwned, B>(
        &self,
        waits: Waits,
        method: Method,
        path: &str,
        body: impl Fn() -> Result<B, ClientError>,
    ) -> Result<T, ClientError>
    where
        B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + Unpin + 'static,
    {
        let ask = || async {
            let answer = self.exchange_once(waits, method.clone(), path, body()?).await?;
            self.collect(answer.into_body()).await
        };
        let bytes = self.patiently((&method, path), ask).await?;
        serde_json::from_slice(&bytes).map_err(|e| ClientError::Unreadable(e.into()))
    }

    async fn lines<T: DeserializeOwned>(&self, path: &str) -> Result<Lines<T>, ClientError> {
        let answer = self.exchange(Method::GET, path, Bytes::new()).await?;
        Ok(Lines { body: answer.into_body(), buffer: BytesMut::new(), item: PhantomData })
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, ClientError> {
        self.exchange_with(Waits::Nothing, method, path, || Ok(Full::new(body.clone()))).await
    }

    async fn exchange_with<B>(
        &self,
        waits: Waits,
        method: Method,
        path: &str,
        body: impl Fn() -> Result<B, ClientError>,
    ) -> Result<Response<Incoming>, ClientError>
    where
        B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + Unpin + 'static,
    {
        let ask = || async { self.exchange_once(waits, method.clone(), path, body()?).await };
        self.patiently((&method, path), ask).await
    }

    /// Asks again for as long as a daemon is waited for.
    async fn patiently<T, F: Future<Output = Result<T, ClientError>>>(
        &self,
        what: (&Method, &str),
        ask: impl Fn() -> F,
    ) -> Result<T, ClientError> {
        let mut absence = Absence::new(self.waits.as_ref());
        loop {
            match ask().await {
                Err(error) if absence.is_waited_for(&error, what).await => {}
                done => {
                    if done.is_ok() {
                        absence.is_over();
                    }
                    return done;
                }
            }
        }
    }

    async fn exchange_once<B>(
        &self,
        waits: Waits,
        method: Method,
        path: &str,
        body: B,
    ) -> Result<Response<Incoming>, ClientError>
    where
        B: Body<Data = Bytes, Error: std::error::Error + Send + Sync> + Send + Unpin + 'static,
    {
        let Line { stream, dialed } = self.way.connect(false).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, Watched<B>>(TokioIo::new(stream))
            .await
            .map_err(|e| ClientError::Broken(e.into()))?;
        let connection = tokio::spawn(connection);
        let request = self.request(method, path).body(body).map_err(|e| ClientError::Unreadable(e.into()))?;
        let answer = match self.patience.head(waits, request, |request| sender.send_request(request)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(Dialed::explain(dialed, ClientError::Broken(error.into())).await),
            Err(error) => {
                connection.abort();
                return Err(ClientError::Broken(error.into()));
            }
        };
        match answer.status() {
            status if status.is_success() => Ok(answer),
            _ => {
                let refusal = self.refusal(answer).await;
                // The rest of what is being sent is wanted by nobody.
                connection.abort();
                Err(refusal)
            }
        }
    }

    async fn refusal(&self, answer: Response<Incoming>) -> ClientError {
        let status = answer.status();
        let reached = Reached::of(answer.headers().get("x-bowline-error").and_then(|code| code.to_str().ok()));
        let is_begun = !answer.headers().contains_key(NOT_BEGUN);
        match self.collect(answer.into_body()).await {
            Err(error) => error,
            Ok(bytes) => match serde_json::from_slice::<wire::Fault>(&bytes) {
                Ok(fault) if !is_begun => ClientError::NotBegun(fault.into()),
                Ok(fault) if status == StatusCode::CONFLICT => ClientError::Busy(fault.into()),
                Ok(fault) => ClientError::Refused(fault.into()),
                Err(_) => {
                    let text = String::from_utf8_lossy(&bytes);
                    let first = text.lines().next().unwrap_or_default();
                    // An edge says its status first, and it is said by itself.
                    let said = first.strip_prefix(&format!("{status}: ")).unwrap_or(first);
                    let said = said.chars().take(MAX_SAID).collect();
                    ClientError::NoDaemon { status: status.as_u16(), said, reached }
                }
            },
        }
    }

    /// The whole of an answer that is no stream.
    async fn collect(&self, body: Incoming) -> Result<Bytes, ClientError> {
        let limited = http_body_util::Limited::new(self.patience.body(body), MAX_ANSWER);
        let collecting = self.patience.whole(limited.collect());
        let collected = collecting.await.map_err(|error| ClientError::Broken(error.into()))?;
        collected.map(http_body_util::Collected::to_bytes).map_err(ClientError::Broken)
    }
}

fn session_spec(session: &wire::Session) -> Result<String, ClientError> {
    let too_long = || {
        let fault = Fault::new(FaultKind::Invalid, "the command is too long to be sent over HTTPS");
        ClientError::Refused(fault.hint("write it into a script of the app, or use ssh://USER@HOST"))
    };
    session::spec(session).ok_or_else(too_long)
}

fn json<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value).expect("wire types have string keys and no failing serialisers").into()
}

/// `?a=b&c=d` of a flat struct; empty for an empty one.
fn query_string<T: Serialize>(query: &T) -> String {
    let value = serde_json::to_value(query).expect("wire types have string keys and no failing serialisers");
    let pairs: Vec<String> = value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            format!("{key}={}", percent_encode(&text))
        })
        .collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

/// Everything but the unreserved characters of RFC 3986, section 2.3.
fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// A streamed answer, line by line. Dropping it closes the connection, which ends a `follow` at the daemon.
#[derive(Debug)]
pub struct Lines<T> {
    body: Incoming,
    buffer: BytesMut,
    item: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Lines<T> {
    /// The next line; `None` at the end. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return serde_json::from_slice(&line).map(Some).map_err(|e| ClientError::Unreadable(e.into()));
            }
            if self.buffer.len() > MAX_LINE {
                return Err(ClientError::Unreadable(format!("a line of over {MAX_LINE} bytes").into()));
            }
            match self.body.frame().await {
                None if self.buffer.has_remaining() => {
                    return Err(ClientError::Broken("the answer ended within a line".into()));
                }
                None => return Ok(None),
                Some(Err(error)) => return Err(ClientError::Broken(error.into())),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn an_answer_that_breaks_off_within_is_asked_for_again() {
        const WHOLE: &str = r#"{"version":"1","api":[1]}"#;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let daemon = tokio::spawn(async move {
            for body in [&WHOLE[..9], WHOLE] {
                let (mut stream, _) = listener.accept().await.unwrap();
                assert_ne!(stream.read(&mut [0; 4096]).await.unwrap(), 0);
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", WHOLE.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let client = Client { waits: Some(Told::new(|_| {})), ..Client::new(&path) };
        assert_eq!(client.version().await.unwrap().version, "1");
        daemon.await.unwrap();
    }

    #[test]
    fn queries_are_encoded() {
        let query = wire::EventsQuery { app: Some("a&b =é".into()), limit: Some(5), ..Default::default() };
        assert_eq!(query_string(&query), "?app=a%26b%20%3D%C3%A9&limit=5");
        assert_eq!(query_string(&wire::EventsQuery::default()), "");
    }

    #[test]
    fn faults_cross_the_wire_whole() {
        let fault = Fault::new(FaultKind::Refused, "no").caused_by("because").hint("do").detail("x");
        let text = serde_json::to_string(&wire::Fault::from(fault.clone())).unwrap();
        assert_eq!(Fault::from(serde_json::from_str::<wire::Fault>(&text).unwrap()), fault);
    }

    #[test]
    fn the_longest_failure_is_a_line_that_is_taken() {
        // Six bytes of JSON for each.
        let long = "\u{1}".repeat(64 << 10);
        let lines = vec![long.as_str(); 50].join("\n");
        let mut fault = Fault::new(FaultKind::Failed, long.clone()).hint(long.clone()).detail(lines);
        fault.causes = vec![long; 50];
        let event = wire::ChangeEvent { at: u64::MAX, what: wire::ChangeStep::Failed { fault: fault.into() } };
        let length = serde_json::to_vec(&event).unwrap().len();
        assert!((MAX_LINE / 4..MAX_LINE).contains(&length), "{length}");
    }

    #[test]
    fn a_change_step_reads_as_one_flat_object() {
        let event = wire::ChangeEvent { at: 7, what: wire::ChangeStep::Phase { phase: wire::ChangePhase::Build } };
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(text, r#"{"at":7,"kind":"phase","phase":"build"}"#);
        assert_eq!(serde_json::from_str::<wire::ChangeEvent>(&text).unwrap(), event);
    }

    /// Either may be older: a client reads what a daemon of before said, and passes over what it does not know.
    #[test]
    fn steps_of_older_and_newer_daemons_are_read() {
        let read = |text: &str| serde_json::from_str::<wire::ChangeEvent>(text).unwrap().what;
        let before = read(r#"{"at":7,"kind":"waiting","steps":[{"what":"web.r2","on":"health"}]}"#);
        assert!(matches!(before, wire::ChangeStep::Waiting { steps, rollout: None } if steps.len() == 1));
        let later = r#"{"at":7,"kind":"waiting","steps":[],"rollout":{"strategy":"canary","candidate":2,"stage":"step",
            "step":1,"of":2,"weight":5,"since":1,"tomorrow":[1]}}"#;
        let wire::ChangeStep::Waiting { rollout: Some(rollout), .. } = read(later) else { panic!("a rollout is told") };
        assert_eq!((rollout.weight, rollout.stable, rollout.verdicts.len()), (5, None, 0));
        assert_eq!(read(r#"{"at":7,"kind":"of_tomorrow","what":{"a":1}}"#), wire::ChangeStep::Unknown);
    }
}
