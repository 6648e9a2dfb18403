//! What systemd does to a process before it is the one of the unit, by the words of the unit.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use bowline_tests::text;
use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpOp::{Eq, Ne};
use seccompiler::{BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule};

/// What a unit says that takes nothing from the process.
const TAKES_NOTHING: [&str; 15] = [
    "Type",
    "NotifyAccess",
    "ExecStart",
    "ExecReload",
    "TimeoutStartSec",
    "TimeoutStopSec",
    "WatchdogSec",
    "KillMode",
    "Restart",
    "RestartSec",
    "RestartPreventExitStatus",
    "Delegate",
    "OOMPolicy",
    "TasksMax",
    "LimitNOFILE",
];

/// Policies that `RestrictRealtime=` refuses (systemd.exec(5)).
const REALTIME: [libc::c_int; 3] = [libc::SCHED_FIFO, libc::SCHED_RR, libc::SCHED_DEADLINE];

/// The hardening of a unit.
pub(super) struct Sandbox {
    /// Capabilities that are kept, for `setpriv`.
    bounding_set: String,
    pub(super) umask: String,
    filters: Vec<BpfProgram>,
}

impl Sandbox {
    /// Of the text of a unit; fails where it says what is not known here.
    pub(super) fn of(unit: &str) -> Self {
        let mut said = settings(unit);
        let mut take = |key: &str| said.remove(key).unwrap_or_else(|| panic!("no {key}= in {unit}"));
        assert_eq!((take("NoNewPrivileges"), take("RestrictRealtime")), (vec!["yes"], vec!["yes"]));
        // Each filter kills who calls by another architecture's numbers.
        assert_eq!(take("SystemCallArchitectures"), ["native"]);
        let kept = take("CapabilityBoundingSet").into_iter();
        let kept: String = kept.map(|name| format!(",+{}", name["CAP_".len()..].to_lowercase())).collect();
        let umask = take("UMask").concat();
        let (families, errno) = (take("RestrictAddressFamilies"), take("SystemCallErrorNumber").concat());
        let groups = take("SystemCallFilter");
        let first = groups[0].strip_prefix('~').expect("a list of what is refused");
        let calls = calls_of(&[&[first], &groups[1..]].concat());
        let unknown: Vec<_> = said.keys().filter(|key| !TAKES_NOTHING.contains(key)).collect();
        assert!(unknown.is_empty(), "not known to this test: {unknown:?}");

        let words = calls.iter().map(|call| format!("__NR_{call}"));
        let words = words.chain(families.iter().map(|&family| family.to_owned())).chain([errno.clone()]);
        let numbers = numbers(&words.collect());
        // Of other architectures' calls there is none here.
        let refused = calls.iter().filter_map(|call| Some((*numbers.get(&format!("__NR_{call}"))?, Vec::new())));
        let refused: BTreeMap<_, _> = refused.collect();
        assert!(refused.contains_key(&libc::SYS_swapon) && refused.contains_key(&libc::SYS_reboot), "{numbers:?}");
        let families = families.iter().map(|&family| is(0, Ne, numbers[family]));
        let families = SeccompRule::new(families.collect()).expect("a rule");
        let realtime = REALTIME.map(|policy| SeccompRule::new(vec![is(1, Eq, policy.into())]).expect("a rule"));
        let filters = vec![
            filter(refused, u32::try_from(numbers[&errno]).expect("an errno")),
            filter(BTreeMap::from([(libc::SYS_socket, vec![families])]), libc::EAFNOSUPPORT.cast_unsigned()),
            filter(BTreeMap::from([(libc::SYS_sched_setscheduler, realtime.into())]), libc::EPERM.cast_unsigned()),
        ];
        Self { bounding_set: format!("-all{kept}"), umask, filters }
    }

    /// Does `work` in a thread whose children have all of it that is no command's to give.
    pub(super) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|threads| {
            let thread = threads.spawn(|| {
                for filter in &self.filters {
                    seccompiler::apply_filter(filter).expect("the kernel filters system calls");
                }
                work()
            });
            thread.join().expect("no panic")
        })
    }

    /// The rest: a command that executes the one behind it.
    pub(super) fn wrapper(&self) -> Vec<String> {
        let umask = format!("umask {}; exec \"$@\"", self.umask);
        let bounding_set = format!("--bounding-set={}", self.bounding_set);
        ["sh", "-c", &umask, "sh", "setpriv", "--no-new-privs", &bounding_set].map(str::to_owned).to_vec()
    }

    /// What the kernel says of a process that has it, as in `/proc/PID/status`.
    pub(super) fn shows(&self) -> [(&'static str, String); 4] {
        [
            ("NoNewPrivs", "1".to_owned()),
            ("Seccomp", "2".to_owned()),
            ("Seccomp_filters", self.filters.len().to_string()),
            ("Umask", self.umask.clone()),
        ]
    }
}

/// Of `[Service]`, the words of each key.
fn settings(unit: &str) -> BTreeMap<&str, Vec<&str>> {
    let (_, service) = unit.split_once("[Service]\n").expect("a service");
    let (service, _) = service.split_once("\n[").unwrap_or((service, ""));
    let mut said = BTreeMap::<&str, Vec<&str>>::new();
    for (key, words) in service.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('=')) {
        said.entry(key).or_default().extend(words.split_whitespace());
    }
    said
}

/// The system calls of these groups, and of those in them.
fn calls_of(groups: &[&str]) -> BTreeSet<String> {
    let output = Command::new("systemd-analyze").arg("syscall-filter").args(groups).output();
    let output = output.expect("systemd-analyze is installed by scripts/setup");
    assert!(output.status.success(), "{}", text(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let members =
        said.lines().filter(|line| line.starts_with(' ')).map(str::trim).filter(|line| !line.starts_with('#'));
    let (inner, calls): (Vec<&str>, Vec<&str>) = members.partition(|member| member.starts_with('@'));
    let calls = calls.into_iter().map(str::to_owned);
    if inner.is_empty() { calls.collect() } else { calls.chain(calls_of(&inner)).collect() }
}

/// What the C library's headers say for these names on this machine, where they say something.
fn numbers(names: &BTreeSet<String>) -> BTreeMap<String, i64> {
    let mut compiler = Command::new("cc");
    let compiler = compiler.args(["-E", "-P", "-x", "c", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut compiler = compiler.expect("a C compiler, without which Rust links nothing");
    let mut source = "#include <errno.h>\n#include <sys/socket.h>\n#include <sys/syscall.h>\n".to_owned();
    names.iter().for_each(|name| source.push_str(&format!("\"{name}\" {name}\n")));
    compiler.stdin.take().expect("a pipe").write_all(source.as_bytes()).expect("it reads");
    let output = compiler.wait_with_output().expect("it was started");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let pair = |line: &str| {
        let (name, number) = line.strip_prefix('"')?.split_once("\" ")?;
        Some((name.to_owned(), number.trim().parse().ok()?))
    };
    said.lines().filter_map(pair).collect()
}

fn is(argument: u8, how: seccompiler::SeccompCmpOp, number: i64) -> SeccompCondition {
    SeccompCondition::new(argument, Dword, how, number.cast_unsigned()).expect("one of six arguments")
}

fn filter(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: u32) -> BpfProgram {
    let here = std::env::consts::ARCH.try_into().expect("an architecture that is known");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno), here);
    filter.expect("a filter").try_into().expect("a program")
}
