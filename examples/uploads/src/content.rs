//! Whether a file is what its extension says, found out while it streams past.

/// How many bytes at the beginning tell the kind.
pub const HEAD: usize = 16;

/// What an extension promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// UTF-8 without control characters.
    Text,
    Magic(&'static [&'static [u8]]),
    /// `RIFF....WEBP`
    Webp,
    /// An extension that was configured and is not known here: any content.
    Any,
}

impl Kind {
    fn of(extension: &str) -> Self {
        match extension {
            "txt" | "csv" | "md" | "json" | "log" | "yaml" | "yml" | "toml" => Self::Text,
            "pdf" => Self::Magic(&[b"%PDF-"]),
            "png" => Self::Magic(&[b"\x89PNG\r\n\x1a\n"]),
            "jpg" | "jpeg" => Self::Magic(&[b"\xff\xd8\xff"]),
            "gif" => Self::Magic(&[b"GIF87a", b"GIF89a"]),
            "webp" => Self::Webp,
            // An empty archive has only its end record.
            "zip" | "docx" | "xlsx" => Self::Magic(&[b"PK\x03\x04", b"PK\x05\x06"]),
            _ => Self::Any,
        }
    }
}

/// The media type that a file of this extension is served with.
pub fn media_type(extension: &str) -> &'static str {
    match extension {
        "txt" | "md" | "log" => "text/plain; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "json" => "application/json",
        "pdf" => "application/pdf",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "zip" => "application/zip",
        "docx" => "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        "xlsx" => "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        _ => "application/octet-stream",
    }
}

/// Whether a browser may show it in place: only what cannot carry a script that runs in this origin.
pub fn is_passive(extension: &str) -> bool {
    matches!(extension, "txt" | "md" | "csv" | "json" | "log" | "png" | "jpg" | "jpeg" | "gif" | "webp")
}

/// Checks one file, piece by piece.
#[derive(Debug)]
pub struct Check {
    kind: Kind,
    head: Vec<u8>,
    /// The beginning of a character whose rest is in the next piece.
    partial: Vec<u8>,
}

/// The content is not what the extension says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mismatch;

impl Check {
    pub fn new(extension: &str) -> Self {
        Self { kind: Kind::of(extension), head: Vec::new(), partial: Vec::new() }
    }

    pub fn feed(&mut self, piece: &[u8]) -> Result<(), Mismatch> {
        if self.kind == Kind::Text {
            return self.feed_text(piece);
        }
        let missing = HEAD - self.head.len();
        self.head.extend(&piece[..piece.len().min(missing)]);
        // Refused as soon as it is known, not after 100 MB.
        if self.head.len() == HEAD { self.check_head() } else { Ok(()) }
    }

    pub fn finish(self) -> Result<(), Mismatch> {
        match self.kind {
            Kind::Text if self.partial.is_empty() => Ok(()),
            Kind::Text => Err(Mismatch),
            _ => self.check_head(),
        }
    }

    fn check_head(&self) -> Result<(), Mismatch> {
        let fits = match self.kind {
            Kind::Text | Kind::Any => true,
            Kind::Magic(magics) => magics.iter().any(|magic| self.head.starts_with(magic)),
            Kind::Webp => self.head.starts_with(b"RIFF") && self.head.get(8..12) == Some(b"WEBP"),
        };
        if fits { Ok(()) } else { Err(Mismatch) }
    }

    fn feed_text(&mut self, piece: &[u8]) -> Result<(), Mismatch> {
        let joined: Vec<u8>;
        let bytes = if self.partial.is_empty() {
            piece
        } else {
            joined = [self.partial.as_slice(), piece].concat();
            &joined
        };
        let valid = match std::str::from_utf8(bytes) {
            Ok(_) => bytes.len(),
            // Cut within a character: at most three bytes wait for the next piece.
            Err(e) if e.error_len().is_none() => e.valid_up_to(),
            Err(_) => return Err(Mismatch),
        };
        let is_control = |b: &u8| (*b < 0x20 && !matches!(b, b'\t' | b'\n' | b'\r' | 0x0c)) || *b == 0x7f;
        if bytes[..valid].iter().any(is_control) {
            return Err(Mismatch);
        }
        self.partial = bytes[valid..].to_vec();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In one piece, and in pieces of every small size.
    fn check(extension: &str, content: &[u8], expected: bool) {
        for size in [content.len().max(1), 1, 2, 3, 7] {
            let mut check = Check::new(extension);
            let fed = content.chunks(size).try_for_each(|piece| check.feed(piece));
            let result = fed.and_then(|()| check.finish());
            assert_eq!(result.is_ok(), expected, "{extension} in pieces of {size}: {content:?}");
        }
    }

    #[test]
    fn text_is_text() {
        check("txt", b"plain\r\n\ttext", true);
        check("txt", "größer 日本 🎉".as_bytes(), true);
        check("txt", b"", true);
        check("json", b"\xff\xfe{}", false);
        check("txt", b"a\0b", false);
        check("csv", b"\x1b[31m", false);
        check("md", b"cut \xe6\x97", false);
        check("txt", b"\xc0\xaf", false);
    }

    #[test]
    fn magic_bytes_are_there() {
        check("png", b"\x89PNG\r\n\x1a\nand so on and on", true);
        check("png", b"\xff\xd8\xff\xe0 a jpeg, really", false);
        check("jpeg", b"\xff\xd8\xff\xe0", true);
        check("gif", b"GIF89a", true);
        check("gif", b"GIF90a", false);
        check("pdf", b"%PDF-1.7 ...", true);
        check("pdf", b"<html>", false);
        check("docx", b"PK\x03\x04", true);
        check("webp", b"RIFF\x10\0\0\0WEBPVP8 ", true);
        check("webp", b"RIFF\x10\0\0\0WAVEfmt ", false);
        check("png", b"", false);
        check("bin", b"\0\x01", true);
    }
}
