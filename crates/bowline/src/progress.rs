//! How a change is shown to people while it goes on: what was found stays, what is being done moves: one line, or a rollout's bar with
//! what was judged below it.

use std::collections::BTreeMap;
use std::time::Instant;

use bowline_api::wire::{
    ChangeEvent, ChangePhase, ChangeStep, RolloutNow, RolloutSentence, RolloutStage, RolloutVerdict, Waiting,
};

use crate::rollout;
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
    /// The same, of a rollout.
    Drawn(Vec<(Tone, String)>),
}

/// What a rollout looks like where nothing moves: a line is news when this differs.
type Place = (RolloutStage, Option<u32>, u8, bool);

/// The steps of one change, as they are shown. On a terminal they are calm: what is waited on is not repeated in lines.
#[derive(Debug)]
struct Steps {
    terminal: bool,
    /// In front of headings where several apps come up.
    app: Option<String>,
    /// Entered, and nothing of it was shown yet.
    entered: Option<ChangePhase>,
    waiting: Vec<String>,
    /// What is waited on, as it was told last.
    steps: Vec<Waiting>,
    /// Where the rollout is, as it was told last.
    rollout: Option<RolloutNow>,
    place: Option<Place>,
    sentences: BTreeMap<String, RolloutSentence>,
    columns: usize,
}

impl Steps {
    fn new(terminal: bool, app: Option<String>, columns: usize) -> Self {
        let (entered, waiting, steps) = (None, Vec::new(), Vec::new());
        let (rollout, place, sentences) = (None, None, BTreeMap::new());
        Self { terminal, app, entered, waiting, steps, rollout, place, sentences, columns }
    }

    /// `at`: the daemon's time.
    fn take(&mut self, step: &ChangeStep, at: u64) -> Vec<Show> {
        match step {
            ChangeStep::Phase { phase } => {
                self.entered = Some(*phase);
                (self.rollout, self.place) = (None, None);
                vec![Show::Moving(self.heading(*phase))]
            }
            ChangeStep::Work { service, text } => vec![Show::Moving(format!("{service}: {text}"))],
            ChangeStep::Note { service, text } => {
                let service = service.as_ref().map(|s| format!("{s}: ")).unwrap_or_default();
                self.below(Show::Line(format!("    {service}{text}")))
            }
            ChangeStep::Line { text, .. } => self.below(Show::Output(format!("    │ {text}"))),
            ChangeStep::Waiting { steps, rollout } => {
                self.steps.clone_from(steps);
                if let Some(now) = rollout {
                    self.rollout = Some(now.as_ref().clone());
                }
                match (self.terminal, self.drawn()) {
                    (true, Some(now)) => vec![Show::Drawn(self.picture(now, at))],
                    (true, None) => self.waits(steps),
                    (false, _) => {
                        let mut shows = self.moved(at);
                        let left: Vec<Waiting> = self.besides(at).cloned().collect();
                        shows.extend(self.waits(&left));
                        shows
                    }
                }
            }
            ChangeStep::Done { .. } | ChangeStep::Failed { .. } | ChangeStep::Unknown => Vec::new(),
        }
    }

    fn drawn(&self) -> Option<&RolloutNow> {
        self.rollout.as_ref().filter(|now| rollout::is_drawn(now))
    }

    /// The bar, what was judged, and what else is waited on.
    fn picture(&self, now: &RolloutNow, at: u64) -> Vec<(Tone, String)> {
        let app = self.app.as_ref().map(|app| format!("{app}: ")).unwrap_or_default();
        let mut lines = vec![(Tone::Strong, format!("{app}{}", rollout::headline(now, at, self.columns)))];
        lines.extend(rollout::verdicts(now));
        let rest: Vec<String> = self.besides(at).map(|step| format!("{} waits on {}", step.what, step.on)).collect();
        lines.extend((!rest.is_empty()).then(|| (Tone::Warning, rest.join("; "))));
        lines
    }

    /// What is waited on, without what the picture says: verdicts, and the end of what is judged or watched.
    fn besides(&self, at: u64) -> impl Iterator<Item = &Waiting> {
        let now = self.drawn();
        self.steps.iter().filter(move |step| now.is_none_or(|now| !rollout::says(now, step, at)))
    }

    /// Where nothing moves: a line when it carries something else, or when another thing is said of it.
    fn moved(&mut self, at: u64) -> Vec<Show> {
        let Some(now) = self.drawn() else { return Vec::new() };
        let place = (now.stage, now.step, now.weight, now.ends.is_some());
        let mut lines = Vec::new();
        if self.place != Some(place) {
            lines.push(rollout::line(now, at));
        }
        // Too few requests hold nothing up while it is watched.
        let tells =
            |one: &&RolloutVerdict| one.verdict != RolloutSentence::TooFewData || now.stage != RolloutStage::Watching;
        let known = |one: &&RolloutVerdict| self.sentences.get(&one.service) == Some(&one.verdict);
        let news = now.verdicts.iter().filter(tells).filter(|one| !known(one));
        lines.extend(news.map(rollout::verdict));
        let sentences = now.verdicts.iter().map(|one| (one.service.clone(), one.verdict)).collect();
        (self.place, self.sentences) = (Some(place), sentences);
        lines.into_iter().flat_map(|line| self.below(Show::Line(format!("    {line}")))).collect()
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
    /// Lines that move.
    moving: usize,
    /// The daemon's time that was told last, and when that was.
    told: Option<(u64, Instant)>,
}

impl<'u> Progress<'u> {
    /// `app`: named where several come up.
    pub(crate) fn new(ui: &'u Ui, app: Option<&str>) -> Self {
        let steps = Steps::new(ui.moves(), app.map(str::to_owned), ui.columns());
        Self { ui, steps, moving: 0, told: None }
    }

    pub(crate) fn step(&mut self, event: &ChangeEvent) {
        self.told = Some((event.at, Instant::now()));
        for show in self.steps.take(&event.what, event.at) {
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
                Show::Drawn(lines) => self.draw(&lines),
            }
        }
    }

    /// A second has gone by, in which nothing was told: what is left of a step counts down.
    pub(crate) fn tick(&mut self) {
        let Some((at, told)) = self.told.filter(|_| self.moving > 0) else { return };
        let at = at.saturating_add(u64::try_from(told.elapsed().as_millis()).unwrap_or(u64::MAX));
        if let Some(now) = self.steps.drawn() {
            let lines = self.steps.picture(now, at);
            self.draw(&lines);
        }
    }

    fn draw(&mut self, lines: &[(Tone, String)]) {
        let line = |(i, (tone, text)): (usize, &(Tone, String))| {
            format!("{}{}", if i == 0 { "  " } else { "    " }, self.ui.paint(*tone, text))
        };
        let lines: Vec<String> = lines.iter().enumerate().map(line).collect();
        self.moving = self.ui.moving(&lines, self.moving);
    }

    /// One line that is written over.
    pub(crate) fn moving(&mut self, text: &str) {
        let line = format!("  {}", self.ui.paint(Tone::Warning, format!("… {text}")));
        self.moving = self.ui.moving(&[line], self.moving);
    }

    fn clear(&mut self) {
        self.ui.moved(std::mem::take(&mut self.moving));
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
    use crate::rollout::tests::{canary, seen};

    fn note(text: &str) -> ChangeStep {
        ChangeStep::Note { service: Some("web".into()), text: text.into() }
    }

    fn phase(phase: ChangePhase) -> ChangeStep {
        ChangeStep::Phase { phase }
    }

    fn waiting(on: &str) -> ChangeStep {
        ChangeStep::Waiting { steps: vec![Waiting { what: "web.r1".into(), on: on.into() }], rollout: None }
    }

    /// Lines that stay, and `~` before those that move.
    fn check(terminal: bool, steps: &[ChangeStep], expected: &[&str]) {
        let mut shown = Steps::new(terminal, None, 80);
        let shows = steps.iter().flat_map(|step| shown.take(step, 100_000));
        let lines: Vec<String> = shows
            .map(|show| match show {
                Show::Line(line) | Show::Output(line) => line,
                Show::Moving(text) => format!("~{text}"),
                Show::Drawn(lines) => {
                    lines.into_iter().map(|(_, line)| format!("~{line}")).collect::<Vec<_>>().join("")
                }
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

    #[test]
    fn a_rollout_is_drawn_on_a_terminal_and_told_by_its_changes_through_a_pipe() {
        let of = |now: RolloutNow, on: &str, what: &str| {
            let steps = vec![Waiting { what: what.into(), on: on.into() }];
            ChangeStep::Waiting { steps, rollout: Some(Box::new(now)) }
        };
        let figures = "canary 3 of 2,100 failed, stable 2 of 2,080 · 99% within 41ms, stable 10.0ms";
        let text = seen(RolloutSentence::Pass, None).text;
        let waits = RolloutNow { verdicts: vec![seen(RolloutSentence::TooFewData, Some(2_280))], ..canary(25) };
        let starts = RolloutNow { ends: None, asks: None, step: Some(3), verdicts: Vec::new(), ..canary(25) };
        let steps = [
            of(waits.clone(), "judged for another 72s", "r2"),
            of(waits, &text, "web.r2"),
            of(canary(25), "judged for another 60s", "r2"),
            of(canary(25), "judged for another 59s", "r2"),
            of(starts, "1 of 2 ready", "web.r2"),
        ];
        let bar = "~[█████░░░░░░░░░░░░░░░] 25%  step 2 of 4  1:12 left";
        let drawn = [
            format!("{bar}~web: waits for 180 more requests · {figures}"),
            format!("{bar}~web: waits for 180 more requests · {figures}"),
            format!("{bar}~web: passes · {figures}"),
            format!("{bar}~web: passes · {figures}"),
            "~[█████░░░░░░░░░░░░░░░] 25%  step 3 of 4~web.r2 waits on 1 of 2 ready".to_owned(),
        ];
        check(true, &steps, &drawn.each_ref().map(String::as_str));
        let told = [
            "    release 2 carries 25%, step 2 of 4, 1:12 left".to_owned(),
            format!("    web: waits for 180 more requests · {figures}"),
            format!("    web: passes · {figures}"),
            "    release 2 carries 25%, step 3 of 4".to_owned(),
            "    web.r2 waits on 1 of 2 ready".to_owned(),
        ];
        check(false, &steps, &told.each_ref().map(String::as_str));
    }

    #[test]
    fn what_a_newer_daemon_tells_besides_is_passed_over() {
        check(true, &[ChangeStep::Unknown], &[]);
        check(false, &[ChangeStep::Unknown], &[]);
    }
}
