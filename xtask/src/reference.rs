//! Generated pages: written by `reference`, held current by `tidy`.
//!
//! `docs/reference/cli.md` is the binary's own: a test of crates/bowline holds it, since nothing here links the binary.

use std::path::Path;

use anyhow::Context;

const WIRE: &str = "crates/api/src/wire.rs";
/// Its modules.
const PARTS: [&str; 3] =
    ["crates/api/src/wire/release.rs", "crates/api/src/wire/status.rs", "crates/api/src/wire/data.rs"];

fn pages(root: &Path) -> anyhow::Result<[(&'static str, String); 2]> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).with_context(|| path.to_owned());
    let parts = PARTS.iter().map(|part| read(part)).collect::<anyhow::Result<Vec<String>>>()?;
    let wire = format!("{}\n{}", read(WIRE)?, parts.join("\n"));
    Ok([("docs/reference/bowline-toml.md", bowline_spec::reference()), ("docs/reference/api.md", api(&wire))])
}

pub(crate) fn check(root: &Path) -> anyhow::Result<Vec<String>> {
    let stale = |(path, text): &(&str, String)| std::fs::read_to_string(root.join(path)).ok().as_ref() != Some(text);
    let pages = pages(root)?;
    Ok(pages
        .iter()
        .filter(|page| stale(page))
        .map(|(path, _)| format!("{path}: not current; `make reference`"))
        .collect())
}

pub(crate) fn write(root: &Path) -> anyhow::Result<()> {
    for (path, text) in pages(root)? {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().expect("a page lies in a folder"))?;
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// The API from its wire types: what the module says of the paths, then every type as it is written.
fn api(wire: &str) -> String {
    let said: Vec<&str> = wire.lines().map_while(|line| line.strip_prefix("//!")).collect();
    let said: String = said.iter().map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(line))).collect();
    let said = said.replace("[`", "`").replace("`]", "`");
    let types = wire.split("\n\n").filter(|item| is_type(item)).map(|item| item.trim_end()).collect::<Vec<_>>();
    format!(
        "# The API of the daemon\n\n<!-- Generated from {WIRE} by `make reference`. -->\n\n\
         It listens on the Unix socket `api.sock` of the state's run folder and answers the user that it runs as, and \
         root.\n`--json` prints the same shapes.\n\n{said}\n## Shapes\n\nField names are as they are sent; \
         `snake_case` where a type says so. `Option` fields are left out where there is nothing.\n\n```rust\n{}\n```\n",
        types.join("\n\n")
    )
}

fn is_type(item: &str) -> bool {
    item.lines().any(|line| line.starts_with("pub struct ") || line.starts_with("pub enum "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_types_are_taken_and_code_is_left() {
        let page =
            api("//! One [`A`].\n//!\n//! Two.\n\nuse x;\n\n/// An a.\npub struct A {\n    b: u8,\n}\n\nimpl A {}\n");
        assert!(page.contains("One `A`.\n\nTwo.\n"), "{page}");
        assert!(page.ends_with("```rust\n/// An a.\npub struct A {\n    b: u8,\n}\n```\n"), "{page}");
    }
}
