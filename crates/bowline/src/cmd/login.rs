use std::io::{IsTerminal, Read};
use std::path::Path;
use std::process::ExitCode;

use bowline_api::wire::TokenInfo;
use bowline_api::{Client, MAX_TOKEN};
use bowline_core::fault::{Fault, FaultKind};
use serde::Serialize;

use super::token;
use crate::args::Login;
use crate::credentials::{self, Kept, TOKEN_VARIABLE};
use crate::typed::typed;
use crate::ui::{Tone, Ui};

/// Bytes that are read of what should be a token: one with blanks around it, or enough to see that it is none.
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
    let text = read(&url, ui)?;
    let of_this = *ui;
    let way = credentials::way(&url, ca.as_deref(), &text)?;
    let client = Client::https(way, move |awaited| credentials::said_to_wait(awaited, of_this));
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

fn read(url: &str, ui: &Ui) -> Result<String, Fault> {
    let unread = |error: &std::io::Error| Fault::new(FaultKind::Invalid, "the token cannot be read").source(error);
    let bytes = match std::io::stdin().is_terminal() {
        true => typed(&format!("token for {url}"), ui).map_err(|error| unread(&error))?,
        false => {
            let mut bytes = Vec::new();
            std::io::stdin().lock().take(MOST).read_to_end(&mut bytes).map_err(|error| unread(&error))?;
            bytes
        }
    };
    // Cut off or not, that many bytes are none.
    let cut = bytes.len() as u64 >= MOST;
    let text = String::from_utf8_lossy(&bytes).trim().to_owned();
    let hint = "an admin makes one: bowline token create NAME --role ROLE";
    match text.len() {
        0 if !cut => Err(Fault::new(FaultKind::Invalid, "there is no token on standard input").hint(hint)),
        length if cut || length > MAX_TOKEN => {
            Err(Fault::new(FaultKind::Invalid, "what is on standard input is no token")
                .caused_by(format!("a token has at most {MAX_TOKEN} bytes"))
                .hint(hint))
        }
        _ => Ok(text),
    }
}
