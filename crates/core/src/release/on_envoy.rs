//! What no Envoy carries as edge: each is refused by its key, and done by Bowline's own edge.

use super::unsupported::{Unsupported, unsupported};
use crate::app::{App, Origin};
use crate::route::{EdgeEngine, routed};

const FILES: &str =
    "Envoy serves no files: the server's own edge does (`edge = \"bowline\"`), or let the app serve them";
const RESTS: &str = "Envoy holds no request until an instance has started: say at least 1, or have the server's own edge (`edge = \"bowline\"`)";

/// All that a server with this edge cannot carry out, by path. See [`unsupported`].
pub fn unsupported_by(edge: EdgeEngine, app: &App) -> Vec<Unsupported> {
    let mut all = unsupported(app);
    match edge {
        EdgeEngine::Bowline => {}
        EdgeEngine::Envoy => all.extend(by_envoy(app)),
    }
    all.sort();
    all
}

fn by_envoy(app: &App) -> Vec<Unsupported> {
    let routed = routed(app);
    let led_to = app.services.iter().filter(|(name, _)| routed.contains(*name));
    let services = led_to.flat_map(|(name, service)| {
        let files = matches!(service.origin, Origin::Static { .. }).then(|| (format!("service.{name}.static"), FILES));
        let rests = (service.scale.is_automatic() && service.scale.min == 0)
            .then(|| (format!("service.{name}.scale.min"), RESTS));
        [files, rests].into_iter().flatten()
    });
    services.map(|(path, why)| Unsupported { path, why }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::{
        Access, HostName, Limit, PathPrefix, Route, RouteTo, Scale, StaticFiles, Tls, Transfer, Upload, sample,
    };
    use crate::id::{RouteName, ServiceName};

    fn check(change: impl FnOnce(&mut App), expected: &[&str]) {
        let mut app = sample::app("shop", &["web"]);
        let web = ServiceName::new("web").unwrap();
        let route = Route {
            hosts: vec![HostName::new("shop.example.com").unwrap()],
            path: PathPrefix::root(),
            strip: false,
            to: RouteTo::Service(web),
            tls: Tls::Auto,
            access: Access::default(),
            limit: Limit::default(),
            upload: None,
            transfer: Transfer::default(),
        };
        app.routes.insert(RouteName::new("main").unwrap(), route);
        change(&mut app);
        let paths = |edge| unsupported_by(edge, &app).into_iter().map(|one| one.path).collect::<Vec<_>>();
        assert_eq!(paths(EdgeEngine::Envoy), expected);
        assert_eq!(paths(EdgeEngine::Bowline), [""; 0], "the embedded edge does all of it");
    }

    #[test]
    fn what_only_the_embedded_edge_does_is_named() {
        check(|_| {}, &[]);
        check(
            |app| {
                let web = app.services.values_mut().next().unwrap();
                web.scale = Scale { min: 0, max: 3, cpu: None, in_flight: None };
                let upload = Upload { extensions: vec!["png".into()] };
                app.routes.values_mut().next().unwrap().upload = Some(upload);
            },
            &["service.web.scale.min"],
        );
        check(
            |app| {
                let files = StaticFiles { dir: ".".into(), fallback: None, cache: StaticFiles::CACHE };
                let origin = Origin::Static { dir: ".".into(), build: None, files };
                app.services.values_mut().next().unwrap().origin = origin;
            },
            &["service.web.static"],
        );
    }
}
