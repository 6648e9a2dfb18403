//! Who is at the other end of the Unix socket: the daemon's own user or root, else nobody.

use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use bowline_core::fault::{Fault, FaultKind};

use super::answer::Refusal;
use super::socket::{ApiSocket, Patience};

/// The user of a connection, told by the kernel (`SO_PEERCRED`, unix(7)); `None` if it cannot tell.
#[derive(Debug, Clone, Default)]
pub(crate) struct Peer {
    pub(crate) uid: Option<u32>,
    pub(super) patience: Patience,
}

impl Connected<IncomingStream<'_, ApiSocket>> for Peer {
    fn connect_info(stream: IncomingStream<'_, ApiSocket>) -> Self {
        Self { uid: stream.io().uid(), patience: stream.io().patience() }
    }
}

/// The user that the daemon runs as.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner(pub(crate) u32);

/// Lets the daemon's own user and root in, and nobody else.
pub(crate) async fn require_owner(
    State(owner): State<Owner>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    match may_enter(&peer, owner) {
        true => next.run(request).await,
        false => refusal(&peer, owner).into_response(),
    }
}

fn may_enter(peer: &Peer, owner: Owner) -> bool {
    matches!(peer.uid, Some(uid) if uid == owner.0 || uid == 0)
}

fn refusal(peer: &Peer, owner: Owner) -> Refusal {
    let who = peer.uid.map_or_else(|| "an unknown user".to_owned(), |uid| format!("user {uid}"));
    Fault::new(FaultKind::Refused, format!("this daemon belongs to user {}, not to {who}", owner.0))
        .hint("run the command as that user, or start a daemon of your own with --state")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_owner_and_root_may_enter() {
        let check = |peer, owner, expected| {
            assert_eq!(
                may_enter(&Peer { uid: peer, ..Peer::default() }, Owner(owner)),
                expected,
                "{peer:?} at {owner}"
            );
        };
        check(Some(1000), 1000, true);
        check(Some(0), 1000, true);
        check(Some(1001), 1000, false);
        check(Some(1000), 0, false);
        check(None, 0, false);
    }
}
