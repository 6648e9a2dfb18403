//! How fast a token may ask for changes: each is an event, and work for the one loop of all apps.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bowline_core::access::TokenId;
use bowline_core::fault::{Fault, FaultKind};

use super::answer::{Refusal, RefusalReason};

/// Changes that a token may ask for at once.
const BURST: u32 = 60;
/// Then one in each of these: five a second.
const EVERY: Duration = Duration::from_millis(200);

/// When each token will have its whole burst again. Of those that have it nothing is kept.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rates(Arc<Mutex<BTreeMap<TokenId, Instant>>>);

impl Rates {
    /// # Errors
    /// It has asked for too many; in a second it may go on.
    pub(super) fn take(&self, token: TokenId, now: Instant) -> Result<(), Refusal> {
        let mut whole_at = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        whole_at.retain(|_, at| *at > now);
        let at = whole_at.get(&token).copied().unwrap_or(now) + EVERY;
        if at.duration_since(now) > EVERY * BURST {
            let fault = Fault::new(FaultKind::Refused, "too many changes are asked for with this token");
            let fault = fault.caused_by(format!("{BURST} at once are taken, and then 5 a second"));
            return Err(Refusal { reason: RefusalReason::TooMany, fault: fault.hint("ask again in a second") });
        }
        whole_at.insert(token, at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_a_burst_and_then_five_a_second_and_others_are_not_held_up() {
        let (rates, start) = (Rates::default(), Instant::now());
        let taken = |token: u32, at: Instant| (0..1_000).take_while(|_| rates.take(TokenId(token), at).is_ok()).count();
        assert_eq!(taken(1, start), 60);
        assert_eq!(taken(2, start), 60);
        assert_eq!(taken(1, start + Duration::from_millis(199)), 0);
        assert_eq!(taken(1, start + Duration::from_secs(1)), 5, "what a second gives");
        assert_eq!(taken(1, start + Duration::from_secs(60)), 60);
        assert_eq!(rates.0.lock().unwrap().len(), 1, "of others nothing is kept");
    }
}
