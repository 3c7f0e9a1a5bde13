//! The question before a call is taken, and what its answer changes in the
//! call: its parameters, its worker, its own callback address.

use std::future::Future;
use std::pin::Pin;

use tokio::time::Instant;
use tracing::{info, warn};

use super::driver::Driver;
use crate::core::call::{Accepted, Verdict};
use crate::core::call_object::CallObject;

/// Asked before a call is taken. Whatever goes wrong with the question, its
/// answer is to take the call.
pub trait IncomingAsk: Send + Sync {
    /// Whether this call is taken, and how.
    fn ask(&self, call: CallObject) -> Pin<Box<dyn Future<Output = Verdict> + Send>>;
}

impl Driver {
    /// Puts the question; its answer comes as a pending thing.
    pub(super) fn ask_incoming(&mut self) {
        let Some(ask) = &self.context.ask else {
            return self.handle_verdict(Instant::now(), Verdict::Accept(Box::default()));
        };
        self.pending.verdict = Some(ask.ask(self.object()));
    }

    /// The answer is here.
    pub(super) fn handle_verdict(&mut self, now: Instant, verdict: Verdict) {
        let (verdict, callback_url) = match verdict {
            Verdict::Accept(accepted) => self.take_terms(*accepted),
            Verdict::Reject(status) => {
                info!(status, "the incoming callback rejects the call");
                (verdict, None)
            }
            Verdict::Ignore => {
                info!("the incoming callback leaves the call to others");
                (verdict, None)
            }
        };
        self.shown.settled(&self.record, callback_url);
        self.call.handle_verdict(now.into_std(), &verdict);
    }

    /// What of the terms can be used; and the call's own callback address.
    fn take_terms(&mut self, mut accepted: Accepted) -> (Verdict, Option<String>) {
        self.record.add_parameters(&accepted.custom_params);
        match accepted
            .ws_target
            .as_ref()
            .map(|url| self.context.foreign_dialer(url.expose()))
        {
            None => {}
            Some(Ok(dialer)) => self.dialer = Some(dialer),
            Some(Err(error)) => {
                warn!(%error, "wsTarget in the incoming callback's answer is left out");
                accepted.ws_target = None;
            }
        }
        let callback_url = accepted.callback_url.take();
        let callback_url = callback_url.map(|url| url.expose().to_owned());
        (Verdict::Accept(Box::new(accepted)), callback_url)
    }
}
