//! Why a resource is not ready, in words for its operator.

use std::io;
use std::path::Path;

use bowline_core::fault::{Fault, FaultKind};
use bowline_core::resource::{Nature, ResourceKey, Trouble};

pub(super) fn lasting(fault: Fault) -> Trouble {
    Trouble { fault, nature: Nature::Lasting }
}

pub(super) fn passing(fault: Fault) -> Trouble {
    Trouble { fault, nature: Nature::Passing }
}

/// It is on its way.
pub(super) fn soon(what: impl Into<String>) -> Trouble {
    Trouble { fault: Fault::new(FaultKind::Failed, what.into()), nature: Nature::Soon }
}

/// A step on its files failed.
pub(super) fn file(key: &ResourceKey, what: &str, path: &Path, error: &io::Error) -> Trouble {
    let fault = Fault::new(FaultKind::Failed, format!("{} of {} cannot be prepared", key.id, key.app))
        .caused_by(format!("cannot {what} {}", path.display()))
        .source(error);
    passing(fault.hint("look at the disk's space and at the permissions of the state folder"))
}

/// The server answers, and not as it should.
pub(super) fn unusable(key: &ResourceKey, step: &str, error: &dyn std::error::Error) -> Trouble {
    let fault = Fault::new(FaultKind::Failed, format!("{} of {} cannot be used", key.id, key.app))
        .caused_by(step.to_owned())
        .source(error);
    passing(fault.hint(format!("read its output: bowline logs {} --service {}", key.app.command_words(), key.id)))
}

/// The data belong to another environment.
pub(super) fn foreign(key: &ResourceKey, found: &str, own: &str) -> Trouble {
    let fault = Fault::new(FaultKind::Refused, format!("{} of {} belongs to another environment", key.id, key.app))
        .caused_by(format!("its marker names environment {found}, this one is {own}"));
    lasting(fault.hint("name another resource in bowline.toml, or put back the state folder that these data belong to"))
}
