//! What daemon and edge say to each other over `RUN/edge.sock`: frames of JSON, each preceded by its length.
//!
//! A frame is four bytes of length, little endian, then one JSON object. File descriptors travel with the first byte
//! of the frame that announces them. The forms here are apart from the domain's types, so that an edge of one version
//! and a daemon of the next understand each other.

mod changes;
mod channel;
mod observation;
mod policy;
mod table;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub use changes::ChangesFrame;
pub use channel::{Channel, ChannelError, MAX_FRAME};
pub use observation::{DemandFrame, HeldFrame, ObservationFrame, SeriesFrame, TrafficFrame};
pub use table::{DesiredFrame, TableError};

/// Version of this protocol. What a peer of another one says is refused by name, but for `Hello`, `Listeners`, `Retire` and
/// `Shutdown`, which never change but for what may be absent: with them any daemon replaces any edge.
///
/// What one of this version may or may not have, its hello says: an edge that outlives an upgrade is told nothing that it does not
/// know, and goes on.
pub const PROTOCOL: u32 = 3;

/// From the daemon to the edge.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToEdge {
    /// The first frame of a connection.
    Hello { protocol: u32 },
    /// All that is to be served. The first of a connection, and whenever the edge wants it.
    Desired(Box<DesiredFrame>),
    /// What of it has changed since the frame before; only to an edge whose hello says that it takes `changes`.
    Changes(Box<ChangesFrame>),
    /// Asks for duplicates of the listening sockets.
    Listeners,
    /// Another edge has taken over the sockets: accept nothing more, finish what is under way without haste, and exit.
    Retire,
    /// Finish what is under way and exit; connections that are left after `limit_ms` are cut.
    Shutdown { limit_ms: u64 },
}

/// From the edge to the daemon.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromEdge {
    /// The answer to `Hello`.
    Hello {
        protocol: u32,
        pid: u32,
        http: Option<SocketAddr>,
        https: Option<SocketAddr>,
        /// The generation that every worker serves.
        serving: Option<u64>,
        /// It takes [`ToEdge::Changes`].
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        changes: bool,
    },
    /// Every worker serves this generation, and no request is being routed by an older one.
    Serving {
        generation: u64,
    },
    /// The desired state was refused: it is older than what is served, or cannot be understood.
    Refused {
        generation: u64,
        reason: String,
    },
    /// The changes to this generation are of another one than is held, or of one that came by another connection: they were not
    /// looked at, and the whole is wanted.
    WantsWhole {
        generation: u64,
    },
    Observation(Box<ObservationFrame>),
    /// The listening sockets follow as descriptors, in this order: control, HTTP, HTTPS.
    Listeners {
        http: bool,
        https: bool,
    },
}
