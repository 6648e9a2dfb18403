//! The ports of instances are closed: an app that listens on `0.0.0.0:$PORT` would else be reached past the edge and all its
//! policies, from outside and by every other user of the machine. And they are taken: whoever else listens there is not
//! believed, be it while the port waits for its instance, after that has died, or for as long as nobody has told the edge.
//!
//! As root, one nftables table of this state folder's own. From outside nobody connects; on the machine itself only root,
//! the edge, and the app whose port it is; to a database, root and the app it belongs to. A connection is judged by its
//! first packet and by the answer to it, which is the listener's: nothing of what follows is looked at. The table is
//! written whole, in one transaction, each time it changes: there is no rule to be forgotten, and no other rule of the
//! machine is touched. It outlives the daemon, as the instances do, and goes with the last one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use bowline_core::id::{AppKey, InstanceId, Port};
use bowline_core::instance::Reach;

use super::tables::{self, CLOSED, Table};

/// As `bowline status` says it after "cannot enforce".
pub(crate) const CLOSED_PORT: &str = "closed instance port";

/// Where distributions put it; a daemon's `PATH` may lack `sbin`.
pub(super) const NFT: [&str; 3] = ["/usr/sbin/nft", "/sbin/nft", "nft"];

/// Where clouds hand a machine's credentials to whoever asks from it: the metadata services of most of them, the task and
/// pod credentials of AWS, Azure's WireServer, Alibaba. Names are asked for there, too (port 53), and answered.
const CREDENTIALS_V4: &str = "169.254.169.254, 169.254.170.2, 169.254.170.23, 168.63.129.16, 100.100.100.200";
const CREDENTIALS_V6: &str = "fd00:ec2::254, fd00:ec2::23, fd20:ce::254";

/// Whose port it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    pub port: Port,
    /// Who listens; `None`: it runs as the node's own user.
    pub uid: Option<u32>,
    pub reach: Reach,
}

/// A database that is wanted: its app, its port, and the server's user.
pub(crate) type Database = (AppKey, Port, Option<u32>);

/// What control says of ports, beside the instances.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Told {
    /// All that are wanted, whether they run or not: what connects to one does not ask first.
    pub databases: BTreeSet<Database>,
    /// Apps that may read the metrics of all, on the admin port.
    pub watchers: BTreeSet<AppKey>,
}

/// Of all users of this machine, those that are not an app's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Others {
    /// The edge's user, where it has one of its own.
    pub edge: Option<u32>,
    /// On it the daemon tells the operator about all apps.
    pub admin: Option<Port>,
}

/// The table, and what it should hold.
#[derive(Debug)]
pub(crate) struct Gate {
    /// `bowline_<hash>`
    table: String,
    /// Says in the table whose it is.
    mark: Option<String>,
    others: Others,
    held: Mutex<Held>,
}

/// What an earlier daemon left in the table is more than either of them: nothing is written until both are known.
#[derive(Debug, Default)]
struct Held {
    /// Until nobody sends there any more. `None`: not looked for yet.
    instances: Option<BTreeMap<InstanceId, Owner>>,
    /// `None`: not told yet.
    told: Option<Told>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum GateError {
    #[error("only root may set up rules of the network")]
    NotRoot,
    #[error("nft, of the package nftables, could not be run")]
    NoTool(#[source] io::Error),
    #[error("nft did not take the rules: {0}")]
    Refused(String),
}

impl Gate {
    pub(crate) fn new(state: &Path, state_hash: &str, others: Others) -> Self {
        let table = format!("bowline_{state_hash}");
        Self { table, mark: tables::mark(state), others, held: Mutex::default() }
    }

    /// Ports that other states of this machine have closed: whoever else listens there is not heard. Blocks.
    pub(crate) fn closed_elsewhere(&self) -> BTreeSet<u16> {
        match nix::unistd::geteuid().is_root() {
            true => tables::closed(&self.living()),
            false => BTreeSet::new(),
        }
    }

    /// Tables of other states; those that a state has left behind are removed. Blocks.
    fn living(&self) -> Vec<Table> {
        let (left, living): (Vec<_>, Vec<_>) = tables::of_others(&self.table).into_iter().partition(Table::is_left);
        for table in left {
            // Somebody else who looks at this moment may have been faster.
            let _ = run(&format!("delete table inet {}\n", table.name));
        }
        living
    }

    /// Before an instance starts. Blocks.
    pub(crate) fn close(&self, id: &InstanceId, owner: Owner) -> Result<(), GateError> {
        self.change(|held| held.instances.get_or_insert_default().insert(id.clone(), owner).is_none())
    }

    /// After nobody sends there any more. Blocks.
    pub(crate) fn forget(&self, id: &InstanceId) -> Result<(), GateError> {
        self.change(|held| held.instances.as_mut().is_some_and(|all| all.remove(id).is_some()))
    }

    /// What an earlier daemon left, dead or alive. Tables of states that are gone go, too. Blocks.
    pub(crate) fn adopt(&self, found: BTreeMap<InstanceId, Owner>) -> Result<(), GateError> {
        if nix::unistd::geteuid().is_root() {
            self.living();
        }
        self.change(|held| {
            held.instances = Some(found);
            true
        })
    }

    /// In the place of what was told before. Blocks.
    pub(crate) fn tell(&self, told: Told) -> Result<(), GateError> {
        self.change(|held| {
            held.told = Some(told);
            true
        })
    }

    /// One at a time: the last to write has seen all changes before it.
    fn change(&self, change: impl FnOnce(&mut Held) -> bool) -> Result<(), GateError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(GateError::NotRoot);
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = change(&mut held);
        match &*held {
            Held { instances: Some(instances), told: Some(told) } if changed => {
                run(&script((&self.table, self.mark.as_deref()), self.others, instances, told))
            }
            _ => Ok(()),
        }
    }
}

/// What the rules are made of.
#[derive(Debug, Default)]
struct Sets {
    closed: BTreeSet<String>,
    /// Who may listen, by port.
    listeners: BTreeSet<String>,
    /// Who may connect, by port.
    owners: BTreeSet<String>,
    apps: BTreeSet<String>,
    /// Of apps, those that may connect to the admin port.
    watchers: BTreeSet<String>,
}

impl Sets {
    fn new(instances: &BTreeMap<InstanceId, Owner>, told: &Told) -> Self {
        let mut sets = Self::default();
        let mut users: BTreeMap<&AppKey, BTreeSet<u32>> = BTreeMap::new();
        let mut databases: BTreeSet<(&AppKey, Port, u32)> = BTreeSet::new();
        for (key, port, uid) in &told.databases {
            databases.insert((key, *port, uid.unwrap_or(0)));
        }
        for (id, Owner { port, uid, reach }) in instances {
            let user = uid.unwrap_or(0);
            match reach {
                Reach::App => drop(databases.insert((&id.slot.key, *port, user))),
                Reach::Edge => {
                    sets.port(*port, user);
                    sets.owners.insert(format!("{port} . {user}"));
                    users.entry(&id.slot.key).or_default().insert(user);
                }
            }
        }
        for (key, port, user) in databases {
            sets.port(port, user);
            let of_app = users.get(key).into_iter().flatten();
            sets.owners.extend(of_app.map(|user| format!("{port} . {user}")));
        }
        let watchers = told.watchers.iter().filter_map(|key| users.get(key)).flatten();
        sets.watchers = watchers.map(ToString::to_string).collect();
        sets
    }

    /// A port and who listens on it. Root is nobody's user.
    fn port(&mut self, port: Port, user: u32) {
        self.closed.insert(port.to_string());
        self.listeners.insert(format!("{port} . {user}"));
        self.apps.extend((user != 0).then(|| user.to_string()));
    }
}

/// `add` before `delete`: there may be none yet.
fn script(
    (table, mark): (&str, Option<&str>),
    others: Others,
    instances: &BTreeMap<InstanceId, Owner>,
    told: &Told,
) -> String {
    let mut text = format!("add table inet {table}\ndelete table inet {table}\n");
    if instances.is_empty() && told.databases.is_empty() {
        return text;
    }
    let Sets { closed, listeners, owners, apps, watchers } = Sets::new(instances, told);
    let always = [0].into_iter().chain(others.edge).map(|uid| uid.to_string()).collect();
    let admin = others.admin.map(|port| port.to_string()).into_iter().collect();
    // A user that is not known breaks off a rule, which then counts as not met: what is let through is named, and the
    // rest refused. A SYN from a closed port is an answer, too: both ends may begin at once (RFC 9293, 3.5).
    // Writing to a string does not fail.
    let _ = write!(
        text,
        "table inet {table} {{
  set {CLOSED} {{ type inet_service; {} {} }}
  set listeners {{ typeof tcp sport . meta skuid; {} }}
  set owners {{ typeof tcp dport . meta skuid; {} }}
  set always {{ typeof meta skuid; {} }}
  set apps {{ typeof meta skuid; {} }}
  set watchers {{ typeof meta skuid; {} }}
  set admin {{ type inet_service; {} }}
  chain outside {{
    type filter hook input priority filter - 10; policy accept;
    iifname != \"lo\" tcp dport @closed tcp flags & (syn | ack) == syn reject with tcp reset
  }}
  chain inside {{
    type filter hook output priority filter - 10; policy accept;
    meta skuid @apps jump app
    oifname != \"lo\" accept
    tcp flags & syn != syn accept
    tcp sport @closed jump listener
    tcp flags & ack == ack accept
    tcp dport != @closed accept
    meta skuid @always accept
    tcp dport . meta skuid @owners accept
    reject with tcp reset
  }}
  chain listener {{
    tcp sport . meta skuid @listeners return
    drop
  }}
  chain app {{
    ip daddr {{ {CREDENTIALS_V4} }} meta l4proto {{ tcp, udp }} th dport != 53 reject
    ip6 daddr {{ {CREDENTIALS_V6} }} meta l4proto {{ tcp, udp }} th dport != 53 reject
    meta skuid @watchers return
    oifname \"lo\" tcp dport @admin tcp flags & (syn | ack) == syn reject with tcp reset
  }}
}}
",
        mark.map_or_else(String::new, |mark| format!("comment \"{mark}\";")),
        elements(&closed),
        elements(&listeners),
        elements(&owners),
        elements(&always),
        elements(&apps),
        elements(&watchers),
        elements(&admin),
    );
    text
}

/// A set may be empty, a list of its elements may not.
fn elements(of: &BTreeSet<String>) -> String {
    let all: Vec<&str> = of.iter().map(String::as_str).collect();
    if all.is_empty() { String::new() } else { format!("elements = {{ {} }}", all.join(", ")) }
}

fn run(script: &str) -> Result<(), GateError> {
    let tool = NFT.iter().find(|tool| Path::new(tool).exists()).unwrap_or(&NFT[2]);
    let mut command = Command::new(tool);
    command.args(["-f", "-"]).env_clear().current_dir("/");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(GateError::NoTool)?;
    let told = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(script.as_bytes()));
    let output = child.wait_with_output().map_err(GateError::NoTool)?;
    match (output.status.success(), told) {
        (true, Ok(())) => Ok(()),
        (true, Err(error)) => Err(GateError::NoTool(error)),
        (false, _) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(GateError::Refused(said.lines().next().unwrap_or("no word").to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(port: u16, uid: Option<u32>) -> Owner {
        Owner { port: Port::new(port).unwrap(), uid, reach: Reach::Edge }
    }

    fn id(text: &str) -> InstanceId {
        text.parse().unwrap()
    }

    fn others() -> Others {
        Others { edge: Some(5), admin: Port::new(7070) }
    }

    /// Two apps, each with a database that is wanted, of which only the first one's runs.
    fn ruled() -> String {
        let watchers = [id("local/b.web.r1.0.1").slot.key].into();
        let database = Owner { reach: Reach::App, ..owner(15_000, Some(17)) };
        let instances = [
            (id("local/a.web.r1.0.1"), owner(20_000, Some(7))),
            (id("local/a.web.r1.1.1"), owner(20_001, Some(7))),
            (id("local/a.redis_db.r0.0.1"), database),
            (id("local/b.web.r1.0.1"), owner(20_002, Some(8))),
            (id("local/c.web.r1.0.1"), owner(20_003, None)),
        ];
        let databases = [("local/a.web.r1.0.1", 15_000, 17), ("local/b.web.r1.0.1", 15_001, 18)]
            .map(|(of, port, uid)| (id(of).slot.key, Port::new(port).unwrap(), Some(uid)));
        let told = Told { databases: databases.into(), watchers };
        script(("bowline_x", Some("mnt:[1] /state")), others(), &instances.into(), &told)
    }

    #[test]
    fn an_empty_gate_is_no_table() {
        let text = script(("bowline_x", Some("mnt:[1] /state")), others(), &BTreeMap::new(), &Told::default());
        assert_eq!(text, "add table inet bowline_x\ndelete table inet bowline_x\n");
    }

    #[test]
    fn each_port_has_its_listener_and_who_connects() {
        let text = ruled();
        for part in [
            "closed { type inet_service; comment \"mnt:[1] /state\"; elements = { 15000, 15001, 20000, 20001, 20002, 20003 }",
            "sport . meta skuid; elements = { 15000 . 17, 15001 . 18, 20000 . 7, 20001 . 7, 20002 . 8, 20003 . 0 }",
            "dport . meta skuid; elements = { 15000 . 7, 15001 . 8, 20000 . 7, 20001 . 7, 20002 . 8, 20003 . 0 }",
            "always { typeof meta skuid; elements = { 0, 5 }",
            "apps { typeof meta skuid; elements = { 17, 18, 7, 8 }",
            "watchers { typeof meta skuid; elements = { 8 }",
            "admin { type inet_service; elements = { 7070 }",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    /// In a network of its own: `[listener, client, address, port, reached]`, all on loopback.
    const RULED: &str = r#"
import json, os, socket, subprocess, sys
rules, cases = json.load(sys.stdin)
for line in ("link set lo up", "address add 169.254.169.254/32 dev lo", "address add fd00:ec2::254/128 dev lo nodad"):
    subprocess.run(["ip", *line.split()], check=True)
subprocess.run(["/usr/sbin/nft", "-f", "-"], input=rules, text=True, check=True)

def as_user(uid, work):
    child = os.fork()
    if child == 0:
        os.setresuid(uid, uid, uid)
        try:
            os._exit(0 if work() else 1)
        except OSError:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

def listen(uid, port):
    """The first packet is answered by the user who made the socket."""
    ready, made = os.pipe()
    child = os.fork()
    if child == 0:
        os.setresuid(uid, uid, uid)
        with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True) as server:
            os.write(made, b"!")
            while True:
                server.accept()
    os.read(ready, 1)
    return child

def connect(address, port):
    socket.create_connection((address, port), timeout=0.5).close()
    return True

for listener, client, address, port, reached in cases:
    child = listen(listener, port)
    got = as_user(client, lambda: connect(address, port))
    os.kill(child, 9)
    os.waitpid(child, 0)
    if got != reached:
        print([listener, client, address, port, reached])
"#;

    #[test]
    fn the_kernel_judges_who_listens_and_who_connects() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let local = "127.0.0.1";
        let cases = serde_json::json!([
            // The instance of a, asked by root, the edge, itself, and b.
            [7, 0, local, 20000, true],
            [7, 5, local, 20000, true],
            [7, 7, local, 20000, true],
            [7, 8, local, 20000, false],
            [7, 0, "::1", 20000, true],
            [7, 8, "::1", 20000, false],
            // Someone else listens where it did.
            [8, 0, local, 20000, false],
            [8, 5, local, 20000, false],
            [8, 7, local, 20000, false],
            [8, 8, local, 20000, false],
            [8, 5, "::1", 20000, false],
            [65534, 5, local, 20000, false],
            // The database of a, and of b, which does not run.
            [17, 7, local, 15000, true],
            [17, 0, local, 15000, true],
            [17, 8, local, 15000, false],
            [17, 65534, local, 15000, false],
            [8, 7, local, 15000, false],
            [18, 8, local, 15001, true],
            [7, 8, local, 15001, false],
            // What is nobody's, and what is not for apps.
            [7, 8, local, 30000, true],
            [0, 7, local, 7070, false],
            [0, 8, local, 7070, true],
            [0, 8, "169.254.169.254", 80, false],
            [0, 65534, local, 7070, true],
            [0, 7, "169.254.169.254", 80, false],
            [0, 17, "169.254.169.254", 80, false],
            [0, 0, "169.254.169.254", 80, true],
            [0, 7, "169.254.169.254", 53, true],
            [0, 7, "fd00:ec2::254", 80, false],
            [0, 0, "fd00:ec2::254", 80, true]
        ]);
        let input = serde_json::json!([ruled(), cases]).to_string();
        let mut command = Command::new("unshare");
        let command = command.args(["--net", "/usr/bin/python3", "-c", RULED]).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}", said(&output.stderr));
        assert_eq!(said(&output.stdout), "", "listener, client, address, port, whether it should be reached");
    }

    #[test]
    fn rules_come_and_go_with_their_instances() {
        let hash = format!("test{:x}", std::process::id());
        let gate = Gate::new(Path::new("/"), &hash, others());
        let id = id("local/a.web.r1.0.1");
        if !nix::unistd::geteuid().is_root() {
            return assert!(matches!(gate.close(&id, owner(20_003, None)), Err(GateError::NotRoot)));
        }
        let listed = || Command::new("nft").args(["list", "table", "inet", &gate.table]).output().unwrap();
        gate.tell(Told::default()).unwrap();
        gate.close(&id, owner(20_003, Some(65_533))).unwrap();
        let text = String::from_utf8_lossy(&listed().stdout).into_owned();
        assert!(text.contains("20003 . 65533"), "{text}");
        gate.forget(&id).unwrap();
        assert!(!listed().status.success(), "the table is gone");
    }
}
