//! By which ways requests come to an app and answers go back: gRPC, plain HTTP led to HTTPS, compression, PROXY headers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use bowline_tests::client::{curl, tls};
use bowline_tests::grpc::{self, INSTALLED};
use bowline_tests::server::Server;
use bowline_tests::up::Up;
use bowline_tests::{Bowline, SOON, path, text};
use rustls::pki_types::ServerName;

#[test]
fn grpc_goes_through_with_its_trailers_and_its_codes() {
    let bowline = Bowline::new();
    let folder = bowline.app("ways-grpc", "grpc");
    let up = Up::start(&bowline, &folder, INSTALLED);
    let (ca, calls) = (bowline.ca(), bowline.folder("calls"));
    let call =
        |method: &str, message: &[u8], more: &[&str]| grpc::call((&ca, &calls), &up.https(), method, message, more);
    let said = call("Say", b"hello", &[]);
    assert_eq!(said.messages(), ["hello"]);
    assert_eq!(said.header("grpc-status"), Some("0"), "{}", said.said);
    assert_eq!(said.header("x-for"), Some("127.0.0.1"));
    assert!(said.header("x-instance").is_some_and(|id| id.contains("ways-grpc")), "{}", said.said);

    assert_eq!(call("Count", b"n", &[]).messages(), ["n 0", "n 1", "n 2"]);
    assert_eq!(call("Chat", b"hello", &[]).messages(), ["HELLO"]);

    let failed = call("Fail", b"", &[]);
    assert_eq!(failed.header("grpc-status"), Some("9"), "{}", failed.said);
    assert_eq!(failed.header("grpc-message"), Some("not today: 100%25"));
    assert_eq!(call("Nothing", b"", &[]).header("grpc-status"), Some("12"));

    let late = call("Hang", b"", &["-H", "grpc-timeout: 500m"]);
    assert_eq!((late.header("grpc-status"), late.message.len()), (Some("4"), 0), "{}", late.said);
    bowline_tests::wait("the app hears that nobody waits any more", SOON, || {
        text(&bowline.run(&["logs", "ways-grpc"])).contains("the call is over").then_some(())
    });

    // The file says what it speaks; who leaves that out is told.
    let file = folder.join("bowline.toml");
    std::fs::write(&file, "[service.web]\nrun = \"python server.py\"\nhealth = { grpc = \"\" }\n").expect("its file");
    let refused = bowline.fails(&["up", path(&folder), "--detach"], 2);
    assert!(refused.contains("asks over HTTP/2") && refused.contains("protocol = \"h2c\""), "{refused}");
    assert!(up.interrupt().success());
}

#[test]
fn plain_http_is_led_to_https_and_text_is_compressed() {
    let bowline = Bowline::new();
    let folder = bowline.app("ways-up", "tells");
    let up = Up::start(&bowline, &folder, SOON);
    let head = |url: &str, more: &[&str]| {
        let answer = curl(&bowline.ca(), url, &[&["--include", "--http1.1"], more].concat());
        (answer.status, answer.text().to_ascii_lowercase())
    };
    let (status, said) = head(&format!("{}/a?b=c", up.http()), &[]);
    assert_eq!(status, 308, "{said}");
    assert!(said.contains(&format!("location: {}/a?b=c\r\n", up.https())), "{said}");
    let (status, said) = head(&format!("{}/a", up.https()), &["--compressed"]);
    assert_eq!(status, 200);
    assert!(said.contains("content-encoding: gzip\r\n") && said.contains("vary: accept-encoding\r\n"), "{said}");
    assert!(said.contains("get /a\n") && said.ends_with("and so on\n"), "{said}");
    assert!(!said.contains("strict-transport-security"), "browsers keep it by name, whatever the port: {said}");
    let (_, said) = head(&up.https(), &[]);
    assert!(!said.contains("content-encoding") && said.contains("vary: accept-encoding\r\n"), "{said}");
    assert!(up.interrupt().success());
}

/// A server that trusts loopback, with what `tells` is deployed to it.
struct Behind {
    bowline: Bowline,
    _server: Server,
    http: String,
    https: String,
}

const HOST: &str = "tells.localhost";

impl Behind {
    fn start(name: &str, proxied: bool) -> Self {
        let bowline = Bowline::new();
        let config = bowline.folder("etc").join("server.toml");
        let text = format!("trusted_proxies = [\"127.0.0.0/8\"]\n[listen]\nproxy_protocol = {proxied}\n");
        std::fs::write(&config, text).expect("a file of the test");
        let any = ["--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--admin", "0", "--config", path(&config)];
        let server = Server::start_with(&bowline, &[], &any);
        let folder = bowline.app(name, "tells");
        let output = bowline.run(&["deploy", path(&folder), "--env", "production"]);
        assert!(output.status.success(), "{}", bowline_tests::text(&output));
        let edge = bowline.status()["edge"].clone();
        let address = |what: &str| edge[what].as_str().expect("an address").to_owned();
        let (http, https) = (address("http"), address("https"));
        Self { bowline, _server: server, http, https }
    }

    /// What is answered to a request behind this header; over TLS, where it is asked for.
    fn ask(&self, header: &[u8], secure: bool) -> String {
        let mut stream = TcpStream::connect(if secure { &self.https } else { &self.http }).expect("it listens");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        stream.write_all(header).expect("it reads");
        let request =
            format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n");
        let mut answer = String::new();
        if secure {
            let name = ServerName::try_from(HOST).expect("a name");
            let session = rustls::ClientConnection::new(tls(&self.bowline.ca()), name).expect("a session");
            let mut stream = rustls::StreamOwned::new(session, stream);
            stream.write_all(request.as_bytes()).expect("it reads");
            stream.read_to_string(&mut answer).expect("it answers in text");
        } else {
            stream.write_all(request.as_bytes()).expect("it reads");
            stream.read_to_string(&mut answer).expect("it answers in text");
        }
        answer.to_ascii_lowercase()
    }
}

/// PROXY, version 2, over TCP and IPv4, with what else is said.
fn binary(client: [u8; 4], more: &[u8]) -> Vec<u8> {
    let rest = [&client[..], &[127, 0, 0, 1, 0x12, 0x67, 0, 80], more].concat();
    let length = u16::try_from(rest.len()).expect("a short header").to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11"[..], &length, &rest].concat()
}

#[test]
fn behind_a_proxy_that_forwards_bytes_an_app_is_told_who_asks() {
    const OVER_TLS: &[u8] = &[0x20, 0, 5, 1, 0, 0, 0, 0];
    let behind = Behind::start("ways-proxied", true);
    let one = b"PROXY TCP4 192.0.2.9 127.0.0.1 4711 80\r\n";
    let is_sent_on =
        |answer: &str| answer.starts_with("http/1.1 308") && answer.contains(&format!("location: https://{HOST}/"));
    let is_told = |answer: &str, client: &str, proto: &str| {
        answer.starts_with("http/1.1 200")
            && answer.contains(&format!("x-forwarded-for: {client}\n"))
            && answer.contains(&format!("x-forwarded-proto: {proto}\n"))
            && answer.contains("strict-transport-security: max-age=3600\r\n")
    };
    for header in [&one[..], &binary([192, 0, 2, 9], b"")] {
        let answer = behind.ask(header, false);
        assert!(is_sent_on(&answer) && !answer.contains("strict-transport"), "{answer}");
        let answer = behind.ask(header, true);
        assert!(is_told(&answer, "192.0.2.9", "https"), "{answer}");
    }
    // The balancer has ended TLS itself.
    let answer = behind.ask(&binary([192, 0, 2, 7], OVER_TLS), false);
    assert!(is_told(&answer, "192.0.2.7", "https"), "{answer}");
    // Who is to send one and does not is not answered.
    let mut stream = TcpStream::connect(&behind.http).expect("it listens");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: tells.localhost\r\n\r\n").expect("it reads, or has closed");
    let mut answer = Vec::new();
    // A reset is no answer either.
    let _ = stream.read_to_end(&mut answer);
    assert_eq!(answer, b"");
}

#[test]
fn curl_of_a_browser_is_led_to_https_and_told_to_stay_there() {
    let behind = Behind::start("ways-server", false);
    let port = behind.https.rsplit(':').next().expect("a port");
    let to = format!("{HOST}:{port}:127.0.0.1:{port}");
    let url = format!("https://{HOST}:{port}/");
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--include", "--compressed", "--max-time", "60", "--cacert"])
        .arg(behind.bowline.ca())
        .args(["--connect-to", &to, &url])
        .output()
        .expect("curl is installed by scripts/setup");
    let said = text(&output).to_ascii_lowercase();
    assert!(said.starts_with("http/2 200") && said.contains("content-encoding: gzip"), "{said}");
    assert!(said.contains("strict-transport-security: max-age=3600"), "{said}");
    assert!(behind.ask(b"", false).starts_with("http/1.1 308"));
}
