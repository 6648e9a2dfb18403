//! How a service starts whose `run` is not written.

use bowline_core::readiness::{Started, is_below};

use super::Survey;

impl Survey {
    /// What starts the code in a folder of the app; `None` if it is not known, or if it is files without a process.
    pub fn started(&self, dir: &str) -> Option<Started> {
        let dir = dir.trim_start_matches("./").trim_matches('/');
        let within = |name: &str| if matches!(dir, "" | ".") { name.to_owned() } else { format!("{dir}/{name}") };
        let package = within("package.json");
        if let Some(text) = self.text(&package) {
            let json: serde_json::Value = serde_json::from_str(&text).ok()?;
            let command = json["scripts"]["start"].as_str()?.to_owned();
            let line = (1u32..).zip(text.lines()).find(|(_, line)| line.contains("\"start\""));
            return Some(Started { command, source: Some((package, line.map_or(0, |(n, _)| n))) });
        }
        let is_python = self.files.contains(&within("requirements.txt"))
            || (!self.files.contains(&within("index.html")) && self.has_python(dir));
        is_python.then(|| Started { command: "gunicorn".to_owned(), source: None })
    }

    fn has_python(&self, dir: &str) -> bool {
        self.files.iter().any(|file| file.ends_with(".py") && is_below(file, dir))
    }
}
