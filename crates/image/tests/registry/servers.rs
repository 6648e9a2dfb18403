//! What stands between a registry and a client, and one that answers whatever a test says.

use std::io::Read;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bowline_core::release::Reference;
use bowline_image::registry::{Client, Credentials, Limits, Secret};
use bowline_image::{Blobs, Content, Entry, Image, Labels, Platform, Recipe, Run, Tree, make};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What a test's own registry does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// Status line, fields and body, as they go out.
    Whole(Vec<u8>),
    /// This, and then zeros without an end.
    Endless(Vec<u8>),
    Silent,
}

/// Status, fields each with its line end, and a body with its length.
pub(crate) fn reply(status: &str, fields: &str, body: &[u8]) -> Reply {
    let head = format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    Reply::Whole([head.as_bytes(), body].concat())
}

/// A server that answers by a function of the request's head, a connection at a time each.
#[derive(Debug)]
pub(crate) struct Stub {
    pub(crate) address: SocketAddr,
    /// Heads of all requests.
    pub(crate) heard: Arc<Mutex<Vec<String>>>,
}

impl Stub {
    pub(crate) async fn start(answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (answer, hears) = (Arc::new(answer), Arc::clone(&heard));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (answer, hears) = (Arc::clone(&answer), Arc::clone(&hears));
                tokio::spawn(async move {
                    let head = head(&mut stream).await;
                    hears.lock().unwrap().push(head.clone());
                    match answer(&head) {
                        Reply::Whole(bytes) => drop(stream.write_all(&bytes).await),
                        Reply::Endless(bytes) => {
                            let mut sent = stream.write_all(&bytes).await;
                            while sent.is_ok() {
                                sent = stream.write_all(&[0; 4096]).await;
                            }
                        }
                        Reply::Silent => drop(stream.read_to_end(&mut Vec::new()).await),
                    }
                });
            }
        });
        Self { address, heard }
    }

    pub(crate) fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

/// Up to and with the empty line.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// What is done to a request on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meddle {
    Pass,
    /// After so many bytes of the body the connection is gone.
    Cut(usize),
    TooLarge,
}

/// Between a client and a registry: a connection at a time each, meddled with by its head and by how many of its kind came before.
pub(crate) async fn between(port: u16, meddle: impl Fn(&str, usize) -> Meddle + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (meddle, puts) = (Arc::new(meddle), Arc::new(AtomicUsize::new(0)));
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (meddle, puts) = (Arc::clone(&meddle), Arc::clone(&puts));
            tokio::spawn(async move {
                let head = head(&mut client).await;
                let before = if head.starts_with("PUT ") { puts.fetch_add(1, Ordering::SeqCst) } else { 0 };
                let mut registry = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                match meddle(&head, before) {
                    Meddle::Pass => {
                        registry.write_all(head.as_bytes()).await.unwrap();
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut registry).await;
                    }
                    Meddle::Cut(bytes) => {
                        registry.write_all(head.as_bytes()).await.unwrap();
                        let mut part = vec![0; bytes];
                        let _ = client.read_exact(&mut part).await;
                        let _ = registry.write_all(&part).await;
                    }
                    Meddle::TooLarge => {
                        let answer =
                            "HTTP/1.1 413 Request Entity Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                        let _ = client.write_all(answer.as_bytes()).await;
                        // As servers do, it takes what is on its way for the answer to arrive.
                        let _ = tokio::io::copy(&mut client, &mut tokio::io::sink()).await;
                    }
                }
            });
        }
    });
    address
}

/// An image of one layer with these bytes in it.
pub(crate) fn image(blobs: &Blobs, content: &[u8]) -> Image {
    let mut tree = Tree::default();
    let content = Content::Bytes(content.into());
    tree.put("app/data", Entry::File { content, executable: false }).unwrap();
    let recipe = Recipe {
        platform: Platform::host(),
        under: None,
        layers: vec![("the app", tree)],
        run: Run::Exec(vec!["/app/data".into()]),
        workdir: "/app".into(),
        env: [].into(),
        labels: Labels { app: "shop".into(), service: "web".into(), ..Labels::default() },
        port: None,
        created: 0,
    };
    make(&recipe, blobs).unwrap()
}

/// Bytes that cannot be packed.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut noise = vec![0; length];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut noise).unwrap();
    noise
}

pub(crate) fn name(port: u16, rest: &str) -> Reference {
    format!("127.0.0.1:{port}/{rest}").parse().unwrap()
}

pub(crate) fn client() -> Client {
    Client::new(None, Limits { connect: Duration::from_secs(10), stall: Duration::from_secs(20) }).unwrap()
}

/// It gives up soon.
pub(crate) fn hasty() -> Client {
    Client::new(None, Limits { connect: Duration::from_secs(10), stall: Duration::from_millis(200) }).unwrap()
}

pub(crate) fn ann(password: &str) -> Option<Credentials> {
    Some(Credentials::Password { user: "ann".into(), password: Secret::new(password) })
}
