//! The question before a call is taken, and what its answer changes in the
//! call: its parameters, its worker, its own callback address.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tracing::{info, warn};

use super::call_terms::ForeignWorkers;
use crate::core::call::{Accepted, CallDecision};
use crate::core::call_object::CallObject;
use crate::core::callback::CallbackReceiver;
use crate::worker::Dialer;

/// Asked before a call is taken. Whatever goes wrong with the question, its
/// answer is to take the call.
pub trait IncomingAsk: Send + Sync {
    /// Whether this call is taken, and how.
    fn ask(&self, call: CallObject) -> Pin<Box<dyn Future<Output = CallDecision> + Send>>;
}

/// The question of one call.
pub(in crate::bridge) struct Question {
    ask: Option<Arc<dyn IncomingAsk>>,
    workers: ForeignWorkers,
    answer: Option<Pin<Box<dyn Future<Output = CallDecision> + Send>>>,
}

/// What an answer comes to.
pub(in crate::bridge) struct Settled {
    /// For the state machine.
    pub(in crate::bridge) decision: CallDecision,
    /// For `customParameters`.
    pub(in crate::bridge) parameters: BTreeMap<String, String>,
    /// The worker to dial for this call.
    pub(in crate::bridge) dialer: Option<Dialer>,
    /// The call's own callback address.
    pub(in crate::bridge) receiver: Option<CallbackReceiver>,
}

impl Question {
    /// A question that is not put yet.
    pub(in crate::bridge) const fn new(
        ask: Option<Arc<dyn IncomingAsk>>,
        workers: ForeignWorkers,
    ) -> Self {
        Self {
            ask,
            workers,
            answer: None,
        }
    }

    /// Puts the question. Where there is nobody to ask, the call is taken.
    pub(in crate::bridge) fn put(&mut self, call: &CallObject) {
        self.answer = Some(match &self.ask {
            Some(ask) => ask.ask(call.clone()),
            None => Box::pin(std::future::ready(CallDecision::Accept(Box::default()))),
        });
    }

    /// The answer, once; never, while there is no question. Cancel-safe.
    pub(in crate::bridge) async fn next(&mut self) -> Settled {
        let decision = match &mut self.answer {
            Some(answer) => answer.as_mut().await,
            None => std::future::pending().await,
        };
        self.answer = None;
        self.settle(decision)
    }

    fn settle(&self, decision: CallDecision) -> Settled {
        match &decision {
            CallDecision::Accept(_) => {}
            CallDecision::Reject(status) => {
                info!(status, "the incoming callback rejects the call");
            }
            CallDecision::Ignore => info!("the incoming callback leaves the call to others"),
        }
        match decision {
            CallDecision::Accept(accepted) => self.take_terms(*accepted),
            decision => Settled {
                decision,
                parameters: BTreeMap::new(),
                dialer: None,
                receiver: None,
            },
        }
    }

    /// What of the terms can be used.
    fn take_terms(&self, mut accepted: Accepted) -> Settled {
        let target = accepted.ws_target.as_ref();
        let dialer = target.map(|url| self.workers.dialer(url.expose()));
        let dialer = dialer.transpose().unwrap_or_else(|error| {
            warn!(%error, "wsTarget in the incoming callback's answer is left out");
            accepted.ws_target = None;
            None
        });
        let callback_url = accepted.callback_url.take();
        Settled {
            parameters: std::mem::take(&mut accepted.custom_params),
            dialer,
            receiver: callback_url.map(|url| CallbackReceiver::Own(url.expose().to_owned())),
            decision: CallDecision::Accept(Box::new(accepted)),
        }
    }
}
