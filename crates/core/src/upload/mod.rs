//! The upload filter: files come in only if their extension is taken, hides no other one, and says what they are.
//!
//! A body is judged while it is forwarded. Until its first bytes are judged nothing is sent at all, not even the head of
//! the request; a later fault breaks the request off before its end, so that no app takes a part for the whole. Every edge judges by this
//! one machine.
//!
//! | body | how it is judged |
//! |---|---|
//! | `multipart/form-data` | every part that has a file name |
//! | JSON, URL-encoded forms | must be that, and no program by their path |
//! | anything else | one file, named by the last step of the path |
//! | with a `Content-Encoding` | refused |

mod fault;
mod kind;
mod multipart;
mod name;
mod part;

use std::sync::Arc;

pub use fault::UploadFault;
pub use name::Extensions;

use kind::{Content, HEAD};
use multipart::Multipart;

/// Longest boundary (RFC 2046, 5.1.1).
const MAX_BOUNDARY: usize = 70;

/// Bytes of a plain body that are held back until it has ended: the beginning of a character that is never finished is
/// found only then.
const LAST: usize = 4;

/// Judges one body. Bytes in, bytes out; knows nothing of sockets.
#[derive(Debug)]
pub struct Filter(Form);

#[derive(Debug)]
enum Form {
    Multipart(Box<Multipart>),
    /// One file, or text.
    Plain {
        content: Content,
        held: Vec<u8>,
        judged: bool,
    },
}

/// What a request says of its body.
#[derive(Debug, Clone, Copy)]
pub struct Claims<'a> {
    /// The values of `Content-Type`, of which there must be at most one.
    pub media_type: Option<&'a [u8]>,
    pub media_types: usize,
    /// Something other than `identity`.
    pub is_encoded: bool,
    pub path: &'a str,
}

impl Filter {
    /// # Errors
    /// What the head says of the body is refused by itself.
    pub fn new(claims: Claims<'_>, extensions: &Arc<Extensions>) -> Result<Self, UploadFault> {
        if claims.is_encoded {
            return Err(UploadFault::Encoded);
        }
        if claims.media_types > 1 {
            return Err(UploadFault::MediaType);
        }
        let value = str::from_utf8(claims.media_type.unwrap_or_default()).map_err(|_| UploadFault::MediaType)?;
        let (media_type, parameters) = value.split_once(';').unwrap_or((value, ""));
        let media_type = media_type.trim().to_ascii_lowercase();
        // Parsers of forms look for `multipart` anywhere in the field.
        if media_type != "multipart/form-data" && value.to_ascii_lowercase().contains("multipart") {
            return Err(UploadFault::MediaType);
        }
        let plain = |content| Self(Form::Plain { content, held: Vec::new(), judged: false });
        let name = claims.path.rsplit('/').next().unwrap_or_default();
        Ok(match media_type.as_str() {
            "multipart/form-data" => {
                Self(Form::Multipart(Box::new(Multipart::new(boundary(parameters)?, Arc::clone(extensions)))))
            }
            "application/x-www-form-urlencoded" => {
                extensions.judge_no_program(name)?;
                plain(Content::form())
            }
            other if other == "application/json" || other.starts_with("application/") && other.ends_with("+json") => {
                extensions.judge_no_program(name)?;
                plain(Content::json())
            }
            _ => {
                if !name.contains('.') {
                    return Err(UploadFault::MediaType);
                }
                plain(Content::of(&extensions.judge(name)?))
            }
        })
    }

    /// Takes the next bytes of the body; what may go on is appended to `out`.
    ///
    /// # Errors
    /// The body is refused, whatever is still to come.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), UploadFault> {
        let (content, held, judged) = match &mut self.0 {
            Form::Multipart(multipart) => return multipart.feed(input, out),
            Form::Plain { content, held, judged } => (content, held, judged),
        };
        held.extend_from_slice(input);
        if !*judged {
            if held.len() < HEAD {
                return Ok(());
            }
            content.head(&held[..HEAD])?;
            content.more(held)?;
            *judged = true;
        } else {
            content.more(input)?;
        }
        let passed = held.len().saturating_sub(LAST);
        out.extend(held.drain(..passed));
        Ok(())
    }

    /// The body has ended.
    ///
    /// # Errors
    /// It is refused as a whole.
    pub fn end(&mut self, out: &mut Vec<u8>) -> Result<(), UploadFault> {
        match &mut self.0 {
            Form::Multipart(multipart) => multipart.end(out),
            Form::Plain { content, held, judged } => {
                if !*judged {
                    content.head(held)?;
                    content.more(held)?;
                }
                content.end()?;
                out.append(held);
                Ok(())
            }
        }
    }
}

/// The boundary among the parameters of a media type, given once. Unquoted ones may hold what should be quoted (`=`), as
/// old clients write them: no parser reads them otherwise.
fn boundary(parameters: &str) -> Result<&str, UploadFault> {
    let mut found = None;
    for parameter in parameters.split(';').map(str::trim).filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').ok_or(UploadFault::Boundary)?;
        let name = name.to_ascii_lowercase();
        if name.starts_with("boundary") && (name != "boundary" || found.replace(value).is_some()) {
            return Err(UploadFault::Boundary);
        }
    }
    let boundary = found.ok_or(UploadFault::Boundary)?;
    let boundary = boundary.strip_prefix('"').and_then(|quoted| quoted.strip_suffix('"')).unwrap_or(boundary);
    // RFC 2046 also has the space, which parsers trim or do not.
    let valid = |b: u8| b.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&b);
    match (1..=MAX_BOUNDARY).contains(&boundary.len()) && boundary.bytes().all(valid) {
        true => Ok(boundary),
        false => Err(UploadFault::Boundary),
    }
}
