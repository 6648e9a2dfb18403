//! `bowline run APP JOB`: a run of a job on demand, followed to its end. `bowline run APP -- CMD`: a command in a one-off
//! instance, attached to.

use std::process::ExitCode;
use std::time::Duration;

use bowline_api::wire::SessionPlace;
use bowline_api::{Client, ClientError, Lines, wire};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::JobName;

use super::attach::{self, Attachment};
use super::{client, follow};
use crate::args::Run;
use crate::cmd::status;
use crate::interrupts::{INTERRUPTED, Interrupts};
use crate::target::{Target, word};
use crate::ui::{self, Tone, Ui};

pub(super) fn run(args: Run, target: &Target, ui: &Ui) -> Result<ExitCode, Fault> {
    if args.command.is_empty() {
        return client(job(args, target, ui));
    }
    let Run { app, service, tty, env, command, .. } = args;
    let place = SessionPlace::OneOff;
    attach::run(Attachment { env, app, place, service, instance: None, tty, command }, target, ui)
}

async fn job(args: Run, target: &Target, ui: &Ui) -> Result<ExitCode, Fault> {
    let Run { app, job, detach, stop, env, .. } = args;
    let session = target.join().await?;
    let Some(job) = job else { return Err(which(&session.client, &env, &app).await?) };
    if stop {
        let run = session.client.stop_job(&env, &app, &job).await?;
        ui.object(&run);
        ui.say(format!("  {}", said(&run, ui)));
        return Ok(ExitCode::SUCCESS);
    }
    let run = session.client.run_job(&env, &app, &job).await?;
    if detach {
        ui.object(&run);
        ui.say(format!("  {} of {app} is run {} of release {}", run.task, run.number, run.release));
        ui.say(format!("  {}", to_follow(&app, &job)));
        return Ok(ExitCode::SUCCESS);
    }
    let interrupts = Interrupts::new()?;
    let mut following = Following { env, app, job, run, shown: 0, interrupts };
    match following.follow(session.client, target, ui).await? {
        Some(run) => Ok(conclude(&run, ui)),
        None => {
            following.left(ui);
            Ok(ExitCode::from(INTERRUPTED))
        }
    }
}

/// In the user's words, not in the daemon's: it is there to be copied.
fn to_follow(app: &str, job: &str) -> String {
    format!("follow it: bowline logs {} --service {} --follow", word(app), word(&format!("job.{job}")))
}

/// There is no job to run without its name.
async fn which(client: &Client, env: &str, app: &str) -> Result<Fault, Fault> {
    let apps = client.status().await?.apps;
    let Some(found) = apps.iter().find(|a| a.env == env && a.app == app) else {
        return Ok(Fault::new(FaultKind::Invalid, format!("no app {app} is known in {env}"))
            .hint("`bowline status` lists all"));
    };
    let names: Vec<JobName> = found.jobs.iter().filter_map(|job| JobName::new(&job.name).ok()).collect();
    let hint = match names.as_slice() {
        [] => "write a table in its bowline.toml: [job.NAME] run = \"…\"".to_owned(),
        names => names.iter().map(|name| format!("bowline run {} {name}", word(app))).collect::<Vec<_>>().join(", or "),
    };
    Ok(Fault::new(FaultKind::Invalid, format!("which job of {app} is to run?")).hint(hint))
}

/// A run that is followed, over the deaths of daemons.
struct Following {
    env: String,
    app: String,
    job: String,
    run: wire::Run,
    /// Lines of its output that were shown.
    shown: usize,
    interrupts: Interrupts,
}

impl Following {
    /// `None`: Ctrl-C.
    async fn follow(&mut self, client: Client, target: &Target, ui: &Ui) -> Result<Option<wire::Run>, Fault> {
        let mut client = client;
        for rejoins in 0.. {
            match self.attempt(&client, ui).await {
                Ok(end) => return Ok(end),
                Err(error) if rejoins < follow::MAX_REJOINS && follow::is_away(&error) => {}
                Err(error) => return Err(error.into()),
            }
            client = tokio::select! {
                session = follow::rejoin(target) => session?.client,
                () = self.interrupts.next() => return Ok(None),
            };
        }
        unreachable!("the last attempt returns")
    }

    /// With one daemon.
    async fn attempt(&mut self, client: &Client, ui: &Ui) -> Result<Option<wire::Run>, ClientError> {
        let mut lines = self.lines(client, true).await?;
        let mut skip = self.shown;
        let (env, app, number) = (self.env.clone(), self.app.clone(), self.run.number);
        let end = client.run(&env, &app, number, wire::RunQuery { wait: true });
        tokio::pin!(end);
        let run = loop {
            tokio::select! {
                line = lines.next() => match line? {
                    Some(line) => self.show(&line, &mut skip, ui),
                    // The daemon is about to exit: it says how the run is.
                    None => break end.await?,
                },
                run = &mut end => break run?,
                () = self.interrupts.next() => return Ok(None),
            }
        };
        // Its log is complete now. A daemon that ended with it tells no more, and how it ended is known.
        let mut skip = self.shown;
        if let Ok(mut rest) = self.lines(client, false).await {
            while let Ok(Some(line)) = rest.next().await {
                self.show(&line, &mut skip, ui);
            }
        }
        Ok(Some(run))
    }

    /// Its output from the beginning, by the moment before it started.
    async fn lines(&self, client: &Client, follow: bool) -> Result<Lines<wire::LogLine>, ClientError> {
        let query = wire::LogsQuery {
            env: self.env.clone(),
            app: self.app.clone(),
            service: Some(self.run.task.clone()),
            release: Some(self.run.release),
            since: Some(self.run.recorded),
            tail: None,
            follow,
            grep: None,
            access: false,
        };
        client.logs(&query).await
    }

    /// Prints a line of this run unless it was shown before.
    fn show(&mut self, line: &wire::LogLine, skip: &mut usize, ui: &Ui) {
        let is_output = match line.source {
            wire::LogSource::Stdout | wire::LogSource::Stderr => true,
            wire::LogSource::Bowline | wire::LogSource::Access => false,
        };
        if !is_output || line.instance.as_ref() != Some(&self.run.instance) {
            return;
        }
        if *skip > 0 {
            *skip -= 1;
            return;
        }
        self.shown += 1;
        ui.object(line);
        ui.say(&line.text);
    }

    /// Ctrl-C: it runs on.
    fn left(&self, ui: &Ui) {
        let Self { app, job, run, .. } = self;
        ui.object(&run);
        ui.say(format!("\n  {} goes on without you", run.task));
        ui.say(format!("  {}", to_follow(app, job)));
        ui.say(format!("  end it:    bowline run {} {} --stop", word(app), word(job)));
    }
}

/// Its output was shown: what is left to say is how it ended.
fn conclude(run: &wire::Run, ui: &Ui) -> ExitCode {
    ui.object(run);
    ui.say(ui.paint(Tone::Faint, "—"));
    ui.say(format!("  {}", said(run, ui)));
    let Some(fault) = &run.fault else { return ExitCode::SUCCESS };
    if run.exit_code.is_none() {
        for cause in &fault.caused_by {
            ui.say(format!("  {} {cause}", ui.paint(Tone::Warning, "caused by:")));
        }
    }
    ExitCode::from(1)
}

/// `job.cleanup succeeded after 3s (run 17 of release 2)`
fn said(run: &wire::Run, ui: &Ui) -> String {
    let tone = if run.fault.is_none() { Tone::Good } else { Tone::Bad };
    let end = run.ended.unwrap_or(run.recorded);
    let took = Duration::from_millis(end.saturating_sub(run.began.unwrap_or(run.recorded)));
    let number = format!("(run {} of release {})", run.number, run.release);
    let how = ui.paint(tone, status::ended(run));
    format!("{} {how} after {} {}", run.task, ui::duration(took), ui.paint(Tone::Faint, number))
}
