//! In which ways requests come: HTTP/1.1 and before, HTTP/2, WebSocket, gRPC; files, and what is compressed.

use bowline_tests::grpc::Called;

use super::Case;
use super::failures::{PING, PONG};
use super::scene::{HOST, MOMENT, Scene, TOKEN, Told};

/// Where gRPC is served.
const CALLS: &str = "[service.calls]\ndir = \"grpc\"\nrun = \"python server.py\"\nprotocol = \"h2c\"\n\
    health = { grpc = \"test.Echo\", interval = \"300ms\" }\n\
    [route.calls]\nto = \"calls\"\n[environment.local.route.calls]\nhosts = [\"calls.conformance.localhost\"]\n\
    [route.guarded-calls]\nto = \"calls\"\nauth = { bearer = { secret = \"token\" } }\n\
    [environment.local.route.guarded-calls]\nhosts = [\"guarded-calls.conformance.localhost\"]\n";

pub(super) static CASES: &[Case] = &[
    Case {
        id: "http1/kept",
        key: "route.main.to",
        about: "a connection carries one request after the other, and several that were sent at once",
        must: "web 200, web 200 · at once web 200, web 200, in order",
        ask: |scene| {
            let mut wire = scene.get("/").open()?;
            let mut ask = |path: &str| {
                let (bytes, probe) = scene.get(path).bytes();
                wire.send(&bytes)?;
                anyhow::Ok(Told::of(scene, &probe, wire.answer()?))
            };
            let (first, second) = (ask("/1")?, ask("/2")?);
            let ((one, probe), (other, next)) = (scene.get("/3").bytes(), scene.get("/4").bytes());
            wire.send(&[one, other].concat())?;
            let third = Told::of(scene, &probe, wire.answer()?);
            let fourth = Told::of(scene, &next, wire.answer()?);
            let in_order = [(&third, "web GET /3"), (&fourth, "web GET /4")]
                .iter()
                .all(|(told, text)| told.answer.text() == *text);
            let order = if in_order { "in order" } else { "mixed up" };
            Ok(format!("{first}, {second} · at once {third}, {fourth}, {order}"))
        },
        ..Case::HERE
    },
    Case {
        id: "http1/closing",
        key: "route.main.to",
        about: "who asks for the end of the connection gets it behind the answer",
        must: "web 200, then closed",
        ask: |scene| {
            let mut begun = scene.get("/").field("Connection", "close").begin()?;
            let told = Told::of(scene, &begun.probe, begun.wire.answer()?);
            Ok(format!("{told}, {}", if begun.wire.ends(MOMENT)? { "then closed" } else { "still open" }))
        },
        ..Case::HERE
    },
    Case {
        id: "http1/1.0",
        key: "route.main.to",
        about: "a client of HTTP/1.0 gets no chunks",
        must: "web 200, onetwo, then closed",
        ask: |scene| {
            let ask = scene.get("/").script("chunked");
            let (mut wire, (bytes, probe)) = (ask.open()?, ask.bytes());
            wire.send(String::from_utf8(bytes)?.replace("HTTP/1.1", "HTTP/1.0").as_bytes())?;
            let told = Told::of(scene, &probe, wire.answer()?);
            let text = match told.answer.field("transfer-encoding") {
                Some(_) => "in chunks".to_owned(),
                None => told.answer.text(),
            };
            Ok(format!("{told}, {text}, {}", if wire.ends(MOMENT)? { "then closed" } else { "still open" }))
        },
        ..Case::HERE
    },
    Case {
        id: "http1/chunks",
        key: "route.main.to",
        about: "bodies whose length is not known go both ways",
        must: "up web 200, 9000 bytes · down web 200, onetwo",
        ask: |scene| {
            let up = scene.ask("POST", "/").chunked(&[b'x'; 9000]).tell()?;
            let down = scene.get("/").script("chunked").tell()?;
            Ok(format!("up {up}, {} bytes · down {down}, {}", up.asked()?.body.len(), down.answer.text()))
        },
        ..Case::HERE
    },
    Case {
        id: "http1/continue",
        key: "route.small-continue.limit.body",
        file: "[route.small-continue]\npath = \"/continue\"\nto = \"web\"\nlimit = { body = \"1KiB\" }\n",
        about: "who waits to be told to go on is told, unless it is refused",
        must: "100, then web 200 · too large 413, not told to",
        ask: |scene| {
            let told = |size: usize| {
                let ask = scene.ask("POST", "/continue").field("Expect", "100-continue").sized(&vec![b'x'; size]);
                let (mut wire, (bytes, probe)) = (ask.open()?, ask.bytes());
                let (head, body) = bytes.split_at(bytes.len() - size);
                wire.send(head)?;
                if size > 1024 {
                    return anyhow::Ok(Told::of(scene, &probe, wire.answer()?));
                }
                let interim = wire.receive(b"HTTP/1.1 100 Continue\r\n\r\n".len())?;
                wire.send(body)?;
                let mut told = Told::of(scene, &probe, wire.answer()?);
                told.answer.interim.extend(interim.starts_with(b"HTTP/1.1 100 ").then_some(100));
                Ok(told)
            };
            let (small, large) = (told(100)?, told(2000)?);
            let first = |told: &Told| if told.answer.interim == [100] { "100, then" } else { "at once" };
            let not = if large.answer.interim.is_empty() { "not told to" } else { "told to" };
            Ok(format!("{} {small} · too large {large}, {not}", first(&small)))
        },
        ..Case::HERE
    },
    Case {
        id: "http1/strict",
        key: "route.main.to",
        about: "what is not exactly one well-formed request reaches nobody",
        must: "two lengths 400 · two hosts 400 · none 400 · length and chunks 400 · a head of 100 KiB 431",
        ask: |scene| {
            let raw = |head: &str| {
                let (mut wire, probe) = (scene.get("/").open()?, format!("strict-{}", head.len()));
                wire.send(format!("GET / HTTP/1.1\r\nx-probe: {probe}\r\n{head}\r\n").as_bytes())?;
                anyhow::Ok(Told::of(scene, &probe, wire.answer()?))
            };
            let host = format!("Host: {HOST}\r\n");
            let lengths = raw(&format!("{host}Content-Length: 1\r\nContent-Length: 2\r\n"))?;
            let (hosts, none) = (raw(&format!("{host}Host: other.localhost\r\n"))?, raw("")?);
            let both = raw(&format!("{host}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"))?;
            let large = scene.get("/").field("X-Large", &"x".repeat(100 << 10)).tell()?;
            Ok(format!(
                "two lengths {lengths} · two hosts {hosts} · none {none} · length and chunks {both} · a head of 100 KiB {large}"
            ))
        },
        ..Case::HERE
    },
    Case {
        id: "http2/requests",
        key: "route.main.to",
        about: "the same over HTTP/2, bodies of both sides whole",
        must: "GET web 200 · HEAD web 200 · POST web 200, 300000 bytes · chunks of the app web 200, onetwo",
        ask: |scene| {
            let (get, head) = (scene.get("/").tell_h2()?, scene.ask("HEAD", "/").tell_h2()?);
            let post = scene.ask("POST", "/").sized(&vec![b'x'; 300_000]).tell_h2()?;
            let down = scene.get("/").script("chunked").tell_h2()?;
            let length = post.asked()?.body.len();
            Ok(format!(
                "GET {get} · HEAD {head} · POST {post}, {length} bytes · chunks of the app {down}, {}",
                down.answer.text()
            ))
        },
        ..Case::HERE
    },
    Case {
        id: "websocket/echo",
        key: "route.main.to",
        about: "a tunnel that the app has accepted, in clear and over TLS",
        must: "101, echoed · in clear 101, echoed",
        ask: |scene| {
            let echoed = |clear: bool| {
                let ask = scene.get("/");
                let mut wire = if clear { ask.clear() } else { ask }.open()?;
                let answer = wire.ask_for_websocket(HOST, "/socket", "")?;
                wire.send(PING)?;
                let echoed = wire.receive(PONG.len())? == PONG;
                anyhow::Ok(format!("{}, {}", answer.status, if echoed { "echoed" } else { "garbled" }))
            };
            Ok(format!("{} · in clear {}", echoed(false)?, echoed(true)?))
        },
        ..Case::HERE
    },
    Case {
        id: "websocket/refused",
        key: "route.main.to",
        about: "an app that does not accept answers as ever, and no tunnel is opened",
        must: "403, not you · the next web 200",
        ask: |scene| {
            let mut wire = scene.get("/").open()?;
            let answer = wire.ask_for_websocket(HOST, "/socket", "x-script: refuse\r\n")?;
            let (bytes, probe) = scene.get("/").bytes();
            let next = match wire.send(&bytes).and_then(|()| wire.answer()) {
                Ok(next) => format!("the next {}", Told::of(scene, &probe, next)),
                Err(_) => "then closed".to_owned(),
            };
            Ok(format!("{}, {} · {next}", answer.status, answer.text()))
        },
        ..Case::HERE
    },
    Case {
        id: "grpc/calls",
        key: "service.calls.protocol",
        file: CALLS,
        about: "calls of every kind, with what stands behind their end",
        must: "Say hello 0, for 127.0.0.1 · Count n 0 n 1 n 2 0 · Chat HELLO 0 · Fail 9, not today: 100%25 · nothing of the kind 12 · \
               too late 4",
        ask: |scene| {
            let ask =
                |method: &str, message: &str, fields: &[(&str, &str)]| grpc(scene, "calls", method, message, fields);
            let (say, count, chat) = (ask("Say", "hello", &[])?, ask("Count", "n", &[])?, ask("Chat", "hello", &[])?);
            let told = |called: &Called| {
                [called.messages().as_slice(), &[called.header("grpc-status").unwrap_or("none").to_owned()]]
                    .concat()
                    .join(" ")
            };
            let fail = ask("Fail", "", &[])?;
            let (none, late) = (ask("Nothing", "", &[])?, ask("Hang", "", &[("grpc-timeout", "500m")])?);
            Ok(format!(
                "Say {}, for {} · Count {} · Chat {} · Fail {}, {} · nothing of the kind {} · too late {}",
                told(&say),
                say.header("x-for").unwrap_or("nobody"),
                told(&count),
                told(&chat),
                told(&fail),
                fail.header("grpc-message").unwrap_or_default(),
                told(&none),
                told(&late),
            ))
        },
        ..Case::HERE
    },
    Case {
        id: "grpc/refused",
        key: "route.guarded-calls.auth",
        file: CALLS,
        about: "what the edge refuses is said as gRPC says it",
        must: "without a token 16 · with it 0",
        ask: |scene| {
            let right = format!("Bearer {TOKEN}");
            let told = |fields: &[(&str, &str)]| {
                let called = grpc(scene, "guarded-calls", "Say", "hello", fields)?;
                anyhow::Ok(called.header("grpc-status").unwrap_or("none").to_owned())
            };
            Ok(format!("without a token {} · with it {}", told(&[])?, told(&[("authorization", &right)])?))
        },
        ..Case::HERE
    },
    Case {
        id: "files/served",
        key: "service.pages.static",
        file: "[service.pages]\nstatic = { dir = \"public\", cache = \"1h\" }\n\
               [route.pages]\npath = \"/pages\"\nstrip = true\nto = \"pages\"\n",
        about: "files without a process, as clients of a cache ask for them",
        must: "200 text/css, public, max-age=3600 · known 304 · a part 206 · HEAD 200 · the page of a folder 200, no-cache · none 404 · POST 405",
        ask: |scene| {
            let style = || scene.get("/pages/assets/style.css");
            let told = style().tell()?;
            let says = |told: &Told, name: &str| told.answer.field(name).unwrap_or("nothing").to_owned();
            let kind = says(&told, "content-type").split(';').next().unwrap_or_default().to_owned();
            let known = style().field("If-None-Match", &says(&told, "etag")).tell()?;
            let part = style().field("Range", "bytes=0-3").tell()?;
            let head = scene.ask("HEAD", "/pages/assets/style.css").tell()?;
            let (page, none) = (scene.get("/pages/").tell()?, scene.get("/pages/nothing").tell()?);
            let post = scene.ask("POST", "/pages/assets/style.css").sized(b"x").tell()?;
            Ok(format!(
                "{told} {kind}, {} · known {known} · a part {part} · HEAD {head} · the page of a folder {page}, {} · none {none} · POST {post}",
                says(&told, "cache-control"),
                says(&page, "cache-control"),
            ))
        },
        ..Case::HERE
    },
    Case {
        id: "compression/text",
        key: "route.packed.compress",
        file: "[route.packed]\npath = \"/packed\"\nto = \"web\"\ncompress = true\n",
        about: "text is compressed for whoever takes it, and nothing else",
        must: "Content-Encoding gzip, Vary Accept-Encoding, ETag W/\"one\", shorter · not asked no Content-Encoding, Vary Accept-Encoding · \
               short no Content-Encoding · packed already Content-Encoding br · over HTTP/2 Content-Encoding gzip",
        ask: |scene| {
            let ask = |script: &str| scene.get("/packed").script(script).field("Accept-Encoding", "gzip, br");
            let says =
                |told: &Told, names: &[&str]| names.iter().map(|name| told.says(name)).collect::<Vec<_>>().join(", ");
            let encoded = |told: &Told| says(told, &["Content-Encoding"]);
            let text = ask("text").tell()?;
            let plain = scene.get("/packed").script("text").tell()?;
            let (short, packed, h2) = (ask("").tell()?, ask("packed").tell()?, ask("text").tell_h2()?);
            let shorter = if text.answer.body.len() * 2 < plain.answer.body.len() { "shorter" } else { "as long" };
            Ok(format!(
                "{}, {shorter} · not asked {} · short {} · packed already {} · over HTTP/2 {}",
                says(&text, &["Content-Encoding", "Vary", "ETag"]),
                says(&plain, &["Content-Encoding", "Vary"]),
                encoded(&short),
                encoded(&packed),
                encoded(&h2),
            ))
        },
        ..Case::HERE
    },
];

/// One message to `test.Echo/METHOD`.
fn grpc(scene: &Scene, host: &str, method: &str, message: &str, fields: &[(&str, &str)]) -> anyhow::Result<Called> {
    let length = u32::try_from(message.len())?.to_be_bytes();
    let ask = scene.ask("POST", &format!("/test.Echo/{method}")).on(&format!("{host}.{HOST}"));
    let ask = ask.field("content-type", "application/grpc").field("te", "trailers");
    let ask = fields.iter().fold(ask, |ask, (name, value)| ask.field(name, value));
    let answer = ask.sized(&[&[0][..], &length, message.as_bytes()].concat()).tell_h2()?.answer;
    let said = answer.fields.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    Ok(Called { message: answer.body, said })
}
