use std::fs::File;
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;

use bowline_api::wire;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppName, EnvName, SecretName};

use crate::args::Secret;
use crate::cmd::logs::time;
use crate::session::Session;
use crate::target::Target;
use crate::typed::typed;
use crate::ui::Ui;
use crate::value::{self, Unfit};

pub(super) async fn run(args: Secret, target: &Target, ui: &Ui) -> Result<ExitCode, Fault> {
    check_names(&args)?;
    let set = match &args {
        Secret::Set { app, name, file, .. } => Some(value(app, name, file.as_deref(), ui)?),
        Secret::List { .. } | Secret::Rm { .. } => None,
    };
    // Secrets are set before the first `up`, too: a daemon is started for it and stopped again.
    let session = target.visit().await?;
    let done = answer(args, set, &session, ui).await;
    target.leave(&session).await?;
    done.map(|()| ExitCode::SUCCESS)
}

async fn answer(args: Secret, value: Option<Vec<u8>>, session: &Session, ui: &Ui) -> Result<(), Fault> {
    match (args, value) {
        (Secret::Set { app, name, env, .. }, Some(value)) => {
            let set = session.client.set_secret(&env, &app, &name, value).await?;
            ui.object(&set);
            ui.say(format!("  {name} of {env}/{app} is set, version {}; the next release uses it", set.version));
        }
        (Secret::List { app, env }, _) => {
            let secrets = session.client.secrets(&env, &app).await?;
            ui.object(&secrets);
            let row = |s: &wire::SecretInfo| {
                let by = match (s.by_uid, s.by_token) {
                    (Some(uid), _) => user(uid),
                    (None, Some(token)) => format!("token {token}"),
                    (None, None) => "bowline".to_owned(),
                };
                vec![s.name.clone(), s.version.to_string(), time(s.created), by]
            };
            match secrets.secrets.is_empty() {
                true => ui.say(format!("  {env}/{app} has no secrets")),
                false => {
                    ui.table(&["NAME", "VERSION", "SET", "BY"], &secrets.secrets.iter().map(row).collect::<Vec<_>>())
                }
            }
        }
        (Secret::Rm { app, name, env }, _) => {
            session.client.remove_secret(&env, &app, &name).await?;
            ui.object(&serde_json::json!({ "removed": name }));
            ui.say(format!("  {name} of {env}/{app} is removed"));
        }
        (Secret::Set { .. }, None) => unreachable!("a value was read for every `set`"),
    }
    Ok(())
}

pub(super) fn check_names(args: &Secret) -> Result<(), Fault> {
    let (app, name, env) = match args {
        Secret::Set { app, name, env, .. } | Secret::Rm { app, name, env } => (app, Some(name), env),
        Secret::List { app, env } => (app, None, env),
    };
    let wrong = |what: &str, text: &str, e: &dyn std::error::Error| {
        Fault::new(FaultKind::Invalid, format!("{text:?} is not the name of {what}")).source(e)
    };
    AppName::new(app).map_err(|e| wrong("an app", app, &e))?;
    EnvName::new(env).map_err(|e| wrong("an environment", env, &e))?;
    match name {
        Some(name) => SecretName::new(name).map(drop).map_err(|e| wrong("a secret", name, &e)),
        None => Ok(()),
    }
}

pub(super) fn value(app: &str, name: &str, file: Option<&Path>, ui: &Ui) -> Result<Vec<u8>, Fault> {
    let unread = |e: &std::io::Error| Fault::new(FaultKind::Invalid, "the secret cannot be read").source(e);
    let written = match file {
        Some(path) => {
            File::open(path).and_then(value::read).map_err(|e| unread(&e).caused_by(path.display().to_string()))?
        }
        None if std::io::stdin().is_terminal() => {
            typed(&format!("value of {name} for {app}"), ui).map_err(|e| unread(&e))?
        }
        None => value::read(std::io::stdin().lock()).map_err(|e| unread(&e))?,
    };
    value::of(written).map_err(|unfit| match unfit {
        Unfit::Empty => Fault::new(FaultKind::Invalid, "the secret is empty").hint("write the value to standard input"),
        Unfit::TooLarge => Fault::new(FaultKind::Invalid, "the secret is too large").source(&unfit),
    })
}

pub(super) fn user(uid: u32) -> String {
    match nix::unistd::User::from_uid(uid.into()) {
        Ok(Some(user)) => user.name,
        Ok(None) | Err(_) => format!("uid {uid}"),
    }
}
