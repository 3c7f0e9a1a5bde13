//! The agent of the line's tenant: in the job and in `start`, its longest call
//! obeyed, and a database that hangs holds no call up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sipbridge::agents::AgentDirectory;
use sipbridge::agents::store::{AgentAnswer, AgentStore};
use sipbridge::core::agents::{Agent, AgentConfig, TenantId, read};
use sipbridge::core::call_object::CallStatus;

use super::harness::{Job, Worker};
use super::placed::{new_call, talking};
use super::stage::{Setup, Stage};

/// A database with one agent at most, of the one tenant.
#[derive(Clone, Default)]
struct Base {
    agent: Arc<Mutex<Option<AgentConfig>>>,
    hangs: Arc<AtomicBool>,
}

impl Base {
    fn answer<T: Send + 'static>(&self, answer: T) -> AgentAnswer<T> {
        let hangs = self.hangs.clone();
        Box::pin(async move {
            while hangs.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Ok(answer)
        })
    }
}

impl AgentStore for Base {
    fn agent(&self, tenant: TenantId) -> AgentAnswer<Option<AgentConfig>> {
        let agent = self.agent.lock().unwrap().clone();
        self.answer(agent.filter(|_| tenant.as_str() == "resto-7"))
    }

    fn put(&self, _: TenantId, agent: Arc<Agent>) -> AgentAnswer<()> {
        *self.agent.lock().unwrap() = Some(agent.config().clone());
        self.answer(())
    }

    fn delete(&self, _: TenantId) -> AgentAnswer<bool> {
        self.answer(self.agent.lock().unwrap().take().is_some())
    }

    fn probe(&self) -> AgentAnswer<()> {
        self.answer(())
    }
}

fn config(value: &Value) -> AgentConfig {
    read(value.as_object().unwrap().clone()).unwrap()
}

fn tenant() -> TenantId {
    TenantId::parse("resto-7").unwrap()
}

async fn stage() -> (Base, AgentDirectory, Stage) {
    let base = Base::default();
    let directory = AgentDirectory::new(Arc::new(base.clone()));
    let stage = Setup::queue().agents(&directory).start().await;
    (base, directory, stage)
}

/// What a job or a `start` holds of the agent, as a text.
fn parameter(parameters: &Value) -> Value {
    serde_json::from_str(parameters["agent"].as_str().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_gets_the_agent_whole_and_its_longest_call_is_obeyed() {
    let (_, directory, stage) = stage().await;
    let whole = json!({"agent_name": "Léa", "voice_provider": "elevenlabs", "system_prompt": "\"Tu\"\nprends.",
        "voice_settings": {"stability": 0.5}, "max_conversation_duration": 1,
        "interruption_enabled": true, "sentiment_analysis_enabled": false});
    directory.put(&tenant(), config(&whole)).await.unwrap();
    let caller = stage.call();
    let job = Job::take(stage.redis()).await;
    assert_eq!(job.json["agent"], whole);
    assert_eq!(parameter(&job.json["customParameters"]), whole);
    let worker = Worker::attach(&job).await;
    assert_eq!(
        parameter(&worker.start()["start"]["customParameters"]),
        whole
    );
    // Who is told of calls hears nothing of it.
    let [call] = &stage.context.calls.list()[..] else {
        panic!("one call")
    };
    assert!(!call.state.custom_params.contains_key("agent"));
    assert_eq!(caller.ended_by_bridge().await.status, 200);
    drop(worker);

    // The next call has the agent of its own time.
    assert!(directory.delete(&tenant()).await.unwrap());
    let caller = stage.call();
    let job = Job::take(stage.redis()).await;
    assert!(job.json.get("agent").is_none());
    assert!(job.json["customParameters"].get("agent").is_none());
    let worker = Worker::attach(&job).await;
    caller.hang_up();
    drop(worker);
    assert_eq!(stage.finish().await, ["duration-limit", "caller-hung-up"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_placed_has_it_too() {
    let (_, directory, stage) = stage().await;
    let agent = config(&json!({"agent_name": "Max"}));
    directory.put(&tenant(), agent).await.unwrap();
    let (id, caller, worker) = talking(&stage).await;
    let agent = parameter(&worker.start()["start"]["customParameters"]);
    assert_eq!(agent["agent_name"], "Max");
    stage.shows(&id, CallStatus::Active).await;
    caller.hang_up();
    drop(worker);
    assert_eq!(stage.finish().await, ["callee-hung-up"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_hangs_holds_no_call_up() {
    let (base, _, stage) = stage().await;
    base.hangs.store(true, Ordering::Relaxed);
    let began = Instant::now();
    let caller = stage.call();
    let job = Job::take(stage.redis()).await;
    let waited = began.elapsed();
    assert!(waited < Duration::from_secs(1), "{waited:?}");
    assert!(job.json.get("agent").is_none());
    let worker = Worker::attach(&job).await;
    let placed = stage.place(new_call()).await.unwrap();
    let callee = stage.sim.take_outgoing().pop().unwrap();
    callee.refuse(486);
    stage.shows(&placed.facts.id, CallStatus::Busy).await;
    caller.hang_up();
    drop(worker);
    base.hangs.store(false, Ordering::Relaxed);
    stage.finish().await;
}
