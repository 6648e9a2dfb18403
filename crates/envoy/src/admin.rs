//! Envoy's administration, on its Unix socket: what it does, and the few things it is told beside what it serves.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bowline_core::id::InstanceId;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long an answer may take: Envoy gives them on the thread that takes up what it is to serve.
const PATIENCE: Duration = Duration::from_secs(5);

/// What an answer may be large.
const MAX_ANSWER: usize = 64 << 20;

#[derive(Debug, Clone)]
pub(crate) struct Admin {
    socket: PathBuf,
}

impl Admin {
    pub(crate) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// The process that answers on the socket.
    pub(crate) async fn pid(&self) -> io::Result<u32> {
        let stream = UnixStream::connect(&self.socket).await?;
        let pid = stream.peer_cred()?.pid().ok_or_else(|| io::Error::other("nobody says which process it is"))?;
        u32::try_from(pid).map_err(io::Error::other)
    }

    pub(crate) async fn get(&self, target: &str) -> io::Result<Bytes> {
        self.ask("GET", target).await
    }

    pub(crate) async fn post(&self, target: &str) -> io::Result<()> {
        self.ask("POST", target).await.map(drop)
    }

    async fn ask(&self, method: &str, target: &str) -> io::Result<Bytes> {
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "Envoy's administration does not answer in time");
        timeout(PATIENCE, self.exchange(method, target)).await.map_err(late)?
    }

    async fn exchange(&self, method: &str, target: &str) -> io::Result<Bytes> {
        let stream = UnixStream::connect(&self.socket).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let request = hyper::Request::builder().method(method).uri(target).header("host", "envoy");
        let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
        let answered = async {
            let response = sender.send_request(request).await.map_err(io::Error::other)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(io::Error::other)?;
            match status.is_success() {
                true => Ok(body.to_bytes()),
                false => Err(io::Error::other(format!("Envoy's administration answers {status}"))),
            }
        };
        tokio::pin!(answered);
        tokio::select! {
            answer = &mut answered => answer,
            // What was read when the connection ended is an answer all the same.
            _ = connection => answered.await,
        }
    }

    /// Where its listeners listen, by their names.
    pub(crate) async fn listeners(&self) -> io::Result<BTreeMap<String, SocketAddr>> {
        let all: Listeners = serde_json::from_slice(&self.get("/listeners?format=json").await?)?;
        let of = |one: Listener| {
            let SocketAddress { address, port_value } = one.local_address.socket_address;
            Some((one.name, SocketAddr::new(address.parse().ok()?, port_value)))
        };
        Ok(all.listener_statuses.into_iter().filter_map(of).collect())
    }

    pub(crate) async fn clusters(&self) -> io::Result<Clusters> {
        Ok(serde_json::from_slice(&self.get("/clusters?format=json").await?)?)
    }

    pub(crate) async fn figures(&self) -> io::Result<Figures> {
        const WANTED: &str = "downstream_cx_%7Cssl.%7Cupstream_rq_retry%7Cejections_enforced_total";
        let text = self.get(&format!("/stats?filter={WANTED}")).await?;
        Ok(Figures::parse(&String::from_utf8_lossy(&text)))
    }
}

#[derive(Debug, Deserialize)]
struct Listeners {
    #[serde(default)]
    listener_statuses: Vec<Listener>,
}

#[derive(Debug, Deserialize)]
struct Listener {
    name: String,
    local_address: Address,
}

#[derive(Debug, Deserialize)]
struct Address {
    socket_address: SocketAddress,
}

#[derive(Debug, Deserialize)]
struct SocketAddress {
    address: String,
    #[serde(default)]
    port_value: u16,
}

/// Its clusters, with the instances in each.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Clusters {
    #[serde(default)]
    cluster_statuses: Vec<Cluster>,
}

#[derive(Debug, Deserialize)]
struct Cluster {
    name: String,
    #[serde(default)]
    host_statuses: Vec<Host>,
}

#[derive(Debug, Deserialize)]
struct Host {
    address: HostAddress,
    #[serde(default)]
    stats: Vec<Stat>,
    #[serde(default)]
    health_status: Health,
}

#[derive(Debug, Deserialize)]
struct HostAddress {
    /// `None`: a Unix socket, which no instance has.
    socket_address: Option<SocketAddress>,
}

#[derive(Debug, Deserialize)]
struct Stat {
    #[serde(default)]
    name: String,
    #[serde(default)]
    value: serde_json::Value,
}

#[derive(Debug, Default, Deserialize)]
struct Health {
    #[serde(default)]
    failed_outlier_check: bool,
}

/// What an instance does, as Envoy sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Doing {
    /// Requests and tunnels that are not finished.
    pub(crate) active: u32,
    pub(crate) is_left_out: bool,
}

/// Instances by the cluster and the address under which Envoy knows them.
pub(crate) type Known = BTreeMap<(String, SocketAddr), InstanceId>;

impl Clusters {
    pub(crate) fn doing(&self, known: &Known) -> BTreeMap<InstanceId, Doing> {
        let mut all: BTreeMap<InstanceId, Doing> = BTreeMap::new();
        for cluster in &self.cluster_statuses {
            for host in &cluster.host_statuses {
                let Some(at) = host.at() else { continue };
                let Some(id) = known.get(&(cluster.name.clone(), at)) else { continue };
                let doing = all.entry(id.clone()).or_default();
                doing.active += host.active();
                doing.is_left_out |= host.health_status.failed_outlier_check;
            }
        }
        all
    }
}

impl Host {
    fn at(&self) -> Option<SocketAddr> {
        let SocketAddress { address, port_value } = self.address.socket_address.as_ref()?;
        Some(SocketAddr::new(address.parse().ok()?, *port_value))
    }

    fn active(&self) -> u32 {
        let active = self.stats.iter().find(|stat| stat.name == "rq_active");
        // 64 bits are text in protobuf's JSON; nothing stands for zero.
        let number = active.and_then(|stat| stat.value.as_u64().or_else(|| stat.value.as_str()?.parse().ok()));
        u32::try_from(number.unwrap_or(0)).unwrap_or(u32::MAX)
    }
}

/// Totals since Envoy's start, over all listeners and clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Figures {
    pub(crate) connections_open: u64,
    pub(crate) connections_total: u64,
    pub(crate) handshakes: u64,
    pub(crate) handshakes_failed: u64,
    pub(crate) retries: u64,
    pub(crate) retries_refused: u64,
    pub(crate) left_out: u64,
}

impl Figures {
    /// Lines of `name: value`.
    fn parse(text: &str) -> Self {
        let mut figures = Self::default();
        for (name, value) in text.lines().filter_map(|line| line.rsplit_once(": ")) {
            let Ok(value) = value.trim().parse::<u64>() else { continue };
            let ours = name.starts_with("http.http.") || name.starts_with("http.https.");
            let listens = name.starts_with("listener.") && !name.contains(".admin.");
            let total = match name.rsplit('.').next().unwrap_or_default() {
                "downstream_cx_active" if ours => &mut figures.connections_open,
                "downstream_cx_total" if ours => &mut figures.connections_total,
                "handshake" if listens => &mut figures.handshakes,
                "connection_error" if listens => &mut figures.handshakes_failed,
                "upstream_rq_retry" => &mut figures.retries,
                "upstream_rq_retry_overflow" => &mut figures.retries_refused,
                "ejections_enforced_total" => &mut figures.left_out,
                _ => continue,
            };
            *total += value;
        }
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_known_by_its_cluster_and_its_address() {
        let text = r#"{"cluster_statuses":[{"name":"local/a.web.r1","host_statuses":[
            {"address":{"socket_address":{"address":"127.0.0.1","port_value":9}},
             "stats":[{"name":"cx_active","value":"4","type":"GAUGE"},{"name":"rq_active","value":"3","type":"GAUGE"}],
             "health_status":{"eds_health_status":"HEALTHY","failed_outlier_check":true}},
            {"address":{"socket_address":{"address":"127.0.0.1","port_value":10}},"stats":[{"name":"rq_active"}]}]},
          {"name":"bowline/daemon","host_statuses":[{"address":{"pipe":{"path":"/a"}}}]}]}"#;
        let clusters: Clusters = serde_json::from_str(text).unwrap();
        let id = |text: &str| text.parse::<InstanceId>().unwrap();
        let at = |port| ("local/a.web.r1".to_owned(), SocketAddr::from(([127, 0, 0, 1], port)));
        let known = BTreeMap::from([(at(9), id("local/a.web.r1.0.1")), (at(10), id("local/a.web.r1.1.1"))]);
        let expected = [
            (id("local/a.web.r1.0.1"), Doing { active: 3, is_left_out: true }),
            (id("local/a.web.r1.1.1"), Doing::default()),
        ];
        assert_eq!(clusters.doing(&known), BTreeMap::from(expected));
    }

    #[test]
    fn figures_are_added_up() {
        let text = "http.http.downstream_cx_active: 2\nhttp.https.downstream_cx_active: 3\nhttp.admin.downstream_cx_active: 9\n\
            listener.127.0.0.1_8443.ssl.handshake: 5\ncluster.local/a.web.r1.upstream_rq_retry: 1\n\
            cluster.local/a.web.r1.outlier_detection.ejections_enforced_total: 1\nhttp.http.downstream_cx_length_ms: No recorded values\n";
        let expected = Figures { connections_open: 5, handshakes: 5, retries: 1, left_out: 1, ..Figures::default() };
        assert_eq!(Figures::parse(text), expected);
    }
}
