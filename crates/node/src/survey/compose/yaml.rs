//! YAML as a tree with lines, bounded whatever the text: its nodes are counted after aliases are followed, so a small
//! text cannot become a large tree.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle};

/// After aliases are followed. The largest compose files that people write have some thousand.
const MAX_NODES: usize = 20_000;
const MAX_DEPTH: usize = 40;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    /// From 1.
    pub line: u32,
    pub data: Data,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Data {
    Null,
    Text(String),
    List(Vec<Node>),
    /// In the order of the text; a later key of the same name wins.
    Map(Vec<(String, Node)>),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum YamlError {
    #[error("line {line}: {why}")]
    Syntax { line: usize, why: String },
    #[error("it has more than {MAX_NODES} values, those that aliases repeat included")]
    TooLarge,
    #[error("it is nested more than {MAX_DEPTH} deep")]
    TooDeep,
}

impl Node {
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().rev().find(|(name, _)| name == key).map(|(_, node)| node)
    }

    /// Of a map; of anything else none.
    pub(super) fn entries(&self) -> &[(String, Self)] {
        match &self.data {
            Data::Map(entries) => entries,
            Data::Null | Data::Text(_) | Data::List(_) => &[],
        }
    }

    /// Of a list; anything but a list and nothing is a list of one.
    pub(super) fn items(&self) -> &[Self] {
        match &self.data {
            Data::List(items) => items,
            Data::Null => &[],
            Data::Text(_) | Data::Map(_) => std::slice::from_ref(self),
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match &self.data {
            Data::Text(text) => Some(text),
            Data::Null | Data::List(_) | Data::Map(_) => None,
        }
    }

    fn count(&self) -> usize {
        1 + match &self.data {
            Data::Null | Data::Text(_) => 0,
            Data::List(items) => items.iter().map(Self::count).sum(),
            Data::Map(entries) => entries.iter().map(|(_, node)| node.count()).sum(),
        }
    }
}

/// The first document.
pub(super) fn parse(text: &str) -> Result<Node, YamlError> {
    let mut tree = Tree { parser: Parser::new_from_str(text), anchors: BTreeMap::new(), nodes: 0 };
    loop {
        match tree.next()? {
            (Event::StreamEnd, line) => return Ok(Node { line, data: Data::Null }),
            (Event::Nothing | Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd, _) => {}
            (event, line) => return tree.node(event, line, 0),
        }
    }
}

struct Tree<'t> {
    parser: Parser<'t, saphyr_parser::StrInput<'t>>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
}

impl<'t> Tree<'t> {
    fn next(&mut self) -> Result<(Event<'t>, u32), YamlError> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, u32::try_from(span.start.line()).unwrap_or(u32::MAX))),
            Some(Err(error)) => Err(YamlError::Syntax { line: error.marker().line(), why: error.info().to_owned() }),
            None => Ok((Event::StreamEnd, 0)),
        }
    }

    fn count(&mut self, nodes: usize) -> Result<(), YamlError> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES { Err(YamlError::TooLarge) } else { Ok(()) }
    }

    fn node(&mut self, event: Event<'t>, line: u32, depth: usize) -> Result<Node, YamlError> {
        self.count(1)?;
        if depth > MAX_DEPTH {
            return Err(YamlError::TooDeep);
        }
        let (anchor, data) = match event {
            Event::Scalar(text, style, anchor, _) => (anchor, scalar(&text, style)),
            Event::SequenceStart(anchor, _) => (anchor, self.list(depth)?),
            Event::MappingStart(anchor, _) => (anchor, self.map(depth)?),
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor).cloned().unwrap_or(Node { line, data: Data::Null });
                self.count(node.count())?;
                (0, node.data)
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => (0, Data::Null),
        };
        let node = Node { line, data };
        if anchor > 0 {
            self.count(node.count())?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Data, YamlError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd | Event::StreamEnd, _) => return Ok(Data::List(items)),
                (event, line) => items.push(self.node(event, line, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Data, YamlError> {
        let (mut entries, mut merged) = (Vec::new(), Vec::new());
        loop {
            let (event, line) = self.next()?;
            if matches!(event, Event::MappingEnd | Event::StreamEnd) {
                break;
            }
            let key = self.node(event, line, depth + 1)?;
            let (event, line_of_value) = self.next()?;
            let value = self.node(event, line_of_value, depth + 1)?;
            match key.text() {
                Some("<<") => value.items().iter().for_each(|from| merged.extend(from.entries().to_vec())),
                // A value is where its key is.
                Some(name) => entries.push((name.to_owned(), Node { line, data: value.data })),
                None => {}
            }
        }
        // What is merged in is overridden by what is written (YAML merge keys).
        merged.retain(|(name, _)| entries.iter().all(|(written, _)| written != name));
        merged.extend(entries);
        Ok(Data::Map(merged))
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Data {
    match style == ScalarStyle::Plain && matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        true => Data::Null,
        false => Data::Text(text.to_owned()),
    }
}
