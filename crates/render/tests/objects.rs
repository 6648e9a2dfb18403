//! Whatever the app: objects or refusals, and no object that contradicts another.

#![expect(clippy::unwrap_used, reason = "the helpers of tests, too, may fail them")]

#[path = "../../spec/tests/generated/mod.rs"]
mod generated;

use std::collections::{BTreeMap, BTreeSet};

use bowline_core::app::{App, DatabaseSource, ResourceKind, Strategy as Way};
use bowline_core::id::{AppKey, Digest, ServiceName};
use bowline_core::release::{ImageDigest, ImageRef, Reference};
use bowline_core::resource::ResourceId;
use bowline_core::units::Share;
use bowline_render::{Api, Input, Manifests, Refused, Secrets, kubernetes, yaml};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use serde_json::Value;

fn images(app: &App) -> BTreeMap<ServiceName, ImageRef> {
    let repository: Reference = "registry.example.com/acme/shop".parse().unwrap();
    let image = repository.repository.at(ImageDigest(Digest([7; 32])));
    app.services.keys().map(|name| (name.clone(), image.clone())).collect()
}

fn rendered(app: &App, apis: &BTreeSet<Api>) -> Result<Manifests, Refused> {
    let key = AppKey { env: app.environment.name.clone(), app: app.name.clone() };
    let managed = app.databases.iter().filter(|(_, one)| matches!(one.source, DatabaseSource::Managed { .. }));
    let id = |kind, name: &bowline_core::id::ResourceName| ResourceId { kind, name: name.clone() };
    let scripts =
        managed.map(|((kind, name), _)| (id(ResourceKind::from(*kind), name), "select 1;\n".to_owned())).collect();
    let images = images(app);
    kubernetes(&Input { key: &key, app, images: &images, secrets: Secrets::Named, scripts: &scripts, apis })
}

/// The same app without what no cluster carries, so that most of what is generated is rendered.
fn tamed(mut app: App) -> App {
    app.logs = None;
    let argo = app.environment.kubernetes.as_ref().is_some_and(|settings| settings.rollouts.is_some());
    if !argo {
        app.rollout.strategy = Way::Rolling;
    }
    app.rollout.abort.clear();
    app.rollout.watch = std::time::Duration::ZERO;
    app.release.snapshot.clear();
    app.databases.values_mut().for_each(|one| one.backup = None);
    app.redis.values_mut().for_each(|one| one.backup = None);
    app.volumes.values_mut().for_each(|one| one.backup = None);
    app.buckets.values_mut().for_each(|one| one.backup = None);
    app.slo = app.slo.map(|slo| bowline_core::app::Slo { latency: None, notify: None, ..slo });
    for service in app.services.values_mut() {
        service.scale.in_flight = None;
        service.scale.min = service.scale.min.max(1);
        service.scale.max = service.scale.max.max(service.scale.min);
        service.scale.cpu = service.scale.is_automatic().then(|| Share::from_ppm(700_000).unwrap());
        if let Some(alive) = &mut service.alive {
            alive.probe.grace = bowline_core::app::Probe::default().grace;
        }
    }
    for route in app.routes.values_mut() {
        route.upload = None;
        route.tls = bowline_core::app::Tls::Auto;
        route.limit.idle = bowline_core::app::Limit::default().idle;
    }
    let settings = app.environment.kubernetes.get_or_insert_default();
    settings.storage_class.get_or_insert_with(|| "nfs".to_owned());
    if settings.gateway.is_some() {
        settings.ingress_class = None;
    }
    app
}

/// Every value below a key, wherever it stands.
fn below<'v>(value: &'v Value, key: &str, found: &mut Vec<&'v Value>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get(key));
            map.values().for_each(|inner| below(inner, key, found));
        }
        Value::Array(items) => items.iter().for_each(|inner| below(inner, key, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn texts<'v>(value: &'v Value, key: &str, name: &str) -> Vec<&'v str> {
    let mut found = Vec::new();
    below(value, key, &mut found);
    found.into_iter().filter_map(|one| one[name].as_str()).collect()
}

/// Secrets that images are pulled with.
fn pulled(value: &Value) -> Vec<&str> {
    let mut found = Vec::new();
    below(value, "imagePullSecrets", &mut found);
    found.into_iter().filter_map(|one| one[0]["name"].as_str()).collect()
}

fn is_label(text: &str) -> bool {
    let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.len() <= 63 && text.starts_with(ends) && text.ends_with(ends) && text.chars().all(|c| ends(c) || c == '-')
}

fn check(manifests: &Manifests) {
    let ids: BTreeSet<_> = manifests.objects.iter().map(|object| &object.id).collect();
    assert_eq!(ids.len(), manifests.objects.len(), "no two objects have one id");
    let needs: BTreeSet<_> = manifests.needs.iter().map(|need| (&need.object, need.key)).collect();
    assert_eq!(needs.len(), manifests.needs.len(), "each is needed once: {:?}", manifests.needs);
    let there = |kind: &str, name: &str| ids.iter().any(|id| id.kind == kind && id.name == name);
    for object in &manifests.objects {
        let most = if matches!(object.id.kind.as_str(), "CronJob" | "StatefulSet") { 52 } else { 63 };
        assert!(is_label(&object.id.name) && object.id.name.len() <= most, "{}", object.id);
        for value in object.body["metadata"]["labels"].as_object().unwrap().values() {
            let value = value.as_str().unwrap();
            assert!(value.len() <= 63 && !value.ends_with('-'), "{}: {value:?}", object.id);
        }
        for name in [
            texts(&object.body, "secretKeyRef", "name"),
            texts(&object.body, "secret", "name"),
            texts(&object.body, "users", "name"),
            pulled(&object.body),
        ]
        .concat()
        {
            let needed = manifests.needs.iter().any(|need| need.object == name);
            assert!(needed || there("ExternalSecret", name), "{}: secret {name}, {:?}", object.id, manifests.needs);
        }
        let maps = [texts(&object.body, "configMapRef", "name"), texts(&object.body, "configMap", "name")].concat();
        maps.into_iter().for_each(|name| assert!(there("ConfigMap", name), "{}: ConfigMap {name}", object.id));
        for name in texts(&object.body, "persistentVolumeClaim", "claimName") {
            assert!(there("PersistentVolumeClaim", name), "{}: claim {name}", object.id);
        }
        mounted(&object.body);
        selected(manifests, &object.body);
    }
}

/// Mounts lead to volumes, and no two to one place.
fn mounted(body: &Value) {
    let mut specs = Vec::new();
    below(body, "spec", &mut specs);
    for spec in specs.into_iter().filter(|spec| spec["containers"].is_array()) {
        let container = &spec["containers"][0];
        let names = |list: &Value, key: &str| -> Vec<String> {
            list.as_array().into_iter().flatten().map(|one| one[key].as_str().unwrap().to_owned()).collect()
        };
        let (volumes, mounts) = (names(&spec["volumes"], "name"), names(&container["volumeMounts"], "name"));
        assert_eq!(volumes.iter().collect::<BTreeSet<_>>(), mounts.iter().collect::<BTreeSet<_>>());
        let places = names(&container["volumeMounts"], "mountPath");
        assert_eq!(places.iter().collect::<BTreeSet<_>>().len(), places.len(), "{places:?}");
        let variables = names(&container["env"], "name");
        assert_eq!(variables.iter().collect::<BTreeSet<_>>().len(), variables.len(), "{variables:?}");
    }
}

/// What a Deployment or a StatefulSet selects are its own pods alone, by labels that no release changes.
fn selected(manifests: &Manifests, body: &Value) {
    let Some(selector) = body["spec"]["selector"]["matchLabels"].as_object() else { return };
    let keys: Vec<&String> = selector.keys().collect();
    assert_eq!(keys, ["app.kubernetes.io/component", "app.kubernetes.io/name"]);
    let is_workload = |value: &Value| {
        matches!(value["kind"].as_str(), Some("Deployment" | "Rollout" | "StatefulSet" | "CronJob" | "Job"))
    };
    let mut owners = 0;
    for other in manifests.objects.iter().filter(|other| is_workload(&other.body)) {
        let template = match other.id.kind.as_str() {
            "CronJob" => &other.body["spec"]["jobTemplate"]["spec"]["template"],
            _ => &other.body["spec"]["template"],
        };
        let labels = template["metadata"]["labels"].as_object().unwrap();
        owners += usize::from(selector.iter().all(|(key, value)| labels.get(key) == Some(value)));
    }
    assert!(owners <= 1, "{selector:?}");
}

fn apis() -> impl Strategy<Value = BTreeSet<Api>> {
    proptest::sample::subsequence(Api::ALL.to_vec(), 0..=Api::ALL.len()).prop_map(|all| all.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_app_is_rendered_or_refused(app in generated::app(), apis in apis()) {
        match rendered(&app, &apis) {
            Ok(manifests) => check(&manifests),
            Err(Refused::Keys(all)) => prop_assert!(!all.is_empty()),
            Err(Refused::Images(all)) => prop_assert!(false, "images were said: {:?}", all),
        }
    }

    #[test]
    fn what_is_rendered_holds_together_and_reads_back(app in generated::app(), apis in apis()) {
        let app = tamed(app);
        if let Ok(manifests) = rendered(&app, &apis) {
            check(&manifests);
            let bodies: Vec<Value> = manifests.objects.iter().map(|object| object.body.clone()).collect();
            let text = yaml::print_all(&bodies);
            let read = yaml::read(&text);
            prop_assert_eq!(read.as_ref(), Ok(&bodies), "{}", text);
            prop_assert_eq!(rendered(&app, &apis), Ok(manifests), "the same again");
        }
    }
}

/// Enough of what is generated gets so far: else the properties say nothing.
#[test]
fn many_apps_are_rendered() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let apis: BTreeSet<Api> = Api::ALL.into();
    let mut count = 0;
    let mut kinds = BTreeSet::new();
    for _ in 0..300 {
        let app = tamed(generated::app().new_tree(&mut runner).unwrap().current());
        let Ok(manifests) = rendered(&app, &apis) else { continue };
        kinds.extend(manifests.objects.into_iter().map(|object| object.id.kind));
        count += 1;
    }
    assert!(count > 15, "{count} of 300");
    for kind in
        ["Deployment", "StatefulSet", "CronJob", "HorizontalPodAutoscaler", "PersistentVolumeClaim", "NetworkPolicy"]
    {
        assert!(kinds.contains(kind), "{kind} is in none of {count}: {kinds:?}");
    }
}

#[test]
fn secrets_of_releases_are_named_as_they_were_made() {
    let toml = "app = \"shop\"\n[service.web]\nrun = \"x\"\nenv = { TOKEN = { secret = \"token\" } }\n";
    let env = bowline_core::id::EnvName::new("production").unwrap();
    let app = bowline_spec::parse(toml, "x", &env, &bowline_spec::Defaults::default()).unwrap().app;
    let key = AppKey { env, app: app.name.clone() };
    let images = images(&app);
    let (scripts, apis) = (BTreeMap::new(), BTreeSet::new());
    let said = BTreeMap::from([("token".parse().unwrap(), "shop-token-0123456789".to_owned())]);
    let input = Input {
        key: &key,
        app: &app,
        images: &images,
        secrets: Secrets::Hashed(&said),
        scripts: &scripts,
        apis: &apis,
    };
    let manifests = kubernetes(&input).unwrap();
    let deployment = manifests.objects.iter().find(|object| object.id.kind == "Deployment").unwrap();
    assert_eq!(texts(&deployment.body, "secretKeyRef", "name"), ["shop-token-0123456789"]);
}
