//! `/IncomingPhoneNumbers`: the lines of this bridge that have a number, in Twilio's form. What is changed of one is a
//! change of its line (`admin::line_changes`), by a client: `number_update`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::API_VERSION;
use super::calls::answer;
use super::error::TwilioError;
use super::form::{Form, Item, QueryForm};
use super::number_update::{self, NumberUpdate};
use super::page::{Page, PageRequest};
use crate::api::admin::line_changes::change_line;
use crate::api::audit::Changed;
use crate::api::control::Control;
use crate::core::ids::{AccountSid, LineId, hex};
use crate::core::outward::WrittenBy;
use crate::core::twiml::document::Webhook;
use crate::fleet::LineProfile;
use crate::lines::entry::{LineEntry, read_row};
use crate::lines::{LineWay, Row};

/// Lines that are looked at in one go.
const LOOK: usize = 1_000;

/// A line as Twilio shows a number.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TwilioPhoneNumber)]
pub struct NumberResource {
    sid: String,
    account_sid: String,
    /// `friendlyName` of the line, else its id.
    friendly_name: String,
    phone_number: String,
    api_version: &'static str,
    capabilities: Capabilities,
    voice_url: Option<String>,
    voice_method: &'static str,
    voice_fallback_url: Option<String>,
    voice_fallback_method: &'static str,
    status_callback: Option<String>,
    status_callback_method: &'static str,
    date_created: Option<String>,
    date_updated: Option<String>,
    uri: String,
}

/// What a number can do.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TwilioCapabilities)]
pub struct Capabilities {
    voice: bool,
    sms: bool,
    mms: bool,
    fax: bool,
}

/// A page of numbers, in the order of their lines.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TwilioPhoneNumberList)]
struct NumberListBody {
    incoming_phone_numbers: Vec<NumberResource>,
    #[serde(flatten)]
    page: Page,
}

impl NumberResource {
    /// `None` for a line without a number.
    fn of(line: &LineProfile, account: &AccountSid) -> Option<Self> {
        let sid = phone_number_sid(account, &line.id);
        let voice = line.way.as_ref().and_then(LineWay::voice);
        let fallback = voice.and_then(|voice| voice.fallback.as_ref());
        let callback = line.status_callback.as_ref();
        let voice = voice.map(|voice| &voice.webhook);
        let url = |webhook: Option<&Webhook>| Some(webhook?.url.expose().to_owned());
        let method = |webhook: Option<&Webhook>| {
            let method = webhook.map(|webhook| webhook.method);
            method.unwrap_or_default().as_str()
        };
        let name = line.friendly_name.as_deref();
        Some(Self {
            account_sid: account.to_string(),
            friendly_name: name.unwrap_or(line.id.as_str()).to_owned(),
            phone_number: line.phone_number.as_ref()?.expose().to_owned(),
            api_version: API_VERSION,
            capabilities: Capabilities {
                voice: true,
                sms: false,
                mms: false,
                fax: false,
            },
            voice_url: url(voice),
            voice_method: method(voice),
            voice_fallback_url: url(fallback),
            voice_fallback_method: method(fallback),
            status_callback: url(callback),
            status_callback_method: method(callback),
            date_created: None,
            date_updated: None,
            uri: format!("/{API_VERSION}/Accounts/{account}/IncomingPhoneNumbers/{sid}.json"),
            sid,
        })
    }
}

/// `PN` and 32 hex digits: the same for a line at every start and every bridge.
pub(super) fn phone_number_sid(account: &AccountSid, line: &LineId) -> String {
    let hash = Sha256::digest(format!("{account} {line}"));
    format!("PN{}", hex(&hash[..16]))
}

/// Lists the lines that have a number.
#[utoipa::path(
    get,
    path = "/2010-04-01/Accounts/{account}/IncomingPhoneNumbers.json",
    tag = "twilio",
    operation_id = "twilioListPhoneNumbers",
    security(("account" = [])),
    params(
        ("account" = String, Path, description = "AccountSid."),
        ("PhoneNumber" = Option<String>, Query, description = "Only the lines with this number."),
        ("FriendlyName" = Option<String>, Query, description = "Only the lines of this name; a line without one has its id for it."),
        ("PageSize" = Option<u32>, Query, description = "Most entries, 1 to 1000; 50 when absent."),
        ("Page" = Option<u32>, Query, description = "The number of the page; what counts is PageToken."),
        ("PageToken" = Option<String>, Query, description = "From `next_page_uri`."),
    ),
    responses((status = 200, description = "The numbers.", body = NumberListBody), super::error::Errors),
)]
pub(in crate::api) async fn list(
    State(control): State<Arc<Control>>,
    QueryForm(mut form): QueryForm,
) -> Result<Response, TwilioError> {
    let account = &control.twilio.sid;
    let number = form.filter("PhoneNumber");
    let name = form.filter("FriendlyName");
    let after = form.text("PageToken");
    let path = format!("/{API_VERSION}/Accounts/{account}/IncomingPhoneNumbers.json");
    let page = PageRequest::read(&mut form, path);
    form.finish()?;
    let fits = |line: &NumberResource| {
        number
            .as_ref()
            .is_none_or(|number| *number == line.phone_number)
            && name.as_ref().is_none_or(|name| *name == line.friendly_name)
    };
    let shown = |line: Arc<LineProfile>| {
        let number = NumberResource::of(&line, account).filter(fits)?;
        Some((line.id.clone(), number))
    };
    let size = usize::try_from(page.size).unwrap_or(usize::MAX);
    // One more than asked for tells whether there is a next page.
    let lines = lines_after(&control, after);
    let found = lines.filter_map(shown).take(size.saturating_add(1));
    let mut numbers: Vec<(LineId, NumberResource)> = found.collect();
    let has_more = numbers.len() > size;
    numbers.truncate(size);
    let next = numbers.last().filter(|_| has_more);
    let page = page.body(numbers.len(), next.map(|(id, _)| id.as_str()));
    let numbers = numbers.into_iter().map(|(_, number)| number);
    let body = NumberListBody {
        incoming_phone_numbers: numbers.collect(),
        page,
    };
    Ok(answer(StatusCode::OK, &body))
}

/// Shows one of them.
#[utoipa::path(
    get,
    path = "/2010-04-01/Accounts/{account}/IncomingPhoneNumbers/{number}",
    tag = "twilio",
    operation_id = "twilioGetPhoneNumber",
    security(("account" = [])),
    params(
        ("account" = String, Path, description = "AccountSid."),
        ("number" = String, Path, description = "The number's SID and `.json`."),
    ),
    responses((status = 200, description = "The number.", body = NumberResource), super::error::Errors),
)]
pub(in crate::api) async fn get(
    State(control): State<Arc<Control>>,
    Item(sid): Item,
) -> Result<Response, TwilioError> {
    let line = line_of(&control, &sid)?;
    let row = match &control.store {
        Some(store) => store.line(line.id.as_str()).await?,
        None => None,
    };
    shown(&control, &line, row.as_ref())
}

/// Changes where a number's calls are asked about, who is told of them, and its name. What is given is changed, and an empty value
/// takes away what stood there. It needs a database; a line with a wsTarget takes no VoiceUrl.
#[utoipa::path(
    post,
    path = "/2010-04-01/Accounts/{account}/IncomingPhoneNumbers/{number}",
    tag = "twilio",
    operation_id = "twilioUpdatePhoneNumber",
    security(("account" = [])),
    params(
        ("account" = String, Path, description = "AccountSid."),
        ("number" = String, Path, description = "The number's SID and `.json`."),
    ),
    request_body(content = NumberUpdate, content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, description = "The number as it is now.", body = NumberResource), super::error::Errors),
)]
pub(in crate::api) async fn update(
    State(control): State<Arc<Control>>,
    Item(sid): Item,
    form: Form,
) -> Result<Response, TwilioError> {
    let line = line_of(&control, &sid)?;
    let given = number_update::read(form)?;
    let fields = given.names();
    let change = change_line(&control, line.id.as_str(), given, WrittenBy::Client);
    let row = change.await.map_err(number_update::refused)?;
    Ok(Changed::fields(fields).to(shown(&control, &line, Some(&row))))
}

/// The line with a number that this SID stands for.
fn line_of(control: &Control, sid: &str) -> Result<Arc<LineProfile>, TwilioError> {
    let is_wanted = |line: &Arc<LineProfile>| {
        line.phone_number.is_some() && phone_number_sid(&control.twilio.sid, &line.id) == sid
    };
    let line = lines_after(control, None).find(is_wanted);
    line.ok_or_else(|| TwilioError::missing("phone number"))
}

/// A line as it is stored, where it is: the bridge takes up a change a moment later.
fn shown(
    control: &Control,
    held: &LineProfile,
    row: Option<&Row>,
) -> Result<Response, TwilioError> {
    let mut line = held.clone();
    if let Some(LineEntry::Line(stored)) = row.map(read_row) {
        line.way = stored.way;
        line.status_callback = stored.status_callback;
        line.friendly_name = stored.friendly_name;
    }
    let number = NumberResource::of(&line, &control.twilio.sid);
    let number = number.ok_or_else(|| TwilioError::missing("phone number"))?;
    Ok(answer(StatusCode::OK, &number))
}

/// The lines that follow an id, in the order of their ids.
fn lines_after(control: &Control, after: Option<String>) -> impl Iterator<Item = Arc<LineProfile>> {
    let mut after = after;
    let mut is_last = false;
    let looks = std::iter::from_fn(move || {
        if is_last {
            return None;
        }
        let ids = control.lines.ids(after.as_deref(), LOOK);
        is_last = ids.len() < LOOK;
        after = ids.last().map(|id| id.as_str().to_owned());
        Some(ids)
    });
    looks.flatten().filter_map(|id| control.lines.get(&id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::private::Private;

    #[test]
    fn a_line_with_a_number_has_the_same_sid_every_time() {
        let account = AccountSid::of_node("n");
        let mut line = LineProfile::bare(LineId::new("line-1"));
        assert!(NumberResource::of(&line, &account).is_none());
        line.phone_number = Some(Private::new("+33972360682"));
        let number = NumberResource::of(&line, &account).expect("a number");
        let again = NumberResource::of(&line, &account).expect("a number");
        assert_eq!(number.sid, again.sid);
        assert!(number.sid.starts_with("PN") && number.sid.len() == 34);
        let other = phone_number_sid(&account, &LineId::new("line-2"));
        assert_ne!(number.sid, other);
        let body = serde_json::to_value(&number).expect("JSON");
        assert_eq!(body["phone_number"], "+33972360682");
        assert_eq!(body["capabilities"]["voice"], true);
        assert!(body["voice_url"].is_null());
    }
}
