//! Where a proxy's log goes that writes none to a file itself: HAProxy hands its lines over in batches to whoever listens. What did not fit into its
//! ring it counts, and says in a line of its own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use memchr::memmem;

/// Longer than what HAProxy says of lost lines, with the end of the line before it.
const LONGEST: usize = 64;

/// A thread that writes to a file what comes, for as long as this process lives.
pub(super) struct Sink {
    pub(super) address: SocketAddr,
    lost: Arc<AtomicU64>,
}

impl Sink {
    pub(super) fn start(file: &Path) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let mut file = std::fs::File::create(file)?;
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        std::thread::Builder::new().name("log-sink".to_owned()).spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok((mut stream, _)) = listener.accept() {
                // Of what was read before, the end: something said may come in two pieces.
                let mut kept = 0;
                // A sender that is gone is followed by its successor's connection.
                while let Ok(n @ 1..) = stream.read(&mut buffer[kept..]) {
                    let all = kept + n;
                    if file.write_all(&buffer[kept..all]).is_err() {
                        return;
                    }
                    counted.fetch_add(lost_lines(&buffer[..all], kept), Ordering::Relaxed);
                    let start = all.saturating_sub(LONGEST);
                    buffer.copy_within(start..all, 0);
                    kept = all - start;
                }
            }
        })?;
        Ok(Self { address, lost })
    }

    /// Lines that the proxy has dropped so far, as it says.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// How many lines were lost by what is said there, `1 event dropped` or `12 events dropped`, and was not whole in the first `seen` bytes.
fn lost_lines(text: &[u8], seen: usize) -> u64 {
    const SAID: &[u8] = b" dropped\n";
    let line = |end: usize| {
        let said = &text[..end];
        let start = memchr::memrchr(b'\n', said).map_or(0, |before| before + 1);
        let (count, what) = std::str::from_utf8(&said[start..]).ok()?.split_once(' ')?;
        count.parse::<u64>().ok().filter(|_| matches!(what, "event" | "events"))
    };
    memmem::find_iter(text, SAID).filter(|at| at + SAID.len() > seen).filter_map(line).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lost_is_counted_once_however_it_comes() {
        let said: &[u8] =
            b"{\"path\":\"/a\"}\n12 events dropped\n{\"path\":\"/ events dropped\"}\n1 event dropped\n{}\n";
        assert_eq!(lost_lines(said, 0), 13);
        for cut in 0..said.len() {
            let start = cut.saturating_sub(LONGEST);
            let second = lost_lines(&said[start..], cut - start);
            assert_eq!(lost_lines(&said[..cut], 0) + second, 13, "cut at {cut}");
        }
        assert_eq!(lost_lines(b"a dozen events dropped\n", 0), 0);
    }
}
