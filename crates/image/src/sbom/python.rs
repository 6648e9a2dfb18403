//! What pip has installed, by each distribution's own metadata.

use super::Component;

/// Of `NAME.dist-info/METADATA` (core metadata 2.x): fields up to the first empty line.
pub(super) fn of_metadata(text: &str) -> Option<Component> {
    let fields = || text.lines().take_while(|line| !line.is_empty());
    let field = |name: &str| fields().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(": ")?.trim()));
    let (name, version) = (field("Name")?, field("Version")?);
    // PEP 503: how the index calls it, too.
    let parts: Vec<&str> = name.split(['-', '_', '.']).filter(|part| !part.is_empty()).collect();
    let component = Component::new("pypi", None, &parts.join("-").to_ascii_lowercase(), version);
    Some(Component { name: name.to_owned(), ..component })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distribution_is_called_as_the_index_does() {
        let purl = |text: &str| of_metadata(text).map(|one| one.purl);
        let of = |name: &str| purl(&format!("Metadata-Version: 2.1\nName: {name}\nVersion: 1.0+local\n"));
        assert_eq!(of("Flask").as_deref(), Some("pkg:pypi/flask@1.0%2Blocal"));
        assert_eq!(of("ruamel.yaml__x-Y").as_deref(), Some("pkg:pypi/ruamel-yaml-x-y@1.0%2Blocal"));
        assert_eq!(purl("Name: x\n\nVersion: 1\n"), None, "what stands below is a description");
        assert_eq!(purl(""), None);
    }
}
