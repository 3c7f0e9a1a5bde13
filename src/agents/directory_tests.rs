//! The directory over a database that is slow, away, or changed by others.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::agents::store::AgentAnswer;
use crate::core::agents::read;

/// A database in memory.
#[derive(Clone, Default)]
struct Base(Arc<State>);

#[derive(Default)]
struct State {
    agents: Mutex<BTreeMap<TenantId, AgentConfig>>,
    /// How long an answer takes.
    delay_ms: AtomicU64,
    is_away: std::sync::atomic::AtomicBool,
    asked: AtomicU64,
}

impl Base {
    fn asked(&self) -> u64 {
        self.0.asked.load(Ordering::Relaxed)
    }

    fn slow(&self, ms: u64) {
        self.0.delay_ms.store(ms, Ordering::Relaxed);
    }

    fn away(&self, is_away: bool) {
        self.0.is_away.store(is_away, Ordering::Relaxed);
    }

    fn answer<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut BTreeMap<TenantId, AgentConfig>) -> T + Send + 'static,
    ) -> AgentAnswer<T> {
        let state = self.0.clone();
        Box::pin(async move {
            // Read first, answered later: what changes meanwhile is not in it.
            let done = act(&mut state.agents.lock().unwrap());
            let delay = state.delay_ms.load(Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(delay)).await;
            match state.is_away.load(Ordering::Relaxed) {
                true => Err(StoreError::no_answer("it")),
                false => Ok(done),
            }
        })
    }
}

impl AgentStore for Base {
    fn agent(&self, tenant: TenantId) -> AgentAnswer<Option<AgentConfig>> {
        self.0.asked.fetch_add(1, Ordering::Relaxed);
        self.answer(move |agents| agents.get(&tenant).cloned())
    }

    fn put(&self, tenant: TenantId, agent: Arc<Agent>) -> AgentAnswer<()> {
        self.answer(move |agents| drop(agents.insert(tenant, agent.config().clone())))
    }

    fn delete(&self, tenant: TenantId) -> AgentAnswer<bool> {
        self.answer(move |agents| agents.remove(&tenant).is_some())
    }

    fn probe(&self) -> AgentAnswer<()> {
        self.answer(|_| ())
    }
}

fn config(name: &str) -> AgentConfig {
    let object = serde_json::json!({"agent_name": name});
    read(object.as_object().unwrap().clone()).unwrap()
}

fn stage() -> (Base, AgentDirectory, TenantId) {
    let base = Base::default();
    let directory = AgentDirectory::new(Arc::new(base.clone()));
    (base, directory, TenantId::parse("r").unwrap())
}

/// The name of the agent that a call of the tenant gets now, and how long it waited.
async fn call(directory: &AgentDirectory) -> (Option<String>, Duration) {
    let began = Instant::now();
    let agent = directory.of_call("r").await;
    let name = agent.map(|agent| agent.config().agent_name.clone());
    (name, began.elapsed())
}

async fn name(directory: &AgentDirectory) -> Option<String> {
    call(directory).await.0
}

async fn pass(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_is_read_once_in_a_while_and_changes_of_ours_count_at_once() {
    let (base, directory, tenant) = stage();
    assert_eq!(name(&directory).await, None);
    assert_eq!(name(&directory).await, None);
    assert_eq!(base.asked(), 1, "that there is none is remembered too");
    directory.put(&tenant, config("one")).await.unwrap();
    assert_eq!(name(&directory).await.as_deref(), Some("one"));
    assert!(directory.delete(&tenant).await.unwrap());
    assert_eq!(name(&directory).await, None);
    assert!(!directory.delete(&tenant).await.unwrap());
    assert_eq!(base.asked(), 1);
    // Another bridge writes.
    base.0.agents.lock().unwrap().insert(tenant, config("two"));
    assert_eq!(name(&directory).await, None);
    pass(6).await;
    assert_eq!(name(&directory).await.as_deref(), Some("two"));
    assert_eq!(base.asked(), 2);
    assert!(directory.of_call("").await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_database_that_is_slow_or_away_holds_no_call_up() {
    let (base, directory, tenant) = stage();
    directory.put(&tenant, config("one")).await.unwrap();
    base.slow(5_000);
    pass(6).await;
    let (first, waited) = call(&directory).await;
    assert_eq!(first.as_deref(), Some("one"), "the last one known");
    assert!(waited <= WAIT_MAX + Duration::from_millis(5), "{waited:?}");
    let (_, waited) = call(&directory).await;
    assert!(waited < Duration::from_millis(5), "{waited:?}");
    assert_eq!(base.asked(), 1, "one question at a time");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(name(&directory).await.as_deref(), Some("one"));

    base.slow(0);
    base.away(true);
    pass(6).await;
    let before = base.asked();
    for _ in 0..50 {
        assert_eq!(name(&directory).await.as_deref(), Some("one"));
    }
    assert_eq!(base.asked(), before + 1, "not asked again at once");
    // A change that fails takes nothing away.
    assert!(directory.put(&tenant, config("two")).await.is_err());
    assert_eq!(name(&directory).await.as_deref(), Some("one"));
    base.0.agents.lock().unwrap().insert(tenant, config("one"));
    base.away(false);
    pass(3).await;
    assert_eq!(name(&directory).await.as_deref(), Some("one"));
    assert_eq!(base.asked(), before + 2);
}

#[tokio::test(start_paused = true)]
async fn what_was_read_before_a_change_does_not_come_back() {
    let (base, directory, tenant) = stage();
    base.slow(100);
    let (old, _) = tokio::join!(name(&directory), async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        base.slow(0);
        directory.put(&tenant, config("new")).await.unwrap();
        base.slow(100);
    });
    // The question was asked before, and answered after the change.
    assert_eq!(old.as_deref(), Some("new"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(name(&directory).await.as_deref(), Some("new"));
    assert_eq!(base.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn of_two_changes_at_once_the_database_says_which_counts() {
    let (base, directory, tenant) = stage();
    base.slow(10);
    let (one, two) = tokio::join!(
        directory.put(&tenant, config("one")),
        directory.put(&tenant, config("two"))
    );
    one.unwrap();
    two.unwrap();
    let kept = base.0.agents.lock().unwrap()[&tenant].agent_name.clone();
    assert_eq!(name(&directory).await, Some(kept));
}

#[tokio::test(start_paused = true)]
async fn so_many_tenants_are_remembered_and_no_more() {
    let (base, directory, _) = stage();
    for tenant in 0..TENANTS_MAX + 50 {
        assert!(directory.of_call(&tenant.to_string()).await.is_none());
    }
    assert_eq!(directory.tenants().len(), TENANTS_MAX);
    let before = base.asked();
    assert!(directory.of_call("1049").await.is_none());
    assert_eq!(base.asked(), before, "the latest are");
}
