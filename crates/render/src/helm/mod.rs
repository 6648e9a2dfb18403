//! The same objects as a chart of Helm: with its default values it is what [`kubernetes`](crate::kubernetes()) renders.
//!
//! Each object becomes a template by itself; what teams change per installation is asked of the values. Names stay those of the app, whatever
//! the release of Helm is called.

mod template;
mod values;

use std::collections::BTreeSet;

use bowline_core::app::{App, Origin, Route, Target, Tls};
use bowline_core::id::ServiceName;
use bowline_core::release::Unsupported;
use serde_json::{Value, json};

use self::template::{ITEM, ITEM_CERTIFICATE, NAMESPACE, Template, literal};
use self::values::Values;
use crate::file::File;
use crate::input::Input;
use crate::kubernetes::{Ctx, Edge, Refused, expressions, kubernetes};
use crate::kustomize::{free, stem};
use crate::need::Need;
use crate::object::Object;
use crate::unsupported::unsupported;
use crate::yaml;

/// A chart, and what must be there beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// `Chart.yaml`, `values.yaml`, `values.schema.json`, and below `templates/` what makes objects.
    pub files: Vec<File>,
    pub needs: Vec<Need>,
    pub notes: Vec<String>,
}

/// The oldest that knows all that is rendered: a sleep before TERM.
const KUBERNETES: &str = ">=1.30.0-0";

const NO_ORDER: &str = "at a first installation a hook of Helm runs before the variables, the account and the database that it needs are there: \
                        `bowline render kubernetes`, applied in its order or by Argo CD; or take it out for this environment";

const HEAD: &str =
    "# What an installation may say otherwise. With these, the chart is what `bowline render kubernetes` prints.\n";

const HELPERS: &str = r#"{{- /* A ConfigMap is named by what it holds: other variables are another object, and pods start anew. */ -}}
{{- define "bowline.hashed" -}}
{{- $lines := printf "%s\n" .environment -}}
{{- range $name, $value := .env -}}
{{- $lines = printf "%s%s=%s\n" $lines $name (sha256sum $value) -}}
{{- end -}}
{{- printf "%s-%s" .stem (sha256sum $lines | trunc 10) -}}
{{- end -}}
{{- /* The secret with the certificate of a host. */ -}}
{{- define "bowline.certificate" -}}
{{- $whole := printf "%s-tls" (. | replace "-" "--" | replace "." "-" | replace "*" "wildcard") -}}
{{- if gt (len $whole) 63 -}}
{{- printf "%s-%s" (regexReplaceAll "-+$" (trunc 52 $whole) "") (sha256sum $whole | trunc 10) -}}
{{- else -}}
{{- $whole -}}
{{- end -}}
{{- end -}}
"#;

/// The objects of an app as a chart. `version`: the chart's own, as SemVer has them.
///
/// # Errors
/// As [`kubernetes`]; and what Helm does not carry.
pub fn helm(input: &Input<'_>, version: &str) -> Result<Chart, Refused> {
    let mut refused = unsupported(input);
    if input.app.release.before.is_some() {
        refused.push(Unsupported { path: "release.before".to_owned(), why: NO_ORDER });
    }
    if !refused.is_empty() {
        return Err(Refused::Keys(refused));
    }
    let said = kubernetes(input)?;
    // What names its namespace is to name that of the release.
    let mut app = input.app.clone();
    app.environment.server = Some(Target::Kubernetes { context: None, namespace: Some(NAMESPACE.to_owned()) });
    let input = Input { app: &app, ..*input };
    let objects = kubernetes(&input)?.objects;
    let mut chart = Templates { ctx: Ctx::of(&input), values: Values::default() };
    let mut files = chart.files(&objects);
    let about = json!({
        "apiVersion": "v2",
        "name": app.name.as_str(),
        "description": format!("{} in {}", app.name, input.key.env),
        "type": "application",
        "version": version,
        "kubeVersion": KUBERNETES,
    });
    files.push(File::new("Chart.yaml", yaml::print(&about)));
    let defaults = chart.values.defaults();
    files.push(File::new("values.yaml", format!("{HEAD}{}", yaml::print(&defaults))));
    files.push(File::new("values.schema.json", format!("{:#}\n", chart.values.schema())));
    files.push(File::new("templates/_helpers.tpl", HELPERS));
    let first = said.needs.iter().map(|need| format!("First: {need}\n"));
    // Of objects that are changed by hand, the values are asked in a chart.
    let text: String = first.chain(said.notes.iter().map(|note| format!("Note: {note}\n"))).collect();
    files.push(File::new("templates/NOTES.txt", literal(&text)));
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Chart { files, needs: said.needs, notes: said.notes })
}

/// Templates that are being made.
struct Templates<'a> {
    ctx: Ctx<'a>,
    values: Values,
}

const CONTAINER: &str = "/spec/template/spec/containers/0";
const OF_CRON: &str = "/spec/jobTemplate/spec/template/spec/containers/0";

impl Templates<'_> {
    fn files(&mut self, objects: &[Object]) -> Vec<File> {
        let mut files: Vec<File> = Vec::new();
        for object in objects {
            let mut stem = stem(object);
            // One template makes the certificates of all hosts.
            if object.id.kind == "Certificate" {
                "certificates".clone_into(&mut stem);
            }
            let stem = format!("templates/{stem}");
            if object.id.kind == "Certificate" && files.iter().any(|file| file.path == format!("{stem}.yaml")) {
                continue;
            }
            let path = free(&files, &stem);
            files.push(File::new(path, self.template(object)));
        }
        files
    }

    fn template(&mut self, object: &Object) -> String {
        let mut template = Template::of(&object.body);
        // What has data outlives whatever is said of it, as where objects are applied by hand.
        if matches!(object.id.kind.as_str(), "Cluster" | "PersistentVolumeClaim") {
            template.kept();
        }
        let component = object.body["metadata"]["labels"]["app.kubernetes.io/component"].as_str().unwrap_or_default();
        match object.id.kind.as_str() {
            "Deployment" | "Rollout" => self.workload(component, &mut template),
            "CronJob" => self.job(component, &mut template),
            "HorizontalPodAutoscaler" => self.scaled(component, &mut template),
            "PodDisruptionBudget" => return self.budget(component, &template),
            "ConfigMap" if object.body["immutable"] == true => self.variables(component, &mut template),
            "StatefulSet" => self.database(component, &mut template),
            "Cluster" => self.operated(component, &mut template),
            "PersistentVolumeClaim" => self.claim(component, &mut template),
            "Ingress" => return self.ingress(object, &mut template),
            "HTTPRoute" => self.http_route(object, &mut template),
            "Certificate" => return self.certificates(&mut template),
            "ReferenceGrant" => self.grant(&mut template),
            _ => {}
        }
        template.text()
    }

    /// Whose image a service runs, where it is asked for.
    fn builder(&self, service: &ServiceName) -> ServiceName {
        match self.ctx.app.services.get(service).map(|service| &service.origin) {
            Some(Origin::BuildOf(of)) if !self.ctx.input.images.contains_key(service) => of.clone(),
            _ => service.clone(),
        }
    }

    fn service(&self, component: &str) -> Option<ServiceName> {
        self.ctx.app.services.keys().find(|name| label(name.as_str()) == component).cloned()
    }

    fn container(&mut self, service: &ServiceName, at: &str, template: &mut Template) {
        let builder = self.builder(service);
        if let Some(image) = template.at(&format!("{at}/image")).cloned() {
            let pinned = json!({ "type": "string", "pattern": "@sha256:[0-9a-f]{64}$" });
            let image = self.values.ask(&["services", builder.as_str(), "image"], &image, &pinned);
            template.scalar(&format!("{at}/image"), format!("{image} | quote"));
        }
        if let Some(resources) = template.at(&format!("{at}/resources")).cloned() {
            let object = json!({ "type": "object" });
            let resources = self.values.ask(&["services", service.as_str(), "resources"], &resources, &object);
            template.block(&format!("{at}/resources"), resources);
        }
    }

    /// The ConfigMap of its variables, by the name that its content has.
    fn named(&mut self, owner: [&str; 2], at: &str, template: &mut Template) {
        let pointer = format!("{at}/envFrom/0/configMapRef/name");
        if let Some(name) = template.at(&pointer).and_then(Value::as_str).map(str::to_owned) {
            let name = self.hashed(owner, &name);
            template.scalar(&pointer, name);
        }
    }

    fn hashed(&self, [table, name]: [&str; 2], rendered: &str) -> String {
        let stem = rendered.rsplit_once('-').map_or(rendered, |(stem, _)| stem);
        // Its values are gathered by the ConfigMap itself.
        let env = Values::default().ask(&[table, name, "env"], &Value::Null, &Value::Null);
        let environment = self.ctx.key.env.as_str();
        format!("include \"bowline.hashed\" (dict \"stem\" \"{stem}\" \"environment\" \"{environment}\" \"env\" {env})")
    }

    fn workload(&mut self, component: &str, template: &mut Template) {
        let Some(service) = self.service(component) else { return };
        self.container(&service, CONTAINER, template);
        self.named(["services", service.as_str()], CONTAINER, template);
        if let Some(replicas) = template.at("/spec/replicas").cloned() {
            let number = json!({ "type": "integer", "minimum": 0 });
            let replicas = self.values.ask(&["services", service.as_str(), "replicas"], &replicas, &number);
            template.scalar("/spec/replicas", replicas);
        }
    }

    fn scaled(&mut self, component: &str, template: &mut Template) {
        let Some(service) = self.service(component) else { return };
        for (key, word) in [("minReplicas", "min"), ("maxReplicas", "max")] {
            let pointer = format!("/spec/{key}");
            let Some(count) = template.at(&pointer).cloned() else { continue };
            let number = json!({ "type": "integer", "minimum": 1 });
            let count = self.values.ask(&["services", service.as_str(), "scale", word], &count, &number);
            template.scalar(&pointer, count);
        }
    }

    /// Of one pod none may be taken away: it would hold up its node.
    fn budget(&mut self, component: &str, template: &Template) -> String {
        let Some(service) = self.service(component) else { return template.text() };
        let scale = self.ctx.app.services.get(&service).map(|service| service.scale).unwrap_or_default();
        let least = match scale.is_automatic() {
            true => ["services", service.as_str(), "scale", "min"].to_vec(),
            false => ["services", service.as_str(), "replicas"].to_vec(),
        };
        let least = Values::default().ask(&least, &Value::Null, &Value::Null);
        format!("{{{{- if gt (int {least}) 1 }}}}\n{}{{{{- end }}}}\n", template.text())
    }

    fn job(&mut self, component: &str, template: &mut Template) {
        let Some(name) = component.strip_prefix("job-") else { return };
        let Some(job) = self.ctx.app.jobs.keys().find(|job| label(&format!("job-{job}")) == component).cloned() else {
            return;
        };
        let Some(home) = self.ctx.home_of(&job).cloned() else { return };
        self.container(&home, OF_CRON, template);
        self.named(["jobs", name], OF_CRON, template);
        if template.at("/spec/suspend").is_none()
            && let Some(schedule) = template.at("/spec/schedule").cloned()
        {
            let text = json!({ "type": "string" });
            let schedule = self.values.ask(&["jobs", name, "schedule"], &schedule, &text);
            template.scalar("/spec/schedule", format!("{schedule} | quote"));
        }
    }

    fn variables(&mut self, component: &str, template: &mut Template) {
        let owner = match self.service(component) {
            Some(_) => ["services", component],
            None => ["jobs", component.strip_prefix("job-").unwrap_or(component)],
        };
        let Some(data) = template.at("/data").cloned() else { return };
        let texts = json!({ "type": "object", "additionalProperties": { "type": "string" } });
        let env = self.values.ask(&[owner[0], owner[1], "env"], &data, &texts);
        template.block("/data", env);
        if let Some(name) = template.at("/metadata/name").and_then(Value::as_str).map(str::to_owned) {
            let name = self.hashed(owner, &name);
            template.scalar("/metadata/name", name);
        }
    }

    fn database(&mut self, component: &str, template: &mut Template) {
        let text = json!({ "type": "string" });
        let at = |key: &str| format!("{CONTAINER}/{key}");
        if let Some(image) = template.at(&at("image")).cloned() {
            let image = self.values.ask(&["databases", component, "image"], &image, &text);
            template.scalar(&at("image"), format!("{image} | quote"));
        }
        if let Some(resources) = template.at(&at("resources")).cloned() {
            let object = json!({ "type": "object" });
            let resources = self.values.ask(&["databases", component, "resources"], &resources, &object);
            template.block(&at("resources"), resources);
        }
    }

    fn operated(&mut self, component: &str, template: &mut Template) {
        let text = json!({ "type": "string" });
        for (pointer, word) in [("/spec/imageName", "image"), ("/spec/storage/size", "storage")] {
            let Some(value) = template.at(pointer).cloned() else { continue };
            let value = self.values.ask(&["databases", component, word], &value, &text);
            template.scalar(pointer, format!("{value} | quote"));
        }
        if let Some(resources) = template.at("/spec/resources").cloned() {
            let object = json!({ "type": "object" });
            let resources = self.values.ask(&["databases", component, "resources"], &resources, &object);
            template.block("/spec/resources", resources);
        }
        self.class("/spec/storage/storageClass", template);
    }

    fn claim(&mut self, component: &str, template: &mut Template) {
        const STORAGE: &str = "/spec/resources/requests/storage";
        let path = match component.strip_prefix("volume-") {
            Some(volume) => ["volumes", volume, "storage"],
            None => ["databases", component, "storage"],
        };
        let Some(size) = template.at(STORAGE).cloned() else { return };
        let size = self.values.ask(&path, &size, &json!({ "type": "string" }));
        template.scalar(STORAGE, format!("{size} | quote"));
        self.class("/spec/storageClassName", template);
    }

    fn class(&mut self, pointer: &str, template: &mut Template) {
        self.text(&["storageClass"], pointer, template);
    }

    /// A text that is there by itself, too.
    fn text(&mut self, path: &[&str], pointer: &str, template: &mut Template) {
        let Some(value) = template.at(pointer).cloned() else { return };
        let value = self.values.ask(path, &value, &json!({ "type": "string" }));
        template.scalar(pointer, format!("{value} | quote"));
    }

    fn route(&self, object: &Object) -> Option<(String, Route)> {
        let of = |name: &str| self.ctx.app.routes.iter().find(|(route, _)| self.ctx.named(&[route.as_str()]) == name);
        let name = object.id.name.as_str();
        let found = of(name).or_else(|| name.strip_suffix("-plain").and_then(of));
        found.map(|(name, route)| (name.to_string(), route.clone()))
    }

    fn hosts(&mut self, name: &str, route: &Route) -> String {
        let hosts: Vec<&str> = route.hosts.iter().map(bowline_core::app::HostName::as_str).collect();
        let schema = json!({ "type": "array", "minItems": 1, "items": { "type": "string" } });
        self.values.ask(&["routes", name, "hosts"], &json!(hosts), &schema)
    }

    fn ingress(&mut self, object: &Object, template: &mut Template) -> String {
        let Some((name, route)) = self.route(object) else { return template.text() };
        let hosts = self.hosts(&name, &route);
        if let Some(mut rule) = template.at("/spec/rules/0").cloned() {
            rule["host"] = json!(ITEM.0);
            template.each("/spec/rules", hosts.clone(), rule);
        }
        if template.at("/spec/tls/0").is_some() {
            let item = json!({ "hosts": [ITEM.0], "secretName": ITEM_CERTIFICATE.0 });
            template.each("/spec/tls", hosts, item);
        }
        self.text(&["ingress", "className"], "/spec/ingressClassName", template);
        format!("{}{}", self.apart(&name, &route), template.text())
    }

    /// Of a plain path: its hosts are none of a path that is a regular expression, which would make one of it ([`expressions`]).
    fn apart(&mut self, name: &str, route: &Route) -> String {
        let ctx = &self.ctx;
        let by_nginx = matches!(Edge::of(ctx.input), Edge::Ingress { nginx: true, .. });
        let expressions = expressions(ctx);
        let is_one = expressions.iter().any(|one| one.as_str() == name);
        if !by_nginx || expressions.is_empty() || is_one || route.path.as_str() == "/" {
            return String::new();
        }
        let others = ctx.app.routes.iter().filter(|(one, _)| expressions.contains(one));
        let others: Vec<(String, Route)> = others.map(|(one, route)| (one.to_string(), route.clone())).collect();
        let others: Vec<String> = others.iter().map(|(name, route)| self.hosts(name, route)).collect();
        let (hosts, others) = (self.hosts(name, route), others.join(" "));
        let why = format!(
            "%s has a path of a regular expression, which that of route {name} would be there: give them hosts of their own, or render the chart with hosts that they have in common"
        );
        format!(
            "{{{{- range {hosts} }}}}{{{{- if has . (concat {others}) }}}}{{{{- fail (printf {why:?} .) }}}}{{{{- end }}}}{{{{- end -}}}}\n"
        )
    }

    fn http_route(&mut self, object: &Object, template: &mut Template) {
        let Some((name, route)) = self.route(object) else { return };
        let hosts = self.hosts(&name, &route);
        template.block("/spec/hostnames", hosts);
        self.text(&["gateway", "name"], "/spec/parentRefs/0/name", template);
        self.text(&["gateway", "namespace"], "/spec/parentRefs/0/namespace", template);
    }

    /// All hosts over HTTPS, each once.
    fn secure(&mut self) -> String {
        let app: &App = self.ctx.app;
        let routes: Vec<(String, Route)> = app
            .routes
            .iter()
            .filter(|(_, route)| route.tls != Tls::Off && !route.hosts.is_empty())
            .map(|(name, route)| (name.to_string(), route.clone()))
            .collect();
        let lists: BTreeSet<String> = routes.iter().map(|(name, route)| self.hosts(name, route)).collect();
        format!("(concat {} | uniq)", lists.into_iter().collect::<Vec<_>>().join(" "))
    }

    fn certificates(&mut self, template: &mut Template) -> String {
        let hosts = self.secure();
        template.scalar("/metadata/name", "include \"bowline.certificate\" .");
        template.scalar("/spec/secretName", "include \"bowline.certificate\" .");
        template.scalar("/spec/dnsNames/0", ". | quote");
        self.text(&["issuer", "kind"], "/spec/issuerRef/kind", template);
        self.text(&["issuer", "name"], "/spec/issuerRef/name", template);
        format!("{{{{- range {hosts} }}}}\n---\n{}{{{{- end }}}}\n", template.text())
    }

    fn grant(&mut self, template: &mut Template) {
        let hosts = self.secure();
        let item = json!({ "group": "", "kind": "Secret", "name": ITEM_CERTIFICATE.0 });
        template.each("/spec/to", hosts, item);
        self.text(&["gateway", "namespace"], "/spec/from/0/namespace", template);
    }
}

/// As a value of the label `app.kubernetes.io/component`.
fn label(text: &str) -> String {
    crate::names::join(&[text], crate::names::LABEL)
}
