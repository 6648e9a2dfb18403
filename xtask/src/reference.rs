//! Generated pages: written by `reference`, held current by `tidy`.
//!
//! `docs/reference/cli.md` is the binary's own: a test of crates/bowline holds it, since nothing here links the binary.

use std::path::Path;

use anyhow::Context;

const WIRE: &str = "crates/api/src/wire.rs";
/// Its modules.
const PARTS: [&str; 6] = [
    "crates/api/src/wire/plan.rs",
    "crates/api/src/wire/release.rs",
    "crates/api/src/wire/source.rs",
    "crates/api/src/wire/status.rs",
    "crates/api/src/wire/data.rs",
    "crates/api/src/wire/token.rs",
];

/// What `bowline bench --json` prints: the shape, and those that it is made of.
const BENCH: [&str; 4] = [
    "crates/load/src/report.rs",
    "crates/load/src/tally.rs",
    "crates/load/src/verdict.rs",
    "crates/load/src/compare.rs",
];

fn pages(root: &Path) -> anyhow::Result<[(&'static str, String); 3]> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).with_context(|| path.to_owned());
    let parts = PARTS.iter().map(|part| read(part)).collect::<anyhow::Result<Vec<String>>>()?;
    let wire = format!("{}\n{}", read(WIRE)?, parts.join("\n"));
    let load = BENCH.iter().map(|part| read(part)).collect::<anyhow::Result<Vec<String>>>()?;
    Ok([
        ("docs/reference/bowline-toml.md", bowline_spec::reference()),
        ("docs/reference/api.md", api(&wire)),
        ("docs/reference/bench.md", bench(&load)),
    ])
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
         root.\n`--json` prints the same shapes. The same as an OpenAPI 3.1 document: [openapi.json](openapi.json), and \
         `/v1/openapi.json` of each daemon.\nWhich role may do what with a token is in [access](access.md).\n\n{said}\n## Shapes\n\nField names are as they are sent; \
         `snake_case` where a type says so. `Option` fields are left out where there is nothing.\n\n```rust\n{}\n```\n",
        types.join("\n\n")
    )
}

/// The figures of a load, and the shape that they are written in: every type that is serialised.
fn bench(parts: &[String]) -> String {
    let shapes = |text: &String| {
        let own = text.split("#[cfg(test)]").next().unwrap_or_default();
        let written = |item: &&str| is_type(item) && item.contains("Serialize");
        own.split("\n\n").filter(written).map(|item| item.trim_end().to_owned()).collect::<Vec<_>>()
    };
    let shapes: Vec<String> = parts.iter().flat_map(shapes).collect();
    format!("{BENCH_HEAD}\n```rust\n{}\n```\n", shapes.join("\n\n"))
}

const BENCH_HEAD: &str = "# What `bowline bench` says

<!-- Generated from crates/load by `make reference`. -->

The flags are in [the command line](cli.md). This page says what the figures mean.

| word | meaning |
|---|---|
| open loop | requests are sent when they are due, whether or not those before have been answered |
| closed loop | on each connection the next one is sent when the one before is answered, as `wrk` and `h2load` do: throughput, and latencies that hide what a stall delays (`wrk` adds a guess of it afterwards) |
| offered | due by the schedule after the warm-up; in a closed loop, begun |
| sent | a connection was taken for it, or asked for |
| answered | the answer came whole, expected or not |
| failed | no expected answer, for whatever cause: status, header, body, time, connection, or never sent |
| late | sent 10 ms or more after it was due, since no connection was free or the generator was late |
| dropped | never sent: no connection was free within the timeout, or too many waited already |
| latency | from when it was due to the end of its answer; a request that waited in vain counts with the time waited |
| service | from when it was sent, its own connection included, to the end of its answer |
| connecting | a new connection with its handshakes; none is resumed |
| generator | how long after a request was due the generator took it up: no server has a part in that |

Nothing is sent twice and no redirect is followed. A kept connection that the server closed while it was not used is replaced
before anything is sent.

A quantile is refused where it has fewer than ten samples above it (`few_samples`), and where the generator's own lateness at
that quantile is above 1 ms and more than half of the figure (`generator`).

A run is not valid if more than 1 % of its requests were taken up 10 ms or more after they were due; if requests failed at a limit
of this machine (ports, descriptors); if a closed loop's generator was busy for more than 95 % of the time; or if nothing was
measured.

Histograms are HDR with three digits; over time there are up to 240 slots, which get wider as the run gets longer. Memory is bounded.

## Shapes

`--json` prints one object, `Report`; with `--compare` it has `comparison`, too. Fields are only ever added; `Option` fields are left
out where there is nothing.
";

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
