//! The same objects as files that Kustomize reads.

use serde_json::json;

use crate::file::File;
use crate::object::{Manifests, Object};
use crate::yaml;

/// One file per object, and a `kustomization.yaml` that names them in the order in which they are to be there.
pub fn files(manifests: &Manifests) -> Vec<File> {
    let mut files: Vec<File> = Vec::new();
    for object in &manifests.objects {
        let path = free(&files, &stem(object));
        files.push(File::new(path, yaml::print(&object.body)));
    }
    let resources: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let kustomization =
        json!({ "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": resources });
    files.push(File::new("kustomization.yaml", yaml::print(&kustomization)));
    files
}

/// A file that is none of these: two kinds may have one name in different groups of APIs.
pub(crate) fn free(files: &[File], stem: &str) -> String {
    let path = |count: usize| if count == 1 { format!("{stem}.yaml") } else { format!("{stem}-{count}.yaml") };
    let is_free = |path: &String| !files.iter().any(|file| file.path == *path);
    (1..).map(path).find(is_free).expect("there are more numbers than files")
}

/// The kind in small letters and the name, without a hash: a changed configuration stays in its file.
pub(crate) fn stem(object: &Object) -> String {
    let name = &object.id.name;
    let hash =
        name.rsplit_once('-').filter(|(_, hash)| hash.len() == 10 && hash.bytes().all(|b| b.is_ascii_hexdigit()));
    let is_hashed = object.body["immutable"] == true || object.id.kind == "Job";
    let name = hash.filter(|_| is_hashed).map_or(name.as_str(), |(name, _)| name);
    format!("{}-{name}", object.id.kind.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_is_written_over_another() {
        let mut files = Vec::new();
        for expected in ["a.yaml", "a-2.yaml", "a-3.yaml", "a-2-2.yaml"] {
            let stem = if expected == "a-2-2.yaml" { "a-2" } else { "a" };
            let path = free(&files, stem);
            assert_eq!(path, expected);
            files.push(File::new(path, ""));
        }
    }
}
