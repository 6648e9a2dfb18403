//! The system calls that a caged process is refused: those that change the machine, look into other processes, or are
//! known mostly for what was broken through them. Everything else is allowed: apps run unchanged.
//!
//! Refused is EPERM, which programs expect of an ordinary user. Two are refused as if the kernel did not know them, so
//! that programs take another way: `clone3`, whose flags a filter cannot see, and the x32 interface.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::SeccompCmpArgLen::Dword;
use seccompiler::SeccompCmpOp::{Eq, MaskedEq, Ne};
use seccompiler::{BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule, sock_filter};

/// Numbered alike on every architecture; newer than the C library's headers.
const OPEN_TREE_ATTR: c_long = 467;

/// On every architecture.
const REFUSED: [c_long; 51] = [
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
    OPEN_TREE_ATTR,
];

/// Only there.
#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: [c_long; 6] =
    [libc::SYS__sysctl, libc::SYS_ioperm, libc::SYS_iopl, libc::SYS_modify_ldt, libc::SYS_uselib, libc::SYS_ustat];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: [c_long; 0] = [];

/// Namespaces that neither `unshare` nor `clone` makes: inside of one, a process has every capability again.
const NAMESPACES: [libc::c_int; 8] = [
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWTIME,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWUTS,
];

/// Sockets that apps have a use for; the others are rarely looked at parts of the kernel.
const FAMILIES: [libc::c_int; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Its listeners belong to the kernel, not to the process: nobody could tell whose they are (`cage::ports`). Runtimes that
/// ask for it (Go) take TCP where there is none.
const MULTIPATH: libc::c_int = libc::IPPROTO_MPTCP;

/// Input put into a terminal as if it were typed there, and line disciplines, each a module of the kernel that is loaded
/// for whoever asks.
const TERMINAL_INPUT: [libc::Ioctl; 3] = [libc::TIOCSTI, libc::TIOCLINUX, libc::TIOCSETD];

/// Where the numbers of the x32 interface begin.
const X32: u32 = 0x4000_0000;

/// Filters that are ready to be installed, in this order.
#[derive(Debug)]
pub(crate) struct Filters([BpfProgram; 2]);

impl Filters {
    /// # Errors
    /// An architecture without numbers here.
    pub(crate) fn new() -> Result<Self, seccompiler::BackendError> {
        let unknown = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        let unknown = program(unknown, libc::ENOSYS.cast_unsigned())?;
        let refused = program(refused()?, libc::EPERM.cast_unsigned())?;
        Ok(Self([without_x32(unknown), refused]))
    }

    /// For this thread and all that it starts, for good. Allocates nothing.
    ///
    /// # Errors
    /// The kernel has no seccomp filters.
    pub(crate) fn install(&self) -> Result<(), seccompiler::Error> {
        self.0.iter().try_for_each(|program| seccompiler::apply_filter(program))
    }
}

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

fn program(rules: Rules, errno: u32) -> Result<BpfProgram, seccompiler::BackendError> {
    let here = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno), here)?.try_into()
}

/// A call without rules is refused whatever its arguments are.
fn refused() -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = REFUSED.iter().chain(&REFUSED_HERE).map(|call| (*call, Vec::new())).collect();
    let namespaces = |flag: &libc::c_int| {
        let flag = u64::from(flag.cast_unsigned());
        SeccompRule::new(vec![SeccompCondition::new(0, Dword, MaskedEq(flag), flag)?])
    };
    for call in [libc::SYS_unshare, libc::SYS_clone] {
        rules.insert(call, NAMESPACES.iter().map(namespaces).collect::<Result<_, _>>()?);
    }
    let other = |family: &libc::c_int| SeccompCondition::new(0, Dword, Ne, u64::from(family.cast_unsigned()));
    let sockets = SeccompRule::new(FAMILIES.iter().map(other).collect::<Result<_, _>>()?)?;
    let multipath = SeccompCondition::new(2, Dword, Eq, u64::from(MULTIPATH.cast_unsigned()))?;
    rules.insert(libc::SYS_socketpair, vec![sockets.clone()]);
    rules.insert(libc::SYS_socket, vec![sockets, SeccompRule::new(vec![multipath])?]);
    let input = |request: &libc::Ioctl| {
        SeccompRule::new(vec![SeccompCondition::new(1, Dword, Eq, u64::from(*request as u32))?])
    };
    rules.insert(libc::SYS_ioctl, TERMINAL_INPUT.iter().map(input).collect::<Result<_, _>>()?);
    Ok(rules)
}

/// The same calls have other numbers there, which no rule would meet.
fn without_x32(program: BpfProgram) -> BpfProgram {
    if !cfg!(target_arch = "x86_64") {
        return program;
    }
    let one = |code: u32, k: u32, jf: u8| sock_filter { code: code as u16, jt: 0, jf, k };
    let load_number = one(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0);
    let is_x32 = one(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, X32, 1);
    let refuse = one(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned(), 0);
    [load_number, is_x32, refuse].into_iter().chain(program).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a thread of its own: there is no way back.
    fn filtered<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        let caged = std::thread::spawn(move || {
            Filters::new().unwrap().install().unwrap();
            work()
        });
        caged.join().unwrap()
    }

    #[expect(unsafe_code, reason = "calls with arguments that do nothing even where they are allowed")]
    fn errno(call: c_long, first: c_long, second: c_long, third: c_long) -> i32 {
        // SAFETY: null pointers and impossible descriptors: the kernel answers with an error and touches no memory.
        match unsafe { libc::syscall(call, first, second, third, 0, 0, 0) } {
            -1 => std::io::Error::last_os_error().raw_os_error().unwrap(),
            _ => 0,
        }
    }

    #[test]
    fn every_refused_call_is_refused() {
        filtered(|| {
            for call in REFUSED.into_iter().chain(REFUSED_HERE) {
                assert_eq!(errno(call, -1, 0, 0), libc::EPERM, "call {call}");
            }
            assert_eq!(errno(libc::SYS_clone3, 0, 0, 0), libc::ENOSYS);
            for namespace in NAMESPACES {
                assert_eq!(errno(libc::SYS_unshare, namespace.into(), 0, 0), libc::EPERM, "namespace {namespace:x}");
            }
            for family in [libc::AF_ALG, libc::AF_VSOCK, libc::AF_PACKET] {
                for call in [libc::SYS_socket, libc::SYS_socketpair] {
                    assert_eq!(errno(call, family.into(), libc::SOCK_STREAM.into(), 0), libc::EPERM);
                }
            }
            for family in [libc::AF_INET, libc::AF_INET6] {
                let multipath = errno(libc::SYS_socket, family.into(), libc::SOCK_STREAM.into(), MULTIPATH.into());
                assert_eq!(multipath, libc::EPERM);
            }
            for request in TERMINAL_INPUT {
                assert_eq!(errno(libc::SYS_ioctl, -1, request as c_long, 0), libc::EPERM);
            }
        });
    }

    #[test]
    fn what_apps_do_goes_on() {
        filtered(|| {
            assert_eq!(errno(libc::SYS_getpid, 0, 0, 0), 0);
            assert_eq!(errno(libc::SYS_unshare, libc::CLONE_FILES.into(), 0, 0), 0);
            assert_eq!(errno(libc::SYS_ioctl, -1, libc::TCGETS as c_long, 0), libc::EBADF);
            for family in FAMILIES {
                let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
                assert_eq!(errno(libc::SYS_socket, family.into(), kind.into(), 0), 0, "family {family}");
            }
            std::thread::spawn(|| {}).join().unwrap();
            assert!(std::process::Command::new("true").status().unwrap().success());
        });
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_x32_numbers_of_refused_calls_do_not_exist() {
        assert_eq!(filtered(|| errno(libc::SYS_ptrace | c_long::from(X32), 0, 0, 0)), libc::ENOSYS);
        assert_eq!(filtered(|| errno(libc::SYS_getpid | c_long::from(X32), 0, 0, 0)), libc::ENOSYS);
    }
}
