//! Names of files: what a client says becomes a name that is safe on any disk, in any URL and in any shell.

/// Longest name kept, in bytes. File systems take 255; the rest is room for `-2` and for the temporary file's own.
const MAX_NAME: usize = 120;

/// Devices of Windows: a file of this name, whatever its extension, cannot be opened there once downloaded.
const RESERVED: [&str; 22] = [
    "con", "prn", "aux", "nul", "com1", "com2", "com3", "com4", "com5", "com6", "com7", "com8", "com9", "lpt1", "lpt2",
    "lpt3", "lpt4", "lpt5", "lpt6", "lpt7", "lpt8", "lpt9",
];

/// A name that is one plain file name: `[A-Za-z0-9_-]` and letters beyond ASCII, dots within, one lower-case extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafeName {
    stem: String,
    extension: String,
}

impl SafeName {
    /// Makes a safe name of what a client sent: folders are cut off, odd characters become `_`, nothing is left that
    /// leads anywhere or hides. `None` if it has no extension.
    pub fn from_client(raw: &str) -> Option<Self> {
        // Browsers of old send whole paths, with either kind of slash.
        let last = raw.rsplit(['/', '\\']).next().unwrap_or(raw).trim();
        let (stem, extension) = last.rsplit_once('.')?;
        let extension = extension.to_ascii_lowercase();
        if extension.is_empty() || extension.len() > 10 || !extension.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return None;
        }
        let stem = shorten(&clean(stem), MAX_NAME - extension.len() - 1);
        let is_reserved = RESERVED.contains(&stem.split('.').next().unwrap_or(&stem).to_ascii_lowercase().as_str());
        let stem = match stem.as_str() {
            "" => "file".to_owned(),
            _ if is_reserved => format!("_{stem}"),
            _ => stem,
        };
        Some(Self { stem, extension })
    }

    pub fn extension(&self) -> &str {
        &self.extension
    }

    /// The name itself, or the `n`th beside it: `a.txt`, `a-2.txt`, `a-3.txt`.
    pub fn nth(&self, n: u32) -> String {
        let Self { stem, extension } = self;
        match n {
            0 | 1 => format!("{stem}.{extension}"),
            _ => format!("{stem}-{n}.{extension}"),
        }
    }
}

/// Whether `name` could have been given by `SafeName`: anything else is not asked of the disk.
pub fn is_safe(name: &str) -> bool {
    !name.starts_with('.')
        && !name.is_empty()
        && name.len() <= MAX_NAME + 16
        && name.contains('.')
        && name.chars().all(|c| c == '.' || is_plain(c))
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_') || (!c.is_ascii() && c.is_alphanumeric())
}

/// Runs of other characters become one `_`, runs of dots one dot; neither stays at an end. A leading `-` would be an
/// option to a command.
fn clean(stem: &str) -> String {
    let mut clean = String::with_capacity(stem.len());
    for c in stem.chars() {
        let c = if c == '.' || is_plain(c) { c } else { '_' };
        if !(matches!(c, '.' | '_') && clean.ends_with(['.', '_'])) {
            clean.push(c);
        }
    }
    clean.trim_matches(['.', '_', '-']).to_owned()
}

fn shorten(text: &str, bytes: usize) -> String {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].trim_end_matches(['.', '_', '-']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_safe() {
        let check = |raw: &str, expected: Option<&str>| {
            let name = SafeName::from_client(raw).map(|n| n.nth(1));
            assert_eq!(name.as_deref(), expected, "{raw:?}");
            assert!(name.is_none_or(|n| is_safe(&n)), "{raw:?} is not found again");
        };
        check("report.pdf", Some("report.pdf"));
        check("Report 2024 (final).PDF", Some("Report_2024_final.pdf"));
        check("../../etc/passwd.txt", Some("passwd.txt"));
        check("C:\\Users\\me\\photo.JPG", Some("photo.jpg"));
        check("..txt", Some("file.txt"));
        check(".hidden.txt", Some("hidden.txt"));
        check("-rf.txt", Some("rf.txt"));
        check("naïve café.txt", Some("naïve_café.txt"));
        check("日本語.png", Some("日本語.png"));
        check("a\u{202e}fdp.txt", Some("a_fdp.txt"));
        check("a\0b.txt", Some("a_b.txt"));
        check("<script>.txt", Some("script.txt"));
        check("CON.txt", Some("_CON.txt"));
        check("aux.tar.zip", Some("_aux.tar.zip"));
        check("archive.tar.zip", Some("archive.tar.zip"));
        check("a....b.txt", Some("a.b.txt"));
        check("%2e%2e%2f.txt", Some("2e_2e_2f.txt"));
        check("noextension", None);
        check("dot.", None);
        check("a.t%t", None);
        check("", None);
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        for raw in ["x".repeat(4000) + ".txt", "ü".repeat(4000) + ".txt"] {
            let name = SafeName::from_client(&raw).unwrap().nth(4_000_000_000);
            assert!(name.len() <= MAX_NAME + 16 && name.ends_with(".txt"), "{name}");
            assert!(is_safe(&name));
        }
    }

    #[test]
    fn only_what_could_have_been_given_is_looked_up() {
        for bad in ["", ".", "..", "../a.txt", "a/b.txt", "a\\b.txt", ".temporary.txt", "noext", "a b.txt", "a\0.txt"] {
            assert!(!is_safe(bad), "{bad:?}");
        }
    }
}
