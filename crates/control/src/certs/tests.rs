//! Certificates as OpenSSL and curl see them, renewal, and trust.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use bowline_core::app::HostName;
use bowline_core::time::Timestamp;
use tempfile::TempDir;

use super::*;
use crate::secrets::Keyring;

const DAY: Duration = Duration::from_hours(24);

fn now() -> Timestamp {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Timestamp(u64::try_from(now.as_millis()).unwrap())
}

fn hosts(names: &[&str]) -> Vec<HostName> {
    names.iter().map(|name| HostName::new(name).unwrap()).collect()
}

fn ca() -> (TempDir, LocalCa) {
    let dir = tempfile::tempdir().unwrap();
    let ca = LocalCa::open_or_create(&dir.path().join("ca"), now()).unwrap();
    (dir, ca)
}

/// What OpenSSL says to a leaf, as a server for this name or address.
fn openssl_accepts(dir: &Path, root: &Root, leaf: &Leaf, host: &str) -> Result<(), String> {
    let file = dir.join("leaf.pem");
    std::fs::write(&file, &leaf.certificate.chain).unwrap();
    let kind = if host.parse::<std::net::IpAddr>().is_ok() { "-verify_ip" } else { "-verify_hostname" };
    let output = Command::new("openssl")
        .args(["verify", "-x509_strict", "-purpose", "sslserver", "-no-CApath", "-CAfile"])
        .args([root.path.as_os_str(), kind.as_ref(), host.as_ref(), file.as_os_str()])
        .output()
        .unwrap();
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

#[test]
fn openssl_accepts_what_is_local_from_the_root_for_local_names() {
    let (dir, ca) = ca();
    let names = ["uploads.localhost", "*.shop.localhost", "localhost", "127.0.0.1", "[::1]", "10.3.4.5", "a.test"];
    let leaf = ca.issue(&hosts(&names), now()).unwrap();
    let root = ca.root(now()).unwrap();
    for host in ["uploads.localhost", "x.shop.localhost", "localhost", "127.0.0.1", "::1", "10.3.4.5", "a.test"] {
        openssl_accepts(dir.path(), &root, &leaf, host).unwrap();
    }
    let error = openssl_accepts(dir.path(), &root, &leaf, "other.localhost").unwrap_err();
    assert!(error.to_lowercase().contains("mismatch"), "{error}");
    for host in ["uploads.localhost", "127.0.0.1"] {
        let alone = ca.issue(&hosts(&[host]), now()).unwrap();
        openssl_accepts(dir.path(), &root, &alone, host).unwrap();
    }
}

#[test]
fn the_trusted_root_vouches_for_nobody_on_the_internet() {
    let (dir, ca) = ca();
    for host in ["bank.example.com", "8.8.8.8"] {
        let leaf = ca.issue(&hosts(&[host]), now()).unwrap();
        let other = ca.root_for(&hosts(&[host]), now()).unwrap();
        assert_eq!(other.scope, Scope::Other);
        openssl_accepts(dir.path(), &other, &leaf, host).unwrap();
        assert!(openssl_accepts(dir.path(), &ca.root(now()).unwrap(), &leaf, host).is_err());
        // Even signed with the trusted root's own key.
        let forged = ca.forge(&hosts(&[host]), now());
        let error = openssl_accepts(dir.path(), &ca.root(now()).unwrap(), &forged, host).unwrap_err();
        assert!(error.contains("permitted subtree violation"), "{error}");
    }
}

#[test]
fn curl_speaks_tls_with_a_leaf() {
    let (dir, ca) = ca();
    let leaf = ca.issue(&hosts(&["uploads.localhost"]), now()).unwrap();
    let (chain, key) = (dir.path().join("chain.pem"), dir.path().join("key.pem"));
    std::fs::write(&chain, &leaf.certificate.chain).unwrap();
    std::fs::write(&key, leaf.certificate.key.expose()).unwrap();
    let mut server = Command::new("openssl")
        .args(["s_server", "-www", "-accept", "127.0.0.1:0", "-cert"])
        .args([chain.as_os_str(), "-key".as_ref(), key.as_os_str()])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(server.stdout.take().unwrap()));
    let mut addresses = lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("ACCEPT ").map(str::to_owned));
    let address = addresses.next().expect("the server says where it listens");
    let port = address.rsplit(':').next().unwrap();
    let root = ca.root(now()).unwrap();
    let get = |host: &str| {
        let target = format!("https://{host}:{port}/");
        let connect = format!("{host}:{port}:127.0.0.1");
        let options = ["-sS", "--max-time", "10", "--noproxy", "*", "--resolve", &connect, &target, "--cacert"];
        Command::new("curl").args(options).arg(&root.path).output().unwrap().status.success()
    };
    let (right, wrong) = (get("uploads.localhost"), get("other.localhost"));
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!((right, wrong), (true, false));
}

#[test]
fn a_leaf_lives_90_days_and_never_longer_than_its_root() {
    let (_dir, ca) = ca();
    let leaf = ca.issue(&hosts(&["a.test"]), now()).unwrap();
    let life = leaf.not_after.since(now());
    assert!(life > DAY * 89 && life <= DAY * 90);
    let (other, root) = (ca.issue(&hosts(&["a.test"]), now()).unwrap(), ca.root(now()).unwrap());
    assert_ne!(other.certificate, leaf.certificate, "another serial number and key");
    let late = Timestamp(root.not_after.0 - 1000 * 60 * 60 * 24 * 30);
    assert_eq!(ca.issue(&hosts(&["a.test"]), late).unwrap().not_after, root.not_after);
    assert!(matches!(ca.issue(&hosts(&["a.test"]), root.not_after), Err(CertError::Expired { .. })));
    assert!(matches!(ca.issue(&[], now()), Err(CertError::NoHosts)));
}

#[test]
fn a_ca_is_made_once_and_refused_when_it_is_not_whole() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, ca) = ca();
    let at = |name: &str| dir.path().join("ca").join(name);
    let again = || LocalCa::open_or_create(&dir.path().join("ca"), now());
    assert_eq!(again().unwrap().root(now()).unwrap(), ca.root(now()).unwrap());
    assert_eq!(at("root.key").metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    let key = std::fs::read(at("root.key")).unwrap();

    std::fs::set_permissions(at("root.key"), PermissionsExt::from_mode(0o644)).unwrap();
    assert!(matches!(again(), Err(CertError::Mode { mode: 0o644, .. })));
    std::fs::remove_file(at("root.key")).unwrap();
    assert!(matches!(again(), Err(CertError::Incomplete { .. })));
    let (other, _) = self::ca();
    std::fs::copy(other.path().join("ca/root.key"), at("root.key")).unwrap();
    assert!(matches!(again(), Err(CertError::Damaged { what: "it does not belong to the key", .. })));
    std::fs::write(at("root.key"), &key).unwrap();
    assert!(again().is_ok());
}

#[test]
fn certificates_are_kept_sealed_and_renewed_after_60_days() {
    let (dir, ca) = ca();
    let keyring = Keyring::open_or_create(dir.path()).unwrap();
    let cache = CertCache::new(dir.path());
    let get = |names: &[&str], at| cache.certificate(&ca, &keyring, &hosts(names), at).unwrap();
    let first = get(&["a.test", "b.test"], now());
    assert_eq!(get(&["b.test", "a.test"], now() + DAY * 59), first);
    assert_ne!(get(&["a.test"], now()), first);
    let renewed = get(&["a.test", "b.test"], now() + DAY * 61);
    assert_ne!(renewed, first);
    assert_eq!(get(&["a.test", "b.test"], now() + DAY * 62), renewed);
    for entry in std::fs::read_dir(dir.path().join("certs")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(5).any(|w| w == b"BEGIN"));
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
    assert_ne!(get(&["a.test", "b.test"], now() + DAY * 62), renewed, "damaged: issued anew");
}

#[test]
fn trust_is_installed_once_and_removed_again() {
    let (dir, ca) = ca();
    let root = ca.root(now()).unwrap();
    let anchors = dir.path().join("anchors");
    let (certs, empty) = (dir.path().join("certs"), dir.path().join("empty"));
    [&anchors, &certs, &empty].iter().for_each(|path| std::fs::create_dir(path).unwrap());
    // The real program, on folders of our own.
    let arg = |path: &Path| path.display().to_string();
    let refresh = vec![
        "/usr/sbin/update-ca-certificates".to_owned(),
        "--localcertsdir".to_owned(),
        arg(&anchors),
        "--etccertsdir".to_owned(),
        arg(&certs),
        "--certsdir".to_owned(),
        arg(&empty),
        "--hooksdir".to_owned(),
        arg(&empty),
        "--certsconf".to_owned(),
        "/dev/null".to_owned(),
    ];
    let forget = [&refresh[..], &["--fresh".to_owned()]].concat();
    // Another root that an administrator added before.
    let (_other, another) = self::ca();
    std::fs::copy(another.root(now()).unwrap().path, anchors.join("another.crt")).unwrap();
    let mut places = TrustPlaces {
        system: Some(SystemStore { anchors: anchors.clone(), refresh, forget }),
        nss: vec![],
        certutil: None,
    };
    let check = |steps: Vec<Step>, expected: Outcome| {
        assert_eq!(steps.into_iter().map(|step| step.outcome).collect::<Vec<_>>(), [expected]);
    };
    let bundle = || std::fs::read_to_string(certs.join("ca-certificates.crt")).unwrap();
    assert_eq!(places.status(&root)[0].trusted, Some(false));
    check(places.install(&root), Outcome::Done);
    assert!(bundle().contains(root.pem.trim()));
    let links = || std::fs::read_dir(&certs).unwrap().count();
    let with = links();
    assert_eq!(places.status(&root)[0].trusted, Some(true));
    check(places.install(&root), Outcome::Already);
    check(places.remove(&root), Outcome::Done);
    assert!(!bundle().contains(root.pem.trim()));
    assert_eq!(links(), with - 2, "the link and its hash are gone");
    check(places.remove(&root), Outcome::Already);

    // A program that fails: said, and nothing is left behind.
    places.system.as_mut().unwrap().refresh = vec!["/bin/false".to_owned()];
    let steps = places.install(&root);
    assert!(matches!(&steps[0].outcome, Outcome::Failed { todo, .. } if todo.starts_with("sudo install")), "{steps:?}");
    assert_eq!(std::fs::read_dir(&anchors).unwrap().count(), 1);
    places.nss = vec![dir.path().join("a profile")];
    let steps = places.install(&root);
    assert!(
        matches!(&steps[1].outcome, Outcome::Todo(todo) if todo.contains("libnss3-tools") && todo.contains("'sql:"))
    );
}
