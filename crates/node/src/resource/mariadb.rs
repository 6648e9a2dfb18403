use super::site::Site;
use bowline_core::resource::{Access, InitScript, Prepared, Trouble};
pub(super) fn prepare(site: &Site<'_>) -> Result<Prepared, Trouble> {
    Err(super::wrong_kind(site.key))
}
pub(super) async fn provision(site: &Site<'_>, _a: &Access, _i: Option<&InitScript>) -> Result<(), Trouble> {
    Err(super::wrong_kind(site.key))
}
