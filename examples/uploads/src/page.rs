//! The page for people: a form, and what is there. No script.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::store::Entry;

pub const STYLE: &str = include_str!("style.css");

/// The form and one part of the list; `stored` is the name of a file that was just accepted.
pub fn index(
    files: &[(&Entry, String)],
    next: Option<&str>,
    stored: Option<&str>,
    extensions: &BTreeSet<String>,
    max_bytes: u64,
) -> String {
    let accept: Vec<String> = extensions.iter().map(|e| format!(".{e}")).collect();
    let mut body = String::new();
    if let Some(name) = stored {
        let _ = write!(body, "<p class=\"said good\" role=\"status\">Stored as <strong>{}</strong>.</p>", escape(name));
    }
    let _ = write!(
        body,
        r#"<form method="post" action="/" enctype="multipart/form-data">
<label for="file">Choose a file</label>
<p class="hint" id="rules">{}; at most {}.</p>
<div class="row"><input id="file" type="file" name="file" required accept="{}" aria-describedby="rules">
<button type="submit">Upload</button></div>
</form>
<h2 id="files">Files</h2>
"#,
        escape(&accept.join(", ")),
        size(max_bytes),
        escape(&accept.join(","))
    );
    if files.is_empty() {
        body.push_str("<p class=\"hint\">None yet.</p>");
    } else {
        body.push_str("<table aria-labelledby=\"files\"><thead><tr><th scope=\"col\">Name</th><th scope=\"col\" class=\"number\">Size</th></tr></thead><tbody>");
        for (entry, url) in files {
            let (url, name, size) = (escape(url), escape(&entry.name), size(entry.size));
            let _ = write!(body, "<tr><td><a href=\"{url}\">{name}</a></td><td class=\"number\">{size}</td></tr>");
        }
        body.push_str("</tbody></table>");
    }
    if let Some(next) = next {
        let _ = write!(body, "<p><a href=\"{}\" rel=\"next\">More</a></p>", escape(next));
    }
    frame(&body)
}

pub fn refused(message: &str) -> String {
    frame(&format!(
        "<p class=\"said bad\" role=\"alert\">Not stored: {}.</p><p><a href=\"/\">Back</a></p>",
        escape(message)
    ))
}

fn frame(body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>Uploads</title>\n\
         <link rel=\"stylesheet\" href=\"/style.css\">\n</head>\n<body>\n<main>\n<h1>Uploads</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )
}

fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) if bytes % unit == 0 => format!("{} {name}", bytes / unit),
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} bytes"),
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_shown_becomes_markup() {
        let page = index(&[], None, Some("<script>alert('x')</script>"), &BTreeSet::new(), 1);
        assert!(!page.contains("<script>") && page.contains("&lt;script&gt;"));
        assert!(!refused("<b>").contains("<b>"));
    }

    #[test]
    fn sizes_are_for_people() {
        let check = |bytes, expected| assert_eq!(size(bytes), expected);
        check(0, "0 bytes");
        check(1024, "1 KiB");
        check(1536, "1.5 KiB");
        check(100 << 20, "100 MiB");
    }
}
