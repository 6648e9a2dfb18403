//! What a file's content must look like, by its extension.
//!
//! A table of our own rather than a library that guesses: the question is not what some bytes most likely are, but
//! whether they are what the name says.

use memchr::{memchr, memchr_iter, memchr2_iter};

use super::UploadFault;
use super::name::is_program_extension;

/// Leading bytes that are looked at before any of them is passed on: the farthest mark lies at 257 (tar).
pub(super) const HEAD: usize = 512;

/// Bytes at an offset.
type Mark = (usize, &'static [u8]);

/// What an extension promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    /// Text that begins as a value of JSON does.
    Json,
    /// Text without `<`, which forms encode.
    Form,
    /// One of these sets of marks, and nothing that runs inside.
    Image(&'static [&'static [Mark]]),
    /// One of these sets of marks, and no script inside.
    Document(&'static [&'static [Mark]]),
    /// One of these sets of marks; what is inside is another file's business.
    Archive(&'static [&'static [Mark]]),
    /// ZIP, with an entry of this name.
    Zip(Option<&'static [u8]>),
    /// Not in the table: it must not be a program.
    Other,
    /// A program, which the route takes by name.
    Program,
    /// A form that was sent without choosing a file.
    Nothing,
}

const ISO_MEDIA: &[&[Mark]] = &[&[(4, b"ftyp")]];
const JPEG: &[&[Mark]] = &[&[(0, b"\xff\xd8\xff")]];
const OLE: &[&[Mark]] = &[&[(0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")]];
const ZIP: &[&[Mark]] = &[&[(0, b"PK\x03\x04")], &[(0, b"PK\x05\x06")]];
const TIFF: &[&[Mark]] = &[&[(0, b"II*\0")], &[(0, b"MM\0*")]];
const MATROSKA: &[&[Mark]] = &[&[(0, b"\x1a\x45\xdf\xa3")]];
const OGG: &[&[Mark]] = &[&[(0, b"OggS")]];

fn kind(extension: &str) -> Kind {
    match extension {
        "txt" | "text" | "csv" | "tsv" | "md" | "markdown" | "rst" | "json" | "jsonl" | "ndjson" | "geojson"
        | "xml" | "yaml" | "yml" | "toml" | "ini" | "cfg" | "conf" | "log" | "html" | "htm" | "css" | "js" | "mjs"
        | "ts" | "svg" | "srt" | "vtt" | "ics" | "vcf" | "tex" | "sql" | "gpx" | "kml" => Kind::Text,
        "png" => Kind::Image(&[&[(0, b"\x89PNG\r\n\x1a\n")]]),
        "jpg" | "jpeg" | "jpe" | "jfif" => Kind::Image(JPEG),
        "gif" => Kind::Image(&[&[(0, b"GIF87a")], &[(0, b"GIF89a")]]),
        "webp" => Kind::Image(&[&[(0, b"RIFF"), (8, b"WEBP")]]),
        "bmp" => Kind::Image(&[&[(0, b"BM"), (6, b"\0\0\0\0")]]),
        "tif" | "tiff" => Kind::Image(TIFF),
        "ico" => Kind::Image(&[&[(0, b"\0\0\x01\0")]]),
        "avif" | "heic" | "heif" => Kind::Image(ISO_MEDIA),
        "pdf" => Kind::Document(&[&[(0, b"%PDF-")]]),
        "rtf" => Kind::Document(&[&[(0, b"{\\rtf")]]),
        "doc" | "xls" | "ppt" | "msg" => Kind::Document(OLE),
        "mp3" => Kind::Document(&[
            &[(0, b"ID3")],
            &[(0, b"\xff\xfb")],
            &[(0, b"\xff\xfa")],
            &[(0, b"\xff\xf3")],
            &[(0, b"\xff\xf2")],
        ]),
        "wav" => Kind::Document(&[&[(0, b"RIFF"), (8, b"WAVE")]]),
        "avi" => Kind::Document(&[&[(0, b"RIFF"), (8, b"AVI ")]]),
        "flac" => Kind::Document(&[&[(0, b"fLaC")]]),
        "ogg" | "oga" | "ogv" | "opus" => Kind::Document(OGG),
        "mp4" | "m4a" | "m4v" | "mov" | "3gp" => Kind::Document(ISO_MEDIA),
        "webm" | "mkv" => Kind::Document(MATROSKA),
        "woff" => Kind::Document(&[&[(0, b"wOFF")]]),
        "woff2" => Kind::Document(&[&[(0, b"wOF2")]]),
        "zip" | "kmz" => Kind::Zip(None),
        "docx" | "xlsx" | "pptx" => Kind::Zip(Some(b"[Content_Types].xml")),
        "odt" | "ods" | "odp" | "epub" => Kind::Zip(Some(b"mimetype")),
        "gz" | "tgz" => Kind::Archive(&[&[(0, b"\x1f\x8b\x08")]]),
        "bz2" => Kind::Archive(&[&[(0, b"BZh")]]),
        "xz" => Kind::Archive(&[&[(0, b"\xfd7zXZ\0")]]),
        "zst" => Kind::Archive(&[&[(0, b"\x28\xb5\x2f\xfd")]]),
        "7z" => Kind::Archive(&[&[(0, b"7z\xbc\xaf\x27\x1c")]]),
        "rar" => Kind::Archive(&[&[(0, b"Rar!\x1a\x07")]]),
        "tar" => Kind::Archive(&[&[(257, b"ustar")]]),
        program if is_program_extension(program) => Kind::Program,
        _ => Kind::Other,
    }
}

/// What programs begin with: ELF, Windows, Mach-O in its forms, Java, WebAssembly, Android, static libraries.
const PROGRAMS: &[&[u8]] = &[
    b"\x7fELF",
    b"MZ",
    b"\xfe\xed\xfa\xce",
    b"\xfe\xed\xfa\xcf",
    b"\xce\xfa\xed\xfe",
    b"\xcf\xfa\xed\xfe",
    b"\xca\xfe\xba\xbe",
    b"\0asm",
    b"dex\n",
    b"!<arch>\n",
];

fn has(head: &[u8], marks: &[Mark]) -> bool {
    marks.iter().all(|(at, bytes)| head.get(*at..).is_some_and(|rest| rest.starts_with(bytes)))
}

fn one_of(any: &[&[Mark]], head: &[u8]) -> Result<(), UploadFault> {
    let fault = if is_program(head) { UploadFault::Program } else { UploadFault::Content };
    any.iter().any(|marks| has(head, marks)).then_some(()).ok_or(fault)
}

fn is_program(head: &[u8]) -> bool {
    PROGRAMS.iter().any(|mark| head.starts_with(mark)) || is_script(head)
}

fn is_script(head: &[u8]) -> bool {
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    text.starts_with(b"#!") || is_php(text.trim_ascii_start())
}

/// By its first character (RFC 8259, 2 and 3); what is empty is.
fn may_be_json(head: &[u8]) -> bool {
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    text.first().is_none_or(|first| b"{[\"-0123456789tfn".contains(first))
}

fn is_php(text: &[u8]) -> bool {
    text.len() >= 5 && text[..5].eq_ignore_ascii_case(b"<?php")
}

/// One file's content while it comes: [`Self::head`] once, then [`Self::more`] for every byte from the first on, then
/// [`Self::end`].
#[derive(Debug)]
pub(super) struct Content {
    kind: Kind,
    text: Text,
    inside: Inside,
}

impl Content {
    pub(super) fn of(extension: &str) -> Self {
        Self { kind: kind(extension), text: Text::default(), inside: Inside::default() }
    }

    /// Must be empty.
    pub(super) fn nothing() -> Self {
        Self { kind: Kind::Nothing, text: Text::default(), inside: Inside::default() }
    }

    pub(super) fn json() -> Self {
        Self { kind: Kind::Json, text: Text::default(), inside: Inside::default() }
    }

    /// `application/x-www-form-urlencoded`.
    pub(super) fn form() -> Self {
        Self { kind: Kind::Form, text: Text::default(), inside: Inside::default() }
    }

    /// The first [`HEAD`] bytes, or all if there are fewer.
    pub(super) fn head(&self, head: &[u8]) -> Result<(), UploadFault> {
        match self.kind {
            Kind::Nothing if !head.is_empty() => Err(UploadFault::Unnamed),
            Kind::Nothing => Ok(()),
            // Programs that are not scripts are no text either.
            Kind::Text | Kind::Json | Kind::Form if is_script(head) => Err(UploadFault::Program),
            Kind::Json if !may_be_json(head) => Err(UploadFault::Content),
            Kind::Other if is_program(head) => Err(UploadFault::Program),
            Kind::Text | Kind::Json | Kind::Form | Kind::Other | Kind::Program => Ok(()),
            Kind::Image(any) | Kind::Document(any) | Kind::Archive(any) => one_of(any, head),
            Kind::Zip(_) => one_of(ZIP, head),
        }
    }

    pub(super) fn more(&mut self, bytes: &[u8]) -> Result<(), UploadFault> {
        match self.kind {
            Kind::Form => match memchr(b'<', bytes) {
                Some(at) => self.text.more(&bytes[..at]).and(Err(UploadFault::Content)),
                None => self.text.more(bytes),
            },
            Kind::Text | Kind::Json => self.text.more(bytes),
            Kind::Image(_) => self.inside.more(bytes, Strict::Image),
            Kind::Document(_) => self.inside.more(bytes, Strict::Document),
            Kind::Zip(entry) => self.inside.more(bytes, Strict::Zip(entry)),
            Kind::Nothing if !bytes.is_empty() => Err(UploadFault::Unnamed),
            Kind::Archive(_) | Kind::Other | Kind::Program | Kind::Nothing => Ok(()),
        }
    }

    pub(super) fn end(&self) -> Result<(), UploadFault> {
        if matches!(self.kind, Kind::Zip(Some(_))) && !self.inside.entry {
            return Err(UploadFault::Content);
        }
        if self.text.is_whole() { Ok(()) } else { Err(UploadFault::NotText) }
    }
}

/// UTF-8 without control characters, piece by piece.
#[derive(Debug, Default)]
struct Text {
    /// The beginning of a character: `begun[..length]`.
    begun: [u8; 4],
    length: usize,
}

impl Text {
    fn more(&mut self, mut bytes: &[u8]) -> Result<(), UploadFault> {
        while self.length > 0 {
            let Some((first, rest)) = bytes.split_first() else { return Ok(()) };
            self.begun[self.length] = *first;
            self.length += 1;
            bytes = rest;
            match str::from_utf8(&self.begun[..self.length]) {
                Ok(_) => self.length = 0,
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(UploadFault::NotText),
            }
        }
        let whole = match str::from_utf8(bytes) {
            Ok(text) => text.len(),
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => return Err(UploadFault::NotText),
        };
        let (text, begun) = bytes.split_at(whole);
        self.begun[..begun.len()].copy_from_slice(begun);
        self.length = begun.len();
        let control = |byte: &u8| *byte < b' ' && !matches!(byte, b'\t' | b'\n' | b'\r' | b'\x0c');
        if text.iter().any(control) { Err(UploadFault::NotText) } else { Ok(()) }
    }

    fn is_whole(&self) -> bool {
        self.length == 0
    }
}

/// How much may be inside something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strict {
    /// No PHP, no `<script`, no archive at the end.
    Image,
    /// No PHP and no page: documents hold scripts of their own, and attached archives.
    Document,
    /// No program in the form of an archive; what must be an entry.
    Zip(Option<&'static [u8]>),
}

/// Entries that make a ZIP archive a program: of Java, and of Android.
const PROGRAM_ENTRIES: [&[u8]; 3] = [b"META-INF/MANIFEST.MF", b"AndroidManifest.xml", b"classes.dex"];
/// Up to the name in an entry of an archive's directory (APPNOTE.TXT, 4.3.12).
const ENTRY: usize = 46;
/// What must follow `<?=` to be meant: three bytes alone are met by chance in any photo.
const MEANT: usize = 12;

/// Bytes of the longest thing that is looked for.
const LONGEST: usize = ENTRY + 20;

/// Looks for what has no place inside, also across pieces. What is looked for is long enough not to be met by chance:
/// once in 2⁴⁰ bytes and less.
#[derive(Debug, Default)]
struct Inside {
    /// The last bytes of the piece before.
    tail: Vec<u8>,
    /// What must be there was met.
    entry: bool,
}

impl Inside {
    fn more(&mut self, bytes: &[u8], strict: Strict) -> Result<(), UploadFault> {
        let first = &bytes[..bytes.len().min(LONGEST - 1)];
        self.tail.extend_from_slice(first);
        match strict {
            Strict::Zip(wanted) => {
                for found in entries(&self.tail).chain(entries(bytes)) {
                    if PROGRAM_ENTRIES.contains(&found) {
                        return Err(UploadFault::Program);
                    }
                    self.entry |= wanted == Some(found);
                }
            }
            Strict::Image | Strict::Document => {
                if is_inside(&self.tail, strict) || is_inside(bytes, strict) {
                    return Err(UploadFault::Polyglot);
                }
            }
        }
        if bytes.len() >= LONGEST {
            self.tail.clear();
            self.tail.extend_from_slice(&bytes[bytes.len() - (LONGEST - 1)..]);
        } else {
            let surplus = self.tail.len().saturating_sub(LONGEST - 1);
            self.tail.drain(..surplus);
        }
        Ok(())
    }
}

/// Names in the directory of a ZIP archive that are whole, and short enough to be looked for.
fn entries(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    memchr_iter(b'P', bytes).filter_map(|at| {
        let rest = &bytes[at..];
        let [low, high] = *rest.strip_prefix(b"PK\x01\x02")?.get(24..26)? else { return None };
        let length = usize::from(u16::from_le_bytes([low, high]));
        (length <= LONGEST - ENTRY).then(|| rest.get(ENTRY..ENTRY + length))?
    })
}

fn begins(text: &[u8], with: &[u8]) -> bool {
    text.len() >= with.len() && text[..with.len()].eq_ignore_ascii_case(with)
}

/// `<?=`, and then text.
fn is_short_php(text: &[u8]) -> bool {
    let meant = |byte: &u8| matches!(byte, b' '..=b'~' | b'\t' | b'\n' | b'\r');
    text.starts_with(b"<?=") && text.get(3..3 + MEANT).is_some_and(|rest| rest.iter().all(meant))
}

fn is_page(text: &[u8]) -> bool {
    [&b"<!doctype html"[..], b"<html>", b"<html ", b"<script>", b"<script src"].iter().any(|mark| begins(text, mark))
}

fn is_inside(bytes: &[u8], strict: Strict) -> bool {
    memchr2_iter(b'<', b'P', bytes).any(|at| {
        let rest = &bytes[at..];
        let php = is_php(rest) && rest.get(5).is_some_and(u8::is_ascii_whitespace) || is_short_php(rest);
        match strict {
            Strict::Document => php || is_page(rest),
            Strict::Zip(_) => false,
            Strict::Image => {
                let script = begins(rest, b"<script");
                // The end of a ZIP archive's directory, of the first and only disk.
                php || script || rest.starts_with(b"PK\x05\x06\0\0\0\0")
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn judge(extension: &str, content: &[u8], cut: usize) -> Result<(), UploadFault> {
        let mut judge = Content::of(extension);
        judge.head(&content[..content.len().min(HEAD)])?;
        content.chunks(cut).try_for_each(|piece| judge.more(piece))?;
        judge.end()
    }

    /// Entries without content, and the directory.
    fn zip(names: &[&str]) -> Vec<u8> {
        let length = |name: &str| u16::try_from(name.len()).unwrap().to_le_bytes();
        let local = |name: &&str| [&b"PK\x03\x04"[..], &[0; 22], &length(name), &[0; 2], name.as_bytes()].concat();
        let entry = |name: &&str| [&b"PK\x01\x02"[..], &[0; 24], &length(name), &[0; 16], name.as_bytes()].concat();
        let end = [&b"PK\x05\x06"[..], &[0; 18]].concat();
        [names.iter().flat_map(local).collect(), names.iter().flat_map(entry).collect(), end].concat()
    }

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";

    #[test]
    fn content_is_what_the_extension_says() {
        let check = |extension: &str, content: &[u8], expected: Result<(), UploadFault>| {
            for cut in [1, 2, 3, 7, 64, 4096] {
                assert_eq!(judge(extension, content, cut), expected, "{extension} {content:?} in pieces of {cut}");
            }
        };
        check("png", PNG, Ok(()));
        check("jpg", PNG, Err(UploadFault::Content));
        check("png", b"", Err(UploadFault::Content));
        check("png", b"\x7fELF\x02\x01", Err(UploadFault::Program));
        check("jpeg", b"\xff\xd8\xff\xe0\0\x10JFIF", Ok(()));
        check("webp", b"RIFF\x10\0\0\0WEBPVP8 ", Ok(()));
        check("webp", b"RIFF\x10\0\0\0WAVEfmt ", Err(UploadFault::Content));
        check("docx", &zip(&["word/numbering.xml", "[Content_Types].xml"]), Ok(()));
        check("docx", &zip(&["word/numbering.xml"]), Err(UploadFault::Content));
        check("odt", &zip(&["mimetype", "META-INF/manifest.xml"]), Ok(()));
        check("zip", &zip(&["a", "app/src/AndroidManifest.xml"]), Ok(()));
        check("zip", &zip(&["a", "META-INF/MANIFEST.MF"]), Err(UploadFault::Program));
        check("kmz", &zip(&["classes.dex"]), Err(UploadFault::Program));
        check("docx", &zip(&["[Content_Types].xml", "AndroidManifest.xml"]), Err(UploadFault::Program));
        check("tar", &[&[b'a'; 257][..], b"ustar\0"].concat(), Ok(()));
        check("tar", &[b'a'; 300], Err(UploadFault::Content));
        check("txt", "Grüße, 世界 🎉\r\n\tend".as_bytes(), Ok(()));
        check("txt", b"", Ok(()));
        check("txt", b"\xef\xbb\xbfwith a mark", Ok(()));
        check("txt", b"a\0b", Err(UploadFault::NotText));
        check("txt", b"caf\xe9", Err(UploadFault::NotText));
        check("txt", b"cut \xf0\x9f\x8e", Err(UploadFault::NotText));
        check("txt", b"\xff\xfeh\0i\0", Err(UploadFault::NotText));
        check("txt", b"a \x1b[31mred", Err(UploadFault::NotText));
        check("txt", b"#!/bin/sh\n", Err(UploadFault::Program));
        check("md", b"  <?PHP system('id');", Err(UploadFault::Program));
        check("csv", b"MZ,BM\n", Ok(()));
        check("txt", b"\x7fELF\x02\x01\0", Err(UploadFault::NotText));
        check("exe", b"MZ\x90\0", Ok(()));
        check("stl", b"solid cube", Ok(()));
        check("stl", b"MZ\x90\0", Err(UploadFault::Program));
        check("gif", b"GIF89a<?php system('id'); ?>", Err(UploadFault::Polyglot));
        check("gif", b"GIF89a/*<SCRIPT>alert(1)", Err(UploadFault::Polyglot));
        check("png", &[PNG, b"PK\x05\x06\0\0\0\0\x01\0"].concat(), Err(UploadFault::Polyglot));
        check("png", &[PNG, b"a < b, PK\x05\x06 <?phpx <scrip"].concat(), Ok(()));
        check("pdf", b"%PDF-1.7\n<script contentType='application/x-javascript'>", Ok(()));
        check("pdf", b"%PDF-1.7\n<?xpacket begin=", Ok(()));
        check("pdf", b"%PDF-1.7\n<script>", Err(UploadFault::Polyglot));
        check("pdf", b"%PDF-1.7\n<!DOCTYPE html><p>", Err(UploadFault::Polyglot));
        check("gif", b"GIF89a<?=`$_GET[0]`?>", Err(UploadFault::Polyglot));
        check("pdf", b"%PDF-1.7\n<?=system($_GET['c']);", Err(UploadFault::Polyglot));
        check("gif", b"GIF89a<?=`\x80\xff and so on", Ok(()));
        check("pdf", b"%PDF-1.7\n<?php\n", Err(UploadFault::Polyglot));
        check("zip", b"PK\x03\x04<?php ", Ok(()));
    }

    proptest! {
        #[test]
        fn what_is_found_does_not_depend_on_the_pieces(
            before in prop::collection::vec(any::<u8>(), 0..40), needle in 0usize..7, cut in 1usize..80
        ) {
            let directory = zip(&["classes.dex", "mimetype"]);
            let needle: &[u8] = [
                &b"<?php "[..], b"<script", b"PK\x05\x06\0\0\0\0", b"\xc3", b"<?=`$_GET[0]`?>", b"<html>", &directory
            ][needle];
            let content = [PNG, &before, needle].concat();
            for extension in ["png", "txt", "pdf", "stl"] {
                prop_assert_eq!(judge(extension, &content, cut), judge(extension, &content, 1 << 20));
            }
        }
    }
}
