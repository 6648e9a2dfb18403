//! Two files are compared key by key: nothing that differs is passed over.

#![expect(clippy::unwrap_used, reason = "the helpers of tests, too, may fail them")]

mod generated;

use bowline_core::app::App;
use bowline_core::id::EnvName;
use bowline_core::release::plan::differences;
use bowline_spec::{Defaults, parse, settings};
use proptest::prelude::*;

/// `app` with one part of another.
fn mixed(app: &App, other: App, part: usize) -> App {
    let app = app.clone();
    match part {
        0 => App { services: other.services, ..app },
        1 => App { jobs: other.jobs, ..app },
        2 => App { env: other.env, ..app },
        3 => App { secrets: other.secrets, ..app },
        4 => App { databases: other.databases, ..app },
        5 => App { redis: other.redis, ..app },
        6 => App { volumes: other.volumes, ..app },
        7 => App { buckets: other.buckets, ..app },
        8 => App { routes: other.routes, ..app },
        9 => App { release: other.release, ..app },
        10 => App { rollout: other.rollout, ..app },
        11 => App { slo: other.slo, ..app },
        12 => App { image: other.image, ..app },
        13 => App { logs: other.logs, ..app },
        _ => App { environment: other.environment, ..app },
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn apps_that_differ_have_differences(one in generated::app(), other in generated::app(), part in 0_usize..15) {
        let changed = mixed(&one, other, part);
        let found = differences(Some(&settings(&one)), &settings(&changed));
        prop_assert_eq!(found.is_empty(), one == changed, "{:?}", found);
        let back = differences(Some(&settings(&changed)), &settings(&one));
        let swapped: Vec<_> = found.iter().map(|one| (&one.path, &one.to, &one.from)).collect();
        prop_assert_eq!(back.iter().map(|one| (&one.path, &one.from, &one.to)).collect::<Vec<_>>(), swapped);
    }
}

fn read(text: &str) -> App {
    parse(text, "bowline.toml", &EnvName::new("beta").unwrap(), &Defaults::default()).unwrap().app
}

#[test]
fn keys_are_those_of_the_file() {
    let check = |old: &str, new: &str, expected: &[&str]| {
        let found = differences(Some(&settings(&read(old))), &settings(&read(new)));
        let lines: Vec<String> = found
            .iter()
            .map(|one| {
                let text = |shown: &Option<_>| shown.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
                let (from, to): (String, String) = (text(&one.from), text(&one.to));
                format!("{}: {from} → {to}", one.path)
            })
            .collect();
        assert_eq!(lines, expected, "{old:?} → {new:?}");
    };
    let web = "app = \"shop\"\n[service.web]\nrun = \"serve\"\n";
    let with = |more: &str| format!("{web}{more}");
    check(web, &with("scale = 2\n"), &["service.web.scale: 1 → 2"]);
    check(web, &with("health = { path = \"/ready\" }\n"), &["service.web.health.path: - → /ready"]);
    check(
        web,
        &with("limits = { memory = \"1GiB\", cpu = 1.5 }\n"),
        &["service.web.limits.cpu: - → 1.5", "service.web.limits.memory: - → 1GiB"],
    );
    check(web, &with("[volume.files]\n"), &["volume.files: - → "]);
    check(&with("[volume.files]\n"), &with("[volume.files]\nsize = \"1GiB\"\n"), &["volume.files.size: - → 1GiB"]);
    let hosts = "[route.main]\nto = \"web\"\nhosts = [\"a.example.com\", \"b.example.com\"]\n";
    let fewer = "[route.main]\nto = \"web\"\nhosts = [\"a.example.com\"]\n";
    check(&with(hosts), &with(fewer), &["route.main.hosts: a.example.com, b.example.com → a.example.com"]);
    check(
        &with("[env]\nA = \"1\"\n"),
        &with("[env]\nB = { secret = \"b\" }\n"),
        &["env.A: 1 → -", "env.B: - → secret = b"],
    );
}
