//! What a person reads when the file is wrong.

#![expect(clippy::unwrap_used, reason = "the helpers of tests, too, may fail them")]

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::EnvName;
use bowline_spec::{Defaults, Diagnostics, decode, parse};

fn errors(text: &str, env: &str) -> Diagnostics {
    let defaults = Defaults { folder_name: "app".to_owned(), ..Default::default() };
    parse(text, "bowline.toml", &EnvName::new(env).unwrap(), &defaults).expect_err(text)
}

/// As a terminal shows it, without the blanks at the ends of lines.
fn golden(text: &str, expected: &str) {
    let shown = errors(text, "local").render(false);
    let shown: Vec<&str> = shown.lines().map(str::trim_end).collect();
    assert_eq!(shown.join("\n"), expected.trim_matches('\n'), "\n{}", shown.join("\n"));
}

/// `LINE:COLUMN message`, for each error.
fn check(text: &str, expected: &[&str]) {
    let found: Vec<String> =
        errors(text, "local").iter().map(|e| format!("{}:{} {}", e.line, e.column, e.message)).collect();
    assert_eq!(found, expected, "{text}");
}

#[test]
fn an_unknown_key_names_the_nearest() {
    golden(
        "app = \"uploads\"\n\n[service.web]\ndrian = \"30s\"\n",
        r#"
error: unknown key `drian`
 --> bowline.toml:4:1
  |
4 | drian = "30s"
  | ^^^^^
  |
  = hint: did you mean `drain`?
"#,
    );
}

#[test]
fn an_unknown_key_of_another_table_names_that() {
    golden(
        "port = 3000\n[release]\nstrategy = \"canary\"\n",
        r#"
error: unknown key `port`
 --> bowline.toml:1:1
  |
1 | port = 3000
  | ^^^^
  |
  = hint: `port` stands in `[service.NAME]`

error: unknown key `strategy`
 --> bowline.toml:3:1
  |
3 | strategy = "canary"
  | ^^^^^^^^
  |
  = hint: `strategy` stands in `[rollout]`
"#,
    );
}

#[test]
fn a_limit_that_nothing_exceeds_says_so() {
    golden(
        "[rollout]\nabort = [\"p99 > 500ms\", \"error_rate > stable + 100%\"]\n",
        r#"
error: rollout.abort[1]: this limit is never exceeded
 --> bowline.toml:2:25
  |
2 | abort = ["p99 > 500ms", "error_rate > stable + 100%"]
  |                         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  |
  = hint: no more than all requests fail: write a share below 100%, as in "error_rate > stable + 0.5%"
"#,
    );
}

#[test]
fn two_places_are_both_shown() {
    golden(
        "[service.web]\nimage = \"a/b:1\"\nbuild = \"make\"\n",
        r#"
error: `build` and `image` cannot stand together: nothing is built here
 --> bowline.toml:3:1
  |
2 | image = "a/b:1"
  | ----- the other is here
3 | build = "make"
  | ^^^^^
"#,
    );
}

#[test]
fn a_syntax_error_has_its_place() {
    golden(
        "app = \"uploads\nservice = 3\n",
        r#"
error: invalid basic string, expected `"`
 --> bowline.toml:1:15
  |
1 | app = "uploads
  |               ^

error: `service` is an integer, not a table
 --> bowline.toml:2:11
  |
2 | service = 3
  |           ^
"#,
    );
}

#[test]
fn all_errors_come_at_once_in_the_order_of_their_lines() {
    check(
        "app = \"Uploads\"\nsevice = 1\n[service.web]\ndrain = 30\nscale = { min = 3, max = 2 }\nport = 0\n\
         [service.worker]\nbuild_of = \"wbe\"\n[job.x]\n",
        &[
            "1:7 app: a name starts with a letter from a to z, not with 'U'",
            "2:1 unknown key `sevice`",
            "4:9 `service.web.drain` is an integer, not a string",
            "5:17 `service.web.scale.min` is 3, more than `max`, 2",
            "6:8 `service.web.port` is an integer from 1 to 65535, not 0",
            "8:12 there is no service `wbe`",
            "9:6 `job.x` needs `run`",
        ],
    );
}

#[test]
fn a_check_over_grpc_is_for_what_speaks_it() {
    check(
        "[service.web]\nprotocol = \"h2\"\n",
        &["2:12 `service.web.protocol` is \"http/1.1\" or \"h2c\", not \"h2\""],
    );
    check(
        "[service.web]\nhealth = { grpc = \"shop.v1.Cart\" }\n",
        &["2:19 `service.web.health.grpc` asks over HTTP/2, and the service speaks HTTP/1.1"],
    );
    check(
        "[service.web]\nprotocol = \"h2c\"\nhealth = { grpc = \"shop/Cart\" }\n",
        &["3:19 service.web.health.grpc: '/' cannot stand in the name of a gRPC service"],
    );
}

#[test]
fn services_are_checked() {
    check("[service.web]\nhealth = \"/ready\"\n", &["2:10 `service.web.health` is \"tcp\" or a table, not \"/ready\""]);
    check(
        "[service.web]\ncage = \"requird\"\n",
        &["2:8 `service.web.cage` is \"best\" or \"required\", not \"requird\""],
    );
    check("[service.web]\nrun = [\"a\"]\n", &["2:7 `service.web.run` is a list, not a string"]);
    check(
        "[service.web]\nlimits = { memory = \"256MB\", cpu = -1 }\n",
        &[
            "2:21 service.web.limits.memory: sizes are counted in powers of 1024",
            "2:36 service.web.limits.cpu: this is not a number of cores",
        ],
    );
    check(
        "[service.web]\ndir = \"../x\"\nwritable = [\".\", \"/tmp\"]\n",
        &[
            "2:7 service.web.dir: a path cannot lead out of the app's folder",
            "3:13 service.web.writable[0]: this cannot be the app's folder itself",
            "3:18 service.web.writable[1]: this is a path inside the app's folder",
        ],
    );
    check(
        "[service.web]\nport = 3000\nscale = 2\n",
        &["3:9 `service.web.scale` asks for 2 copies of a service with a fixed `port`"],
    );
    check(
        "[service.web]\nport = 3000\nscale = { max = 4 }\n",
        &["3:17 `service.web.scale.max` asks for 4 copies of a service with a fixed `port`"],
    );
    check(
        "[service]\nweb = 3\nWeb = {}\n",
        &[
            "2:7 `service.web` is an integer, not a table",
            "3:1 service.Web: a name starts with a letter from a to z, not with 'W'",
        ],
    );
}

#[test]
fn variables_and_routes_are_checked() {
    check(
        "[env]\nPORT = \"1\"\n\"A-B\" = \"\"\nPI = 3.14\nX = {}\nY = { from = \"app.env\", secret = \"a\" }\n",
        &[
            "2:1 env.PORT: PORT is set by Bowline for every instance",
            "3:1 env.A-B: a variable's name is made of A to Z, a to z, 0 to 9 and '_', and does not start with a digit",
            "4:6 `env.PI` is a number with a fraction, not a string",
            "5:5 `env.X` is neither text nor a reference nor a secret",
            "6:25 `from` and `secret` cannot stand together: a value comes from one place",
        ],
    );
    check(
        "[route.main]\nto = \"web\"\nredirect = \"https://a.com\"\nallow = [\"10.0.0.1/8\", \"x\"]\n",
        &[
            "3:1 `redirect` and `to` cannot stand together: a route does one thing",
            "4:10 route.main.allow[0]: the address has bits outside of its network",
            "4:24 route.main.allow[1]: this is neither an address nor a network",
        ],
    );
    check(
        "[route.main]\nhosts = [\"a b\", \"a.com\", \"A.COM\"]\nauth = { header = \"X-A\" }\nallow = []\n",
        &[
            "2:10 route.main.hosts[0]: a host name is made of letters, digits, '-' and '.', not of ' '; write international names in their xn-- form",
            "2:26 a.com stands twice in `route.main.hosts`",
            "3:10 `header` means nothing without `secret`",
            "4:9 `route.main.allow` lets nobody in",
        ],
    );
}

#[test]
fn rollouts_and_resources_are_checked() {
    check(
        "[rollout]\nstrategy = \"rolling\"\nsteps = [\"5% for 1m\"]\n",
        &["3:1 `strategy` and `steps` cannot stand together: only a canary goes in steps"],
    );
    check(
        "[rollout]\nstrategy = \"canary\"\nsteps = [\"25% for 1m\", \"5% for 1m\"]\nabort = [\"p99 > 5%\"]\n",
        &[
            "3:24 a step of 5% after one of 25%: each carries more than the one before",
            "4:10 rollout.abort[0]: this is not a duration",
        ],
    );
    check(
        "[job.x]\nrun = \"a\"\nschedule = \"0 3 * *\"\n",
        &["3:12 job.x.schedule: a schedule has five fields, this one has 4"],
    );
    check(
        "[redis.a]\nurl = { secret = \"a\" }\npersist = true\n[postgres.a]\nca = { secret = \"a\" }\n",
        &[
            "3:1 `url` and `persist` cannot stand together: an external server has its own settings",
            "5:1 `ca` means nothing without `url`",
        ],
    );
    check(
        "[volume.a]\npath = \"/data\"\n[volume.b]\npath = \"/data\"\n[volume.c]\npath = \"/proc/x\"\n",
        &["4:8 `volume.b` and `volume.a` are both mounted at /data", "6:8 volume.c.path: /proc belongs to the system"],
    );
    check(
        "[volume.a]\npath = \"/data/a\"\n[volume.b]\npath = \"/data\"\n[volume.c]\npath = \"/data2\"\n",
        &["4:8 `volume.b` at /data and `volume.a` at /data/a are one inside the other"],
    );
    for path in
        ["/var/lib/bowline-local/logs", "/var", "/root/x", "/home", "/tmp/x", "/boot", "/lib64", "/opt/x", "/run"]
    {
        let top = format!("/{}", path.split('/').nth(1).unwrap());
        let text = format!("[volume.a]\npath = \"{path}\"\n");
        check(&text, &[&format!("2:8 volume.a.path: {top} belongs to the system")]);
    }
    check(
        "[environment.edge]\n[environment.beta]\napp = \"x\"\nserver = \"prod\"\n",
        &[
            "1:14 an environment cannot be called `edge`: Bowline keeps files of its own there",
            "3:1 unknown key `app`",
            "4:10 environment.beta.server: this is no place that an app runs at",
        ],
    );
    check("d = 1979-05-27\n", &["1:1 unknown key `d`"]);
}

#[test]
fn references_must_lead_somewhere() {
    check(
        "[env]\nA = { from = \"postgres.bd.url\" }\nB = { from = \"redis.c.url\" }\nC = { from = \"service.wbe.url\" }\n\
         [postgres.db]\n[service.web]\n[volume.v]\nservices = [\"web\", \"worker\"]\n[route.r]\nto = \"api\"\n\
         [release]\nbefore = \"x\"\nsnapshot = [\"data\"]\n",
        &[
            "2:14 there is no [postgres.bd]",
            "3:14 there is no [redis.c]",
            "4:14 there is no [service.wbe]",
            "8:20 there is no service `worker`",
            "10:6 there is no service `api`",
            "13:13 there is no database, volume or bucket `data`",
        ],
    );
    check(
        "[service.a]\nbuild_of = \"b\"\n[service.b]\nbuild_of = \"a\"\n[service.c]\nbuild_of = \"c\"\n",
        &[
            "2:12 `build_of` runs in a circle: a → b → a",
            "4:12 `build_of` runs in a circle: b → a → b",
            "6:12 `service.c` is a build of itself",
        ],
    );
    check(
        "[service.a]\n[service.b]\n[job.x]\nrun = \"a\"\n[route.r]\n",
        &["3:6 `job.x` does not say which service's build it runs in", "5:8 `route.r` leads nowhere"],
    );
    check(
        "[service.s]\nstatic = { dir = \"d\" }\nrun = \"x\"\n[service.t]\nbuild_of = \"s\"\n",
        &[
            "3:1 `static` and `run` cannot stand together: static files have no process",
            "5:12 `s` is static files: no process can run from its build",
        ],
    );
}

#[test]
fn https_is_not_asked_for_where_there_is_none() {
    check(
        "[route.main]\nto = \"web\"\ntls = \"off\"\nhttp = \"redirect\"\nhsts = { age = \"1h\" }\n",
        &[
            "4:1 `tls` and `http` cannot stand together: there is no HTTPS",
            "5:1 `tls` and `hsts` cannot stand together: there is no HTTPS",
        ],
    );
    check(
        "[route.main]\nto = \"web\"\nhsts = { age = \"1d\", subdomains = true, preload = true }\n",
        &["3:51 the lists of browsers take no host with less than a year and all its subdomains"],
    );
    check("[route.main]\nto = \"web\"\nhsts = {}\n", &["3:1 `route.main.hsts` needs `age`"]);
}

#[test]
fn two_routes_cannot_claim_one_host_and_path() {
    check(
        "[route.a]\nhosts = [\"x.com\"]\nto = \"web\"\n[route.b]\nhosts = [\"y.com\", \"X.com\"]\nto = \"web\"\n",
        &["5:19 `route.a` and `route.b` both claim x.com/"],
    );
}

#[test]
fn every_environment_is_checked() {
    let text = "[service.web]\nscale = { min = 1, max = 2 }\n[environment.beta]\nservice.web.scale.min = 3\n\
                [environment.production]\nservice.web.scale.max = 0\nroute.x.to = \"nowhere\"\n";
    check(
        text,
        &[
            "4:25 `service.web.scale.min` is 3, more than `max`, 2",
            "6:25 `service.web.scale.max` is an integer from 1 to 1000, not 0",
            "7:14 there is no service `nowhere`",
        ],
    );
    let found = errors("[environment.production]\n", "prodution");
    assert_eq!(found.iter().next().unwrap().hint.as_deref(), Some("did you mean `production`?"));
}

#[test]
fn an_error_of_one_environment_on_a_common_line_names_it() {
    check(
        "[service.a]\n[route.r]\nto = \"b\"\n[environment.beta]\nservice.b.run = \"x\"\n",
        &["3:6 there is no service `b` (in environment local)"],
    );
}

#[test]
fn after_a_syntax_error_only_what_it_cannot_have_caused_is_said() {
    check(
        "[service.web]\ndrian = \"1s\"\nrun = \n[route.main]\nto = \"api\"\nstrip = 3\n",
        &[
            "2:1 unknown key `drian`",
            "3:7 string values must be quoted, expected literal string",
            "6:9 `route.main.strip` is an integer, not true or false",
        ],
    );
    check("a = 1\na = 2\n", &["1:1 unknown key `a`", "2:1 duplicate key"]);
}

#[test]
fn whole_files_are_refused_with_their_reason() {
    let large = format!("#{}", "x".repeat(1 << 20));
    assert_eq!(errors(&large, "local").render(false), "error: the file is larger than 1024 KiB");
    let found = decode(b"app = \"a\"\n# \xff\n", "bowline.toml").unwrap_err();
    let at: Vec<_> = found.iter().map(|e| (e.line, e.column, e.message)).collect();
    assert_eq!(at, [(2, 3, "the file is not UTF-8".to_owned())]);
    let many: String = (0..40).map(|n| format!("[environment.e{n}]\n")).collect();
    check(&many, &["1:2 a file has at most 32 environments, this one has 40"]);
}

#[test]
fn a_fault_carries_the_lines() {
    let fault = Fault::from(errors("[service.web]\ndrian = 1\nscael = 2\n", "local"));
    assert_eq!((fault.kind, fault.message.as_str()), (FaultKind::Invalid, "bowline.toml has 2 errors"));
    assert!(fault.detail.unwrap().contains(" --> bowline.toml:3:1"));
}

#[test]
fn colour_is_only_where_asked_for() {
    let found = errors("x = 1\n", "local");
    assert!(found.render(true).contains('\u{1b}'));
    assert!(!found.render(false).contains('\u{1b}'));
}

#[test]
fn a_file_that_is_cut_within_a_character_is_too_large_rather_than_broken() {
    let bytes = "# ä".repeat(bowline_spec::MAX_FILE / 4 + 1).into_bytes();
    let error = decode(&bytes[..=bowline_spec::MAX_FILE], "bowline.toml").unwrap_err();
    assert!(error.render(false).contains("bowline.toml is larger than 1024 KiB"), "{}", error.render(false));
}

#[test]
fn a_value_that_no_program_can_be_started_with_is_refused() {
    let of = |length: usize| format!("[env]\nA = \"{}\"\n", "x".repeat(length));
    check(
        &of((127 << 10) + 1),
        &["2:5 env.A: a variable holds at most 127 KiB; put the value into a file of the app's folder"],
    );
    let defaults = Defaults { folder_name: "app".to_owned(), ..Default::default() };
    parse(&of(127 << 10), "bowline.toml", &EnvName::new("local").unwrap(), &defaults).unwrap();
}
