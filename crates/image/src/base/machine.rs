//! The rim of a base made of this machine's packages: dpkg's own lists say which files are theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use md5::{Digest as _, Md5};

use super::dpkg::{Package, Packages, listed, merged, sums};
use super::{BaseError, Needs, ground};
use crate::platform::Platform;
use crate::tree::{Content, Entry, Tree};

const DPKG: &str = "var/lib/dpkg";
/// In every image that is not empty, for what programs open by themselves: authorities, time zones, the locale `C.UTF-8` and how names
/// are looked up, names of services, and what the system is called.
const ALWAYS: [&str; 5] = ["base-files", "ca-certificates", "libc-bin", "netbase", "tzdata"];
/// Beside a shell: what packages may count on wherever there is one, as Debian's policy has it (3.8, essential packages).
const WITH_SHELL: [&str; 5] = ["coreutils", "dash", "findutils", "grep", "sed"];
/// What even a program that is linked statically opens: it verifies whom it speaks to, and says what time it is somewhere.
const DATA: [&str; 2] = ["ca-certificates", "tzdata"];
const ZONES: &str = "/usr/share/zoneinfo";
/// An interpreter that is cut into a small package and the whole one: apps are built with the whole.
const MINIMAL: &str = "-minimal";
/// Where OpenSSL looks for authorities of its own accord, as Debian builds it. It knows no bundle, but a folder of links by hashes.
const OPENSSL: &str = "usr/lib/ssl/cert.pem";
/// The authorities of the package `ca-certificates`, one file each.
const AUTHORITIES: &str = "usr/share/ca-certificates/";
/// Which of them the machine has taken its trust from (update-ca-certificates(8)).
const TRUSTED: &str = "etc/ca-certificates.conf";
/// All of them, as programs look for them. On the machine a script makes it, of those that were added there, too, which no image may trust unasked; other
/// files beside it may be keys.
const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";
/// Folders that are links where `/usr` holds everything.
const MERGED: [&str; 6] = ["bin", "lib", "lib32", "lib64", "libx32", "sbin"];

/// What is said of files that are not as their package had them.
const CHANGED: &str = "changed on this machine";
const GONE: &str = "gone from this machine";
const LEFT_OUT: &str = "left out: not everybody may read it";

/// The packages of one machine.
#[derive(Debug)]
pub struct Machine {
    root: PathBuf,
    platform: Platform,
    packages: Packages,
    links: BTreeMap<String, String>,
}

/// What an app stands on, ready to be packed.
#[derive(Debug)]
pub struct MachineBase {
    pub tree: Tree,
    /// By name.
    pub packages: Vec<Package>,
    /// `ID` of os-release, what packages are called by in package URLs: `debian`.
    pub distribution: String,
    /// For people: files that are not as their package had them, or are left out.
    pub notes: Vec<String>,
}

impl Machine {
    /// Blocks on the disk. `root` is `/`, but in tests.
    ///
    /// # Errors
    /// There is no dpkg.
    pub fn look(root: &Path) -> Result<Self, BaseError> {
        let platform = Platform::host();
        let status = fs::read_to_string(root.join(DPKG).join("status")).map_err(BaseError::NoPackages)?;
        let link = |name: &&str| {
            let target = fs::read_link(root.join(name)).ok()?.into_os_string().into_string().ok()?;
            Some(((*name).to_owned(), target))
        };
        let links = MERGED.iter().filter_map(link).collect();
        let packages = Packages::parse(&status, &platform.architecture);
        Ok(Self { root: root.to_owned(), platform, packages, links })
    }

    /// Whole packages: those that have what is needed, and what these need.
    ///
    /// # Errors
    /// Something is of no package, or cannot be read.
    pub fn base(&self, needs: &Needs) -> Result<MachineBase, BaseError> {
        if let Some(wanted) = needs.architecture.as_ref().filter(|wanted| **wanted != self.platform.architecture) {
            let (wanted, here) = (wanted.clone(), self.platform.architecture.clone());
            return Err(BaseError::Foreign { wanted, here });
        }
        let mut owners = self.owners(needs)?;
        owners.extend(needs.packages.iter().cloned());
        let shell = needs.has_shell().then_some(WITH_SHELL).into_iter().flatten();
        let packages = self.packages.closure(owners.iter().map(String::as_str).chain(ALWAYS).chain(shell));
        let mut base = MachineBase {
            tree: Tree::default(),
            packages: packages.into_iter().cloned().collect(),
            distribution: self.distribution(),
            notes: Vec::new(),
        };
        for (name, target) in &self.links {
            base.tree.put(name, Entry::Link(target.clone()))?;
        }
        for package in base.packages.clone() {
            let odd = self.take(&package, &mut base.tree)?;
            base.notes.extend(odd.into_iter().map(|(what, paths)| note(&package.name, what, &paths)));
        }
        for program in &needs.programs {
            self.link(program, &mut base.tree)?;
        }
        if authorities(&mut base.tree, self.trusted()?.as_ref())? {
            base.tree.put(OPENSSL, Entry::Link(format!("/{BUNDLE}")))?;
        }
        ground(&mut base.tree)?;
        Ok(base)
    }

    /// Authorities and time zones alone, for a program that needs no other: files, and no program.
    ///
    /// # Errors
    /// Something cannot be read.
    pub fn data(&self) -> Result<MachineBase, BaseError> {
        let packages = DATA.iter().filter_map(|name| self.packages.get(name)).cloned().collect();
        let mut base =
            MachineBase { tree: Tree::default(), packages, distribution: self.distribution(), notes: Vec::new() };
        for package in &base.packages {
            let mut all = Tree::default();
            let odd = self.take(package, &mut all)?;
            base.notes.extend(odd.into_iter().map(|(what, paths)| note(&package.name, what, &paths)));
            for (path, entry) in all.entries() {
                let is_data = |folder: &str| path.starts_with(folder.trim_start_matches('/'));
                let is_licence = path.ends_with("/copyright");
                if is_licence || is_data(ZONES) || is_data(AUTHORITIES) {
                    base.tree.put(path, entry.clone())?;
                }
            }
        }
        authorities(&mut base.tree, self.trusted()?.as_ref())?;
        ground(&mut base.tree)?;
        Ok(base)
    }

    /// Authorities of the package that are trusted on the machine, and so by what stands on it. `None`: all of them.
    fn trusted(&self) -> Result<Option<BTreeSet<String>>, BaseError> {
        let text = match fs::read_to_string(self.root.join(TRUSTED)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(BaseError::Read { path: format!("/{TRUSTED}"), source }),
        };
        let names = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', '!']));
        Ok(Some(names.map(|name| format!("{AUTHORITIES}{name}")).collect()))
    }

    /// Names of the packages that have what is needed.
    fn owners(&self, needs: &Needs) -> Result<BTreeSet<String>, BaseError> {
        let mut wanted: BTreeMap<String, &str> = BTreeMap::new();
        for program in &needs.programs {
            let real = fs::canonicalize(self.root.join(program.trim_start_matches('/')));
            let real = real.map_err(|source| BaseError::Read { path: program.clone(), source })?;
            let real = real.strip_prefix(&self.root).unwrap_or(&real).display().to_string();
            wanted.insert(merged(&format!("/{}", real.trim_start_matches('/')), &self.links), program);
        }
        let triplet = match self.platform.architecture.as_str() {
            "arm64" => "aarch64-linux-gnu",
            _ => "x86_64-linux-gnu",
        };
        let folders = ["/lib", "/lib64", "/usr/lib", "/usr/lib64"].map(str::to_owned);
        let folders = folders.into_iter().chain([format!("/lib/{triplet}"), format!("/usr/lib/{triplet}")]);
        let folders: BTreeSet<String> = folders.map(|folder| merged(&format!("{folder}/"), &self.links)).collect();
        let (mut owners, mut found) = (BTreeSet::new(), BTreeSet::new());
        for package in self.packages.iter() {
            let Some(list) = self.info(package, "list")? else { continue };
            for path in listed(&list) {
                let path = merged(path, &self.links);
                let (folder, name) = path.split_at(path.rfind('/').map_or(0, |at| at + 1));
                let library = needs.libraries.get(name).filter(|_| folders.contains(folder)).map(String::as_str);
                // The loader may be both: what an executable names, and a library that it needs.
                for what in [library, wanted.get(&path).copied()].into_iter().flatten() {
                    owners.insert(self.whole(&package.name).to_owned());
                    found.insert(what.to_owned());
                }
            }
        }
        match (needs.programs.difference(&found).next(), needs.libraries.difference(&found).next()) {
            (Some(program), _) => Err(BaseError::NoOwner(program.clone())),
            (None, Some(library)) => Err(BaseError::NoLibrary(library.clone())),
            (None, None) => Ok(owners),
        }
    }

    /// Those that are not for builds alone.
    pub(super) fn used_by_programs(&self, names: &[&String]) -> Result<Vec<String>, BaseError> {
        let found = |name: &&String| self.packages.get(name).ok_or_else(|| BaseError::NoPackage((*name).clone()));
        let all: Vec<&Package> = names.iter().map(found).collect::<Result<_, _>>()?;
        Ok(all.into_iter().filter(|package| !package.is_for_builds()).map(|package| package.name.clone()).collect())
    }

    /// `python3.11` for `python3.11-minimal`, where it is there.
    fn whole<'a>(&'a self, name: &'a str) -> &'a str {
        let whole = name.strip_suffix(MINIMAL).and_then(|name| self.packages.get(name));
        whole.map_or(name, |package| &package.name)
    }

    /// Gives what is not as the package had it: what is said of it, and which files.
    fn take(&self, package: &Package, tree: &mut Tree) -> Result<BTreeMap<&'static str, Vec<String>>, BaseError> {
        let mut odd: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        let list = self.info(package, "list")?.unwrap_or_default();
        let known = self.info(package, "md5sums")?.unwrap_or_default();
        let mut known = sums(&known);
        known.extend(package.settings.iter().map(|(path, sum)| (path.clone(), sum.as_str())));
        for listed in listed(&list) {
            let path = merged(listed, &self.links);
            let from = self.root.join(path.trim_start_matches('/'));
            let failed = |source| BaseError::Read { path: from.display().to_string(), source };
            let metadata = match fs::symlink_metadata(&from) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    odd.entry(GONE).or_default().push(listed.to_owned());
                    continue;
                }
                Err(error) => return Err(failed(error)),
            };
            let kind = metadata.file_type();
            let is_merged = self.links.contains_key(path.trim_start_matches('/'));
            let entry = if kind.is_dir() {
                Entry::Folder
            } else if kind.is_symlink() {
                let target = fs::read_link(&from).map_err(failed)?;
                Entry::Link(target.to_string_lossy().into_owned())
            } else if kind.is_file() && metadata.permissions().mode() & 0o004 != 0 {
                if known.get(listed).is_some_and(|known| sum(&from).is_ok_and(|found| found != *known)) {
                    odd.entry(CHANGED).or_default().push(listed.to_owned());
                }
                Entry::File { content: Content::At(from), executable: metadata.permissions().mode() & 0o111 != 0 }
            } else {
                // Nobody but root reads it here, and nobody at all is root there.
                odd.entry(LEFT_OUT).or_default().push(listed.to_owned());
                continue;
            };
            if !is_merged {
                tree.put(&path, entry)?;
            }
        }
        Ok(odd)
    }

    /// A name that no package has, as `update-alternatives` makes it.
    fn link(&self, program: &str, tree: &mut Tree) -> Result<(), BaseError> {
        let path = merged(program, &self.links);
        let inside = path.trim_start_matches('/');
        if tree.entries().contains_key(inside) {
            return Ok(());
        }
        let from = self.root.join(inside);
        let real = fs::canonicalize(&from).map_err(|source| BaseError::Read { path: program.to_owned(), source })?;
        let real = real.strip_prefix(&self.root).unwrap_or(&real);
        Ok(tree.put(inside, Entry::Link(format!("/{}", real.display())))?)
    }

    fn info(&self, package: &Package, ending: &str) -> Result<Option<String>, BaseError> {
        for name in package.info_names(ending) {
            let path = self.root.join(DPKG).join("info").join(name);
            match fs::read_to_string(&path) {
                Ok(text) => return Ok(Some(text)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(BaseError::Read { path: path.display().to_string(), source }),
            }
        }
        Ok(None)
    }

    fn distribution(&self) -> String {
        let text = ["etc/os-release", "usr/lib/os-release"]
            .iter()
            .find_map(|path| fs::read_to_string(self.root.join(path)).ok());
        let id = text.as_deref().unwrap_or_default().lines().find_map(|line| line.strip_prefix("ID="));
        id.map_or("debian", |id| id.trim_matches('"')).to_owned()
    }
}

/// What a package's script makes of its authorities: one after the other, by their names. Whether there are any.
fn authorities(tree: &mut Tree, trusted: Option<&BTreeSet<String>>) -> Result<bool, BaseError> {
    let mut bundle = Vec::new();
    let is_trusted = |path: &str| trusted.is_none_or(|names| names.contains(path));
    let is_one = |path: &str| path.starts_with(AUTHORITIES) && path.ends_with(".crt") && is_trusted(path);
    let all = tree.entries().iter().filter(|(path, _)| is_one(path));
    for (path, entry) in all {
        match entry {
            Entry::File { content: Content::Bytes(bytes), .. } => bundle.extend_from_slice(bytes),
            Entry::File { content: Content::At(from), .. } => {
                let bytes = fs::read(from).map_err(|source| BaseError::Read { path: path.clone(), source })?;
                bundle.extend_from_slice(&bytes);
            }
            Entry::Folder | Entry::Scratch | Entry::Link(_) => continue,
        }
        if bundle.last().is_some_and(|last| *last != b'\n') {
            bundle.push(b'\n');
        }
    }
    let is_any = !bundle.is_empty();
    if is_any {
        tree.put(BUNDLE, Entry::File { content: Content::Bytes(bundle.into()), executable: false })?;
    }
    Ok(is_any)
}

/// One line for a package, however many files of it are meant.
fn note(package: &str, what: &str, paths: &[String]) -> String {
    let first = paths.first().map_or("", String::as_str);
    match paths.len() {
        0 | 1 => format!("of {package}, {first} {what}"),
        more => format!("of {package}, {first} and {} more {what}", more - 1),
    }
}

fn sum(path: &Path) -> io::Result<String> {
    let mut hash = Writing(Md5::new());
    io::copy(&mut File::open(path)?, &mut hash)?;
    Ok(hash.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

struct Writing(Md5);

impl io::Write for Writing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with merged `/usr`, one program and the library that it needs.
    fn machine(root: &Path) {
        let at = |path: &str| root.join(path);
        for folder in [
            "usr/bin",
            "usr/lib/x86_64-linux-gnu",
            "usr/lib/aarch64-linux-gnu",
            "etc/alternatives",
            "etc/ssl/certs",
            "var/lib/dpkg/info",
        ] {
            fs::create_dir_all(at(folder)).unwrap();
        }
        std::os::unix::fs::symlink("usr/bin", at("bin")).unwrap();
        std::os::unix::fs::symlink("usr/lib", at("lib")).unwrap();
        let host = Platform::host().architecture;
        let package = |name: &str, more: &str| {
            format!("Package: {name}\nStatus: install ok installed\nArchitecture: {host}\nVersion: 1\n{more}\n")
        };
        let status = [
            package("tool", "Depends: lib1\nConffiles:\n /etc/tool.conf 00\n /etc/old.conf 00 obsolete"),
            package("lib1", ""),
            package("ca-certificates", ""),
            package("tzdata", ""),
            package("snake3-minimal", ""),
            package("snake3", "Depends: snake3-minimal, lib1"),
            package("other", ""),
        ];
        fs::write(at("var/lib/dpkg/status"), status.join("\n")).unwrap();
        let triplet = if host == "arm64" { "aarch64-linux-gnu" } else { "x86_64-linux-gnu" };
        let lists = [
            (
                "tool.list".to_owned(),
                "/.\n/bin\n/bin/tool-1\n/usr/share/doc/tool/x\n/etc/secret\n/etc/gone\n/etc/lost\n/etc/tool.conf\n"
                    .to_owned(),
            ),
            (format!("lib1:{host}.list"), format!("/lib\n/lib/{triplet}/lib.so.1\n")),
            ("tool.md5sums".to_owned(), "00  bin/tool-1\n".to_owned()),
            ("other.list".to_owned(), "/usr/bin/other\n".to_owned()),
            ("snake3-minimal.list".to_owned(), "/usr/bin/snake3\n".to_owned()),
            ("tzdata.list".to_owned(), "/usr/share/zoneinfo/UTC\n/usr/sbin/tzconfig\n".to_owned()),
            (
                "ca-certificates.list".to_owned(),
                "/usr/share/ca-certificates/b.crt\n/usr/share/ca-certificates/a.crt\n/usr/share/ca-certificates/z/c.crt\n/usr/share/ca-certificates/d.crt\n"
                    .to_owned(),
            ),
        ];
        for (name, text) in lists {
            fs::write(at("var/lib/dpkg/info").join(name), text).unwrap();
        }
        fs::write(at("usr/bin/tool-1"), "x").unwrap();
        fs::write(at("etc/secret"), "x").unwrap();
        fs::write(at("etc/tool.conf"), "changed here").unwrap();
        fs::set_permissions(at("etc/secret"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::set_permissions(at("usr/bin/tool-1"), fs::Permissions::from_mode(0o4755)).unwrap();
        fs::write(at("usr/lib").join(triplet).join("lib.so.1"), "x").unwrap();
        fs::write(at("usr/bin/stray"), "x").unwrap();
        fs::write(at("usr/bin/snake3"), "x").unwrap();
        fs::create_dir_all(at("usr/share/zoneinfo")).unwrap();
        fs::create_dir_all(at("usr/sbin")).unwrap();
        fs::write(at("usr/share/zoneinfo/UTC"), "x").unwrap();
        fs::write(at("usr/sbin/tzconfig"), "x").unwrap();
        fs::write(at("etc/ssl/certs/ca-certificates.crt"), "of this machine alone").unwrap();
        fs::write(at("etc/ssl/certs/mail.key"), "a key").unwrap();
        fs::create_dir_all(at("usr/share/ca-certificates/z")).unwrap();
        fs::write(at("usr/share/ca-certificates/z/c.crt"), "distrusted here\n").unwrap();
        fs::write(at("etc/ca-certificates.conf"), "# d.crt\na.crt\nb.crt\n!z/c.crt\n").unwrap();
        fs::write(at("usr/share/ca-certificates/d.crt"), "distrusted here, too\n").unwrap();
        fs::write(at("usr/share/ca-certificates/a.crt"), "a").unwrap();
        fs::write(at("usr/share/ca-certificates/b.crt"), "b\n").unwrap();
        std::os::unix::fs::symlink("tool-1", at("usr/bin/tool")).unwrap();
        fs::write(at("etc/os-release"), "NAME=x\nID=\"ubuntu\"\n").unwrap();
    }

    fn needs(programs: &[&str], libraries: &[&str]) -> Needs {
        let all = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Needs { programs: all(programs), libraries: all(libraries), ..Needs::default() }
    }

    #[test]
    fn a_base_has_whole_packages_where_the_machine_has_them() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        machine(&root);
        let base = Machine::look(&root).unwrap().base(&needs(&["/bin/tool"], &["lib.so.1"])).unwrap();
        let names: Vec<&str> = base.packages.iter().map(|package| package.name.as_str()).collect();
        assert_eq!(
            (names.as_slice(), base.distribution.as_str()),
            (["ca-certificates", "lib1", "tool", "tzdata"].as_slice(), "ubuntu")
        );
        let get = |path: &str| base.tree.entries().get(path);
        assert_eq!(get("bin"), Some(&Entry::Link("usr/bin".into())));
        assert!(matches!(get("usr/bin/tool-1"), Some(Entry::File { executable: true, .. })));
        assert_eq!(get("usr/bin/tool"), Some(&Entry::Link("/usr/bin/tool-1".into())), "a name that no package has");
        let bundle = Entry::File { content: Content::Bytes(b"a\nb\n".as_slice().into()), executable: false };
        assert_eq!(get("etc/ssl/certs/ca-certificates.crt"), Some(&bundle));
        let bundle = "/etc/ssl/certs/ca-certificates.crt".to_owned();
        assert_eq!(get("usr/lib/ssl/cert.pem"), Some(&Entry::Link(bundle)), "where OpenSSL looks of its own accord");
        assert!(get("etc/passwd").is_some());
        assert_eq!(get("tmp"), Some(&Entry::Scratch));
        for absent in ["etc/ssl/certs/mail.key", "usr/bin/other", "etc/secret", "usr/share/doc/tool/x", "usr/bin/stray"]
        {
            assert_eq!(get(absent), None, "{absent}");
        }
        let expected = [
            "of tool, /bin/tool-1 and 1 more changed on this machine",
            "of tool, /etc/gone and 1 more gone from this machine",
            "of tool, /etc/secret left out: not everybody may read it",
        ];
        assert_eq!(base.notes, expected);
    }

    #[test]
    fn one_file_may_be_what_starts_and_what_is_linked() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        machine(&root);
        let triplet = if Platform::host().architecture == "arm64" { "aarch64-linux-gnu" } else { "x86_64-linux-gnu" };
        let loader = format!("/lib/{triplet}/lib.so.1");
        let base = Machine::look(&root).unwrap().base(&needs(&[&loader], &["lib.so.1"])).unwrap();
        assert!(base.packages.iter().any(|package| package.name == "lib1"));
    }

    #[test]
    fn an_interpreter_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        machine(&root);
        let base = Machine::look(&root).unwrap().base(&needs(&["/usr/bin/snake3"], &[])).unwrap();
        let names: Vec<&str> = base.packages.iter().map(|package| package.name.as_str()).collect();
        assert_eq!(names, ["ca-certificates", "lib1", "snake3", "snake3-minimal", "tzdata"]);
    }

    #[test]
    fn a_static_program_has_data_and_no_program() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        machine(&root);
        let base = Machine::look(&root).unwrap().data().unwrap();
        let files: Vec<&str> = base
            .tree
            .entries()
            .iter()
            .filter(|(_, entry)| matches!(entry, Entry::File { .. }))
            .map(|(path, _)| path.as_str())
            .collect();
        let expected = [
            "etc/group",
            "etc/nsswitch.conf",
            "etc/passwd",
            "etc/ssl/certs/ca-certificates.crt",
            "usr/share/ca-certificates/a.crt",
            "usr/share/ca-certificates/b.crt",
            "usr/share/ca-certificates/d.crt",
            "usr/share/ca-certificates/z/c.crt",
            "usr/share/zoneinfo/UTC",
        ];
        assert_eq!(files, expected);
        let bundle = Entry::File { content: Content::Bytes(b"a\nb\n".as_slice().into()), executable: false };
        assert_eq!(base.tree.entries().get(BUNDLE), Some(&bundle));
        fs::remove_file(root.join(TRUSTED)).unwrap();
        let all = Machine::look(&root).unwrap().data().unwrap();
        assert_ne!(all.tree.entries().get(BUNDLE), Some(&bundle), "a machine that says nothing trusts them all");
    }

    #[test]
    fn what_no_package_has_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        assert!(matches!(Machine::look(&root), Err(BaseError::NoPackages(_))));
        machine(&root);
        let base = |needs: &Needs| Machine::look(&root).unwrap().base(needs).unwrap_err();
        assert!(matches!(base(&needs(&["/usr/bin/stray"], &[])), BaseError::NoOwner(path) if path == "/usr/bin/stray"));
        assert!(matches!(base(&needs(&[], &["lib.so.2"])), BaseError::NoLibrary(name) if name == "lib.so.2"));
        assert!(matches!(base(&needs(&["/usr/bin/none"], &[])), BaseError::Read { .. }));
        let absent = Needs::default().with_packages(&["absent".to_owned()], &root).unwrap_err();
        assert!(matches!(absent, BaseError::NoPackage(name) if name == "absent"));
        let foreign = Needs { architecture: Some("riscv64".into()), ..Needs::default() };
        assert!(matches!(base(&foreign), BaseError::Foreign { .. }));
    }

    #[test]
    fn a_base_has_the_packages_that_an_app_names_but_for_those_of_builds() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        machine(&root);
        let named = ["tool", "lib1-headers", "lib1-dev"].map(str::to_owned);
        let status = root.join(DPKG).join("status");
        let host = Platform::host().architecture;
        let more = [("lib1-headers", "contrib/libdevel"), ("lib1-dev", "python")].map(|(name, section)| {
            let rest = format!("Architecture: {host}\nSection: {section}\nVersion: 1\nDepends: lib2");
            format!("\nPackage: {name}\nStatus: install ok installed\n{rest}\n")
        });
        fs::write(&status, fs::read_to_string(&status).unwrap() + &more.concat()).unwrap();
        let needs = Needs::default().with_packages(&named, &root).unwrap();
        let base = Machine::look(&root).unwrap().base(&needs).unwrap();
        let names: Vec<&str> = base.packages.iter().map(|package| package.name.as_str()).collect();
        assert_eq!(names, ["ca-certificates", "lib1", "tool", "tzdata"], "with what they need");
        let of_builds = ["lib1-headers", "gone-dev"].map(str::to_owned);
        assert!(Needs::default().with_packages(&of_builds, &root).unwrap().is_nothing());
    }

    #[test]
    fn a_shell_has_what_scripts_count_on() {
        let machine = Machine::look(Path::new("/")).expect("these tests run on a Debian machine");
        let base = machine.base(&needs(&["/bin/sh"], &[])).unwrap();
        let has = |path: &str| {
            base.tree.entries().contains_key(path) || base.tree.entries().contains_key(&format!("usr/{path}"))
        };
        for path in ["bin/dirname", "bin/sed", "bin/grep", "usr/bin/find", "usr/lib/locale/C.utf8/LC_CTYPE"] {
            assert!(has(path), "{path}");
        }
        let alone = machine.base(&needs(&["/usr/bin/openssl"], &[])).unwrap();
        assert!(!alone.tree.entries().contains_key("usr/bin/find"), "no shell where nothing asks for one");
    }

    /// On this machine, where the tests run: what `true` needs is enough for `true` to run in a root of its own.
    #[test]
    fn a_program_runs_on_its_base_alone() {
        let machine = Machine::look(Path::new("/")).expect("these tests run on a Debian machine");
        let base = machine.base(&needs(&["/bin/true"], &[])).unwrap();
        let loader = base.tree.entries().keys().any(|path| path.contains("/ld-linux"));
        assert!(loader && base.packages.iter().any(|package| package.name == "libc6"));
        assert!(base.packages.iter().all(|package| package.name != "perl-base"), "what only scripts use");
        let missing = |path: &&str| !base.tree.entries().contains_key(*path);
        assert_eq!(["usr/bin/true", "etc/passwd", "usr/lib/os-release"].iter().find(|path| missing(path)), None);
    }
}
