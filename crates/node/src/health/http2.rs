//! Questions to an instance that speaks HTTP/2 without TLS: a GET, and the health service of gRPC
//! (`grpc.health.v1`, <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>).

use std::future::{Future, poll_fn};

use bowline_core::id::Port;
use bytes::{Buf, Bytes};
use h2::RecvStream;
use h2::client::{Builder, ResponseFuture, SendRequest};
use http::{HeaderMap, Method, Request};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{MAX_HEAD, REST_LIMIT, USER_AGENT};

/// Where gRPC asks for health.
const CHECK: &str = "/grpc.health.v1.Health/Check";

/// Of the answer to that: a number in a frame.
const MAX_MESSAGE: usize = 1 << 10;

/// A frame of gRPC: whether it is compressed, and the length of what follows.
const FRAME: usize = 5;

/// `HealthCheckResponse.ServingStatus` as its protocol names it.
const SERVING: [&str; 4] = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];

/// The codes of gRPC that a server without a health service, or without this service in it, ends with.
const NOT_FOUND: &str = "5";
const UNIMPLEMENTED: &str = "12";

/// The status of an answer to `GET path`. `None`: it was refused by the protocol's own means, which only a server of HTTP/2 does.
pub(super) async fn get(stream: TcpStream, path: &str, port: Port) -> Result<Option<u16>, String> {
    let request = request(Method::GET, path, port)?;
    over(stream, async |mut send| {
        let (answer, _) = send.send_request(request, true).map_err(|error| reason(&error))?;
        match answer.await {
            Ok(answer) => Ok(Some(answer.status().as_u16())),
            Err(error) if error.is_reset() && error.is_remote() => Ok(None),
            Err(error) => Err(reason(&error)),
        }
    })
    .await
}

/// Whether `service` says that it serves.
pub(super) async fn check(stream: TcpStream, service: &str, port: Port) -> Result<(), String> {
    let mut request = request(Method::POST, CHECK, port)?;
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")] {
        request.headers_mut().insert(name, http::HeaderValue::from_static(value));
    }
    over(stream, async |mut send| {
        let (answer, mut body) = send.send_request(request, false).map_err(|error| reason(&error))?;
        body.send_data(asked(service), true).map_err(|error| reason(&error))?;
        judge(answer, service).await
    })
    .await
}

fn request(method: Method, path: &str, port: Port) -> Result<Request<()>, String> {
    let uri = format!("http://127.0.0.1:{port}{path}");
    let request = Request::builder().method(method).uri(uri).header("user-agent", USER_AGENT).body(());
    request.map_err(|error| error.to_string())
}

/// Asks on a connection of its own, which ends in order behind the answer.
async fn over<T, F>(stream: TcpStream, ask: impl FnOnce(SendRequest<Bytes>) -> F) -> Result<T, String>
where
    F: Future<Output = Result<T, String>>,
{
    let mut builder = Builder::new();
    builder.enable_push(false).max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX));
    let (send, connection) = builder.handshake(stream).await.map_err(|error| reason(&error))?;
    let mut connection = Box::pin(connection);
    let mut ended = false;
    let outcome = {
        let mut asking = std::pin::pin!(ask(send));
        poll_fn(|cx| {
            // What ends the connection ends the question, too, with what is wrong.
            ended = ended || connection.as_mut().poll(cx).is_ready();
            asking.as_mut().poll(cx)
        })
        .await
    };
    if !ended {
        // The verdict does not wait for it.
        tokio::spawn(timeout(REST_LIMIT, connection));
    }
    outcome
}

fn reason(error: &h2::Error) -> String {
    if error.is_io() {
        return "closed without an answer in HTTP/2".to_owned();
    }
    match error.reason() {
        Some(h2::Reason::FRAME_SIZE_ERROR | h2::Reason::PROTOCOL_ERROR) if !error.is_remote() => {
            "answered with something that is not HTTP/2".to_owned()
        }
        _ => format!("HTTP/2 failed: {error}"),
    }
}

/// `HealthCheckRequest { service }` in a frame.
fn asked(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
            length >>= 7;
        }
        message.push(u8::try_from(length).unwrap_or_default());
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[0][..], &length, &message].concat().into()
}

async fn judge(answer: ResponseFuture, service: &str) -> Result<(), String> {
    let answer = answer.await.map_err(|error| reason(&error))?;
    if answer.status() != http::StatusCode::OK {
        return Err(format!("{CHECK} answered {}", answer.status().as_u16()));
    }
    let (head, body) = answer.into_parts();
    let (message, trailers) = whole(body).await?;
    let code = trailers.get("grpc-status").or_else(|| head.headers.get("grpc-status"));
    match code.and_then(|code| code.to_str().ok()) {
        Some("0") => {}
        Some(UNIMPLEMENTED) => return Err("the server has no grpc.health.v1.Health: register it".to_owned()),
        Some(NOT_FOUND) => return Err(format!("the server's health knows no service {service:?}")),
        Some(code) => return Err(format!("{CHECK} ended with grpc-status {code}")),
        None => return Err(format!("{CHECK} ended without a grpc-status")),
    }
    match serving(&message) {
        Some(1) => Ok(()),
        Some(status) => {
            let name = SERVING.get(usize::from(status)).copied();
            Err(format!("{CHECK} said {}", name.unwrap_or("a status that is not known")))
        }
        None => Err(format!("{CHECK} answered with something that is no health")),
    }
}

async fn whole(mut body: RecvStream) -> Result<(Vec<u8>, HeaderMap), String> {
    let mut message = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.map_err(|error| reason(&error))?;
        message.extend_from_slice(piece.chunk());
        if message.len() > MAX_MESSAGE {
            return Err(format!("{CHECK} answered with more than a health"));
        }
        body.flow_control().release_capacity(piece.len()).map_err(|error| reason(&error))?;
    }
    let trailers = body.trailers().await.map_err(|error| reason(&error))?;
    Ok((message, trailers.unwrap_or_default()))
}

/// The status in a framed `HealthCheckResponse`, whose only field it is: 0 where it is left out.
fn serving(framed: &[u8]) -> Option<u8> {
    let (frame, message) = framed.split_at_checked(FRAME)?;
    let length = u32::from_be_bytes(frame[1..].try_into().ok()?);
    if frame[0] != 0 || usize::try_from(length).ok()? != message.len() {
        return None;
    }
    match message {
        [] => Some(0),
        [0x08, status @ 0..0x80] => Some(*status),
        [..] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn a_question_is_framed_as_grpc_frames_it() {
        assert_eq!(asked("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(asked("a.B")[..], [&[0, 0, 0, 0, 5, 0x0a, 3][..], b"a.B"].concat());
        let long = asked(&"x".repeat(200));
        assert_eq!(long[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 1]);
    }

    #[test]
    fn a_status_is_one_number_in_one_frame() {
        let check = |framed: &[u8], expected| assert_eq!(serving(framed), expected, "{framed:?}");
        check(&[0, 0, 0, 0, 2, 8, 1], Some(1));
        check(&[0, 0, 0, 0, 2, 8, 2], Some(2));
        check(&[0, 0, 0, 0, 0], Some(0));
        check(&[1, 0, 0, 0, 2, 8, 1], None);
        check(&[0, 0, 0, 0, 3, 8, 1], None);
        check(&[0, 0, 0, 0, 2, 8, 0x81], None);
        check(&[0, 0, 0], None);
        check(&[], None);
    }

    /// A server that answers one question so.
    async fn server(
        status: u16,
        head: &'static [(&str, &str)],
        body: &'static [u8],
        code: Option<&'static str>,
    ) -> Port {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = Port::new(listener.local_addr().unwrap().port()).unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                assert!(request.headers().get("user-agent").is_some());
                let mut answer = http::Response::builder().status(status);
                for (name, value) in head {
                    answer = answer.header(*name, *value);
                }
                let mut send = respond.send_response(answer.body(()).unwrap(), code.is_none()).unwrap();
                if let Some(code) = code {
                    send.send_data(Bytes::from_static(body), false).unwrap();
                    let trailers = [("grpc-status", code)].map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap()));
                    send.send_trailers(trailers.into_iter().collect()).unwrap();
                }
            }
        });
        port
    }

    #[tokio::test]
    async fn health_is_what_the_server_says_of_itself() {
        let judged = async |status, head, body, code| {
            let port = server(status, head, body, code).await;
            let stream = TcpStream::connect(port.on_loopback()).await.unwrap();
            check(stream, "a.B", port).await
        };
        let serving: &[u8] = &[0, 0, 0, 0, 2, 8, 1];
        assert_eq!(judged(200, &[], serving, Some("0")).await, Ok(()));
        let refused = async |status, head, body, code, expected: &str| {
            let outcome = judged(status, head, body, code).await.unwrap_err();
            assert!(outcome.contains(expected), "{outcome}");
        };
        refused(200, &[], &[0, 0, 0, 0, 2, 8, 2], Some("0"), "NOT_SERVING").await;
        refused(200, &[], serving, Some("14"), "grpc-status 14").await;
        refused(200, &[("grpc-status", "12")], b"", None, "register it").await;
        refused(200, &[("grpc-status", "5")], b"", None, "no service \"a.B\"").await;
        refused(200, &[], b"", None, "without a grpc-status").await;
        refused(503, &[], b"", None, "answered 503").await;
        refused(200, &[], &[0; MAX_MESSAGE + 1], Some("0"), "more than a health").await;
    }

    #[tokio::test]
    async fn a_get_is_answered_in_http_2_or_it_is_no_answer() {
        let port = server(404, &[], b"", None).await;
        let stream = TcpStream::connect(port.on_loopback()).await.unwrap();
        assert_eq!(get(stream, "/ready", port).await, Ok(Some(404)));

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = Port::new(listener.local_addr().unwrap().port()).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";
            tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.unwrap();
            std::future::pending::<()>().await;
        });
        let stream = TcpStream::connect(port.on_loopback()).await.unwrap();
        let outcome = get(stream, "/", port).await.unwrap_err();
        assert!(outcome.contains("not HTTP/2"), "{outcome}");
    }
}
