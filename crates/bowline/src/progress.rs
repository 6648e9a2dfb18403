//! How a change is shown to people while it goes on: what was found stays, what is being done is one line that moves.

use bowline_api::wire::{ChangePhase, ChangeStep, Waiting};

use crate::ui::{Tone, Ui};

/// What a step is to the reader.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Show {
    /// Stays.
    Line(String),
    /// Stays, and is somebody else's words: a build's output.
    Output(String),
    /// Until the next.
    Moving(String),
}

/// The steps of one change, as they are shown. On a terminal they are calm: what is waited on is not repeated in lines.
#[derive(Debug)]
struct Steps {
    terminal: bool,
    /// In front of headings where several apps come up.
    app: Option<String>,
    /// Entered, and nothing of it was shown yet.
    entered: Option<ChangePhase>,
    waiting: Vec<String>,
}

impl Steps {
    fn take(&mut self, step: &ChangeStep) -> Vec<Show> {
        match step {
            ChangeStep::Phase { phase } => {
                self.entered = Some(*phase);
                vec![Show::Moving(self.heading(*phase))]
            }
            ChangeStep::Work { service, text } => vec![Show::Moving(format!("{service}: {text}"))],
            ChangeStep::Note { service, text } => {
                let service = service.as_ref().map(|s| format!("{s}: ")).unwrap_or_default();
                self.below(Show::Line(format!("    {service}{text}")))
            }
            ChangeStep::Line { text, .. } => self.below(Show::Output(format!("    │ {text}"))),
            ChangeStep::Waiting { steps } => self.waits(steps),
            ChangeStep::Done { .. } | ChangeStep::Failed { .. } => Vec::new(),
        }
    }

    fn waits(&mut self, steps: &[Waiting]) -> Vec<Show> {
        let said = |step: &Waiting| format!("{} waits on {}", step.what, step.on);
        if self.terminal {
            let all: Vec<String> = steps.iter().map(said).collect();
            return if all.is_empty() { Vec::new() } else { vec![Show::Moving(all.join("; "))] };
        }
        let news: Vec<String> = steps.iter().filter(|s| !self.waiting.contains(&key(s))).map(said).collect();
        self.waiting = steps.iter().map(key).collect();
        news.into_iter().flat_map(|line| self.below(Show::Line(format!("    {line}")))).collect()
    }

    /// A line below its phase, which is named when there is something to be said of it.
    fn below(&mut self, show: Show) -> Vec<Show> {
        let heading = self.entered.take().map(|phase| Show::Line(format!("  {}", self.heading(phase))));
        heading.into_iter().chain([show]).collect()
    }

    fn heading(&self, phase: ChangePhase) -> String {
        let app = self.app.as_ref().map(|app| format!("{app}: ")).unwrap_or_default();
        format!("{app}{}", words(phase))
    }
}

/// A reason whose numbers alone have moved is not news.
fn key(step: &Waiting) -> String {
    let words: String = step.on.chars().filter(|c| !c.is_ascii_digit()).collect();
    format!("{} {words}", step.what)
}

pub(crate) fn words(phase: ChangePhase) -> &'static str {
    match phase {
        ChangePhase::Parse => "reading",
        ChangePhase::Guard => "checking",
        ChangePhase::Build => "building",
        ChangePhase::Release => "recording the release",
        ChangePhase::Rollout => "starting",
        ChangePhase::Restart => "restarting",
        ChangePhase::Scale => "scaling",
    }
}

/// Shows a change. Nothing that moves is left on the terminal when it is dropped.
#[derive(Debug)]
pub(crate) struct Progress<'u> {
    ui: &'u Ui,
    steps: Steps,
    moving: bool,
}

impl<'u> Progress<'u> {
    /// `app`: named where several come up.
    pub(crate) fn new(ui: &'u Ui, app: Option<&str>) -> Self {
        let app = app.map(str::to_owned);
        let steps = Steps { terminal: ui.is_terminal(), app, entered: None, waiting: Vec::new() };
        Self { ui, steps, moving: false }
    }

    pub(crate) fn step(&mut self, step: &ChangeStep) {
        for show in self.steps.take(step) {
            match show {
                Show::Line(line) => {
                    self.clear();
                    self.ui.say(line);
                }
                Show::Output(line) => {
                    self.clear();
                    self.ui.say(self.ui.paint(Tone::Faint, line));
                }
                Show::Moving(text) => self.moving(&text),
            }
        }
    }

    /// One line that is written over.
    pub(crate) fn moving(&mut self, text: &str) {
        self.moving |= self.ui.moving(format!("  {}", self.ui.paint(Tone::Warning, format!("… {text}"))));
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.moving) {
            self.ui.moved();
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(text: &str) -> ChangeStep {
        ChangeStep::Note { service: Some("web".into()), text: text.into() }
    }

    fn phase(phase: ChangePhase) -> ChangeStep {
        ChangeStep::Phase { phase }
    }

    fn waiting(on: &str) -> ChangeStep {
        ChangeStep::Waiting { steps: vec![Waiting { what: "web.r1".into(), on: on.into() }] }
    }

    /// Lines that stay, and `~` before those that move.
    fn check(terminal: bool, steps: &[ChangeStep], expected: &[&str]) {
        let mut shown = Steps { terminal, app: None, entered: None, waiting: Vec::new() };
        let shows = steps.iter().flat_map(|step| shown.take(step));
        let lines: Vec<String> = shows
            .map(|show| match show {
                Show::Line(line) | Show::Output(line) => line,
                Show::Moving(text) => format!("~{text}"),
            })
            .collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_phase_is_named_when_there_is_something_to_say_of_it() {
        let steps = [
            phase(ChangePhase::Guard),
            phase(ChangePhase::Build),
            ChangeStep::Work { service: "web".into(), text: "copying the folder".into() },
            note("python 3.11"),
            note("gunicorn"),
            phase(ChangePhase::Release),
        ];
        let expected = [
            "~checking",
            "~building",
            "~web: copying the folder",
            "  building",
            "    web: python 3.11",
            "    web: gunicorn",
            "~recording the release",
        ];
        check(true, &steps, &expected);
    }

    #[test]
    fn what_is_waited_on_moves_on_a_terminal_and_is_said_once_through_a_pipe() {
        let steps = [
            phase(ChangePhase::Rollout),
            waiting("health: refused, 2s of 30s"),
            waiting("health: refused, 9s of 30s"),
            waiting("health: 503"),
        ];
        let moving = [
            "~starting",
            "~web.r1 waits on health: refused, 2s of 30s",
            "~web.r1 waits on health: refused, 9s of 30s",
            "~web.r1 waits on health: 503",
        ];
        check(true, &steps, &moving);
        let staying = ["~starting", "  starting", "    web.r1 waits on health: refused, 2s of 30s"];
        check(false, &steps[..3], &staying);
        let news = waiting("answered nothing");
        check(
            false,
            &[steps[1].clone(), steps[2].clone(), news],
            &["    web.r1 waits on health: refused, 2s of 30s", "    web.r1 waits on answered nothing"],
        );
    }
}
