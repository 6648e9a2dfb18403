//! `bowline init`: a first `bowline.toml` for a folder, and what of other tools' files it does not say.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use bowline_core::app::procfile::Procfile;
use bowline_core::fault::{Fault, FaultKind};
use bowline_core::id::EnvName;
use bowline_core::release::unsupported;
use bowline_core::route::LOCAL;
use bowline_node::survey::{Draft, Survey, compose, survey};
use bowline_spec::{Defaults, parse, print_with};
use serde::Serialize;

use crate::args::Init;
use crate::file;
use crate::ui::{Tone, Ui};

const HEAD: &str = "# Written by `bowline init`. What is not said is detected, or has a default that is right for production;\n\
                    # `bowline check` says what is missing. Editors: `bowline schema`.\n\n";

#[derive(Debug, Serialize)]
struct Answer<'a> {
    file: String,
    written: bool,
    found: &'a [String],
    left: Vec<Left<'a>>,
    commands: &'a [String],
    /// With `--print`.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct Left<'a> {
    file: &'a str,
    line: u32,
    what: &'a str,
    todo: &'a str,
}

pub(super) fn run(args: &Init, ui: &Ui) -> Result<ExitCode, Fault> {
    let dir = file::folder(&args.dir, "init")?;
    let path = dir.join(file::NAME);
    if !args.force && !args.print && path.symlink_metadata().is_ok() {
        return Err(there_is_one(&path));
    }
    let draft = draft(&dir)?;
    let text = text(&draft, &dir)?;
    if !args.print {
        write(&path, &text, args.force)?;
    }
    let left = draft.left.iter();
    ui.object(&Answer {
        file: path.display().to_string(),
        written: !args.print,
        found: &draft.found,
        left: left.map(|l| Left { file: &l.file, line: l.line, what: &l.what, todo: &l.todo }).collect(),
        commands: &draft.commands,
        text: args.print.then_some(text.as_str()),
    });
    match args.print {
        true => text.trim_end().lines().for_each(|line| ui.say(line)),
        false => show(&path, &draft, ui),
    }
    Ok(ExitCode::SUCCESS)
}

fn there_is_one(path: &Path) -> Fault {
    Fault::new(FaultKind::Refused, format!("{} is there already", path.display()))
        .hint("`--print` shows what would be written; `--force` writes it in its place")
}

fn draft(dir: &Path) -> Result<Draft, Fault> {
    let env = EnvName::new(LOCAL).expect("`local` is a name");
    // What a Procfile says is written out: here the folder is one service.
    let defaults = Defaults { folder_name: file::folder_name(dir), procfile: Procfile::default() };
    let base = bowline_spec::implicit(&defaults, &env);
    let survey = survey(dir)?;
    let variables = bowline_control::read_variables(&dir.join(".env"))?;
    let composed = compose::FILES.iter().find_map(|file| Some((*file, survey.text(file)?)));
    let mut draft = match composed {
        Some((file, text)) => {
            let env_files = env_files(dir, &text)?;
            let variables = variables.unwrap_or_default();
            let input =
                compose::Input { file, text: &text, survey: &survey, variables: &variables, env_files: &env_files };
            compose::translate(input, base)?
        }
        None => of_folder(base, dir, &survey, variables),
    };
    draft.look_at_code(&survey);
    not_carried(&mut draft);
    Ok(draft)
}

fn of_folder(
    base: bowline_core::app::App,
    dir: &Path,
    survey: &Survey,
    variables: Option<BTreeMap<String, String>>,
) -> Draft {
    let mut draft = Draft::of_folder(base, survey, bowline_node::build::look(dir));
    if let Some(variables) = variables {
        let names: Vec<&str> = variables.keys().map(String::as_str).collect();
        draft.found.push(format!(".env: {} → env", names.join(", ")));
        variables.iter().for_each(|(name, value)| draft.variable(None, name, value));
    }
    draft
}

/// The files of variables that are there, of those that a compose file names; none outside the folder is read.
fn env_files(dir: &Path, text: &str) -> Result<BTreeMap<String, BTreeMap<String, String>>, Fault> {
    let mut read = BTreeMap::new();
    for name in compose::env_files(text) {
        let Ok(path) = dir.join(&name).canonicalize() else { continue };
        if !path.starts_with(dir) {
            continue;
        }
        if let Some(variables) = bowline_control::read_variables(&path)? {
            read.insert(name, variables);
        }
    }
    Ok(read)
}

/// What the file says and this version does not do yet: `up` refuses it until it is taken out.
fn not_carried(draft: &mut Draft) {
    let refused = unsupported(&draft.app).into_iter().map(|one| bowline_node::survey::Left {
        file: file::NAME.to_owned(),
        line: 0,
        what: one.path.clone(),
        todo: format!("this version cannot do it: {}", one.why),
    });
    draft.left.extend(refused);
}

/// The file's text, which is read back before anybody relies on it.
fn text(draft: &Draft, dir: &Path) -> Result<String, Fault> {
    let mut text = format!("{HEAD}{}", print_with(&draft.app, &draft.comments));
    if !draft.app.routes.is_empty() {
        let host = format!("{}.example.com", draft.app.name);
        text.push_str(&format!("\n# [environment.production]\n# route.main.hosts = [\"{host}\"]\n"));
    }
    let env = EnvName::new(LOCAL).expect("`local` is a name");
    let defaults = Defaults { folder_name: file::folder_name(dir), procfile: bowline_control::read_procfile(dir)? };
    match parse(&text, file::NAME, &env, &defaults) {
        Ok(_) => Ok(text),
        Err(diagnostics) => Err(Fault::new(FaultKind::Failed, "no file could be written for this folder")
            .caused_by("what was made of it is not accepted")
            .detail(diagnostics.render(false))
            .hint("write a bowline.toml by hand, and report this folder's compose file or Procfile")),
    }
}

/// All of it or nothing; and without `force` never over a file that is there by now.
fn write(path: &Path, text: &str, force: bool) -> Result<(), Fault> {
    let new = path.with_extension(format!("toml.{}.new", std::process::id()));
    let written = file::write_new(&new, text).and_then(|()| match force {
        true => std::fs::rename(&new, path),
        false => std::fs::hard_link(&new, path),
    });
    // After a rename it is gone already.
    let _ = std::fs::remove_file(&new);
    match written {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && !force => Err(there_is_one(path)),
        Err(error) => Err(Fault::new(FaultKind::Failed, format!("{} cannot be written", path.display()))
            .source(&error)
            .hint("`--print` shows it without writing")),
    }
}

fn show(path: &Path, draft: &Draft, ui: &Ui) {
    ui.say("  found");
    draft.found.iter().for_each(|line| ui.say(format!("    {line}")));
    if !draft.left.is_empty() {
        ui.say("  left to you");
    }
    for left in &draft.left {
        let place = if left.line > 0 { format!("{}:{}", left.file, left.line) } else { left.file.clone() };
        ui.say(format!("    {}  {}", ui.paint(Tone::Warning, &left.what), ui.paint(Tone::Faint, place)));
        ui.say(format!("      → {}", left.todo));
    }
    ui.say(format!("  wrote {}", ui.paint(Tone::Good, path.display())));
    let next = draft.commands.iter().map(String::as_str).chain(["bowline check", "bowline up"]);
    next.for_each(|command| ui.say(format!("    {} {command}", ui.paint(Tone::Link, "$"))));
}

#[cfg(test)]
mod tests;
