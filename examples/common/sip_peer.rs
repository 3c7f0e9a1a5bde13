//! How a dialog of the test user agent answers the other side: BYE, re-INVITE
//! and UPDATE (RFC 3261 section 14, RFC 3311, RFC 4028), REFER with its NOTIFYs
//! (RFC 3515), INFO, OPTIONS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::super::CallEvent;
use super::super::message::{Message, parameter, uri_of};
use super::super::wire::{T1, Wire, lock};
use super::Dialog;

impl Dialog {
    /// Answers one request of the other side.
    pub async fn handle_request(
        self: &Arc<Self>,
        wire: &Arc<Wire>,
        request: &Message,
        from: SocketAddr,
    ) {
        let known = lock(&self.state).remote_tag.clone();
        if request.tag("To") != Some(&self.local_tag) || request.tag("From") != known.as_deref() {
            wire.fault("request with tags of no dialog");
            wire.respond(request, from, 481, "Call Does Not Exist", |_| {})
                .await;
            return;
        }
        let Some((cseq, method)) = request.cseq() else {
            return;
        };
        match method {
            "ACK" => self.on_ack(cseq),
            "BYE" => {
                wire.respond(request, from, 200, "OK", |_| {}).await;
                let reason = request.header("Reason").map(Into::into);
                self.emit(wire, CallEvent::Bye { reason });
                self.set_over(wire);
            }
            "INVITE" | "UPDATE" => self.on_offer(wire, request, from).await,
            "REFER" => self.on_refer(wire, request, from).await,
            "INFO" => {
                wire.respond(request, from, 200, "OK", |_| {}).await;
                let content_type = request.header("Content-Type").unwrap_or_default().into();
                let body = request.body.clone();
                self.emit(wire, CallEvent::Info { content_type, body });
            }
            "OPTIONS" | "NOTIFY" | "MESSAGE" => {
                wire.respond(request, from, 200, "OK", |_| {}).await;
            }
            _ => {
                wire.respond(request, from, 405, "Method Not Allowed", |_| {})
                    .await;
            }
        }
    }

    fn on_ack(&self, cseq: u32) {
        let mut state = lock(&self.state);
        if state.unacknowledged == Some(cseq) {
            state.unacknowledged = None;
        }
    }

    /// Re-INVITE or UPDATE: mirrors the direction of an offer, makes an offer
    /// where a re-INVITE brings none, keeps the session timer.
    async fn on_offer(self: &Arc<Self>, wire: &Arc<Wire>, request: &Message, from: SocketAddr) {
        let Some((cseq, method)) = request.cseq() else {
            return;
        };
        let invite = method == "INVITE";
        let offer = request
            .text_body()
            .and_then(|sdp| self.take_remote(wire, sdp));
        let answer = match &offer {
            Some(offer) => Some(self.answer_to(offer)),
            None => invite.then(|| self.next_media(|_| {}).to_sdp()),
        };
        if invite {
            lock(&self.state).unacknowledged = Some(cseq);
        }
        let contact = format!("<sip:{}@{}>", self.options.from_user, wire.local);
        let timer = request.header("Session-Expires").map(str::to_owned);
        let sent = wire
            .respond(request, from, 200, "OK", |response| {
                response.push("Contact", contact);
                if let Some(timer) = timer {
                    let refresher = parameter(&timer, "refresher").map_or(";refresher=uac", |_| "");
                    response.push("Require", "timer");
                    response.push("Session-Expires", format!("{timer}{refresher}"));
                }
                if let Some(sdp) = answer {
                    response.set_body("application/sdp", sdp);
                }
            })
            .await;
        if invite {
            self.emit(wire, CallEvent::ReInvite { media: offer });
            self.repeat_until_ack(wire, cseq, sent, from);
        } else {
            self.emit(wire, CallEvent::Update { media: offer });
        }
    }

    /// RFC 3261 section 13.3.1.4: a 2xx to INVITE is repeated until its ACK.
    fn repeat_until_ack(
        self: &Arc<Self>,
        wire: &Arc<Wire>,
        cseq: u32,
        response: Vec<u8>,
        to: SocketAddr,
    ) {
        let (wire, dialog) = (Arc::clone(wire), Arc::clone(self));
        tokio::spawn(async move {
            let mut interval = T1;
            while interval < T1 * 64 {
                tokio::time::sleep(interval).await;
                if lock(&dialog.state).unacknowledged != Some(cseq) || dialog.is_over() {
                    return;
                }
                let _ = wire.send(&response, to).await;
                interval *= 2;
            }
            wire.fault("200 to re-INVITE was never acknowledged");
        });
    }

    /// REFER: 202, then NOTIFY 100 and NOTIFY with the wanted result.
    async fn on_refer(self: &Arc<Self>, wire: &Arc<Wire>, request: &Message, from: SocketAddr) {
        let refer_to = request
            .header("Refer-To")
            .map(|value| uri_of(value).to_owned());
        let Some(refer_to) = refer_to else {
            wire.fault("REFER without Refer-To");
            wire.respond(request, from, 400, "Bad Request", |_| {})
                .await;
            return;
        };
        let contact = format!("<sip:{}@{}>", self.options.from_user, wire.local);
        wire.respond(request, from, 202, "Accepted", |response| {
            response.push("Contact", contact);
        })
        .await;
        self.emit(wire, CallEvent::Refer { refer_to });
        let (wire, dialog) = (Arc::clone(wire), Arc::clone(self));
        tokio::spawn(async move {
            let (status, last) = (dialog.options.refer_status, "terminated;reason=noresource");
            for (status, state) in [(100, "active;expires=60"), (status, last)] {
                let fill = |notify: &mut Message| {
                    notify.push("Event", "refer");
                    notify.push("Subscription-State", state);
                    let fragment = format!("SIP/2.0 {status} -\r\n");
                    notify.set_body("message/sipfrag;version=2.0", fragment);
                };
                if let Err(error) = dialog.exchange(&wire, "NOTIFY", fill).await {
                    wire.fault(format!("NOTIFY: {error}"));
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
    }
}
