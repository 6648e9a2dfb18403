//! One repository of one registry, and who asks there.

use std::time::Instant;

use bowline_core::release::Repository;
use bowline_core::time::Mono;
use bytes::Bytes;
use hyper::Method;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use tokio::sync::mpsc;

use super::Client;
use super::auth::{Auth, Credentials, Question, Step};
use super::error::{RegistryError, said};
use super::http::{Answer, Content, Http, HttpError};
use super::place::Place;

/// Of an answer that refuses, or that gives a token, in bytes.
pub(super) const MAX_WORDS: usize = 128 << 10;

/// What is done there: it is all that is asked the right for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actions {
    Pull,
    Push,
}

/// A repository, asked one thing at a time.
#[derive(Debug)]
pub struct Remote {
    http: Http,
    origin: Place,
    repository: Repository,
    auth: Auth,
    began: Instant,
    watching: Option<mpsc::UnboundedSender<Passing>>,
}

/// A blob on its way, for whoever watches: of a push or a pull the so-manieth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Passing {
    /// From 1.
    pub number: usize,
    pub count: usize,
    /// In bytes.
    pub size: u64,
}

/// One request.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) place: Place,
    pub(super) headers: HeaderMap,
    pub(super) content: Content,
}

impl Ask {
    pub(super) fn new(method: Method, place: Place) -> Self {
        Self { method, place, headers: HeaderMap::new(), content: Content::Nothing }
    }

    pub(super) fn accept(mut self, media: &str) -> Result<Self, HttpError> {
        self.headers.insert(ACCEPT, HeaderValue::from_str(media).map_err(|_| HttpError::Field)?);
        Ok(self)
    }

    pub(super) fn field(mut self, name: HeaderName, value: &str) -> Result<Self, HttpError> {
        self.headers.insert(name, HeaderValue::from_str(value).map_err(|_| HttpError::Field)?);
        Ok(self)
    }

    pub(super) fn content(mut self, media: &str, content: Content) -> Result<Self, HttpError> {
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_str(media).map_err(|_| HttpError::Field)?);
        Ok(Self { content, ..self })
    }

    /// For people.
    pub(super) fn words(&self) -> String {
        format!("{} {}", self.method, self.place)
    }
}

impl Client {
    /// `near`: another repository there from which layers may be taken over without being sent.
    ///
    /// # Errors
    /// The registry's name is none that can be asked.
    pub fn remote(
        &self,
        repository: &Repository,
        actions: Actions,
        credentials: Option<Credentials>,
        near: Option<&Repository>,
    ) -> Result<Remote, RegistryError> {
        let origin = Place::registry(repository.registry(), self.is_told_whom_to_trust)?;
        let own = match actions {
            Actions::Pull => "pull",
            Actions::Push => "pull,push",
        };
        let own = format!("repository:{}:{own}", repository.path());
        let near = near.map(|near| format!("repository:{}:pull", near.path()));
        Ok(Remote {
            http: self.http.clone(),
            origin,
            repository: repository.clone(),
            auth: Auth::new(credentials, [own].into_iter().chain(near).collect()),
            began: Instant::now(),
            watching: None,
        })
    }

    /// Whether a registry knows who says so: for a login.
    ///
    /// # Errors
    /// It does not, or is none.
    pub async fn log_in(&self, registry: &str, credentials: Credentials) -> Result<(), RegistryError> {
        let origin = Place::registry(registry, self.is_told_whom_to_trust)?;
        let repository = format!("{registry}/x").parse().map_err(|_| RegistryError::Url(registry.to_owned()))?;
        let auth = Auth::new(Some(credentials), Vec::new());
        let mut remote =
            Remote { http: self.http.clone(), origin, repository, auth, began: Instant::now(), watching: None };
        let ask = Ask::new(Method::GET, remote.origin.at("/v2/".to_owned()));
        let answer = remote.ask(&ask).await?;
        if answer.status.as_u16() == 200 { Ok(()) } else { Err(refused(&ask, answer).await) }
    }
}

impl Remote {
    /// Each blob of a push or a pull is told from now on, before it is sent or fetched.
    pub fn watch(&mut self) -> mpsc::UnboundedReceiver<Passing> {
        let (send, receive) = mpsc::unbounded_channel();
        self.watching = Some(send);
        receive
    }

    pub(super) fn passes(&self, number: usize, count: usize, size: u64) {
        if let Some(watching) = &self.watching {
            // Nobody watching is no reason to stop.
            let _ = watching.send(Passing { number, count, size });
        }
    }

    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// `blobs/uploads/`, below the repository.
    pub(super) fn place(&self, below: &str) -> Place {
        self.origin.at(format!("/v2/{}/{below}", self.repository.path()))
    }

    /// With whatever the registry wants to know of who asks. The answer is what it is, but never 401.
    pub(super) async fn ask(&mut self, ask: &Ask) -> Result<Answer, RegistryError> {
        if !ask.place.is_with(&self.origin) {
            // Elsewhere nobody is told anything: what may be done there is in the URL.
            return Ok(self.send(ask, None).await?);
        }
        let mut step = self.auth.begin(self.now());
        loop {
            step = match step {
                Step::Send(authorization) => {
                    let answer = self.send(ask, authorization.as_ref().map(super::Secret::expose)).await?;
                    if answer.status.as_u16() != 401 {
                        return Ok(answer);
                    }
                    let values = answer.headers.get_all(WWW_AUTHENTICATE);
                    self.auth.challenged(values.iter().filter_map(|value| value.to_str().ok()))?
                }
                Step::Ask(question) => {
                    let (status, body) = self.token(&question).await?;
                    self.auth.answered(status, &body, self.now())?
                }
            };
        }
    }

    /// Goes where a location leads, of a registry or of an answer of it.
    pub(super) fn follow(&self, location: &str) -> Result<Place, RegistryError> {
        self.origin.follow(location)
    }

    async fn send(&self, ask: &Ask, authorization: Option<&str>) -> Result<Answer, HttpError> {
        let mut headers = ask.headers.clone();
        if let Some(authorization) = authorization {
            let mut value = HeaderValue::from_str(authorization).map_err(|_| HttpError::Field)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        self.http.send(&ask.place, ask.method.clone(), headers, &ask.content).await
    }

    async fn token(&self, question: &Question) -> Result<(u16, Vec<u8>), RegistryError> {
        let place = self.origin.follow(&question.url)?;
        let ask = match &question.form {
            None => Ask::new(Method::GET, place),
            Some(form) => {
                let content = Content::Bytes(Bytes::copy_from_slice(form.expose().as_bytes()));
                Ask::new(Method::POST, place).content("application/x-www-form-urlencoded", content)?
            }
        };
        let mut answer = self.send(&ask, question.authorization.as_ref().map(super::Secret::expose)).await?;
        let body = answer.document(MAX_WORDS).await?;
        Ok((answer.status.as_u16(), body))
    }

    fn now(&self) -> Mono {
        Mono(self.began.elapsed())
    }
}

/// What an answer means that is not the one that was hoped for.
pub(super) async fn refused(ask: &Ask, mut answer: Answer) -> RegistryError {
    let body = answer.document(MAX_WORDS).await.unwrap_or_default();
    RegistryError::Refused { what: ask.words(), status: answer.status.as_u16(), said: said(&body) }
}
