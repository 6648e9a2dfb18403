//! The whole router over a real socket, against a folder of its own.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use uploads::{Config, Metrics, Store, router};

const MAX_BYTES: u64 = 64 << 10;
const BOUNDARY: &str = "----boundary";

struct Server {
    address: SocketAddr,
    folder: TempDir,
    runtime: tokio::runtime::Runtime,
}

struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let set = BTreeMap::from([
            ("UPLOADS_DIR", folder.path().to_str().unwrap().to_owned()),
            ("UPLOADS_MAX_BYTES", MAX_BYTES.to_string()),
        ]);
        let config = Config::from_environment(|name| set.get(name).cloned()).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let store = runtime.block_on(Store::open(&config.place)).unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let app = router(config, store, Arc::new(Metrics::default()));
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self { address, folder, runtime }
    }

    fn send(&self, request: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(request).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        let end = all.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8(all[..end].to_vec()).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.filter_map(|l| l.split_once(": ")).map(|(n, v)| (n.to_lowercase(), v.to_owned())).collect();
        Answer { status, headers, body: all[end + 4..].to_vec() }
    }

    fn get(&self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
    }

    fn post(&self, path: &str, accept: &str, form: &[u8]) -> Answer {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\naccept: {accept}\r\ncontent-length: {}\r\n\
             content-type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n",
            form.len()
        );
        self.send(&[head.as_bytes(), form].concat())
    }

    fn upload(&self, name: &str, content: &[u8]) -> Answer {
        self.post("/files", "*/*", &form(&[("file", Some(name), content)]))
    }

    fn on_disk(&self) -> usize {
        std::fs::read_dir(self.folder.path()).unwrap().count()
    }
}

fn form(fields: &[(&str, Option<&str>, &[u8])]) -> Vec<u8> {
    let mut form = Vec::new();
    for (field, file, content) in fields {
        let file = file.map(|f| format!("; filename=\"{f}\"")).unwrap_or_default();
        let head = format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{field}\"{file}\r\n\r\n");
        form.extend([head.as_bytes(), content, b"\r\n"].concat());
    }
    form.extend(format!("--{BOUNDARY}--\r\n").bytes());
    form
}

#[test]
fn a_file_is_stored_and_comes_back_as_it_was() {
    let server = Server::start();
    let png = [b"\x89PNG\r\n\x1a\n".as_slice(), &[0, 159, 146, 150].repeat(4000)].concat();
    let answer = server.upload("My picture.PNG", &png);
    assert_eq!(answer.status, 201);
    assert_eq!(answer.headers["location"], "/files/My_picture.png");
    let expected = serde_json::json!({ "name": "My_picture.png", "size": png.len(), "url": "/files/My_picture.png" });
    assert_eq!(answer.json(), expected);

    let file = server.get("/files/My_picture.png");
    assert_eq!((file.status, &file.body), (200, &png));
    assert_eq!(file.headers["content-type"], "image/png");
    assert_eq!(file.headers["x-content-type-options"], "nosniff");
    assert_eq!(server.post("/", "*/*", &form(&[("file", Some("a.txt"), b"a")])).status, 201);
}

#[test]
fn names_beyond_ascii_are_encoded_in_urls() {
    let server = Server::start();
    let answer = server.upload("Größe.txt", b"1,80");
    assert_eq!(answer.json()["url"], "/files/Gr%C3%B6%C3%9Fe.txt");
    assert_eq!(server.get("/files/Gr%C3%B6%C3%9Fe.txt").text(), "1,80");
}

#[test]
fn what_is_refused_is_named_counted_and_leaves_nothing() {
    let server = Server::start();
    let check = |form: &[u8], status: u16, reason: &str| {
        let answer = server.post("/files", "application/json", form);
        assert_eq!((answer.status, answer.json()["reason"].as_str()), (status, Some(reason)), "{}", answer.text());
        assert_eq!(server.on_disk(), 0, "{reason} left something");
        let line = format!("uploads_refused_total{{reason=\"{reason}\"}}");
        assert!(server.get("/metrics").text().contains(&line), "{line}");
    };
    let large = vec![b'a'; MAX_BYTES as usize + 1];
    check(&form(&[("file", Some("a.html"), b"<h1>")]), 415, "extension");
    check(&form(&[("file", Some("a.txt.exe"), b"MZ")]), 415, "extension");
    check(&form(&[("file", Some("a.txt"), b"a\0b")]), 415, "content");
    check(&form(&[("file", Some("a.png"), b"<svg/>")]), 415, "content");
    check(&form(&[("file", Some("a.txt"), &large)]), 413, "too_large");
    check(&form(&[("file", Some("a.txt"), &large.repeat(40))]), 413, "too_large");
    check(&form(&[("file", Some("noextension"), b"a")]), 400, "no_name");
    check(&form(&[("file", Some(""), b"")]), 400, "no_file");
    check(&form(&[("other", Some("a.txt"), b"a")]), 400, "no_file");
    check(&form(&[("file", None, b"a.txt")]), 400, "no_file");
    check(&form(&[("file", Some("a.txt"), b"a"), ("file", Some("b.txt"), b"b")]), 400, "several_files");
    let whole = form(&[("file", Some("a.txt"), b"a")]);
    check(&whole[..whole.len() - 20], 400, "broken");
    check(b"", 400, "broken");
}

#[test]
fn a_body_that_is_no_form_is_refused() {
    let server = Server::start();
    let answer = server.send(b"POST /files HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 1\r\n\r\na");
    assert_eq!((answer.status, answer.json()["reason"].as_str()), (400, Some("not_a_form")));
}

#[test]
fn the_largest_allowed_file_is_accepted() {
    let server = Server::start();
    let answer = server.upload("a.txt", &vec![b'a'; MAX_BYTES as usize]);
    assert_eq!((answer.status, answer.json()["size"].as_u64()), (201, Some(MAX_BYTES)));
}

#[test]
fn an_upload_that_breaks_off_leaves_nothing() {
    let server = Server::start();
    let whole = form(&[("file", Some("a.txt"), &vec![b'a'; 30_000])]);
    let head = format!(
        "POST /files HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\ncontent-type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n",
        whole.len()
    );
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.write_all(&[head.as_bytes(), &whole[..20_000]].concat()).unwrap();
    until("the upload is being received", || server.on_disk() == 1);
    drop(stream);
    until("nothing is left of it", || server.on_disk() == 0);
}

fn until(what: &str, mut predicate: impl FnMut() -> bool) {
    let give_up = std::time::Instant::now() + Duration::from_secs(10);
    while !predicate() {
        assert!(std::time::Instant::now() < give_up, "{what} within 10 s");
        std::thread::yield_now();
    }
}

#[test]
fn files_are_listed_in_pages() {
    let server = Server::start();
    for name in ["b.txt", "a.txt", "ö.txt"] {
        assert_eq!(server.upload(name, b"x").status, 201);
    }
    let first = server.get("/files?limit=2").json();
    let names = |page: &serde_json::Value| -> Vec<String> {
        page["files"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&first), ["a.txt", "b.txt"]);
    let second = server.get(first["next"].as_str().unwrap()).json();
    assert_eq!((names(&second), &second["next"]), (vec!["ö.txt".to_owned()], &serde_json::Value::Null));
    assert_eq!(server.get("/files?limit=many").status, 400);
}

#[test]
fn nothing_outside_the_folder_is_served() {
    let server = Server::start();
    for path in ["/files/..%2f..%2fetc%2fpasswd", "/files/.receiving-1", "/files/missing.txt", "/files/%00.txt"] {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
}

#[test]
fn what_could_run_in_a_browser_is_only_downloaded() {
    let server = Server::start();
    server.upload("a.pdf", b"%PDF-1.7 and some more bytes");
    server.upload("a.txt", b"<script>alert(1)</script>");
    let check = |path: &str, disposition: &str, media_type: &str| {
        let headers = server.get(path).headers;
        assert!(headers["content-disposition"].starts_with(disposition), "{headers:?}");
        assert_eq!(headers["content-type"], media_type);
        assert_eq!(headers["content-security-policy"], "default-src 'none'; sandbox");
    };
    check("/files/a.pdf", "attachment", "application/pdf");
    check("/files/a.txt", "inline", "text/plain; charset=utf-8");
}

#[test]
fn browsers_get_pages() {
    let server = Server::start();
    let html = "text/html,application/xhtml+xml";
    let stored = server.post("/", html, &form(&[("file", Some("a b.txt"), b"a")]));
    assert_eq!((stored.status, stored.headers["location"].as_str()), (303, "/?stored=a_b.txt"));
    let page = server.get("/?stored=a_b.txt");
    assert!(page.text().contains("Stored as <strong>a_b.txt") && page.text().contains("href=\"/files/a_b.txt\""));
    assert!(!page.text().contains("<script") && !page.text().contains("http://"));
    let refused = server.post("/", html, &form(&[("file", Some("a.exe"), b"MZ")]));
    assert_eq!(refused.status, 415);
    assert!(refused.text().contains("role=\"alert\""));
    assert_eq!(server.get("/style.css").headers["content-type"], "text/css; charset=utf-8");
}

#[test]
fn ready_follows_the_volume_and_live_does_not() {
    let server = Server::start();
    assert_eq!((server.get("/ready").status, server.get("/live").status), (200, 200));
    std::fs::remove_dir_all(server.folder.path()).unwrap();
    assert_eq!((server.get("/ready").status, server.get("/live").status), (503, 200));
    assert_eq!(server.upload("a.txt", b"a").status, 500);
    std::fs::create_dir(server.folder.path()).unwrap();
    assert_eq!(server.get("/ready").status, 200);
}

#[test]
fn what_is_accepted_is_counted() {
    let server = Server::start();
    server.upload("a.txt", b"12345");
    server.upload("a.txt", b"12345");
    let text = server.get("/metrics").text();
    for line in
        ["uploads_files_total{extension=\"txt\"} 2", "uploads_accepted_bytes_total 10", "uploads_files_stored 2"]
    {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    drop(server.runtime);
}
