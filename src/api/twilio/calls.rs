//! `/Calls`: the calls of this bridge and of its database; placing one, ending one, and giving one to TwiML.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::API_VERSION;
use super::call::CallResource;
use super::call_update::Update;
use super::error::{Code, TwilioError};
use super::filter::CallFilter;
use super::form::{Form, Item, QueryForm};
use super::new_call::{self, NewCall};
use super::page::{Page, PageRequest};
use crate::api::audit::Changed;
use crate::api::call_list::{read_cursor, write_cursor};
use crate::api::calls::not_done;
use crate::api::control::Control;
use crate::api::nodes::NodeRequest;
use crate::api::nodes::pass_on::elsewhere;
use crate::api::problem::{Problem, ProblemKind};
use crate::bridge::call_store::{CallRequest, RequestError};
use crate::core::call_object::CallObject;
use crate::core::ids::{AccountSid, CallId, LineId};
use crate::core::voice::Instructions;
use crate::fleet::LineDirectory;
use crate::store::Store;
use crate::store::calls::PAGE_MAX;

/// Records that one request looks at, at most, in pages of [`PAGE_MAX`]: a filter that fits few of
/// many goes on with the next page.
const LOOKS_MAX: u32 = 10;

/// How long a request to delete a call waits for its record.
const WRITTEN_WITHIN: Duration = Duration::from_secs(5);

/// A page of calls, newest first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TwilioCallList)]
struct CallListBody<'a> {
    calls: Vec<CallResource<'a>>,
    #[serde(flatten)]
    page: Page,
}

/// A call to be placed.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a schema: requests are read field by field")]
struct CallCreate {
    /// Whom to call: a number in E.164, or a SIP URI. The dial rules hold.
    #[schema(rename = "To")]
    to: String,
    /// The number of the line that calls.
    #[schema(rename = "From")]
    from: String,
    /// A webhook that is asked what to do with the call once it is answered. Wins over `Twiml`.
    #[schema(rename = "Url")]
    url: Option<String>,
    /// `POST`, or `GET`: how it is asked.
    #[schema(rename = "Method")]
    method: Option<String>,
    /// TwiML that says what is done with the call, at most 4,000 characters.
    #[schema(rename = "Twiml")]
    twiml: Option<String>,
    /// Asked where `Url` gives no TwiML.
    #[schema(rename = "FallbackUrl")]
    fallback_url: Option<String>,
    /// `POST`, or `GET`.
    #[schema(rename = "FallbackMethod")]
    fallback_method: Option<String>,
    /// Told how the call goes on, in Twilio's fields.
    #[schema(rename = "StatusCallback")]
    status_callback: Option<String>,
    /// `POST`, or `GET`.
    #[schema(rename = "StatusCallbackMethod")]
    status_callback_method: Option<String>,
    /// `initiated`, `ringing`, `answered`, `completed`; may be repeated. `completed` when absent.
    #[schema(rename = "StatusCallbackEvent")]
    status_callback_event: Option<Vec<String>>,
    /// Seconds that it may ring: 60 when absent, at most 600.
    #[schema(rename = "Timeout")]
    timeout: Option<u32>,
    /// Seconds that it may last.
    #[schema(rename = "TimeLimit")]
    time_limit: Option<u32>,
    /// Digits to send once it is answered, `w` for half a second.
    #[schema(rename = "SendDigits")]
    send_digits: Option<String>,
    /// `Enable`, or `DetectMessageEnd`: it is found out who answers, and what is done with the call waits for it.
    #[schema(rename = "MachineDetection")]
    machine_detection: Option<String>,
    /// Seconds after which that is given up: 3 to 59, 30 when absent.
    #[schema(rename = "MachineDetectionTimeout")]
    machine_detection_timeout: Option<u32>,
    /// Milliseconds of speech that make a machine: 1000 to 6000, 2400 when absent.
    #[schema(rename = "MachineDetectionSpeechThreshold")]
    machine_detection_speech_threshold: Option<u32>,
    /// Milliseconds of silence that end what is said: 500 to 5000, 1200 when absent.
    #[schema(rename = "MachineDetectionSpeechEndThreshold")]
    machine_detection_speech_end_threshold: Option<u32>,
    /// Milliseconds of nothing but silence after which it is given up: 2000 to 10000, 5000 when absent.
    #[schema(rename = "MachineDetectionSilenceTimeout")]
    machine_detection_silence_timeout: Option<u32>,
    /// `true`: what is done with the call does not wait for it.
    #[schema(rename = "AsyncAmd")]
    async_amd: Option<bool>,
    /// Told who answered, with `AsyncAmd`.
    #[schema(rename = "AsyncAmdStatusCallback")]
    async_amd_status_callback: Option<String>,
    /// `POST`, or `GET`.
    #[schema(rename = "AsyncAmdStatusCallbackMethod")]
    async_amd_status_callback_method: Option<String>,
}

/// What is asked of a call: one of `Status`, `Twiml` and `Url`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a schema: requests are read field by field")]
struct CallUpdate {
    /// `completed` ends the call; `canceled` does so before its answer alone.
    #[schema(rename = "Status")]
    status: Option<String>,
    /// TwiML that says what is done with the call from now on, at most 4,000 characters.
    #[schema(rename = "Twiml")]
    twiml: Option<String>,
    /// A webhook that is asked for it.
    #[schema(rename = "Url")]
    url: Option<String>,
    /// `POST`, or `GET`: how it is asked.
    #[schema(rename = "Method")]
    method: Option<String>,
}

/// Lists calls, the newest first.
#[utoipa::path(
    get,
    path = "/2010-04-01/Accounts/{account}/Calls.json",
    tag = "twilio",
    operation_id = "twilioListCalls",
    security(("account" = [])),
    params(
        ("account" = String, Path, description = "AccountSid."),
        ("To" = Option<String>, Query, description = "Only calls to this number."),
        ("From" = Option<String>, Query, description = "Only calls from this number."),
        ("Status" = Option<String>, Query, description = "Only calls that stand so."),
        ("ParentCallSid" = Option<String>, Query, description = "Calls that this call's Dial placed."),
        ("StartTime" = Option<String>, Query, description = "A day or a time; also `StartTime<` and `StartTime>`."),
        ("EndTime" = Option<String>, Query, description = "A day or a time; also `EndTime<` and `EndTime>`."),
        ("PageSize" = Option<u32>, Query, description = "Most entries, 1 to 1000; 50 when absent."),
        ("Page" = Option<u32>, Query, description = "The number of the page; what counts is PageToken."),
        ("PageToken" = Option<String>, Query, description = "From `next_page_uri`."),
    ),
    responses((status = 200, description = "The calls.", body = CallListBody), super::error::Errors),
)]
pub(in crate::api) async fn list(
    State(control): State<Arc<Control>>,
    QueryForm(mut form): QueryForm,
) -> Result<Response, TwilioError> {
    let account = &control.twilio.sid;
    let filter = CallFilter::read(&mut form);
    let token = form.parsed("PageToken", "must come from next_page_uri", read_cursor);
    let path = format!("/{API_VERSION}/Accounts/{account}/Calls.json");
    let page = PageRequest::read(&mut form, path);
    form.finish()?;
    let found = find(&control, &filter, token, page.size).await?;
    let next = found.next.as_ref().map(write_cursor);
    let calls = found.calls.iter();
    let body = CallListBody {
        calls: calls.map(|call| CallResource::of(call, account)).collect(),
        page: page.body(found.calls.len(), next.as_deref()),
    };
    Ok(answer(StatusCode::OK, &body))
}

#[derive(Default)]
struct Found {
    calls: Vec<CallObject>,
    /// Where the next page begins.
    next: Option<(SystemTime, CallId)>,
}

/// The calls of memory, which stand as they are now, between those of the database.
async fn find(
    control: &Control,
    filter: &CallFilter,
    before: Option<(SystemTime, CallId)>,
    size: u32,
) -> Result<Found, TwilioError> {
    if filter.is_empty() {
        return Ok(Found::default());
    }
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let live = control.calls.list();
    let known: HashSet<CallId> = live.iter().map(|call| call.facts.id.clone()).collect();
    let is_after = |call: &CallObject| before.as_ref().is_none_or(|at| place(call) < place_of(at));
    let fits = |call: &CallObject| is_after(call) && filter.has(call);
    let mut calls: Vec<_> = live.into_iter().filter(fits).collect();
    let mut reached = before.clone();
    let mut is_whole = control.store.is_none();
    if let Some(store) = &control.store {
        let mut records = Vec::new();
        for _ in 0..LOOKS_MAX {
            let search = filter.search(reached.clone(), PAGE_MAX);
            let more = store.search_calls(&search).await?;
            is_whole = more.len() < PAGE_MAX as usize;
            reached = more.last().map(|last| at(&last.call)).or(reached);
            let more = more.into_iter().map(|record| record.call);
            records.extend(more.filter(|call| !known.contains(&call.facts.id) && filter.has(call)));
            if is_whole || records.len() > size {
                break;
            }
        }
        calls.extend(records);
    }
    calls.sort_unstable_by(|a, b| place(b).cmp(&place(a)));
    // What is older than the search got waits for the next page.
    if let Some(reached) = reached.as_ref().filter(|_| !is_whole) {
        calls.retain(|call| place(call) >= place_of(reached));
    }
    let has_more = calls.len() > size;
    calls.truncate(size);
    let next = match (has_more, is_whole) {
        (true, _) => calls.last().map(at),
        (false, false) => reached,
        (false, true) => None,
    };
    Ok(Found { calls, next })
}

fn at(call: &CallObject) -> (SystemTime, CallId) {
    (call.facts.started, call.facts.id.clone())
}

/// Where a call stands in the order of the list: by the millisecond, as the database keeps it.
fn place(call: &CallObject) -> (u128, &str) {
    (millis(call.facts.started), call.facts.id.as_str())
}

fn place_of((started, id): &(SystemTime, CallId)) -> (u128, &str) {
    (millis(*started), id.as_str())
}

fn millis(at: SystemTime) -> u128 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_millis()
}

/// Places a call. Once it is answered, `Url` is asked what to do with it, or `Twiml` says so.
#[utoipa::path(
    post,
    path = "/2010-04-01/Accounts/{account}/Calls.json",
    tag = "twilio",
    operation_id = "twilioCreateCall",
    security(("account" = [])),
    params(("account" = String, Path, description = "AccountSid.")),
    request_body(content = CallCreate, content_type = "application/x-www-form-urlencoded"),
    responses((status = 201, description = "The call, on its way.", body = CallResource), super::error::Errors),
)]
pub(in crate::api) async fn create(
    State(control): State<Arc<Control>>,
    form: Form,
) -> Result<Response, TwilioError> {
    let fields = new_call::given(&form);
    let call = NewCall::read(form, |number| line_of(&control.lines, number))?;
    let placed = control.placer.place(call.order()?).await;
    let call = placed.map_err(super::super::calls::not_placed)?;
    let body = CallResource::of(&call, &control.twilio.sid);
    let response = answer(StatusCode::CREATED, &body);
    Ok(Changed::made(call.facts.id.as_str(), fields).to(response))
}

/// The line that has a number; of several, none.
fn line_of(lines: &LineDirectory, number: &str) -> Option<LineId> {
    match lines.with_number(number).as_slice() {
        [line] => Some(line.id.clone()),
        _ => None,
    }
}

/// Shows one call.
#[utoipa::path(
    get,
    path = "/2010-04-01/Accounts/{account}/Calls/{call}",
    tag = "twilio",
    operation_id = "twilioGetCall",
    security(("account" = [])),
    params(
        ("account" = String, Path, description = "AccountSid."),
        ("call" = String, Path, description = "CallSid and `.json`."),
    ),
    responses((status = 200, description = "The call.", body = CallResource), super::error::Errors),
)]
pub(in crate::api) async fn get(
    State(control): State<Arc<Control>>,
    Item(sid): Item,
) -> Result<Response, TwilioError> {
    let sid = CallId::parse(&sid).ok_or_else(missing)?;
    let call = known(&control, &sid).await?.ok_or_else(missing)?;
    Ok(shown(&call, &control.twilio.sid))
}

/// Ends a call, or has TwiML say what is done with it from now on. The answer is the call as it stands; what comes of it shows a
/// moment later.
#[utoipa::path(
    post,
    path = "/2010-04-01/Accounts/{account}/Calls/{call}",
    tag = "twilio",
    operation_id = "twilioUpdateCall",
    security(("account" = [])),
    params(
        ("account" = String, Path, description = "AccountSid."),
        ("call" = String, Path, description = "CallSid and `.json`."),
    ),
    request_body(content = CallUpdate, content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, description = "The call.", body = CallResource), super::error::Errors),
)]
pub(in crate::api) async fn update(
    State(control): State<Arc<Control>>,
    Item(sid): Item,
    form: Form,
) -> Result<Response, TwilioError> {
    let sid = CallId::parse(&sid).ok_or_else(missing)?;
    let update = Update::read(form)?;
    let fields = update.fields();
    let call = known(&control, &sid).await?.ok_or_else(missing)?;
    match update {
        Update::End { before_answer } => end(&control, &call, before_answer).await?,
        Update::Instruct(instructions) => instruct(&control, &call, instructions).await?,
    }
    let call = known(&control, &sid).await?.unwrap_or(call);
    Ok(Changed::fields(fields).to(shown(&call, &control.twilio.sid)))
}

/// Ends a call, or says that it is over already, which is what was asked for.
async fn end(control: &Control, call: &CallObject, before_answer: bool) -> Result<(), TwilioError> {
    if before_answer && call.state.answered.is_some() && call.state.ended.is_none() {
        let text = "the call is answered already: Status completed ends it";
        return Err(TwilioError::new(Code::CALL_STATE, text));
    }
    let sid = &call.facts.id;
    match control.calls.ask(sid, CallRequest::Hangup).await {
        Ok(()) | Err(RequestError::Over) => Ok(()),
        Err(RequestError::Unknown) if call.state.ended.is_some() => Ok(()),
        Err(RequestError::Unknown) => hang_up_elsewhere(control, sid).await,
        Err(error) => Err(not_done(error).into()),
    }
}

/// Has TwiML say what is done with a call from now on.
async fn instruct(
    control: &Control,
    call: &CallObject,
    instructions: Instructions,
) -> Result<(), TwilioError> {
    let state = |text: &str| Err(TwilioError::new(Code::CALL_STATE, text));
    let (sid, is_over) = (&call.facts.id, call.state.ended.is_some());
    let request = CallRequest::Instructions(Box::new(instructions));
    match control.calls.ask(sid, request).await {
        Ok(()) => Ok(()),
        Err(RequestError::Unknown) if !is_over => {
            let Some((_, node)) = elsewhere(control, sid).await? else {
                return state("the call was lost with its bridge");
            };
            let text = format!("the bridge {} has the call: ask that one", node.id);
            Err(Problem::new(ProblemKind::UNAVAILABLE, text).into())
        }
        Err(RequestError::Unknown | RequestError::Over) => state("the call is over"),
        Err(RequestError::NotNow(text)) => state(text),
        Err(error) => Err(not_done(error).into()),
    }
}

/// Deletes the record of a call that is over.
#[utoipa::path(
    delete,
    path = "/2010-04-01/Accounts/{account}/Calls/{call}",
    tag = "twilio",
    operation_id = "twilioDeleteCall",
    security(("account" = [])),
    params(
        ("account" = String, Path, description = "AccountSid."),
        ("call" = String, Path, description = "CallSid and `.json`."),
    ),
    responses((status = 204, description = "It is gone."), super::error::Errors),
)]
pub(in crate::api) async fn remove(
    State(control): State<Arc<Control>>,
    Item(sid): Item,
) -> Result<StatusCode, TwilioError> {
    let sid = CallId::parse(&sid).ok_or_else(missing)?;
    let call = known(&control, &sid).await?.ok_or_else(missing)?;
    if call.state.ended.is_none() {
        let text = "the call is in progress: end it first";
        return Err(TwilioError::new(Code::CALL_STATE, text));
    }
    if let Some(store) = &control.store {
        delete(store, &sid, control.calls.get(&sid).is_some()).await?;
    }
    control.calls.forget(&sid);
    Ok(StatusCode::NO_CONTENT)
}

/// Deletes a record. Where memory still has the call, its record may be on its way to the database.
async fn delete(store: &Store, sid: &CallId, is_recent: bool) -> Result<(), TwilioError> {
    let limit = if is_recent {
        WRITTEN_WITHIN
    } else {
        Duration::ZERO
    };
    let is_gone = store.delete_ended_call(sid, limit).await?;
    if is_gone || store.call(sid).await?.is_none() {
        return Ok(());
    }
    let text = "the end of the call is not written yet: try again";
    Err(Problem::new(ProblemKind::UNAVAILABLE, text)
        .retry_after(1)
        .into())
}

/// Ends a call of another bridge.
async fn hang_up_elsewhere(control: &Control, sid: &CallId) -> Result<(), TwilioError> {
    let Some((nodes, node)) = elsewhere(control, sid).await? else {
        // It was lost with its bridge.
        return Ok(());
    };
    let request = NodeRequest::bare(Method::DELETE, format!("/api/calls/{sid}"));
    let answer = nodes.ask(&node, &request).await.map_err(Problem::from)?;
    if answer.status.is_success() || answer.status == StatusCode::CONFLICT {
        return Ok(());
    }
    let text = format!("the bridge {} answered {}", answer.node, answer.status);
    let kind = match answer.status {
        StatusCode::TOO_MANY_REQUESTS => ProblemKind::TOO_MANY,
        StatusCode::SERVICE_UNAVAILABLE => ProblemKind::UNAVAILABLE,
        _ => return Err(TwilioError::new(Code::CALL_STATE, text)),
    };
    Err(Problem::new(kind, text).retry_after(1).into())
}

/// A call of this bridge, or one of the database.
async fn known(control: &Control, sid: &CallId) -> Result<Option<CallObject>, TwilioError> {
    if let Some(call) = control.calls.get(sid) {
        return Ok(Some(call));
    }
    let record = match &control.store {
        Some(store) => store.call(sid).await?,
        None => None,
    };
    Ok(record.map(|record| record.call))
}

fn missing() -> TwilioError {
    TwilioError::missing("call")
}

fn shown(call: &CallObject, account: &AccountSid) -> Response {
    answer(StatusCode::OK, &CallResource::of(call, account))
}

pub(super) fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    let headers = [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, "no-store"),
    ];
    // Strings and numbers only: this cannot fail.
    let body = serde_json::to_vec(body).unwrap_or_default();
    (status, headers, body).into_response()
}
