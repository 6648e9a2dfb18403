//! Pebble, the ACME server that is made for tests of clients, with a name server that leads every name to loopback.

use std::net::{TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bowline_tests::port::Port;
use bowline_tests::{SOON, path, wait};
use serde_json::json;

use crate::elsewhere::servers::Authority;

/// Answers whoever asks for any name.
#[derive(Debug)]
struct Names {
    port: u16,
}

impl Names {
    fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let port = socket.local_addr().expect("it is bound").port();
        std::thread::spawn(move || {
            let mut question = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut question) {
                if let Some(answer) = answer(&question[..length]) {
                    // Whoever asked may have gone.
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Self { port }
    }
}

/// 127.0.0.1 for the type A, and nothing of any other type (RFC 1035, 4.1).
fn answer(question: &[u8]) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    let name = question.get(HEADER..)?.iter().position(|byte| *byte == 0)?;
    let end = HEADER + name + 1 + 4;
    let kind = question.get(end - 4..end - 2)?;
    let is_address = kind == [0, 1];
    let mut answer = question.get(..end)?.to_vec();
    // A response, authoritative, recursion desired and available, no error; one question, maybe one answer, nothing else.
    answer[2..HEADER].copy_from_slice(&[0x85, 0x80, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0]);
    if is_address {
        // The name of the question; type A, class IN, one second, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, 127, 0, 0, 1]);
    }
    Some(answer)
}

pub(super) struct Pebble {
    authority: Authority,
    names: Names,
    port: Port,
    management: Port,
    /// Of certificates, in seconds.
    pub(super) life: u64,
    child: Option<Child>,
}

impl Pebble {
    /// It does not run yet.
    pub(super) fn plan() -> Self {
        let (port, management) = (Port::reserve(), Port::reserve());
        Self { authority: Authority::new(), names: Names::start(), port, management, life: 86_400 * 90, child: None }
    }

    pub(super) fn directory(&self) -> String {
        format!("https://localhost:{}/dir", self.port.number)
    }

    /// Of its own server.
    pub(super) fn ca(&self) -> PathBuf {
        self.authority.folder().join("ca.pem")
    }

    /// Asks there over HTTP and in handshakes. It forgets all that it knew before.
    pub(super) fn start(&mut self, http: u16, https: u16) {
        self.stop();
        let folder = self.authority.folder();
        let config = json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{}", self.port.number),
            "managementListenAddress": format!("127.0.0.1:{}", self.management.number),
            "certificate": folder.join("server.pem"),
            "privateKey": folder.join("server.key"),
            "httpPort": http,
            "tlsPort": https,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
            "certificateValidityPeriod": self.life,
        }});
        let file = folder.join("pebble.json");
        std::fs::write(&file, config.to_string()).expect("a file of the test");
        let log = std::fs::File::create(folder.join("pebble.log")).expect("a file of the test");
        let names = format!("127.0.0.1:{}", self.names.port);
        let child = Command::new("pebble")
            .args(["-config", path(&file), "-dnsserver", &names])
            .env("PEBBLE_VA_NOSLEEP", "1")
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .expect("pebble is installed by scripts/setup");
        self.child = Some(child);
        let listens = |port| TcpStream::connect(("127.0.0.1", port)).is_ok();
        wait("pebble listens", SOON, || (listens(self.port.number) && listens(self.management.number)).then_some(()));
    }

    pub(super) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// The root that it signs with, which it makes anew at each start.
    pub(super) fn root(&self) -> PathBuf {
        let root = self.authority.folder().join("root.pem");
        fetch(&self.ca(), &format!("https://localhost:{}/roots/0", self.management.number), &root);
        root
    }
}

impl Drop for Pebble {
    fn drop(&mut self) {
        self.stop();
    }
}

fn fetch(ca: &Path, url: &str, to: &Path) {
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--cacert", path(ca), "--output", path(to), url])
        .output();
    let output = output.expect("curl is installed by scripts/setup");
    assert!(output.status.success(), "{url}: {}", bowline_tests::text(&output));
}
