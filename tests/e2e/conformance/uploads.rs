//! Which files come in: by their names, by what is in them, and by their size.

use super::Case;
use super::scene::Ask;

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";

/// What begins like this is a program.
const PROGRAM: &[u8] = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0";

pub(super) static CASES: &[Case] = &[
    Case {
        id: "uploads/let in",
        key: "route.files-in.upload",
        file: "[route.files-in]\npath = \"/in\"\nto = \"web\"\nupload = { extensions = [\"png\", \"txt\"] }\n",
        about: "files that are what they say, however they come, reach the app as they are",
        must: "png web 200 · txt web 200 · two files web 200 · no file web 200 · PUT web 200 · in chunks web 200 · JSON web 200 · \
               over HTTP/2 web 200 · the app has every byte",
        ask: |scene| {
            let at = |parts: &[Vec<u8>]| form(scene.ask("POST", "/in"), parts);
            let (png, txt) = (file("a.png", PNG), file("notes.txt", "Grüße\n".as_bytes()));
            let large = file("large.png", &[PNG, &[7; 300_000]].concat());
            let told = [
                ("png", at(std::slice::from_ref(&png)).tell()?),
                ("txt", at(std::slice::from_ref(&txt)).tell()?),
                ("two files", at(&[png, txt]).tell()?),
                ("no file", at(&[part("form-data; name=\"title\"", b"hello")]).tell()?),
                ("PUT", scene.ask("PUT", "/in/a.png").sized(PNG).tell()?),
                ("in chunks", scene.ask("PUT", "/in/a.txt").chunked(&b"text ".repeat(9000)).tell()?),
                (
                    "JSON",
                    scene.ask("POST", "/in").field("Content-Type", "application/json").sized(b"{\"a\":1}").tell()?,
                ),
                ("over HTTP/2", at(std::slice::from_ref(&large)).tell_h2()?),
            ];
            let sent = body(&[large]);
            let whole = told[7].1.asked()?.body == sent && told[4].1.asked()?.body == PNG;
            let all: Vec<String> = told.iter().map(|(what, told)| format!("{what} {told}")).collect();
            Ok(format!("{} · {}", all.join(" · "), if whole { "the app has every byte" } else { "bytes are missing" }))
        },
        ..Case::HERE
    },
    Case {
        id: "uploads/refused",
        key: "route.files-not.upload",
        file: "[route.files-not]\npath = \"/not\"\nto = \"web\"\nupload = { extensions = [\"png\", \"txt\"] }\n",
        about: "other extensions, and files that are something else than they say; the app has nothing of them",
        must: "a.php 415 · a.php.png 415 · a.png of a program 415 · a.png of text 415 · a.txt of a program 415 · two names 415 · \
               filename* 415 · PUT a.exe 415 · packed 415 · a WebSocket 415 · over HTTP/2 415 · the app was never asked",
        ask: |scene| {
            let at = |parts: &[Vec<u8>]| form(scene.ask("POST", "/not"), parts);
            let one = |name: &str, content: &[u8]| at(&[file(name, content)]);
            let named = |name: &str| at(&[part(&format!("form-data; name=\"f\"; {name}"), PNG)]);
            let socket = scene.get("/not").field("Connection", "Upgrade").field("Upgrade", "websocket");
            let socket =
                socket.field("Sec-WebSocket-Version", "13").field("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
            let told = [
                ("a.php", one("a.php", PNG).tell()?),
                ("a.php.png", one("a.php.png", PNG).tell()?),
                ("a.png of a program", one("a.png", PROGRAM).tell()?),
                ("a.png of text", one("a.png", b"I am a picture").tell()?),
                ("a.txt of a program", one("a.txt", PROGRAM).tell()?),
                ("two names", named("filename=\"a.png\"; filename=\"a.php\"").tell()?),
                ("filename*", named("filename*=UTF-8''a.php").tell()?),
                ("PUT a.exe", scene.ask("PUT", "/not/a.exe").sized(PNG).tell()?),
                ("packed", one("a.png", PNG).field("Content-Encoding", "gzip").tell()?),
                ("a WebSocket", socket.tell()?),
                ("over HTTP/2", one("a.png", PROGRAM).tell_h2()?),
            ];
            let asked = told.iter().filter(|(_, told)| !told.requests.is_empty()).count();
            let all: Vec<String> = told.iter().map(|(what, told)| format!("{what} {told}")).collect();
            let asked = if asked == 0 { "never asked".to_owned() } else { format!("asked {asked} times") };
            Ok(format!("{} · the app was {asked}", all.join(" · ")))
        },
        ..Case::HERE
    },
    Case {
        id: "uploads/late",
        key: "route.files-late.upload",
        file: "[route.files-late]\npath = \"/late\"\nto = \"web\"\nupload = { extensions = [\"png\", \"txt\"] }\n",
        about: "what shows its fault late is broken off: the app has it never whole",
        must: "a program behind a picture 415 · text that ends in none 415 · in chunks 415 · over HTTP/2 415",
        ask: |scene| {
            let mixed = [PNG, &[0; 300_000], b"<?php x();"].concat();
            let ends = [&b"text ".repeat(60_000)[..], b"\xff"].concat();
            let at = |content: &[u8]| form(scene.ask("POST", "/late"), &[file("a.png", content)]);
            let (first, h2) = (at(&mixed).tell()?, at(&mixed).tell_h2()?);
            let text = scene.ask("PUT", "/late/a.txt").sized(&ends).tell()?;
            let chunked = scene.ask("PUT", "/late/a.txt").chunked(&ends).tell()?;
            Ok(format!(
                "a program behind a picture {first} · text that ends in none {text} · in chunks {chunked} · over HTTP/2 {h2}"
            ))
        },
        ..Case::HERE
    },
    Case {
        id: "uploads/size",
        key: "route.files-size.upload",
        file: "[route.files-size]\npath = \"/size\"\nto = \"web\"\nupload = { extensions = [\"png\"] }\nlimit = { body = \"64KiB\" }\n",
        about: "a limit of size holds beside the filter, announced or not",
        must: "below web 200 · above 413 · in chunks 413 · over HTTP/2 413",
        ask: |scene| {
            let put = |size: usize| (scene.ask("PUT", "/size/a.png"), [PNG, &vec![7; size]].concat());
            let (below, above) = (sized(put(60_000)).tell()?, sized(put(70_000)).tell()?);
            let (ask, bytes) = put(70_000);
            let (chunked, h2) = (ask.chunked(&bytes).tell()?, sized(put(70_000)).tell_h2()?);
            Ok(format!("below {below} · above {above} · in chunks {chunked} · over HTTP/2 {h2}"))
        },
        ..Case::HERE
    },
];

fn sized<'s>((ask, bytes): (Ask<'s>, Vec<u8>)) -> Ask<'s> {
    ask.sized(&bytes)
}

/// One part of a form.
fn part(disposition: &str, content: &[u8]) -> Vec<u8> {
    let head = format!("--border\r\nContent-Disposition: {disposition}\r\n\r\n");
    [head.as_bytes(), content, b"\r\n"].concat()
}

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    part(&format!("form-data; name=\"f\"; filename=\"{name}\""), content)
}

fn body(parts: &[Vec<u8>]) -> Vec<u8> {
    [&parts.concat()[..], b"--border--\r\n"].concat()
}

fn form<'s>(ask: Ask<'s>, parts: &[Vec<u8>]) -> Ask<'s> {
    ask.field("Content-Type", "multipart/form-data; boundary=border").sized(&body(parts))
}
