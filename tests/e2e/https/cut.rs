//! A folder whose way to the server is cut.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use bowline_tests::client::curl;
use bowline_tests::whole::entries;
use bowline_tests::{SOON, path, text, wait};

use super::{Outside, app, port};

/// Files of [`SIZE`] bytes.
const FILES: u8 = 12;
const SIZE: u64 = 1 << 20;

/// What gets through. Four files are under way at once, and have less than their four MiB of it: two at least have arrived.
const THROUGH: u64 = 6 << 20;

/// A way to a port of this machine, on which everything stands still once clients have sent so much.
struct Way {
    port: u16,
    held: Arc<Mutex<Held>>,
}

struct Held {
    left: u64,
    sockets: Vec<TcpStream>,
}

impl Way {
    fn to(port: &str, most: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let held = Arc::new(Mutex::new(Held { left: most, sockets: Vec::new() }));
        let way = Self { port: listener.local_addr().expect("bound").port(), held: Arc::clone(&held) };
        let address = format!("127.0.0.1:{port}");
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(&address).expect("the edge listens");
                let (mut from, mut to) = (server.try_clone().expect("a socket"), client.try_clone().expect("a socket"));
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
                let held = Arc::clone(&held);
                std::thread::spawn(move || pass(client, server, &held));
            }
        });
        way
    }

    fn stands_still(&self) -> bool {
        self.held.lock().expect("no panic while it is held").left == 0
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        for socket in &self.held.lock().expect("no panic while it is held").sockets {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

fn pass(mut client: TcpStream, mut server: TcpStream, held: &Mutex<Held>) {
    let mut some = [0; 16 << 10];
    while let Ok(length @ 1..) = client.read(&mut some) {
        let mut held = held.lock().expect("no panic while it is held");
        held.left = held.left.saturating_sub(length as u64);
        if held.left == 0 {
            // Open, so that nobody is told.
            held.sockets.extend([client, server]);
            return;
        }
        drop(held);
        if server.write_all(&some[..length]).is_err() {
            return;
        }
    }
}

#[test]
fn a_deploy_that_was_cut_off_goes_on_where_it_was() {
    let outside = Outside::start();
    let token = outside.token("ci", &["--role", "deployer", "--app", "https-cut", "--env", "production"]);
    let folder = app(&outside.bowline, "https-cut");
    for number in 0..FILES {
        let content = vec![number; usize::try_from(SIZE).expect("small")];
        std::fs::write(folder.join(format!("part-{number}.bin")), content).expect("a file of the test");
    }
    // A release that comes out has had every file whole.
    let sums = Command::new("sh").args(["-c", "sha256sum *.bin *.py > SUMS"]).current_dir(&folder).status();
    assert!(sums.expect("a shell").success());
    let file = folder.join("bowline.toml");
    let plain = std::fs::read_to_string(&file).expect("the app's file");
    let checked = plain.replacen("[service.web]", "[service.web]\nbuild = \"sha256sum --check SUMS\"", 1);
    std::fs::write(&file, checked).expect("a file of the test");

    let deploy = ["deploy", path(&folder), "--env", "production"];
    let way = Way::to(port(&outside.url), THROUGH);
    let mut cut = outside.command(&token, &deploy);
    // The last one counts.
    cut.args(["--to", &format!("https://bowline-api.localhost:{}", way.port)]);
    let mut cut = cut.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary runs");
    wait("the way stands still", SOON, || way.stands_still().then_some(()));
    let contents = outside.bowline.state().join("sources/.contents/production/https-cut");
    let arrived = || entries(&contents).iter().filter(|name| name.len() == 64).count() as u64;
    wait("two files have arrived", SOON, || (arrived() >= 2).then_some(()));
    assert!(cut.try_wait().expect("a child of this test").is_none(), "it is in the middle");
    cut.kill().and_then(|()| cut.wait()).expect("a child of this test");
    drop(way);
    let arrived = arrived();

    let again = outside.run(&token, &[&deploy[..], &["--json"]].concat());
    assert!(again.status.success(), "{}", text(&again));
    let said = String::from_utf8_lossy(&again.stdout).into_owned();
    let steps: Vec<serde_json::Value> = said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of_kind = |kind: &str| steps.iter().find(|step| step["kind"] == kind).unwrap_or_else(|| panic!("{steps:#?}"));
    let number = |key: &str| of_kind("sent")[key].as_u64().expect("a number");
    // Small files are among those that have arrived, perhaps.
    let all = u64::from(FILES) * SIZE;
    assert!(number("total") > all && number("bytes") > 0, "{steps:#?}");
    assert!(number("bytes") <= number("total") - SIZE, "one at least is not sent again: {steps:#?}");
    let files = entries(&folder).len() as u64;
    assert!(number("files") <= files - arrived, "{arrived} of {files} were there: {steps:#?}");
    assert_eq!(of_kind("ready")["release"], 1);
    let urls = of_kind("ready")["urls"].as_array().expect("urls");
    let url = urls.iter().filter_map(|url| url.as_str()).find(|url| url.starts_with("https://")).expect("an URL");
    assert_eq!(curl(&outside.bowline.ca(), url, &[]).status, 200);
}
