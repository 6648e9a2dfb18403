//! The words of `bowline bench`.

use std::path::PathBuf;
use std::time::Duration;

use bowline_core::units::Share;
use bowline_load::verdict::{Measure, Quantile};
use bowline_load::{HeaderExpect, PerSecond, StatusExpect};
use clap::Args;
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::age;

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// http:// or https://, one host, one path
    pub(crate) url: String,
    /// Requests a second, or evenly from one rate to another: 100/s, 10..500/s
    #[arg(long, value_name = "[A..]B/s", value_parser = rate, default_value = "100/s")]
    pub(crate) rate: Rate,
    /// At random times, as independent visitors come, instead of evenly
    #[arg(long, conflicts_with = "closed")]
    pub(crate) poisson: bool,
    /// A closed loop instead of a rate: on each connection the next request when the one before is answered
    #[arg(long, conflicts_with = "rate")]
    pub(crate) closed: bool,
    /// How long to measure
    #[arg(long, value_name = "TIME", value_parser = age, default_value = "10s")]
    pub(crate) duration: Duration,
    /// How long to load before that, at the first rate
    #[arg(long, value_name = "TIME", value_parser = age, default_value = "1s")]
    pub(crate) warm_up: Duration,
    /// Kept connections at most
    #[arg(long, value_name = "N", default_value_t = bowline_load::plan::CONNECTIONS)]
    pub(crate) connections: usize,
    /// The part of the requests that go over a new connection, with a whole TLS handshake: 50%
    #[arg(long, value_name = "SHARE", value_parser = share, default_value = "0%")]
    pub(crate) new_connections: Share,
    /// HTTP/2; without TLS by prior knowledge
    #[arg(long)]
    pub(crate) http2: bool,
    /// Requests at once on a connection of HTTP/2
    #[arg(long, value_name = "N", default_value_t = bowline_load::plan::STREAMS, requires = "http2")]
    pub(crate) streams: usize,
    /// The method [default: GET, with a body POST]
    #[arg(long, value_parser = method)]
    pub(crate) method: Option<Method>,
    /// What is sent, or @FILE
    #[arg(long, value_name = "TEXT", conflicts_with = "upload")]
    pub(crate) body: Option<String>,
    /// The part of the requests with the body or an upload; the others are a GET
    #[arg(long, value_name = "SHARE", value_parser = share, default_value = "100%")]
    pub(crate) body_share: Share,
    /// A header of every request; may be said again
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    pub(crate) header: Vec<(HeaderName, HeaderValue)>,
    /// Send the files of this folder, one per request, in turn, as forms (multipart/form-data)
    #[arg(long, value_name = "DIR")]
    pub(crate) upload: Option<PathBuf>,
    /// The field of the form
    #[arg(long, value_name = "NAME", default_value = "file", requires = "upload")]
    pub(crate) field: String,
    /// Certificates to trust, PEM [default: the local CA for *.localhost, else the machine's]
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// What must hold: 200, 2xx, body:TEXT, header:NAME, header:NAME=VALUE, p99<200ms, max<1s, failed<0.1%; may be said again
    #[arg(long, value_name = "WHAT", value_parser = expect)]
    pub(crate) expect: Vec<Expected>,
    /// How long a request may wait for a connection, and then for its answer
    #[arg(long, value_name = "TIME", value_parser = age, default_value = "10s")]
    pub(crate) timeout: Duration,
    /// Threads that generate the load
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) threads: usize,
    /// What is drawn is drawn from this: the same seed, the same requests at the same times
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Write a report for a browser
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Compare with a run before: what --json printed then
    #[arg(long, value_name = "FILE")]
    pub(crate) compare: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rate {
    pub(crate) from: PerSecond,
    pub(crate) to: PerSecond,
}

/// One `--expect`.
#[derive(Debug, Clone)]
pub(crate) enum Expected {
    Status(StatusExpect),
    Body(String),
    Header(HeaderExpect),
    Below(Measure, Duration),
    Failed(Share),
}

fn rate(text: &str) -> Result<Rate, String> {
    let wanted = || "requests a second are wanted, one million at most: 100/s, or 10..500/s".to_owned();
    let numbers = text.strip_suffix("/s").ok_or_else(wanted)?;
    let number = |text: &str| text.parse().ok().and_then(PerSecond::new).ok_or_else(wanted);
    let (from, to) = numbers.split_once("..").unwrap_or((numbers, numbers));
    let rate = Rate { from: number(from)?, to: number(to)? };
    match rate.from.get() + rate.to.get() > 0.0 {
        true => Ok(rate),
        false => Err("a rate of nothing measures nothing".to_owned()),
    }
}

fn share(text: &str) -> Result<Share, String> {
    let wanted = || "a part from 0% to 100% is wanted".to_owned();
    let percent: f64 = text.strip_suffix('%').and_then(|number| number.parse().ok()).ok_or_else(wanted)?;
    if !(0.0..=100.0).contains(&percent) {
        return Err(wanted());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to a million")]
    Share::from_ppm((percent * 1e4).round() as u32).ok_or_else(wanted)
}

fn method(text: &str) -> Result<Method, String> {
    match text.to_ascii_uppercase().parse() {
        Ok(Method::CONNECT) | Err(_) => Err("a method like GET, POST, PUT or DELETE is wanted".to_owned()),
        Ok(method) => Ok(method),
    }
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let wanted = || "a header like `Accept: text/html` is wanted".to_owned();
    let (name, value) = text.split_once(':').ok_or_else(wanted)?;
    let name: HeaderName = name.trim().parse().map_err(|_| wanted())?;
    let framing = [http::header::CONTENT_LENGTH, http::header::TRANSFER_ENCODING, http::header::CONNECTION];
    if framing.contains(&name) {
        return Err(format!("{name} is said by what is sent"));
    }
    Ok((name, value.trim().parse().map_err(|_| wanted())?))
}

fn expect(text: &str) -> Result<Expected, String> {
    let wanted =
        || "200, 2xx, body:TEXT, header:NAME, header:NAME=VALUE, p99<200ms, max<1s or failed<0.1% is wanted".to_owned();
    if let Some(body) = text.strip_prefix("body:") {
        return Ok(Expected::Body(body.to_owned()));
    }
    if let Some(header) = text.strip_prefix("header:") {
        let (name, any_of) = match header.split_once('=') {
            Some((name, value)) => (name, vec![value.to_owned()]),
            None => (header, Vec::new()),
        };
        return Ok(Expected::Header(HeaderExpect { name: name.parse().map_err(|_| wanted())?, any_of }));
    }
    if let Some((what, limit)) = text.split_once('<') {
        return match what {
            "failed" => share(limit).map(Expected::Failed),
            "max" => Ok(Expected::Below(Measure::Max, age(limit)?)),
            _ => Ok(Expected::Below(Measure::Quantile(quantile(what).ok_or_else(wanted)?), age(limit)?)),
        };
    }
    status(text).map(Expected::Status).ok_or_else(wanted)
}

fn status(text: &str) -> Option<StatusExpect> {
    match text.strip_suffix("xx") {
        Some(class) => class.parse().ok().filter(|class| (1..=5).contains(class)).map(StatusExpect::Class),
        None => text.parse().ok().and_then(|code| StatusCode::from_u16(code).ok()).map(StatusExpect::Exactly),
    }
}

/// `p99.9`, to four decimals.
fn quantile(text: &str) -> Option<Quantile> {
    let percent: f64 = text.strip_prefix('p')?.parse().ok()?;
    if !(0.0..100.0).contains(&percent) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to a million")]
    Quantile::from_ppm((percent * 1e4).round() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read() {
        let check = |text: &str, expected: Option<(f64, f64)>| {
            assert_eq!(rate(text).ok().map(|rate| (rate.from.get(), rate.to.get())), expected, "{text}");
        };
        check("100/s", Some((100.0, 100.0)));
        check("0..2.5/s", Some((0.0, 2.5)));
        for bad in ["100", "/s", "0/s", "-1/s", "1..2..3/s", "inf/s", "nan/s", "2000000/s", "100/m"] {
            check(bad, None);
        }
    }

    #[test]
    fn shares_are_read() {
        assert_eq!(share("12.5%"), Ok(Share::from_ppm(125_000).unwrap()));
        for bad in ["12", "101%", "-1%", "nan%", "%"] {
            assert!(share(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn expectations_are_read() {
        assert!(matches!(expect("204"), Ok(Expected::Status(StatusExpect::Exactly(StatusCode::NO_CONTENT)))));
        assert!(matches!(expect("3xx"), Ok(Expected::Status(StatusExpect::Class(3)))));
        assert!(matches!(expect("body:a<b"), Ok(Expected::Body(text)) if text == "a<b"));
        let Ok(Expected::Header(header)) = expect("header:x-release=a=b") else { panic!("a header") };
        assert_eq!((header.name.as_str(), header.any_of), ("x-release", vec!["a=b".to_owned()]));
        let Ok(Expected::Below(measure, limit)) = expect("p99.9<200ms") else { panic!("a limit") };
        assert_eq!((measure.to_string(), limit), ("p99.9".to_owned(), Duration::from_millis(200)));
        assert!(matches!(expect("failed<0.1%"), Ok(Expected::Failed(share)) if share.ppm() == 1_000));
        for bad in ["", "9xx", "99", "p0<1s", "p100<1s", "p99<fast", "avg<1s", "header:", "ok"] {
            assert!(expect(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn headers_that_frame_a_request_are_refused() {
        assert!(header("X-A: b").is_ok());
        for bad in ["x", ": b", "a b: c", "Content-Length: 3", "connection: close"] {
            assert!(header(bad).is_err(), "{bad}");
        }
    }
}
