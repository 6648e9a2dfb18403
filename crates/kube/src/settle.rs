//! Waiting until what was applied is up, or cannot be.

use std::collections::BTreeMap;
use std::time::Duration;

use bowline_core::fault::{Fault, FaultKind};
use serde_json::Value;
use tokio::time::Instant;

use crate::cluster::AWAY;
use crate::judge::There;
use crate::leads;
use crate::look::{self, Look, Seen, Stands, Trouble};
use crate::object::{Id, Object};
use crate::refusal::Refusal;
use crate::rollout::{Applied, Rollout, Stop, Told};

/// How often a cluster is looked at while something comes up.
const PAUSE: Duration = Duration::from_millis(500);
/// Of a log, what is shown.
const LAST_LINES: usize = 20;

impl Rollout<'_> {
    /// Looks at these until all are up, or one cannot be.
    pub(crate) async fn settle(&mut self, applied: &[Applied<'_>]) -> Result<(), Stop> {
        let (applied, left): (Vec<&Applied<'_>>, Vec<&Applied<'_>>) = applied.iter().partition(|one| one.is_waited_for);
        self.leaves(&left).await;
        if applied.is_empty() {
            return Ok(());
        }
        // Pods may have to make way, of which no release says where they are.
        let learned = self.cluster.learn([&pod(String::new())]).await;
        learned.map_err(|refusal| refusal.fault("the cluster does not say what it serves"))?;
        let (mut patience, mut seen_at) = (Patience::default(), Instant::now());
        loop {
            self.cluster.beat().await;
            let now = Instant::now();
            match self.looks(&applied).await {
                Ok(Sight::Changed(id)) => return Err(changed(&id)),
                Ok(Sight::Looks(looks)) => {
                    seen_at = now;
                    let waits = looks.iter().filter_map(|look| match &look.stands {
                        Stands::Ready => None,
                        Stands::Waits(on) => Some((look.what.clone(), on.clone())),
                        Stands::Trouble(trouble) => Some((look.what.clone(), trouble.to_string())),
                    });
                    let waits: Vec<_> = waits.collect();
                    if waits.is_empty() {
                        return Ok(());
                    }
                    if let Some((what, trouble)) = patience.ends(&looks, now) {
                        return Err(self.failed(&what, &trouble).await.into());
                    }
                    if let Some(look) = patience.stalls(&looks, now) {
                        let minutes = look.limit().as_secs() / 60;
                        let message = format!("{} has been no further for {minutes} minutes", look.what);
                        let on = waits.into_iter().find(|(what, _)| *what == look.what).map(|(_, on)| on);
                        let fault = Fault::new(FaultKind::Failed, message);
                        return Err(on
                            .into_iter()
                            .fold(fault, |fault, on| fault.caused_by(format!("it waits on {on}")))
                            .into());
                    }
                    (self.tell)(Told::Waits(waits));
                }
                Err(refusal) if refusal.is_away() && now.duration_since(seen_at) < AWAY => {}
                Err(refusal) => {
                    return Err(refusal
                        .fault("what was applied cannot be looked at")
                        .hint("it goes on without this command: run it again when the cluster is reached")
                        .into());
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Says of what is not waited for what it would be waited for on.
    async fn leaves(&mut self, left: &[&Applied<'_>]) {
        if left.is_empty() {
            return;
        }
        // What becomes of it is nobody's business here.
        let Ok(Sight::Looks(looks)) = self.looks(left).await else { return };
        for look in looks {
            let on = match look.stands {
                Stands::Ready => continue,
                Stands::Waits(on) => on,
                Stands::Trouble(trouble) => trouble.to_string(),
            };
            let text =
                format!("{} is not ready, and is not waited for, since nothing of it has changed: {on}", look.what);
            (self.tell)(Told::Note { service: None, text });
        }
    }

    async fn looks(&self, applied: &[&Applied<'_>]) -> Result<Sight, Refusal> {
        let query = format!("&labelSelector={}", self.owner.selector());
        let (sets, pods) = (self.cluster.of("apps/v1", "replicasets"), self.cluster.core("pods"));
        let (sets, mut pods) = tokio::try_join!(self.cluster.list(&sets, &query), self.cluster.list(&pods, &query))?;
        for Applied { id, .. } in applied {
            pods.extend(self.cluster.operated(id).await?);
        }
        let events = match self.cluster.list(&self.cluster.core("events"), "&fieldSelector=type%3DWarning").await {
            Ok(events) => events,
            Err(refusal) if refusal.is_forbidden() => Vec::new(),
            Err(refusal) => return Err(refusal),
        };
        let mut looks = Vec::new();
        for Applied { id, body, spec, least, .. } in applied {
            let path = self.cluster.path(id).unwrap_or_default();
            let Some(workload) = self.cluster.find(&path).await?.filter(|now| look::spec(now, body) == *spec) else {
                return Ok(Sight::Changed(id.clone()));
            };
            let seen = Seen { workload: &workload, sets: &sets, pods: &pods, events: &events };
            let mut look = look::at_least(look::look(seen), &workload, *least);
            if let Some(pod) = look::stuck_before(seen) {
                look.stands = self.makes_way(pod).await?;
            }
            looks.push(look);
        }
        Ok(Sight::Looks(looks))
    }

    /// Ends a pod that is in the way of the one that is to come.
    async fn makes_way(&self, name: String) -> Result<Stands, Refusal> {
        let id = pod(name);
        match self.cluster.delete(&id, self.owner).await {
            Ok(_) => Ok(Stands::Waits(format!("{}, which does not come up, to end", id.name))),
            Err(refusal) if refusal.is_forbidden() => {
                let remove = self.cluster.kubectl(&format!("delete pod {}", id.name));
                let said = format!("{} does not come up and is replaced by nobody: {remove}", id.name);
                Ok(Stands::Trouble(Trouble { kind: look::Kind::InTheWay, said, pod: None }))
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// Looks for a short while whether what leads there is taken up, and says of what is not so. It is in the way of nothing: all else runs, and who
    /// runs the edge may be another. `there`: what was there before.
    pub(crate) async fn edges(&mut self, objects: &[Object], there: &There) {
        let ids: Vec<Id> = objects.iter().map(Object::id).filter(|id| leads::is_looked_at(&id.kind)).collect();
        let generation = |object: &Value| object["metadata"]["generation"].clone();
        let began = Instant::now();
        loop {
            let (mut waits, mut notes) = (Vec::new(), Vec::new());
            for id in &ids {
                self.cluster.beat().await;
                // Who may not look, or cannot just then, says nothing of it.
                let Ok(Some(now)) = self.cluster.find(&self.cluster.path(id).unwrap_or_default()).await else {
                    continue;
                };
                let was = there.iter().find(|(known, _)| known == id);
                let leads = leads::leads(&now);
                let is_same = was.is_some_and(|(_, was)| generation(was) == generation(&now));
                if began.elapsed() < leads.patience(is_same) {
                    waits.push((id.to_string(), leads.waits()));
                }
                let Some(said) = leads.said(&id.kind) else { continue };
                let shown = self.cluster.kubectl(&format!("describe {} {}", id.kind.to_lowercase(), id.name));
                notes.push(format!("{id}: {said} ({shown})"));
            }
            if waits.is_empty() {
                notes.into_iter().for_each(|text| (self.tell)(Told::Note { service: None, text }));
                return;
            }
            (self.tell)(Told::Waits(waits));
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn failed(&self, what: &str, trouble: &Trouble) -> Fault {
        let app = &self.owner.app;
        let fault =
            Fault::new(FaultKind::Failed, format!("{what} does not come up")).caused_by(trouble.to_string()).hint(
                trouble.kind.hint(|words| self.cluster.kubectl(words), |words| self.command(&format!("{words} {app}"))),
            );
        match self.last_words(trouble).await {
            Some(words) => fault.said(words.as_bytes()),
            None => fault,
        }
    }

    async fn last_words(&self, trouble: &Trouble) -> Option<String> {
        let (pod, container) = trouble.pod.as_ref()?;
        for previous in [true, false] {
            let path = format!("pods/{pod}/log?container={container}&tailLines={LAST_LINES}&previous={previous}");
            if let Some(words) =
                self.cluster.text(&self.cluster.core(&path)).await.ok().filter(|words| !words.trim().is_empty())
            {
                return Some(words);
            }
        }
        None
    }
}

/// Whoever has changed it goes on with it: nothing is taken back from them.
fn changed(id: &Id) -> Stop {
    let fault = Fault::new(FaultKind::Failed, format!("somebody else has changed {id} while it came up"));
    Stop { fault: fault.hint("it is left as it is: deploy again"), is_left: true }
}

fn pod(name: String) -> Id {
    Id { group: String::new(), version: "v1".to_owned(), kind: "Pod".to_owned(), name }
}

/// What is seen of what was applied.
enum Sight {
    Looks(Vec<Look>),
    /// This one is not what was applied any more.
    Changed(Id),
}

/// For how long things have been wrong.
#[derive(Debug, Default)]
struct Patience {
    since: BTreeMap<String, (look::Kind, Instant)>,
    /// How far each has come, and when.
    reached: BTreeMap<String, (i64, Instant)>,
}

impl Patience {
    /// The first workload that has been in one kind of trouble for longer than that may last.
    fn ends(&mut self, looks: &[Look], now: Instant) -> Option<(String, Trouble)> {
        let mut over = None;
        for look in looks {
            let Stands::Trouble(trouble) = &look.stands else {
                self.since.remove(&look.what);
                continue;
            };
            let since = match self.since.get(&look.what) {
                Some((kind, since)) if *kind == trouble.kind => *since,
                Some(_) | None => now,
            };
            self.since.insert(look.what.clone(), (trouble.kind, since));
            if over.is_none() && now.duration_since(since) >= trouble.kind.patience(look.limit()) {
                over = Some((look.what.clone(), trouble.clone()));
            }
        }
        over
    }

    /// The first that has been no further for longer than it may.
    fn stalls<'l>(&mut self, looks: &'l [Look], now: Instant) -> Option<&'l Look> {
        let mut over = None;
        for look in looks.iter().filter(|look| look.stands != Stands::Ready) {
            let (most, since) = self.reached.entry(look.what.clone()).or_insert((look.so_far, now));
            if look.so_far > *most {
                (*most, *since) = (look.so_far, now);
            }
            if over.is_none() && now.duration_since(*since) > look.limit() {
                over = Some(look);
            }
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::look::Kind;

    fn in_trouble(kind: Kind) -> Look {
        let trouble = Trouble { kind, said: String::new(), pod: None };
        Look { stands: Stands::Trouble(trouble), ..waiting(0, None) }
    }

    fn waiting(so_far: i64, deadline: Option<u64>) -> Look {
        let (what, stands) = ("web".to_owned(), Stands::Waits("1 of 2 ready".to_owned()));
        Look { what, stands, so_far, deadline: deadline.map(Duration::from_secs), patience: Duration::from_secs(900) }
    }

    #[test]
    fn trouble_that_passes_is_waited_for_and_trouble_that_lasts_is_not() {
        let (mut patience, start) = (Patience::default(), Instant::now());
        let mut at = |seconds, look: Look| patience.ends(&[look], start + Duration::from_secs(seconds)).is_some();
        assert!(!at(0, in_trouble(Kind::Quota)));
        assert!(!at(14, in_trouble(Kind::Quota)));
        assert!(!at(15, in_trouble(Kind::Image)), "it is another kind, and begins anew");
        assert!(!at(20, in_trouble(Kind::Quota)));
        assert!(!at(30, waiting(0, None)));
        assert!(!at(40, in_trouble(Kind::Quota)), "it had passed");
        assert!(at(55, in_trouble(Kind::Quota)));
        assert!(at(60, in_trouble(Kind::Standards)), "no pod is let in by waiting");
        assert!(!at(70, in_trouble(Kind::Secret)));
        assert!(!at(189, in_trouble(Kind::Secret)), "a store that was away is asked again");
        assert!(at(190, in_trouble(Kind::Secret)));
    }

    #[test]
    fn what_goes_on_is_waited_for_and_what_stalls_is_not() {
        let (mut patience, start) = (Patience::default(), Instant::now());
        let mut at =
            |minutes: u64, look: Look| patience.stalls(&[look], start + Duration::from_secs(minutes * 60)).is_some();
        assert!(!at(0, waiting(0, None)));
        assert!(!at(14, waiting(1, None)));
        assert!(!at(28, waiting(1, None)), "it was further 14 minutes ago");
        assert!(!at(29, waiting(2, None)));
        assert!(!at(40, waiting(0, None)));
        assert!(!at(60, waiting(2, Some(3600))), "it says its own deadline");
        assert!(at(60, waiting(2, None)));
    }
}
