//! Images of an app.

use std::path::PathBuf;

use bowline_core::release::Reference;
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum Image {
    /// Build an app's services, and make an image of each
    ///
    /// One artifact gives one digest. A program that is linked statically stands on nothing; others on those packages
    /// of this machine that they need. What runs in it is nobody's user, 65532. The image is kept in the state, with a bill of
    /// materials; nothing is sent.
    Build(ImageBuild),
    /// Send an image that is kept here, and its bill of materials, to its registry
    ///
    /// What is there already is not sent. The name leads to the new image when all of it is there.
    Push(ImagePush),
    /// Fetch an image, by its name or better by its digest, and keep it here
    Pull(ImagePull),
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
    #[arg(long, value_name = "IMAGE")]
    pub(crate) tag: Option<Reference>,
    /// Write one archive, too, that Docker, Podman and containerd load; of one service alone
    #[arg(long, value_name = "FILE")]
    pub(crate) archive: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ImagePush {
    /// NAME[:TAG], as it was built
    #[arg(value_name = "IMAGE")]
    pub(crate) image: Reference,
    /// Send it under this name instead
    #[arg(long, value_name = "IMAGE")]
    pub(crate) to: Option<Reference>,
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
