//! What the values of a service's environment stand for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::app::{
    App, DatabaseSource, Delivery, RedisSource, Reference, ReferenceField, ResourceKind, Value, VarName, Variables,
};
use crate::fault::{Fault, FaultKind};
use crate::id::{AppKey, JobName, ReleaseNumber, ResourceName, SecretName, ServiceName};
use crate::instance::{EnvValue, SecretFile};
use crate::resource::{BucketUrl, Endpoint, ResourceId, UrlError};
use crate::secret::Secret;

/// What references are resolved from.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub key: &'a AppKey,
    pub release: ReleaseNumber,
    /// In clear, of the versions that the release pins.
    pub secrets: &'a BTreeMap<SecretName, Secret>,
    /// The folders that hold the data.
    pub volumes: &'a BTreeMap<ResourceName, PathBuf>,
    /// How instances reach a service: through the edge, `http://uploads.localhost:8080`.
    pub services: &'a BTreeMap<ServiceName, String>,
    /// How instances reach databases and caches.
    pub resources: &'a BTreeMap<ResourceId, Endpoint>,
    /// How instances reach the daemon's metrics: `http://127.0.0.1:7070/metrics`. `None`: it has no admin port.
    pub metrics: Option<&'a str>,
}

/// The environment of a service's instances, but for what the node adds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolved {
    pub env: BTreeMap<String, EnvValue>,
    /// Their variables are not in `env`: the node knows the path.
    pub files: Vec<SecretFile>,
}

/// Why a variable has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("{variable} of {key} wants secret {name}, which has no value")]
    SecretMissing { key: AppKey, variable: VarName, name: SecretName },
    #[error("{variable} of {key} is an environment variable, and secret {name} holds a NUL byte")]
    SecretNul { key: AppKey, variable: VarName, name: SecretName },
    #[error("{variable} of {key} wants the path of volume {name}, which service {service} has not")]
    VolumeMissing { key: AppKey, variable: VarName, name: ResourceName, service: ServiceName },
    #[error("{variable} of {key} wants the URL of service {name}, which no route leads to")]
    ServiceUnreachable { key: AppKey, variable: VarName, name: ServiceName },
    #[error("{variable} of {key} wants the metrics of this machine, which the daemon does not serve")]
    MetricsMissing { key: AppKey, variable: VarName },
    #[error("{variable} of {key} wants a part of {resource}, which its URL does not have")]
    PartMissing { key: AppKey, variable: VarName, resource: ResourceId },
    #[error("{variable} of {key} wants a value of {resource}, which is not known")]
    ResourceMissing { key: AppKey, variable: VarName, resource: ResourceId },
    #[error("{variable} of {key} wants a value of bucket {bucket}, and secret {url} is not the URL of one: {why}")]
    BucketUrl { key: AppKey, variable: VarName, bucket: ResourceName, url: SecretName, why: UrlError },
    #[error("{variable} of {key} wants a value of {resource}, which this version of Bowline does not run")]
    Unsupported { key: AppKey, variable: VarName, resource: String },
}

impl From<ReferenceError> for Fault {
    fn from(error: ReferenceError) -> Self {
        let hint = match &error {
            ReferenceError::SecretMissing { key, name, .. } => key.command("secret set", name.as_str()),
            ReferenceError::SecretNul { name, .. } => {
                format!("deliver it as a file: {{ secret = \"{name}\", as = \"file\" }}")
            }
            ReferenceError::VolumeMissing { name, service, .. } => {
                format!("add \"{service}\" to services of [volume.{name}]")
            }
            ReferenceError::ServiceUnreachable { name, .. } => format!("add a route with to = \"{name}\""),
            ReferenceError::PartMissing { resource, .. } => {
                format!("add it to the secret that url of [{resource}] names, or take the variable out")
            }
            ReferenceError::BucketUrl { key, url, .. } => {
                format!("https://KEY:SECRET@HOST/BUCKET: {}", key.command("secret set", url.as_str()))
            }
            ReferenceError::ResourceMissing { .. } => "apply the folder again".to_owned(),
            ReferenceError::MetricsMissing { .. } => "give the daemon an admin port: `--admin`".to_owned(),
            ReferenceError::Unsupported { .. } => "give the URL as text or as a secret instead".to_owned(),
        };
        Self::new(FaultKind::Invalid, error.to_string()).hint(hint)
    }
}

/// The variables of a service: its own win over the app's.
pub fn variables(app: &App, service: &ServiceName) -> Variables {
    let mut variables = app.env.clone();
    if let Some(service) = app.services.get(service) {
        variables.extend(service.env.clone());
    }
    variables
}

/// The variables of a job: its own win over the app's. Those of the service whose build it runs in are that service's own.
pub fn job_variables(app: &App, job: &JobName) -> Variables {
    let mut variables = app.env.clone();
    if let Some(job) = app.jobs.get(job) {
        variables.extend(job.env.clone());
    }
    variables
}

/// The variables of a service that are text in the file: what a build of static files is given.
pub fn plain_variables(app: &App, service: &ServiceName) -> BTreeMap<String, String> {
    let plain = |(name, value): (VarName, Value)| match value {
        Value::Text(text) => Some((name.as_str().to_owned(), text)),
        Value::From(_) | Value::Secret { .. } => None,
    };
    variables(app, service).into_iter().filter_map(plain).collect()
}

/// The secrets that a release pins: what instances and runs of jobs are given, what routes ask for, and where resources elsewhere are.
pub fn wanted_secrets(app: &App) -> BTreeSet<SecretName> {
    let mut wanted: BTreeSet<SecretName> = external_secrets(app).cloned().collect();
    let services = app.services.keys().map(|service| variables(app, service));
    let jobs = app.jobs.keys().map(|job| job_variables(app, job));
    for value in services.chain(jobs).flat_map(Variables::into_values) {
        if let Value::Secret { name, .. } = value {
            wanted.insert(name);
        }
    }
    wanted.extend(app.routes.values().filter_map(|route| Some(route.access.auth.as_ref()?.secret().clone())));
    wanted
}

/// The secrets that say where resources elsewhere are.
fn external_secrets(app: &App) -> impl Iterator<Item = &SecretName> {
    let databases = app.databases.values().map(|database| match &database.source {
        DatabaseSource::External { url, ca } => (Some(url), ca.as_ref()),
        DatabaseSource::Managed { .. } => (None, None),
    });
    let redis = app.redis.values().map(|redis| match &redis.source {
        RedisSource::External { url, ca } => (Some(url), ca.as_ref()),
        RedisSource::Managed { .. } => (None, None),
    });
    let buckets = app.buckets.values().map(|bucket| (bucket.external.as_ref(), None));
    databases.chain(redis).chain(buckets).flat_map(|(url, ca)| url.into_iter().chain(ca))
}

/// Whether anything of it is given the address of the daemon's metrics, and so may read those of all apps of the machine.
pub fn reads_metrics(app: &App) -> bool {
    let services = app.services.values().map(|service| &service.env);
    let jobs = app.jobs.values().map(|job| &job.env);
    let mut values = services.chain(jobs).chain([&app.env]).flat_map(BTreeMap::values);
    values.any(|value| matches!(value, Value::From(Reference::Metrics)))
}

/// Resolves all that a service's instances are given; reports every error, not only the first.
pub fn resolve(app: &App, service: &ServiceName, facts: Facts<'_>) -> Result<Resolved, Vec<ReferenceError>> {
    resolve_all(app, variables(app, service), service, facts)
}

/// Resolves all that the runs of a job are given. They have the volumes of the service whose build they run in.
pub fn resolve_job(
    app: &App,
    job: &JobName,
    service: &ServiceName,
    facts: Facts<'_>,
) -> Result<Resolved, Vec<ReferenceError>> {
    resolve_all(app, job_variables(app, job), service, facts)
}

fn resolve_all(
    app: &App,
    variables: Variables,
    service: &ServiceName,
    facts: Facts<'_>,
) -> Result<Resolved, Vec<ReferenceError>> {
    let mut resolved = Resolved::default();
    let mut errors = Vec::new();
    for (variable, value) in variables {
        let result = match value {
            Value::Text(text) => Ok(EnvValue::Clear(text)),
            Value::From(reference) => from(app, service, facts, &variable, &reference),
            Value::Secret { name, delivery: Delivery::Environment } => {
                secret(facts, &variable, &name).and_then(|secret| without_nul(facts, &variable, &name, secret))
            }
            Value::Secret { name, delivery: Delivery::File } => match secret(facts, &variable, &name) {
                Ok(value) => {
                    let (variable, name) = (variable.as_str().to_owned(), name.as_str().to_owned());
                    resolved.files.push(SecretFile { variable, name, value });
                    continue;
                }
                Err(error) => Err(error),
            },
        };
        match result {
            Ok(value) => {
                resolved.env.insert(variable.as_str().to_owned(), value);
            }
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(resolved) } else { Err(errors) }
}

fn secret(facts: Facts<'_>, variable: &VarName, name: &SecretName) -> Result<Secret, ReferenceError> {
    let missing =
        || ReferenceError::SecretMissing { key: facts.key.clone(), variable: variable.clone(), name: name.clone() };
    facts.secrets.get(name).cloned().ok_or_else(missing)
}

fn without_nul(
    facts: Facts<'_>,
    variable: &VarName,
    name: &SecretName,
    secret: Secret,
) -> Result<EnvValue, ReferenceError> {
    match secret.expose().contains(&0) {
        true => {
            Err(ReferenceError::SecretNul { key: facts.key.clone(), variable: variable.clone(), name: name.clone() })
        }
        false => Ok(EnvValue::Secret(secret)),
    }
}

/// Whether a service is given a volume.
pub fn has_volume(app: &App, service: &ServiceName, volume: &ResourceName) -> bool {
    app.volumes.get(volume).is_some_and(|v| v.services.as_ref().is_none_or(|services| services.contains(service)))
}

fn from(
    app: &App,
    service: &ServiceName,
    facts: Facts<'_>,
    variable: &VarName,
    reference: &Reference,
) -> Result<EnvValue, ReferenceError> {
    let (key, variable) = (facts.key.clone(), variable.clone());
    match reference {
        Reference::AppName => Ok(EnvValue::Clear(key.app.to_string())),
        Reference::AppEnv => Ok(EnvValue::Clear(key.env.to_string())),
        Reference::AppRelease => Ok(EnvValue::Clear(facts.release.to_string())),
        Reference::Metrics => {
            let url = facts.metrics.map(|url| EnvValue::Clear(url.to_owned()));
            url.ok_or(ReferenceError::MetricsMissing { key, variable })
        }
        Reference::VolumePath(name) => {
            let mounted = app.volumes.get(name).and_then(|volume| volume.path.clone());
            let held = facts.volumes.get(name).map(|path| path.display().to_string());
            let path = mounted.or(held).filter(|_| has_volume(app, service, name));
            let (name, service) = (name.clone(), service.clone());
            path.map(EnvValue::Clear).ok_or(ReferenceError::VolumeMissing { key, variable, name, service })
        }
        Reference::ServiceUrl(name) => {
            let url = facts.services.get(name).cloned();
            url.map(EnvValue::Clear).ok_or(ReferenceError::ServiceUnreachable { key, variable, name: name.clone() })
        }
        Reference::Database(kind, name, field) => part(facts, variable, ResourceKind::from(*kind), name, *field),
        Reference::Redis(name, field) => part(facts, variable, ResourceKind::Redis, name, *field),
        Reference::Bucket(name, field) => bucket(app, facts, variable, name, *field),
    }
}

fn part(
    facts: Facts<'_>,
    variable: VarName,
    kind: ResourceKind,
    name: &ResourceName,
    field: ReferenceField,
) -> Result<EnvValue, ReferenceError> {
    let (key, resource) = (facts.key.clone(), ResourceId { kind, name: name.clone() });
    match facts.resources.get(&resource) {
        None => Err(ReferenceError::ResourceMissing { key, variable, resource }),
        Some(endpoint) => endpoint.part(field).ok_or(ReferenceError::PartMissing { key, variable, resource }),
    }
}

fn bucket(
    app: &App,
    facts: Facts<'_>,
    variable: VarName,
    name: &ResourceName,
    field: ReferenceField,
) -> Result<EnvValue, ReferenceError> {
    let key = facts.key.clone();
    let Some(url) = app.buckets.get(name).and_then(|bucket| bucket.external.as_ref()) else {
        return Err(ReferenceError::Unsupported { key, variable, resource: format!("bucket.{name}") });
    };
    let bad = |why| {
        let (key, variable) = (key.clone(), variable.clone());
        ReferenceError::BucketUrl { key, variable, bucket: name.clone(), url: url.clone(), why }
    };
    let bucket = BucketUrl::parse(&secret(facts, &variable, url)?).map_err(bad)?;
    bucket.part(field).ok_or_else(|| bad(UrlError::Bucket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::sample;

    fn facts<'a>(key: &'a AppKey, secrets: &'a BTreeMap<SecretName, Secret>, rest: &'a Rest) -> Facts<'a> {
        Facts {
            key,
            release: ReleaseNumber(3),
            secrets,
            volumes: &rest.0,
            services: &rest.1,
            resources: &rest.2,
            metrics: Some("http://127.0.0.1:7070/metrics"),
        }
    }

    type Rest = (BTreeMap<ResourceName, PathBuf>, BTreeMap<ServiceName, String>, BTreeMap<ResourceId, Endpoint>);

    fn check(value: Value, expected: Result<Resolved, ReferenceError>) {
        let mut app = sample::app("shop", &["web", "worker"]);
        app.env.insert(VarName::new("IT").unwrap(), value);
        let volume = |services| crate::app::Volume { services, path: None, size: None, backup: None };
        let worker = vec![ServiceName::new("worker").unwrap()];
        app.volumes.insert(ResourceName::new("files").unwrap(), volume(None));
        app.volumes.insert(ResourceName::new("private").unwrap(), volume(Some(worker)));
        let secrets = [("token", b"t0k".to_vec()), ("binary", vec![0, 1])];
        let secrets = secrets.map(|(name, value)| (SecretName::new(name).unwrap(), Secret::new(value))).into();
        let path = |name: &str| (ResourceName::new(name).unwrap(), PathBuf::from("/v").join(name));
        let url = (ServiceName::new("web").unwrap(), "http://shop.localhost:8080".to_owned());
        let db = ResourceId { kind: ResourceKind::Postgres, name: ResourceName::new("db").unwrap() };
        let endpoint = Endpoint::managed(db.kind, &db.name, 15_000, &Secret::new("w0rd"));
        let rest = ([path("files"), path("private")].into(), [url].into(), [(db, endpoint)].into());
        let key = sample::key("local", "shop");
        let got = resolve(&app, &ServiceName::new("web").unwrap(), facts(&key, &secrets, &rest));
        assert_eq!(got, expected.map_err(|error| vec![error]));
    }

    fn clear(text: &str) -> Result<Resolved, ReferenceError> {
        let env = [("IT".to_owned(), EnvValue::Clear(text.into()))].into();
        Ok(Resolved { env, files: Vec::new() })
    }

    fn it() -> (AppKey, VarName) {
        (sample::key("local", "shop"), VarName::new("IT").unwrap())
    }

    #[test]
    fn references_become_values() {
        check(Value::Text("a".into()), clear("a"));
        check(Value::From(Reference::AppRelease), clear("3"));
        check(Value::From(Reference::AppEnv), clear("local"));
        check(Value::From(Reference::AppName), clear("shop"));
        check(Value::From(Reference::Metrics), clear("http://127.0.0.1:7070/metrics"));
        check(Value::From(Reference::VolumePath(ResourceName::new("files").unwrap())), clear("/v/files"));
        check(
            Value::From(Reference::ServiceUrl(ServiceName::new("web").unwrap())),
            clear("http://shop.localhost:8080"),
        );
    }

    #[test]
    fn a_job_has_the_variables_of_the_app_and_its_own_and_the_volumes_of_its_service() {
        let mut app = sample::app("shop", &["web", "worker"]);
        let value = |text: &str| Value::Text(text.to_owned());
        let name = |name: &str| VarName::new(name).unwrap();
        let (web, worker) = (ServiceName::new("web").unwrap(), ServiceName::new("worker").unwrap());
        app.env = [(name("A"), value("app")), (name("B"), value("app"))].into();
        app.services.get_mut("web").unwrap().env.insert(name("A"), value("web"));
        let files = ResourceName::new("files").unwrap();
        let volume = crate::app::Volume { services: Some(vec![web.clone()]), path: None, size: None, backup: None };
        app.volumes.insert(files.clone(), volume);
        let token = SecretName::new("token").unwrap();
        let secret = Value::Secret { name: token.clone(), delivery: Delivery::File };
        let job = JobName::new("cleanup").unwrap();
        let mut cleanup = crate::app::Job {
            run: crate::app::Command("clean".into()),
            build_of: Some(web.clone()),
            schedule: None,
            env: [(name("B"), value("job")), (name("TOKEN"), secret)].into(),
            timeout: std::time::Duration::from_secs(1),
        };
        cleanup.env.insert(name("FILES"), Value::From(Reference::VolumePath(files.clone())));
        app.jobs.insert(job.clone(), cleanup);
        assert!(wanted_secrets(&app).contains(&token));
        let rest: Rest = ([(files, PathBuf::from("/v/files"))].into(), BTreeMap::new(), BTreeMap::new());
        let secrets = [(token, Secret::new("t0k"))].into();
        let key = sample::key("local", "shop");
        let resolved = resolve_job(&app, &job, &web, facts(&key, &secrets, &rest)).unwrap();
        let clear = |text: &str| EnvValue::Clear(text.to_owned());
        let expected = [("A", "app"), ("B", "job"), ("FILES", "/v/files")];
        assert_eq!(resolved.env, expected.map(|(name, text)| (name.to_owned(), clear(text))).into());
        assert_eq!(resolved.files.iter().map(|file| file.variable.as_str()).collect::<Vec<_>>(), ["TOKEN"]);
        let elsewhere = resolve_job(&app, &job, &worker, facts(&key, &secrets, &rest));
        assert!(matches!(elsewhere.unwrap_err()[..], [ReferenceError::VolumeMissing { .. }]));
    }

    #[test]
    fn parts_of_resources_become_values_and_what_holds_the_password_is_secret() {
        use crate::app::DatabaseKind::{MariaDb, Postgres};
        let db =
            |kind, name: &str, field| Value::From(Reference::Database(kind, ResourceName::new(name).unwrap(), field));
        let secret = |text: &str| {
            let env = [("IT".to_owned(), EnvValue::Secret(Secret::new(text)))].into();
            Ok(Resolved { env, files: Vec::new() })
        };
        check(db(Postgres, "db", ReferenceField::Url), secret("postgresql://app_db:w0rd@127.0.0.1:15000/app_db"));
        check(db(Postgres, "db", ReferenceField::Password), secret("w0rd"));
        check(db(Postgres, "db", ReferenceField::Port), clear("15000"));
        let (key, variable) = it();
        let resource = ResourceId { kind: ResourceKind::MariaDb, name: ResourceName::new("db").unwrap() };
        let error = ReferenceError::ResourceMissing { key, variable, resource };
        check(db(MariaDb, "db", ReferenceField::Url), Err(error));
    }

    #[test]
    fn parts_of_buckets_become_values_and_a_url_that_is_none_says_why_and_no_more() {
        let check = |url: Option<&str>, field, expected: Result<EnvValue, &str>| {
            let mut app = sample::app("shop", &["web"]);
            let (name, secret) = (ResourceName::new("files").unwrap(), SecretName::new("bucket").unwrap());
            let bucket = crate::app::Bucket { external: Some(secret.clone()), backup: None };
            app.buckets.insert(name.clone(), bucket);
            app.env.insert(VarName::new("IT").unwrap(), Value::From(Reference::Bucket(name, field)));
            assert!(wanted_secrets(&app).contains(&secret));
            let secrets = url.map(|url| (secret, Secret::new(url))).into_iter().collect();
            let (key, rest) = (sample::key("local", "shop"), Rest::default());
            let got = resolve(&app, &ServiceName::new("web").unwrap(), facts(&key, &secrets, &rest));
            match (got, expected) {
                (Ok(mut got), Ok(expected)) => assert_eq!(got.env.remove("IT"), Some(expected)),
                (Err(errors), Err(expected)) => {
                    let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
                    assert!(
                        matches!(&text[..], [text] if text.contains(expected) && !text.contains("s3cr3t")),
                        "{text:?}"
                    );
                }
                (got, expected) => panic!("{got:?}, not {expected:?}"),
            }
        };
        let url = "https://k:s3cr3t@s3.example.com/files?region=r";
        check(Some(url), ReferenceField::Url, Ok(EnvValue::Secret(Secret::new(url))));
        check(Some(url), ReferenceField::Secret, Ok(EnvValue::Secret(Secret::new("s3cr3t"))));
        check(Some(url), ReferenceField::Endpoint, Ok(EnvValue::Clear("https://s3.example.com".to_owned())));
        check(Some(url), ReferenceField::Region, Ok(EnvValue::Clear("r".to_owned())));
        check(
            Some("https://k:s3cr3t@h/"),
            ReferenceField::Url,
            Err("secret bucket is not the URL of one: behind its host"),
        );
        check(None, ReferenceField::Url, Err("wants secret bucket, which has no value"));
    }

    #[test]
    fn secrets_are_delivered_as_the_file_says() {
        let token = SecretName::new("token").unwrap();
        let env = [("IT".to_owned(), EnvValue::Secret(Secret::new("t0k")))].into();
        let delivery = Delivery::Environment;
        check(Value::Secret { name: token.clone(), delivery }, Ok(Resolved { env, files: Vec::new() }));
        let file = SecretFile { variable: "IT".into(), name: "token".into(), value: Secret::new("t0k") };
        let resolved = Resolved { env: BTreeMap::new(), files: vec![file] };
        check(Value::Secret { name: token, delivery: Delivery::File }, Ok(resolved));
        let (key, variable) = it();
        let name = SecretName::new("binary").unwrap();
        let error = ReferenceError::SecretNul { key, variable, name: name.clone() };
        check(Value::Secret { name, delivery }, Err(error));
    }

    #[test]
    fn what_is_missing_is_named() {
        let (key, variable) = it();
        let name = SecretName::new("gone").unwrap();
        let error = ReferenceError::SecretMissing { key: key.clone(), variable: variable.clone(), name: name.clone() };
        assert_eq!(Fault::from(error.clone()).hint.as_deref(), Some("bowline secret set shop gone"));
        check(Value::Secret { name, delivery: Delivery::File }, Err(error));
        let (name, service) = (ResourceName::new("private").unwrap(), ServiceName::new("web").unwrap());
        let error =
            ReferenceError::VolumeMissing { key: key.clone(), variable: variable.clone(), name: name.clone(), service };
        check(Value::From(Reference::VolumePath(name)), Err(error));
        let name = ServiceName::new("worker").unwrap();
        let error = ReferenceError::ServiceUnreachable { key, variable, name: name.clone() };
        check(Value::From(Reference::ServiceUrl(name)), Err(error));
    }
}
