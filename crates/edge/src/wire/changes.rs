//! The wire form of what has changed between two desired states.

use std::collections::BTreeSet;

use bowline_core::app::HostName;
use bowline_core::id::Generation;
use bowline_core::route::{Changes, Gone, Pool};
use serde::{Deserialize, Serialize};

use super::table::{PoolFrame, parse};
use super::{DesiredFrame, TableError};

/// A whole [`Changes`]: a desired state in which only what is new or different is told, and the names of what is gone.
#[derive(Debug, Serialize, Deserialize)]
pub struct ChangesFrame {
    /// The generation that they change.
    pub base: u64,
    part: DesiredFrame,
    #[serde(default)]
    gone_sites: Vec<String>,
    /// Of these only the names are meant.
    #[serde(default)]
    gone_pools: Vec<PoolFrame>,
    #[serde(default)]
    gone_certificates: Vec<String>,
}

impl From<&Changes> for ChangesFrame {
    fn from(changes: &Changes) -> Self {
        let Changes { base, part, gone } = changes;
        let nothing = Pool::default();
        Self {
            base: base.0,
            part: DesiredFrame::from(part),
            gone_sites: gone.sites.iter().map(ToString::to_string).collect(),
            gone_pools: gone.pools.iter().map(|id| PoolFrame::from(id, &nothing)).collect(),
            gone_certificates: gone.certificates.iter().map(ToString::to_string).collect(),
        }
    }
}

impl ChangesFrame {
    /// The generation that they make.
    pub fn generation(&self) -> u64 {
        self.part.generation
    }

    /// Parses everything; a frame that is wrong in any place is refused as a whole.
    pub fn parse(&self) -> Result<Changes, TableError> {
        let pools = self.gone_pools.iter().map(|pool| pool.parse().map(|(id, _)| id));
        Ok(Changes {
            base: Generation(self.base),
            part: self.part.parse()?,
            gone: Gone {
                sites: hosts(&self.gone_sites)?,
                pools: pools.collect::<Result<_, _>>()?,
                certificates: hosts(&self.gone_certificates)?,
            },
        })
    }
}

fn hosts(names: &[String]) -> Result<BTreeSet<HostName>, TableError> {
    names.iter().map(|name| parse("host", name, HostName::new)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bowline_core::route::{EdgeDesired, Table};

    use super::super::table::tests::sample;
    use super::super::{FromEdge, ToEdge};
    use super::*;

    fn check(before: &EdgeDesired, after: &EdgeDesired) -> String {
        let changes = Changes::between(before, after);
        let frame = ToEdge::Changes(Box::new(ChangesFrame::from(&changes)));
        let text = serde_json::to_string(&frame).unwrap();
        let ToEdge::Changes(frame) = serde_json::from_str(&text).unwrap() else { panic!("another frame: {text}") };
        assert_eq!(frame.generation(), after.table.generation.0);
        assert_eq!(frame.parse().unwrap(), changes);
        let mut one = before.clone();
        frame.parse().unwrap().apply(&mut one);
        assert_eq!(one, *after);
        text
    }

    #[test]
    fn changes_survive_the_wire() {
        let (nothing, all) = (EdgeDesired::default(), sample());
        check(&nothing, &all);
        check(&all, &nothing);
        let next = Table { generation: all.table.generation.next(), ..Table::clone(&all.table) };
        let text = check(&all, &EdgeDesired { table: Arc::new(next), ..all.clone() });
        assert!(!text.contains("uploads.localhost"), "neither its site nor its certificate has changed: {text}");
    }

    #[test]
    fn an_edge_of_before_says_nothing_of_changes_and_takes_none() {
        let hello = r#"{"type":"hello","protocol":3,"pid":1,"http":null,"https":null,"serving":null}"#;
        assert!(matches!(serde_json::from_str(hello).unwrap(), FromEdge::Hello { changes: false, .. }));
    }

    #[test]
    fn a_wrong_frame_is_refused_whole() {
        let mut frame = ChangesFrame::from(&Changes::between(&sample(), &EdgeDesired::default()));
        frame.gone_sites.push("a b".to_owned());
        assert_eq!(frame.parse().unwrap_err().to_string(), "host \"a b\" is not valid");
    }
}
