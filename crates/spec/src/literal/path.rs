use bowline_core::app::{PathPrefix, Volume};

use super::{Read, Wrong, any};

/// A path inside the app's folder: relative, and never above it. `.` is the folder.
pub(crate) fn relative(text: &str) -> Read<String> {
    let text = any(text)?;
    if text.starts_with('/') {
        return Err(Wrong::hint("this is a path inside the app's folder", "write it relative to bowline.toml"));
    }
    match text.split('/').any(|segment| segment == "..") {
        true => Err(Wrong::new("a path cannot lead out of the app's folder")),
        false => Ok(text),
    }
}

/// The same, but not the folder itself.
pub(crate) fn relative_below(text: &str) -> Read<String> {
    let text = relative(text)?;
    match text.split('/').all(|segment| matches!(segment, "" | ".")) {
        true => Err(Wrong::new("this cannot be the app's folder itself")),
        false => Ok(text),
    }
}

/// An absolute path without `.` and `..`.
pub(crate) fn absolute(text: &str) -> Read<String> {
    let text = any(text)?;
    let segments = text.strip_prefix('/').ok_or_else(|| Wrong::new("an absolute path starts with '/'"))?;
    match segments.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        true => Err(Wrong::new("a path has no empty, '.' or '..' segment and does not end with '/'")),
        false => Ok(text),
    }
}

/// Where a volume is mounted: neither over the system that the app itself needs nor over what is others'.
pub(crate) fn mount_point(text: &str) -> Read<String> {
    let path = absolute(text)?;
    let top = path[1..].split('/').next().unwrap_or_default();
    match !Volume::may_be_mounted(&path) {
        true => Err(Wrong::hint(format!("/{top} belongs to the system"), "for example \"/data\"")),
        false => Ok(path),
    }
}

/// What an HTTP request asks for: a path, and maybe a query.
pub(crate) fn url_path(text: &str) -> Read<String> {
    if !text.starts_with('/') {
        return Err(Wrong::hint("a path starts with '/'", format!("write \"/{text}\"")));
    }
    match text.chars().find(|c| !c.is_ascii_graphic() || *c == '#') {
        Some(bad) => Err(Wrong::new(format!("{bad:?} cannot stand in a path; write it percent-encoded"))),
        None => Ok(text.to_owned()),
    }
}

/// The name by which a health check asks for a gRPC service, `package.Service`. Empty: for all of a server.
pub(crate) fn grpc_service(text: &str) -> Read<String> {
    match text.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '_' | '.')) {
        Some(bad) => Err(Wrong::hint(
            format!("{bad:?} cannot stand in the name of a gRPC service"),
            "it is the package, a dot and the service: \"shop.v1.Cart\"".to_owned(),
        )),
        None => Ok(text.to_owned()),
    }
}

/// A route's prefix.
pub(crate) fn prefix(text: &str) -> Read<PathPrefix> {
    PathPrefix::new(text).map_err(|e| Wrong::new(e.to_string()))
}
