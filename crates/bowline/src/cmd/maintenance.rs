use std::process::ExitCode;

use bowline_api::wire;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppName, EnvName};

use crate::args::Maintenance;
use crate::target::Target;
use crate::ui::Ui;

pub(super) async fn run(args: Maintenance, target: &Target, ui: &Ui) -> Result<ExitCode, Fault> {
    let (app, env, wanted) = match args {
        Maintenance::On { app, allow, env } => {
            let allow = allow.iter().map(ToString::to_string).collect();
            (app, env, Some(wire::Maintenance { allow }))
        }
        Maintenance::Off { app, env } => (app, env, None),
    };
    let wrong = |what: &str, text: &str, e: &dyn std::error::Error| {
        Fault::new(FaultKind::Invalid, format!("{text:?} is not the name of {what}")).source(e)
    };
    AppName::new(&app).map_err(|e| wrong("an app", &app, &e))?;
    EnvName::new(&env).map_err(|e| wrong("an environment", &env, &e))?;
    let session = target.join().await?;
    let maintained = session.client.maintain(&env, &app, wanted.as_ref()).await?;
    ui.object(&maintained);
    ui.say(match &maintained.maintenance {
        None => format!("  {env}/{app} answers everyone again"),
        Some(maintenance) if maintenance.allow.is_empty() => format!("  {env}/{app} answers 503 to everyone"),
        Some(maintenance) => format!("  {env}/{app} answers 503 to all but {}", maintenance.allow.join(", ")),
    });
    Ok(ExitCode::SUCCESS)
}
