//! `[route.NAME]`.

use std::collections::BTreeMap;

use bowline_core::app::{
    Access, Auth, BodyLimit, HostName, Hsts, Limit, Origin, PathPrefix, PlainHttp, RateBy, Route, RouteTo, Service,
    Tls, Transfer, Upload,
};
use bowline_core::id::{RouteName, ServiceName};

use super::{Reader, Section, ShortOr};
use crate::diagnostic::Diagnostic;
use crate::literal;

/// The service that a route leads to when it does not say.
pub(crate) const WEB: &str = "web";

impl Reader {
    pub(super) fn route(&mut self, s: &Section<'_>, services: &BTreeMap<ServiceName, Service>) -> Option<Route> {
        let hosts = self.list(s, "hosts", literal::host).unwrap_or_default();
        let path = self.parsed(s, "path", literal::prefix).unwrap_or_else(PathPrefix::root);
        let strip = self.boolean(s, "strip").unwrap_or(false);
        let tls = match self.word(s, "tls") {
            Some(1) => Tls::Acme,
            Some(2) => Tls::Local,
            Some(3) => Tls::Off,
            Some(_) | None => Tls::Auto,
        };
        let allow = self.list(s, "allow", literal::cidr).unwrap_or_default();
        self.check_allow(s, allow.is_empty());
        let auth = self.section(s, "auth").and_then(|auth| self.auth(&auth));
        let limit = self.section(s, "limit").map(|limit| self.limit(&limit)).unwrap_or_default();
        let upload = match self.word_or_table(s, "upload") {
            Some(ShortOr::Table(upload)) => self.upload(&upload),
            // "off": the app judges for itself.
            Some(ShortOr::Short(())) | None => None,
        };
        let transfer = self.transfer(s);
        let to = self.route_to(s, services)?;
        Some(Route { hosts, path, strip, to, tls, access: Access { allow, auth }, limit, upload, transfer })
    }

    fn transfer(&mut self, s: &Section<'_>) -> Transfer {
        let http = self.word(s, "http").map(|at| if at == 0 { PlainHttp::Serve } else { PlainHttp::Redirect });
        let hsts = self.section(s, "hsts").and_then(|hsts| self.hsts(&hsts));
        Transfer { http, hsts, compress: self.boolean(s, "compress").unwrap_or(false) }
    }

    fn hsts(&mut self, s: &Section<'_>) -> Option<Hsts> {
        let subdomains = self.boolean(s, "subdomains").unwrap_or(false);
        let preload = self.boolean(s, "preload").unwrap_or(false);
        let age = self.parsed(s, "age", literal::duration)?;
        if preload && !(subdomains && age >= Hsts::PRELOAD_AGE) {
            let path = s.path("preload");
            let message = "the lists of browsers take no host with less than a year and all its subdomains";
            let hint = "write age = \"1y\" and subdomains = true, or take `preload` out";
            let problem = Diagnostic::new(path.clone(), self.value_at(&path), message);
            self.push(problem.hint(Some(hint.to_owned())));
        }
        Some(Hsts { age, subdomains, preload })
    }

    /// An empty list reads as "nobody" and would mean "everyone".
    fn check_allow(&mut self, s: &Section<'_>, empty: bool) {
        let path = s.path("allow");
        if empty && s.has("allow") && self.list_is_empty(s, "allow") {
            let hint = "remove it to let everyone in, or write deny = true";
            let problem = Diagnostic::new(path.clone(), self.value_at(&path), format!("`{path}` lets nobody in"));
            self.push(problem.hint(Some(hint.to_owned())));
        }
    }

    fn route_to(&mut self, s: &Section<'_>, services: &BTreeMap<ServiceName, Service>) -> Option<RouteTo> {
        let redirect = self.parsed(s, "redirect", literal::url);
        let deny = self.boolean(s, "deny");
        let to = self.parsed(s, "to", literal::name);
        if deny == Some(false) {
            let at = self.value_at(&s.path("deny"));
            let problem = Diagnostic::new(s.path("deny"), at, "`deny = false` says nothing");
            self.push(problem.hint(Some("remove it".to_owned())));
        }
        match (redirect, deny, to) {
            (Some(url), _, _) => return Some(RouteTo::Redirect(url)),
            (None, Some(_), _) => return Some(RouteTo::Deny),
            (None, None, Some(service)) => return Some(RouteTo::Service(service)),
            // What was written is wrong, and was said.
            (None, None, None) if s.has("redirect") || s.has("deny") || s.has("to") => return None,
            (None, None, None) => {}
        }
        let found = services.get_key_value(WEB).or_else(|| services.iter().next().filter(|_| services.len() == 1));
        if found.is_none() {
            let names: Vec<&str> = services.keys().map(ServiceName::as_str).collect();
            let hint = format!("add to = {}, redirect = … or deny = true", crate::grammar::quoted(&names));
            let message = format!("`{}` leads nowhere", s.path);
            self.push(Diagnostic::new(s.path.clone(), s.at.clone(), message).hint(Some(hint)).missing());
        }
        found.map(|(name, _)| RouteTo::Service(name.clone()))
    }

    fn auth(&mut self, s: &Section<'_>) -> Option<Auth> {
        let header = self.parsed(s, "header", literal::header);
        let secret = self.parsed(s, "secret", literal::name);
        let bearer = self.secret(s, "bearer").map(|secret| Auth::Bearer { secret });
        let basic = self.secret(s, "basic").map(|secret| Auth::Basic { secret });
        if ["header", "secret", "bearer", "basic"].iter().all(|key| !s.has(key)) {
            let hint = "write { header = \"X-Auth-Token\", secret = … }, { bearer = { secret = … } } or { basic = … }";
            let problem =
                Diagnostic::new(s.path.clone(), self.value_at(&s.path), format!("`{}` asks for nothing", s.path));
            self.push(problem.hint(Some(hint.to_owned())));
        }
        let header = header.zip(secret).map(|(name, secret)| Auth::Header { name, secret });
        header.or(bearer).or(basic)
    }

    fn limit(&mut self, s: &Section<'_>) -> Limit {
        let default = Limit::default();
        Limit {
            rate: self.parsed(s, "rate", literal::rate),
            by: match self.word(s, "by") {
                Some(1) => RateBy::Route,
                Some(_) | None => RateBy::Client,
            },
            body: self.parsed(s, "body", literal::size).map_or(default.body, BodyLimit),
            timeout: self.parsed(s, "timeout", literal::positive).unwrap_or(default.timeout),
            idle: self.parsed(s, "idle", literal::positive).unwrap_or(default.idle),
        }
    }

    fn upload(&mut self, s: &Section<'_>) -> Option<Upload> {
        let extensions = self.list(s, "extensions", literal::extension)?;
        if self.list_is_empty(s, "extensions") {
            let path = s.path("extensions");
            self.push(Diagnostic::new(path.clone(), self.value_at(&path), format!("`{path}` lets no file in")));
        }
        Some(Upload { extensions })
    }

    /// Two routes of this app that claim one host and path.
    pub(super) fn check_claims(&mut self, routes: &BTreeMap<RouteName, Route>) {
        let mut claims: BTreeMap<(&HostName, &PathPrefix), &RouteName> = BTreeMap::new();
        for (name, route) in routes {
            for (index, host) in route.hosts.iter().enumerate() {
                let Some(first) = claims.insert((host, &route.path), name).filter(|first| *first != name) else {
                    continue;
                };
                let at = format!("route.{name}.hosts[{index}]");
                let other = self.value_at(&format!("route.{first}.hosts"));
                let message = format!("`route.{first}` and `route.{name}` both claim {host}{}", route.path);
                self.push(Diagnostic::new(at.clone(), self.value_at(&at), message).related(other, "claimed here"));
            }
        }
    }

    /// A route to a service that answers no requests.
    pub(super) fn check_routed(
        &mut self,
        routes: &BTreeMap<RouteName, Route>,
        services: &BTreeMap<ServiceName, Service>,
    ) {
        for (name, route) in routes {
            let RouteTo::Service(service) = &route.to else { continue };
            let files = services.get(service.as_str()).is_some_and(|s| matches!(s.origin, Origin::Static { .. }));
            if files && route.upload.is_some() {
                let at = format!("route.{name}.upload");
                let message = format!("`{service}` is static files: nothing can be uploaded to it");
                let problem = Diagnostic::new(at.clone(), self.value_at(&at), message);
                let other = self.value_at(&format!("service.{service}.static"));
                self.push(problem.related(other, "served from here"));
            }
        }
    }
}
