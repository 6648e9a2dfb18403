//! Where a proxy's log goes that writes none to a file itself: HAProxy hands its lines over in batches to whoever listens.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

/// A thread that writes to a file what comes, for as long as this process lives.
pub(super) struct Sink {
    pub(super) address: SocketAddr,
}

impl Sink {
    pub(super) fn start(file: &Path) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let mut file = std::fs::File::create(file)?;
        std::thread::Builder::new().name("log-sink".to_owned()).spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok((mut stream, _)) = listener.accept() {
                // A sender that is gone is followed by its successor's connection.
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    if file.write_all(&buffer[..n]).is_err() {
                        return;
                    }
                }
            }
        })?;
        Ok(Self { address })
    }
}
