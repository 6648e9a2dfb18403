//! File names: is the extension one that is taken, and does the name hide another one?

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::UploadFault;

/// Longest file name in bytes: what file systems take.
const MAX_NAME: usize = 255;

/// Extensions of what servers or desktops run. One of them before the last extension is refused: servers that map
/// every extension of a name (as `mod_mime` does) would run `a.php.jpg`. `com` is left out: names of sites end with it.
const PROGRAMS: &[&str] = &[
    "apk", "asa", "asax", "ascx", "ashx", "asmx", "asp", "aspx", "bash", "bat", "cer", "cfm", "cgi", "cmd", "cpl",
    "csh", "dll", "dylib", "elf", "exe", "fcgi", "hta", "htaccess", "htpasswd", "inc", "jar", "js", "jse", "jsp",
    "jspx", "ksh", "lnk", "lua", "mjs", "msi", "msp", "php", "php3", "php4", "php5", "php7", "php8", "phar", "phps",
    "pht", "phtml", "pif", "pl", "pm", "ps1", "psm1", "py", "pyc", "pyw", "rb", "scr", "sh", "shtm", "shtml", "swf",
    "vb", "vbe", "vbs", "war", "wasm", "ws", "wsf", "wsh", "zsh",
];

/// Whether files of this extension are run.
pub(super) fn is_program_extension(extension: &str) -> bool {
    PROGRAMS.contains(&extension)
}

/// The extensions that a route takes: lower case, without the dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extensions(BTreeSet<String>);

impl Extensions {
    pub fn new(extensions: &[String]) -> Self {
        Self(extensions.iter().map(|extension| extension.to_ascii_lowercase()).collect())
    }

    /// The extension of a file of this name, in lower case, if the file may come in. The name is judged as it is and as it
    /// is when `%XX` is decoded: nobody knows which of the two an app will use.
    pub(super) fn judge(&self, name: &str) -> Result<String, UploadFault> {
        let extension = self.judge_one(name)?;
        match decoded(name)? {
            Cow::Borrowed(_) => Ok(extension),
            Cow::Owned(decoded) if self.judge_one(&decoded)? == extension => Ok(extension),
            Cow::Owned(_) => Err(UploadFault::TwoNames),
        }
    }

    /// Whether what is called so would be run nowhere, or is taken here. What is no file's name has no extension.
    pub(super) fn judge_no_program(&self, name: &str) -> Result<(), UploadFault> {
        let is_program = |name: &str| {
            name.split('.').skip(1).map(word).any(|word| is_program_extension(&word) && !self.0.contains(&word))
        };
        match is_program(name) || is_program(&decoded(name)?) {
            true => Err(UploadFault::Extension),
            false => Ok(()),
        }
    }

    fn judge_one(&self, name: &str) -> Result<String, UploadFault> {
        let steps = || name.split(['/', '\\']);
        if name.len() > MAX_NAME || name.chars().any(is_invisible) || steps().any(|step| step == "..") {
            return Err(UploadFault::Name);
        }
        let base = steps().next_back().unwrap_or(name);
        let (stem, extension) = base.rsplit_once('.').ok_or(UploadFault::Extension)?;
        let extension = extension.to_ascii_lowercase();
        if stem.trim_matches(['.', ' ']).is_empty() || !self.0.contains(&extension) {
            return Err(UploadFault::Extension);
        }
        let inner = steps().flat_map(|step| step.split('.').skip(1));
        match inner.map(word).any(|word| is_program_extension(&word) && !self.0.contains(&word)) {
            true => Err(UploadFault::HiddenExtension),
            false => Ok(extension),
        }
    }
}

/// What a server that stops at the first strange character would take an extension for: `php` of `php;`, `php%00`.
fn word(extension: &str) -> String {
    extension.chars().take_while(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase()
}

/// Controls, and what turns the direction of text around: `cod\u{202e}gpj.exe` reads as `codexe.jpg`.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// `%XX` decoded; what is no such thing stays.
fn decoded(name: &str) -> Result<Cow<'_, str>, UploadFault> {
    let bytes = name.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|b| char::from(*b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
    let escape = |at: usize| (bytes[at] == b'%').then(|| Some(digit(at + 1)? << 4 | digit(at + 2)?)).flatten();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let (byte, length) = escape(at).map_or((bytes[at], 1), |byte| (byte, 3));
        out.push(byte);
        at += length;
    }
    match out == bytes {
        true => Ok(Cow::Borrowed(name)),
        false => String::from_utf8(out).map(Cow::Owned).map_err(|_| UploadFault::Name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn extensions() -> Extensions {
        Extensions::new(&["png".to_owned(), "JPG".to_owned(), "gz".to_owned(), "txt".to_owned()])
    }

    #[test]
    fn a_name_is_judged_by_all_its_extensions() {
        let check = |name: &str, expected: Result<&str, UploadFault>| {
            assert_eq!(extensions().judge(name).as_deref(), expected.as_ref().map(|e| *e), "{name:?}");
        };
        check("a.png", Ok("png"));
        check("A.B.JPG", Ok("jpg"));
        check("backup.tar.gz", Ok("gz"));
        check("example.com.png", Ok("png"));
        check("folder/a.png", Ok("png"));
        check("Foto 1 (2).png", Ok("png"));
        check("50% off.png", Ok("png"));
        check("a%22b.png", Ok("png"));
        check("Übersicht.png", Ok("png"));
        for name in ["a", "a.", "a.exe", "a.png.exe", ".png", "..png", "a.png.", "a.png ", "a.png%00", "png", ""] {
            assert!(extensions().judge(name).is_err(), "{name:?}");
        }
        check("a.php.jpg", Err(UploadFault::HiddenExtension));
        check("a.PhP5.jpg", Err(UploadFault::HiddenExtension));
        check("a.php;.jpg", Err(UploadFault::HiddenExtension));
        check("a.exe .jpg", Err(UploadFault::HiddenExtension));
        check(".htaccess.jpg", Err(UploadFault::HiddenExtension));
        check("a%2ephp.jpg", Err(UploadFault::HiddenExtension));
        check("x.php/a.jpg", Err(UploadFault::HiddenExtension));
        check("a.php%00.jpg", Err(UploadFault::HiddenExtension));
        check("a%00.jpg", Err(UploadFault::Name));
        check("a\0.jpg", Err(UploadFault::Name));
        check("../a.jpg", Err(UploadFault::Name));
        check("..\\a.jpg", Err(UploadFault::Name));
        check("%2e%2e/a.jpg", Err(UploadFault::Name));
        check("a\u{202e}gpj.png", Err(UploadFault::Name));
        check("a%ff.jpg", Err(UploadFault::Name));
        check(&format!("{}.jpg", "a".repeat(300)), Err(UploadFault::Name));
        check("a.jpg%2etxt", Err(UploadFault::Extension));
        check("php.jpg", Ok("jpg"));
    }

    #[test]
    fn what_is_no_file_must_not_be_called_a_program() {
        for name in ["", "messages", "v1.0", "jane.doe", "report.json", "50%"] {
            assert_eq!(extensions().judge_no_program(name), Ok(()), "{name:?}");
        }
        for name in ["x.php", "x.PHP", "x.php.json", "x%2ephp", "x.php;a", "x.php%00.json"] {
            assert_eq!(extensions().judge_no_program(name), Err(UploadFault::Extension), "{name:?}");
        }
    }

    #[test]
    fn who_takes_scripts_takes_them_before_another_extension_too() {
        let extensions = Extensions::new(&["js".to_owned(), "txt".to_owned()]);
        assert_eq!(extensions.judge("a.js.txt").as_deref(), Ok("txt"));
        assert_eq!(extensions.judge("a.php.txt"), Err(UploadFault::HiddenExtension));
    }

    proptest! {
        #[test]
        fn no_name_makes_it_panic_and_what_passes_ends_as_it_should(name in "\\PC{0,20}(\\.|%2e|%)?[a-z%0-9]{0,6}") {
            if let Ok(extension) = extensions().judge(&name) {
                prop_assert!(name.to_ascii_lowercase().ends_with(&format!(".{extension}")), "{}", name);
            }
        }
    }
}
