//! Orders placed with an authority that answers as it likes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bowline_core::acme::{Advice, Failure, Method, Pause, Said, Window};
use bowline_core::app::HostName;
use bowline_core::route::Certificate;
use bowline_core::secret::Secret;
use bowline_core::time::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyIdMethod, KeyPair, SerialNumber};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Barrier, mpsc, oneshot};
use tokio_rustls::TlsAcceptor;

use super::http::Http;
use super::order::Account;
use super::{Keep, Report, renewal};
use crate::certs::Leaf;
use crate::config::Acme;
use crate::run::wall;
use crate::secrets::{Keyring, Keys};

/// Answers each path in one way, but for those that it is told to answer in another.
#[derive(Debug)]
struct Fake {
    port: u16,
    /// By path: the whole answer.
    other: BTreeMap<&'static str, Vec<u8>>,
    /// Method, path and payload of what was asked.
    asked: Mutex<Vec<(String, String, String)>>,
    /// So many orders are waited for before the first of them is answered.
    together: Option<Barrier>,
}

/// Its directory does not speak of them.
const NO_RENEWALS: (&str, Vec<u8>) = ("/renewalInfo", Vec::new());

fn answer(status: &str, fields: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} OK\r\nReplay-Nonce: n\r\nContent-Length: {length}\r\n{fields}\r\n{body}").into_bytes()
}

fn problem(status: &str, kind: &str) -> Vec<u8> {
    answer(status, "", &format!("{{\"type\":\"urn:ietf:params:acme:error:{kind}\",\"detail\":\"{kind}\"}}"))
}

/// Of an unsigned part of a JWS.
fn decoded(base64: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let sextets = base64.bytes().filter_map(|byte| ALPHABET.iter().position(|one| *one == byte));
    let (mut bits, mut held, mut bytes) = (0_usize, 0, Vec::new());
    for sextet in sextets {
        (bits, held) = (bits << 6 | sextet, held + 6);
        if held >= 8 {
            held -= 8;
            bytes.push(u8::try_from(bits >> held & 0xff).unwrap());
        }
    }
    String::from_utf8(bytes).unwrap()
}

impl Fake {
    fn usual(&self, path: &str) -> Vec<u8> {
        let url = |path: &str| format!("https://localhost:{}{path}", self.port);
        let order = |state: &str| {
            let (authorization, finalize) = (url("/authorization"), url("/finalize"));
            let text = format!("\"authorizations\":[\"{authorization}\"],\"finalize\":\"{finalize}\"");
            format!("{{\"status\":\"{state}\",{text},\"certificate\":\"{}\"}}", url("/certificate"))
        };
        match path {
            "/directory" => {
                let names = ["newNonce", "newAccount", "newOrder", "renewalInfo"];
                let says = names
                    .into_iter()
                    .filter(|name| *name != "renewalInfo" || self.other.get("/renewalInfo") != Some(&Vec::new()));
                let urls: Vec<_> = says.map(|name| format!("\"{name}\":\"{}\"", url(&format!("/{name}")))).collect();
                answer("200", "", &format!("{{{}}}", urls.join(",")))
            }
            "/newNonce" => answer("200", "", ""),
            "/newAccount" => answer(
                "201",
                &format!("Location: {}\r\n", url(&format!("/account/{}", self.asks("/newAccount")))),
                "{\"status\":\"valid\"}",
            ),
            "/newOrder" => answer("201", &format!("Location: {}\r\n", url("/order")), &order("pending")),
            "/authorization" => {
                let challenge = format!(
                    "{{\"type\":\"http-01\",\"url\":\"{}\",\"status\":\"pending\",\"token\":\"tok\"}}",
                    url("/challenge")
                );
                let name = "\"identifier\":{\"type\":\"dns\",\"value\":\"shop.example.com\"}";
                answer("200", "", &format!("{{{name},\"status\":\"pending\",\"challenges\":[{challenge}]}}"))
            }
            "/challenge" => {
                let url = url("/challenge");
                answer(
                    "200",
                    "",
                    &format!("{{\"type\":\"http-01\",\"url\":\"{url}\",\"status\":\"valid\",\"token\":\"tok\"}}"),
                )
            }
            "/order" if self.asks("/finalize") > 0 => answer("200", "", &order("valid")),
            "/order" => answer("200", "", &order("ready")),
            "/finalize" => answer("200", "", &order("processing")),
            _ => answer("404", "", "{}"),
        }
    }

    fn asks(&self, path: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|(_, asked, _)| asked == path).count()
    }

    async fn serve(self: Arc<Self>, listener: TcpListener, acceptor: TlsAcceptor) {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (this, acceptor) = (Arc::clone(&self), acceptor.clone());
            // Whoever asks may break off.
            tokio::spawn(async move { drop(this.converse(stream, acceptor).await) });
        }
    }

    async fn converse(&self, stream: TcpStream, acceptor: TlsAcceptor) -> std::io::Result<()> {
        let mut stream = acceptor.accept(stream).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8(head).unwrap();
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body).await?;
        let mut words = head.split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let payload = decoded(body["payload"].as_str().unwrap_or_default());
        self.asked.lock().unwrap().push((method, path.clone(), payload));
        if let Some(together) = self.together.as_ref().filter(|_| path == "/newOrder" && self.asks("/newOrder") <= 3) {
            together.wait().await;
        }
        let other = self.other.get(path.split_at(path[1..].find('/').map_or(path.len(), |at| at + 1)).0);
        stream.write_all(&other.cloned().unwrap_or_else(|| self.usual(&path))).await?;
        stream.shutdown().await
    }
}

struct Scene {
    fake: Arc<Fake>,
    account: Arc<Account>,
    keep: Keep,
    http: Http,
    directory: String,
    _folder: tempfile::TempDir,
}

fn host() -> HostName {
    HostName::new("shop.example.com").unwrap()
}

async fn scene(other: &[(&'static str, Vec<u8>)], together: Option<usize>) -> Scene {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let folder = tempfile::tempdir().unwrap();
    let key = KeyPair::generate().unwrap();
    let own = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, own.pem()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![own.der().clone()], key).unwrap();
    let (asked, together) = (Mutex::default(), together.map(Barrier::new));
    let fake = Arc::new(Fake { port, other: other.iter().cloned().collect(), asked, together });
    tokio::spawn(Arc::clone(&fake).serve(listener, TlsAcceptor::from(Arc::new(config))));
    let directory = format!("https://localhost:{port}/directory");
    let keys = Keys::new(Keyring::open_or_create(folder.path()).unwrap());
    let keep = Keep::new(folder.path(), keys, &directory);
    let http = Http(bowline_api::trust(Some(&ca)).unwrap().into());
    let settings =
        Acme { directory: directory.clone(), contact: None, ca: Some(ca), methods: vec![Method::Http01], api: false };
    let account = Arc::new(Account::new(settings, keep.clone()));
    Scene { fake, account, keep, http, directory, _folder: folder }
}

impl Scene {
    /// An edge answers at once.
    async fn order(&self, attempt: u32) -> Result<Leaf, Failure> {
        let (reports, mut told) = mpsc::channel(8);
        let (served, edge) = oneshot::channel();
        tokio::spawn(async move {
            let Some(Report::Challenged(..)) = told.recv().await else { return };
            let _ = served.send(());
        });
        self.account.order(&host(), attempt, &reports, edge).await
    }
}

#[tokio::test]
async fn an_authority_that_answers_as_it_likes_costs_one_order_and_no_time() {
    let (chain, _) = signed(&[1], &[2; 20]);
    let huge = answer("200", "", &" ".repeat((1 << 20) + 1));
    let forever = format!("Retry-After: {}\r\n", u64::MAX);
    let pending = "{\"status\":\"pending\",\"authorizations\":[],\"finalize\":\"x\"}";
    let cases: [(&str, Vec<u8>, &str, usize); 13] = [
        ("/directory", huge, "longer than 1048576 bytes", 1),
        ("/directory", answer("302", "Location: /elsewhere\r\n", ""), "not understood", 1),
        ("/directory", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{".to_vec(), "broken off", 1),
        ("/directory", b"\x16\x03\x01".to_vec(), "broke off", 1),
        ("/directory", answer("200", "", &"[".repeat(100_000)), "not understood", 1),
        ("/newNonce", answer("500", "", ""), "error response from newNonce", 1),
        ("/newOrder", problem("400", "badNonce"), "refuses: badNonce", 3),
        ("/newOrder", problem("400", "accountDoesNotExist"), "refuses: accountDoesNotExist", 2),
        ("/authorization", answer("200", "", "{}"), "not understood", 1),
        ("/order", answer("200", &forever, pending), "not made up its mind in time", 1),
        ("/certificate", answer("200", "", "no PEM"), "it is not PEM", 1),
        ("/certificate", answer("200", "", &chain), "belongs to another key", 1),
        ("/certificate", answer("200", "", &chain.repeat(200)), "too long", 1),
    ];
    for (path, other, expected, asks) in cases {
        let scene = scene(&[(path, other)], None).await;
        let started = Instant::now();
        let failure = scene.order(0).await.expect_err(path);
        assert!(failure.reason.contains(expected), "{path}: {}", failure.reason);
        assert!(started.elapsed() < Duration::from_secs(15), "{path}: {:?}", started.elapsed());
        assert_eq!(scene.fake.asks(path), asks, "{path}: {expected}");
        assert_eq!(scene.fake.asks("/elsewhere"), 0);
        assert_eq!(scene.keep.last(&host()), None, "nothing is kept");
    }
    let later = scene(&[("/newOrder", answer("503", &forever, ""))], None).await;
    assert_eq!(
        later.order(0).await.unwrap_err().pause,
        Some(Pause::All(Timestamp(u64::MAX))),
        "bounded where it is taken"
    );
}

#[tokio::test]
async fn orders_that_find_the_account_forgotten_together_make_one_other() {
    let scene = Arc::new(scene(&[("/newOrder", problem("400", "accountDoesNotExist"))], Some(3)).await);
    let orders = [0, 0, 0].map(|attempt| {
        let scene = Arc::clone(&scene);
        tokio::spawn(async move { scene.order(attempt).await.unwrap_err() })
    });
    for order in orders {
        assert!(order.await.unwrap().reason.contains("accountDoesNotExist"));
    }
    assert_eq!(scene.fake.asks("/newAccount"), 2, "the first, and the one that took its place");
}

/// A certificate with this serial number, by a signer whose key is called so.
fn signed(serial: &[u8], signer: &[u8]) -> (String, KeyPair) {
    let (key, signing) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_identifier_method = KeyIdMethod::PreSpecified(signer.to_vec());
    let mut params = CertificateParams::new(vec!["shop.example.com".to_owned()]).unwrap();
    params.serial_number = Some(SerialNumber::from_slice(serial));
    params.use_authority_key_identifier_extension = true;
    (params.signed_by(&key, &Issuer::new(ca, signing)).unwrap().pem(), key)
}

/// The example of RFC 9773, 4.1.
fn example() -> (String, KeyPair) {
    let signer = [
        0x69, 0x88, 0x5b, 0x6b, 0x87, 0x46, 0x40, 0x41, 0xe1, 0xb3, 0x7b, 0x84, 0x7b, 0xa0, 0xae, 0x2c, 0xde, 0x01,
        0xc8, 0xd4,
    ];
    signed(&[0x00, 0x87, 0x65, 0x43, 0x21], &signer)
}

const EXAMPLE: &str = "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE";

fn keep_example(keep: &Keep) {
    let (chain, key) = example();
    let certificate = Arc::new(Certificate { chain, key: Secret::new(key.serialize_pem()) });
    keep.leaf(&host(), &Leaf { certificate, not_before: Timestamp(1), not_after: Timestamp(2) }).unwrap();
}

#[tokio::test]
async fn an_authority_is_asked_for_the_window_of_the_certificate_that_it_has_signed() {
    let (chain, _) = example();
    assert_eq!(renewal::identifier(&chain).unwrap().to_string(), EXAMPLE);
    let window = "{\"suggestedWindow\":{\"start\":\"2025-01-02T04:00:00Z\",\"end\":\"2025-01-03T04:00:00.5+01:00\"}}";
    let asked = scene(&[("/renewalInfo", answer("200", "Retry-After: 21600\r\n", window))], None).await;
    let before = wall();
    let advice = renewal::ask(&asked.http, &asked.directory, &chain).await.unwrap();
    let expected = Window { start: Timestamp(1_735_790_400_000), end: Timestamp(1_735_873_200_500) };
    assert_eq!(advice.said, Said::Renew(expected));
    let again = advice.again.unwrap().since(before);
    assert!((Duration::from_secs(21_600)..Duration::from_secs(21_700)).contains(&again), "{again:?}");
    assert_eq!(asked.fake.asks(&format!("/renewalInfo/{EXAMPLE}")), 1);

    let nothing = Advice { said: Said::Nothing, again: None };
    let plain = scene(&[NO_RENEWALS], None).await;
    assert_eq!(renewal::ask(&plain.http, &plain.directory, &chain).await, Ok(nothing), "its directory does not say");
    for other in
        [answer("404", "", "{}"), answer("200", "", "{}"), answer("200", "", &window.replace("04:00:00Z", "now"))]
    {
        let wrong = scene(&[("/renewalInfo", other)], None).await;
        keep_example(&wrong.keep);
        assert_eq!(wrong.account.consult(&host()).await, Advice { said: Said::NoAnswer, again: None });
    }
    let busy = scene(&[("/renewalInfo", answer("503", "Retry-After: 60\r\n", ""))], None).await;
    keep_example(&busy.keep);
    let advice = busy.account.consult(&host()).await;
    assert!(advice.said == Said::NoAnswer && advice.again.is_some(), "{advice:?}");
    assert_eq!(plain.account.consult(&host()).await, nothing, "there is no certificate");
}

#[tokio::test]
async fn a_renewal_says_what_it_replaces_unless_that_has_failed() {
    let payload = |scene: &Scene| {
        let asked = scene.fake.asked.lock().unwrap().clone();
        asked.into_iter().find(|(_, path, _)| path == "/newOrder").unwrap().2
    };
    for (attempt, expected) in [(0, true), (1, false)] {
        let scene = scene(&[("/newOrder", problem("409", "alreadyReplaced"))], None).await;
        keep_example(&scene.keep);
        let failure = scene.order(attempt).await.unwrap_err();
        assert!(failure.reason.contains("alreadyReplaced"), "{}", failure.reason);
        assert_eq!(payload(&scene).contains(&format!("\"replaces\":\"{EXAMPLE}\"")), expected, "{}", payload(&scene));
    }
    // An authority whose directory does not speak of renewals is not told.
    let plain = scene(&[("/newOrder", problem("403", "rejectedIdentifier")), NO_RENEWALS], None).await;
    keep_example(&plain.keep);
    let failure = plain.order(0).await.unwrap_err();
    assert!(failure.reason.contains("rejectedIdentifier"), "{}", failure.reason);
    assert!(!payload(&plain).contains("replaces"));
}
