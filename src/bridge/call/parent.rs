//! The call whose `<Dial>` placed this one, as this one knows it: what it is told, and what it asks for.
//!
//! A leg of `<Dial>` is a call of its own, with a driver, a record and a place of its own. The two drivers
//! share nothing but two channels and, once they are joined, the audio that one gives to the other: whichever
//! ends first, the other learns of it by its channel.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::bridge::leg::inbound_audio::InboundAudio;
use crate::bridge::leg::leg_media::LegMedia;
use crate::bridge::leg::outbound_audio::OutboundAudio;
use crate::core::ids::CallId;
use crate::core::private::Private;
use crate::core::twiml::document::Webhook;
use crate::core::voice::{CommandId, DialLegEnd};

/// Most orders that wait for one leg: there are three in its life.
const ORDERS_MAX: usize = 4;

/// What a leg is told by the call that dialled it.
#[derive(Debug)]
pub(in crate::bridge) enum LegOrder {
    /// Follow this webhook's document, and say when it is over.
    RunDocument(Webhook),
    /// Send these digits, and say when they are sent.
    SendDigits(CommandId, Private),
    /// It is not wanted any more.
    End {
        /// It rang for as long as it might.
        is_late: bool,
    },
}

/// What the call that dialled a leg is told by it.
pub(in crate::bridge) enum LegNews {
    /// Its INVITE is out.
    Placed(CallId, LegAudio),
    /// It was answered.
    Answered,
    /// Its document is over.
    DocumentOver,
    /// Its digits are sent, or cannot be.
    DigitsSent(CommandId, bool),
    /// It is over.
    Ended(DialLegEnd),
}

/// The audio of a leg, for the leg that it is joined with.
pub(in crate::bridge) struct LegAudio {
    stream: Arc<OutboundAudio>,
    port: Arc<InboundAudio>,
}

impl LegAudio {
    /// Shares the audio of a leg.
    pub(in crate::bridge) fn of(media: &LegMedia) -> Self {
        Self {
            stream: media.stream.clone(),
            port: media.port.clone(),
        }
    }

    /// From now on the two hear each other.
    pub(in crate::bridge) fn join(&self, other: &LegMedia) {
        other.port.lock().join(&self.stream);
        self.port.lock().join(&other.stream);
    }

    /// From now on they do not.
    pub(in crate::bridge) fn part(&self, other: &LegMedia) {
        other.part();
        let relay = self.port.lock().relay.take();
        // Freed after the lock is released, as above.
        drop(relay);
    }
}

/// The call that dialled this one. Dropped before [`ParentCall::ended`], it says that this call has failed.
pub(in crate::bridge) struct ParentCall {
    leg: usize,
    news: mpsc::Sender<(usize, LegNews)>,
    orders: mpsc::Receiver<LegOrder>,
    is_told: bool,
}

impl ParentCall {
    /// The two ends between a call and its leg of this number, which tells its news by `news`.
    pub(in crate::bridge) fn new(
        leg: usize,
        news: mpsc::Sender<(usize, LegNews)>,
    ) -> (mpsc::Sender<LegOrder>, Self) {
        let (order, orders) = mpsc::channel(ORDERS_MAX);
        let parent = Self {
            leg,
            news,
            orders,
            is_told: false,
        };
        (order, parent)
    }

    /// The next order; `End` where the other call is over. Cancel-safe.
    pub(in crate::bridge) async fn next(&mut self) -> LegOrder {
        let order = self.orders.recv().await;
        order.unwrap_or(LegOrder::End { is_late: false })
    }

    /// Tells the other call.
    pub(in crate::bridge) fn tell(&self, news: LegNews) {
        // It has room for all that its legs can ever say; where it is over, nobody wants to know.
        let _ = self.news.try_send((self.leg, news));
    }

    /// Tells how this call ended.
    pub(in crate::bridge) fn ended(mut self, end: DialLegEnd) {
        self.is_told = true;
        self.tell(LegNews::Ended(end));
    }
}

impl Drop for ParentCall {
    fn drop(&mut self) {
        if !self.is_told {
            self.tell(LegNews::Ended(DialLegEnd::Failed));
        }
    }
}
