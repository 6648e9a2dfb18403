//! `bowline image push`, `pull` and `login`.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::release::Reference;
use bowline_core::units::{Bytes, Round};
use bowline_image::registry::{Actions, Client, Credentials, DockerConfig, Limits, Passing, Secret};
use bowline_image::sbom::Sbom;
use bowline_image::{Layout, Platform};
use serde::Serialize;
use tokio::sync::mpsc;

use super::build::collect;
use super::kept;
use crate::args::{ImageLogin, ImagePull, ImagePush};
use crate::typed::typed;
use crate::ui::{Tone, Ui};

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
    let doing = format!("{to} cannot be pushed");
    let credentials = logins()?.find(to.repository.registry()).await?;
    let client = client(args.ca.as_deref())?;
    let remote = client.remote(&to.repository, Actions::Push, credentials, None);
    let mut remote = remote.map_err(|error| error.fault(&doing))?;
    let passing = remote.watch();
    let pushing = remote.push(&image, to, layout.blobs(), None);
    let pushed = watched(pushing, passing, "sending", ui).await.map_err(|error| error.fault(&doing))?;
    if let Some(sbom) = layout.sbom(&image)? {
        let doing = format!("the bill of materials of {to} cannot be pushed");
        let attached = remote.attach(&image.manifest, Sbom::MEDIA, &sbom, layout.blobs()).await;
        attached.map_err(|error| error.fault(&doing))?;
    }
    let told = Pushed {
        image: to.to_string(),
        digest: pushed.digest.to_string(),
        sent: pushed.sent.len(),
        mounted: pushed.mounted.len(),
        there: pushed.there.len(),
    };
    ui.object(&told);
    ui.say(format!("  {}  {}", ui.paint(Tone::Strong, &told.image), told.digest));
    let counted = format!("{} blobs sent, {} there already", told.sent, told.mounted + told.there);
    ui.say(format!("  {}", ui.paint(Tone::Faint, counted)));
    Ok(ExitCode::SUCCESS)
}

/// Shows which blob is on its way, in the place of the one before.
async fn watched<T>(
    work: impl Future<Output = T>,
    mut passing: mpsc::UnboundedReceiver<Passing>,
    doing: &str,
    ui: &Ui,
) -> T {
    tokio::pin!(work);
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            Some(one) = passing.recv() => {
                let Passing { number, count, size } = one;
                ui.passing(format!("  {doing} {number} of {count}, {}", Round(Bytes(size))));
            }
        }
    };
    ui.passing("");
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
    let credentials = logins()?.find(name.repository.registry()).await?;
    let client = client(args.ca.as_deref())?;
    let remote = client.remote(&name.repository, Actions::Pull, credentials, None);
    let mut remote = remote.map_err(|error| error.fault(&doing))?;
    let (passing, host) = (remote.watch(), Platform::host());
    let pulling = remote.pull(name, &host, layout.blobs());
    let pulled = watched(pulling, passing, "fetching", ui).await.map_err(|error| error.fault(&doing))?;
    // By its digest alone it has no name here that could move.
    let names: &[Reference] =
        if name.tag.is_none() && name.digest.is_some() { &[] } else { std::slice::from_ref(name) };
    layout.name(&pulled, names)?;
    let told = Pulled { image: name.to_string(), digest: pulled.manifest.digest.to_string() };
    ui.object(&told);
    ui.say(format!("  {}  {}", ui.paint(Tone::Strong, &told.image), told.digest));
    collect(layout, ui)?;
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
    let known = client(args.ca.as_deref())?.log_in(host, credentials).await;
    known.map_err(|error| error.fault(&format!("{host} does not let {user} in")))?;
    logins()?.keep(host, user, &password).await?;
    ui.object(&LoggedIn { host, user });
    ui.say(format!("  logged in to {} as {user}", ui.paint(Tone::Strong, host)));
    Ok(ExitCode::SUCCESS)
}

fn client(ca: Option<&Path>) -> Result<Client, Fault> {
    Client::new(ca, Limits::default())
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
