//! The API as an OpenAPI 3.1 document: its paths are written here, its shapes are made from the wire types.

use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::session::{PROTOCOL, TUNNEL};
use crate::wire;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain";
const BYTES: &str = "application/octet-stream";

/// Where the shapes lie in the document.
const SHAPES: &str = "/components/schemas";

/// The document. `version` is the binary's.
pub fn document(version: &str) -> Value {
    let mut made = Made::default();
    made.paths();
    let Made { mut generator, paths } = made;
    generator.subschema_for::<wire::Fault>();
    let schemas: Map<String, Value> = generator.take_definitions(true);
    let description = "The daemon of Bowline. On its Unix socket it answers its own user and root; over HTTPS, on the host that \
                       `server.toml` names, whoever has a token.";
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Bowline",
            "version": version,
            "description": description,
            "license": { "name": "Apache-2.0 OR MIT", "identifier": "Apache-2.0 OR MIT" },
        },
        "servers": [{ "url": "/", "description": "This daemon" }],
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {
                "Refused": {
                    "description": "Why it was refused, or failed: 400 it is wrong, 401 no token holds, 403 it may not be, 404 there is \
                                    no such thing, 409 something else is under way, 413 it is too large, 429 too often without a token \
                                    that holds, 500 it failed, 503 the daemon is degraded or ends",
                    "content": { JSON: { "schema": { "$ref": "#/components/schemas/Fault" } } },
                },
            },
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "Made by `bowline token create`" },
            },
        },
    })
}

fn text() -> Value {
    json!({ "type": "string" })
}

struct Made {
    generator: SchemaGenerator,
    paths: BTreeMap<&'static str, Map<String, Value>>,
}

impl Default for Made {
    fn default() -> Self {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = SHAPES.into();
            settings.meta_schema = None;
        });
        Self { generator: settings.into_generator(), paths: BTreeMap::new() }
    }
}

/// A path and a method on their way into the document.
struct Operation<'m> {
    made: &'m mut Made,
    method: &'static str,
    path: &'static str,
    summary: &'static str,
    query: Vec<Value>,
    body: Option<Value>,
}

impl Made {
    fn on(&mut self, what: &'static str, summary: &'static str) -> Operation<'_> {
        let (method, path) = what.split_once(' ').expect("a method and a path");
        Operation { made: self, method, path, summary, query: Vec::new(), body: None }
    }

    fn shape<T: JsonSchema>(&mut self) -> Value {
        self.generator.subschema_for::<T>().to_value()
    }

    fn paths(&mut self) {
        self.about_the_daemon();
        self.about_apps();
        self.about_what_is_brought();
        self.about_secrets_and_data();
        self.about_tokens();
    }

    fn about_the_daemon(&mut self) {
        self.on("GET /v1/version", "The version of the daemon").gives::<wire::Version>(200);
        self.on("GET /v1/whoami", "Who asks: the user, or the token").gives::<wire::WhoAmI>(200);
        self.on("GET /v1/openapi.json", "This document").gives_any(200, JSON, json!({ "type": "object" }));
        self.on("GET /v1/status", "What runs, and what each pending step waits on").gives::<wire::Status>(200);
        self.on("GET /v1/metrics", "Bowline's own metrics, in Prometheus's text format").gives_any(200, TEXT, text());
        self.on(
            "GET /v1/metrics/targets",
            "Instances that have metrics of their own, as service discovery by HTTP wants it",
        )
        .gives_any(200, JSON, json!({ "type": "array", "items": { "type": "object" } }));
        self.on("GET /v1/metrics/edge", "What an Envoy that is the edge counts itself").gives_any(200, TEXT, text());
        self.on("GET /v1/metrics/instances/{env}/{instance}", "The metrics of one of them, with Bowline's labels")
            .gives_any(200, TEXT, text());
        self.on("POST /v1/shutdown", "Stop all, then the daemon; on its machine alone").gives::<wire::Stopped>(200);
        self.on("POST /v1/upgrade", "Put another binary in the daemon's place; on its machine alone")
            .takes::<wire::Upgrade>()
            .gives_nothing(204);
    }

    fn about_apps(&mut self) {
        self.on("POST /v1/apps", "Apply an app's folder").takes::<wire::Apply>().gives::<wire::Accepted>(202);
        self.on("POST /v1/plans", "What applying would change; nothing is done")
            .takes::<wire::Apply>()
            .gives::<wire::Plan>(200);
        self.on("GET /v1/changes/{id}", "The steps of a change, from its beginning to its end")
            .gives_lines::<wire::ChangeEvent>();
        self.on("POST /v1/apps/{env}/{app}/stop", "Stop an app").takes::<wire::Stop>().gives::<wire::Stopped>(200);
        self.on("GET /v1/apps/{env}/{app}/releases", "The releases that are kept").gives::<wire::Releases>(200);
        self.on("POST /v1/apps/{env}/{app}/rollback", "Go back to a release")
            .takes::<wire::Rollback>()
            .gives::<wire::Accepted>(202);
        self.on("POST /v1/apps/{env}/{app}/restart", "Restart instances, one after the other")
            .takes::<wire::Restart>()
            .gives::<wire::Accepted>(202);
        self.on("POST /v1/apps/{env}/{app}/scale", "Run another number of instances")
            .takes::<wire::Scale>()
            .gives::<wire::Accepted>(202);
        self.on("POST /v1/apps/{env}/{app}/promote", "Take what is under way as it is").gives::<wire::Accepted>(202);
        self.on("POST /v1/apps/{env}/{app}/abort", "Undo what is under way").gives::<wire::Aborted>(200);
        self.on("PUT /v1/apps/{env}/{app}/maintenance", "Answer 503 for an app, but for some")
            .takes::<wire::Maintenance>()
            .gives::<wire::Maintained>(200);
        self.on("DELETE /v1/apps/{env}/{app}/maintenance", "Answer everyone again").gives::<wire::Maintained>(200);
        self.on("POST /v1/apps/{env}/{app}/jobs/{job}/run", "Run a job now").gives::<wire::Run>(202);
        self.on("POST /v1/apps/{env}/{app}/jobs/{job}/stop", "End the run of a job").gives::<wire::Run>(200);
        self.on("GET /v1/apps/{env}/{app}/runs/{number}", "A run of a job")
            .asks::<wire::RunQuery>()
            .gives::<wire::Run>(200);
        self.session();
        self.on("GET /v1/logs", "Log lines of an app").asks::<wire::LogsQuery>().gives_lines::<wire::LogLine>();
        self.on("GET /v1/events", "What happened").asks::<wire::EventsQuery>().gives::<wire::Events>(200);
    }

    fn session(&mut self) {
        let mut session = self.on("POST /v1/apps/{env}/{app}/sessions", "Be attached to a command");
        let shape = session.made.shape::<wire::Session>();
        session.body = Some(json!({ "required": false, "content": { JSON: { "schema": shape } } }));
        for (name, about, required) in [
            ("Upgrade", format!("`{PROTOCOL}`"), true),
            (crate::session::SPEC, "`Session` as JSON in ASCII, in the place of a body".to_owned(), false),
        ] {
            let schema = json!({ "type": "string" });
            session.query.push(json!({
                "name": name, "in": "header", "description": about, "required": required, "schema": schema,
            }));
        }
        session.gives_nothing(101);
    }

    fn about_what_is_brought(&mut self) {
        self.on("POST /v1/sources/{env}/{app}", "Say what a folder is made of")
            .takes::<wire::Source>()
            .gives::<wire::Offered>(200);
        self.on("PUT /v1/contents/{env}/{app}/{content}", "Send what a file holds; `content` is its SHA-256")
            .takes_bytes()
            .gives_nothing(204);
        self.on("POST /v1/sources/{env}/{app}/{source}", "Put a folder together").gives::<wire::Placed>(200);
    }

    fn about_secrets_and_data(&mut self) {
        self.on("GET /v1/secrets/{env}/{app}", "The secrets of an app, without their values")
            .gives::<wire::Secrets>(200);
        self.on("PUT /v1/secrets/{env}/{app}/{name}", "Set a secret").takes_bytes().gives::<wire::SecretSet>(200);
        self.on("DELETE /v1/secrets/{env}/{app}/{name}", "Remove a secret").gives_nothing(204);
        self.on("GET /v1/data", "Databases, caches and volumes").asks::<wire::DataQuery>().gives::<wire::DataList>(200);
        self.on("POST /v1/data/{env}/{app}/{data}/leases", "Credentials for a while")
            .takes::<wire::Lend>()
            .gives::<wire::Lent>(200);
        self.on("DELETE /v1/data/{env}/{app}/{data}/leases/{user}", "End credentials").gives_nothing(204);
        let mut tunnel = self.on("POST /v1/data/{env}/{app}/{data}/tunnel", "Be connected to a server that runs here");
        let (schema, about) = (json!({ "type": "string" }), format!("`{TUNNEL}`"));
        tunnel.query.push(json!({
            "name": "Upgrade", "in": "header", "description": about, "required": true, "schema": schema,
        }));
        tunnel.gives_nothing(101);
        self.on("PUT /v1/data/{env}/{app}/{data}/content", "Fill a volume; on the daemon's machine alone")
            .takes::<wire::Fill>()
            .gives::<wire::Filled>(200);
        self.on("GET /v1/data/{env}/{app}/{data}/archive", "Whether a volume may be filled now")
            .asks::<wire::FillQuery>()
            .gives_nothing(204);
        self.on(
            "PUT /v1/data/{env}/{app}/{data}/archive",
            "Fill a volume with an archive of tar that is not compressed",
        )
        .asks::<wire::FillQuery>()
        .takes_bytes()
        .gives::<wire::Filled>(200);
        self.on("DELETE /v1/data/{env}/{app}/{data}", "Remove data")
            .asks::<wire::RemoveQuery>()
            .gives::<wire::Removed>(200);
    }

    fn about_tokens(&mut self) {
        self.on("GET /v1/tokens", "The tokens, without what they are").gives::<wire::Tokens>(200);
        self.on("POST /v1/tokens", "Make a token").takes::<wire::NewToken>().gives::<wire::CreatedToken>(201);
        self.on("DELETE /v1/tokens/{token}", "Revoke a token, by its name or its id").gives::<wire::TokenInfo>(200);
    }
}

impl Operation<'_> {
    fn takes<T: JsonSchema>(mut self) -> Self {
        let shape = self.made.shape::<T>();
        self.body = Some(json!({ "required": true, "content": { JSON: { "schema": shape } } }));
        self
    }

    fn takes_bytes(mut self) -> Self {
        self.body = Some(json!({ "required": true, "content": { BYTES: {} } }));
        self
    }

    /// The fields of a flat struct as parameters.
    fn asks<T: JsonSchema>(mut self) -> Self {
        let shape = T::json_schema(&mut self.made.generator).to_value();
        let required = |name: &str| {
            shape["required"].as_array().is_some_and(|names| names.iter().any(|one| one.as_str() == Some(name)))
        };
        let fields = shape["properties"].as_object().into_iter().flatten();
        let parameter = |(name, schema): (&String, &Value)| json!({ "name": name, "in": "query", "required": required(name), "schema": schema });
        self.query.extend(fields.map(parameter));
        self
    }

    fn gives<T: JsonSchema>(self, status: u16) {
        let shape = self.made.shape::<T>();
        self.gives_any(status, JSON, shape);
    }

    /// Each line is of this shape.
    fn gives_lines<T: JsonSchema>(self) {
        let shape = self.made.shape::<T>();
        self.gives_any(200, wire::NDJSON, shape);
    }

    fn gives_any(self, status: u16, media: &str, shape: Value) {
        let answer = json!({ "description": "Done", "content": { media: { "schema": shape } } });
        self.add(status, answer);
    }

    fn gives_nothing(self, status: u16) {
        self.add(status, json!({ "description": if status == 101 { "The session begins" } else { "Done" } }));
    }

    fn add(self, status: u16, answer: Value) {
        let Self { made, method, path, summary, query, body } = self;
        let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let schema = |name: &str| match name {
            "id" | "number" => json!({ "type": "integer", "minimum": 0 }),
            _ => json!({ "type": "string" }),
        };
        let in_path = names.map(|name| json!({ "name": name, "in": "path", "required": true, "schema": schema(name) }));
        let parameters: Vec<Value> = in_path.chain(query).collect();
        let answers = json!({ status.to_string(): answer, "default": { "$ref": "#/components/responses/Refused" } });
        let mut operation =
            json!({ "summary": summary, "operationId": operation_id(method, path), "responses": answers });
        if !parameters.is_empty() {
            operation["parameters"] = parameters.into();
        }
        if let Some(body) = body {
            operation["requestBody"] = body;
        }
        made.paths.entry(path).or_default().insert(method.to_lowercase(), operation);
    }
}

/// `get_apps_env_app_releases`
fn operation_id(method: &str, path: &str) -> String {
    let words = path.split('/').skip(2).map(|part| part.trim_matches(['{', '}']).replace('.', "_"));
    std::iter::once(method.to_lowercase()).chain(words).collect::<Vec<_>>().join("_")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every `$ref` in a document.
    fn references<'d>(value: &'d Value, found: &mut BTreeSet<&'d str>) {
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    match (key.as_str(), value) {
                        ("$ref", Value::String(to)) => drop(found.insert(to.as_str())),
                        (_, value) => references(value, found),
                    }
                }
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn the_document_is_whole() {
        let document = document("1.2.3");
        assert_eq!((&document["openapi"], &document["info"]["version"]), (&"3.1.0".into(), &"1.2.3".into()));
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        for reference in &found {
            let at = reference.strip_prefix('#').expect("within the document");
            assert!(document.pointer(at).is_some(), "{reference} leads nowhere");
        }
        assert!(found.contains("#/components/schemas/Status"), "{found:?}");
        let mut ids = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{method} {path}: an id twice");
                let parameters: Vec<&Value> = operation["parameters"].as_array().into_iter().flatten().collect();
                for name in path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')) {
                    let is_it = |one: &&&Value| one["in"] == "path" && one["name"] == name && one["required"] == true;
                    assert_eq!(parameters.iter().filter(is_it).count(), 1, "{method} {path}: {name}");
                }
                let answers = operation["responses"].as_object().unwrap();
                assert!(answers.contains_key("default") && answers.len() == 2, "{method} {path}");
            }
        }
    }

    #[test]
    fn the_reference_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/openapi.json");
        let page = format!("{:#}\n", document(env!("CARGO_PKG_VERSION")));
        if std::env::var_os("BOWLINE_RENEW").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(page == written, "docs/reference/openapi.json: not current; `make reference` writes it anew");
    }

    #[test]
    fn shapes_are_those_that_are_sent() {
        let document = document("1");
        let shape = |name: &str| &document["components"]["schemas"][name];
        assert_eq!(shape("Apply")["required"], json!(["dir", "env"]));
        let role = serde_json::to_string(shape("Role")).unwrap();
        assert!(role.contains("secret-writer"), "{role}");
        assert!(shape("NewToken")["properties"]["seconds"].is_object());
    }
}
