//! Which request goes where: hosts, paths, and what leads elsewhere or nowhere.

use anyhow::Context;

use super::Case;
use super::scene::{Ask, HOST, Scene, Told};

pub(super) static CASES: &[Case] = &[
    Case {
        id: "routing/prefix",
        key: "route.prefix.path",
        file: "[route.prefix]\npath = \"/prefix\"\nto = \"other\"\n",
        about: "a prefix is one of whole segments, as it is written",
        must: "/prefix other 200 · /prefix/x other 200 · /prefixed web 200 · /Prefix web 200",
        ask: |scene| each(scene, &["/prefix", "/prefix/x", "/prefixed", "/Prefix"]),
        ..Case::HERE
    },
    Case {
        id: "routing/longest",
        key: "route.longer.path",
        file: "[route.long]\npath = \"/long\"\nto = \"other\"\n[route.longer]\npath = \"/long/er\"\nto = \"web\"\n",
        about: "the longest prefix counts, in whatever order they stand",
        must: "/long other 200 · /long/er/x web 200 · /long/error other 200",
        ask: |scene| each(scene, &["/long", "/long/er/x", "/long/error"]),
        ..Case::HERE
    },
    Case {
        id: "routing/host",
        key: "route.exact.hosts",
        file: "[route.exact]\nto = \"other\"\n[environment.local.route.exact]\nhosts = [\"exact.conformance.localhost\"]\n",
        about: "a host of its own, however it is written",
        must: "its name other 200 · in capitals and with a port other 200 · over HTTP/2 other 200 · nobody's 404",
        ask: |scene| {
            let name = "exact.conformance.localhost";
            let its = scene.get("/").on(name).tell()?;
            let capitals = scene.get("/").clear().on("EXACT.Conformance.LocalHost:8080").tell()?;
            let h2 = scene.get("/").on(name).tell_h2()?;
            let nobody = scene.get("/").clear().on("nobody.localhost").tell()?;
            Ok(format!(
                "its name {its} · in capitals and with a port {capitals} · over HTTP/2 {h2} · nobody's {nobody}"
            ))
        },
        ..Case::HERE
    },
    Case {
        id: "routing/wildcard",
        key: "route.wild.hosts",
        file: "[route.wild]\nto = \"other\"\n[environment.local.route.wild]\nhosts = [\"*.wild.conformance.localhost\"]\n\
               [route.own]\nto = \"web\"\n[environment.local.route.own]\nhosts = [\"own.wild.conformance.localhost\"]\n",
        about: "a wildcard is one label, and an exact name goes before it",
        must: "a.wild other 200 · own.wild web 200 · a.b.wild 404 · wild 404",
        ask: |scene| {
            let on = |name: &str| scene.get("/").on(&format!("{name}.conformance.localhost"));
            let (one, own) = (on("a.wild").tell()?, on("own.wild").tell()?);
            let (deeper, bare) = (on("a.b.wild").clear().tell()?, on("wild").clear().tell()?);
            Ok(format!("a.wild {one} · own.wild {own} · a.b.wild {deeper} · wild {bare}"))
        },
        ..Case::HERE
    },
    Case {
        id: "routing/nowhere",
        key: "route.part.path",
        file: "[route.part]\npath = \"/part\"\nto = \"web\"\n\
               [environment.local.route.part]\nhosts = [\"part.conformance.localhost\"]\n",
        about: "a host has no more than its routes",
        must: "/part web 200 · /else 404",
        ask: |scene| {
            let [part, other] = ["/part", "/else"].map(|path| scene.get(path).on("part.conformance.localhost").tell());
            Ok(format!("/part {} · /else {}", part?, other?))
        },
        ..Case::HERE
    },
    Case {
        id: "routing/strip",
        key: "route.strip.strip",
        file: "[route.strip]\npath = \"/strip\"\nstrip = true\nto = \"web\"\n",
        about: "the prefix is taken away before the app is asked",
        must: "/strip/x?y=z is GET /x?y=z · /strip is GET / · /strip?y is GET /?y",
        ask: |scene| {
            let asked = |path: &str| Ok(format!("{path} is {}", scene.get(path).tell()?.asked()?.asks()));
            let all: anyhow::Result<Vec<String>> =
                ["/strip/x?y=z", "/strip", "/strip?y"].into_iter().map(asked).collect();
            Ok(all?.join(" · "))
        },
        ..Case::HERE
    },
    Case {
        id: "routing/target",
        key: "route.main.to",
        about: "path and query reach the app as they were sent",
        must: "GET /a%20b/c;d=1/%C3%BC?e=f%2Fg&h",
        ask: |scene| Ok(scene.get("/a%20b/c;d=1/%C3%BC?e=f%2Fg&h").tell()?.asked()?.asks().to_owned()),
        ..Case::HERE
    },
    Case {
        id: "routing/methods",
        key: "route.main.to",
        about: "methods are the app's, but those that are for proxies",
        must: "DELETE web 200 · PATCH web 200 · OPTIONS web 200 · HEAD web 200 · TRACE 405",
        ask: |scene| {
            let told = |method: &str| Ok(format!("{method} {}", scene.ask(method, "/methods").tell()?));
            let methods = ["DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"];
            let all: anyhow::Result<Vec<String>> = methods.into_iter().map(told).collect();
            Ok(all?.join(" · "))
        },
        ..Case::HERE
    },
    Case {
        id: "routing/redirect",
        key: "route.old.redirect",
        file: "[route.old]\npath = \"/old\"\nredirect = \"https://example.com/new\"\n",
        about: "elsewhere, with path and query appended",
        must: "308 to https://example.com/new/old/a?b=c · over HTTP/2 308 to https://example.com/new/old/a?b=c",
        ask: |scene| {
            let (h1, h2) = (scene.get("/old/a?b=c").tell()?, scene.get("/old/a?b=c").tell_h2()?);
            let to = |told: &Told| told.answer.field("location").unwrap_or("nowhere").to_owned();
            Ok(format!("{h1} to {} · over HTTP/2 {h2} to {}", to(&h1), to(&h2)))
        },
        ..Case::HERE
    },
    Case {
        id: "routing/deny",
        key: "route.denied.deny",
        file: "[route.denied]\npath = \"/denied\"\ndeny = true\n\
               [route.denied-below]\npath = \"/sealed/room\"\ndeny = true\n\
               [route.denied-parameter]\npath = \"/shut;v=1\"\ndeny = true\n",
        about: "nobody, by no spelling that an app may take for the path",
        must: "/denied 403 · /denied/x 403 · /DENIED 403 · /denied;x 403 · /deniedly web 200 · of 24 other spellings none web",
        ask: |scene| {
            let plain = each(scene, &["/denied", "/denied/x", "/DENIED", "/denied;x", "/deniedly"])?;
            let below = ["/sealed;a/room", "/Sealed;a=b/;c/ROOM;d/x", "/sealed/.;a/room/y"];
            let parameters = ["/shut;v=1", "/SHUT;v=1/x", "/shut;v=2"];
            let paths = [spellings("denied"), below.map(str::to_owned).into(), parameters.map(str::to_owned).into()];
            let paths = paths.concat();
            Ok(format!("{plain} · of {} other spellings {}", paths.len(), passing(&paths, |path| scene.get(path))?))
        },
        ..Case::HERE
    },
    Case {
        id: "routing/guarded",
        key: "route.kept.auth",
        file: "[route.kept]\npath = \"/kept\"\nto = \"web\"\nauth = { bearer = { secret = \"token\" } }\n\
               [route.few]\npath = \"/few\"\nto = \"web\"\nallow = [\"192.0.2.0/24\"]\n\
               [route.pictures]\npath = \"/pictures\"\nto = \"web\"\nupload = { extensions = [\"png\"] }\n",
        about: "no spelling of a path leads past what guards it",
        must: "auth none web · allow none web · upload none web",
        ask: |scene| {
            let auth = passing(&spellings("kept"), |path| scene.get(path))?;
            let allow = passing(&spellings("few"), |path| scene.get(path))?;
            // A file without an extension.
            let upload = passing(&spellings("pictures"), |path| scene.ask("PUT", path).sized(b"#!/bin/sh"))?;
            Ok(format!("auth {auth} · allow {allow} · upload {upload}"))
        },
        ..Case::HERE
    },
    Case {
        id: "routing/http",
        key: "route.secure.http",
        file: "[route.secure]\npath = \"/secure\"\nto = \"web\"\nhttp = \"redirect\"\n",
        about: "what comes in clear is sent to the same over HTTPS",
        must: "in clear 308 to https://conformance.localhost/secure/a?b=c · with a port 308 to that of HTTPS · over TLS web 200",
        ask: |scene| {
            let clear = scene.get("/secure/a?b=c").clear().tell()?;
            let port = scene.get("/secure").clear().on(&format!("{HOST}:{}", scene.http.port())).tell()?;
            let to = |told: &Told| told.answer.field("location").context("no location").map(str::to_owned);
            let expected = format!("https://{HOST}:{}/secure", scene.https.port());
            let led = if to(&port)? == expected { "that of HTTPS".to_owned() } else { to(&port)? };
            let over = scene.get("/secure").tell()?;
            Ok(format!("in clear {clear} to {} · with a port {port} to {led} · over TLS {over}", to(&clear)?))
        },
        ..Case::HERE
    },
];

/// Ways to write `/NAME` for apps that drop parameters, resolve dots, merge slashes or decode, before or after one another.
fn spellings(name: &str) -> Vec<String> {
    const WAYS: [&str; 16] = [
        "//*",
        "/*;v=1",
        "/*%3bv=1",
        "/;/*",
        "/%3b/*",
        "/%3Ba/;b/*",
        "/./;/*",
        "/.;/*",
        "/..;/*",
        "/x;y/../*",
        "/x/..;/*",
        "/x/%2e%2e;/*",
        "/x/.%2E%3b/*",
        "/;%2e/*",
        "/a/%c0%ae%c0%ae/*",
        "/a/..%c0%af*",
    ];
    let (first, rest) = name.split_at(1);
    let encoded = ["%", "%25"].map(|percent| format!("/{percent}{:02x}{rest}", first.as_bytes()[0]));
    WAYS.map(|way| way.replace('*', name)).into_iter().chain(encoded).collect()
}

/// Which of these come to the app, over HTTP/1.1 or HTTP/2: some are refused by what guards the path, and some are no path at all.
fn passing<'s>(paths: &[String], ask: impl Fn(&str) -> Ask<'s>) -> anyhow::Result<String> {
    let mut passing = Vec::new();
    for path in paths {
        let told = [ask(path).tell()?, ask(path).tell_h2()?];
        passing.extend(told.iter().filter(|told| told.answer.status < 400).map(|told| format!("{path} {told}")));
    }
    Ok(if passing.is_empty() { "none web".to_owned() } else { passing.join(", ") })
}

/// GET of each.
fn each(scene: &Scene, paths: &[&str]) -> anyhow::Result<String> {
    let told = |path: &&str| Ok(format!("{path} {}", scene.get(path).tell()?));
    Ok(paths.iter().map(told).collect::<anyhow::Result<Vec<String>>>()?.join(" · "))
}
