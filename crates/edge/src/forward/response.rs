//! The instance's answer on its way to the client: its head as it is written here, its body as it comes or compressed.

use super::leg::Leg;
use super::{Relay, Step};
use crate::answer::Reason;
use crate::client::Client;
use crate::deadline::Patience;
use crate::encoding::Coding;
use crate::grpc::Code;
use crate::h1::{BadUpstream, BodyDecoder, Framing, ResponseHead, ResponseLine, write};
use crate::request::HSTS;
use crate::route::API_RESTING;
use crate::sticky;

impl<C: Client> Relay<'_, '_, C> {
    pub(super) fn begin_response(&mut self, head: &ResponseHead) -> Result<Step, Reason> {
        let buffered = self.input.len() - self.start;
        // Where HTTP/2 has not said the end, trailers may come, which an empty body would leave no room for.
        let trailing = self.goes_on() && head.body() != Framing::None;
        let request = &mut *self.request;
        request.exchange.response_head(head, buffered)?;
        request.journal.answered();
        request.kept = None;
        if self.is_call {
            request.journal.call_ended(head.first("grpc-status").map(Code::said));
        }
        let mut line = head.line(self.client.version(), request.keep_alive());
        let answered = self.route.backend(request.journal.backend);
        let release = answered.map_or("", |backend| &backend.release);
        let scheme = request.scheme;
        let cookie = answered.zip(self.route.backends());
        // What keeps a browser with the release that has answered it.
        let cookie = cookie.and_then(|(answered, all)| sticky::set_cookie(all, answered, request.place, scheme));
        let mut coding = match self.route.compress {
            true => Coding::of(request.head, head.status(), head.content_length(), head.fields()),
            false => None,
        };
        if trailing && line.body.is_empty() && self.client.carries_trailers() {
            line.body = Framing::Chunked;
        }
        self.gzip = coding.as_mut().and_then(|coding| coding.begin(request.worker, &mut line));
        let encoded = coding.as_ref().is_some_and(|coding| coding.encoded);
        let more = [cookie.as_deref().map(|cookie| ("set-cookie", cookie)), request.hsts().map(|hsts| (HSTS, hsts))];
        let more = more.into_iter().flatten().chain(coding.iter().flat_map(Coding::fields));
        let mut extra = [("", ""); 7];
        extra[0] = ("x-bowline-release", release);
        extra[1] = ("x-request-id", request.trace.request_id());
        let mut count = 2;
        for (place, field) in extra[2..].iter_mut().zip(more) {
            *place = field;
            count += 1;
        }
        let extra = &extra[..count];
        self.client.respond(line.body, &mut |out| {
            request.worker.access.clock.with_date(|date| {
                let fields = head.fields().filter(|field| Coding::passes(encoded, field.name));
                write::response(out, &ResponseLine { date: Some(date), ..line }, fields, extra);
            });
        })?;
        request.journal.status = head.status();
        let mut reading = self.route.reading;
        if let Some(Leg::Bytes(stream)) = &mut self.leg
            && stream.answered(head.status())
        {
            reading = API_RESTING;
        }
        let decoder = BodyDecoder::new(head.body());
        let complete = decoder.is_complete() && !trailing;
        self.response = Some(decoder);
        self.answer_until = None;
        self.request.patience = Patience::new(reading);
        self.client.waits_for(reading);
        self.upgraded = head.is_upgrade();
        if self.upgraded {
            self.response_read = true;
        } else if complete {
            return self.end_response(buffered);
        }
        Ok(Step::Moved)
    }

    pub(super) fn pass_payload(&mut self) -> Result<Step, Reason> {
        let Some(decoder) = &mut self.response else { return Ok(Step::Stuck) };
        let input = &self.input[self.start..];
        let decoded = decoder.decode(input).map_err(BadUpstream::from)?;
        let payload = &input[decoded.payload];
        let said = !payload.is_empty();
        let payload = match &mut self.gzip {
            Some(gzip) if !payload.is_empty() => gzip.push(payload),
            Some(_) | None => payload,
        };
        if !payload.is_empty() {
            self.client.send(payload)?;
            self.request.journal.response_bytes += payload.len() as u64;
        }
        self.start += decoded.consumed;
        let complete = decoder.is_complete();
        if said {
            self.answers_late();
        }
        let surplus = self.input.len() - self.start;
        match self.goes_on() {
            true if complete && surplus > 0 => Err(BadUpstream::OverlongBody.into()),
            false if complete => self.end_response(surplus),
            true | false => Ok(if decoded.consumed > 0 { Step::Moved } else { Step::Stuck }),
        }
    }

    /// Nothing more of the answer is there: what is being compressed does not wait for what comes later.
    pub(super) fn flush_encoder(&mut self) -> Result<(), Reason> {
        let Some(gzip) = &mut self.gzip else { return Ok(()) };
        if self.response_read || !self.client.has_room() {
            return Ok(());
        }
        let out = gzip.flush();
        if !out.is_empty() {
            self.client.send(out)?;
            self.request.journal.response_bytes += out.len() as u64;
        }
        Ok(())
    }

    pub(super) fn end_response(&mut self, surplus: usize) -> Result<Step, Reason> {
        self.answers_late();
        // Given back here, and not when the client has read all.
        if let Some(mut gzip) = self.gzip.take() {
            let out = gzip.finish();
            self.client.send(out)?;
            self.request.journal.response_bytes += out.len() as u64;
        }
        if self.is_call {
            self.request.journal.call_over();
        }
        self.client.finish()?;
        self.request.exchange.response_received(surplus);
        self.response_read = true;
        Ok(Step::Moved)
    }
}
