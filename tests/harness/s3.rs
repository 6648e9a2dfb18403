//! A real server of S3, for apps that keep their files in a bucket.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::port::Port;
use crate::tool;

const KEY: &str = "key";
/// As real ones have characters that mean something in a URL.
const SECRET: &str = "secret/of+it";

/// versitygw over a folder, with one bucket.
#[derive(Debug)]
pub struct S3 {
    child: Child,
    port: Port,
    folder: tempfile::TempDir,
}

impl S3 {
    pub fn start(bucket: &str) -> Self {
        let (folder, port) = (tempfile::tempdir().expect("a folder"), Port::reserve());
        for name in ["files", "sidecar"] {
            std::fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        let mut command = Command::new(tool("versitygw"));
        command.args(["--quiet", "--port", &format!("127.0.0.1:{}", port.number), "posix", "--sidecar"]);
        command.arg(folder.path().join("sidecar")).arg(folder.path().join("files"));
        command.env("ROOT_ACCESS_KEY", KEY).env("ROOT_SECRET_KEY", SECRET);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the server starts");
        let s3 = Self { child, port, folder };
        s3.make(bucket);
        s3
    }

    fn make(&self, bucket: &str) {
        /// SHA-256 of nothing.
        const NOTHING: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let url = format!("http://127.0.0.1:{}/{bucket}", self.port.number);
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let mut put = Command::new("curl");
            put.args(["-sSf", "-X", "PUT", "-H", &format!("x-amz-content-sha256: {NOTHING}")]);
            put.args(["--aws-sigv4", "aws:amz:us-east-1:s3", "--user", &format!("{KEY}:{SECRET}"), &url]);
            put.args(["--retry", "100", "--retry-connrefused", "--retry-delay", "1", "--retry-max-time", "20"]);
            let made = put.output().expect("curl runs");
            if made.status.success() {
                return;
            }
            assert!(Instant::now() < deadline, "{}", String::from_utf8_lossy(&made.stderr));
        }
    }

    /// With its keys.
    pub fn url(&self, bucket: &str) -> String {
        let secret = SECRET.replace('/', "%2F").replace('+', "%2B");
        format!("http://{KEY}:{secret}@127.0.0.1:{}/{bucket}", self.port.number)
    }

    /// Where the bucket's files lie.
    pub fn folder(&self, bucket: &str) -> PathBuf {
        self.folder.path().join("files").join(bucket)
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
