//! The head of one part of multipart/form-data: does it hold a file, and of which name? (RFC 7578, RFC 6266, RFC 8187)
//!
//! Read more strictly than any app would: what two parsers may read differently is refused.

use super::UploadFault;
use super::name::Extensions;

/// Header lines of a part.
const MAX_LINES: usize = 16;

/// What a part holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// The value of a field.
    Field,
    /// A file with this extension.
    File(String),
    /// A field for a file, for which none was chosen: must be empty.
    NoFile,
}

/// Reads the head's lines, each with its CRLF.
pub(super) fn read(head: &[u8], extensions: &Extensions) -> Result<Part, UploadFault> {
    let head = str::from_utf8(head).map_err(|_| UploadFault::PartHead)?;
    let (mut disposition, mut media_type, mut coding) = (None, None, None);
    for (number, line) in head.split_terminator("\r\n").enumerate() {
        let (name, value) = line.split_once(':').ok_or(UploadFault::PartHead)?;
        let control = |c: char| c.is_control() && c != '\t';
        let well_formed = !name.is_empty() && name.bytes().all(is_token) && !value.contains(control);
        if number >= MAX_LINES || !well_formed {
            return Err(UploadFault::PartHead);
        }
        let value = value.trim_matches([' ', '\t']);
        let repeated = match name.to_ascii_lowercase().as_str() {
            "content-disposition" => disposition.replace(value),
            "content-type" => media_type.replace(value),
            "content-transfer-encoding" => coding.replace(value),
            "content-encoding" => return Err(UploadFault::Encoded),
            _ => None,
        };
        if repeated.is_some() {
            return Err(UploadFault::PartHead);
        }
    }
    if coding.is_some_and(|coding| !["7bit", "8bit", "binary"].iter().any(|plain| plain.eq_ignore_ascii_case(coding))) {
        return Err(UploadFault::Encoded);
    }
    let names = Names::read(disposition.ok_or(UploadFault::PartHead)?)?;
    judge(&names, media_type.unwrap_or_default(), extensions)
}

/// `tchar` of RFC 9110 (5.6.2).
const fn is_token(b: u8) -> bool {
    matches!(b, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
        || b.is_ascii_alphanumeric()
}

fn judge(names: &Names<'_>, media_type: &str, extensions: &Extensions) -> Result<Part, UploadFault> {
    let media_type = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if media_type.starts_with("multipart/") || media_type.starts_with("message/") {
        return Err(UploadFault::PartHead);
    }
    match (names.plain, &names.extended) {
        // Some frameworks take this type alone for a file.
        (None, None) if media_type == "application/octet-stream" => Err(UploadFault::Unnamed),
        (None, None) => Ok(Part::Field),
        (Some(""), None) => Ok(Part::NoFile),
        (Some(name), None) => extensions.judge(name).map(Part::File),
        (None, Some(name)) => extensions.judge(name).map(Part::File),
        // Clients that send both mean one name, written twice.
        (Some(plain), Some(extended)) => {
            let (plain, extended) = (extensions.judge(plain)?, extensions.judge(extended)?);
            if plain == extended { Ok(Part::File(plain)) } else { Err(UploadFault::TwoNames) }
        }
    }
}

/// The file names of a `Content-Disposition`.
struct Names<'a> {
    plain: Option<&'a str>,
    /// `filename*`, decoded.
    extended: Option<String>,
}

impl<'a> Names<'a> {
    fn read(value: &'a str) -> Result<Self, UploadFault> {
        let mut rest = value.strip_prefix_ignoring_case("form-data").ok_or(UploadFault::PartHead)?.trim_start();
        let (mut field, mut names) = (None, Self { plain: None, extended: None });
        while !rest.is_empty() {
            rest = rest.strip_prefix(';').ok_or(UploadFault::PartHead)?.trim_start();
            if rest.is_empty() {
                break;
            }
            let (name, value, behind) = parameter(rest)?;
            rest = behind.trim_start();
            let name = name.to_ascii_lowercase();
            let repeated = match name.as_str() {
                "name" => field.replace(value).is_some(),
                "filename" => names.plain.replace(value).is_some(),
                "filename*" => names.extended.replace(extended(value)?).is_some(),
                // `filename*0`: continued over several parameters, which few understand.
                other if other.starts_with("filename") || other.starts_with("name") => true,
                _ => false,
            };
            if repeated {
                return Err(if name.starts_with("file") { UploadFault::TwoNames } else { UploadFault::PartHead });
            }
        }
        field.ok_or(UploadFault::PartHead).map(|_| names)
    }
}

trait StripIgnoringCase {
    fn strip_prefix_ignoring_case(&self, prefix: &str) -> Option<&str>;
}

impl StripIgnoringCase for str {
    fn strip_prefix_ignoring_case(&self, prefix: &str) -> Option<&str> {
        let (begin, rest) = self.split_at_checked(prefix.len())?;
        begin.eq_ignore_ascii_case(prefix).then_some(rest)
    }
}

/// `name=value` at the beginning: its name, its value without quotes, and what follows.
fn parameter(text: &str) -> Result<(&str, &str, &str), UploadFault> {
    let (name, rest) = text.split_once('=').ok_or(UploadFault::PartHead)?;
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(UploadFault::PartHead);
    }
    if let Some(quoted) = rest.strip_prefix('"') {
        let (value, rest) = quoted.split_once('"').ok_or(UploadFault::PartHead)?;
        // Half of all parsers take a backslash for itself (as paths of old browsers have it), half for a quoted pair.
        return if value.contains('\\') { Err(UploadFault::Name) } else { Ok((name, value, rest)) };
    }
    let end = rest.bytes().position(|b| !is_token(b)).unwrap_or(rest.len());
    let (value, rest) = rest.split_at(end);
    if value.is_empty() { Err(UploadFault::PartHead) } else { Ok((name, value, rest)) }
}

/// RFC 8187, 3.2.1: `UTF-8'LANGUAGE'ENCODED`.
fn extended(value: &str) -> Result<String, UploadFault> {
    let mut pieces = value.splitn(3, '\'');
    let (charset, _, encoded) = (pieces.next(), pieces.next(), pieces.next().ok_or(UploadFault::Name)?);
    if !charset.is_some_and(|charset| charset.eq_ignore_ascii_case("utf-8")) {
        return Err(UploadFault::Name);
    }
    let mut decoded = Vec::with_capacity(encoded.len());
    let mut bytes = encoded.bytes();
    while let Some(byte) = bytes.next() {
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        match byte {
            b'%' => {
                let (high, low) = (digit().ok_or(UploadFault::Name)?, digit().ok_or(UploadFault::Name)?);
                decoded.push(high << 4 | low);
            }
            b'\'' | b'*' => return Err(UploadFault::Name),
            plain => decoded.push(plain),
        }
    }
    String::from_utf8(decoded).map_err(|_| UploadFault::Name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn extensions() -> Extensions {
        Extensions::new(&["png".to_owned(), "txt".to_owned()])
    }

    fn file(extension: &str) -> Result<Part, UploadFault> {
        Ok(Part::File(extension.to_owned()))
    }

    #[test]
    fn a_disposition_says_whether_a_part_is_a_file() {
        let check = |disposition: &str, expected: Result<Part, UploadFault>| {
            let head = format!("Content-Disposition: {disposition}\r\n");
            assert_eq!(read(head.as_bytes(), &extensions()), expected, "{disposition}");
        };
        check("form-data; name=\"a\"", Ok(Part::Field));
        check("form-data; name=a", Ok(Part::Field));
        check("form-data; name=\"f\"; filename=\"a.png\"", file("png"));
        check("Form-Data;name=f;FileName=a.png;", file("png"));
        check("form-data; name=\"f\"; filename=\"Grüße; 1.png\"", file("png"));
        check("form-data; name=\"f\"; filename=\"\"", Ok(Part::NoFile));
        check("form-data; name=\"f\"; filename*=UTF-8''a%20%e2%82%ac.png", file("png"));
        check("form-data; name=f; filename=a.png; filename*=utf-8'en'a%2Epng", file("png"));
        check("form-data; name=f; filename=a.png; filename*=utf-8''a.txt", Err(UploadFault::TwoNames));
        check("form-data; name=f; filename=a.png; filename*=utf-8''a.exe", Err(UploadFault::Extension));
        check("form-data; name=f; filename=a.png; filename=b.png", Err(UploadFault::TwoNames));
        check("form-data; name=f; filename=a.png; FILENAME=a.exe", Err(UploadFault::TwoNames));
        check("form-data; name=f; filename*0=a; filename*1=.png", Err(UploadFault::TwoNames));
        check("form-data; name=f; filename*=utf-8''a.png; filename*=utf-8''a.png", Err(UploadFault::TwoNames));
        check("form-data; name=f; filename*=iso-8859-1''a.png", Err(UploadFault::Name));
        check("form-data; name=f; filename*=utf-8''a%2.png", Err(UploadFault::Name));
        check("form-data; name=f; filename*=utf-8''%ff.png", Err(UploadFault::Name));
        check("form-data; name=f; filename*=utf-8''a.php%00.png", Err(UploadFault::Name));
        check("form-data; name=f; filename=\"a.exe\\\".png\"", Err(UploadFault::Name));
        check("form-data; name=f; filename=\"C:\\a.png\"", Err(UploadFault::Name));
        check("form-data; name=f; filename=\"a.png", Err(UploadFault::PartHead));
        check("form-data; name=f; filename=a b.png", Err(UploadFault::PartHead));
        check("form-data; name=f; name=g", Err(UploadFault::PartHead));
        check("form-data; filename=a.png", Err(UploadFault::PartHead));
        check("attachment; name=f; filename=a.png", Err(UploadFault::PartHead));
        check("form-dataX; name=f", Err(UploadFault::PartHead));
        check("form-data; name=\"f\"; filename=\"a.exe\"", Err(UploadFault::Extension));
    }

    #[test]
    fn a_head_is_well_formed_or_refused() {
        const NAMED: &str = "Content-Disposition: form-data; name=f; filename=a.png\r\n";
        let check = |head: &str, expected: Result<Part, UploadFault>| {
            assert_eq!(read(head.as_bytes(), &extensions()), expected, "{head:?}");
        };
        check(&format!("{NAMED}Content-Type: image/png\r\nX-Own: 1\r\n"), file("png"));
        check(&format!("{NAMED}Content-Transfer-Encoding: binary\r\n"), file("png"));
        check(&format!("{NAMED}Content-Transfer-Encoding: base64\r\n"), Err(UploadFault::Encoded));
        check(&format!("{NAMED}Content-Encoding: gzip\r\n"), Err(UploadFault::Encoded));
        check(&format!("{NAMED}{NAMED}"), Err(UploadFault::PartHead));
        check(&format!("{NAMED}Content-Type: multipart/mixed; boundary=x\r\n"), Err(UploadFault::PartHead));
        check(&format!("{NAMED} folded\r\n"), Err(UploadFault::PartHead));
        check(&format!("{NAMED}no colon\r\n"), Err(UploadFault::PartHead));
        check(&format!("{NAMED}a: b\nc: d\r\n"), Err(UploadFault::PartHead));
        check(&format!("{NAMED}a: b\rc: d\r\n"), Err(UploadFault::PartHead));
        check(&format!("{NAMED}a : b\r\n"), Err(UploadFault::PartHead));
        check("Content-Type: text/plain\r\n", Err(UploadFault::PartHead));
        check("", Err(UploadFault::PartHead));
        let octets = "Content-Disposition: form-data; name=f\r\nContent-Type: application/octet-stream\r\n";
        check(octets, Err(UploadFault::Unnamed));
        assert_eq!(
            read(b"Content-Disposition: form-data; name=\"\xff\"\r\n", &extensions()),
            Err(UploadFault::PartHead)
        );
        check(&format!("{NAMED}{}", "a: b\r\n".repeat(MAX_LINES)), Err(UploadFault::PartHead));
    }

    proptest! {
        #[test]
        fn no_head_makes_it_panic(text in "(Content-Disposition: form-data)?[-a-z=;\"\\\\*'%: \\r\\n]{0,60}") {
            let _ = read(text.as_bytes(), &extensions());
        }
    }
}
