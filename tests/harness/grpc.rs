//! Calls of gRPC by curl, to what `tests/fixtures/grpc` serves.

use std::path::Path;
use std::time::Duration;

use crate::client::curl;
use crate::path;

/// How long the library of gRPC may take to be installed.
pub const INSTALLED: Duration = Duration::from_secs(480);

/// The messages that came, and all that was said in the head and behind the end.
#[derive(Debug)]
pub struct Called {
    pub message: Vec<u8>,
    pub said: String,
}

impl Called {
    /// The last of this name: what stands behind the end counts.
    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.said.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next_back()
    }

    /// What is in the frames of the answer.
    pub fn messages(&self) -> Vec<String> {
        let (mut framed, mut messages) = (&self.message[..], Vec::new());
        while let Some((head, rest)) = framed.split_first_chunk::<5>() {
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
            let (message, rest) = rest.split_at(usize::try_from(length).expect("a short message"));
            messages.push(String::from_utf8_lossy(message).into_owned());
            framed = rest;
        }
        messages
    }
}

/// One message to `test.Echo/METHOD`. `folder`: of the test, for what curl reads and writes.
pub fn call((ca, folder): (&Path, &Path), url: &str, method: &str, message: &[u8], more: &[&str]) -> Called {
    let (sent, head) = (folder.join("sent"), folder.join("head"));
    let length = u32::try_from(message.len()).expect("a short message").to_be_bytes();
    std::fs::write(&sent, [&[0][..], &length, message].concat()).expect("a file of the test");
    let fields = ["-H", "content-type: application/grpc", "-H", "te: trailers"];
    let data = format!("@{}", path(&sent));
    let args = [&["--http2", "-D", path(&head), "--data-binary", &data][..], &fields, more].concat();
    let answer = curl(ca, &format!("{url}/test.Echo/{method}"), &args);
    assert_eq!((answer.status, answer.version.as_str()), (200, "2"), "{method}");
    Called { message: answer.body, said: std::fs::read_to_string(&head).expect("curl has written it") }
}
