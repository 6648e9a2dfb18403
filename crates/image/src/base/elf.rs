//! What a program needs before it starts: its loader and its libraries, by its own headers (System V gABI, chapter 5).

use std::io::{self, Read, Seek, SeekFrom};

/// Programs have some ten headers, libraries some hundred entries.
const MAX_HEADERS: u16 = 256;
const MAX_DYNAMIC: u64 = 64 << 10;
/// Longest name of a library or a loader, in bytes.
const MAX_NAME: u64 = 4096;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NULL: u64 = 0;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;

/// A program or library of ELF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elf {
    /// In Go's words: `amd64`.
    pub architecture: &'static str,
    /// The loader that starts it; none of what is linked statically, and none of libraries.
    pub interpreter: Option<String>,
    /// Names of libraries: `libc.so.6`.
    pub needed: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    #[error("it is for another kind of machine (class {class}, machine {machine})")]
    Foreign { class: u8, machine: u16 },
}

impl Elf {
    /// It needs nothing but the kernel.
    pub fn is_static(&self) -> bool {
        self.interpreter.is_none() && self.needed.is_empty()
    }

    /// `None`: a script, or whatever else is not ELF.
    ///
    /// # Errors
    /// It cannot be read, is cut off, or is neither for amd64 nor for arm64.
    pub fn read(file: &mut (impl Read + Seek)) -> Result<Option<Self>, ElfError> {
        let mut head = [0; 64];
        let mut filled = 0;
        while filled < head.len() {
            match file.read(&mut head[filled..])? {
                0 => break,
                n => filled += n,
            }
        }
        if !head.starts_with(b"\x7fELF") {
            return Ok(None);
        }
        if filled < head.len() {
            return Err(ElfError::Damaged("its header is cut off"));
        }
        let (class, machine) = (head[4], half(&head, 18));
        let architecture = match (class, head[5], machine) {
            (2, 1, 62) => "amd64",
            (2, 1, 183) => "arm64",
            _ => return Err(ElfError::Foreign { class, machine }),
        };
        let (offset, size, count) = (wide(&head, 32), half(&head, 54), half(&head, 56));
        if count > MAX_HEADERS || (count > 0 && size != 56) {
            return Err(ElfError::Damaged("its program headers are none"));
        }
        let headers = piece(file, offset, u64::from(count) * 56)?;
        let headers: Vec<Header> = headers.chunks_exact(56).map(Header::of).collect();
        let mut elf = Self { architecture, interpreter: None, needed: Vec::new() };
        for header in &headers {
            match header.kind {
                PT_INTERP => elf.interpreter = Some(name(&piece(file, header.offset, header.size.min(MAX_NAME))?)?),
                PT_DYNAMIC => elf.needed = needed(file, &headers, header)?,
                _ => {}
            }
        }
        Ok(Some(elf))
    }
}

struct Header {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

impl Header {
    fn of(bytes: &[u8]) -> Self {
        let kind = u32::from(half(bytes, 0)) | u32::from(half(bytes, 2)) << 16;
        Self { kind, offset: wide(bytes, 8), address: wide(bytes, 16), size: wide(bytes, 32) }
    }
}

fn needed(file: &mut (impl Read + Seek), headers: &[Header], dynamic: &Header) -> Result<Vec<String>, ElfError> {
    if dynamic.size > MAX_DYNAMIC {
        return Err(ElfError::Damaged("its dynamic section is too long"));
    }
    let bytes = piece(file, dynamic.offset, dynamic.size)?;
    let entries = bytes.chunks_exact(16).map(|entry| (wide(entry, 0), wide(entry, 8)));
    let entries: Vec<(u64, u64)> = entries.take_while(|(tag, _)| *tag != DT_NULL).collect();
    let wanted = entries.iter().filter(|(tag, _)| *tag == DT_NEEDED).map(|(_, at)| *at);
    let Some((_, names)) = entries.iter().find(|(tag, _)| *tag == DT_STRTAB) else { return Ok(Vec::new()) };
    let holds =
        |header: &&Header| header.kind == PT_LOAD && *names >= header.address && names - header.address < header.size;
    let mut found = Vec::new();
    for at in wanted {
        let segment = headers.iter().find(holds).ok_or(ElfError::Damaged("its names are nowhere"))?;
        let at = (names - segment.address).checked_add(segment.offset).and_then(|names| names.checked_add(at));
        file.seek(SeekFrom::Start(at.ok_or(ElfError::Damaged("a name is nowhere"))?))?;
        let mut bytes = Vec::new();
        file.take(MAX_NAME).read_to_end(&mut bytes)?;
        found.push(name(&bytes)?);
    }
    Ok(found)
}

/// Up to its zero.
fn name(bytes: &[u8]) -> Result<String, ElfError> {
    let wrong = ElfError::Damaged("a name does not end, or is no text");
    let Some(end) = bytes.iter().position(|byte| *byte == 0) else { return Err(wrong) };
    std::str::from_utf8(&bytes[..end]).map(str::to_owned).map_err(|_| wrong)
}

fn piece(file: &mut (impl Read + Seek), offset: u64, size: u64) -> Result<Vec<u8>, ElfError> {
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(size).read_to_end(&mut bytes)?;
    if bytes.len() as u64 == size { Ok(bytes) } else { Err(ElfError::Damaged("it is cut off")) }
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from(bytes[at]) | u16::from(bytes[at + 1]) << 8
}

fn wide(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs::{self, File};
    use std::io::Cursor;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    /// The smallest program there is: for amd64, it ends with code 7.
    pub(crate) fn tiny() -> Vec<u8> {
        let code = [0xbf, 7, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05];
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(16, 0);
        for (number, bytes) in [
            (2_u64, 2),
            (62, 2),
            (1, 4),
            (0x40_0078, 8),
            (64, 8),
            (0, 8),
            (0, 4),
            (64, 2),
            (56, 2),
            (1, 2),
            (64, 2),
            (0, 2),
            (0, 2),
            // PT_LOAD, to be read and executed, from the file's beginning.
            (1, 4),
            (5, 4),
            (0, 8),
            (0x40_0000, 8),
            (0x40_0000, 8),
            (0x84, 8),
            (0x84, 8),
            (0x1000, 8),
        ] {
            elf.extend_from_slice(&number.to_le_bytes()[..bytes]);
        }
        elf.extend_from_slice(&code);
        elf
    }

    #[test]
    fn a_static_program_needs_nothing() {
        let tiny = tiny();
        let elf = Elf::read(&mut Cursor::new(&tiny)).unwrap().unwrap();
        assert_eq!(elf, Elf { architecture: "amd64", interpreter: None, needed: Vec::new() });
        assert!(elf.is_static());
        if cfg!(target_arch = "x86_64") {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("tiny");
            fs::write(&path, &tiny).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            // It is what the kernel takes for a program. A file that was just written may be open for writing in a child of another test.
            let ended = (0..100).find_map(|_| match Command::new(&path).status() {
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => None,
                ended => Some(ended.unwrap().code()),
            });
            assert_eq!(ended, Some(Some(7)));
        }
    }

    #[test]
    fn a_program_of_the_machine_names_its_loader_and_libraries() {
        let elf = Elf::read(&mut File::open("/bin/true").unwrap()).unwrap().unwrap();
        let loader = elf.interpreter.unwrap();
        assert!(loader.contains("/ld-"), "{loader}");
        assert!(elf.needed.iter().any(|name| name.starts_with("libc.")), "{:?}", elf.needed);
        // By a reader that is not ours.
        let shown = Command::new("readelf").args(["-d", "/bin/true"]).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        let names = shown.lines().filter(|line| line.contains("(NEEDED)"));
        let names: Vec<&str> = names.map(|line| line.rsplit_once('[').unwrap().1.trim_end_matches(']')).collect();
        assert_eq!(elf.needed, names);
    }

    #[test]
    fn what_is_no_program_is_told_from_what_is_damaged() {
        let read = |bytes: &[u8]| Elf::read(&mut Cursor::new(bytes));
        assert_eq!(read(b"#!/bin/sh\n").unwrap(), None);
        assert_eq!(read(b"").unwrap(), None);
        assert!(matches!(read(b"\x7fELF\x02"), Err(ElfError::Damaged(_))));
        let with = |at: usize, byte: u8| {
            let mut elf = tiny();
            elf[at] = byte;
            read(&elf)
        };
        assert!(matches!(with(4, 1), Err(ElfError::Foreign { class: 1, machine: 62 })));
        assert!(matches!(with(18, 40), Err(ElfError::Foreign { class: 2, machine: 40 })));
        assert!(matches!(with(54, 8), Err(ElfError::Damaged(_))));
        assert!(matches!(with(57, 255), Err(ElfError::Damaged(_))));
        assert!(matches!(with(33, 255), Err(ElfError::Damaged(_))));
        assert_eq!(with(18, 183).unwrap().unwrap().architecture, "arm64");
        // A loader whose name does not end.
        let mut endless = tiny();
        (endless[64], endless[96]) = (3, 3);
        assert!(matches!(read(&endless), Err(ElfError::Damaged(_))));
    }

    proptest::proptest! {
        #[test]
        fn anything_may_be_in_a_program(flips in proptest::collection::vec((0..2_000_usize, proptest::prelude::any::<u8>()), 1..8)) {
            let mut bytes = fs::read("/bin/true").unwrap();
            for (at, byte) in flips {
                bytes[at] = byte;
            }
            let _ = Elf::read(&mut Cursor::new(bytes));
        }
    }
}
