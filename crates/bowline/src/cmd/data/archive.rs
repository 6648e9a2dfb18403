//! What a volume elsewhere is filled with: a folder or an archive of this machine, as one archive of tar that is not compressed.
//!
//! Nothing is kept on the way: a folder is read, and an archive unpacked, as it is sent.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bowline_core::fault::{Fault, FaultKind};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Child;
use tokio::task::JoinHandle;

use super::client::program;

/// One read of what is sent.
const PART: usize = 64 << 10;

pub(super) struct Archive {
    path: PathBuf,
    form: Form,
    /// In bytes, this time.
    sent: Arc<AtomicU64>,
    /// Why it could not be read to its end.
    trouble: Arc<Mutex<Option<Fault>>>,
}

enum Form {
    Folder,
    Plain,
    /// By which program it is unpacked, and in which package that is.
    Packed(&'static str, &'static str),
}

impl Archive {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let form = match path.is_dir() {
            true => Form::Folder,
            false => {
                let mut head = Vec::new();
                File::open(path)?.take(8).read_to_end(&mut head)?;
                unpacked_by(&head).map_or(Form::Plain, |(name, package)| Form::Packed(name, package))
            }
        };
        Ok(Self { path: path.to_owned(), form, sent: Arc::default(), trouble: Arc::default() })
    }

    /// Bytes that were read of it.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes that it has, where that is known before.
    pub(super) fn size(&self) -> Option<u64> {
        match self.form {
            Form::Plain => self.path.metadata().ok().map(|meta| meta.len()),
            Form::Folder | Form::Packed(..) => None,
        }
    }

    /// Why reading it has failed.
    pub(super) fn trouble(&self) -> Option<Fault> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// From its beginning.
    pub(super) fn parts(&self) -> io::Result<impl Stream<Item = io::Result<Bytes>> + Send + 'static> {
        let (sent, trouble, path) = (Arc::clone(&self.sent), Arc::clone(&self.trouble), self.path.clone());
        let keep = move |fault: Fault| {
            let error = io::Error::other(fault.message.clone());
            *trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
            error
        };
        let reading = self.begin().map_err(&keep)?;
        sent.store(0, Ordering::Relaxed);
        Ok(stream::try_unfold((reading, keep), move |(mut reading, keep)| {
            let (sent, path) = (Arc::clone(&sent), path.clone());
            async move {
                let mut part = BytesMut::with_capacity(PART);
                let read = reading.from.read_buf(&mut part).await;
                let length = read.map_err(|error| keep(failed(&path).source(&error)))?;
                sent.fetch_add(length as u64, Ordering::Relaxed);
                if length > 0 {
                    return Ok(Some((part.freeze(), (reading, keep))));
                }
                match reading.by {
                    Some(by) => by.ended(&path).await.map(|()| None).map_err(keep),
                    None => Ok(None),
                }
            }
        }))
    }

    fn begin(&self) -> Result<Reading, Fault> {
        let command = match self.form {
            Form::Plain => {
                let file = File::open(&self.path).map_err(|error| failed(&self.path).source(&error))?;
                return Ok(Reading { from: Box::new(tokio::fs::File::from_std(file)), by: None });
            }
            Form::Folder => {
                let mut tar = program(&["tar"], "tar")?;
                tar.args(["-c", "-f", "-", "-C"]).arg(&self.path).arg(".");
                tar
            }
            Form::Packed(name, package) => {
                let mut unpack = program(&[name], package)?;
                unpack.args(["-d", "-c"]).arg(&self.path);
                unpack
            }
        };
        self.run(command)
    }

    fn run(&self, mut command: Command) -> Result<Reading, Fault> {
        let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut command = tokio::process::Command::from(command);
        let mut child = command
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(&self.path).caused_by(format!("cannot run {name}")).source(&error))?;
        let from = child.stdout.take().expect("it was asked to be a pipe");
        let words = tokio::spawn(bowline_node::last_words(child.stderr.take().expect("it was asked to be a pipe")));
        Ok(Reading { from: Box::new(from), by: Some(By { name, child, words }) })
    }
}

/// What is read, and the program that it comes from.
struct Reading {
    from: Box<dyn AsyncRead + Send + Unpin>,
    by: Option<By>,
}

struct By {
    name: String,
    /// Killed with it.
    child: Child,
    words: JoinHandle<Vec<u8>>,
}

impl By {
    async fn ended(mut self, path: &Path) -> Result<(), Fault> {
        let status = self.child.wait().await.map_err(|error| failed(path).source(&error))?;
        if status.success() {
            return Ok(());
        }
        let said = self.words.await.unwrap_or_default();
        Err(failed(path).caused_by(format!("{} ended with {status}", self.name)).said(&said))
    }
}

fn failed(path: &Path) -> Fault {
    Fault::new(FaultKind::Failed, format!("{} cannot be sent", path.display()))
        .hint("mend that, or wait until nothing writes there, and run the command again; the volume is as it was")
}

/// By the first bytes of a file: the program, and its package.
fn unpacked_by(head: &[u8]) -> Option<(&'static str, &'static str)> {
    match head {
        [0x1f, 0x8b, ..] => Some(("gzip", "gzip")),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(("zstd", "zstd")),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(("xz", "xz-utils")),
        [b'B', b'Z', b'h', ..] => Some(("bzip2", "bzip2")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt;

    use super::*;

    async fn whole(archive: &Archive) -> io::Result<Vec<u8>> {
        let parts: Vec<Bytes> = archive.parts()?.try_collect().await?;
        Ok(parts.concat())
    }

    #[tokio::test]
    async fn folders_and_archives_become_one_archive_each_time_that_they_are_sent() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("folder");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("a"), "content of a").unwrap();
        let archive = Archive::of(&folder).unwrap();
        let sent = whole(&archive).await.unwrap();
        assert!(sent.len() % 512 == 0 && sent.windows(12).any(|text| text == b"content of a"));
        assert_eq!((whole(&archive).await.unwrap(), archive.sent()), (sent.clone(), sent.len() as u64));

        let plain = dir.path().join("plain.tar");
        std::fs::write(&plain, &sent).unwrap();
        let archive = Archive::of(&plain).unwrap();
        assert_eq!((whole(&archive).await.unwrap(), archive.size()), (sent.clone(), Some(sent.len() as u64)));

        assert!(Command::new("gzip").arg(&plain).status().unwrap().success());
        let packed = dir.path().join("plain.tar.gz");
        let archive = Archive::of(&packed).unwrap();
        assert_eq!((whole(&archive).await.unwrap(), archive.size()), (sent, None));

        // Cut off within.
        let half = std::fs::metadata(&packed).unwrap().len() / 2;
        File::options().write(true).open(&packed).unwrap().set_len(half).unwrap();
        assert!(whole(&archive).await.is_err(), "what is no whole archive is not sent as one");
        let trouble = archive.trouble().unwrap();
        assert!(trouble.causes[0].contains("gzip ended with") && trouble.detail.is_some(), "{trouble:?}");
    }
}
