//! On tokio: a task for each client's connection, which owns both sockets and copies from buffer to buffer. Whichever the runtime, it is the same task.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;

pub(super) fn on_this_thread(listener: std::net::TcpListener, upstream: SocketAddr) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(accept(listener, upstream))
}

pub(super) fn on_workers(workers: usize, listener: std::net::TcpListener, upstream: SocketAddr) -> anyhow::Result<()> {
    let runtime = Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    // Spawned: this thread is no worker.
    runtime.block_on(async { tokio::spawn(accept(listener, upstream)).await? })
}

async fn accept(listener: std::net::TcpListener, upstream: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (client, _) = listener.accept().await?;
        // Who gives up its connection ends that task alone.
        tokio::spawn(forward(client, upstream));
    }
}

async fn forward(mut client: TcpStream, upstream: SocketAddr) -> std::io::Result<()> {
    let mut app = TcpStream::connect(upstream).await?;
    client.set_nodelay(true)?;
    app.set_nodelay(true)?;
    copy_bidirectional(&mut client, &mut app).await.map(drop)
}
