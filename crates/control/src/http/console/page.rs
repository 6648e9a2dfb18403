//! The page and its parts, as they lie in `console/src`: what is written there is what is served.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bowline_core::fault::{Fault, FaultKind};
use sha2::{Digest, Sha256};

use crate::http::answer::Refusal;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

struct Part {
    name: &'static str,
    media: &'static str,
    text: &'static str,
}

const PAGE: Part = Part { name: "page.html", media: HTML, text: include_str!("../../../../../console/src/page.html") };

/// What the page asks for, at `/console/NAME`.
const PARTS: [Part; 8] = [
    Part { name: "style.css", media: CSS, text: include_str!("../../../../../console/src/style.css") },
    Part { name: "main.js", media: SCRIPT, text: include_str!("../../../../../console/src/main.js") },
    Part { name: "stream.js", media: SCRIPT, text: include_str!("../../../../../console/src/stream.js") },
    Part { name: "model.js", media: SCRIPT, text: include_str!("../../../../../console/src/model.js") },
    Part { name: "view.js", media: SCRIPT, text: include_str!("../../../../../console/src/view.js") },
    Part { name: "chart.js", media: SCRIPT, text: include_str!("../../../../../console/src/chart.js") },
    Part { name: "words.js", media: SCRIPT, text: include_str!("../../../../../console/src/words.js") },
    Part { name: "preact.js", media: SCRIPT, text: include_str!("../../../../../console/src/preact.js") },
];

/// Tells this page from that of another binary.
pub(super) static DIGEST: LazyLock<String> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    for part in std::iter::once(&PAGE).chain(&PARTS) {
        hash.update(part.text);
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
});

pub(super) async fn page() -> Response {
    PAGE.answer()
}

pub(super) async fn part(Path(name): Path<String>) -> Response {
    match PARTS.iter().find(|part| part.name == name) {
        Some(part) => part.answer(),
        None => Refusal::not_found(
            Fault::new(FaultKind::Invalid, "the console has no such part").hint("load the page again"),
        )
        .into_response(),
    }
}

impl Part {
    fn answer(&self) -> Response {
        // A daemon that was upgraded serves other parts under the same names.
        let headers = [(header::CONTENT_TYPE, self.media), (header::CACHE_CONTROL, "no-store")];
        (headers, self.text).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_asks_for_nothing_that_is_not_served_and_for_nothing_of_others() {
        let asked = |text: &str, before: &str| -> Vec<String> {
            text.split(before).skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned).collect()
        };
        let mut names: Vec<String> = asked(PAGE.text, "src=\"");
        names.extend(asked(PAGE.text, "href=\"").into_iter().filter(|href| !href.starts_with('#')));
        assert!(!names.is_empty());
        for part in PARTS.iter().filter(|part| part.media == SCRIPT && part.name != "preact.js") {
            names.extend(asked(part.text, "from \"./").into_iter().map(|name| format!("/console/{name}")));
        }
        for name in names.iter().filter(|name| !name.starts_with("data:")) {
            let served = name.strip_prefix("/console/").is_some_and(|name| PARTS.iter().any(|part| part.name == name));
            assert!(served, "{name}");
        }
        for part in std::iter::once(&PAGE).chain(&PARTS) {
            assert!(!part.text.contains("https://") && !part.text.contains("innerHTML ="), "{}", part.name);
        }
    }
}
