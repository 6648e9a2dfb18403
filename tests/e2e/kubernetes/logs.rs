//! `logs --follow` of a cluster: what pods write from now on, also those that come later.

use bowline_tests::kubelet::Fate;
use bowline_tests::{SOON, wait};

use super::{Goes, Who, cluster, deploy, example, words};

/// The names of the app's pods that are there.
fn pods(namespace: &str) -> Vec<String> {
    let found = cluster().admin.get(&format!("/api/v1/namespaces/{namespace}/pods")).done();
    let items = found["items"].as_array().expect("a list").iter();
    let there = items.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    there.filter_map(|pod| pod["metadata"]["name"].as_str()).map(str::to_owned).collect()
}

#[test]
fn what_pods_write_is_followed_and_so_are_those_that_come_later() {
    cluster().namespace("followed", "restricted");
    let kubelet = &cluster().kubelet;
    kubelet.let_pods("followed", "hello-web", Fate::Well, "it listens");
    let who = Who::admin("followed");
    let folder = example(&who.bowline, "hello");
    who.does(&words(&deploy(&folder, "hello", "1")));
    let first = pods("followed");
    assert_eq!(first.len(), 2, "{first:?}");

    let mut logs = Goes::start(who.command(&["logs", "hello", "--env", "production", "--follow"]));
    // What there was comes first, of each of them.
    logs.says("it listens");
    logs.says("it listens");
    kubelet.say("followed", &first[0], "web", "one says this");
    logs.says("one says this");
    kubelet.say("followed", &first[1], "web", "the other says that");
    logs.says("the other says that");
    who.does(&["scale", "hello.web", "3", "--env", "production"]);
    let new = wait("there is a third", SOON, || pods("followed").into_iter().find(|pod| !first.contains(pod)));
    logs.says("it listens");
    kubelet.say("followed", &new, "web", "so does the third");
    logs.says("so does the third");
    logs.interrupt();
    let said = logs.ends(130);
    // Nothing is said twice.
    for line in ["one says this", "the other says that", "so does the third"] {
        assert_eq!(said.matches(line).count(), 1, "{said}");
    }
}
