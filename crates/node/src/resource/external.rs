use bowline_core::resource::{External, ResourceKey, Trouble};
pub(super) async fn probe(key: &ResourceKey, _e: &External) -> Result<String, Trouble> {
    Err(super::wrong_kind(key))
}
