//! How many logs are read at once: each holds files of the node, and lines that are on their way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bowline_core::access::TokenId;
use bowline_core::fault::{Fault, FaultKind};

use super::access::Caller;
use super::answer::{Refusal, RefusalReason};

/// Of one token, and of all tokens together.
const OF_TOKEN: usize = 8;
const OF_TOKENS: usize = 64;
/// Of the daemon's own user, whom no token keeps out.
const OF_OWNER: usize = 64;

/// Who reads, and how many at once. `None`: the daemon's own user.
type Readers = BTreeMap<Option<TokenId>, usize>;

/// The seats of those who read logs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seats(Arc<Mutex<Readers>>);

/// One of them; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Seats,
    of: Option<TokenId>,
}

impl Seats {
    /// # Errors
    /// Those that are for the caller are taken.
    pub(super) fn take(&self, caller: &Caller) -> Result<Seat, Refusal> {
        let of = match caller {
            Caller::Owner { .. } => None,
            Caller::Token(token) => Some(token.record.id),
        };
        let mut readers = self.readers();
        let own = readers.get(&of).copied().unwrap_or(0);
        let of_tokens: usize = readers.iter().filter(|(of, _)| of.is_some()).map(|(_, count)| count).sum();
        match of {
            None if own >= OF_OWNER => return Err(taken(format!("logs are read {OF_OWNER} times at once already"))),
            Some(_) if own >= OF_TOKEN => {
                return Err(taken(format!("logs are read {OF_TOKEN} times at once with this token already")));
            }
            Some(_) if of_tokens >= OF_TOKENS => {
                return Err(taken(format!("logs are read {OF_TOKENS} times at once with tokens already")));
            }
            None | Some(_) => {}
        }
        *readers.entry(of).or_insert(0) += 1;
        Ok(Seat { seats: self.clone(), of })
    }

    fn readers(&self) -> MutexGuard<'_, Readers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn taken(message: String) -> Refusal {
    let fault = Fault::new(FaultKind::Refused, message).hint("end one of them, and ask again");
    Refusal { reason: RefusalReason::TooMany, fault }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut readers = self.seats.readers();
        if let Some(count) = readers.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                readers.remove(&self.of);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::access::tests::token;

    #[test]
    fn a_token_takes_its_own_seats_and_nobody_elses() {
        let (seats, owner) = (Seats::default(), Caller::Owner { uid: Some(0) });
        let mut held: Vec<Seat> = (0..OF_TOKEN).map(|_| seats.take(&token(1)).unwrap()).collect();
        let refused = seats.take(&token(1)).unwrap_err();
        assert_eq!((refused.reason, refused.fault.kind), (RefusalReason::TooMany, FaultKind::Refused));
        held.pop();
        held.push(seats.take(&token(1)).unwrap());
        let others = (2..).flat_map(|id| vec![token(id); OF_TOKEN]).take(OF_TOKENS - OF_TOKEN);
        held.extend(others.map(|other| seats.take(&other).unwrap()));
        assert!(seats.take(&token(99)).is_err(), "those of tokens are taken");
        held.extend((0..OF_OWNER).map(|_| seats.take(&owner).unwrap()));
        assert!(seats.take(&owner).is_err());
        drop(held);
        assert!(seats.readers().is_empty());
    }
}
