//! What is still to be sent of a file: read in place where memory has it, else by a thread that may hang.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::medium::Medium;
use crate::answer::Reason;
use crate::disk::{Ask, Disk, Lent, Wait};
use crate::worker::BUFFER;

/// A file that is open. Where closing it may wait, a thread does it.
#[derive(Debug)]
pub(crate) struct Kept {
    /// `None`: no longer.
    file: Option<Arc<File>>,
    medium: Medium,
    /// Its file system does not say what memory has.
    refuses: bool,
    disk: Disk,
}

impl Kept {
    pub(crate) fn new(disk: &Disk, file: File, medium: Medium) -> Self {
        Self { file: Some(Arc::new(file)), medium, refuses: false, disk: disk.clone() }
    }

    /// Reads what lies in memory already, and never waits; `None`: nothing does, or that is not known of this file system. What is served
    /// often needs no other thread.
    fn read_in_place(&mut self, buffer: &mut [u8], at: u64) -> Option<usize> {
        let file = self.file.as_ref().filter(|_| !self.refuses)?;
        let read = match self.medium {
            Medium::Memory => read(file, buffer, at).ok(),
            Medium::Disk | Medium::Elsewhere => {
                let read = preadv2(file, &mut [IoSliceMut::new(buffer)], at, ReadWriteFlags::NOWAIT);
                self.refuses = read == Err(Errno::OPNOTSUPP);
                read.ok()
            }
        };
        // At an end that comes too early, whoever may wait says what is wrong.
        read.filter(|read| *read > 0)
    }

    /// The same in a thread, to which the buffer is lent.
    async fn read(&self, wait: Wait<'_>, mut lent: Vec<u8>, at: u64) -> Result<(Vec<u8>, io::Result<usize>), Reason> {
        let file = self.file.clone().ok_or(Reason::Internal)?;
        let work = move || {
            let read = read(&file, &mut lent, at);
            (lent, read)
        };
        self.disk.run(Ask::Piece, wait, work).await
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Whoever still reads it is a thread, and closes it.
        if let Some(file) = self.file.take().and_then(Arc::into_inner)
            && self.medium == Medium::Elsewhere
        {
            self.disk.close(file);
        }
    }
}

/// What is still to be sent of a file.
#[derive(Debug)]
pub(crate) struct Rest {
    file: Kept,
    at: u64,
    left: u64,
    buffer: Vec<u8>,
    /// What the buffer holds, and how much of that has been sent.
    read: usize,
    sent: usize,
    /// It may be [`AHEAD`] long.
    ahead: Option<Lent>,
}

/// What a thread reads at once where each piece needs one; elsewhere the kernel reads ahead.
const AHEAD: usize = 128 << 10;

/// So many at once, which a client keeps for as long as it takes to read them; more read shorter pieces.
const AHEADS: usize = 64;

impl Rest {
    /// So much from there on, read into this buffer.
    pub(crate) fn new(file: Kept, (at, left): (u64, u64), buffer: Vec<u8>) -> Self {
        Self { file, at, left, buffer, read: 0, sent: 0, ahead: None }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.left == 0
    }

    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }

    /// The next piece, of at most [`BUFFER`].
    pub(crate) async fn next(&mut self, wait: Wait<'_>) -> Result<&[u8], Reason> {
        if self.sent == self.read {
            self.read = self.fill(wait).await?;
            self.sent = 0;
            self.at += self.read as u64;
        }
        let from = self.sent;
        self.sent = self.read.min(from + BUFFER);
        self.left -= (self.sent - from) as u64;
        Ok(&self.buffer[from..self.sent])
    }

    async fn fill(&mut self, wait: Wait<'_>) -> Result<usize, Reason> {
        self.resize();
        if let Some(read) = self.file.read_in_place(&mut self.buffer, self.at) {
            return Ok(read);
        }
        self.resize();
        let lent = std::mem::take(&mut self.buffer);
        let (lent, read) = self.file.read(wait, lent, self.at).await?;
        self.buffer = lent;
        match read {
            // Release folders do not change; if a file shrinks all the same, the answer is cut.
            Ok(0) => Err(Reason::FileUnreadable),
            Ok(read) => Ok(read),
            Err(error) => {
                tracing::warn!(%error, "a file cannot be read");
                Err(Reason::FileUnreadable)
            }
        }
    }

    fn resize(&mut self) {
        if self.file.refuses && self.ahead.is_none() {
            self.ahead = self.file.disk.lend(AHEADS);
        }
        let most = if self.ahead.is_some() { AHEAD } else { BUFFER };
        self.buffer.resize(usize::try_from(self.left).unwrap_or(most).min(most), 0);
    }
}

fn read(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => break read,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, pipe};
    use std::os::fd::OwnedFd;
    use std::rc::Rc;
    use std::task::Poll;
    use std::time::Duration;

    use super::*;
    use crate::deadline::Sweep;
    use crate::disk::{THREADS, with_threads};

    #[test]
    fn what_may_wait_when_it_is_closed_is_closed_by_a_thread() {
        with_threads(async {
            let disk = Disk::default();
            let file = || {
                let (reader, writer) = pipe().expect("a pipe");
                (reader, File::from(OwnedFd::from(writer)))
            };
            let ((mut here, at_once), (mut elsewhere, later)) = (file(), file());
            let held = disk.hold(THREADS);
            drop(Kept::new(&disk, at_once, Medium::Disk));
            assert_eq!(here.read(&mut [0]).expect("it is closed"), 0);
            drop(Kept::new(&disk, later, Medium::Elsewhere));
            assert_eq!(disk.under_way(), THREADS + 1);
            drop(held);
            assert_eq!(elsewhere.read(&mut [0]).expect("it is closed"), 0);
        });
    }

    /// All of it from there on, piece by piece; `Err`: what had come until it was cut.
    async fn all(rest: &mut Rest, between: impl Fn(usize)) -> Result<Vec<u8>, (Vec<u8>, Reason)> {
        let (sweep, mut all) = (Rc::<Sweep>::default(), Vec::new());
        let deadline = sweep.deadline();
        while !rest.is_empty() {
            let wait = Wait { deadline: &deadline, within: Duration::from_secs(2), gone: &mut |_| Poll::Pending };
            match rest.next(wait).await {
                Ok(piece) => {
                    assert!((1..=BUFFER).contains(&piece.len()), "{}", piece.len());
                    all.extend_from_slice(piece);
                }
                Err(reason) => return Err((all, reason)),
            }
            between(all.len());
        }
        Ok(all)
    }

    /// A file, and what is to be sent of it from 5 on. Of a file system that refuses, each piece takes a thread.
    fn begun(disk: &Disk, refuses: bool) -> (tempfile::NamedTempFile, Vec<u8>, Rest) {
        let contents: Vec<u8> = (0..300_001_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let named = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(named.path(), &contents).unwrap();
        let file = File::open(named.path()).unwrap();
        let mut kept = Kept::new(disk, file, Medium::Disk);
        kept.refuses = refuses;
        let left = contents.len() as u64 - 5;
        (named, contents[5..].to_vec(), Rest::new(kept, (5, left), Vec::new()))
    }

    #[test]
    fn a_file_comes_whole_whoever_reads_it_and_is_cut_where_it_shrinks() {
        with_threads(async {
            let disk = Disk::default();
            for refuses in [false, true] {
                let (_file, contents, mut rest) = begun(&disk, refuses);
                assert!(all(&mut rest, |_| ()).await.unwrap() == contents, "{refuses}");
                let (file, contents, mut rest) = begun(&disk, refuses);
                let (came, reason) = all(&mut rest, |_| file.as_file().set_len(150_000).unwrap()).await.unwrap_err();
                assert_eq!(reason, Reason::FileUnreadable);
                assert!(came.len() < contents.len() && contents.starts_with(&came), "{} bytes", came.len());
            }
        });
    }

    #[test]
    fn long_buffers_are_bounded_in_number() {
        with_threads(async {
            let disk = Disk::default();
            let taken: Vec<_> = (0..AHEADS).map(|_| disk.lend(AHEADS).expect("there are as many")).collect();
            let (_file, contents, mut rest) = begun(&disk, true);
            assert!(all(&mut rest, |_| ()).await.unwrap() == contents);
            assert!(rest.into_buffer().capacity() < 2 * BUFFER);
            drop(taken);
            let (_file, contents, mut rest) = begun(&disk, true);
            assert!(all(&mut rest, |_| ()).await.unwrap() == contents);
            assert!(rest.into_buffer().capacity() >= AHEAD);
            assert_eq!((0..=AHEADS).map_while(|_| disk.lend(AHEADS)).collect::<Vec<_>>().len(), AHEADS);
        });
    }
}
