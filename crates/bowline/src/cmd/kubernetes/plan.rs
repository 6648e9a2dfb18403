//! `bowline plan --to kubernetes`: what a deploy would change there, by the server's own word. Nothing is written but what is built here.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use bowline_core::app::App;
use bowline_core::fault::Fault;
use bowline_kube::change::{Becomes, Change, Field};
use bowline_kube::{Plan as Foreseen, Rollout};
use serde::Serialize;
use serde_json::Value;

use super::deploy::unfit;
use super::objects::{Asked, Come, Ends, objects};
use super::{Place, Telling, owner};
use crate::args::{Plan, ToCluster};
use crate::cmd::plan::{Line, Mark, cut, section};
use crate::cmd::render::Loaded;
use crate::interrupts::{INTERRUPTED, Interrupts};
use crate::target::word;
use crate::ui::{Tone, Ui};

/// With `--json`.
#[derive(Debug, Serialize)]
struct Answer {
    app: String,
    env: String,
    /// As `--to` says it.
    target: String,
    /// What `deploy --plan` is held to.
    hash: String,
    /// Nothing comes out there but by a plan.
    protected: bool,
    outcome: Outcome,
    /// The release that it comes to.
    release: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    serves: Option<u32>,
    /// By service, each by its digest.
    images: BTreeMap<String, String>,
    /// In the order in which they are applied, and then what goes.
    changes: Vec<Changed>,
    notes: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    /// A new release comes out.
    Release,
    /// It is the release that serves, of which others have changed something.
    PutRight,
    Unchanged,
}

#[derive(Debug, Serialize)]
struct Changed {
    kind: String,
    name: String,
    becomes: Word,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fields: Vec<OneField>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Created,
    Changed,
    Removed,
    /// Nobody wants it any more, and it stays.
    Left,
}

#[derive(Debug, Serialize)]
struct OneField {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<Value>,
}

/// `said`: the words that the command was given for every verb.
pub(in crate::cmd) async fn run(
    args: Plan,
    (dir, app): (&Path, &App),
    (place, state): (Place<'_>, Option<&Path>),
    said: &[String],
    ui: &Ui,
) -> Result<ExitCode, Fault> {
    if args.artifact.is_some() {
        return Err(unfit("--artifact"));
    }
    let command = command(&args, said);
    let (key, owner) = owner(&args.env, app.name.as_str())?;
    let ToCluster { image, api, registry_ca, take_over } = args.cluster;
    let mut loaded = Loaded::read(dir, key, app.clone(), image)?;
    let mut interrupts = Interrupts::new()?;
    let mut telling = Telling::to_be_kept(app.name.as_str(), ui);
    let mut cluster = place.join().await?;
    loaded.put_into(Some(cluster.namespace().to_owned()));
    let asked = Asked {
        owner: &owner,
        dir,
        apis: &api,
        state,
        ca: registry_ca.as_deref(),
        take_over,
        approved: None,
        ends: Ends::Foreseen,
    };
    let foreseeing = async {
        let Come { order, hash, protected } = objects(&mut cluster, &asked, &mut loaded, &mut telling).await?;
        let mut tell = |told| telling.tell(told);
        let plan = Rollout { cluster: &mut cluster, owner: &owner, tell: &mut tell }.plan(&order).await?;
        Ok::<_, Fault>((plan, order.images, (hash, protected)))
    };
    let foreseen = tokio::select! {
        foreseen = foreseeing => foreseen,
        () = interrupts.next() => return Ok(ExitCode::from(INTERRUPTED)),
    };
    let (plan, images, (hash, protected)) = match foreseen {
        Ok(foreseen) => foreseen,
        // What was to stand below the plan may say why there is none.
        Err(fault) => {
            telling.into_notes().iter().for_each(|note| ui.aside(format!("  {note}")));
            return Err(fault);
        }
    };
    let hash = hash.map(|hash| hash.to_string()).unwrap_or_default();
    let answer = Answer {
        app: app.name.to_string(),
        env: args.env,
        target: cluster.target(),
        hash,
        protected,
        outcome: outcome(&plan),
        release: plan.release,
        serves: plan.serves,
        images,
        changes: plan.changes.into_iter().map(changed).collect(),
        notes: telling.into_notes(),
    };
    ui.object(&answer);
    show(&answer, &command, ui);
    Ok(ExitCode::SUCCESS)
}

fn outcome(plan: &Foreseen) -> Outcome {
    match (plan.same, plan.changes.iter().all(|change| change.becomes == Becomes::Left)) {
        (false, _) => Outcome::Release,
        (true, false) => Outcome::PutRight,
        (true, true) => Outcome::Unchanged,
    }
}

fn changed(Change { id, becomes }: Change) -> Changed {
    let (becomes, fields) = match becomes {
        Becomes::Created => (Word::Created, Vec::new()),
        Becomes::Changed(fields) => (Word::Changed, fields),
        Becomes::Removed => (Word::Removed, Vec::new()),
        Becomes::Left => (Word::Left, Vec::new()),
    };
    let field = |Field { path, from, to }| OneField { path, from, to };
    Changed { kind: id.kind, name: id.name, becomes, fields: fields.into_iter().map(field).collect() }
}

/// What applies it, to be said in the same place.
fn command(args: &Plan, said: &[String]) -> String {
    let ToCluster { image, api, registry_ca, take_over } = &args.cluster;
    let mut words = vec!["bowline".to_owned(), "deploy".to_owned(), args.dir.display().to_string()];
    words.extend(["--env".to_owned(), args.env.clone()]);
    let images = image.iter().map(|one| format!("{}={}", one.service.spelled(), one.image));
    words.extend(images.flat_map(|image| ["--image".to_owned(), image]));
    words.extend(api.iter().flat_map(|api| ["--api".to_owned(), api.to_string()]));
    words.extend(registry_ca.iter().flat_map(|file| ["--registry-ca".to_owned(), file.display().to_string()]));
    words.extend(take_over.then(|| "--take-over".to_owned()));
    words.extend(said.iter().cloned());
    words.iter().map(|text| word(text)).collect::<Vec<_>>().join(" ")
}

fn show(answer: &Answer, command: &str, ui: &Ui) {
    let head = ui.paint(Tone::Strong, format!("{} in {}", answer.app, answer.env));
    let Answer { release, target, .. } = answer;
    ui.say(match (answer.outcome, answer.serves) {
        (Outcome::Unchanged, _) => {
            format!("  {head}  {}: release {release} goes on in {target}", ui.paint(Tone::Good, "nothing changes"))
        }
        (Outcome::PutRight, _) => format!("  {head}  release {release} is put right in {target}"),
        (Outcome::Release, Some(serves)) => format!("  {head}  release {serves} → {release} in {target}"),
        (Outcome::Release, None) => format!("  {head}  release {release} in {target}, the first that serves"),
    });
    let lines: Vec<Line> = answer.changes.iter().flat_map(lines).collect();
    section(None, &lines, ui);
    if !answer.notes.is_empty() {
        ui.say("");
        answer.notes.iter().for_each(|note| ui.say(format!("    {note}")));
    }
    // Where it is protected, the same again is deployed by its plan, too.
    if answer.outcome != Outcome::Unchanged || answer.protected {
        ui.say(format!("\n  plan {}", ui.paint(Tone::Strong, &answer.hash)));
        ui.say(format!("  {}", ui.paint(Tone::Faint, "apply just this, or nothing:")));
        ui.say(format!("  {command} --plan {}", answer.hash));
    }
}

/// Its name, and below it the rest of its fields.
fn lines(change: &Changed) -> Vec<Line> {
    let name = format!("{}/{}", change.kind, change.name);
    let words = |field: &OneField| {
        let value = |value: &Value| cut(&value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        match (&field.from, &field.to) {
            (Some(from), Some(to)) => format!("{}  {} → {}", field.path, value(from), value(to)),
            (None, Some(to)) => format!("{}  + {}", field.path, value(to)),
            (Some(from), None) => format!("{}  - {}", field.path, value(from)),
            (None, None) => field.path.clone(),
        }
    };
    match change.becomes {
        Word::Created => vec![(Some(Mark::Added), name, String::new())],
        Word::Removed => vec![(Some(Mark::Removed), name, String::new())],
        Word::Left => vec![(None, name, "is not wanted any more, and stays".to_owned())],
        Word::Changed => {
            let mut fields = change.fields.iter().map(words);
            let first = (Some(Mark::Changed), name, fields.next().unwrap_or_default());
            [first].into_iter().chain(fields.map(|words| (None, String::new(), words))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_field_has_a_line_below_the_name_of_its_object() {
        let field = |path: &str, from: Option<Value>, to: Option<Value>| OneField { path: path.to_owned(), from, to };
        let fields = vec![
            field("spec.replicas", Some(json!(2)), Some(json!(3))),
            field("spec.paused", None, Some(json!(true))),
            field("metadata.labels[a.b/c]", Some(json!("x")), None),
        ];
        let change =
            Changed { kind: "Deployment".to_owned(), name: "shop-web".to_owned(), becomes: Word::Changed, fields };
        let expected = [
            (Some(Mark::Changed), "Deployment/shop-web", "spec.replicas  2 → 3"),
            (None, "", "spec.paused  + true"),
            (None, "", "metadata.labels[a.b/c]  - x"),
        ];
        let expected = expected.map(|(mark, name, words)| (mark, name.to_owned(), words.to_owned()));
        assert_eq!(lines(&change), expected);
    }

    #[test]
    fn what_applies_it_is_a_command_that_can_be_copied() {
        let cluster = ToCluster {
            image: Vec::new(),
            api: vec![bowline_render::Api::IngressNginx],
            registry_ca: Some("a b.pem".into()),
            take_over: true,
        };
        let args = Plan { dir: "/srv/shop".into(), env: "production".to_owned(), artifact: None, cluster };
        let said = ["--to".to_owned(), "kubernetes:prod/shop".to_owned()];
        let expected = "bowline deploy /srv/shop --env production --api ingress-nginx --registry-ca 'a b.pem' --take-over --to kubernetes:prod/shop";
        assert_eq!(command(&args, &said), expected);
    }
}
