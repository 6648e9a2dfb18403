//! What Envoy has said, as it is published: a table, and what it does not do of it, together until it has answered about another one.
//!
//! The next table may be told at any moment, long before anybody has looked: what was refused of the one before is not what is refused of that.

use bowline_core::fault::Fault;
use bowline_core::id::Generation;
use bowline_core::route::Refusal;

#[derive(Debug, Default)]
pub(super) struct Answers {
    latest: Answer,
    /// The first of the models up to now of which each has all that was wanted.
    whole_since: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Answer {
    /// `None`: it has only been told where to listen.
    pub(super) serving: Option<Generation>,
    /// All that it does not do; and each by itself.
    pub(super) refusal: Option<Fault>,
    pub(super) refusals: Vec<Refusal>,
}

impl Answers {
    /// Another model was made, and `is_whole` if nothing that is wanted is missing in it: what is refused, what is held back until it is known
    /// whether it is, what cannot be said.
    pub(super) fn made(&mut self, number: u64, is_whole: bool) {
        self.whole_since = if is_whole { self.whole_since.or(Some(number)) } else { None };
    }

    /// Envoy has all of the model that was made last, but for this.
    pub(super) fn latest(&mut self, generation: Generation, (refusal, refusals): (Option<Fault>, Vec<Refusal>)) {
        let serving = self.serving(generation);
        self.latest = Answer { serving, refusal, refusals };
    }

    /// It has all of an older model. That answers for its table if all of it was told; of all others the latest says more.
    pub(super) fn older(&mut self, generation: Generation, number: u64) {
        if self.whole_since.is_some_and(|since| since <= number) {
            self.latest = Answer { serving: self.serving(generation), ..Answer::default() };
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
    use bowline_core::fault::FaultKind;
    use bowline_core::route::Part;

    use super::*;

    fn refused(answers: &mut Answers, generation: u64) {
        let fault = Fault::new(FaultKind::Failed, "Envoy refused routes");
        let refusal = Refusal { apps: [].into(), part: Part::Routes, fault: fault.clone() };
        answers.latest(Generation(generation), (Some(fault), vec![refusal]));
    }

    /// The table that it has, and how much of it is refused.
    fn says(answers: &Answers) -> (Option<u64>, usize) {
        let Answer { serving, refusal, refusals } = answers.said();
        assert_eq!(refusal.is_some(), !refusals.is_empty());
        (serving.map(|serving| serving.0), refusals.len())
    }

    #[test]
    fn a_table_keeps_its_refusals_whatever_is_told_after_it() {
        let mut answers = Answers::default();
        answers.made(1, true);
        answers.latest(Generation(4), (None, Vec::new()));
        assert_eq!(says(&answers), (Some(4), 0));
        answers.made(2, true);
        refused(&mut answers, 5);
        // Nobody has looked yet, and there is another one.
        answers.made(3, true);
        assert_eq!(says(&answers), (Some(5), 1));
        answers.made(4, true);
        answers.older(Generation(6), 3);
        assert_eq!(says(&answers), (Some(6), 0), "all of it was told, and it took that");
    }

    #[test]
    fn an_older_model_in_which_something_was_missing_answers_for_nothing() {
        let mut answers = Answers::default();
        answers.made(1, true);
        answers.latest(Generation(4), (None, Vec::new()));
        // Half of the hosts are held back, to find the one that is refused; then there is another table.
        answers.made(2, false);
        answers.made(3, true);
        answers.older(Generation(5), 2);
        assert_eq!(says(&answers), (Some(4), 0));
        answers.older(Generation(6), 3);
        assert_eq!(says(&answers), (Some(6), 0));
    }

    #[test]
    fn what_is_refused_before_the_first_table_is_said_too() {
        let mut answers = Answers::default();
        answers.made(1, true);
        refused(&mut answers, 0);
        assert_eq!(says(&answers), (None, 1));
    }
}
