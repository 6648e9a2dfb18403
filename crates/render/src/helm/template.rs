//! The text of a template: an object as it is printed, with expressions in some of its places.

use serde_json::{Value, json};

use crate::yaml;

/// An object with holes.
#[derive(Debug)]
pub(super) struct Template {
    body: Value,
    holes: Vec<Hole>,
}

#[derive(Debug)]
enum Hole {
    /// A scalar.
    Scalar(String),
    /// All that is below a key, as YAML.
    Block(String),
    /// The items of a list: `over` an expression, each as `item`, in which [`ITEM`] stands for what is gone over.
    Each { over: String, item: Value },
}

/// In the items of a list: the expression of its own.
pub(super) struct Item(pub(super) &'static str);

/// What is gone over itself, and the secret with its certificate.
pub(super) const ITEM: Item = Item("zzholeitemzz");
pub(super) const ITEM_CERTIFICATE: Item = Item("zzholecertificatezz");
/// The namespace of the release, which objects that name it are rendered for.
pub(super) const NAMESPACE: &str = "zz-hole-namespace-zz";

const ITEMS: [(Item, &str); 2] =
    [(ITEM, "{{ . | quote }}"), (ITEM_CERTIFICATE, "{{ include \"bowline.certificate\" . }}")];

impl Template {
    pub(super) fn of(body: &Value) -> Self {
        Self { body: body.clone(), holes: Vec::new() }
    }

    pub(super) fn at(&self, pointer: &str) -> Option<&Value> {
        self.body.pointer(pointer)
    }

    /// Helm leaves it where it is when it is no more in the chart, and when the release goes.
    pub(super) fn kept(&mut self) {
        self.body["metadata"]["annotations"]["helm.sh/resource-policy"] = json!("keep");
    }

    fn put(&mut self, pointer: &str, value: impl FnOnce(String) -> Value, hole: Hole) {
        let token = format!("zzhole{}zz", self.holes.len());
        if let Some(place) = self.body.pointer_mut(pointer) {
            *place = value(token);
            self.holes.push(hole);
        }
    }

    /// A text or a number. `expression`: without braces.
    pub(super) fn scalar(&mut self, pointer: &str, expression: impl Into<String>) {
        self.put(pointer, Value::from, Hole::Scalar(expression.into()));
    }

    pub(super) fn block(&mut self, pointer: &str, expression: impl Into<String>) {
        self.put(pointer, Value::from, Hole::Block(expression.into()));
    }

    pub(super) fn each(&mut self, pointer: &str, over: impl Into<String>, item: Value) {
        self.put(pointer, |token| json!([token]), Hole::Each { over: over.into(), item });
    }

    pub(super) fn text(&self) -> String {
        let mut text = printed(&self.body);
        for (index, hole) in self.holes.iter().enumerate() {
            text = filled(&text, &format!("zzhole{index}zz"), hole);
        }
        text
    }
}

/// As YAML, in which what looks like an action of a template is none, and the release's namespace is one.
fn printed(value: &Value) -> String {
    let mut text = literal(&yaml::print(value));
    // By itself it may look like a number.
    for before in [": ", "- "] {
        let quoted = format!("{before}{{{{ $.Release.Namespace | quote }}}}\n");
        text = text.replace(&format!("{before}{NAMESPACE}\n"), &quoted);
    }
    text.replace(NAMESPACE, "{{ $.Release.Namespace }}")
}

/// Text of a template that comes out as it was.
pub(super) fn literal(text: &str) -> String {
    text.replace("{{", "{{ \"{{\" }}")
}

fn filled(text: &str, token: &str, hole: &Hole) -> String {
    let Some(line) = text.lines().find(|line| line.contains(token)) else { return text.to_owned() };
    let indent = line.len() - line.trim_start().len();
    let new = match hole {
        Hole::Scalar(expression) => line.replace(token, &format!("{{{{ {expression} }}}}")),
        Hole::Block(expression) => {
            // Items of a list stand below their key as its other keys do.
            let depth = indent + 2 + if line.trim_start().starts_with("- ") { 2 } else { 0 };
            line.replace(&format!(" {token}"), &format!(" {{{{- toYaml ({expression}) | nindent {depth} }}}}"))
        }
        Hole::Each { over, item } => {
            let mut item = printed(&json!([item]));
            ITEMS.into_iter().for_each(|(Item(token), is)| item = item.replace(token, is));
            let pad = " ".repeat(indent);
            let lines: Vec<String> = item.lines().map(|line| format!("{pad}{line}")).collect();
            format!("{pad}{{{{- range {over} }}}}\n{}\n{pad}{{{{- end }}}}", lines.join("\n"))
        }
    };
    text.replacen(line, &new, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_stays_text() {
        let body = json!({ "all": [NAMESPACE], "host": format!("web.{NAMESPACE}.svc"), "namespace": NAMESPACE });
        let expected = "\
namespace: {{ $.Release.Namespace | quote }}
host: web.{{ $.Release.Namespace }}.svc
all:
  - {{ $.Release.Namespace | quote }}
";
        assert_eq!(printed(&body), expected);
    }

    #[test]
    fn holes_are_filled_where_they_are() {
        let body = json!({
            "metadata": { "name": "a" },
            "spec": { "replicas": 2, "hosts": ["x"], "env": { "A": "b" }, "list": [{ "env": { "A": 1 }, "b": 1 }], "say": "{{ x }}" },
        });
        let mut template = Template::of(&body);
        template.scalar("/spec/replicas", "$.Values.n");
        template.block("/spec/env", "$.Values.env");
        template.block("/spec/list/0/env", "$.Values.list");
        template.each("/spec/hosts", "$.Values.hosts", json!({ "host": ITEM.0 }));
        let expected = "\
metadata:
  name: a
spec:
  env: {{- toYaml ($.Values.env) | nindent 4 }}
  hosts:
    {{- range $.Values.hosts }}
    - host: {{ . | quote }}
    {{- end }}
  list:
    - b: 1
      env: {{- toYaml ($.Values.list) | nindent 8 }}
  replicas: {{ $.Values.n }}
  say: \"{{ \"{{\" }} x }}\"
";
        assert_eq!(template.text(), expected);
    }
}
