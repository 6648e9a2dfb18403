//! Certificates of an ACME authority: orders are walked here, decided on in [`bowline_core::acme`].
//!
//! Architecture invariant: nothing here decides when to order, and nothing waits for the edge but an order's own task.

pub(crate) mod http;
mod keep;
mod order;
mod renewal;
#[cfg(test)]
mod tests;
mod trouble;

use std::collections::BTreeMap;
use std::sync::Arc;

use bowline_core::acme::{Advice, Effect, Failure, Ledger};
use bowline_core::app::HostName;
use bowline_core::route::Challenge;
use bowline_fault_points::{Point, reach};
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

pub(crate) use self::keep::{Keep, Kept, left, reseal};
use self::order::Account;
use super::Leaf;
use crate::config::Acme;

/// What has come of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Report {
    /// What the authority wants to see.
    Challenged(HostName, Challenge),
    /// It is on the disk.
    Issued(HostName, Leaf),
    Failed(HostName, Failure),
    /// When its certificate is to be renewed.
    Advised(HostName, Advice),
}

/// Carries out effects in the order in which they come.
#[derive(Debug)]
pub(crate) struct Clerk {
    account: Arc<Account>,
    keep: Keep,
    reports: mpsc::Sender<Report>,
    orders: BTreeMap<HostName, Walk>,
}

/// An order under way.
#[derive(Debug)]
struct Walk {
    task: AbortHandle,
    /// Says that the edge answers.
    served: Option<oneshot::Sender<()>>,
}

impl Drop for Walk {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Clerk {
    pub(crate) fn new(settings: Acme, keep: Keep, reports: mpsc::Sender<Report>) -> Self {
        let account = Arc::new(Account::new(settings, keep.clone()));
        Self { account, keep, reports, orders: BTreeMap::new() }
    }

    /// Until nobody can ask for anything any more.
    pub(crate) async fn run(mut self, mut effects: mpsc::UnboundedReceiver<Effect>) {
        while let Some(effect) = effects.recv().await {
            match effect {
                Effect::Note(ledger) => {
                    if let Err(failure) = self.note(ledger).await {
                        tracing::warn!(reason = failure.reason, "what was ordered is not recorded");
                    }
                }
                Effect::Begin { host, attempt, ledger } => match self.note(ledger).await {
                    Ok(()) => {
                        reach(Point::OrderNoted);
                        self.begin(host, attempt);
                    }
                    Err(failure) => drop(self.reports.send(Report::Failed(host, failure)).await),
                },
                Effect::Answer(host) => {
                    reach(Point::ChallengeServed);
                    let served = self.orders.get_mut(&host).and_then(|walk| walk.served.take());
                    // The order may just have failed.
                    let _ = served.map(|served| served.send(()));
                }
                Effect::Drop(host) => drop(self.orders.remove(&host)),
                Effect::Forget(host) => self.keep.forget(&host),
                Effect::Consult(host) => self.consult(host),
            }
        }
    }

    fn consult(&self, host: HostName) {
        let (account, reports) = (Arc::clone(&self.account), self.reports.clone());
        tokio::spawn(async move {
            let advice = account.consult(&host).await;
            // As with an order.
            drop(reports.send(Report::Advised(host, advice)).await);
        });
    }

    async fn note(&self, ledger: Ledger) -> Result<(), Failure> {
        let keep = self.keep.clone();
        let written = tokio::task::spawn_blocking(move || keep.note(&ledger)).await;
        let written = written.map_err(|error| trouble::failure("the order cannot be recorded", &error))?;
        written.map_err(|error| trouble::failure("the order cannot be recorded", &error))
    }

    fn begin(&mut self, host: HostName, attempt: u32) {
        let (account, reports) = (Arc::clone(&self.account), self.reports.clone());
        let (served, edge) = oneshot::channel();
        let of = host.clone();
        let task = tokio::spawn(async move {
            let report = match Box::pin(account.order(&of, attempt, &reports, edge)).await {
                Ok(leaf) => Report::Issued(of, leaf),
                Err(failure) => Report::Failed(of, failure),
            };
            // Nobody listens only when the daemon ends.
            drop(reports.send(report).await);
        });
        self.orders.insert(host, Walk { task: task.abort_handle(), served: Some(served) });
    }
}
