//! One request's body on its way through the filter that judges it ([`bowline_core::upload`]).

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bowline_core::upload::{Claims, Extensions, Filter, UploadFault};

use crate::answer::Reason;
use crate::client::{Body, Client};
use crate::h1::RequestHead;

fn claims(head: &RequestHead) -> Claims<'_> {
    let plain = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"identity");
    Claims {
        media_type: head.first("content-type"),
        media_types: head.all("content-type").count(),
        is_encoded: head.all("content-encoding").any(|coding| !plain(coding)),
        path: head.path(),
    }
}

#[derive(Debug)]
pub(crate) struct Upload {
    filter: Filter,
    /// Judged; not yet with an instance.
    pub(crate) judged: Vec<u8>,
    /// The body has ended, and all of it is judged.
    pub(crate) ended: bool,
}

impl Upload {
    /// `None`: the request has no body.
    pub(crate) fn of(extensions: &Arc<Extensions>, head: &RequestHead) -> Result<Option<Box<Self>>, UploadFault> {
        if head.body().is_empty() {
            return Ok(None);
        }
        let filter = Filter::new(claims(head), extensions)?;
        Ok(Some(Box::new(Self { filter, judged: Vec::new(), ended: false })))
    }

    /// Reads the next stretch of the body, and judges it.
    pub(crate) fn poll<C: Client>(&mut self, client: &mut C, cx: &mut Context<'_>) -> Poll<Result<Body, Reason>> {
        let Self { filter, judged, .. } = self;
        let mut sink = |payload: &[u8]| filter.feed(payload, judged).map_err(Reason::Upload);
        let read = ready!(client.poll_body(cx, &mut sink))?;
        if read == Body::End {
            self.filter.end(&mut self.judged).map_err(Reason::Upload)?;
            self.ended = true;
        }
        Poll::Ready(Ok(read))
    }
}
