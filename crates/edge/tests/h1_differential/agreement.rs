//! The properties: what the edge lets through, another reader understands as the edge did. Where one reads nothing at all, that is in a
//! list with its reason.

use bowline_edge::h1::{Version, canonical_path};

use crate::library;
use crate::message::Request;
use crate::relay::{self, Relayed};

/// One client's connection. Gives how many requests the edge let through.
pub(crate) fn requests(input: &[u8], piece: usize) -> usize {
    let relayed = relay::requests(input, piece);
    sent_on(&relayed, &library::requests(&relayed.out, piece));
    came_in(input, &relayed, &library::requests(&input[..relayed.consumed], piece));
    relayed.read.len()
}

/// What goes upstream is read as it was meant, to the last byte.
fn sent_on(relayed: &Relayed<Vec<Request>>, found: &[Request]) {
    let shown = relayed.out.escape_ascii();
    let until = relayed.read.iter().position(is_no_uri).unwrap_or(relayed.read.len());
    assert_eq!(found, &relayed.read[..until], "\nsent on: {shown}");
}

/// What came in is the same to hyper, as far as it reads it: no fewer and no other requests, with the same bodies.
fn came_in(input: &[u8], relayed: &Relayed<Vec<Request>>, found: &[Request]) {
    let shown = input.escape_ascii();
    for (found, read) in found.iter().zip(&relayed.read) {
        assert_eq!(found.method, read.method, "\ncame in: {shown}");
        assert_eq!(canonical(&found.target), read.target, "\ncame in: {shown}");
        let host = |request: &Request| request.fields.all("host").map(<[u8]>::to_ascii_lowercase).collect::<Vec<_>>();
        assert_eq!(host(found), host(read), "\ncame in: {shown}");
        assert!(read.body.payload.starts_with(&found.body.payload), "\ncame in: {shown}");
        if found.body.whole {
            assert_eq!(found.body, read.body, "\ncame in: {shown}");
        }
    }
    let until = relayed.read.iter().position(is_no_uri).unwrap_or(relayed.read.len());
    assert_eq!(found.len(), until, "\ncame in: {shown}");
}

fn canonical(target: &str) -> String {
    let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
    let mut path = path.as_bytes().to_vec();
    let length = canonical_path(&mut path).expect("it was canonical to the gate");
    format!("{}{query}", String::from_utf8_lossy(&path[..length]))
}

/// hyper's URI type refuses some visible bytes that a query may not have by RFC 3986 and yet has, as clients send them: the request is
/// answered with 400 and its connection closed, so nothing behind it is taken for another one.
fn is_no_uri(request: &Request) -> bool {
    let query = request.target.split_once('?').map_or("", |(_, query)| query);
    query.contains(['"', '<', '>'])
}

/// One answer of an instance. Says whether the edge let it through.
pub(crate) fn response(input: &[u8], to_head: bool, client: Version, piece: usize) -> bool {
    let Some(relayed) = relay::response(input, to_head, client, piece) else { return false };
    let found = library::response(&relayed.out, to_head, piece);
    let shown = relayed.out.escape_ascii();
    let mut meant = relayed.read.clone();
    // Of a body that ends with its connection nobody can tell whether it is whole: the edge resets the connection instead.
    let ends_by_closing = client == Version::Http10 && meant.fields.all("content-length").next().is_none();
    meant.body.whole |= ends_by_closing;
    assert_eq!(found.as_ref(), Some(&meant), "\nsent on: {shown}");

    let shown = input.escape_ascii();
    let direct = library::response(&input[..relayed.consumed], to_head, piece);
    let Some(direct) = direct else { panic!("hyper finds no response\ncame in: {shown}") };
    assert_eq!(direct.status, relayed.read.status, "\ncame in: {shown}");
    assert_eq!(direct.body, relayed.read.body, "\ncame in: {shown}");
    true
}
