use std::process::ExitCode;

use bowline_api::wire;
use bowline_core::fault::Fault;

use crate::args::Events;
use crate::target::Target;
use crate::ui::{Tone, Ui};

pub(super) async fn run(args: Events, target: &Target, ui: &Ui) -> Result<ExitCode, Fault> {
    let session = target.join().await?;
    let env = args.app.is_some().then_some(args.env);
    let query = wire::EventsQuery { env, app: args.app, after: None, limit: Some(args.limit) };
    let answer = session.client.events(&query).await?;
    ui.object(&answer);
    for event in &answer.events {
        let app = match (&event.env, &event.app) {
            (Some(env), Some(app)) => format!("{env}/{app}"),
            (None | Some(_), _) => String::from("-"),
        };
        let time = ui.paint(Tone::Faint, super::logs::time(event.at));
        ui.say(format!("{time} {} {}", ui.paint(Tone::Strong, app), event.text));
    }
    Ok(ExitCode::SUCCESS)
}
