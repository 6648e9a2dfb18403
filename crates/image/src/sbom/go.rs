//! What Go has linked, by what it writes into each program (`debug/buildinfo`, Go 1.18 and later), stripped ones too.

use std::io::{self, Read};

use super::Component;

const MAGIC: &[u8; 14] = b"\xff Go buildinf:";
/// It begins at a multiple of this.
const ALIGN: usize = 16;
/// At the beginning of what is read at once; a multiple of the former.
const WINDOW: usize = 1 << 20;
/// How far the lists of modules may reach, in bytes.
const MAX_INFO: usize = 1 << 20;
/// Before and behind the list of modules, so that others find it.
const SENTINEL: usize = 16;

/// Nothing, of a program that is not Go's.
///
/// # Errors
/// It cannot be read.
pub(super) fn of_program(program: &mut impl Read) -> io::Result<Vec<Component>> {
    let mut window = Vec::with_capacity(WINDOW + MAX_INFO);
    loop {
        program.take((WINDOW + MAX_INFO - window.len()) as u64).read_to_end(&mut window)?;
        let is_last = window.len() < WINDOW + MAX_INFO;
        let begins = (0..window.len().min(if is_last { usize::MAX } else { WINDOW })).step_by(ALIGN);
        let mut begins = begins.filter(|at| window[*at..].starts_with(MAGIC));
        if let Some(found) = begins.find_map(|at| info(&window[at..])) {
            return Ok(found);
        }
        if is_last {
            return Ok(Vec::new());
        }
        window.drain(..WINDOW);
    }
}

/// Behind the magic: flags at 15, of which 2 says that the texts follow at 32, each behind its length.
fn info(bytes: &[u8]) -> Option<Vec<Component>> {
    if bytes.get(15)? & 2 == 0 {
        return None;
    }
    let mut rest = bytes.get(32..)?;
    let version = std::str::from_utf8(text(&mut rest)?).ok()?;
    let modules = text(&mut rest)?;
    let modules = modules.get(SENTINEL..modules.len().saturating_sub(SENTINEL)).unwrap_or_default();
    let modules = std::str::from_utf8(modules).ok()?;
    let version = version.strip_prefix("go")?.split(' ').next()?;
    let mut found = vec![Component::new("golang", None, "stdlib", version)];
    for line in modules.lines() {
        match line.split('\t').collect::<Vec<_>>().as_slice() {
            ["dep", path, version, ..] => found.push(module(path, version)),
            // What stands there instead of the one before it; a folder has no version, and is of the app.
            ["=>", path, version, ..] => {
                found.pop();
                found.extend(Some(module(path, version)).filter(|_| version.starts_with('v')));
            }
            _ => {}
        }
    }
    Some(found)
}

fn module(path: &str, version: &str) -> Component {
    let lower = path.to_ascii_lowercase();
    let component = match lower.rsplit_once('/') {
        Some((namespace, name)) => Component::new("golang", Some(namespace), name, version),
        None => Component::new("golang", None, &lower, version),
    };
    Component { name: path.to_owned(), ..component }
}

/// A length in base 128, and so many bytes.
fn text<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (mut length, mut shift) = (0_usize, 0);
    loop {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
        shift += 7;
        if shift > 28 {
            return None;
        }
    }
    let (text, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(text)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    fn written(version: &str, modules: &str) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([8, 2]);
        bytes.resize(32, 0);
        let modules = [&[1; SENTINEL], modules.as_bytes(), &[2; SENTINEL]].concat();
        for text in [version.as_bytes(), &modules] {
            let (low, high) = (text.len() as u8 & 0x7f | 0x80, (text.len() >> 7) as u8);
            bytes.extend([low, high]);
            bytes.extend_from_slice(text);
        }
        bytes
    }

    fn purls(program: &[u8]) -> Vec<String> {
        of_program(&mut &*program).unwrap().into_iter().map(|one| one.purl).collect()
    }

    #[test]
    fn modules_are_read_wherever_they_stand() {
        let info = written(
            "go1.22.3 X:x",
            "path\tapp\nmod\tapp\t(devel)\t\ndep\tgithub.com/A/b/v2\tv2.0.0\th1:x=\ndep\told\tv1.0.0\n=>\tnew.example/x\tv1.1.0\th1:y=\ndep\tlocal\tv1.0.0\n=>\t../local\t\t\n",
        );
        let expected =
            ["pkg:golang/stdlib@1.22.3", "pkg:golang/github.com/a/b/v2@v2.0.0", "pkg:golang/new.example/x@v1.1.0"];
        for before in [0, ALIGN, WINDOW - ALIGN, WINDOW, WINDOW + MAX_INFO - ALIGN, 3 * WINDOW] {
            // The magic alone, as programs have it that look for it.
            let mut program = vec![0; before];
            if before > 64 {
                program[32..32 + MAGIC.len()].copy_from_slice(MAGIC);
            }
            program.extend_from_slice(&info);
            assert_eq!(purls(&program), expected, "behind {before} bytes");
        }
        assert_eq!(purls(b"#!/bin/sh\n"), [""; 0]);
        for cut in 0..info.len() {
            assert_eq!(purls(&info[..cut]), [""; 0], "cut off at {cut}");
        }
    }

    #[test]
    fn a_real_program_tells_what_go_says_of_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("go.mod"), "module example.com/app\n\ngo 1.21\n").unwrap();
        fs::write(dir.path().join("main.go"), "package main\n\nfunc main() {}\n").unwrap();
        let mut go = Command::new("go");
        go.args(["build", "-trimpath", "-ldflags=-s -w", "-o", "app", "."]).current_dir(dir.path());
        let built = go.env("CGO_ENABLED", "0").env("GOFLAGS", "").output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let program = fs::read(dir.path().join("app")).unwrap();
        let said = Command::new("go").args(["version", "app"]).current_dir(dir.path()).output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        let version = said.trim().strip_prefix("app: go").unwrap();
        assert_eq!(purls(&program), [format!("pkg:golang/stdlib@{}", version.split(' ').next().unwrap())]);
    }
}
