//! Images of an app.

use std::path::PathBuf;

use bowline_core::release::Reference;
use bowline_image::engine::{Builder, Engine};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// Build an app's services, and make an image of each
    ///
    /// One artifact gives one digest. A program that is linked statically stands on authorities and time zones alone; others on those
    /// packages of this machine that they need. What runs in it is nobody's user, 65532. The image is kept in the state, with a bill of
    /// materials; nothing is sent. A service with a `dockerfile` is built by Docker, Buildah or Podman of this machine.
    Build(ImageBuild),
    /// Send an image that is kept here, and its bill of materials, to its registry
    ///
    /// What is there already is not sent. The name leads to the new image when all of it is there.
    Push(ImagePush),
    /// Fetch an image, by its name or better by its digest, and keep it here
    Pull(ImagePull),
    /// Give an image that is kept here to an engine of this machine, or write it to one file that each of them takes
    Load(ImageLoad),
    /// What an image that is kept here is, and how it is run; without a name, all that are kept
    Inspect {
        /// NAME[:TAG][@sha256:DIGEST]
        #[arg(value_name = "IMAGE")]
        image: Option<Reference>,
    },
    /// The bill of materials of an image that was built here, in CycloneDX
    Sbom {
        /// NAME[:TAG][@sha256:DIGEST]
        #[arg(value_name = "IMAGE")]
        image: Reference,
    },
    /// Take names of images away; what no name leads to is gone a day later
    Rm {
        /// NAME[:TAG], or NAME@sha256:DIGEST for every name of that image
        #[arg(value_name = "IMAGE", required = true)]
        images: Vec<Reference>,
    },
    /// Take away at once what no name leads to
    Prune,
    /// Keep who you are at a registry, as Docker keeps it: the password is read from standard input
    Login(ImageLogin),
}

#[derive(Debug, Args)]
pub(crate) struct ImageBuild {
    /// The folder of an app
    #[arg(default_value = ".", value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// The environment
    #[arg(long, default_value = "production")]
    pub(crate) env: String,
    /// Only this service [default: all that run]
    #[arg(long)]
    pub(crate) service: Option<String>,
    /// What the image is called; of one service alone [default: localhost/APP-SERVICE:latest]
    #[arg(long, value_name = "IMAGE", value_parser = tagged)]
    pub(crate) tag: Option<Reference>,
    /// Write one archive, too, that Docker, Podman and containerd load; of one service alone
    #[arg(long, value_name = "FILE")]
    pub(crate) archive: Option<PathBuf>,
    /// Give it to an engine, too
    #[arg(long, value_name = "ENGINE", value_parser = engine())]
    pub(crate) load: Option<Engine>,
    /// Which of several clusters of kind, or which profile of minikube
    #[arg(long, value_name = "NAME", requires = "load")]
    pub(crate) cluster: Option<String>,
    /// What builds services with a `dockerfile` [default: the first of them that works]
    #[arg(long, value_name = "BUILDER", value_parser = builder())]
    pub(crate) builder: Option<Builder>,
}

#[derive(Debug, Args)]
pub(crate) struct ImageLoad {
    /// NAME[:TAG][@sha256:DIGEST], as it was built or pulled
    #[arg(value_name = "IMAGE")]
    pub(crate) image: Reference,
    /// The engine
    #[arg(long, value_name = "ENGINE", value_parser = engine(), required_unless_present = "archive")]
    pub(crate) into: Option<Engine>,
    /// Which of several clusters of kind, or which profile of minikube
    #[arg(long, value_name = "NAME", requires = "into")]
    pub(crate) cluster: Option<String>,
    /// Write the archive here
    #[arg(long, value_name = "FILE")]
    pub(crate) archive: Option<PathBuf>,
}

fn engine() -> impl TypedValueParser<Value = Engine> {
    PossibleValuesParser::new(Engine::ALL.map(Engine::as_str)).map(|word| {
        let is_it = |engine: &Engine| engine.as_str() == word;
        Engine::ALL.into_iter().find(is_it).expect("it is one of them")
    })
}

fn builder() -> impl TypedValueParser<Value = Builder> {
    PossibleValuesParser::new(Builder::ALL.map(Builder::program)).map(|word| {
        let is_it = |builder: &Builder| builder.program() == word;
        Builder::ALL.into_iter().find(is_it).expect("it is one of them")
    })
}

#[derive(Debug, Args)]
pub(crate) struct ImagePush {
    /// NAME[:TAG], as it was built
    #[arg(value_name = "IMAGE")]
    pub(crate) image: Reference,
    /// Send it under this name instead
    #[arg(long = "as", value_name = "IMAGE")]
    pub(crate) called: Option<Reference>,
    /// A PEM file of authorities that are believed for the registry, in the place of this machine's
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ImagePull {
    /// NAME[:TAG][@sha256:DIGEST]
    #[arg(value_name = "IMAGE")]
    pub(crate) image: Reference,
    /// A PEM file of authorities that are believed for the registry, in the place of this machine's
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ImageLogin {
    /// The registry: HOST[:PORT]
    #[arg(value_name = "HOST")]
    pub(crate) host: String,
    /// The user
    #[arg(long, short)]
    pub(crate) user: String,
    /// A PEM file of authorities that are believed for it, in the place of this machine's
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
}

/// What is built has the digest that it comes to.
fn tagged(text: &str) -> Result<Reference, String> {
    let name: Reference =
        text.parse().map_err(|error: bowline_core::release::ImageReferenceError| error.to_string())?;
    match name.digest {
        None => Ok(name),
        Some(_) => {
            Err("a name with a tag, as shop.example/web:1: what is built has the digest that it comes to".to_owned())
        }
    }
}
