use std::net::{IpAddr, SocketAddr};

use bowline_core::app::{HostName, LogSink, Target};
use ipnet::IpNet;

use super::{Read, Wrong, absolute};

/// Set by the edge itself, or part of how a request is framed: no token travels in them.
const NOT_A_TOKEN: [&str; 7] =
    ["host", "connection", "content-length", "transfer-encoding", "upgrade", "te", "trailer"];

pub(crate) fn host(text: &str) -> Read<HostName> {
    if text.contains("://") {
        return Err(Wrong::hint("this is a URL", "write only the host's name"));
    }
    HostName::new(text).map_err(|e| Wrong::new(e.to_string()))
}

/// A network, or a single address.
pub(crate) fn cidr(text: &str) -> Read<IpNet> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.into());
    }
    let net: IpNet = text.parse().map_err(|_| {
        Wrong::hint("this is neither an address nor a network", "write 203.0.113.7, 10.0.0.0/8 or 2001:db8::/32")
    })?;
    match net == net.trunc() {
        true => Ok(net),
        false => Err(Wrong::hint("the address has bits outside of its network", format!("write \"{}\"", net.trunc()))),
    }
}

/// `http://` or `https://`, a host, maybe a port and a path; no query, no credentials.
pub(crate) fn url(text: &str) -> Read<String> {
    let wrong = || Wrong::hint("this is not a URL", "for example \"https://example.com\"");
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).ok_or_else(wrong)?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if authority.contains('@') {
        return Err(Wrong::new("a URL in this file holds no user and no password"));
    }
    if path.contains(['?', '#']) || authority.contains(['?', '#']) {
        return Err(Wrong::new("a URL here has no query and no fragment"));
    }
    if !path.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(wrong());
    }
    let (name, _) = host_port(authority).ok_or_else(wrong)?;
    host(name)?;
    Ok(text.to_owned())
}

pub(crate) fn https_url(text: &str) -> Read<String> {
    match text.starts_with("https://") {
        true => url(text),
        false => Err(Wrong::new("only https:// is allowed here")),
    }
}

/// Splits an optional port off. A bare IPv6 address has no port.
fn host_port(text: &str) -> Option<(&str, Option<u16>)> {
    let colon = match text.rfind(']') {
        Some(bracket) => text[bracket..].find(':').map(|at| bracket + at),
        None => text.find(':'),
    };
    match colon {
        None => Some((text, None)),
        Some(at) => {
            let port = &text[at + 1..];
            let port = port.parse().ok().filter(|p| *p > 0 && port.bytes().all(|b| b.is_ascii_digit()))?;
            Some((&text[..at], Some(port)))
        }
    }
}

/// The name of a header that holds a token, in lower case.
pub(crate) fn header(text: &str) -> Read<String> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if text.is_empty() || !text.bytes().all(token) {
        return Err(Wrong::hint("this is not a header's name", "for example \"X-Auth-Token\""));
    }
    let name = text.to_ascii_lowercase();
    match NOT_A_TOKEN.contains(&name.as_str()) {
        true => Err(Wrong::new(format!("the header {name:?} cannot hold a token"))),
        false => Ok(name),
    }
}

/// `local`, `ssh://user@host:port`, `https://host`, `kubernetes`, `kubernetes:context/namespace`
pub(crate) fn target(text: &str) -> Read<Target> {
    if let Some(rest) = text.strip_prefix("ssh://") {
        return ssh(rest);
    }
    if text.starts_with("https://") {
        return Ok(Target::Https { url: https_url(text)? });
    }
    if let Some(rest) = text.strip_prefix("kubernetes:") {
        // Contexts may hold '/': the namespace is what follows the last one.
        let (context, namespace) = rest.rsplit_once('/').unwrap_or((rest, ""));
        let plain = |part: &str| match part.chars().any(|c| c.is_whitespace() || c.is_control()) {
            true => Err(Wrong::new("a context and a namespace hold no blanks")),
            false => Ok(Some(part.to_owned()).filter(|p| !p.is_empty())),
        };
        return Ok(Target::Kubernetes { context: plain(context)?, namespace: plain(namespace)? });
    }
    match text {
        "local" => Ok(Target::Local),
        "kubernetes" => Ok(Target::Kubernetes { context: None, namespace: None }),
        _ => Err(Wrong::hint(
            "this is no place that an app runs at",
            "write local, ssh://user@host, https://host, kubernetes or kubernetes:context/namespace",
        )),
    }
}

fn ssh(rest: &str) -> Read<Target> {
    let (user, address) = rest.rsplit_once('@').map_or((None, rest), |(user, address)| (Some(user), address));
    let plain = |user: &str| {
        let start = user.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        start && user.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
    };
    if user.is_some_and(|user| !plain(user)) {
        return Err(Wrong::new("this is not a user's name"));
    }
    let (name, port) = host_port(address)
        .ok_or_else(|| Wrong::hint("this is not an address", "write ssh://user@host or ssh://user@host:port"))?;
    let name = host(name)?;
    if name.is_wildcard() {
        return Err(Wrong::new("'*' is not one machine"));
    }
    Ok(Target::Ssh { user: user.map(str::to_owned), host: name.to_string(), port })
}

pub(crate) fn print_target(target: &Target) -> String {
    match target {
        Target::Local => "local".to_owned(),
        Target::Ssh { user, host, port } => {
            let user = user.as_ref().map(|user| format!("{user}@")).unwrap_or_default();
            let port = port.map(|port| format!(":{port}")).unwrap_or_default();
            format!("ssh://{user}{host}{port}")
        }
        Target::Https { url } => url.clone(),
        Target::Kubernetes { context: None, namespace: None } => "kubernetes".to_owned(),
        Target::Kubernetes { context, namespace } => {
            format!("kubernetes:{}/{}", context.as_deref().unwrap_or(""), namespace.as_deref().unwrap_or(""))
        }
    }
}

/// `syslog+tls://HOST:PORT` (RFC 5425: port 6514 if none is said), `otlp`
pub(crate) fn log_sink(text: &str) -> Read<LogSink> {
    if text == "otlp" {
        return Ok(LogSink::Otlp);
    }
    let wrong =
        || Wrong::hint("this is no receiver of logs", "write \"syslog+tls://logs.example.com:6514\" or \"otlp\"");
    let (name, port) = text.strip_prefix("syslog+tls://").and_then(host_port).ok_or_else(wrong)?;
    Ok(LogSink::SyslogTls { host: host(name)?.to_string(), port: port.unwrap_or(6514) })
}

pub(crate) fn print_log_sink(sink: &LogSink) -> String {
    match sink {
        LogSink::SyslogTls { host, port } => format!("syslog+tls://{host}:{port}"),
        LogSink::Otlp => "otlp".to_owned(),
    }
}

/// `0.0.0.0:443`, `[::]:443`
pub(crate) fn listen(text: &str) -> Read<SocketAddr> {
    text.parse().map_err(|_| Wrong::hint("this is not an address and a port", "write 0.0.0.0:443 or [::]:443"))
}

pub(crate) fn email(text: &str) -> Read<String> {
    let plain = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_graphic() && c != '@');
    match text.split_once('@') {
        Some((user, domain)) if plain(user) && plain(domain) => Ok(text.to_owned()),
        Some(_) | None => Err(Wrong::new("this is not an e-mail address")),
    }
}

/// An absolute path, or `s3://BUCKET/PREFIX`.
pub(crate) fn destination(text: &str) -> Read<String> {
    match text.strip_prefix("s3://") {
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') && rest.bytes().all(|b| b.is_ascii_graphic()) => {
            Ok(text.to_owned())
        }
        Some(_) => Err(Wrong::hint("this is not a bucket", "write s3://BUCKET/PREFIX")),
        None => absolute(text),
    }
}

/// `age1…`: Bech32 in lower case.
pub(crate) fn recipient(text: &str) -> Read<String> {
    let data = text.strip_prefix("age1").unwrap_or("");
    let bech32 = |b: u8| (b.is_ascii_lowercase() || b.is_ascii_digit()) && !b"1bio".contains(&b);
    match data.len() == 58 && data.bytes().all(bech32) {
        true => Ok(text.to_owned()),
        false => Err(Wrong::hint("this is not an age recipient", "age-keygen prints one: age1…")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_print_to_what_they_were_read_from() {
        for text in [
            "local",
            "ssh://beta.example.com",
            "ssh://deploy@beta.example.com:2222",
            "ssh://root@[2001:db8::1]:22",
            "https://bowline.example.com",
            "kubernetes",
            "kubernetes:prod/uploads",
            "kubernetes:arn:aws:eks:eu:1:cluster/prod/uploads",
            "kubernetes:/uploads",
        ] {
            assert_eq!(print_target(&target(text).unwrap()), text);
        }
        for text in [
            "",
            "prod",
            "ssh://",
            "ssh://-oProxy@host",
            "ssh://a@b:0",
            "http://x.com",
            "ssh://*.a.com",
            "kubernetes:a b",
        ] {
            assert!(target(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn networks_are_exact() {
        assert_eq!(cidr("10.1.2.3").unwrap().to_string(), "10.1.2.3/32");
        assert_eq!(cidr("10.1.2.3/8").unwrap_err().hint.unwrap(), "write \"10.0.0.0/8\"");
        assert!(cidr("10.0.0.0/33").is_err());
        assert!(cidr("example.com").is_err());
    }

    #[test]
    fn urls_hold_no_credentials() {
        let check = |text: &str, ok: bool| assert_eq!(url(text).is_ok(), ok, "{text}");
        check("https://example.com/a", true);
        check("http://[::1]:8080", true);
        check("https://u:p@example.com", false);
        check("https://example.com?a", false);
        check("https://", false);
        check("ftp://example.com", false);
        check("https://a b", false);
    }

    #[test]
    fn a_token_does_not_travel_in_framing() {
        assert_eq!(header("X-Auth-Token").unwrap(), "x-auth-token");
        assert!(header("Host").is_err());
        assert!(header("a b").is_err());
    }
}
