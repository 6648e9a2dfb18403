//! The page in `docs/reference` is the one that the grammar gives.

use std::path::PathBuf;

#[test]
fn the_reference_is_current() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/bowline-toml.md");
    let expected = bowline_spec::reference();
    if std::env::var_os("BOWLINE_RENEW").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "renew it: BOWLINE_RENEW=1 cargo test -p bowline-spec --test reference");
}
