//! Of a script that breaks an invariant, the least that still does.

use std::sync::Arc;

use crate::check::Invariant;
use crate::manner::{Behaviour, GOOD};
use crate::node::Profile;
use crate::script::{Op, Script, has_odd_instances, has_odd_routes, made_even};

/// Leaves out whatever the same invariant is broken without.
pub(crate) fn shrink(script: Script, breaks: impl Fn(&Script) -> Option<Invariant>) -> Script {
    let Some(invariant) = breaks(&script) else { return script };
    let mut least = script;
    loop {
        let smaller = candidates(&least).into_iter().find(|one| breaks(one) == Some(invariant));
        match smaller {
            Some(smaller) => least = smaller,
            None => return least,
        }
    }
}

/// Makes another one by this change.
type Less<'a> = &'a mut dyn FnMut(&dyn Fn(&mut Script));

/// All that have one thing less.
fn candidates(script: &Script) -> Vec<Script> {
    let mut all = Vec::new();
    let mut less = |change: &dyn Fn(&mut Script)| {
        let mut smaller = script.clone();
        change(&mut smaller);
        all.push(smaller);
    };
    less_done(script, &mut less);
    less_met(script, &mut less);
    all
}

/// Of what is asked for, and of what is brought out.
fn less_done(script: &Script, less: Less<'_>) {
    for i in (0..script.ops.len()).rev() {
        less(&|one| {
            let (_, op) = one.ops.remove(i);
            one.aborts.remove(i);
            if op == Op::Deploy {
                let release = script.ops[..i].iter().filter(|(_, op)| *op == Op::Deploy).count();
                one.profiles.remove(release);
                one.apps.remove(release);
                one.behaviours.remove(release);
            }
        });
    }
    for i in 0..script.idle_aborts.len() {
        less(&|one| {
            one.idle_aborts.remove(i);
        });
    }
    for i in (0..script.aborts.len()).filter(|i| script.aborts[*i].is_some()) {
        less(&|one| one.aborts[i] = None);
    }
    for i in (0..script.profiles.len()).filter(|i| script.profiles[*i] != Profile::Good) {
        less(&|one| one.profiles[i] = Profile::Good);
    }
    for i in (0..script.behaviours.len()).filter(|i| script.behaviours[*i] != Behaviour::steady(GOOD)) {
        less(&|one| one.behaviours[i] = Behaviour::steady(GOOD));
    }
    for i in (0..script.apps.len()).filter(|i| has_odd_routes(&script.apps[*i]) || has_odd_instances(&script.apps[*i]))
    {
        less(&|one| made_even(Arc::make_mut(&mut one.apps[i])));
    }
}

/// Of what happens to it.
fn less_met(script: &Script, less: Less<'_>) {
    for i in 0..script.crashes.len() {
        less(&|one| {
            one.crashes.remove(i);
        });
    }
    if script.aim.is_some() {
        less(&|one| one.aim = None);
    }
    for i in 1..script.load.levels.len() {
        less(&|one| {
            one.load.levels.remove(i);
        });
    }
    if !script.load.gaps.is_empty() {
        less(&|one| one.load.gaps.clear());
    }
    for i in 0..script.unseen.len() {
        less(&|one| {
            one.unseen.remove(i);
        });
    }
    for i in 0..script.lulls.len() {
        less(&|one| {
            one.lulls.remove(i);
        });
    }
    if script.fates.is_some() {
        less(&|one| one.fates = None);
    }
    if !script.load.rooms.is_empty() {
        less(&|one| one.load.rooms.clear());
    }
    if !script.calm {
        less(&|one| one.calm = true);
    }
}
