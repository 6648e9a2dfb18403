//! What comes of instances that are unwell, of more of them, and of what they were released with; whatever runs them.

use std::collections::BTreeSet;
use std::process::Stdio;

use anyhow::Context;
use bowline_tests::client::curl;
use bowline_tests::machine::Process;
use bowline_tests::{SOON, wait};

use super::Case;
use super::failures::{RESTING, all_are_asked, good, is_whole, service};
use super::releases::{ends, replace};
use super::scene::{APP, PINNED, Scene};

pub(super) static CASES: &[Case] = &[
    Case {
        id: "instances/health",
        of_instances: true,
        key: "service.web.health",
        about: "one of two instances does not answer any more, whether it is well neither: it gets no requests until it does",
        must: "20 of 20 web 200 · then both again",
        ask: |scene| {
            wait("nobody is left out", RESTING, || all_are_asked(scene).then_some(()));
            let stalled = of_web(scene).into_iter().next().context("an instance of web runs")?;
            stalled.stop();
            wait("one is ready", RESTING, || service(scene, "web").filter(|web| web["ready"] == 1).map(drop));
            wait("the edge knows", SOON, || edge_is_told(scene).then_some(()));
            let told = good((0..20).map(|_| scene.get("/well").tell()).collect());
            stalled.go_on();
            is_whole(scene);
            Ok(format!("{told} · then both again"))
        },
        ..Case::HERE
    },
    Case {
        id: "instances/scale",
        of_instances: true,
        key: "bowline scale",
        about: "`bowline scale` to three instances and back to two, with requests all the while",
        must: "three, each with a process of its own · then two · all web 200",
        ask: |scene| {
            let mut told = BTreeSet::new();
            let mut scaled = |number: usize| -> anyhow::Result<&'static str> {
                let mut command = scene.bowline.command(&["scale", &format!("{APP}.web"), &number.to_string()]);
                let mut scaling = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
                wait("there are as many", SOON * 2, || {
                    let answer = scene.get("/").tell();
                    told.insert(answer.map_or_else(|error| format!("{error:#}"), |told| told.to_string()));
                    scaling.try_wait().expect("it was started")?;
                    let web = service(scene, "web").filter(|web| web["ready"] == number && web["wanted"] == number);
                    web.filter(|_| of_web(scene).len() == number)
                });
                ends(scaling)?;
                Ok(["none", "one", "two", "three"][number])
            };
            let (more, back) = (scaled(3)?, scaled(2)?);
            let told = Vec::from_iter(told).join(", ");
            Ok(format!("{more}, each with a process of its own · then {back} · all {told}"))
        },
        ..Case::HERE
    },
    Case {
        id: "instances/pinned",
        of_instances: true,
        key: "env.PINNED.secret",
        file: "[env]\nPINNED = { secret = \"pinned\" }\n",
        about: "a secret has another value: whoever is started again has the one that its release came out with",
        must: "the first, the first · of the next release the second, the second",
        ask: |scene| {
            wait("nobody is left out", RESTING, || all_are_asked(scene).then_some(()));
            let before = of_web(scene);
            scene.pin("the second")?;
            before.first().context("an instance of web runs")?.kill();
            wait("another one is there", SOON, || {
                let now = of_web(scene);
                (now.len() == before.len() && now != before).then_some(())
            });
            is_whole(scene);
            let has =
                |all: &[Process]| all.iter().filter_map(|one| one.environment(PINNED)).collect::<Vec<_>>().join(", ");
            let first = of_web(scene);
            let of_first = has(&first);
            ends(replace(scene)?)?;
            let next = wait("the next release alone is there", SOON, || {
                let now = of_web(scene);
                (now.len() == first.len() && now.iter().all(|one| !first.contains(one))).then_some(now)
            });
            Ok(format!("{of_first} · of the next release {}", has(&next)))
        },
        ..Case::HERE
    },
];

/// Processes of the app's own, one for each instance of `web`.
pub(super) fn of_web(scene: &Scene) -> Vec<Process> {
    let is_of_web = |one: &Process| one.environment("BOWLINE_SERVICE").as_deref() == Some("web");
    scene.bowline.processes_of(APP).into_iter().filter(is_of_web).collect()
}

/// What it serves is the newest table.
fn edge_is_told(scene: &Scene) -> bool {
    let metrics = curl(&scene.bowline.ca(), &format!("{}/metrics", scene.admin()), &[]).text();
    let generation = |which: &str| {
        let start = format!("bowline_edge_table_generation{{table=\"{which}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(start.as_str()))
    };
    generation("desired").is_some() && generation("desired") == generation("serving")
}
