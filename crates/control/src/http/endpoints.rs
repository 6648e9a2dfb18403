//! Every route of the API with its rule and its handler: one table. What is not in it does not exist.

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::http::Method;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{self, MethodFilter, MethodRouter};
use bowline_core::access::Role;

use super::access::{
    ADMIN, ANYONE, AUDIT, DEPLOY, HERE, LOGS, NAMES, OPERATE, READ, Reach, Rule, SECRETS, STEER, as_owner, enforce,
};
use super::outside::{Doorkeeper, require_token};
use super::peer::require_owner;
use super::{Api, changes, data, releases, scrape, session, source, tokens};

/// A route.
pub(super) struct Endpoint {
    pub(super) rule: Rule,
    handler: MethodRouter<Api>,
}

/// `what`: method and path.
fn on<H: Handler<T, Api>, T: 'static>(
    what: &'static str,
    roles: &'static [Role],
    reach: Reach,
    handler: H,
) -> Endpoint {
    let (method, path) = what.split_once(' ').expect("a method and a path");
    let filter = Method::from_bytes(method.as_bytes()).ok().and_then(|method| MethodFilter::try_from(method).ok());
    let handler = routing::on(filter.expect("a method that is routed"), handler);
    Endpoint { rule: Rule { method, path, roles, reach, does: None }, handler }
}

impl Endpoint {
    /// It changes something: a token's use of it is recorded in these words.
    fn told(mut self, does: &'static str) -> Self {
        self.rule.does = Some(does);
        self
    }
}

pub(super) fn all() -> Vec<Endpoint> {
    use Reach::{All, App, Nothing};
    vec![
        on("GET /v1/version", ANYONE, Nothing, super::version),
        on("GET /v1/whoami", ANYONE, Nothing, tokens::who_am_i),
        on("GET /v1/openapi.json", ANYONE, Nothing, super::openapi),
        on("GET /v1/status", READ, Reach::Handler, super::status),
        on("GET /v1/metrics", READ, All, scrape::own),
        on("GET /v1/metrics/targets", READ, All, scrape::targets),
        on("GET /v1/metrics/edge", READ, All, scrape::edge),
        on("GET /v1/metrics/instances/{env}/{instance}", READ, All, scrape::instance),
        on("POST /v1/shutdown", HERE, All, super::shutdown),
        on("POST /v1/upgrade", HERE, All, super::upgrade),
        on("POST /v1/apps", DEPLOY, Reach::Handler, super::apply),
        on("POST /v1/plans", DEPLOY, Reach::Handler, super::plan),
        on("POST /v1/apps/{env}/{app}/stop", STEER, App, super::stop).told("stop"),
        on("GET /v1/apps/{env}/{app}/releases", READ, App, releases::list),
        on("POST /v1/apps/{env}/{app}/rollback", STEER, App, releases::roll_back).told("roll back"),
        on("POST /v1/apps/{env}/{app}/restart", STEER, App, releases::restart).told("restart"),
        on("POST /v1/apps/{env}/{app}/scale", STEER, App, releases::scale).told("scale"),
        on("POST /v1/apps/{env}/{app}/promote", STEER, App, releases::promote).told("promote what is under way of"),
        on("POST /v1/apps/{env}/{app}/abort", STEER, App, releases::abort).told("abort what is under way of"),
        on("PUT /v1/apps/{env}/{app}/maintenance", STEER, App, super::maintain).told("begin maintenance of"),
        on("DELETE /v1/apps/{env}/{app}/maintenance", STEER, App, super::end_maintenance).told("end maintenance of"),
        on("POST /v1/apps/{env}/{app}/jobs/{job}/run", OPERATE, App, super::run_job).told("run a job of"),
        on("POST /v1/apps/{env}/{app}/jobs/{job}/stop", OPERATE, App, super::stop_job).told("end a job of"),
        on("GET /v1/apps/{env}/{app}/runs/{number}", READ, App, super::run),
        on("POST /v1/apps/{env}/{app}/sessions", OPERATE, App, session::begin).told("run a command in"),
        on("GET /v1/changes/{id}", READ, Reach::Handler, changes::change),
        on("GET /v1/logs", LOGS, Reach::Handler, super::logs),
        on("GET /v1/events", READ, Reach::Handler, super::events),
        on("GET /v1/secrets/{env}/{app}", NAMES, App, super::secrets),
        on("PUT /v1/secrets/{env}/{app}/{name}", SECRETS, App, super::set_secret).told("set a secret of"),
        on("DELETE /v1/secrets/{env}/{app}/{name}", SECRETS, App, super::remove_secret).told("remove a secret of"),
        on("POST /v1/sources/{env}/{app}", DEPLOY, App, source::offer),
        on("POST /v1/sources/{env}/{app}/{source}", DEPLOY, App, source::place),
        on("PUT /v1/contents/{env}/{app}/{content}", DEPLOY, App, source::put),
        on("GET /v1/data", READ, Reach::Handler, data::list),
        on("DELETE /v1/data/{env}/{app}/{data}", OPERATE, App, data::remove).told("remove data of"),
        on("PUT /v1/data/{env}/{app}/{data}/content", HERE, App, data::fill),
        on("GET /v1/data/{env}/{app}/{data}/archive", OPERATE, App, data::may_fill),
        on("PUT /v1/data/{env}/{app}/{data}/archive", OPERATE, App, data::fill_with).told("fill a volume of"),
        on("POST /v1/data/{env}/{app}/{data}/leases", OPERATE, App, data::lend).told("get credentials for data of"),
        on("DELETE /v1/data/{env}/{app}/{data}/leases/{user}", OPERATE, App, data::give_back)
            .told("give back credentials for data of"),
        on("POST /v1/data/{env}/{app}/{data}/tunnel", OPERATE, App, data::tunnel).told("open a tunnel to data of"),
        on("GET /v1/tokens", AUDIT, All, tokens::list),
        on("POST /v1/tokens", ADMIN, All, tokens::create),
        on("DELETE /v1/tokens/{token}", ADMIN, All, tokens::revoke),
    ]
}

/// Each handler behind its rule.
fn routes(api: &Api) -> Router<Api> {
    let add = |router: Router<Api>, Endpoint { rule, handler }: Endpoint| {
        router.route(rule.path, handler.route_layer(from_fn_with_state((api.clone(), rule), enforce)))
    };
    let routes = all().into_iter().fold(Router::new(), add);
    routes.fallback(super::not_found).method_not_allowed_fallback(super::not_found)
}

/// Of the Unix socket of the daemon's own user.
pub(crate) fn router(api: Api) -> Router {
    let owner = api.owner;
    routes(&api)
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn(as_owner))
        .layer(from_fn_with_state(owner, require_owner))
        .with_state(api)
}

/// Of the socket behind the edge.
pub(crate) fn router_outside(api: Api, door: Doorkeeper) -> Router {
    routes(&api).layer(DefaultBodyLimit::disable()).layer(from_fn_with_state(door, require_token)).with_state(api)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bowline_core::access::Scope;
    use bowline_core::id::{AppKey, AppName, EnvName};

    use super::super::access::{Missing, permit};
    use super::*;

    /// Who may do what, from elsewhere, written down a second time: a route that is new, or a rule that is another, is decided here,
    /// too.
    const EXPECTED: &[(&str, &str)] = &[
        ("DELETE /v1/apps/{env}/{app}/maintenance", "deployer operator admin"),
        ("DELETE /v1/data/{env}/{app}/{data}", "operator admin"),
        ("DELETE /v1/data/{env}/{app}/{data}/leases/{user}", "operator admin"),
        ("DELETE /v1/secrets/{env}/{app}/{name}", "secret-writer admin"),
        ("DELETE /v1/tokens/{token}", "admin"),
        ("GET /v1/apps/{env}/{app}/releases", "viewer deployer operator auditor admin"),
        ("GET /v1/apps/{env}/{app}/runs/{number}", "viewer deployer operator auditor admin"),
        ("GET /v1/changes/{id}", "viewer deployer operator auditor admin"),
        ("GET /v1/data", "viewer deployer operator auditor admin"),
        ("GET /v1/data/{env}/{app}/{data}/archive", "operator admin"),
        ("GET /v1/events", "viewer deployer operator auditor admin"),
        ("GET /v1/logs", "viewer deployer operator admin"),
        ("GET /v1/metrics", "viewer deployer operator auditor admin"),
        ("GET /v1/metrics/edge", "viewer deployer operator auditor admin"),
        ("GET /v1/metrics/instances/{env}/{instance}", "viewer deployer operator auditor admin"),
        ("GET /v1/metrics/targets", "viewer deployer operator auditor admin"),
        ("GET /v1/openapi.json", "viewer deployer secret-writer operator auditor admin"),
        ("GET /v1/secrets/{env}/{app}", "viewer deployer secret-writer operator auditor admin"),
        ("GET /v1/status", "viewer deployer operator auditor admin"),
        ("GET /v1/tokens", "auditor admin"),
        ("GET /v1/version", "viewer deployer secret-writer operator auditor admin"),
        ("GET /v1/whoami", "viewer deployer secret-writer operator auditor admin"),
        ("POST /v1/apps", "deployer admin"),
        ("POST /v1/apps/{env}/{app}/abort", "deployer operator admin"),
        ("POST /v1/apps/{env}/{app}/jobs/{job}/run", "operator admin"),
        ("POST /v1/apps/{env}/{app}/jobs/{job}/stop", "operator admin"),
        ("POST /v1/apps/{env}/{app}/promote", "deployer operator admin"),
        ("POST /v1/apps/{env}/{app}/restart", "deployer operator admin"),
        ("POST /v1/apps/{env}/{app}/rollback", "deployer operator admin"),
        ("POST /v1/apps/{env}/{app}/scale", "deployer operator admin"),
        ("POST /v1/apps/{env}/{app}/sessions", "operator admin"),
        ("POST /v1/apps/{env}/{app}/stop", "deployer operator admin"),
        ("POST /v1/data/{env}/{app}/{data}/leases", "operator admin"),
        ("POST /v1/data/{env}/{app}/{data}/tunnel", "operator admin"),
        ("POST /v1/plans", "deployer admin"),
        ("POST /v1/shutdown", ""),
        ("POST /v1/sources/{env}/{app}", "deployer admin"),
        ("POST /v1/sources/{env}/{app}/{source}", "deployer admin"),
        ("POST /v1/tokens", "admin"),
        ("POST /v1/upgrade", ""),
        ("PUT /v1/apps/{env}/{app}/maintenance", "deployer operator admin"),
        ("PUT /v1/contents/{env}/{app}/{content}", "deployer admin"),
        ("PUT /v1/data/{env}/{app}/{data}/archive", "operator admin"),
        ("PUT /v1/data/{env}/{app}/{data}/content", ""),
        ("PUT /v1/secrets/{env}/{app}/{name}", "secret-writer admin"),
    ];

    fn key(env: &str, app: &str) -> AppKey {
        AppKey { env: EnvName::new(env).unwrap(), app: AppName::new(app).unwrap() }
    }

    #[test]
    fn every_route_lets_in_the_roles_that_are_written_down_and_no_other() {
        let whole = Scope::default();
        let mut found = BTreeMap::new();
        for Endpoint { rule, .. } in all() {
            let may = |role: &Role| permit(&rule, *role, &whole, Some(&key("beta", "shop"))).is_ok();
            let roles: Vec<&str> = Role::ALL.iter().filter(|role| may(role)).map(|role| role.as_str()).collect();
            let before = found.insert(format!("{} {}", rule.method, rule.path), roles.join(" "));
            assert_eq!(before, None, "{} {} is there twice", rule.method, rule.path);
        }
        let expected = EXPECTED.iter().map(|(route, roles)| ((*route).to_owned(), (*roles).to_owned())).collect();
        assert_eq!(found, expected);
    }

    const HEAD: &str = "# Who may do what over HTTPS

<!-- Generated from crates/control/src/http/endpoints.rs by `make reference`. -->

On a server whose `server.toml` has `api = { host = \"bowline.example.com\" }`, the edge leads that host to the daemon's API: over TLS only,
and for whoever has a token. Whoever reaches the daemon's Unix socket, on the machine or by `ssh://`, is its owner and needs none.

```console
$ bowline token create ci --role deployer --app shop --env production    # on the server, or --to ssh://USER@HOST
$ bowline login https://bowline.example.com                              # elsewhere; or BOWLINE_TOKEN=…
$ bowline deploy --env production --to https://bowline.example.com       # or `server` of the environment
```

A token has one role, and is for all apps or for those that it names, in all environments or in those that it names. It is shown once; the
daemon keeps its SHA-256. Of apps that are not its own it sees nothing, but the name of one whose host it
asks for. A host that an app has, running or stopped, goes to another app, whole or in part, only by a token that is for both, or on the
machine. Whatever changes something is an event, `token.used`, before it is done; what is done again within a minute is counted there (`times`).
With one token 60 changes are taken at once and then 5 a second, and 8 logs are read at once; more are answered 429 with `Retry-After`.
What nobody may from elsewhere names files of the machine, or ends the daemon. With a token, only folders that were sent are applied, and no
`[secret.NAME] source = \"file:…\"` of the server is read.

";

    fn reference() -> String {
        let mut page = HEAD.to_owned();
        let cells = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
        page.push_str(&cells(["route"].into_iter().chain(Role::ALL.map(Role::as_str)).map(str::to_owned).collect()));
        page.push_str(&"|---".repeat(1 + Role::ALL.len()));
        page.push_str("|\n");
        for Endpoint { rule, .. } in all() {
            let route = format!("`{} {}`", rule.method, rule.path);
            let may = Role::ALL.map(|role| if rule.roles.contains(&role) { "yes" } else { "" }.to_owned());
            page.push_str(&cells([route].into_iter().chain(may).collect()));
        }
        page
    }

    #[test]
    fn the_reference_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/access.md");
        let page = reference();
        if std::env::var_os("BOWLINE_RENEW").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(page == written, "docs/reference/access.md: not current; `make reference` writes it anew");
    }

    #[test]
    fn a_route_of_an_app_is_within_the_scope_and_one_of_all_wants_no_scope() {
        let shop = Scope { apps: [AppName::new("shop").unwrap()].into(), ..Scope::default() };
        for Endpoint { rule, .. } in all() {
            for role in Role::ALL.into_iter().filter(|role| rule.roles.contains(role)) {
                let permit = |key: &AppKey| permit(&rule, role, &shop, Some(key));
                let of_app = rule.path.contains("{app}");
                assert_eq!(of_app, rule.reach == Reach::App, "{}: an app in the path is looked at", rule.path);
                match rule.reach {
                    Reach::App => {
                        assert_eq!(permit(&key("beta", "shop")), Ok(()), "{}", rule.path);
                        assert!(matches!(permit(&key("beta", "board")), Err(Missing::Scope(_))), "{}", rule.path);
                    }
                    Reach::All => assert!(matches!(permit(&key("beta", "shop")), Err(Missing::Scope(_)))),
                    Reach::Nothing | Reach::Handler => assert_eq!(permit(&key("beta", "board")), Ok(())),
                }
            }
        }
    }

    #[test]
    fn whatever_changes_an_app_is_told() {
        for Endpoint { rule, .. } in all().into_iter().filter(|one| !one.rule.roles.is_empty()) {
            // Plans, and bodies of what is to come, change nothing; an apply and tokens tell by themselves, with what is in the body.
            let silent = rule.method == "GET"
                || ["/v1/sources/", "/v1/contents/", "/v1/tokens"].iter().any(|path| rule.path.starts_with(path))
                || ["/v1/apps", "/v1/plans"].contains(&rule.path);
            assert_eq!(rule.does.is_none(), silent, "{} {}", rule.method, rule.path);
        }
    }

    #[test]
    fn the_document_of_the_api_has_every_route_and_no_other() {
        let rules = all().into_iter().map(|one| format!("{} {}", one.rule.method, one.rule.path));
        let mut rules: Vec<String> = rules.collect();
        let document = bowline_api::openapi::document("1");
        let paths = document["paths"].as_object().unwrap();
        let of_path = |(path, item): (&String, &serde_json::Value)| {
            let methods = item.as_object().unwrap().keys().map(|method| method.to_uppercase());
            methods.map(|method| format!("{method} {path}")).collect::<Vec<_>>()
        };
        let mut documented: Vec<String> = paths.iter().flat_map(of_path).collect();
        rules.sort();
        documented.sort();
        assert_eq!(documented, rules);
    }
}
