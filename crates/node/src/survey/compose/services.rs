//! Services with code in the folder.

use std::time::Duration;

use bowline_core::app::{
    Health, HostName, HttpCheck, Limits, Origin, PathPrefix, Probe, Protocol, RouteTo, Service, Volume,
};
use bowline_core::id::{Port, RouteName, ServiceName};
use bowline_core::units::{Bytes, MilliCpu};

use super::yaml::{Data, Node};
use super::{Translation, unique};
use crate::survey::dockerfile::{Dockerfile, shell_word};
use crate::survey::draft::{command, is_writable, resource_name};

/// Proxies: Bowline's edge takes their place.
const PROXIES: [&str; 6] = ["nginx", "traefik", "caddy", "haproxy", "envoy", "httpd"];

/// Keys that say how containers live together, or that Bowline does by itself.
const NEEDLESS: [&str; 15] = [
    "depends_on",
    "restart",
    "container_name",
    "networks",
    "expose",
    "logging",
    "init",
    "tty",
    "stdin_open",
    "platform",
    "pull_policy",
    "security_opt",
    "cap_drop",
    "annotations",
    "attach",
];

/// Keys that an app may rely on, and what is so here instead.
const OTHERWISE: [(&str, &str); 6] = [
    ("hostname", "instances have the machine's name"),
    ("links", "services are reached by their URL: { from = \"service.NAME.url\" }"),
    (
        "read_only",
        "the release is read-only but for an overlay that dies with it; `writable` names what must be written",
    ),
    ("stop_signal", "instances are asked to end with TERM: let the app answer to it, or say `run` with what does"),
    ("tmpfs", "each instance has its own /tmp and /dev/shm; elsewhere use a volume"),
    ("user", "each app has a user of its own"),
];

impl Translation<'_> {
    /// Takes a service that is built from the folder; names one that is not.
    pub(super) fn service(&mut self, given: &str, node: &Node) {
        if self.resources.contains_key(given) {
            return;
        }
        let what = format!("services.{given}");
        let Some(build) = node.get("build") else { return self.foreign_image(&what, node) };
        let context = build.text().map(str::to_owned).or_else(|| build.get("context")?.text().map(str::to_owned));
        let dir = context.as_deref().unwrap_or(".").trim_start_matches("./").trim_end_matches('/').to_owned();
        let dir = if dir.is_empty() { ".".to_owned() } else { dir };
        let is_inside = dir == "." || self.input.survey.files.iter().any(|file| file.starts_with(&format!("{dir}/")));
        if !is_inside || dir.starts_with(['/', '$']) || dir.split('/').any(|part| part == "..") {
            return self.leave(build, format!("{what}.build: {dir}"), "there is no such folder below this one");
        }
        let name = unique(given, &self.draft.app.services);
        let dockerfile = self.dockerfile(&dir, build);
        let mut service = empty(dir.clone());
        let port = self.port_of(node, dockerfile.as_ref());
        self.run(&mut service, &name, node, dockerfile.as_ref(), port, &what);
        let same = Origin::Folder { dir, build: None };
        if let Some((other, _)) = self.draft.app.services.iter().find(|(_, service)| service.origin == same)
            && service.run.is_some()
        {
            service.origin = Origin::BuildOf(other.clone());
        }
        self.draft.app.services.insert(name.clone(), service);
        self.services.insert(given.to_owned(), (name.clone(), port));
        self.route(&name, node);
        self.keys(&name, node, &what);
        self.build_keys(build, &what);
    }

    fn foreign_image(&mut self, what: &str, node: &Node) {
        let image = node.get("image").and_then(Node::text).unwrap_or("").to_owned();
        let name = image.rsplit('/').next().unwrap_or("").split([':', '@']).next().unwrap_or("");
        let todo = match name {
            name if PROXIES.contains(&name) => "Bowline's edge is the proxy: say hosts, paths and headers as [route.…]",
            "mailhog" | "mailpit" | "adminer" | "pgadmin4" | "phpmyadmin" => "a tool for development: run it by hand",
            _ => "no container runs here: run it elsewhere, and give its URL as a secret",
        };
        self.leave(node, format!("{what}: image {image}"), todo);
    }

    fn dockerfile(&self, dir: &str, build: &Node) -> Option<Dockerfile> {
        let file = build.get("dockerfile").and_then(Node::text).unwrap_or("Dockerfile").trim_start_matches("./");
        let path = if dir == "." { file.to_owned() } else { format!("{dir}/{file}") };
        self.input.survey.dockerfile(&path)
    }

    fn port_of(&self, node: &Node, dockerfile: Option<&Dockerfile>) -> Option<u16> {
        let published = node.get("ports").map(Node::items).unwrap_or_default().iter().find_map(target_port);
        published.or_else(|| dockerfile?.expose.first().copied())
    }

    /// The command: the file's, else the Dockerfile's where the folder alone does not say what it is.
    fn run(
        &mut self,
        service: &mut Service,
        name: &ServiceName,
        node: &Node,
        dockerfile: Option<&Dockerfile>,
        port: Option<u16>,
        what: &str,
    ) {
        let Origin::Folder { dir, .. } = &service.origin else { return };
        let is_detected = self.input.survey.started(dir).is_some();
        let words = ["entrypoint", "command"].iter().filter_map(|key| Some((node.get(key)?, *key)));
        let said: Vec<String> = words.filter_map(|(node, key)| self.words(node, &format!("{what}.{key}"))).collect();
        let from_dockerfile = dockerfile.and_then(|d| d.command.clone()).filter(|_| said.is_empty() && !is_detected);
        let Some(run) = (!said.is_empty()).then(|| said.join(" ")).or(from_dockerfile) else { return };
        if !is_writable(&run) {
            return self.leave(node, format!("{what}.command"), "it holds control characters: put it into a script");
        }
        let portable = port.map_or(run.clone(), |port| with_port(&run, port));
        let listens = portable != run || portable.contains("PORT");
        let reads = self.input.survey.below(dir).any(|s| s.seen == bowline_core::readiness::Seen::ReadsPort);
        if let (Some(port), false) = (port, listens || reads) {
            service.fixed_port = Port::new(port);
            self.draft.comment(
                format!("service.{name}.port"),
                "From the compose file. An app that listens on $PORT can have two copies.",
            );
        }
        if portable.contains("/app/") || portable.contains("/usr/src") {
            let todo = "it names a path of a container: the command runs in the service's own folder";
            self.leave(node, format!("{what}.command"), todo);
        }
        service.run = Some(command(portable));
    }

    /// A command as a shell reads it.
    fn words(&mut self, node: &Node, what: &str) -> Option<String> {
        match &node.data {
            Data::Text(_) => self.text(node, what),
            Data::List(items) => {
                let words: Vec<String> = items.clone().iter().filter_map(|item| self.text(item, what)).collect();
                Some(words.iter().map(|word| shell_word(word)).collect::<Vec<_>>().join(" "))
            }
            Data::Null | Data::Map(_) => None,
        }
        .filter(|text| !text.trim().is_empty())
    }

    /// The first service that publishes a port gets the app's own host; each other a host of its own.
    fn route(&mut self, name: &ServiceName, node: &Node) {
        let published = node.get("ports").map(Node::items).unwrap_or_default();
        let (Some(route), true) = (self.route.clone(), published.iter().any(|p| target_port(p).is_some())) else {
            return;
        };
        let mut route =
            bowline_core::app::Route { to: RouteTo::Service(name.clone()), path: PathPrefix::root(), ..route };
        let label = match self.draft.app.routes.is_empty() {
            true => "main".to_owned(),
            false => name.to_string(),
        };
        if label != "main" {
            let host = format!("{name}.{}.localhost", self.draft.app.name);
            route.hosts = HostName::new(&host).into_iter().collect();
            self.draft
                .comment(format!("route.{label}"), format!("Here it is {host}; elsewhere it needs hosts of its own."));
        }
        if let Ok(label) = RouteName::new(&label) {
            self.draft.app.routes.insert(label, route);
        }
    }

    fn keys(&mut self, name: &ServiceName, node: &Node, what: &str) {
        for (key, value) in node.entries() {
            let path = format!("{what}.{key}");
            match key.as_str() {
                "build" | "image" | "command" | "entrypoint" | "environment" | "env_file" => {}
                "ports" => self.other_ports(value, &path),
                "volumes" => self.volumes(name, value, &path),
                "healthcheck" => self.health(name, value, &path),
                "deploy" => self.deploy(name, value, &path),
                "mem_limit" => self.memory(name, value, &path),
                "cpus" => self.cpu(name, value, &path),
                "scale" => self.scale(name, value),
                "stop_grace_period" => {
                    let drain = value.text().and_then(duration);
                    self.change(name, |service| service.drain = drain.unwrap_or(service.drain));
                }
                "working_dir" => self.leave(value, path, "commands run in the service's own folder: say dir"),
                "profiles" => self.leave(value, path, "it always runs: take the service out, or make it a [job.…]"),
                "extends" => self.leave(value, path, "run init on what it extends, and put the tables together"),
                "secrets" | "configs" => {
                    self.leave(
                        value,
                        path,
                        "as a variable: NAME = { secret = \"name\", as = \"file\" } holds a file's path",
                    );
                }
                "labels" => self.leave(value, path, "hosts and rules of a proxy are said as [route.…]"),
                "privileged" | "cap_add" | "devices" | "network_mode" | "pid" | "ipc" | "sysctls" => {
                    self.leave(value, path, "instances run in a cage and have none of it");
                }
                "develop" => {}
                key if NEEDLESS.contains(&key) || key.starts_with("x-") => {}
                key => match OTHERWISE.iter().find(|(known, _)| *known == key) {
                    Some((_, instead)) => self.leave(value, path, *instead),
                    None => self.leave(value, path, "Bowline has no such thing"),
                },
            }
        }
    }

    fn build_keys(&mut self, build: &Node, what: &str) {
        for (key, value) in build.entries() {
            match key.as_str() {
                "context" | "dockerfile" | "cache_from" | "cache_to" | "tags" | "platforms" | "network" => {}
                "args" => self.leave(value, format!("{what}.build.args"), "set what the build needs in `build = …`"),
                _ => {
                    self.leave(value, format!("{what}.build.{key}"), "there is no image: the folder is built as it is")
                }
            }
        }
    }

    fn change(&mut self, name: &ServiceName, change: impl FnOnce(&mut Service)) {
        if let Some(service) = self.draft.app.services.get_mut(name) {
            change(service);
        }
    }

    /// All but the first port, and those that are not TCP.
    fn other_ports(&mut self, ports: &Node, what: &str) {
        let mut seen = false;
        for port in ports.items() {
            match target_port(port) {
                Some(_) if !seen => seen = true,
                Some(port_number) => {
                    self.leave(
                        port,
                        format!("{what}: {port_number}"),
                        "a service has one port: make the other a service of its own",
                    );
                }
                None => self.leave(port, what, "the edge carries HTTP on one port of the service"),
            }
        }
    }

    fn volumes(&mut self, name: &ServiceName, volumes: &Node, what: &str) {
        for volume in volumes.items() {
            let (source, target) = match volume.text() {
                Some(_) => {
                    let Some(text) = self.text(volume, what) else { continue };
                    let mut parts = text.split(':').map(str::to_owned);
                    match (parts.next(), parts.next()) {
                        (Some(source), Some(target)) => (source, target),
                        (target, _) => ("data".to_owned(), target.unwrap_or_default()),
                    }
                }
                None => {
                    let text = |key: &str| volume.get(key).and_then(Node::text).unwrap_or("").to_owned();
                    (text("source"), text("target"))
                }
            };
            self.volume(name, volume, &source, &target, what);
        }
    }

    fn volume(&mut self, name: &ServiceName, node: &Node, source: &str, target: &str, what: &str) {
        let is_bind = source.starts_with(['.', '/', '~']);
        let is_code = matches!(source.trim_end_matches('/'), "." | "./." | "./src" | "./app" | "..");
        let below = source.trim_start_matches("./").trim_end_matches('/');
        let is_committed =
            self.input.survey.files.iter().any(|file| file == below || file.starts_with(&format!("{below}/")));
        if source.contains("docker.sock") {
            return self.leave(node, format!("{what}: {source}"), "instances do not see Docker");
        }
        if target.contains("node_modules") || target.contains("/.venv") || (is_bind && is_code) {
            // The release holds the code and what its build installed.
            return;
        }
        if is_bind && is_committed {
            // It is a part of the release, at its own place.
            if !target.trim_end_matches('/').ends_with(&format!("/{below}")) {
                let todo =
                    format!("the release has it as {below}, in the folder it runs in: let the app read it there");
                self.leave(node, format!("{what}: {source} at {target}"), todo);
            }
            return;
        }
        let volume_name = resource_name(if is_bind { below } else { source });
        if is_bind {
            let todo = format!("copy what is in it into the volume {volume_name} once");
            self.leave(node, format!("{what}: {source}"), todo);
        }
        let key = format!("volume.{volume_name}");
        let target = target.trim_end_matches('/');
        let variable = volume_name.as_str().to_ascii_uppercase().replace('-', "_");
        if !is_mount_point(target) {
            let todo =
                format!("it cannot be mounted at {target}: use the folder that $BOWLINE_VOLUME_{variable} names");
            self.leave(node, format!("{what}: {source}"), todo);
        } else if target.starts_with("/app/") {
            let words =
                format!("The app's folder is not /app here: use $BOWLINE_VOLUME_{variable}, or an absolute path.");
            self.draft.comment(&key, words);
        }
        let volume = self.draft.app.volumes.entry(volume_name).or_insert_with(|| Volume {
            services: Some(Vec::new()),
            path: is_mount_point(target).then(|| target.to_owned()),
            size: None,
            backup: None,
        });
        let services = volume.services.get_or_insert_default();
        if !services.contains(name) {
            services.push(name.clone());
        }
    }

    /// A check that asks for a URL becomes one that Bowline asks for; others are named.
    fn health(&mut self, name: &ServiceName, node: &Node, what: &str) {
        let Some(test) = node.get("test") else { return };
        let text = test.items().iter().filter_map(Node::text).collect::<Vec<_>>().join(" ");
        if text == "NONE" {
            return;
        }
        let Some(path) = http_path(&text) else {
            return self.leave(
                test,
                format!("{what}.test"),
                "say health = { path = \"/…\" }, or \"tcp\": no command is run for it",
            );
        };
        let of = |key: &str, otherwise| node.get(key).and_then(Node::text).and_then(duration).unwrap_or(otherwise);
        let default = Probe::default();
        // Compose asks every 30 s by default, since its checks are heavy; what gates traffic is asked more often.
        let probe = Probe {
            interval: of("interval", default.interval).min(Duration::from_secs(10)),
            timeout: of("timeout", default.timeout).min(Duration::from_secs(5)),
            grace: of("start_period", default.grace).max(default.grace),
            ..default
        };
        self.change(name, |service| service.health = Some(Health::Http(HttpCheck { path, probe })));
        self.draft.comment(format!("service.{name}.health"), "From the compose file's healthcheck. It gates traffic.");
    }

    fn deploy(&mut self, name: &ServiceName, node: &Node, what: &str) {
        for (key, value) in node.entries() {
            match key.as_str() {
                "replicas" => self.scale(name, value),
                "resources" => {
                    let limits = value.get("limits");
                    if let Some(memory) = limits.and_then(|limits| limits.get("memory")) {
                        self.memory(name, memory, &format!("{what}.resources.limits.memory"));
                    }
                    if let Some(cpu) = limits.and_then(|limits| limits.get("cpus")) {
                        self.cpu(name, cpu, &format!("{what}.resources.limits.cpus"));
                    }
                }
                "restart_policy" | "mode" | "labels" => {}
                "update_config" | "rollback_config" => {
                    self.leave(
                        value,
                        format!("{what}.{key}"),
                        "releases take over one instance at a time: see [rollout]",
                    );
                }
                _ => self.leave(value, format!("{what}.{key}"), "Bowline has no such thing"),
            }
        }
    }

    fn scale(&mut self, name: &ServiceName, node: &Node) {
        let Some(copies) = node.text().and_then(|text| text.parse::<u16>().ok()).filter(|n| (1..=1000).contains(n))
        else {
            return self.leave(node, format!("service.{name}.scale"), "say scale = N, 1 to 1000");
        };
        let fixed = self.draft.app.services.get(name).is_some_and(|service| service.fixed_port.is_some());
        if fixed && copies > 1 {
            return self.leave(
                node,
                format!("replicas: {copies}"),
                "a service with a fixed port has one copy: listen on $PORT",
            );
        }
        self.change(name, |service| (service.scale.min, service.scale.max) = (copies, copies));
    }

    fn memory(&mut self, name: &ServiceName, node: &Node, what: &str) {
        match node.text().and_then(bytes) {
            Some(memory) => self.change(name, |s| s.limits = Limits { memory: Some(memory), ..s.limits }),
            None => self.leave(node, what, "say limits = { memory = \"512MiB\" }"),
        }
    }

    fn cpu(&mut self, name: &ServiceName, node: &Node, what: &str) {
        match node.text().and_then(cores) {
            Some(cpu) => self.change(name, |s| s.limits = Limits { cpu: Some(cpu), ..s.limits }),
            None => self.leave(node, what, "say limits = { cpu = 1.0 }"),
        }
    }
}

fn empty(dir: String) -> Service {
    Service {
        origin: Origin::Folder { dir, build: None },
        run: None,
        packages: Vec::new(),
        runtime: None,
        fixed_port: None,
        protocol: Protocol::default(),
        health: None,
        alive: None,
        drain: Service::DRAIN,
        scale: bowline_core::app::Scale::default(),
        limits: Limits::default(),
        writable: Vec::new(),
        metrics: None,
        cage: bowline_core::app::Cage::default(),
        env: bowline_core::app::Variables::new(),
    }
}

/// Where the grammar lets a volume be mounted.
fn is_mount_point(target: &str) -> bool {
    let Some(path) = target.strip_prefix('/') else { return false };
    let is_plain = path.split('/').all(|segment| !matches!(segment, "" | "." | ".."));
    is_plain && Volume::may_be_mounted(target) && !target.chars().any(char::is_control)
}

/// The port inside the container; `None` for UDP and ranges.
fn target_port(port: &Node) -> Option<u16> {
    let Some(text) = port.text() else {
        let is_tcp = port.get("protocol").and_then(Node::text).is_none_or(|protocol| protocol == "tcp");
        return port.get("target")?.text()?.parse().ok().filter(|port| is_tcp && *port > 0);
    };
    let (text, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    // `[ADDRESS:][HOST:]CONTAINER`; variables stand for host ports most often.
    text.rsplit([':', '}']).next()?.parse().ok().filter(|port| protocol == "tcp" && *port > 0)
}

/// A command that listens on a port of its own, listening on `$PORT` instead.
pub(crate) fn with_port(run: &str, port: u16) -> String {
    let number = port.to_string();
    let words = run.split(' ').scan(false, |after_flag, word| {
        let is_port = *after_flag && word == number;
        *after_flag = matches!(word, "--port" | "-p" | "--bind-port");
        Some(match word {
            _ if is_port => "$PORT".to_owned(),
            word => match (word.strip_suffix(&format!(":{number}")), word.strip_suffix(&format!("--port={number}"))) {
                (Some(address), _)
                    if address.is_empty() || address.ends_with(|c: char| c.is_ascii_digit() || c == ']') =>
                {
                    format!("{address}:$PORT")
                }
                (_, Some("")) => "--port=$PORT".to_owned(),
                (Some(_) | None, _) => word.to_owned(),
            },
        })
    });
    words.collect::<Vec<_>>().join(" ")
}

/// The path of the first URL of this machine in a command.
fn http_path(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("http://")?;
    let url = rest.split(|c: char| c.is_whitespace() || matches!(c, '\'' | '"' | ')' | '|' | ';')).next()?;
    let (authority, path) = url.split_once('/').unwrap_or((url, ""));
    let host = authority.split(':').next()?;
    let is_plain = path.chars().all(|c| c.is_ascii_alphanumeric() || "/-_.~".contains(c));
    (matches!(host, "localhost" | "127" | "127.0.0.1" | "0.0.0.0") && is_plain).then(|| format!("/{path}"))
}

/// `1m30s`, `500ms`, as the Compose specification writes durations.
fn duration(text: &str) -> Option<Duration> {
    let (mut total, mut rest) = (Duration::ZERO, text.trim());
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u32 = rest[..digits].parse().ok()?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let one = match &rest[digits..unit] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return None,
        };
        total = total.checked_add(one.checked_mul(number)?)?;
        rest = &rest[unit..];
    }
    // The grammar's own bounds: a day is more than any check or drain needs.
    (total > Duration::ZERO && total <= Duration::from_secs(86_400)).then_some(total)
}

/// `512M`, `1g`, `2gb`: powers of 1024, as the Compose specification counts them.
fn bytes(text: &str) -> Option<Bytes> {
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit()).unwrap_or(lower.len());
    let number: u64 = lower[..digits].parse().ok()?;
    let unit = match &lower[digits..] {
        "" | "b" => 1,
        "k" | "kb" => 1 << 10,
        "m" | "mb" => 1 << 20,
        "g" | "gb" => 1 << 30,
        _ => return None,
    };
    // Less is no app; the grammar counts in whole KiB.
    let bytes = number.checked_mul(unit)? & !1023;
    (1 << 20..=1 << 42).contains(&bytes).then_some(Bytes(bytes))
}

/// `0.5`: thousandths are counted.
fn cores(text: &str) -> Option<MilliCpu> {
    let (whole, part) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    let part: String = part.chars().chain("000".chars()).take(3).collect();
    let milli = whole.parse::<u32>().ok()?.checked_mul(1000)?.checked_add(part.parse().ok()?)?;
    (10..=256_000).contains(&milli).then_some(MilliCpu(milli))
}
