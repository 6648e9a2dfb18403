//! What a Debian machine says of its packages, as text: which are installed, what they need, and which files are theirs.

use std::collections::{BTreeMap, BTreeSet};

/// What only the scripts of packages use when they are installed; nothing is installed in an image.
const FOR_SCRIPTS: [&str; 7] =
    ["adduser", "awk", "debconf", "debconf-2.0", "dpkg", "init-system-helpers", "install-info"];

/// What no program reads.
const FOR_PEOPLE: [&str; 7] = [
    "/usr/share/bug",
    "/usr/share/doc",
    "/usr/share/doc-base",
    "/usr/share/info",
    "/usr/share/lintian",
    "/usr/share/locale",
    "/usr/share/man",
];

/// One that is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    pub name: String,
    pub version: String,
    /// `amd64`, or `all`.
    pub architecture: String,
    /// Of each, the first that is there.
    depends: Vec<Vec<String>>,
    /// `libdevel`
    section: String,
    provides: Vec<String>,
    /// Files that may be changed on the machine, and the sums that they came with: they are in no other list of sums.
    pub(super) settings: BTreeMap<String, String>,
}

/// All of this architecture.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packages(BTreeMap<String, Package>);

impl Packages {
    /// Of `/var/lib/dpkg/status`. Those of another architecture, removed or half installed are none.
    pub fn parse(status: &str, architecture: &str) -> Self {
        let packages = status.split("\n\n").filter_map(|paragraph| Package::parse(paragraph, architecture));
        Self(packages.map(|package| (package.name.clone(), package)).collect())
    }

    pub fn get(&self, name: &str) -> Option<&Package> {
        self.0.get(name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Package> {
        self.0.values()
    }

    /// These and all that they need to run, by `Depends` and `Pre-Depends`. What is wanted and not there is left out.
    pub fn closure<'a>(&'a self, roots: impl IntoIterator<Item = &'a str>) -> Vec<&'a Package> {
        let (mut found, mut next): (BTreeSet<&str>, Vec<&str>) = (BTreeSet::new(), roots.into_iter().collect());
        while let Some(name) = next.pop() {
            let Some(package) = self.providing(name) else { continue };
            if !found.insert(&package.name) {
                continue;
            }
            let needed = package.depends.iter().filter(|choices| !FOR_SCRIPTS.contains(&choices[0].as_str()));
            next.extend(
                needed
                    .filter_map(|choices| choices.iter().find(|name| self.providing(name).is_some()))
                    .map(String::as_str),
            );
        }
        found.iter().filter_map(|name| self.get(name)).collect()
    }

    fn providing(&self, name: &str) -> Option<&Package> {
        self.get(name).or_else(|| self.0.values().find(|package| package.provides.iter().any(|one| one == name)))
    }
}

/// As Debian's policy has such packages named (8.4).
pub(super) fn is_of_headers(package: &str) -> bool {
    package.ends_with("-dev")
}

/// Sections of compilers and headers (Debian policy, 2.4).
const FOR_BUILDS: [&str; 2] = ["devel", "libdevel"];

impl Package {
    /// No program that has been built uses it.
    pub fn is_for_builds(&self) -> bool {
        // `contrib/devel`
        let section = self.section.rsplit('/').next().unwrap_or_default();
        FOR_BUILDS.contains(&section) || is_of_headers(&self.name)
    }

    fn parse(paragraph: &str, architecture: &str) -> Option<Self> {
        // What goes on over lines has none of these fields.
        let fields: BTreeMap<&str, &str> = paragraph
            .lines()
            .filter(|line| !line.starts_with([' ', '\t']))
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name, value.trim()))
            .collect();
        let get = |name: &str| fields.get(name).copied();
        let is_installed = get("Status")?.split(' ').next_back() == Some("installed");
        let own = get("Architecture")?;
        if !is_installed || (own != architecture && own != "all") {
            return None;
        }
        let depends = [get("Pre-Depends"), get("Depends")].into_iter().flatten().flat_map(relation).collect();
        Some(Self {
            name: get("Package")?.to_owned(),
            version: get("Version")?.to_owned(),
            architecture: own.to_owned(),
            depends,
            section: get("Section").unwrap_or_default().to_owned(),
            settings: conffiles(paragraph),
            provides: get("Provides").map(relation).unwrap_or_default().into_iter().flatten().collect(),
        })
    }

    /// How its files are called in `/var/lib/dpkg/info`: of a package that may be there for several architectures, with its own.
    pub fn info_names(&self, ending: &str) -> [String; 2] {
        [format!("{}:{}.{ending}", self.name, self.architecture), format!("{}.{ending}", self.name)]
    }
}

/// ` /etc/x.conf SUM`, a line each below the field; one that the package has no more is no matter of it.
fn conffiles(paragraph: &str) -> BTreeMap<String, String> {
    let lines = paragraph.lines().skip_while(|line| !line.starts_with("Conffiles:")).skip(1);
    let lines = lines.take_while(|line| line.starts_with(' ')).filter(|line| !line.ends_with(" obsolete"));
    lines.filter_map(|line| line.trim().rsplit_once(' ')).map(|(path, sum)| (path.to_owned(), sum.to_owned())).collect()
}

/// `libc6 (>= 2.34), debconf (>= 0.5) | debconf-2.0, python3:any`.
fn relation(field: &str) -> Vec<Vec<String>> {
    let name = |one: &str| {
        let one = one.split(['(', '[', '<']).next().unwrap_or_default().trim();
        one.split(':').next().unwrap_or_default().to_owned()
    };
    let choices = field.split(',').map(|group| group.split('|').map(name).filter(|name| !name.is_empty()).collect());
    choices.filter(|choices: &Vec<String>| !choices.is_empty()).collect()
}

/// Of a package's `.list`: what an image needs of it. Licences stay, for whoever is given the image.
pub(super) fn listed(list: &str) -> impl Iterator<Item = &str> {
    let is_for_people = |path: &str| {
        let is_licence = path.starts_with("/usr/share/doc/") && path.ends_with("/copyright");
        let is_below = |rest: &str| rest.is_empty() || rest.starts_with('/');
        !is_licence && FOR_PEOPLE.iter().any(|folder| path.strip_prefix(folder).is_some_and(is_below))
    };
    list.lines().filter(move |path| path.starts_with('/') && *path != "/." && !is_for_people(path))
}

/// Of a package's `.md5sums`: each path, with a slash before it, and its sum.
pub(super) fn sums(text: &str) -> BTreeMap<String, &str> {
    let pairs = text.lines().filter_map(|line| line.split_once("  "));
    pairs.map(|(sum, path)| (format!("/{path}"), sum)).collect()
}

/// A path of a list where the machine has it: `/lib/x` is `/usr/lib/x` where `/lib` is a link.
pub(super) fn merged(path: &str, links: &BTreeMap<String, String>) -> String {
    let rest = path.trim_start_matches('/');
    let (first, below) = rest.split_once('/').map_or((rest, None), |(first, below)| (first, Some(below)));
    match (links.get(first), below) {
        (Some(target), Some(below)) => format!("/{}/{below}", target.trim_matches('/')),
        (Some(_) | None, _) => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Package: app
Status: install ok installed
Architecture: amd64
Version: 1:2.0-1+b1
Pre-Depends: libc6 (>= 2.34)
Depends: libssl3 (>= 3.0.0), debconf (>= 0.5) | debconf-2.0, mail-transport-agent | none, gone,
 python3:any
Description: an app
 Depends: trap
 .

Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36
Depends: libgcc-s1

Package: libc6
Status: install ok installed
Architecture: i386
Version: 2.36-i386

Package: libgcc-s1
Status: hold ok installed
Architecture: amd64
Version: 12
Depends: libc6

Package: postfix
Status: install ok installed
Architecture: amd64
Version: 3
Provides: default-mta, mail-transport-agent (= 1)

Package: libssl3
Status: deinstall ok config-files
Architecture: amd64
Version: 3

Package: debconf
Status: install ok installed
Architecture: all
Version: 1
";

    #[test]
    fn what_a_package_needs_comes_with_it() {
        let packages = Packages::parse(STATUS, "amd64");
        let closure = |roots: &[&'static str]| -> Vec<String> {
            packages.closure(roots.iter().copied()).iter().map(|one| format!("{} {}", one.name, one.version)).collect()
        };
        assert_eq!(closure(&["app"]), ["app 1:2.0-1+b1", "libc6 2.36", "libgcc-s1 12", "postfix 3"]);
        assert_eq!(closure(&["libgcc-s1", "nobody"]), ["libc6 2.36", "libgcc-s1 12"]);
        assert_eq!(closure(&["debconf"]), ["debconf 1"]);
        assert_eq!(closure(&["libssl3"]), [""; 0], "its files are gone");
        assert_eq!(Packages::parse(STATUS, "i386").iter().count(), 2);
    }

    #[test]
    fn of_a_list_what_people_read_is_left_out() {
        let list = "/.\n/usr\n/usr/bin/app\n/usr/share/doc/app\n/usr/share/doc/app/copyright\n/usr/share/doc/app/README\n/usr/share/man/man1/app.1.gz\n/usr/share/documents\n";
        let kept: Vec<&str> = listed(list).collect();
        assert_eq!(kept, ["/usr", "/usr/bin/app", "/usr/share/doc/app/copyright", "/usr/share/documents"]);
        assert_eq!(sums("abc  usr/bin/a b\nnonsense\n"), [("/usr/bin/a b".to_owned(), "abc")].into());
    }

    #[test]
    fn a_path_is_where_the_machine_has_it() {
        let links = [("lib".to_owned(), "usr/lib".to_owned()), ("bin".to_owned(), "/usr/bin".to_owned())].into();
        assert_eq!(merged("/lib/a/b", &links), "/usr/lib/a/b");
        assert_eq!(merged("/bin/sh", &links), "/usr/bin/sh");
        assert_eq!(merged("/lib", &links), "/lib");
        assert_eq!(merged("/libx/a", &links), "/libx/a");
        assert_eq!(merged("/usr/lib/a", &links), "/usr/lib/a");
    }
}
