//! What an Envoy that asks nobody compares proofs with: salted digests of secrets that are in files.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use bowline_control::{CredentialsError, Salt, credentials, read_secret_file};
use bowline_core::app::{App, SecretSource};
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::{AppKey, RouteName, SecretName};
use bowline_core::route::Credentials;
use bowline_core::secret::Secret;

use crate::args::SecretFile;
use crate::value;

/// Of every route that asks for one. `said`: where secrets are; else a `source` of the file is read, if it is a file.
///
/// # Errors
/// A secret that no route asks for, that is said twice, that cannot be read, that is no list of users where one is wanted, or that is nowhere.
pub(super) fn of(key: &AppKey, app: &App, said: &[SecretFile]) -> Result<BTreeMap<RouteName, Credentials>, Fault> {
    let asking: Vec<(&RouteName, &SecretName)> =
        app.routes.iter().filter_map(|(name, route)| Some((name, route.access.auth.as_ref()?.secret()))).collect();
    let mut secrets = BTreeMap::new();
    for SecretFile { name, file } in said {
        if !asking.iter().any(|(_, asked)| *asked == name) {
            return Err(Fault::new(FaultKind::Invalid, format!("no route asks for a secret {name}"))
                .hint("take its --secret out, or ask for it in bowline.toml, by `auth` of a route"));
        }
        if secrets.insert(name.clone(), read(name, file)?).is_some() {
            return Err(Fault::new(FaultKind::Invalid, format!("it is said twice where secret {name} is"))
                .hint(format!("say --secret {name}=FILE once")));
        }
    }
    let mut missing = Vec::new();
    for (route, name) in asking {
        match app.secrets.get(name) {
            _ if secrets.contains_key(name) => {}
            Some(SecretSource::File(path)) => drop(secrets.insert(name.clone(), of_source(name, path)?)),
            source => missing.push((route, name, source)),
        }
    }
    if !missing.is_empty() {
        return Err(nowhere(&missing));
    }
    credentials(key, app, &secrets, &Salt::fresh()?).map_err(|error| unfit(&error))
}

type Missing<'a> = (&'a RouteName, &'a SecretName, Option<&'a SecretSource>);

fn nowhere(missing: &[Missing<'_>]) -> Fault {
    let mut names: Vec<&SecretName> = missing.iter().map(|(_, name, _)| *name).collect();
    names.sort();
    names.dedup();
    let message = match names.as_slice() {
        [name] => format!("nobody says what secret {name} is"),
        names => format!("nobody says what {} secrets are", names.len()),
    };
    let fault = missing.iter().fold(Fault::new(FaultKind::Invalid, message), |fault, (route, name, source)| {
        let place = match source {
            None | Some(SecretSource::Store { .. }) => "the daemon keeps it, and shows it to nobody".to_owned(),
            Some(SecretSource::Aws(id)) => format!("aws:{id} is not asked here"),
            Some(SecretSource::Vault(path)) => format!("vault:{path} is not asked here"),
            Some(SecretSource::File(path)) => format!("{path} is not read"),
        };
        fault.caused_by(format!("route.{route}.auth asks for {name}; {place}"))
    });
    let words: Vec<String> = names.iter().map(|name| format!("--secret {name}=FILE")).collect();
    fault.hint(format!("say which file holds it, or which pipe: {}", words.join(" ")))
}

/// What is said may be the value itself, by mistake: it is not said again.
fn read(name: &SecretName, file: &Path) -> Result<Secret, Fault> {
    let unread = |error: &dyn std::error::Error| {
        Fault::new(FaultKind::Invalid, format!("the file of --secret {name} cannot be read"))
            .source(error)
            .hint(format!("say a file that you may read, and that holds the value: --secret {name}=FILE"))
    };
    let written = File::open(file).and_then(value::read).map_err(|error| unread(&error))?;
    value::of(written).map(Secret::new).map_err(|error| unread(&error))
}

fn of_source(name: &SecretName, path: &str) -> Result<Secret, Fault> {
    read_secret_file(Path::new(path)).map_err(|error| {
        Fault::new(FaultKind::Invalid, format!("secret.{name}.source cannot be read"))
            .caused_by(format!("{path}: {error}"))
            .hint(format!("say another file: --secret {name}=FILE"))
    })
}

fn unfit(error: &CredentialsError) -> Fault {
    let fault = Fault::new(FaultKind::Invalid, error.to_string());
    match error {
        CredentialsError::Users { secret, why, .. } => fault
            .source(why)
            .hint(format!("write one `user:password` a line, in clear, into the file of --secret {secret}")),
        CredentialsError::Missing { secret, .. } => fault.hint(format!("--secret {secret}=FILE")),
    }
}

#[cfg(test)]
mod tests {
    use bowline_core::id::EnvName;
    use bowline_spec::Defaults;

    use super::*;

    const TOML: &str = "app = \"shop\"\n[service.web]\nrun = \"x\"\n\
        [route.main]\nto = \"web\"\nauth = { bearer = { secret = \"token\" } }\n\
        [route.again]\nto = \"web\"\npath = \"/again\"\nauth = { header = \"X-Token\", secret = \"token\" }\n\
        [route.people]\nto = \"web\"\npath = \"/people\"\nauth = { basic = { secret = \"people\" } }\n";

    fn app(more: &str) -> (AppKey, App) {
        let env = EnvName::new("local").unwrap();
        let defaults = Defaults { folder_name: "shop".to_owned(), ..Defaults::default() };
        let app = bowline_spec::parse(&format!("{TOML}{more}"), "bowline.toml", &env, &defaults).unwrap().app;
        (AppKey { env, app: app.name.clone() }, app)
    }

    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn with(&self, name: &str, content: &str) -> SecretFile {
            let file = self.0.path().join(name);
            std::fs::write(&file, content).unwrap();
            SecretFile { name: SecretName::new(name).unwrap(), file }
        }
    }

    #[test]
    fn each_route_has_digests_of_its_own() {
        let ((key, app), files) = (app(""), Files::new());
        let said = [files.with("token", "t0ken\n"), files.with("people", "ann:one\nbob:two\n")];
        let all = of(&key, &app, &said).unwrap();
        let digests: Vec<(&str, usize)> = all.iter().map(|(route, one)| (route.as_str(), one.digests.len())).collect();
        assert_eq!(digests, [("again", 1), ("main", 1), ("people", 2)]);
        let one = |name: &str| &all[&RouteName::new(name).unwrap()];
        assert_ne!(one("main").salt, one("again").salt);
        assert_ne!(one("main").digests, one("again").digests);
        assert_ne!(&of(&key, &app, &said).unwrap(), &all, "and others the next time");
    }

    #[test]
    fn what_is_wrong_names_the_word_to_be_said_and_no_value() {
        let ((key, plain), files) = (app(""), Files::new());
        let (token, people) = (files.with("token", "t0ken"), files.with("people", "canary"));
        let other = files.with("other", "x");
        let lost = SecretFile { file: files.0.path().join("canary"), ..token.clone() };
        let check = |app: &App, said: &[&SecretFile], expected: &[&str]| {
            let said: Vec<SecretFile> = said.iter().copied().cloned().collect();
            let fault = of(&key, app, &said).unwrap_err();
            let text = format!("{fault}|{}|{}", fault.causes.join("|"), fault.hint.as_deref().unwrap_or_default());
            assert!(expected.iter().all(|part| text.contains(part)) && !text.contains("canary"), "{text}");
        };
        let both = "--secret people=FILE --secret token=FILE";
        check(&plain, &[], &["2 secrets", "route.main.auth asks for token; the daemon keeps it", both]);
        check(&plain, &[&token], &["what secret people is", "route.people.auth", "--secret people=FILE"]);
        check(&plain, &[&other], &["no route asks for a secret other"]);
        check(&plain, &[&token, &token], &["said twice"]);
        check(&plain, &[&lost], &["--secret token", "No such file"]);
        check(&plain, &[&token, &people], &["no list of users", "line 1", "file of --secret people"]);
        check(&plain, &[&files.with("token", "\n")], &["--secret token cannot be read", "it is empty"]);
        let (_, elsewhere) = app("[secret.token]\nsource = \"vault:kv/shop\"\n");
        check(&elsewhere, &[&files.with("people", "a:b")], &["vault:kv/shop is not asked here", "--secret token=FILE"]);
    }

    #[test]
    fn a_source_that_is_a_file_is_read_unless_another_is_said() {
        let files = Files::new();
        let SecretFile { file, .. } = files.with("source", "t0ken\n");
        let (key, app) = app(&format!("[secret.token]\nsource = \"file:{}\"\n", file.display()));
        let people = files.with("people", "ann:one");
        of(&key, &app, std::slice::from_ref(&people)).unwrap();
        std::fs::remove_file(&file).unwrap();
        let fault = of(&key, &app, std::slice::from_ref(&people)).unwrap_err();
        assert_eq!(fault.message, "secret.token.source cannot be read");
        assert_eq!(fault.hint.as_deref(), Some("say another file: --secret token=FILE"));
        of(&key, &app, &[people, files.with("token", "t0ken")]).unwrap();
    }
}
