//! `bowline image push`, `pull` and `login`.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::release::{ImageDigest, ImageRef, Reference, Repository};
use bowline_core::units::{Bytes, Round};
use bowline_image::registry::{
    Actions, Client, Credentials, DockerConfig, Limits, Passing, Pushed as Sent, RegistryError, Remote, Secret,
};
use bowline_image::sbom::Sbom;
use bowline_image::{Image, Layout, Platform};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::build::collect;
use super::kept;
use crate::args::{ImageLogin, ImagePull, ImagePush};
use crate::typed::typed;
use crate::ui::{Tone, Ui};

/// Whoever only looks waits for less than whoever sends.
const LOOKING: Limits = Limits { connect: Duration::from_secs(5), stall: Duration::from_secs(10) };
/// And in all no longer than this, whatever is in the way.
pub(in crate::cmd) const LOOK: Duration = Duration::from_secs(20);
/// Bytes that are read of what should be a password.
const MOST: u64 = 64 << 10;

#[derive(Debug, Serialize)]
struct Pushed {
    image: String,
    digest: String,
    sent: usize,
    mounted: usize,
    there: usize,
}

pub(super) async fn push(args: ImagePush, layout: &Layout, ui: &Ui) -> Result<ExitCode, Fault> {
    let image = kept(&args.image, layout)?;
    let to = args.called.as_ref().unwrap_or(&args.image);
    let sent = send(&image, to, (layout, args.ca.as_deref()), &mut |line| passing(line, ui)).await?;
    let told = Pushed {
        image: to.to_string(),
        digest: sent.digest.to_string(),
        sent: sent.sent.len(),
        mounted: sent.mounted.len(),
        there: sent.there.len(),
    };
    ui.object(&told);
    ui.say(format!("  {}  {}", ui.paint(Tone::Strong, &told.image), told.digest));
    let counted = format!("{} blobs sent, {} there already", told.sent, told.mounted + told.there);
    ui.say(format!("  {}", ui.paint(Tone::Faint, counted)));
    Ok(ExitCode::SUCCESS)
}

/// Sends an image that is kept here, and its bill of materials. `moving`: takes which blob is on its way, and last nothing.
pub(in crate::cmd) async fn send(
    image: &Image,
    to: &Reference,
    (layout, ca): (&Layout, Option<&Path>),
    moving: &mut dyn FnMut(&str),
) -> Result<Sent, Fault> {
    let doing = format!("{to} cannot be pushed");
    let mut remote = remote(&to.repository, (Actions::Push, Limits::default()), ca, &doing).await?;
    let passing = remote.watch();
    let pushing = remote.push(image, to, layout.blobs(), None);
    let sent = watched(pushing, passing, "sending", moving).await;
    let sent = sent.map_err(|error| refused(error, &to.repository, &doing))?;
    if let Some(sbom) = layout.sbom(image)? {
        let doing = format!("the bill of materials of {to} cannot be pushed");
        let attached = remote.attach(&image.manifest, Sbom::MEDIA, &sbom, layout.blobs()).await;
        attached.map_err(|error| refused(error, &to.repository, &doing))?;
    }
    Ok(sent)
}

/// Whether this name leads to this image there already, and its bill of materials lies beside it. Who cannot tell sends it.
pub(in crate::cmd) async fn is_pushed(
    image: &Image,
    to: &Reference,
    (layout, ca): (&Layout, Option<&Path>),
) -> Result<bool, Fault> {
    let sbom = layout.sbom(image)?;
    let mut remote = remote(&to.repository, (Actions::Push, LOOKING), ca, &format!("{to} cannot be looked at")).await?;
    let asked = async {
        let digest = remote.head(to).await?;
        let is_there = digest.is_some_and(|digest| digest == ImageDigest::from(image.manifest.digest));
        match &sbom {
            Some(_) if is_there => Ok(!remote.attached(image.manifest.digest, Sbom::MEDIA).await?.is_empty()),
            Some(_) | None => Ok::<_, RegistryError>(is_there),
        }
    };
    Ok(timeout(LOOK, asked).await.is_ok_and(|found| found.unwrap_or(false)))
}

/// Whether somebody like us may push there at all, before anything is built for it.
///
/// # Errors
/// The registry is away, or does not let us in.
pub(in crate::cmd) async fn reach(to: &Repository, ca: Option<&Path>) -> Result<(), Fault> {
    let doing = format!("nothing can be pushed to {to}");
    let name = Reference { repository: to.clone(), tag: None, digest: None };
    let asked = async {
        match remote(to, (Actions::Push, LOOKING), ca, &doing).await?.head(&name).await {
            // That it has not got it, a registry says in its own words; who is not let in is answered otherwise.
            Ok(_) => Ok(()),
            Err(error) => Err(refused(error, to, &doing)),
        }
    };
    let late = |_| Fault::new(FaultKind::Unreachable, &doing).caused_by(late(to.registry()));
    timeout(LOOK, asked).await.map_err(late)?
}

fn late(registry: &str) -> String {
    format!("{registry} has not answered within {} s", LOOK.as_secs())
}

/// Whether an image is where its name leads, as far as it can be seen from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cmd) enum There {
    Yes,
    No,
    /// Why it is not known.
    Unseen(String),
}

/// Asks its registry, as whoever has logged in here. `until`: then nobody has answered.
///
/// # Errors
/// The authorities that are to be believed cannot be read.
pub(in crate::cmd) async fn find(image: &ImageRef, ca: Option<&Path>, until: Instant) -> Result<There, Fault> {
    let client = client(ca, LOOKING)?;
    let found = timeout_at(until, found(image, &client)).await;
    Ok(found.unwrap_or_else(|_| There::Unseen(late(image.repository.registry()))))
}

async fn found(image: &ImageRef, client: &Client) -> There {
    let registry = image.repository.registry();
    let credentials = match logins() {
        Ok(logins) => logins.find(registry).await.map_err(Fault::from),
        Err(fault) => Err(fault),
    };
    let credentials = match credentials {
        Ok(credentials) => credentials,
        Err(fault) => return There::Unseen(fault.in_one_line()),
    };
    let name = Reference { repository: image.repository.clone(), tag: None, digest: Some(image.digest) };
    let answer = match client.remote(&image.repository, Actions::Pull, credentials, None) {
        Ok(mut remote) => remote.head(&name).await,
        Err(error) => Err(error),
    };
    match answer {
        Ok(Some(_)) => There::Yes,
        Ok(None) => There::No,
        Err(error) => There::Unseen(error.fault(&format!("{registry} does not say")).causes.join(": ")),
    }
}

async fn remote(
    repository: &Repository,
    (actions, limits): (Actions, Limits),
    ca: Option<&Path>,
    doing: &str,
) -> Result<Remote, Fault> {
    let credentials = logins()?.find(repository.registry()).await?;
    let remote = client(ca, limits)?.remote(repository, actions, credentials, None);
    remote.map_err(|error| refused(error, repository, doing))
}

/// As it is shown, with the commands that mend it for that registry.
fn refused(error: RegistryError, repository: &Repository, doing: &str) -> Fault {
    let mut fault = error.fault(doing);
    fault.hint = fault.hint.map(|hint| hint.replace("HOST", repository.registry()));
    fault
}

fn passing(line: &str, ui: &Ui) {
    ui.passing(if line.is_empty() { String::new() } else { format!("  {line}") });
}

/// Tells which blob is on its way, in the place of the one before.
async fn watched<T>(
    work: impl Future<Output = T>,
    mut passing: mpsc::UnboundedReceiver<Passing>,
    doing: &str,
    moving: &mut dyn FnMut(&str),
) -> T {
    tokio::pin!(work);
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            Some(one) = passing.recv() => {
                let Passing { number, count, size } = one;
                moving(&format!("{doing} {number} of {count}, {}", Round(Bytes(size))));
            }
        }
    };
    moving("");
    done
}

pub(super) async fn pull(args: ImagePull, layout: Layout, ui: &Ui) -> Result<ExitCode, Fault> {
    #[derive(Serialize)]
    struct Pulled {
        image: String,
        digest: String,
    }
    let name = &args.image;
    let doing = format!("{name} cannot be pulled");
    let mut remote = remote(&name.repository, (Actions::Pull, Limits::default()), args.ca.as_deref(), &doing).await?;
    let (told, host) = (remote.watch(), Platform::host());
    let pulling = remote.pull(name, &host, layout.blobs());
    let pulled = watched(pulling, told, "fetching", &mut |line| passing(line, ui)).await;
    let pulled = pulled.map_err(|error| refused(error, &name.repository, &doing))?;
    // By its digest alone it has no name here that could move.
    let names: &[Reference] =
        if name.tag.is_none() && name.digest.is_some() { &[] } else { std::slice::from_ref(name) };
    layout.name(&pulled, names)?;
    let told = Pulled { image: name.to_string(), digest: pulled.manifest.digest.to_string() };
    ui.object(&told);
    ui.say(format!("  {}  {}", ui.paint(Tone::Strong, &told.image), told.digest));
    collect(layout, ui);
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn login(args: ImageLogin, ui: &Ui) -> Result<ExitCode, Fault> {
    #[derive(Serialize)]
    struct LoggedIn<'a> {
        host: &'a str,
        user: &'a str,
    }
    let (host, user) = (args.host.as_str(), args.user.as_str());
    let password = Secret::new(password(host, ui)?);
    let credentials = Credentials::Password { user: user.to_owned(), password: password.clone() };
    let known = client(args.ca.as_deref(), Limits::default())?.log_in(host, credentials).await;
    known.map_err(|error| error.fault(&format!("{host} does not let {user} in")))?;
    logins()?.keep(host, user, &password).await?;
    ui.object(&LoggedIn { host, user });
    ui.say(format!("  logged in to {} as {user}", ui.paint(Tone::Strong, host)));
    Ok(ExitCode::SUCCESS)
}

fn client(ca: Option<&Path>, limits: Limits) -> Result<Client, Fault> {
    Client::new(ca, limits)
        .map_err(|error| Fault::new(FaultKind::Invalid, "no registry can be verified").source(&error))
}

fn logins() -> Result<DockerConfig, Fault> {
    let folder = std::env::var_os("DOCKER_CONFIG").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let place = match (folder, home) {
        (None, None) => {
            return Err(Fault::new(FaultKind::Invalid, "who you are at a registry is kept nowhere")
                .hint("set HOME or DOCKER_CONFIG"));
        }
        (folder, home) => DockerConfig::place(folder.as_deref(), &home.unwrap_or_default()),
    };
    Ok(DockerConfig::read(&place)?)
}

fn password(host: &str, ui: &Ui) -> Result<String, Fault> {
    let unread = |error: &std::io::Error| Fault::new(FaultKind::Invalid, "the password cannot be read").source(error);
    let bytes = match std::io::stdin().is_terminal() {
        true => typed(&format!("password for {host}"), ui).map_err(|error| unread(&error))?,
        false => {
            let mut bytes = Vec::new();
            std::io::stdin().lock().take(MOST).read_to_end(&mut bytes).map_err(|error| unread(&error))?;
            bytes
        }
    };
    let text = String::from_utf8(bytes).map_err(|_| Fault::new(FaultKind::Invalid, "the password is no text"))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(Fault::new(FaultKind::Invalid, "there is no password on standard input")),
        password => Ok(password.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};

    use bowline_core::id::Digest;

    use super::*;

    /// A server that has nothing, and says so in these words.
    fn has_nothing(words: &'static str) -> Repository {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let name: Reference = format!("{}/acme/shop", listener.local_addr().unwrap()).parse().unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut first = String::new();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                reader.read_line(&mut first).unwrap();
                let mut line = String::new();
                while reader.read_line(&mut line).unwrap() > 2 {
                    line.clear();
                }
                let body = if first.starts_with("HEAD") { "" } else { words };
                let length = words.len();
                let head = format!("HTTP/1.1 404 -\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
                let _ = stream.write_all(format!("{head}{body}").as_bytes());
            }
        });
        name.repository
    }

    #[tokio::test]
    async fn only_a_registry_says_that_something_may_be_pushed_to_what_is_not_there_yet() {
        let words = r#"{"errors":[{"code":"NAME_UNKNOWN","message":"repository name not known to registry"}]}"#;
        reach(&has_nothing(words), None).await.unwrap();
        let other = reach(&has_nothing("<html>404 not found</html>"), None).await.unwrap_err();
        assert!(other.message.contains("nothing can be pushed to 127.0.0.1"), "{other:?}");
    }

    #[tokio::test]
    async fn who_says_nothing_is_not_waited_for_longer_than_a_look_may_last() {
        // It takes connections, and reads nothing.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let name: Reference = format!("{}/acme/shop", silent.local_addr().unwrap()).parse().unwrap();
        let image = name.repository.at(ImageDigest(Digest([1; 32])));
        let until = Instant::now() + Duration::from_millis(20);
        let expected = format!("{} has not answered within 20 s", name.repository.registry());
        assert_eq!(find(&image, None, until).await.unwrap(), There::Unseen(expected));
    }
}
