//! The console over the admin port.

use super::*;

/// An answer that goes on, as it is read.
struct Live {
    stream: tokio::net::TcpStream,
    seen: String,
}

impl Live {
    async fn open(admin: SocketAddr, headers: &str) -> Self {
        let mut stream = tokio::net::TcpStream::connect(admin).await.unwrap();
        let request = format!("GET /console/live HTTP/1.1\r\nHost: {admin}\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut live = Self { stream, seen: String::new() };
        live.until("\r\n\r\n").await;
        live
    }

    /// Reads until this was said, and answers whether it was before the end.
    async fn until(&mut self, text: &str) -> bool {
        let mut bytes = vec![0; 64 * 1024];
        while !self.seen.contains(text) {
            match within(self.stream.read(&mut bytes)).await.unwrap() {
                0 => return false,
                n => self.seen.push_str(&String::from_utf8_lossy(&bytes[..n])),
            }
        }
        true
    }

    fn status(&self) -> &str {
        self.seen.split(' ').nth(1).unwrap_or_default()
    }
}

#[tokio::test]
async fn the_console_is_told_what_runs_as_it_changes_and_that_the_daemon_ends() {
    let dir = tempfile::tempdir().unwrap();
    let room = start(dir.path());
    write_app(dir.path());
    let mut live = Live::open(room.admin, "Sec-Fetch-Site: same-origin\r\n").await;
    assert_eq!(live.status(), "200");
    assert!(live.until("\"apps\":[]").await && live.until("event: traffic\ndata: {").await, "{}", live.seen);
    within(room.client.set_secret("local", "shop", "token", CANARY.into())).await.unwrap();
    within(applied(&room, dir.path())).await;
    for told in [
        "\"name\":\"shop\",\"state\":\"ready\",\"release\":1",
        "\"event\":\"rollout.done\"",
        "\"cpu_us\":2500000",
        "\"releases\":[{\"number\":1,",
    ] {
        assert!(live.until(told).await, "{told}: {}", live.seen);
    }
    for (what, secret) in
        [("a secret", CANARY), ("where the folder lies", dir.path().to_str().unwrap()), ("a process", "\"pid\"")]
    {
        assert!(!live.seen.contains(secret), "{what} is nothing for everyone: {}", live.seen);
    }
    within(room.client.shutdown()).await.unwrap();
    assert!(live.until("event: ended").await, "{}", live.seen);
    assert!(!live.until("nothing more").await, "the stream is over");
}

#[tokio::test]
async fn the_console_answers_its_own_page_and_takes_no_more_than_it_has_seats_for() {
    let dir = tempfile::tempdir().unwrap();
    let room = start(dir.path());
    let page = get(room.admin, "/", "localhost", "text/html").await;
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("/console/main.js"), "{page}");
    assert!(page.contains("content-security-policy: default-src 'none'; script-src 'self';"), "{page}");
    assert!(get(room.admin, "/", "evil.example", "*/*").await.starts_with("HTTP/1.1 403"));
    assert!(get(room.admin, "/console/live", "evil.example", "*/*").await.starts_with("HTTP/1.1 403"));
    assert!(get(room.admin, "/console/main.js", "localhost", "*/*").await.contains("content-type: text/javascript"));
    assert!(get(room.admin, "/console/..%2f..%2fCargo.toml", "localhost", "*/*").await.starts_with("HTTP/1.1 404"));
    for site in ["cross-site", "same-site"] {
        let refused = Live::open(room.admin, &format!("Sec-Fetch-Site: {site}\r\n")).await;
        assert_eq!(refused.status(), "403", "{site}");
    }
    let mut seats = Vec::new();
    let mut refused = loop {
        let live = Live::open(room.admin, "").await;
        if live.status() != "200" {
            break live;
        }
        seats.push(live);
    };
    assert_eq!((seats.len(), refused.status()), (16, "503"));
    assert!(refused.until("close one of them").await, "{}", refused.seen);
    seats.pop();
    let seated = async {
        while Live::open(room.admin, "").await.status() != "200" {
            tokio::task::yield_now().await;
        }
    };
    within(seated).await;
    within(room.client.shutdown()).await.unwrap();
}
