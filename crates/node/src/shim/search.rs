//! Executing a program by its name, as a shell finds it: in the `PATH` of the environment that it is given.

use std::ffi::{CStr, CString};

use nix::errno::Errno;
use nix::unistd::execve;

/// Where no `PATH` is given (execvp(3)).
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

/// Returns only why it could not be executed: `ENOENT` where there is no such program.
pub(super) fn execute(arguments: &[CString], environment: &[CString]) -> Errno {
    let Some(name) = arguments.first() else { return Errno::ENOENT };
    if name.as_bytes().is_empty() {
        return Errno::ENOENT;
    }
    if name.as_bytes().contains(&b'/') {
        return attempt(name, arguments, environment);
    }
    let mut refused = Errno::ENOENT;
    for path in candidates(name, environment) {
        let error = attempt(&path, arguments, environment);
        if error == Errno::EACCES {
            // Another one of that name may be executable.
            refused = error;
        } else if error != Errno::ENOENT && error != Errno::ENOTDIR {
            return error;
        }
    }
    refused
}

/// A script that names no interpreter is the shell's.
fn attempt(path: &CStr, arguments: &[CString], environment: &[CString]) -> Errno {
    match execve(path, arguments, environment) {
        Err(Errno::ENOEXEC) => {
            let script: Vec<&CStr> =
                [c"sh", path].into_iter().chain(arguments.iter().skip(1).map(CString::as_c_str)).collect();
            execve(c"/bin/sh", &script, environment).map_or_else(|error| error, |never| match never {})
        }
        Err(error) => error,
        Ok(never) => match never {},
    }
}

fn candidates(name: &CStr, environment: &[CString]) -> Vec<CString> {
    let path = environment.iter().find_map(|pair| pair.as_bytes().strip_prefix(b"PATH=")).unwrap_or(DEFAULT_PATH);
    let folders = path.split(|byte| *byte == b':');
    let join = |folder: &[u8]| {
        // An empty one is the working directory.
        let folder = if folder.is_empty() { b".".as_slice() } else { folder };
        CString::new([folder, b"/", name.to_bytes()].concat()).ok()
    };
    folders.filter_map(join).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_for_in_the_path_that_is_given() {
        let check = |environment: &[&CStr], expected: &[&CStr]| {
            let environment: Vec<CString> = environment.iter().map(|pair| (*pair).to_owned()).collect();
            assert_eq!(candidates(c"x", &environment), expected);
        };
        check(&[c"A=b", c"PATH=/a::/c d"], &[c"/a/x", c"./x", c"/c d/x"]);
        check(&[], &[c"/bin/x", c"/usr/bin/x"]);
    }

    #[test]
    fn what_is_not_there_and_what_is_no_program_are_told_apart() {
        let path = |text: &CStr| vec![text.to_owned()];
        assert_eq!(execute(&path(c"no-such-program"), &path(c"PATH=/bin")), Errno::ENOENT);
        assert_eq!(execute(&path(c"/etc"), &[]), Errno::EACCES);
        assert_eq!(execute(&path(c""), &path(c"PATH=/bin")), Errno::ENOENT);
        assert_eq!(execute(&[], &[]), Errno::ENOENT);
    }
}
