//! What Envoy has said, as it is published: a table, and what it does not do of it, together until it has answered about another one.
//!
//! The next table may be told at any moment, long before anybody has looked: what was refused of the one before is not what is refused of that.

use std::collections::BTreeMap;

use bowline_core::id::Generation;
use bowline_core::route::Refusal;

#[derive(Debug, Default)]
pub(super) struct Answers {
    latest: Answer,
    /// What was known to be missing in each model as it was made, from its number on up to the next one that stands here; `None`: it was not
    /// known whose it is. Of models that may still be answered.
    missing: BTreeMap<u64, Option<Vec<Refusal>>>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Answer {
    /// `None`: it has only been told where to listen.
    pub(super) serving: Option<Generation>,
    /// What it does not do.
    pub(super) refusals: Vec<Refusal>,
}

impl Answers {
    /// Another model was made. `missing`: what is known to be refused or cannot be said, and so is not in it as it is wanted; `None`, while
    /// it is found out whose it is.
    pub(super) fn made(&mut self, number: u64, missing: Option<Vec<Refusal>>) {
        if self.missing.last_key_value().is_none_or(|(_, last)| *last != missing) {
            self.missing.insert(number, missing);
        }
    }

    /// Envoy has all of the model that was made last, but for this.
    pub(super) fn latest(&mut self, generation: Generation, refusals: Vec<Refusal>) {
        self.latest = Answer { serving: self.serving(generation), refusals };
        let last = self.missing.pop_last();
        self.missing = last.into_iter().collect();
    }

    /// It has all of an older model but what it refused of that. Together with what was known to be missing in it, that answers for its table.
    pub(super) fn older(&mut self, generation: Generation, number: u64, mut refusals: Vec<Refusal>) {
        let Some((since, missing)) = self.missing.range(..=number).next_back() else { return };
        let (since, missing) = (*since, missing.clone());
        self.missing = self.missing.split_off(&since);
        if let Some(missing) = missing {
            refusals.extend(missing);
            self.latest = Answer { serving: self.serving(generation), refusals };
        }
    }

    /// The first model has nothing but where to listen.
    fn serving(&self, generation: Generation) -> Option<Generation> {
        Some(generation).filter(|generation| *generation > Generation(0)).or(self.latest.serving)
    }

    pub(super) fn said(&self) -> &Answer {
        &self.latest
    }
}

#[cfg(test)]
mod tests {
    use bowline_core::fault::{Fault, FaultKind};
    use bowline_core::route::Part;

    use super::*;

    fn refusal(why: &str) -> Refusal {
        Refusal { apps: [].into(), part: Part::Other, fault: Fault::new(FaultKind::Failed, why) }
    }

    /// The table that it has, and what is refused of it.
    fn says(answers: &Answers) -> (Option<u64>, Vec<&str>) {
        let Answer { serving, refusals } = answers.said();
        (serving.map(|serving| serving.0), refusals.iter().map(|refusal| refusal.fault.message.as_str()).collect())
    }

    #[test]
    fn a_table_keeps_its_refusals_whatever_is_told_after_it() {
        let mut answers = Answers::default();
        answers.made(1, Some(Vec::new()));
        answers.latest(Generation(4), Vec::new());
        assert_eq!(says(&answers), (Some(4), vec![]));
        answers.made(2, Some(Vec::new()));
        answers.latest(Generation(5), vec![refusal("odd")]);
        // Nobody has looked yet, and there is another one.
        answers.made(3, Some(Vec::new()));
        assert_eq!(says(&answers), (Some(5), vec!["odd"]));
        answers.made(4, Some(Vec::new()));
        answers.older(Generation(6), 3, Vec::new());
        assert_eq!(says(&answers), (Some(6), vec![]), "all of it was told, and it took that");
    }

    #[test]
    fn an_older_model_of_which_nobody_knew_what_is_refused_answers_for_nothing() {
        let mut answers = Answers::default();
        answers.made(1, Some(Vec::new()));
        answers.latest(Generation(4), Vec::new());
        // Half of the hosts are held back, to find the one that is refused; then there is another table.
        answers.made(2, None);
        answers.made(3, Some(Vec::new()));
        answers.older(Generation(5), 2, Vec::new());
        assert_eq!(says(&answers), (Some(4), vec![]));
        answers.older(Generation(6), 3, Vec::new());
        assert_eq!(says(&answers), (Some(6), vec![]));
    }

    #[test]
    fn a_refusal_that_lasts_keeps_no_older_model_from_answering() {
        let mut answers = Answers::default();
        for number in 1..=9 {
            // One host is refused all the time; from the fifth on, another one, too.
            let known = if number < 5 { vec![refusal("odd")] } else { vec![refusal("odd"), refusal("more")] };
            answers.made(number, Some(known));
        }
        assert_eq!(answers.missing.len(), 2, "what is known is kept once");
        answers.older(Generation(13), 3, vec![refusal("a listener")]);
        assert_eq!(says(&answers), (Some(13), vec!["a listener", "odd"]));
        answers.older(Generation(16), 6, Vec::new());
        assert_eq!(says(&answers), (Some(16), vec!["odd", "more"]));
        assert_eq!(answers.missing.len(), 1);
        answers.older(Generation(18), 8, Vec::new());
        assert_eq!(says(&answers), (Some(18), vec!["odd", "more"]));
    }

    #[test]
    fn what_is_refused_before_the_first_table_is_said_too() {
        let mut answers = Answers::default();
        answers.made(1, Some(Vec::new()));
        answers.latest(Generation(0), vec![refusal("odd")]);
        assert_eq!(says(&answers), (None, vec!["odd"]));
    }
}
