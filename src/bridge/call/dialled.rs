//! The legs of the `<Dial>` that a call runs, as that call holds them. Each is a call of its own
//! ([`super::parent`]); letting go of one ends it.

use std::time::Instant;

use tokio::sync::mpsc;

use super::parent::{LegAudio, LegNews, LegOrder, ParentCall};
use crate::bridge::leg::leg_media::LegMedia;
use crate::core::twiml::DIAL_TARGETS_MAX;
use crate::core::twiml::document::Dial;
use crate::core::voice::CommandId;

/// Most that one leg can have to say: that it is placed, answered, through with its document and its digits, and over.
const NEWS_OF_LEG_MAX: usize = 8;

/// The legs of one `<Dial>`; none, while there is none.
pub(in crate::bridge) struct DialledLegs {
    running: Option<Running>,
}

struct Running {
    id: CommandId,
    /// By their places in the `<Dial>`; those that are over are gone.
    legs: Vec<Option<DialledLeg>>,
    /// Until when they may ring.
    until: Instant,
    joined: Option<usize>,
    news: mpsc::Receiver<(usize, LegNews)>,
}

struct DialledLeg {
    orders: mpsc::Sender<LegOrder>,
    /// Once it is placed.
    audio: Option<LegAudio>,
}

impl DialledLegs {
    /// Nobody is dialled.
    pub(in crate::bridge) const fn nobody() -> Self {
        Self { running: None }
    }

    /// A `<Dial>` begins: the other ends for its legs, in their order.
    pub(in crate::bridge) fn begin(
        &mut self,
        id: CommandId,
        dial: &Dial,
        now: Instant,
    ) -> Vec<ParentCall> {
        let (tell, news) = mpsc::channel(DIAL_TARGETS_MAX * NEWS_OF_LEG_MAX);
        let places = 0..dial.targets.len();
        let (legs, parents) = places
            .map(|leg| {
                let (orders, parent) = ParentCall::new(leg, tell.clone());
                let audio = None;
                (Some(DialledLeg { orders, audio }), parent)
            })
            .unzip();
        self.running = Some(Running {
            id,
            legs,
            until: now + dial.timeout,
            joined: None,
            news,
        });
        parents
    }

    /// The next news of a leg; never, while nobody is dialled. Cancel-safe.
    pub(in crate::bridge) async fn next(&mut self) -> (CommandId, usize, LegNews) {
        let running = match &mut self.running {
            Some(running) => running,
            None => return std::future::pending().await,
        };
        match running.news.recv().await {
            Some((leg, news)) => (running.id, leg, news),
            // All legs are over, and have said so.
            None => std::future::pending().await,
        }
    }

    /// Keeps the audio of a leg that was placed.
    pub(in crate::bridge) fn placed(&mut self, leg: usize, audio: LegAudio) {
        if let Some(leg) = self.leg(leg) {
            leg.audio = Some(audio);
        }
    }

    /// Tells a leg what to do. False where it is over.
    pub(in crate::bridge) fn order(&mut self, leg: usize, order: LegOrder) -> bool {
        let leg = self.leg(leg);
        leg.is_some_and(|leg| leg.orders.try_send(order).is_ok())
    }

    /// From now on the caller and this leg hear each other.
    pub(in crate::bridge) fn join(&mut self, leg: usize, caller: &LegMedia) {
        let Some(running) = &mut self.running else {
            return;
        };
        let dialled = running.legs.get(leg).and_then(Option::as_ref);
        if let Some(audio) = dialled.and_then(|leg| leg.audio.as_ref()) {
            audio.join(caller);
            running.joined = Some(leg);
        }
    }

    /// A leg is over. Whether it was the last one; a leg that was ended before and says so now is none.
    pub(in crate::bridge) fn forget(&mut self, leg: usize, caller: &LegMedia) -> bool {
        let Some(running) = &mut self.running else {
            return false;
        };
        let Some(gone) = running.legs.get_mut(leg).and_then(Option::take) else {
            return false;
        };
        if running.joined.take_if(|joined| *joined == leg).is_some()
            && let Some(audio) = gone.audio
        {
            audio.part(caller);
        }
        running.legs.iter().all(Option::is_none)
    }

    /// Ends a leg, however far it has come. Whether it was the last one.
    pub(in crate::bridge) fn end(&mut self, leg: usize, caller: &LegMedia, now: Instant) -> bool {
        let is_late = self.running.as_ref().is_some_and(|it| now >= it.until);
        self.order(leg, LegOrder::End { is_late });
        self.forget(leg, caller)
    }

    fn leg(&mut self, leg: usize) -> Option<&mut DialledLeg> {
        self.running.as_mut()?.legs.get_mut(leg)?.as_mut()
    }
}
