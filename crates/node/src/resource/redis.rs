use super::site::Site;
use bowline_core::resource::{Access, Prepared, Trouble};
pub(super) fn prepare(site: &Site<'_>, _a: &Access) -> Result<Prepared, Trouble> {
    Err(super::wrong_kind(site.key))
}
pub(super) async fn provision(site: &Site<'_>, _a: &Access) -> Result<(), Trouble> {
    Err(super::wrong_kind(site.key))
}
