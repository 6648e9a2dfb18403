//! A real Chromium, driven by `console/tests/browser.js`: one line of JSON each way for every step.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

/// A browser with at most one page.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    /// Where pictures go, if somebody wants to look at them: `BOWLINE_PICTURES`.
    pictures: Option<PathBuf>,
}

impl Browser {
    pub fn start() -> Self {
        let console = crate::root().join("console");
        let tools = console.join("node_modules/playwright-core");
        assert!(tools.exists(), "install what the tests of the console need first: make setup");
        let mut child = Command::new("node")
            .arg(console.join("tests/browser.js"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node is installed by scripts/setup");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("stdout was asked to be a pipe"));
        Self { child, stdin, stdout, pictures: std::env::var_os("BOWLINE_PICTURES").map(PathBuf::from) }
    }

    fn ask(&mut self, step: &Value) -> Value {
        let stdin = self.stdin.as_mut().expect("open until it is dropped");
        writeln!(stdin, "{step}").expect("the browser runs");
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("the browser answers");
        let answer: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{step}: {e}: {line:?}"));
        match answer.get("error") {
            Some(error) => panic!("{step}: {error}\n{}", self.ask(&json!({ "verb": "text" }))),
            None => answer["ok"].clone(),
        }
    }

    /// A new page, so many pixels wide.
    pub fn open(&mut self, url: &str, width: u32, dark: bool) {
        self.ask(&json!({ "verb": "open", "url": url, "width": width, "dark": dark }));
    }

    /// Waits until this text is seen.
    pub fn sees(&mut self, text: &str) {
        self.ask(&json!({ "verb": "wait", "text": text }));
    }

    /// Waits until this text is seen no more.
    pub fn sees_no(&mut self, text: &str) {
        self.ask(&json!({ "verb": "wait", "text": text, "gone": true }));
    }

    /// All that is seen.
    pub fn text(&mut self) -> String {
        self.ask(&json!({ "verb": "text" })).as_str().expect("text").to_owned()
    }

    /// Presses the first button of this name.
    pub fn click(&mut self, button: &str) {
        self.ask(&json!({ "verb": "click", "button": button }));
    }

    /// Elements that a CSS selector finds.
    pub fn count(&mut self, selector: &str) -> u64 {
        self.ask(&json!({ "verb": "count", "selector": selector })).as_u64().expect("a number")
    }

    pub fn title(&mut self) -> String {
        self.ask(&json!({ "verb": "title" })).as_str().expect("text").to_owned()
    }

    /// The texts of what Tab goes to, one after the other.
    pub fn tab(&mut self, times: u32) -> Vec<String> {
        let reached = self.ask(&json!({ "verb": "tab", "times": times }));
        reached.as_array().expect("a list").iter().map(|text| text.as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Takes a picture, and looks for what keeps people out (axe: WCAG 2.2 A and AA), what lies outside the window, and what
    /// the browser complains of: requests to others, scripts that were refused, exceptions.
    pub fn inspect(&mut self, name: &str) {
        if let Some(folder) = &self.pictures {
            let file = folder.join(format!("{name}.png"));
            self.ask(&json!({ "verb": "shot", "file": file }));
        }
        assert_eq!(self.ask(&json!({ "verb": "axe" })), json!([]), "{name}");
        assert_eq!(self.ask(&json!({ "verb": "overflow" })), 0, "{name}");
        assert_eq!(self.complaints(), json!([]), "{name}");
    }

    fn complaints(&mut self) -> Value {
        self.ask(&json!({ "verb": "complaints" }))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The end of its input ends it, and with it Chromium.
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}
