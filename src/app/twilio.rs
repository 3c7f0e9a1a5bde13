//! What lines that are Twilio's need, joined: the webhook, the stream port and the way back to Twilio.

use std::sync::Arc;

use super::start_error::StartError;
use crate::api::webhooks::TwilioWebhooks;
use crate::bridge::context::Context;
use crate::bridge::drivers::Drivers;
use crate::bridge::twilio_calls::TwilioIntake;
use crate::callbacks::twilio_rest::TwilioRest;
use crate::config::Config;
use crate::worker::Expected;

/// Nothing without `--public-url`.
pub(super) fn webhooks(
    config: &Config,
    context: &Context,
    drivers: &Arc<Drivers>,
    expected: &Expected,
) -> Result<Option<TwilioWebhooks>, StartError> {
    let Some(twilio) = &config.twilio else {
        return Ok(None);
    };
    Ok(Some(TwilioWebhooks {
        public_url: twilio.public_url.clone(),
        intake: TwilioIntake::new(context, drivers, &expected.callers),
        rest: TwilioRest::new(twilio.api_url.expose())?,
    }))
}
