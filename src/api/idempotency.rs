//! `Idempotency-Key`: a POST that is sent again, because its answer was lost,
//! gets the answer of the first one and does nothing.
//!
//! Answers are kept in memory for a day, the latest 2,000; which bridge has one of a placed call is in Redis, see
//! [`super::nodes::repeated`]. An answer that says "not now" (5xx, 408,
//! 429) is not kept: the next try is a new one.

use std::collections::HashMap;
use std::collections::btree_map::Entry as Slot;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Required};

use super::body::whole;
use super::openapi::problems;
use super::problem::{Problem, ProblemKind};
use super::{twilio, webhooks};

pub(super) const KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Longest key.
const KEY_MAX_BYTES: usize = 255;
/// Answers that are kept.
const KEPT_MAX: usize = 2_000;
/// Longest answer that is kept.
const ANSWER_MAX_BYTES: usize = 64 * 1024;
/// How long.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);

/// The answers that are kept. Clones share them.
#[derive(Clone, Default)]
pub struct Answers(Arc<Mutex<HashMap<RequestKey, Entry>>>);

/// Path and key.
type RequestKey = (String, String);

struct Entry {
    body: [u8; 32],
    began: Instant,
    /// `None` while it is being worked out.
    answer: Option<Kept>,
}

#[derive(Clone)]
struct Kept {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// Answers a POST with a key once.
pub async fn once(State(answers): State<Answers>, request: Request, next: Next) -> Response {
    let is_keyed = request.method() == Method::POST && request.headers().contains_key(KEY);
    // Twilio's API and its webhooks know no such key, and answers in another form.
    let path = request.uri().path();
    if !is_keyed || twilio::is_twilios(path) || webhooks::is_webhook(path) {
        return next.run(request).await;
    }
    match answers.answer(request, next).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

/// What a POST may be answered for its key, or for a body that is read to be
/// compared.
const ANSWERS: [(&str, &str); 5] = [
    ("400", "The Idempotency-Key is unusable."),
    ("408", "The body did not come within 5 s."),
    (
        "409",
        "The request that came first with the Idempotency-Key is being answered right now; Retry-After.",
    ),
    ("413", "The body is longer than 64 kB."),
    ("422", "The Idempotency-Key came with another body before."),
];

/// Describes the key at a POST, and what it may be answered for it.
pub(super) fn declare(post: &mut Operation) {
    let key = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(KEY_MAX_BYTES));
    let key = ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(
            "Of the client's own making, ASCII. The same request with the same key within a day \
             is not done again: it gets the first one's answer, with Idempotency-Replayed: true. \
             A 5xx, 408 or 429 is not kept.",
        ))
        .schema(Some(key))
        .build();
    post.parameters.get_or_insert_default().push(key);
    for (status, problem) in problems(ANSWERS) {
        match post.responses.responses.entry(status) {
            Slot::Vacant(slot) => drop(slot.insert(problem)),
            // Of two reasons, both are told.
            Slot::Occupied(mut slot) => {
                if let (RefOr::T(known), RefOr::T(more)) = (slot.get_mut(), problem)
                    && known.description != more.description
                {
                    known.description.push(' ');
                    known.description.push_str(&more.description);
                }
            }
        }
    }
}

impl Answers {
    async fn answer(&self, request: Request, next: Next) -> Result<Response, Problem> {
        let key = key_of(request.headers())?;
        let asked = (request.uri().path().to_owned(), key);
        let (head, body) = request.into_parts();
        let body = whole(body).await?;
        let digest = Sha256::digest(&body).into();
        if let Some(kept) = self.begin(&asked, digest, Instant::now())? {
            return Ok(kept.replay());
        }
        // Forgotten when nothing comes of it.
        let working = Working {
            answers: self,
            asked: Some(asked),
        };
        let response = next.run(Request::from_parts(head, Body::from(body))).await;
        working.keep(response).await
    }

    /// The answer that is kept; `None` when this is the first time.
    fn begin(
        &self,
        asked: &RequestKey,
        body: [u8; 32],
        now: Instant,
    ) -> Result<Option<Kept>, Problem> {
        let mut entries = self.entries();
        entries.retain(|_, entry| {
            entry.answer.is_none() || now.saturating_duration_since(entry.began) < KEPT_FOR
        });
        match entries.get(asked) {
            Some(entry) if entry.body != body => {
                let detail = "this Idempotency-Key came with another body before";
                return Err(Problem::new(ProblemKind::KEY_REUSED, detail));
            }
            Some(Entry { answer: None, .. }) => {
                let detail = "the same request is being answered right now";
                return Err(Problem::new(ProblemKind::CONFLICT, detail).retry_after(1));
            }
            Some(Entry { answer, .. }) => return Ok(answer.clone()),
            None => {}
        }
        if entries.len() >= KEPT_MAX {
            let done = entries.iter().filter(|(_, entry)| entry.answer.is_some());
            let oldest = done.min_by_key(|(_, entry)| entry.began);
            if let Some(oldest) = oldest.map(|(asked, _)| asked.clone()) {
                entries.remove(&oldest);
            }
        }
        let entry = Entry {
            body,
            began: now,
            answer: None,
        };
        entries.insert(asked.clone(), entry);
        Ok(None)
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<RequestKey, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Working<'a> {
    answers: &'a Answers,
    asked: Option<RequestKey>,
}

impl Working<'_> {
    async fn keep(mut self, response: Response) -> Result<Response, Problem> {
        let status = response.status();
        if is_for_now(status) {
            return Ok(response);
        }
        let (head, body) = response.into_parts();
        let failed = |_| Problem::new(ProblemKind::INTERNAL, "the answer is too long to be kept");
        let body = to_bytes(body, ANSWER_MAX_BYTES).await.map_err(failed)?;
        let kept = Kept {
            status,
            headers: head.headers.clone(),
            body: body.clone(),
        };
        if let Some(asked) = self.asked.take() {
            if let Some(entry) = self.answers.entries().get_mut(&asked) {
                entry.answer = Some(kept);
            }
        }
        Ok(Response::from_parts(head, Body::from(body)))
    }
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        if let Some(asked) = self.asked.take() {
            self.answers.entries().remove(&asked);
        }
    }
}

impl Kept {
    fn replay(self) -> Response {
        let mut response = (self.status, self.body).into_response();
        *response.headers_mut() = self.headers;
        let yes = HeaderValue::from_static("true");
        response.headers_mut().insert(REPLAYED, yes);
        response
    }
}

/// Whether an answer says "not now": the next try is a new one.
pub(super) fn is_for_now(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
        )
}

fn key_of(headers: &HeaderMap) -> Result<String, Problem> {
    let mut keys = headers.get_all(KEY).iter();
    let key = keys.next().and_then(|key| key.to_str().ok());
    let key = key.map(str::trim).unwrap_or_default();
    if key.is_empty() || key.len() > KEY_MAX_BYTES || keys.next().is_some() {
        let detail = format!("send one Idempotency-Key of 1 to {KEY_MAX_BYTES} ASCII characters");
        return Err(Problem::new(ProblemKind::BAD_REQUEST, detail));
    }
    Ok(key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(key: usize) -> RequestKey {
        ("/x".to_owned(), key.to_string())
    }

    fn done(answers: &Answers, key: usize) {
        let kept = Kept {
            status: StatusCode::CREATED,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        };
        let mut entries = answers.entries();
        entries.get_mut(&asked(key)).unwrap().answer = Some(kept);
    }

    #[test]
    fn answers_are_kept_for_a_day_and_bounded() {
        let (answers, start) = (Answers::default(), Instant::now());
        let begin = |key, body: u8, now| answers.begin(&asked(key), [body; 32], now);
        assert!(begin(1, 1, start).unwrap().is_none());
        let busy = begin(1, 1, start).err().unwrap();
        assert_eq!(busy.status(), 409);
        done(&answers, 1);
        assert_eq!(begin(1, 1, start).unwrap().unwrap().status, 201);
        assert_eq!(begin(1, 2, start).err().unwrap().status(), 422);
        assert!(begin(1, 2, start + KEPT_FOR).unwrap().is_none());

        for key in 0..KEPT_MAX + 50 {
            let now = start + KEPT_FOR + Duration::from_millis(key as u64);
            assert!(begin(key + 10, 0, now).unwrap().is_none());
            done(&answers, key + 10);
        }
        assert!(answers.entries().len() <= KEPT_MAX);
    }
}
