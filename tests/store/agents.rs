//! Agents of tenants, on SQLite and PostgreSQL.

use serde_json::{Value, json};
use sipbridge::core::agents::{AgentConfig, TenantId, read};
use sipbridge::store::StoreError;

use crate::stage::Stage;

fn tenant(id: &str) -> TenantId {
    TenantId::parse(id).unwrap()
}

fn agent(value: Value) -> AgentConfig {
    read(value.as_object().unwrap().clone()).unwrap()
}

#[tokio::test]
async fn an_agent_is_put_read_replaced_and_removed() {
    for stage in Stage::both() {
        let store = stage.open().await;
        let (one, other) = (tenant("r-42"), tenant("Chez Léon's"));
        assert_eq!(store.agent(&one).await.unwrap(), None);
        assert!(!store.delete_agent(&one).await.unwrap());
        store.probe_agents().await.unwrap();

        let first = agent(
            json!({"agent_name": "Léa", "system_prompt": "\"Tu\"\nprends 'tout'.",
            "voice_settings": {"stability": 0.25}, "max_conversation_duration": 600}),
        );
        store.put_agent(&one, &first).await.unwrap();
        store.put_agent(&other, &first).await.unwrap();
        assert_eq!(store.agent(&one).await.unwrap(), Some(first.clone()));
        let second = agent(json!({"agent_name": "Max"}));
        store.put_agent(&one, &second).await.unwrap();
        store.close().await;

        let store = stage.open().await;
        assert_eq!(store.agent(&one).await.unwrap(), Some(second));
        assert_eq!(store.agent(&other).await.unwrap(), Some(first));
        assert!(store.delete_agent(&one).await.unwrap());
        assert_eq!(store.agent(&one).await.unwrap(), None);
        assert!(store.agent(&other).await.unwrap().is_some());
        store.close().await;
    }
}

#[tokio::test]
async fn what_others_wrote_is_judged_as_what_is_given() {
    for stage in Stage::both() {
        let store = stage.open().await;
        for (text, reason) in [
            ("[]", "it is no JSON object"),
            (
                r#"{"agent_name": "a", "mood": "secret"}"#,
                "mood is not a known field",
            ),
        ] {
            let sql = format!(
                "DELETE FROM agent_configs; INSERT INTO agent_configs VALUES ('r', '{text}', 0)"
            );
            stage.sql(&sql);
            let error = store.agent(&tenant("r")).await.unwrap_err();
            assert!(matches!(error, StoreError::Agent { .. }), "{error}");
            let told = error.to_string();
            assert!(told.ends_with(reason) && !told.contains("secret"), "{told}");
        }
        store.close().await;
    }
}
