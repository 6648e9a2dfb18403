//! Archives as layers are made of: ustar, with a header of pax where a name or a size needs one (POSIX.1-2017, pax).
//!
//! What is written is the same for the same entries: owner 0:0, time 0, no names of users. What is read was made by
//! anybody: names, numbers and lengths are bounded, and no path leads out.

use std::io::{self, Read, Write};

const BLOCK: usize = 512;
/// Of the field for a name or a link's target.
const NAME: usize = 100;
/// Largest size that eleven octal digits say.
const MAX_OCTAL: u64 = (1 << 33) - 1;
/// Longest path that is read, in bytes: Linux's own limit.
const MAX_PATH: usize = 4096;
/// Longest header of pax, in bytes.
const MAX_PAX: u64 = 64 << 10;
/// Entries of one archive that is read: a large distribution has some hundred thousand files.
const MAX_ENTRIES: usize = 1_000_000;

/// Why an archive is not read on.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error("it broke off, or cannot be read")]
    Read(#[from] io::Error),
    #[error("it is no archive, or damaged: {0}")]
    Damaged(&'static str),
    #[error("{0:?} leads out of it")]
    Escapes(String),
    #[error("it has more than {MAX_ENTRIES} entries")]
    TooMany,
}

/// Puts entries behind one another, in the order in which they are given.
#[derive(Debug)]
pub(crate) struct Writer<W> {
    out: W,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out }
    }

    pub(crate) fn folder(&mut self, path: &str, mode: u32) -> io::Result<()> {
        self.head(&format!("{path}/"), b'5', mode, 0, "")
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.head(path, b'2', 0o777, 0, target)
    }

    /// Of exactly so many bytes.
    ///
    /// # Errors
    /// `UnexpectedEof`: there are fewer; what was written is no archive then.
    pub(crate) fn file(&mut self, path: &str, mode: u32, size: u64, content: impl Read) -> io::Result<()> {
        self.head(path, b'0', mode, size, "")?;
        if io::copy(&mut content.take(size), &mut self.out)? < size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.pad(size)
    }

    /// Ends the archive, and gives back what it was written to.
    pub(crate) fn end(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        Ok(self.out)
    }

    fn head(&mut self, path: &str, kind: u8, mode: u32, size: u64, target: &str) -> io::Result<()> {
        let mut records = String::new();
        for (key, value) in [("linkpath", target), ("path", path)] {
            if !fits(value) {
                records.push_str(&record(key, value));
            }
        }
        if size > MAX_OCTAL {
            records.push_str(&record("size", &size.to_string()));
        }
        if !records.is_empty() {
            let length = records.len() as u64;
            self.out.write_all(&block("PaxHeaders", b'x', 0o444, length, ""))?;
            self.out.write_all(records.as_bytes())?;
            self.pad(length)?;
        }
        self.out.write_all(&block(path, kind, mode, size, target))
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        self.out.write_all(&[0; BLOCK][..padding(size)])
    }
}

/// Bytes from the end of a content to the next block.
fn padding(size: u64) -> usize {
    let over = size % BLOCK as u64;
    // Less than a block.
    if over == 0 { 0 } else { BLOCK - over as usize }
}

/// Other names are said by pax, which has them as UTF-8: readers do not agree on what bytes above 127 are in ustar.
fn fits(name: &str) -> bool {
    name.len() <= NAME && name.is_ascii()
}

/// `LENGTH key=value\n`, its own length included.
fn record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n")
}

fn block(path: &str, kind: u8, mode: u32, size: u64, target: &str) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &cut(path));
    put(100, format!("{mode:07o}\0").as_bytes());
    put(108, b"0000000\x000000000\0");
    put(124, format!("{:011o}\0", if size > MAX_OCTAL { 0 } else { size }).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, &cut(target));
    put(257, b"ustar\x0000");
    put(329, b"0000000\x000000000\0");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

/// What a reader shows that knows nothing of pax.
fn cut(name: &str) -> Vec<u8> {
    name.chars().take(NAME).map(|c| if c.is_ascii() { c as u8 } else { b'_' }).collect()
}

/// One entry of an archive that is read; its content is read from the [`Reader`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Relative, without `.` and `..`; empty for the folder that was packed.
    pub(crate) path: String,
    pub(crate) kind: Kind,
    /// Of its content, in bytes.
    pub(crate) size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Folder,
    /// To a path as it was written, which may lead anywhere.
    Link(String),
    /// The same file as an entry before it.
    Same(String),
    /// Devices, pipes and whatever else: by its letter.
    Other(u8),
}

/// Reads entry by entry; what is not read of one is skipped.
#[derive(Debug)]
pub(crate) struct Reader<R> {
    input: R,
    /// Of the entry's content.
    left: u64,
    padding: u64,
    entries: usize,
}

/// What headers before an entry say of it.
#[derive(Debug, Default)]
struct Said {
    path: Option<String>,
    target: Option<String>,
    size: Option<u64>,
}

impl<R: Read> Reader<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, left: 0, padding: 0, entries: 0 }
    }

    /// The next one; `None` at the end.
    pub(crate) fn entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut said = Said::default();
        loop {
            self.skip()?;
            let Some(block) = self.block()? else { return Ok(None) };
            self.entries += 1;
            if self.entries > MAX_ENTRIES {
                return Err(TarError::TooMany);
            }
            let size = number(&block[124..136])?;
            match block[156] {
                b'x' => pax(&self.small(size)?, &mut said)?,
                // For all entries: comments, in what engines write.
                b'g' => drop(self.small(size)?),
                // GNU's long names.
                b'L' => said.path = Some(text(&self.small(size)?)?),
                b'K' => said.target = Some(text(&self.small(size)?)?),
                kind => return self.found(&block, kind, said, size).map(Some),
            }
        }
    }

    fn found(&mut self, block: &[u8; BLOCK], kind: u8, said: Said, size: u64) -> Result<Entry, TarError> {
        let path = match said.path {
            Some(path) => path,
            None => {
                let name = text(&block[..100])?;
                let prefix = if &block[257..263] == b"ustar\0" { text(&block[345..500])? } else { String::new() };
                if prefix.is_empty() { name } else { format!("{prefix}/{name}") }
            }
        };
        let target = said.target.map_or_else(|| text(&block[157..257]), Ok)?;
        let kind = match kind {
            // Before POSIX, a folder was a file whose name ends with a slash.
            b'0' | 0 | b'7' if path.ends_with('/') => Kind::Folder,
            b'0' | 0 | b'7' => Kind::File,
            b'1' => Kind::Same(within(&target)?),
            b'2' => Kind::Link(target),
            b'5' => Kind::Folder,
            other => Kind::Other(other),
        };
        let size = match kind {
            Kind::File | Kind::Other(_) => said.size.unwrap_or(size),
            Kind::Folder | Kind::Link(_) | Kind::Same(_) => 0,
        };
        (self.left, self.padding) = (size, padding(size) as u64);
        Ok(Entry { path: within(&path)?, kind, size })
    }

    /// The next header; `None` where the archive ends, by a block of zeros or by its end.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(TarError::Damaged("a header is cut off")),
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let said = number(&block[148..156])?;
        let sum =
            block.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) });
        match sum.sum::<u64>() == said {
            true => Ok(Some(block)),
            false => Err(TarError::Damaged("the sum of a header is wrong")),
        }
    }

    fn small(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_PAX {
            return Err(TarError::Damaged("a header of pax is too long"));
        }
        let mut bytes = Vec::new();
        (&mut self.input).take(size).read_to_end(&mut bytes)?;
        if (bytes.len() as u64) < size {
            return Err(TarError::Damaged("a header of pax is cut off"));
        }
        (self.left, self.padding) = (0, padding(size) as u64);
        Ok(bytes)
    }

    fn skip(&mut self) -> Result<(), TarError> {
        let rest = self.left.saturating_add(self.padding);
        (self.left, self.padding) = (0, 0);
        match io::copy(&mut (&mut self.input).take(rest), &mut io::sink())? {
            skipped if skipped == rest => Ok(()),
            _ => Err(TarError::Damaged("a content is cut off")),
        }
    }
}

impl<R: Read> Read for Reader<R> {
    /// Of the last entry's content.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = (&mut self.input).take(self.left).read(buffer)?;
        if read == 0 && self.left > 0 && !buffer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}

/// Copies an archive entry for entry, with `seconds` since 1970 in the place of every time, and no other changed: who owns what and may
/// do what stays. One whose engine wrote down when it was made is the same as one that it made before.
pub(crate) fn settled<R: Read, W: Write>(input: R, mut out: W, seconds: u64) -> Result<W, TarError> {
    let mut reader = Reader::new(input);
    let mut size = None;
    while let Some(mut block) = {
        reader.skip()?;
        reader.block()?
    } {
        reader.entries += 1;
        if reader.entries > MAX_ENTRIES {
            return Err(TarError::TooMany);
        }
        let own = number(&block[124..136])?;
        if matches!(block[156], b'x' | b'g') {
            let mut said = Said::default();
            let bytes = reader.small(own)?;
            pax(&bytes, &mut said)?;
            size = said.size.filter(|_| block[156] == b'x');
            let kept = timeless(&bytes)?;
            if !kept.is_empty() {
                put(&mut block, 124, &format!("{:011o}\0", kept.len()));
                out.write_all(&stamped(block, seconds))?;
                out.write_all(&kept)?;
                out.write_all(&[0; BLOCK][..padding(kept.len() as u64)])?;
            }
            continue;
        }
        let own = if matches!(block[156], b'1'..=b'6') { 0 } else { size.take().unwrap_or(own) };
        out.write_all(&stamped(block, seconds))?;
        (reader.left, reader.padding) = (own, 0);
        if io::copy(&mut reader, &mut out)? < own {
            return Err(TarError::Damaged("a content is cut off"));
        }
        out.write_all(&[0; BLOCK][..padding(own)])?;
        reader.padding = padding(own) as u64;
    }
    out.write_all(&[0; 2 * BLOCK])?;
    Ok(out)
}

fn put(block: &mut [u8; BLOCK], at: usize, text: &str) {
    block[at..at + text.len()].copy_from_slice(text.as_bytes());
}

/// With another time, and the sum that goes with it.
fn stamped(mut block: [u8; BLOCK], seconds: u64) -> [u8; BLOCK] {
    put(&mut block, 136, &format!("{:011o}\0", seconds.min(MAX_OCTAL)));
    if &block[257..265] == b"ustar  \0" {
        // GNU's own header has two more times.
        block[345..369].fill(0);
    }
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    put(&mut block, 148, &format!("{sum:06o}\0 "));
    block
}

/// Records of pax without those that say when.
fn timeless(mut records: &[u8]) -> Result<Vec<u8>, TarError> {
    let wrong = || TarError::Damaged("a header of pax cannot be understood");
    let mut kept = Vec::new();
    while !records.is_empty() {
        let (record, value, rest) = one_record(records).ok_or_else(wrong)?;
        let key = value.split(|byte| *byte == b'=').next().unwrap_or_default();
        if !matches!(key, b"mtime" | b"atime" | b"ctime" | b"LIBARCHIVE.creationtime") {
            kept.extend_from_slice(record);
        }
        records = rest;
    }
    Ok(kept)
}

/// The first of these records, what it says (`key=value`), and the others.
fn one_record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&records[..space]).ok()?.parse().ok()?;
    if length > records.len() || length < space + 2 || records[length - 1] != b'\n' {
        return None;
    }
    let (record, rest) = records.split_at(length);
    Some((record, &record[space + 1..length - 1], rest))
}

/// In octal, with zeros or spaces around it, or in GNU's way of large numbers: binary behind a byte of 128.
fn number(field: &[u8]) -> Result<u64, TarError> {
    let wrong = || TarError::Damaged("a number is none");
    if let [128, digits @ ..] = field {
        let (high, low) = digits.split_at(digits.len().saturating_sub(8));
        let low = low.iter().fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
        return if high.iter().all(|byte| *byte == 0) { Ok(low) } else { Err(wrong()) };
    }
    let text = std::str::from_utf8(field).map_err(|_| wrong())?;
    match text.trim_matches(['\0', ' ']) {
        "" => Ok(0),
        digits if digits.starts_with('+') => Err(wrong()),
        digits => u64::from_str_radix(digits, 8).map_err(|_| wrong()),
    }
}

/// Up to the first zero.
fn text(field: &[u8]) -> Result<String, TarError> {
    let field = field.split(|byte| *byte == 0).next().unwrap_or_default();
    if field.len() > MAX_PATH {
        return Err(TarError::Damaged("a name is too long"));
    }
    let text = std::str::from_utf8(field).map_err(|_| TarError::Damaged("a name is not UTF-8"))?;
    Ok(text.to_owned())
}

fn pax(mut records: &[u8], said: &mut Said) -> Result<(), TarError> {
    let wrong = || TarError::Damaged("a header of pax cannot be understood");
    while !records.is_empty() {
        let (_, record, rest) = one_record(records).ok_or_else(wrong)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(wrong)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            b"path" | b"linkpath" if value.contains(&0) => return Err(wrong()),
            b"path" => said.path = Some(text(value)?),
            b"linkpath" => said.target = Some(text(value)?),
            b"size" => {
                let size = std::str::from_utf8(value).ok().and_then(|n| n.parse().ok()).ok_or_else(wrong)?;
                said.size = Some(size);
            }
            // Times, owners and extended attributes.
            _ => {}
        }
        records = rest;
    }
    Ok(())
}

fn within(path: &str) -> Result<String, TarError> {
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    match path.starts_with('/') || parts.contains(&"..") {
        true => Err(TarError::Escapes(path.to_owned())),
        false => Ok(parts.join("/")),
    }
}

#[cfg(test)]
#[path = "tar/tests.rs"]
mod tests;
