//! A strict reader: it takes what any reader takes for the same, and refuses the rest.

use saphyr_parser::{Event, Parser, ScalarStyle, StrInput};
use serde_json::{Map, Number, Value};

use super::scalar;

/// Deeper than any object is nested.
const MAX_DEPTH: usize = 64;

/// Why a text is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct ReadError {
    /// From 1.
    pub line: usize,
    pub why: String,
}

/// All documents of a text, but for those that are empty.
///
/// # Errors
/// What is no YAML; anchors, aliases and tags; a key twice, or one that is no text; and plain text that YAML 1.1 and 1.2 read as
/// two different things.
pub fn read(text: &str) -> Result<Vec<Value>, ReadError> {
    let mut reader = Reader { parser: Parser::new_from_str(text) };
    let mut all = Vec::new();
    loop {
        match reader.next()? {
            (Event::StreamEnd, _) => return Ok(all),
            (Event::Nothing | Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd, _) => {}
            (Event::Scalar(text, ScalarStyle::Plain, ..), _) if text.is_empty() => {}
            (event, line) => all.push(reader.value(event, line, 0)?),
        }
    }
}

struct Reader<'t> {
    parser: Parser<'t, StrInput<'t>>,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, usize), ReadError> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, span.start.line())),
            Some(Err(error)) => Err(wrong(error.marker().line(), error.info())),
            None => Ok((Event::StreamEnd, 0)),
        }
    }

    fn value(&mut self, event: Event<'t>, line: usize, depth: usize) -> Result<Value, ReadError> {
        if depth > MAX_DEPTH {
            return Err(wrong(line, "it is nested too deep"));
        }
        match event {
            Event::Scalar(_, _, 1.., _) | Event::SequenceStart(1.., _) | Event::MappingStart(1.., _) => {
                Err(wrong(line, "an anchor"))
            }
            Event::Scalar(_, _, _, Some(_)) | Event::SequenceStart(_, Some(_)) | Event::MappingStart(_, Some(_)) => {
                Err(wrong(line, "a tag"))
            }
            Event::Scalar(text, ScalarStyle::Plain, ..) => plain(&text, line),
            Event::Scalar(text, ..) => Ok(Value::String(text.into_owned())),
            Event::SequenceStart(..) => self.list(depth),
            Event::MappingStart(..) => self.map(depth),
            Event::Alias(_) => Err(wrong(line, "an alias")),
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => Err(wrong(line, "a value is missing")),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Value, ReadError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::Array(items)),
                (event, line) => items.push(self.value(event, line, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, ReadError> {
        let mut map = Map::new();
        loop {
            let (event, line) = self.next()?;
            if event == Event::MappingEnd {
                return Ok(Value::Object(map));
            }
            let Value::String(key) = self.value(event, line, depth + 1)? else {
                return Err(wrong(line, "a key that is no text"));
            };
            let (event, at) = self.next()?;
            let value = self.value(event, at, depth + 1)?;
            if map.contains_key(&key) {
                return Err(wrong(line, format!("{key:?} stands here twice")));
            }
            map.insert(key, value);
        }
    }
}

fn plain(text: &str, line: usize) -> Result<Value, ReadError> {
    match text {
        "null" | "~" => return Ok(Value::Null),
        "true" => return Ok(Value::Bool(true)),
        "false" => return Ok(Value::Bool(false)),
        _ => {}
    }
    let number = number(text);
    match number {
        Some(number) => Ok(Value::Number(number)),
        None if text.is_empty() || scalar::is_another(text) => {
            Err(wrong(line, format!("{text:?} is not the same to all readers: put it in quotes")))
        }
        None => Ok(Value::String(text.to_owned())),
    }
}

/// Decimal, as JSON writes it and YAML 1.1 does not read otherwise.
fn number(text: &str) -> Option<Number> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_integer = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if is_integer {
        let is_octal = digits.len() > 1 && digits.starts_with('0');
        let signed = text.parse::<i64>().map(Number::from).ok();
        return signed.or_else(|| text.parse::<u64>().map(Number::from).ok()).filter(|_| !is_octal);
    }
    let (mantissa, exponent) = digits.split_once('e').map_or((digits, None), |(m, e)| (m, Some(e)));
    let (whole, part) = mantissa.split_once('.')?;
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let is_exponent = exponent.is_none_or(|e| e.strip_prefix(['+', '-']).is_some_and(is_digits));
    let is_float = is_digits(whole) && is_digits(part) && is_exponent;
    is_float.then(|| text.parse().ok().and_then(Number::from_f64)).flatten()
}

fn wrong(line: usize, why: impl Into<String>) -> ReadError {
    ReadError { line, why: why.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_clear_is_read() {
        let text = "# a comment\na: 1\nb: [x, 'on', 1.5, -2, null, true]\n---\n- |\n  one\n  two\n- {}\n---\n";
        assert_eq!(
            read(text).unwrap(),
            [json!({"a": 1, "b": ["x", "on", 1.5, -2, null, true]}), json!(["one\ntwo\n", {}])]
        );
    }

    #[test]
    fn what_is_not_clear_is_refused() {
        let check = |text: &str, line: usize, why: &str| {
            let error = read(text).unwrap_err();
            assert!(error.line == line && error.why.contains(why), "{text:?}: {error}");
        };
        check("a: on\n", 1, "quotes");
        check("a: 1\nb: 010\n", 2, "quotes");
        check("a: 1e3\n", 1, "quotes");
        check("a: 12:30\n", 1, "quotes");
        check("a: &x 1\n", 1, "anchor");
        check("a: !!str 1\n", 1, "tag");
        check("a: 1\na: 2\n", 2, "twice");
        check("1: 2\n", 1, "key");
        check("a: [\n", 2, "");
        check(&"- ".repeat(80), 1, "deep");
    }
}
