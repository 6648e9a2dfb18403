//! `bowline-bench forward epoll|current|multi --upstream ADDRESS [--threads COUNT]`: what stands between a client and an app and looks at nothing that
//! passes. It says the port at which it listens, and forwards until it is ended.

mod polled;
mod tasks;
#[cfg(test)]
mod tests;

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Stdio};

use anyhow::{Context, bail};
use nix::sys::signal::Signal;

use crate::{peer, say};

/// How bytes are moved. Each client's connection has one of its own to the app, and both stay with one thread or one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// An epoll loop over raw sockets for each thread.
    Epoll,
    /// A current-thread runtime for each thread, the listening socket shared, as the edge does it.
    Current,
    /// One runtime with so many threads, which take tasks from each other.
    Multi,
}

impl Form {
    const ALL: [Self; 3] = [Self::Epoll, Self::Current, Self::Multi];

    fn word(self) -> &'static str {
        match self {
            Self::Epoll => "epoll",
            Self::Current => "current",
            Self::Multi => "multi",
        }
    }

    /// Does not end by itself.
    fn serve(self, listener: TcpListener, upstream: SocketAddr, threads: usize) -> anyhow::Result<()> {
        listener.set_nonblocking(true)?;
        match self {
            Self::Epoll => on_each(threads, &listener, move |listener| polled::serve(&listener, upstream)),
            Self::Current => on_each(threads, &listener, move |listener| tasks::on_this_thread(listener, upstream)),
            Self::Multi => tasks::on_workers(threads, listener, upstream),
        }
    }

    /// A process of its own, on these cores.
    pub(crate) fn start(self, upstream: SocketAddr, threads: usize, cores: &[usize]) -> anyhow::Result<Forwarder> {
        let mut command = peer::on_cores(cores);
        command.arg(std::env::current_exe()?).args(["forward", self.word(), "--upstream", &upstream.to_string()]);
        command.args(["--threads", &threads.to_string()]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
        let said = child.stdout.take().context("its output")?;
        let mut forwarder = Forwarder { child, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line)?;
        forwarder.address.set_port(line.trim().parse().context("a forwarder said no port")?);
        Ok(forwarder)
    }
}

/// A forwarder that runs. It ends with this.
#[derive(Debug)]
pub(crate) struct Forwarder {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process of a forwarder.
pub(crate) fn run(mut args: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let word = args.next().unwrap_or_default();
    let known = Form::ALL.into_iter().find(|form| form.word() == word);
    let form = known.with_context(|| format!("`{word}` is not known; say epoll, current or multi"))?;
    let (mut upstream, mut threads) = (None, 1);
    while let Some(word) = args.next() {
        let value = args.next().with_context(|| format!("`{word}` of what?"))?;
        match word.as_str() {
            "--upstream" => upstream = Some(value.parse().context("--upstream")?),
            "--threads" => threads = value.parse().context("--threads")?,
            other => bail!("`{other}` is not known; say --upstream ADDRESS or --threads COUNT"),
        }
    }
    let upstream = upstream.context("say --upstream ADDRESS")?;
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    say(&listener.local_addr()?.port().to_string());
    form.serve(listener, upstream, threads)
}

/// The same on so many threads; ends when one of them does.
fn on_each(
    threads: usize,
    listener: &TcpListener,
    serve: impl Fn(TcpListener) -> anyhow::Result<()> + Send + Clone + 'static,
) -> anyhow::Result<()> {
    let (ended, ends) = std::sync::mpsc::channel();
    for _ in 0..threads {
        let (listener, serve, ended) = (listener.try_clone()?, serve.clone(), ended.clone());
        // Nobody listens any more when another thread has ended before.
        std::thread::spawn(move || ended.send(serve(listener)));
    }
    drop(ended);
    ends.recv()?
}
