use std::io::{IsTerminal, Read};
use std::path::Path;
use std::process::ExitCode;

use bowline_api::Client;
use bowline_api::wire::TokenInfo;
use bowline_core::fault::{Fault, FaultKind};
use serde::Serialize;

use super::secret::typed;
use super::token;
use crate::args::Login;
use crate::credentials::{self, Kept, TOKEN_VARIABLE};
use crate::ui::{Tone, Ui};

/// More is no token.
const MOST: u64 = 4 << 10;

/// With `--json`.
#[derive(Debug, Serialize)]
struct LoggedIn<'a> {
    url: &'a str,
    /// Where it is kept.
    file: &'a Path,
    token: &'a TokenInfo,
}

pub(super) async fn run(args: Login, ui: &Ui) -> Result<ExitCode, Fault> {
    let url = credentials::name(&args.url);
    let ca = args.ca.as_deref().map(std::path::absolute).transpose();
    let ca = ca.map_err(|error| Fault::new(FaultKind::Invalid, "the CA cannot be found").source(&error))?;
    // What is wrong with the URL or the CA is said before a token is asked for.
    credentials::way(&url, ca.as_deref(), "")?;
    let text = read(&url)?;
    let client = Client::https(credentials::way(&url, ca.as_deref(), &text)?);
    let token = client
        .who_am_i()
        .await?
        .token
        .ok_or_else(|| Fault::new(FaultKind::Failed, format!("{url} does not say whose token that is")))?;
    let file = credentials::keep(&url, Kept { token: text, ca })?;
    ui.object(&LoggedIn { url: &url, file: &file, token: &token });
    ui.say(format!("  logged in to {} as {}", ui.paint(Tone::Strong, &url), token::said(&token)));
    ui.say(format!("  {}", ui.paint(Tone::Faint, format!("kept in {}", file.display()))));
    if std::env::var_os(TOKEN_VARIABLE).is_some_and(|token| !token.is_empty()) {
        ui.aside(format!("  {TOKEN_VARIABLE} is set, and goes before it"));
    }
    Ok(ExitCode::SUCCESS)
}

fn read(url: &str) -> Result<String, Fault> {
    let unread = |error: &std::io::Error| Fault::new(FaultKind::Invalid, "the token cannot be read").source(error);
    let bytes = match std::io::stdin().is_terminal() {
        true => typed(&format!("token for {url}")).map_err(|error| unread(&error))?,
        false => {
            let mut bytes = Vec::new();
            std::io::stdin().lock().take(MOST).read_to_end(&mut bytes).map_err(|error| unread(&error))?;
            bytes
        }
    };
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    match text.is_empty() {
        true => Err(Fault::new(FaultKind::Invalid, "there is no token on standard input")
            .hint("an admin makes one: bowline token create NAME --role ROLE")),
        false => Ok(text),
    }
}
