//! `bowline bench`: loads a URL and shows how it bore that. No daemon is needed.

mod chart;
mod show;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::time::Humane;
use bowline_core::units::Share;
use bowline_load::compare::Comparison;
use bowline_load::plan::Body;
use bowline_load::upload::Upload;
use bowline_load::verdict::Goals;
use bowline_load::{Expect, Gaps, Load, Pace, Plan, Protocol, Report, Target, Template, html, probe};
use http::{HeaderMap, Method};
use serde::Serialize;

use crate::args::bench::{Bench, Expected};
use crate::interrupts::{INTERRUPTED, Interrupts};
use crate::paths::Paths;
use crate::ui::Ui;

/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(100);
/// Bodies and reports of runs before, at most.
const MAX_READ: u64 = 64 << 20;
/// Where distributions keep the authorities that the machine trusts.
const BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

#[derive(Serialize)]
struct Answer<'a> {
    #[serde(flatten)]
    report: &'a Report,
    #[serde(skip_serializing_if = "Option::is_none")]
    comparison: Option<&'a Comparison>,
}

pub(super) async fn run(args: Bench, paths: &Paths, ui: &Ui) -> Result<ExitCode, Fault> {
    let before = args.compare.as_deref().map(report_of).transpose()?;
    let plan = plan(&args, paths)?;
    let probed = plan.clone();
    // A thread of its own, as the load has: what it does takes a runtime.
    let address = tokio::task::spawn_blocking(move || probe(&probed)).await.map_err(|error| gone(&error))??;
    let page = args.html.as_deref().map(Page::create).transpose()?;
    show::intent(&plan, &address, ui);
    let when = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
    let (report, interrupted) = match load(plan, ui).await? {
        Some(done) => done,
        None => return Ok(ExitCode::from(INTERRUPTED)),
    };
    let comparison = before.map(|before| Comparison::of(&before, &report));
    ui.object(&Answer { report: &report, comparison: comparison.as_ref() });
    show::report(&report, ui);
    comparison.iter().for_each(|comparison| show::comparison(comparison, ui));
    show::verdict(&report, ui);
    if let Some(page) = page {
        page.write(&html::page(&report, &when, comparison.as_ref()), ui)?;
    }
    Ok(match (interrupted, report.valid && report.met) {
        (true, _) => ExitCode::from(INTERRUPTED),
        (false, true) => ExitCode::SUCCESS,
        (false, false) => ExitCode::from(FaultKind::Failed.exit_code()),
    })
}

/// To its end, or to an interrupt, which ends it early; a second one leaves it without a report.
async fn load(plan: Plan, ui: &Ui) -> Result<Option<(Report, bool)>, Fault> {
    let (whole, timeout) = (plan.warm_up + plan.duration, plan.timeout);
    let load = Load::start(plan)?;
    let mut look = tokio::time::interval(LOOK);
    let mut interrupts = Interrupts::new()?;
    let mut interrupted = false;
    let began = tokio::time::Instant::now();
    while !load.is_over() {
        tokio::select! {
            _ = look.tick() => show::progress(load.progress(), began.elapsed(), whole, ui),
            () = interrupts.next() => {
                ui.passing("");
                if std::mem::replace(&mut interrupted, true) {
                    return Ok(None);
                }
                load.stop();
                ui.aside(format!("  ending: answers are waited for, {} at most; Ctrl-C again leaves without a report", Humane(timeout)));
            }
        }
    }
    ui.passing("");
    Ok(Some((load.report()?, interrupted)))
}

fn gone(error: &tokio::task::JoinError) -> Fault {
    Fault::new(FaultKind::Failed, "the first connection could not be tried").source(error)
}

fn plan(args: &Bench, paths: &Paths) -> Result<Plan, Fault> {
    let target = Target::parse(&args.url).map_err(|error| {
        Fault::new(FaultKind::Invalid, format!("{:?} cannot be loaded", args.url))
            .source(&error)
            .hint("say it whole: bowline bench https://app.localhost:8443/")
    })?;
    let mut plan = Plan::new(target);
    if plan.target.https {
        plan.roots = roots(&plan.target, args.ca.as_deref(), paths)?;
    } else if args.ca.is_some() {
        return Err(Fault::new(FaultKind::Invalid, "--ca is for https://")
            .caused_by(format!("{} has no certificate", plan.target))
            .hint("leave --ca out, or say https://"));
    }
    plan.protocol = if args.http2 { Protocol::Http2 } else { Protocol::Http1 };
    plan.pace = match (args.closed, args.poisson) {
        (true, _) => Pace::Closed,
        (false, poisson) => Pace::Open {
            from: args.rate.from,
            to: args.rate.to,
            gaps: if poisson { Gaps::Poisson } else { Gaps::Even },
        },
    };
    (plan.warm_up, plan.duration, plan.timeout) = (args.warm_up, args.duration, args.timeout);
    (plan.connections, plan.streams, plan.threads) = (args.connections, args.streams, args.threads);
    (plan.new_connections, plan.seed) = (args.new_connections, args.seed);
    plan.requests = requests(args)?;
    (plan.expect, plan.goals) = expectations(&args.expect)?;
    Ok(plan)
}

fn roots(target: &Target, ca: Option<&Path>, paths: &Paths) -> Result<Vec<u8>, Fault> {
    if let Some(path) = ca {
        return read(path, "the file of --ca");
    }
    let local = paths.ca.join("root.pem");
    if target.is_local_name() && local.exists() {
        return read(&local, "the local CA");
    }
    let bundle = BUNDLES.iter().find_map(|path| std::fs::read(path).ok());
    bundle.ok_or_else(|| {
        Fault::new(FaultKind::Invalid, format!("nothing says whom to trust as {}", target.host))
            .caused_by(format!("this machine has no {}", BUNDLES[0]))
            .hint("say the file of a CA with --ca")
    })
}

/// One kind of request, or two: with a body, and without.
fn requests(args: &Bench) -> Result<Vec<Template>, Fault> {
    let headers: HeaderMap = args.header.iter().cloned().collect();
    let body = match (&args.body, &args.upload) {
        (Some(text), _) => Some(Body::Bytes(text_or_file(text)?.into())),
        (None, Some(dir)) => Some(Body::Upload(upload(dir, &args.field)?)),
        (None, None) => None,
    };
    let one = |method: Method, body, weight| Template { weight, method, headers: headers.clone(), body };
    let Some(body) = body else {
        if args.body_share != Share::WHOLE {
            return Err(Fault::new(FaultKind::Invalid, "--body-share has nothing to share")
                .hint("say what is sent with --body or --upload"));
        }
        return Ok(vec![one(args.method.clone().unwrap_or(Method::GET), Body::None, 1)]);
    };
    let method = args.method.clone().unwrap_or(Method::POST);
    let with = args.body_share.ppm();
    Ok(vec![one(method, body, with), one(Method::GET, Body::None, Share::WHOLE.ppm() - with)])
}

fn text_or_file(text: &str) -> Result<Vec<u8>, Fault> {
    match text.strip_prefix('@') {
        None => Ok(text.as_bytes().to_vec()),
        Some(path) => read(Path::new(path), "the file of --body"),
    }
}

fn upload(dir: &Path, field: &str) -> Result<Upload, Fault> {
    let mut random = [0; 16];
    getrandom::fill(&mut random)
        .map_err(|error| Fault::new(FaultKind::Failed, "the machine gives no random numbers").source(&error))?;
    let boundary: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    Upload::read(dir, field, format!("bowline-{boundary}")).map_err(|error| {
        Fault::new(FaultKind::Invalid, "there is nothing to upload")
            .source(&error)
            .hint("say a folder with files: --upload DIR; those in its folders are not sent")
    })
}

fn expectations(all: &[Expected]) -> Result<(Expect, Goals), Fault> {
    let twice = |what: &str| {
        Fault::new(FaultKind::Invalid, format!("--expect says {what} more than once"))
            .hint("only one can hold: say the one that is meant")
    };
    let several = |is_it: fn(&Expected) -> bool| all.iter().filter(|one| is_it(one)).count() > 1;
    if several(|one| matches!(one, Expected::Status(_))) {
        return Err(twice("which status an answer has"));
    }
    if several(|one| matches!(one, Expected::Body(_))) {
        return Err(twice("what a body holds"));
    }
    if several(|one| matches!(one, Expected::Failed(_))) {
        return Err(twice("how many requests may fail"));
    }
    let (mut expect, mut goals) = (Expect::default(), Goals::default());
    for one in all {
        match one {
            Expected::Status(status) => expect.status = *status,
            Expected::Body(text) => expect.body = Some(text.clone().into()),
            // Of one name, any of the values.
            Expected::Header(header) => match expect.headers.iter_mut().find(|known| known.name == header.name) {
                Some(known) => known.any_of.extend(header.any_of.iter().cloned()),
                None => expect.headers.push(header.clone()),
            },
            Expected::Below(measure, limit) => goals.below.push((*measure, *limit)),
            Expected::Failed(share) => goals.failed = *share,
        }
    }
    Ok((expect, goals))
}

fn report_of(path: &Path) -> Result<Report, Fault> {
    let bytes = read(path, "the run before")?;
    let report: Report = serde_json::from_slice(&bytes).map_err(|error| {
        Fault::new(FaultKind::Invalid, format!("{} is no report of a run", path.display()))
            .source(&error)
            .hint("make one: bowline bench URL --json > before.json")
    })?;
    match report.version {
        bowline_load::report::VERSION => Ok(report),
        other => Err(Fault::new(FaultKind::Invalid, format!("{} is of another Bowline", path.display()))
            .caused_by(format!("its shape is version {other}, and this one reads {}", bowline_load::report::VERSION))
            .hint("make the run before anew with this one")),
    }
}

fn read(path: &Path, what: &str) -> Result<Vec<u8>, Fault> {
    let unusable = || {
        Fault::new(FaultKind::Invalid, format!("{what}, {}, cannot be read", path.display()))
            .hint("say a file that can be read, of 64 MiB at most")
    };
    let bytes = bowline_control::read_small(path, MAX_READ).map_err(|error| unusable().source(&error))?;
    match u64::try_from(bytes.len()).is_ok_and(|len| len <= MAX_READ) {
        true => Ok(bytes),
        false => Err(unusable().caused_by("it is larger")),
    }
}

/// The file of `--html`, made before anything is loaded: a run must not be lost for want of a place.
struct Page {
    path: PathBuf,
    file: std::fs::File,
}

impl Page {
    fn create(path: &Path) -> Result<Self, Fault> {
        let file = std::fs::File::options().write(true).create(true).truncate(false).open(path);
        match file {
            Ok(file) => Ok(Self { path: path.to_owned(), file }),
            Err(error) => Err(Self::unwritable(path, &error, FaultKind::Invalid)),
        }
    }

    fn write(mut self, text: &str, ui: &Ui) -> Result<(), Fault> {
        use std::io::Write;
        // Only a file has a length: /dev/stdout may be a pipe.
        let is_file = self.file.metadata().is_ok_and(|about| about.is_file());
        let emptied = if is_file { self.file.set_len(0) } else { Ok(()) };
        let written = emptied.and_then(|()| self.file.write_all(text.as_bytes()));
        written.map_err(|error| Self::unwritable(&self.path, &error, FaultKind::Failed))?;
        ui.aside(format!("  {} has the report for a browser", self.path.display()));
        Ok(())
    }

    fn unwritable(path: &Path, error: &std::io::Error, kind: FaultKind) -> Fault {
        Fault::new(kind, format!("{} cannot be written", path.display()))
            .source(error)
            .hint("say another file with --html")
    }
}
