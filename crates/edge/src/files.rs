//! Files that the edge serves itself, in pieces. What lies in memory is read in place; all that may wait for a disk is done by [`crate::disk`].

mod condition;
mod medium;
mod rest;

use std::fs::File;
use std::future::poll_fn;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bowline_core::id::ReleaseNumber;
use bowline_core::route::Files;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};

use crate::answer::Reason;
use crate::client::Client;
use crate::deadline::Patience;
use crate::disk::{Ask, Disk, Wait};
use crate::encoding::{Coding, Gzip};
use crate::h1::{Field, Framing, ResponseLine};
use crate::request::Request;
use crate::route::Route;
use crate::upstream::is_shortage;

use self::condition::{Range, is_another, unchanged};
use self::medium::{Medium, Place};
use self::rest::{Kept, Rest};

/// A folder and how it is served.
#[derive(Debug)]
pub(crate) struct Folder {
    root: PathBuf,
    fallback: Option<String>,
    /// `Cache-Control` of everything but HTML.
    cache: String,
    /// Seen when the first of its files is opened.
    place: OnceLock<Place>,
}

/// Pages change with every release and name what else is needed: they are always asked for again.
const CACHE_HTML: &str = "no-cache";

impl Folder {
    pub(crate) fn new(files: &Files) -> Self {
        Self {
            root: files.root.clone(),
            fallback: files.fallback.clone(),
            cache: format!("public, max-age={}", files.cache.as_secs()),
            place: OnceLock::new(),
        }
    }
}

/// What a path leads to.
enum Found {
    File(Opened),
    /// A folder, asked for without the slash at the end.
    Folder,
}

struct Opened {
    file: Kept,
    name: String,
    size: u64,
    modified: Option<SystemTime>,
}

/// Answers with a file of the folder.
pub(crate) async fn serve<C: Client>(
    request: &mut Request<'_>,
    client: &mut C,
    route: &Route,
    folder: &Arc<Folder>,
    release: ReleaseNumber,
) -> Result<(), Reason> {
    let head = request.head;
    if !matches!(head.method(), "GET" | "HEAD") {
        return Err(Reason::FileMethod);
    }
    let path = decoded(if route.strip { route.prefix.strip(head.path()) } else { head.path() });
    if is_withheld(&path) {
        return Err(Reason::FileNotFound);
    }
    let worker = request.worker;
    let found = worker.with_room(async || look(request, client, route, folder, &path).await).await?;
    let opened = match found {
        Found::File(opened) => opened,
        Found::Folder => {
            let query = head.query().map_or(String::new(), |query| format!("?{query}"));
            let location = format!("{}/{query}", head.path());
            // The next release may have a file of that name.
            return request.answer(client, 308, &[("location", &location), ("cache-control", CACHE_HTML)], b"").await;
        }
    };
    send(request, client, (route, folder), opened, release).await
}

/// In memory, else on the disk.
async fn look<C: Client>(
    request: &Request<'_>,
    client: &mut C,
    route: &Route,
    folder: &Arc<Folder>,
    path: &[u8],
) -> Result<Found, Reason> {
    let disk = &request.worker.disk;
    if let Some(found) = find(disk, folder, path, Way::Cached)? {
        return Ok(found);
    }
    let (within, keeps, path) = (Arc::clone(folder), disk.clone(), path.to_vec());
    let find = move || find(&keeps, &within, &path, Way::Waiting);
    let gone = &mut |cx: &mut Context<'_>| client.poll_gone(cx);
    let wait = Wait { deadline: request.deadline, within: route.timeout, gone };
    disk.run(Ask::Opening, wait, find).await??.ok_or(Reason::FileUnreadable)
}

/// The gate let only well-formed escapes through, none of a slash, a dot segment or a control byte.
fn decoded(path: &str) -> Vec<u8> {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| std::str::from_utf8(bytes.get(at + 1..at + 3)?).ok().and_then(|d| u8::from_str_radix(d, 16).ok()))
            .flatten();
        out.push(escaped.unwrap_or(bytes[at]));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    out
}

/// What lies in an app's folder for tools and not for visitors: a folder with an `index.html` is served whole, and the
/// names that begin with a dot hold keys more often than pages. `.well-known` is for visitors (RFC 8615).
fn is_withheld(path: &[u8]) -> bool {
    /// At the top of the folder.
    const TOOLS: [&[u8]; 9] = [
        b"bowline.toml",
        b"Procfile",
        b"Dockerfile",
        b"Containerfile",
        b"Makefile",
        b"compose.yaml",
        b"compose.yml",
        b"docker-compose.yaml",
        b"docker-compose.yml",
    ];
    let hidden = |name: &[u8]| name.starts_with(b".") && name != b".well-known";
    let mut names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
    let top = names.clone().next().is_some_and(|name| TOOLS.contains(&name)) && names.clone().count() == 1;
    top || names.any(hidden)
}

/// How often an opening is tried that the kernel asks to be tried again.
const EAGAIN_RETRIES: usize = 16;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By what lies in memory; where that is not enough, not at all.
    Cached,
    /// It may take as long as it likes.
    Waiting,
}

impl Way {
    fn open<F: AsFd>(self, from: F, path: &Path, flags: OFlag, resolve: ResolveFlag) -> Result<OwnedFd, Errno> {
        // No library knows it.
        let cached = ResolveFlag::from_bits_retain(libc::RESOLVE_CACHED);
        let resolve = if self == Self::Cached { resolve | cached } else { resolve };
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
        let open = || openat2(&from, path, how);
        match self {
            Self::Cached => open(),
            // Where a path goes up, and anything on the machine is renamed meanwhile, the kernel cannot tell that it stays within.
            Self::Waiting => {
                let mut opened = (0..EAGAIN_RETRIES).map(|_| open());
                opened.find(|opened| !matches!(opened, Err(Errno::EAGAIN))).unwrap_or(Err(Errno::EAGAIN))
            }
        }
    }
}

/// `None`: not without waiting.
fn find(disk: &Disk, folder: &Folder, path: &[u8], way: Way) -> Result<Option<Found>, Reason> {
    use std::os::unix::ffi::OsStrExt;
    // There opening asks a server, whatever memory knows of the names.
    if way == Way::Cached && folder.place.get().is_some_and(Place::is_elsewhere) {
        return Ok(None);
    }
    let root = match way.open(AT_FDCWD, &folder.root, OFlag::O_PATH | OFlag::O_DIRECTORY, ResolveFlag::empty()) {
        Ok(root) => root,
        Err(error) if is_shortage(&error.into()) => return Err(Reason::Shortage),
        Err(_) if way == Way::Cached => return Ok(None),
        Err(error) => {
            tracing::warn!(%error, root = %folder.root.display(), "a folder of files cannot be opened");
            return Err(Reason::FileUnreadable);
        }
    };
    let place = match folder.place.get() {
        Some(place) => place,
        // Not remembered where there was no descriptor to find out with.
        None => {
            let place = Place::of(&root).map_err(|_| Reason::Shortage)?;
            folder.place.get_or_init(|| place)
        }
    };
    // Something else may have been mounted over it.
    if way == Way::Cached && place.medium(&root) == Medium::Elsewhere {
        return Ok(None);
    }
    let relative = path.strip_prefix(b"/").unwrap_or(path);
    let asked = Path::new(std::ffi::OsStr::from_bytes(relative));
    let open = |asked: &Path| open_file((disk, place), &root, asked, way);
    let found = match relative.is_empty() || relative.ends_with(b"/") {
        true => open(&asked.join("index.html")),
        false => open(asked),
    };
    match found {
        Err(Reason::FileNotFound) => match &folder.fallback {
            Some(fallback) => open(Path::new(fallback)),
            None => Err(Reason::FileNotFound),
        },
        found => found,
    }
}

/// Opens what lies beneath `root`; whatever leads out of it (`..`, links) is not found. `None`: not without waiting.
fn open_file(
    (disk, place): (&Disk, &Place),
    root: &OwnedFd,
    relative: &Path,
    way: Way,
) -> Result<Option<Found>, Reason> {
    let mut resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    if way == Way::Cached {
        // What is mounted there may be of a disk elsewhere.
        resolve |= ResolveFlag::RESOLVE_NO_XDEV;
    }
    let file = match way.open(root, relative, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY, resolve) {
        Ok(file) => File::from(file),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ENAMETOOLONG) => return Err(Reason::FileNotFound),
        Err(error) if is_shortage(&error.into()) => return Err(Reason::Shortage),
        Err(_) if way == Way::Cached => return Ok(None),
        Err(Errno::EXDEV | Errno::ELOOP | Errno::EACCES | Errno::ENXIO | Errno::ENODEV) => {
            return Err(Reason::FileNotFound);
        }
        Err(error) => {
            tracing::warn!(%error, path = %relative.display(), "a file cannot be opened");
            return Err(Reason::FileUnreadable);
        }
    };
    let metadata = file.metadata().map_err(|_| Reason::FileUnreadable)?;
    let medium = place.medium(&file);
    match metadata.file_type() {
        kind if kind.is_dir() => Ok(Some(Found::Folder)),
        kind if kind.is_file() => Ok(Some(Found::File(Opened {
            file: Kept::new(disk, file, medium),
            name: relative.to_string_lossy().into_owned(),
            size: metadata.len(),
            modified: metadata.modified().ok(),
        }))),
        _ => Err(Reason::FileNotFound),
    }
}

fn content_type(name: &str) -> String {
    let guess = mime_guess::from_path(name).first_or_octet_stream();
    let text = guess.type_() == "text" || matches!(guess.essence_str(), "application/javascript" | "application/json");
    if text { format!("{guess}; charset=utf-8") } else { guess.to_string() }
}

fn http_date(time: SystemTime) -> Option<String> {
    let time = jiff::Timestamp::try_from(time).ok()?;
    Some(time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string())
}

/// Two releases may hold different files of the same size and time: the release is part of it.
fn etag(release: ReleaseNumber, opened: &Opened) -> String {
    let time = opened.modified.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok()).unwrap_or_default();
    format!("\"r{release}-{:x}-{:x}\"", opened.size, time.as_nanos())
}

async fn send<C: Client>(
    request: &mut Request<'_>,
    client: &mut C,
    (route, folder): (&Route, &Folder),
    opened: Opened,
    release: ReleaseNumber,
) -> Result<(), Reason> {
    let (head, within) = (request.head, route.timeout);
    let (etag, modified) = (etag(release, &opened), opened.modified.and_then(http_date));
    let kind = content_type(&opened.name);
    let cache = if kind.starts_with("text/html") { CACHE_HTML } else { folder.cache.as_str() };
    let (number, size) = (release.to_string(), opened.size);
    let mut extra = vec![("etag", etag.as_str()), ("cache-control", cache), ("x-bowline-release", number.as_str())];
    if let Some(modified) = &modified {
        extra.push(("last-modified", modified));
    }
    let coding = |status, extra: &[(&str, &str)], length| {
        let fields = extra.iter().map(|(name, value)| Field::new(name, value.as_bytes()));
        route.compress.then(|| Coding::of(head, status, Some(length), fields)).flatten()
    };
    if is_another(head, &etag, opened.modified) {
        return Err(Reason::FileChanged);
    }
    if unchanged(head.all("if-none-match"), head.first("if-modified-since"), &etag, modified.as_deref()) {
        let coding = coding(304, &extra, 0);
        return request.answer_empty(client, 304, &Coding::amend(coding.as_ref(), &extra)).await;
    }
    extra.extend([("content-type", kind.as_str()), ("accept-ranges", "bytes"), ("x-content-type-options", "nosniff")]);
    // Only of what is got (RFC 9110, 14.2).
    let ranged = !head.is_head() && head.first("if-range").is_none_or(|condition| condition == etag.as_bytes());
    let range = head.first("range").filter(|_| ranged).map_or(Range::Whole, |text| Range::parse(text, size));
    let content_range;
    let (status, from, length) = match range {
        Range::Whole => (200, 0, size),
        Range::Part { from, length } => {
            content_range = format!("bytes {from}-{}/{size}", from + length - 1);
            extra.push(("content-range", &content_range));
            (206, from, length)
        }
        Range::Unsatisfiable => {
            content_range = format!("bytes */{size}");
            return request.answer(client, 416, &[("content-range", &content_range)], b"").await;
        }
    };
    request.exchange.answered_here();
    let to_head = head.is_head();
    let mut line = ResponseLine {
        status,
        body: if to_head { Framing::None } else { Framing::Length(length) },
        announced: to_head.then_some(length),
        version: client.version(),
        keep_alive: request.keep_alive(),
        upgrade: None,
        date: None,
    };
    let mut coding = coding(status, &extra, length);
    let mut gzip = coding.as_mut().and_then(|coding| coding.begin(request.worker, &mut line));
    request.begin_response(client, &line, &Coding::amend(coding.as_ref(), &extra))?;
    request.patience = Patience::new(route.reading);
    client.waits_for(route.reading);
    if !to_head {
        stream(request, client, opened.file, (from, length), gzip.as_deref_mut(), within).await?;
    }
    // Given back here, and not when the client has read all.
    drop(gzip);
    client.finish()?;
    reads(request, client, Until::All).await?;
    request.exchange.response_sent();
    Ok(())
}

async fn stream<C: Client>(
    request: &mut Request<'_>,
    client: &mut C,
    file: Kept,
    (at, left): (u64, u64),
    mut gzip: Option<&mut Gzip>,
    within: Duration,
) -> Result<(), Reason> {
    let mut rest = Rest::new(file, (at, left), request.worker.take_buffer());
    let sent = loop {
        if rest.is_empty() {
            break match gzip {
                Some(gzip) => pass(request, client, gzip.finish()),
                None => Ok(()),
            };
        }
        if let Err(reason) = reads(request, client, Until::Room).await {
            break Err(reason);
        }
        let gone = &mut |cx: &mut Context<'_>| client.poll_gone(cx);
        let piece = match rest.next(Wait { deadline: request.deadline, within, gone }).await {
            Ok(piece) => piece,
            Err(reason) => break Err(reason),
        };
        let piece = match &mut gzip {
            Some(gzip) => gzip.push(piece),
            None => piece,
        };
        if let Err(reason) = pass(request, client, piece) {
            break Err(reason);
        }
    };
    request.worker.give_buffer(rest.into_buffer());
    sent
}

/// How much a client is to have read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// More may be given.
    Room,
    All,
}

/// Waits for the client: with the patience of one who reads, and no longer than it is let in.
async fn reads<C: Client>(request: &mut Request<'_>, client: &mut C, until: Until) -> Result<(), Reason> {
    poll_fn(|cx| {
        loop {
            let now = request.worker.sweep.now();
            request.look_again(client.peer());
            if request.is_shut_out() {
                return Poll::Ready(Err(Reason::Revoked));
            }
            if until == Until::Room && client.has_room() {
                request.patience.moved(now, client.sent_bytes());
                return Poll::Ready(Ok(()));
            }
            request.deadline.clear();
            request.deadline.set_no_later(request.patience.waits(now).min(request.ends()));
            let before = client.sent_bytes();
            let flushed = client.poll_flush(cx)?;
            if client.sent_bytes() > before {
                request.patience.moved(now, client.sent_bytes());
            } else if request.deadline.passed(cx) {
                return Poll::Ready(Err(Reason::ClientStalled));
            } else if flushed.is_pending() {
                return Poll::Pending;
            }
            if flushed.is_ready() && until == Until::All {
                return Poll::Ready(Ok(()));
            }
        }
    })
    .await
}

fn pass<C: Client>(request: &mut Request<'_>, client: &mut C, piece: &[u8]) -> Result<(), Reason> {
    if !piece.is_empty() {
        client.send(piece)?;
        request.journal.response_bytes += piece.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use bowline_core::app::{BodyLimit, HostName, PathPrefix};
    use bowline_core::route::{self as core_route, Action, Policies, Rule, RuleId, SiteTls, Table, Transfer};
    use bowline_core::units::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::{spawn_local, yield_now};

    use super::*;
    use crate::client::{Peer, http1};
    use crate::deadline::ticks;
    use crate::disk::{Held, THREADS, with_threads};
    use crate::route::{Compiler, Lookup, Target};
    use crate::stream::Stream;
    use crate::worker::Worker;

    #[test]
    fn what_is_for_tools_is_withheld() {
        let check = |path: &str, expected: bool| assert_eq!(is_withheld(path.as_bytes()), expected, "{path}");
        for path in ["/.npmrc", "/.aws/credentials", "/a/.git/config", "/.env-prod", "/bowline.toml", "/compose.yaml"] {
            check(path, true);
        }
        for path in ["/", "/index.html", "/.well-known/security.txt", "/a.b", "/docs/Dockerfile", "/a/.well-known/x"] {
            check(path, false);
        }
        check("/.well-known/.htpasswd", true);
    }

    #[test]
    fn escapes_are_decoded_once() {
        assert_eq!(decoded("/a%20b%C3%A9"), "/a bé".as_bytes());
        assert_eq!(decoded("/100%"), b"/100%");
    }

    /// An edge of one site of files on this folder and one that denies, and time that passes as the test says.
    struct Site {
        worker: Rc<Worker>,
        listener: TcpListener,
        _folder: tempfile::TempDir,
    }

    impl Site {
        async fn serve(folder: tempfile::TempDir) -> Self {
            std::fs::write(folder.path().join("a.txt"), "a file").unwrap();
            let id = bowline_core::id::RouteName::new("main").unwrap();
            let service = bowline_core::id::ServiceName::new("web").unwrap();
            let key: bowline_core::id::InstanceId = "local/a.web.r1.0.1".parse().unwrap();
            let files = Files {
                service,
                release: ReleaseNumber(1),
                root: folder.path().to_path_buf(),
                fallback: None,
                cache: Duration::ZERO,
            };
            let rule = |prefix: &str, action| Rule {
                id: RuleId { key: key.slot.key.clone(), route: id.clone() },
                prefix: PathPrefix::new(prefix).unwrap(),
                strip: false,
                action,
                policies: Policies::default(),
                body: BodyLimit(Bytes(1)),
                timeout: Duration::from_secs(2),
                idle: Duration::from_secs(1),
                transfer: Transfer::default(),
            };
            let rules = vec![rule("/denied", Action::Deny), rule("/", Action::Files(files))];
            let mut table = Table::default();
            table
                .sites
                .insert(HostName::new("a.test").unwrap(), Arc::new(core_route::Site { tls: SiteTls::Both, rules }));
            let routes = Compiler::default().compile(&table);
            let worker = Rc::new(Worker::for_test(folder.path(), routes));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            Self { worker, listener, _folder: folder }
        }

        async fn ask(&self, path: &str) -> TcpStream {
            self.ask_with("GET", path, "").await
        }

        async fn ask_with(&self, method: &str, path: &str, fields: &str) -> TcpStream {
            let mut stream = TcpStream::connect(self.listener.local_addr().unwrap()).await.unwrap();
            let (edge, from) = self.listener.accept().await.unwrap();
            let peer = Peer::new(from.ip(), None, Arc::default());
            spawn_local(http1::serve(Rc::clone(&self.worker), Stream::Plain(edge), peer));
            let request = format!("{method} {path} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n{fields}\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            stream
        }

        /// So that nothing of it is done in place.
        fn is_elsewhere(&self) {
            let proc = Place::of(File::open("/proc").unwrap()).unwrap();
            self.worker.with_routes(|routes| {
                let Lookup::Route(route) = routes.lookup("a.test", "/") else { panic!("it is there") };
                let Target::Files { folder, .. } = &route.target else { panic!("{route:?}") };
                folder.place.set(proc).unwrap();
            });
        }

        async fn recovers(&self, hanging: Held) {
            drop(hanging);
            let recovered = async {
                while self.worker.disk.under_way() > 0 {
                    yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), recovered).await.expect("the threads are free again");
        }

        async fn answer(mut stream: TcpStream) -> String {
            let mut answer = String::new();
            let read = stream.read_to_string(&mut answer);
            tokio::time::timeout(Duration::from_secs(20), read).await.expect("it waits for the disk").unwrap();
            answer
        }
    }

    fn check(answer: &str, status: &str, reason: &str) {
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(reason), "{answer}");
    }

    #[test]
    fn a_disk_that_hangs_holds_up_nobody_else_and_is_given_up() {
        with_threads(async {
            let site = Site::serve(tempfile::tempdir().unwrap()).await;
            site.is_elsewhere();
            let hanging = site.worker.disk.hold(THREADS);
            let waiting = site.ask("/a.txt").await;
            check(&Site::answer(site.ask("/denied").await).await, "403", "denied");
            for _ in 0..ticks(Duration::from_secs(2)) {
                site.worker.sweep.tick();
                yield_now().await;
            }
            check(&Site::answer(waiting).await, "504", "disk-timeout");
            site.recovers(hanging).await;
            check(&Site::answer(site.ask("/a.txt").await).await, "200", "a file");
        });
    }

    #[test]
    fn what_lies_in_memory_is_waited_for_by_nobody() {
        with_threads(async {
            for folder in [tempfile::tempdir(), tempfile::tempdir_in("/dev/shm")].into_iter().flatten() {
                if Place::of(File::open(folder.path()).unwrap()).unwrap().is_elsewhere() {
                    continue;
                }
                let site = Site::serve(folder).await;
                let hanging = site.worker.disk.hang(THREADS);
                // Neither is its folder, which nobody has asked for before.
                check(&Site::answer(site.ask("/a.txt").await).await, "200", "a file");
                site.recovers(hanging).await;
            }
        });
    }

    #[test]
    fn a_file_that_is_another_by_now_is_not_taken_for_the_one_that_is_asked_for() {
        with_threads(async {
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir(folder.path().join("docs")).unwrap();
            let site = Site::serve(folder).await;
            let ask = async |method: &str, path: &str, fields: &str| {
                Site::answer(site.ask_with(method, path, fields).await).await
            };
            let whole = ask("GET", "/a.txt", "").await;
            let field = |name: &str| {
                let line = whole.lines().find(|line| line.to_ascii_lowercase().starts_with(name)).unwrap();
                line[name.len() + 2..].to_owned()
            };
            let (etag, modified) = (field("etag"), field("last-modified"));
            let check_with = async |fields: String, status: u16| {
                let answer = ask("GET", "/a.txt", &fields).await;
                assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{fields}: {answer}");
            };
            check_with(format!("If-Match: \"b\", {etag}\r\n"), 200).await;
            check_with(format!("If-Match: \"b\"\r\nIf-Match: {etag}\r\nRange: bytes=0-0\r\n"), 206).await;
            check_with("If-Match: *\r\n".to_owned(), 200).await;
            check_with("If-Match: \"b\"\r\nRange: bytes=0-0\r\n".to_owned(), 412).await;
            check_with(format!("If-Match: W/{etag}\r\n"), 412).await;
            check_with(format!("If-Unmodified-Since: {modified}\r\n"), 200).await;
            check_with("If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n".to_owned(), 412).await;
            check_with("If-Unmodified-Since: yesterday\r\n".to_owned(), 200).await;
            check_with(format!("If-None-Match: \"b\"\r\nIf-None-Match: {etag}\r\n"), 304).await;
            let head = ask("HEAD", "/a.txt", "Range: bytes=0-0\r\n").await;
            assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("Content-Length: 6"), "{head}");
            let moved = ask("GET", "/docs?lang=de", "").await.to_ascii_lowercase();
            assert!(moved.contains("location: /docs/?lang=de") && moved.contains("cache-control: no-cache"), "{moved}");
        });
    }

    #[test]
    fn what_is_neither_a_file_nor_a_folder_is_not_found() {
        with_threads(async {
            let folder = tempfile::tempdir().unwrap();
            let at = |name| folder.path().join(name);
            let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
            nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
            std::os::unix::fs::symlink("/dev/zero", at("zero")).unwrap();
            let mut names = vec!["socket", "fifo", "zero"];
            // A device that nothing drives; only root may make one.
            let (kind, all) = (nix::sys::stat::SFlag::S_IFCHR, nix::sys::stat::Mode::S_IRWXU);
            names.extend(
                nix::sys::stat::mknod(&at("device"), kind, all, libc::makedev(4095, 0)).ok().map(|()| "device"),
            );
            let site = Site::serve(folder).await;
            for name in names {
                check(&Site::answer(site.ask(&format!("/{name}")).await).await, "404", "file-not-found");
            }
        });
    }

    #[test]
    fn who_reads_nothing_is_waited_for_no_longer_than_a_connection_may_idle() {
        with_threads(async {
            const SIZE: u64 = 64 << 20;
            let folder = tempfile::tempdir().unwrap();
            File::create(folder.path().join("large")).unwrap().set_len(SIZE).unwrap();
            let site = Site::serve(folder).await;
            let mut stream = site.ask("/large").await;
            // All that the network holds is on its way before time passes.
            stream.readable().await.unwrap();
            for _ in 0..100 {
                yield_now().await;
            }
            for _ in 0..ticks(Duration::from_secs(1)) {
                site.worker.sweep.tick();
                yield_now().await;
            }
            let mut received = Vec::new();
            let _ = stream.read_to_end(&mut received).await;
            assert!((received.len() as u64) < SIZE, "{} bytes", received.len());
        });
    }

    #[test]
    fn where_all_threads_hang_nobody_else_waits_for_one() {
        with_threads(async {
            let site = Site::serve(tempfile::tempdir().unwrap()).await;
            site.is_elsewhere();
            let hanging = site.worker.disk.hang(THREADS);
            // No time passes.
            let answer = Site::answer(site.ask("/a.txt").await).await;
            check(&answer, "503", "disk-busy");
            assert!(answer.contains("Retry-After: 1") || answer.contains("retry-after: 1"), "{answer}");
            check(&Site::answer(site.ask("/denied").await).await, "403", "denied");
            site.recovers(hanging).await;
            check(&Site::answer(site.ask("/a.txt").await).await, "200", "a file");
        });
    }
}
