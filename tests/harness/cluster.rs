//! A control plane of Kubernetes as it is shipped: etcd, API server, controller manager and scheduler on ports of loopback,
//! with an authority of their own. Pods are bound to the [kubelet of the tests](crate::kubelet).

pub mod api;
pub mod pki;
pub mod storage;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use serde_json::{Value, json};

use self::api::Api;
use self::pki::{Authority, Pair};
use self::storage::Provisioner;
use crate::kubelet::Kubelet;
use crate::port::Port;
use crate::{SOON, path, wait};

/// How long four servers may take to be of use, where all cores are at work.
const UP: Duration = Duration::from_secs(120);

/// Of the log of a server that has failed, what is shown.
const LAST_BYTES: usize = 4000;

/// A running cluster. Dropping it ends it; so does the end of this process, however it ends.
#[derive(Debug)]
pub struct Cluster {
    /// Who may do everything.
    pub admin: Api,
    pub kubelet: Kubelet,
    _provisioner: Provisioner,
    address: SocketAddr,
    authority: Authority,
    servers: Servers,
    _ports: [Port; 3],
}

/// A tool that tests/cluster builds, or the folder of the definitions that it keeps.
pub fn tool(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("a test knows its own path");
    let target = exe.ancestors().nth(3).expect("tests lie in target/PROFILE/deps");
    let tool = target.join("cluster-tools").join(name);
    assert!(tool.exists(), "run scripts/setup first: {} is missing", tool.display());
    tool
}

impl Cluster {
    /// The one of this process, for tests that change nothing but what is in a namespace of their own.
    pub fn shared() -> &'static Self {
        static SHARED: LazyLock<Cluster> = LazyLock::new(Cluster::start);
        &SHARED
    }

    pub fn start() -> Self {
        let mut servers = Servers::new();
        let folder = servers.folder.clone();
        let authority = Authority::new(&folder.join("pki"));
        let ports = [Port::reserve(), Port::reserve(), Port::reserve()];
        let [client, peer, api] = ports.each_ref().map(|port| port.number);
        servers.start("etcd", &etcd(&folder, client, peer));
        servers.start("kube-apiserver", &api_server(&authority, client, api));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, api));
        let admin = Api::new(address, &authority.certificate(), &authority.client("admin", Some("system:masters")));
        wait("the API server is ready", UP, || {
            servers.check();
            let ready = admin.try_ask("GET", "/readyz", "application/json", &Value::Null);
            ready.is_ok_and(|answer| answer.status == 200).then_some(())
        });
        for (name, more) in [("kube-controller-manager", controllers(&folder)), ("kube-scheduler", Vec::new())] {
            let user = authority.client(&format!("system:{name}"), None);
            let config = folder.join(format!("{name}.conf"));
            write_config(&config, address, &authority, &user, "default");
            let config = format!("--kubeconfig={}", path(&config));
            // They serve nobody, and none stands beside them.
            let own = [config.as_str(), "--leader-elect=false", "--secure-port=0"].map(str::to_owned);
            servers.start(name, &[own.as_slice(), &more].concat());
        }
        let kubelet = Kubelet::start(address, &authority, "one");
        wait("the node takes pods", UP, || {
            servers.check();
            let taints = &admin.get("/api/v1/nodes/one").done()["spec"]["taints"];
            taints.as_array().is_none_or(Vec::is_empty).then_some(())
        });
        let provisioner = Provisioner::start(admin.clone());
        let cluster = Self { admin, kubelet, _provisioner: provisioner, address, authority, servers, _ports: ports };
        cluster.has_account("default");
        cluster
    }

    /// A namespace of this name, which is no other test's; under these standards of Pod Security: `privileged`, `baseline`, `restricted`.
    pub fn namespace(&self, name: &str, security: &str) {
        let labels = json!({ "pod-security.kubernetes.io/enforce": security });
        let metadata = json!({ "name": name, "labels": labels });
        let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata });
        self.admin.create("/api/v1/namespaces", &object).done();
        self.has_account(name);
    }

    /// Without it no pod is taken.
    fn has_account(&self, namespace: &str) {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/default");
        wait("a namespace has its account", SOON, || (self.admin.get(&path).status == 200).then_some(()));
    }

    /// Somebody else, who may do what roles are bound to this name or group.
    pub fn user(&self, name: &str, group: Option<&str>) -> Api {
        Api::new(self.address, &self.authority.certificate(), &self.authority.client(name, group))
    }

    /// Where its API is served, over TLS.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A `kubeconfig` of such a user, whose one context is `tests` and means this namespace.
    pub fn config(&self, name: &str, group: Option<&str>, namespace: &str) -> PathBuf {
        let file = self.servers.folder.join(format!("{name}-{namespace}.conf"));
        write_config(&file, self.address, &self.authority, &self.authority.client(name, group), namespace);
        file
    }

    /// Makes kinds known, all that a project defines: the name of a folder in tests/cluster/build.
    pub fn define(&self, project: &str) {
        let files = std::fs::read_dir(tool("definitions").join(project)).expect("a folder of definitions");
        let texts = files.flatten().map(|file| std::fs::read_to_string(file.path()).expect("a definition"));
        let served: Vec<String> = texts.flat_map(|text| self.admin.define(&text)).collect();
        for path in served {
            wait("a kind is served", SOON, || (self.admin.get(&format!("{path}?limit=1")).status == 200).then_some(()));
        }
    }
}

fn write_config(file: &Path, address: SocketAddr, authority: &Authority, user: &Pair, namespace: &str) {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "tests",
        "clusters": [{ "name": "tests", "cluster": {
            "server": format!("https://{address}"), "certificate-authority": authority.certificate(),
        } }],
        "users": [{ "name": "tests", "user": { "client-certificate": user.chain, "client-key": user.key } }],
        "contexts": [{ "name": "tests", "context": { "cluster": "tests", "user": "tests", "namespace": namespace } }],
    });
    std::fs::write(file, config.to_string()).expect("a file of the test");
}

fn etcd(folder: &Path, client: u16, peer: u16) -> Vec<String> {
    let [client, peer] = [client, peer].map(|port| format!("http://127.0.0.1:{port}"));
    vec![
        format!("--data-dir={}", path(&folder.join("etcd"))),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ]
}

fn api_server(authority: &Authority, etcd: u16, port: u16) -> Vec<String> {
    let names = ["127.0.0.1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "10.96.0.1"];
    let shown = authority.server("kube-apiserver", &names);
    let asks = authority.client("kube-apiserver-kubelet-client", Some("system:masters"));
    let (certificate, [private, public]) = (authority.certificate(), authority.key("service-accounts"));
    let file = |flag: &str, file: &Path| format!("--{flag}={}", path(file));
    vec![
        format!("--etcd-servers=http://127.0.0.1:{etcd}"),
        format!("--secure-port={port}"),
        "--bind-address=127.0.0.1".to_owned(),
        // It would not write an address of loopback into the endpoints of its own service, which nothing here asks for.
        "--advertise-address=127.0.0.1".to_owned(),
        "--endpoint-reconciler-type=none".to_owned(),
        "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
        file("tls-cert-file", &shown.chain),
        file("tls-private-key-file", &shown.key),
        file("client-ca-file", &certificate),
        file("kubelet-certificate-authority", &certificate),
        file("kubelet-client-certificate", &asks.chain),
        file("kubelet-client-key", &asks.key),
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        file("service-account-key-file", &public),
        file("service-account-signing-key-file", &private),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction,PodSecurity,ResourceQuota".to_owned(),
        // Whether a pod may be privileged is for Pod Security to say.
        "--allow-privileged=true".to_owned(),
    ]
}

fn controllers(folder: &Path) -> Vec<String> {
    let pki = folder.join("pki");
    vec![
        format!("--root-ca-file={}", path(&pki.join("ca.pem"))),
        format!("--service-account-private-key-file={}", path(&pki.join("service-accounts.key"))),
        "--use-service-account-credentials=true".to_owned(),
        // The kubelet of the tests ends with them; a machine that is busy does not end a node.
        "--node-monitor-grace-period=24h".to_owned(),
        // Its default is a folder of the machine.
        format!("--flex-volume-plugin-dir={}", path(&folder.join("volumes"))),
    ]
}

/// The processes, and the one that ends them when this process can not.
#[derive(Debug)]
struct Servers {
    folder: PathBuf,
    running: Vec<(&'static str, Child)>,
    keeper: Child,
}

/// Reads the processes' numbers until this process is gone. Theirs are those that name the folder: numbers are given again.
const KEEPER: &str = r#"
trap '' HUP INT QUIT TERM
pids=
while read -r pid; do pids="$pids $pid"; done
for pid in $pids; do
  grep -qsF -- "$0" "/proc/$pid/cmdline" && kill -9 "$pid"
done
for pid in $pids; do
  while grep -qsF -- "$0" "/proc/$pid/cmdline"; do :; done
done
rm -rf -- "$0"
"#;

impl Servers {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("bowline-cluster-").tempdir().expect("a folder").keep();
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, path(&folder)]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let keeper = keeper.spawn().expect("there is a shell");
        Self { folder, running: Vec::new(), keeper }
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    fn start(&mut self, name: &'static str, args: &[String]) {
        use std::io::Write;
        let log = std::fs::File::create(self.log(name)).expect("a file of the test");
        let mut command = Command::new(tool(name));
        command.args(args).current_dir(&self.folder).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a descriptor")).stderr(log);
        let child = command.spawn().expect("a tool of tests/cluster starts");
        let keeper = self.keeper.stdin.as_mut().expect("it was asked to be a pipe");
        writeln!(keeper, "{}", child.id()).expect("the keeper reads");
        self.running.push((name, child));
    }

    /// None has ended.
    fn check(&mut self) {
        for at in 0..self.running.len() {
            let (name, child) = &mut self.running[at];
            let name = *name;
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                let log = std::fs::read_to_string(self.log(name)).unwrap_or_default();
                let begin = log.ceil_char_boundary(log.len().saturating_sub(LAST_BYTES));
                panic!("{name} ended ({status}):\n{}", &log[begin..]);
            }
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for (_, child) in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_keeper_ends_what_names_the_folder_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap().keep();
        std::fs::write(folder.join("log"), "").unwrap();
        let follow = |file: &Path| Command::new("tail").arg("-f").arg(file).stdout(Stdio::null()).spawn().unwrap();
        let (mut own, mut other) = (follow(&folder.join("log")), follow(Path::new("/dev/null")));
        let mut keeper = Command::new("sh").args(["-c", KEEPER, path(&folder)]).stdin(Stdio::piped()).spawn().unwrap();
        writeln!(keeper.stdin.as_mut().unwrap(), "{}\n{}", own.id(), other.id()).unwrap();
        // As it is read by the keeper, `tail` may still be what has not become it.
        wait("both name their files", SOON, || {
            let named = |id: u32| std::fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap().contains("tail");
            (named(own.id()) && named(other.id())).then_some(())
        });
        drop(keeper.stdin.take());
        assert!(keeper.wait().unwrap().success());
        assert!(!own.wait().unwrap().success() && !folder.exists());
        assert!(other.try_wait().unwrap().is_none(), "it is not of this folder");
        other.kill().and_then(|()| other.wait()).unwrap();
    }
}
