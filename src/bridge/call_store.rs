//! The calls as the API sees them: those in progress and, for half a minute,
//! those that have ended; and the way in which the API asks something of a
//! call's driver.
//!
//! The driver of a call holds its [`CallHandle`]: it shows there how the call
//! stands whenever something changes, and takes requests from it. Dropping the handle
//! ends the entry, however the driver ended.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, oneshot};

use crate::core::call_facts::CallState;
use crate::core::call_object::{CallDirection, CallObject, CallStatus};
use crate::core::callback::{CallbackReceiver, WebhookEvent};
use crate::core::dialling::NotAllowed;
use crate::core::ids::CallId;
use crate::core::outcome::Outcome;
use crate::core::private::Private;
use crate::core::voice::Instructions;

/// How long a call that has ended is still shown.
const SHOWN_AFTER_END: Duration = Duration::from_secs(30);
/// Requests that may wait for one call's driver.
const REQUESTS: usize = 8;

/// What is asked of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallRequest {
    /// End it: CANCEL before the answer, BYE after it.
    Hangup,
    /// Blind transfer by REFER.
    Transfer(Private),
    /// Send these digits: 0 to 9, *, #, A to D.
    Dtmf(String),
    /// Hold the other side: it hears hold audio, and nothing of it reaches the worker.
    Hold,
    /// Take it back.
    Resume,
    /// TwiML says from now on what is done with the call; whatever it did is interrupted at once.
    Instructions(Box<Instructions>),
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No such call, in progress or ended a moment ago.
    #[error("there is no such call")]
    Unknown,
    /// It is over.
    #[error("the call is over")]
    Over,
    /// The call is not at the point where this can be done.
    #[error("{0}")]
    NotNow(&'static str),
    /// The request itself is at fault.
    #[error("{0}")]
    Invalid(String),
    /// The operator does not allow such a destination, or the line has had its
    /// dials of the hour.
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
    /// Too many requests wait for the call.
    #[error("too many requests wait for this call")]
    Busy,
}

/// A request on its way to the driver. One that is dropped without an answer
/// counts as [`RequestError::Over`].
#[derive(Debug)]
pub struct QueuedRequest {
    /// What is asked.
    pub request: CallRequest,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Result<(), RequestError>>,
}

/// Hears of each change of a call's status, in the driver's task. Must not block.
pub trait StatusListener: Send + Sync {
    /// The call has a new status. `url` is the call's own callback address.
    fn changed(&self, call: &CallObject, receiver: Option<&CallbackReceiver>);

    /// This is to be told beside the call's status, and kept and tried as that is.
    fn tell(&self, event: WebhookEvent);
}

/// All calls.
#[derive(Default)]
pub struct CallStore {
    entries: Mutex<HashMap<CallId, Entry>>,
    listener: Option<Arc<dyn StatusListener>>,
}

struct Entry {
    object: CallObject,
    requests: mpsc::Sender<QueuedRequest>,
    ended: Option<Instant>,
}

impl CallStore {
    /// A store without calls.
    #[must_use]
    pub fn new(listener: Option<Arc<dyn StatusListener>>) -> Arc<Self> {
        Arc::new(Self {
            entries: Mutex::default(),
            listener,
        })
    }

    /// Enters a call; what is asked of it comes out of the receiver.
    #[must_use]
    pub fn open(
        self: &Arc<Self>,
        object: CallObject,
        receiver: Option<CallbackReceiver>,
    ) -> (CallHandle, mpsc::Receiver<QueuedRequest>) {
        let (handle, asked) = self.open_untold(object, receiver);
        handle.tell_initial();
        (handle, asked)
    }

    /// As [`CallStore::open`], but the listener hears nothing of the call before
    /// [`CallHandle::announce`], or its end.
    #[must_use]
    pub fn open_untold(
        self: &Arc<Self>,
        object: CallObject,
        receiver: Option<CallbackReceiver>,
    ) -> (CallHandle, mpsc::Receiver<QueuedRequest>) {
        let (requests, asked) = mpsc::channel(REQUESTS);
        let sid = object.facts.id.clone();
        let entry = Entry {
            object,
            requests,
            ended: None,
        };
        {
            let mut entries = self.entries();
            entries.retain(|_, entry| !entry.is_stale());
            entries.insert(sid.clone(), entry);
        }
        let handle = CallHandle {
            store: self.clone(),
            sid,
            receiver,
            is_told: AtomicBool::new(false),
        };
        (handle, asked)
    }

    /// Calls in progress and those that ended within 30 s, the newest first.
    #[must_use]
    pub fn list(&self) -> Vec<CallObject> {
        let mut entries = self.entries();
        entries.retain(|_, entry| !entry.is_stale());
        let mut calls: Vec<_> = entries.values().map(|entry| entry.object.clone()).collect();
        drop(entries);
        calls.sort_unstable_by(|a, b| {
            let (a, b) = (&a.facts, &b.facts);
            let by_id = || a.id.as_str().cmp(b.id.as_str());
            b.started.cmp(&a.started).then_with(by_id)
        });
        calls
    }

    /// How many calls of this direction are in progress.
    #[must_use]
    pub fn in_progress(&self, direction: CallDirection) -> usize {
        let entries = self.entries();
        let is_counted =
            |entry: &&Entry| entry.ended.is_none() && entry.object.facts.direction == direction;
        entries.values().filter(is_counted).count()
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, sid: &CallId) -> Option<CallObject> {
        let entries = self.entries();
        let entry = entries.get(sid).filter(|entry| !entry.is_stale());
        entry.map(|entry| entry.object.clone())
    }

    /// Shows a call that is over no longer.
    pub fn forget(&self, sid: &CallId) {
        let mut entries = self.entries();
        if entries.get(sid).is_some_and(|entry| entry.ended.is_some()) {
            entries.remove(sid);
        }
    }

    /// Asks something of a call and waits for its driver's answer, which comes
    /// at once: what the network makes of it is told by the call's status.
    ///
    /// # Errors
    /// When there is no such call, or it cannot do that now.
    pub async fn ask(&self, sid: &CallId, request: CallRequest) -> Result<(), RequestError> {
        let requests = {
            let entries = self.entries();
            let entry = entries.get(sid).filter(|entry| !entry.is_stale());
            let entry = entry.ok_or(RequestError::Unknown)?;
            if entry.ended.is_some() {
                return Err(RequestError::Over);
            }
            entry.requests.clone()
        };
        let (reply, answer) = oneshot::channel();
        let asked = QueuedRequest { request, reply };
        requests.try_send(asked).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => RequestError::Busy,
            mpsc::error::TrySendError::Closed(_) => RequestError::Over,
        })?;
        answer.await.unwrap_or(Err(RequestError::Over))
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<CallId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn is_stale(&self) -> bool {
        self.ended.is_some_and(|at| at.elapsed() > SHOWN_AFTER_END)
    }
}

/// A driver's hold on its call's entry.
pub struct CallHandle {
    store: Arc<CallStore>,
    sid: CallId,
    receiver: Option<CallbackReceiver>,
    /// The listener knows of the call.
    is_told: AtomicBool,
}

impl CallHandle {
    /// Tells the listener of a call that was opened untold, once. `receiver`,
    /// where there is one, is the call's own from now on.
    pub fn announce(&mut self, receiver: Option<CallbackReceiver>) {
        if receiver.is_some() {
            self.receiver = receiver;
        }
        self.tell_initial();
    }

    fn tell_initial(&self) {
        if self.is_told.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Some(object) = self.store.get(&self.sid) {
            self.notify_listener(&object);
        }
    }

    /// Shows how the call stands now; a new status is told to the listener. What
    /// has ended stays as it is.
    pub fn show(&self, state: &CallState) {
        self.change(|shown| shown.clone_from(state));
    }

    fn change(&self, change: impl FnOnce(&mut CallState)) {
        let mut entries = self.store.entries();
        let Some(entry) = entries.get_mut(&self.sid) else {
            return;
        };
        if entry.ended.is_some() {
            return;
        }
        let before = entry.object.state.status;
        let untold = (!self.is_told.load(Ordering::Relaxed)).then(|| entry.object.clone());
        let state = &mut entry.object.state;
        change(state);
        if state.status.is_final() {
            entry.ended = Some(Instant::now());
            state.ended.get_or_insert_with(SystemTime::now);
        }
        let object = (state.status != before).then(|| entry.object.clone());
        drop(entries);
        if let Some(object) = object {
            if let Some(initial) = untold {
                self.is_told.store(true, Ordering::Relaxed);
                self.notify_listener(&initial);
            }
            self.notify_listener(&object);
        }
    }

    /// Tells somebody something beside the call's status.
    pub fn tell(&self, event: WebhookEvent) {
        if let Some(listener) = &self.store.listener {
            listener.tell(event);
        }
    }

    fn notify_listener(&self, object: &CallObject) {
        if let Some(listener) = &self.store.listener {
            listener.changed(object, self.receiver.as_ref());
        }
    }
}

impl Drop for CallHandle {
    fn drop(&mut self) {
        // Only a driver that panicked leaves it to this.
        self.change(|state| {
            state.status = CallStatus::Failed;
            state.outcome = Some(Outcome::Failed);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::call_facts::CallFacts;

    #[derive(Default)]
    struct Heard(Mutex<Vec<(CallStatus, Option<String>)>>);

    impl StatusListener for Heard {
        fn changed(&self, call: &CallObject, receiver: Option<&CallbackReceiver>) {
            let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let url = receiver.map(|receiver| receiver.url().to_owned());
            heard.push((call.state.status, url));
        }

        fn tell(&self, event: WebhookEvent) {
            panic!("{event:?}");
        }
    }

    fn call() -> CallObject {
        CallObject {
            facts: Arc::new(CallFacts::example()),
            state: CallState::default(),
        }
    }

    fn status(status: CallStatus) -> CallState {
        CallState {
            status,
            ..CallState::default()
        }
    }

    fn held() -> CallState {
        CallState {
            on_hold: true,
            ..CallState::default()
        }
    }

    #[tokio::test]
    async fn requests_reach_the_driver_and_its_answer_comes_back() {
        let store = CallStore::new(None);
        let (handle, mut asked) = store.open(call(), None);
        let sid = store.list()[0].facts.id.clone();
        let driver = tokio::spawn(async move {
            while let Some(asked) = asked.recv().await {
                let ok = asked.request == CallRequest::Hold;
                let answer = ok.then_some(()).ok_or(RequestError::NotNow("no"));
                drop(asked.reply.send(answer));
            }
        });
        assert_eq!(store.ask(&sid, CallRequest::Hold).await, Ok(()));
        let refused = store.ask(&sid, CallRequest::Resume).await;
        assert_eq!(refused, Err(RequestError::NotNow("no")));
        let stranger = store.ask(&CallId::random(), CallRequest::Hangup).await;
        assert_eq!(stranger, Err(RequestError::Unknown));
        driver.abort();
        let _ = driver.await;
        let gone = store.ask(&sid, CallRequest::Hangup).await;
        assert_eq!(gone, Err(RequestError::Over));
        drop(handle);
        let ended = store.get(&sid).expect("still shown");
        assert_eq!(ended.state.status, CallStatus::Failed);
        assert!(ended.state.ended.is_some());
    }

    #[test]
    fn each_new_status_is_told_once_and_nothing_after_the_end() {
        let heard = Arc::new(Heard::default());
        let store = CallStore::new(Some(heard.clone()));
        let (handle, _asked) = store.open(call(), Some(CallbackReceiver::Own("http://x".into())));
        handle.show(&status(CallStatus::Ringing));
        handle.show(&CallState {
            on_hold: true,
            ..status(CallStatus::Ringing)
        });
        handle.show(&status(CallStatus::Cancelled));
        handle.show(&status(CallStatus::Failed));
        drop(handle);
        let heard = heard.0.lock().expect("not poisoned");
        let statuses: Vec<_> = heard.iter().map(|(status, _)| *status).collect();
        use CallStatus as S;
        assert_eq!(statuses, [S::Initiated, S::Ringing, S::Cancelled]);
        assert!(
            heard
                .iter()
                .all(|(_, url)| url.as_deref() == Some("http://x"))
        );
    }
    #[test]
    fn an_untold_call_is_told_with_its_own_address_or_at_its_end() {
        use CallStatus as S;
        let told = |heard: &Heard| heard.0.lock().expect("not poisoned").clone();
        let heard = Arc::new(Heard::default());
        let store = CallStore::new(Some(heard.clone()));
        let (mut handle, _asked) = store.open_untold(call(), None);
        handle.show(&held());
        assert!(told(&heard).is_empty() && store.list().len() == 1);
        handle.announce(Some(CallbackReceiver::Own("http://own".into())));
        handle.announce(None);
        handle.show(&status(S::Ringing));
        let own = Some("http://own".to_owned());
        assert_eq!(
            told(&heard),
            [(S::Initiated, own.clone()), (S::Ringing, own)]
        );

        let heard = Arc::new(Heard::default());
        let store = CallStore::new(Some(heard.clone()));
        let (handle, _asked) = store.open_untold(call(), None);
        handle.show(&status(S::Cancelled));
        drop(handle);
        assert_eq!(told(&heard), [(S::Initiated, None), (S::Cancelled, None)]);
    }
}
