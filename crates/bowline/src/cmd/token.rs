use std::process::ExitCode;
use std::time::Duration;

use bowline_api::wire::{NewToken, TokenInfo};
use bowline_core::access::Role;
use bowline_core::fault::{Fault, FaultKind};

use super::logs::{now, time};
use super::secret::user;
use crate::args::{Expires, Token};
use crate::target::{Target, word};
use crate::ui::{self, Tone, Ui};

pub(super) async fn run(args: Token, target: &Target, ui: &Ui) -> Result<ExitCode, Fault> {
    let session = target.join().await?;
    let client = &session.client;
    match args {
        Token::Create { name, role, app, env, expires } => {
            let role: Role = role
                .parse()
                .map_err(|error| Fault::new(FaultKind::Invalid, format!("{role:?} is no role")).source(&error))?;
            let seconds = match expires {
                Expires::After(time) => Some(time.as_secs()),
                Expires::Never => None,
            };
            let new = NewToken { name, role: role.into(), apps: app, environments: env, seconds };
            let created = client.create_token(&new).await?;
            ui.object(&created);
            ui.say(format!("  {}", ui.paint(Tone::Strong, &created.token)));
            ui.aside(format!("  {}", said(&created.info)));
            let status = client.status().await.ok();
            let api = status.and_then(|status| status.edge.api);
            ui.aside(match api {
                Some(api) => {
                    format!("  it is shown this once; elsewhere: bowline login {}, or BOWLINE_TOKEN", word(&api))
                }
                None => "  it is shown this once; no host leads here yet: [api] of server.toml names one".to_owned(),
            });
        }
        Token::List => {
            let answer = client.tokens().await?;
            ui.object(&answer);
            let rows: Vec<Vec<String>> = answer.tokens.iter().map(|token| row(token, ui)).collect();
            match rows.is_empty() {
                true => ui.say("  there are no tokens; `bowline token create NAME --role ROLE` makes one"),
                false => ui.table(&["ID", "NAME", "ROLE", "FOR", "STATE", "USED", "MADE", "BY"], &rows),
            }
        }
        Token::Revoke { which } => {
            let revoked = client.revoke_token(&which).await?;
            ui.object(&revoked);
            ui.say(format!(
                "  token {} ({}) is revoked: it lets nobody in any more, and what it had open has ended",
                revoked.name, revoked.id
            ));
            ui.say("  credentials for databases that it was lent hold until their own end");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `ci, a deployer of shop in production, until 2026-02-24 10:00:00.000`
pub(super) fn said(token: &TokenInfo) -> String {
    let role = Role::from(token.role);
    let until = token.expires.map_or("until it is revoked".to_owned(), |at| format!("until {} UTC", time(at)));
    format!("{}: {role} of {}, {until}", token.name, scope(token))
}

fn scope(token: &TokenInfo) -> String {
    let of = |names: &[String], all: &str| if names.is_empty() { all.to_owned() } else { names.join(", ") };
    match token.apps.is_empty() && token.environments.is_empty() {
        true => "everything".to_owned(),
        false => format!("{} in {}", of(&token.apps, "all apps"), of(&token.environments, "all environments")),
    }
}

fn row(token: &TokenInfo, ui: &Ui) -> Vec<String> {
    let ago = |at: u64| format!("{} ago", ui::duration(Duration::from_millis(now().saturating_sub(at))));
    let (tone, state) = match (token.revoked, token.expires) {
        (Some(at), _) => (Tone::Faint, format!("revoked {}", ago(at))),
        (None, Some(at)) if at <= now() => (Tone::Faint, format!("over since {}", time(at))),
        (None, Some(at)) => {
            (Tone::Good, format!("{} left", ui::duration(Duration::from_millis(at.saturating_sub(now())))))
        }
        (None, None) => (Tone::Good, "holds".to_owned()),
    };
    let by = match (token.by_uid, token.by_token) {
        (Some(uid), _) => user(uid),
        (None, Some(id)) => format!("token {id}"),
        (None, None) => "-".to_owned(),
    };
    vec![
        token.id.to_string(),
        token.name.clone(),
        Role::from(token.role).to_string(),
        scope(token),
        ui.paint(tone, state),
        token.used.map_or("never".to_owned(), ago),
        ago(token.created),
        by,
    ]
}
