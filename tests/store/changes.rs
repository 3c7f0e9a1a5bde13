//! Noticing what somebody else wrote.

use std::time::Duration;

use serde_json::json;

use crate::stage::{Stage, line, server};

#[tokio::test(flavor = "multi_thread")]
async fn what_others_write_changes_the_mark_and_what_they_do_not_leaves_it() {
    for stage in Stage::both() {
        let store = stage.open().await;
        store
            .insert_line(&line(json!({"id": "a", "sipUsername": "1"})))
            .await
            .unwrap();
        let mut last = store.mark().await.unwrap();
        assert_eq!(store.mark().await.unwrap(), last, "nothing has changed");
        for sql in [
            "INSERT INTO phone_lines (id, sip_username) VALUES ('b', '2')",
            "UPDATE phone_lines SET sip_username = '3' WHERE id = 'b'",
            "UPDATE phone_lines SET is_active = (1 = 0) WHERE id = 'b'",
            "INSERT INTO sip_servers (id, trunk_uri) VALUES ('s', 'sip:a')",
            "UPDATE sip_servers SET trunk_uri = 'sip:b'",
            "INSERT INTO settings (name, value) VALUES ('fallback_sip_server_id', 's')",
            "DELETE FROM phone_lines WHERE id = 'b'",
        ] {
            stage.sql(sql);
            let mark = store.mark().await.unwrap();
            assert_ne!(mark, last, "{sql}");
            last = mark;
        }
        let snapshot = store.snapshot().await.unwrap();
        assert_eq!(snapshot.lines.len(), 1);
        assert_eq!(snapshot.servers[0].get("trunk_uri"), Some("sip:b"));
        assert_eq!(snapshot.fallback.as_deref(), Some("s"));
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_tells_of_lines_servers_and_settings_and_of_nothing_else() {
    let stage = Stage::postgres();
    let store = stage.open().await;
    let mut listener = store.listen().await.unwrap().unwrap();
    store
        .insert_line(&line(json!({"id": "a", "sipUsername": "1"})))
        .await
        .unwrap();
    listener.changed().await.unwrap();
    store
        .insert_server(&server(json!({"id": "s", "trunk_uri": "sip:a"})))
        .await
        .unwrap();
    listener.changed().await.unwrap();
    for sql in [
        "INSERT INTO settings VALUES ('fallback_sip_server_id', 's')",
        "TRUNCATE phone_lines",
    ] {
        stage.sql(sql);
        listener.changed().await.unwrap();
    }
    stage.sql("UPDATE calls SET outcome = 'x'");
    let silence = tokio::time::timeout(Duration::from_millis(500), listener.changed());
    assert!(silence.await.is_err());
    // A connection that is lost comes again, and counts as a change.
    stage.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'");
    listener.changed().await.unwrap();
    stage.sql("DELETE FROM sip_servers");
    let told = tokio::time::timeout(Duration::from_secs(10), listener.changed());
    told.await.unwrap().unwrap();
    drop(listener);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_right_to_make_triggers_the_rest_works() {
    let stage = Stage::postgres();
    stage.sql(
        "CREATE TABLE phone_lines (id text PRIMARY KEY, restaurant_id text, phone_number text,
            provider text, sip_domain text, sip_username text, sip_password text,
            twilio_trunk_sid text, is_active boolean, created_at timestamptz,
            sip_server_id text, max_concurrent_calls integer, greeting text,
            announcement text, fallback_number text, custom_parameters text, ws_target text,
            voice_url text, voice_method text, voice_fallback_url text,
            voice_fallback_method text, status_callback text, status_callback_method text,
            friendly_name text, client_urls text, sip_headers text,
            twilio_auth_token text);
         CREATE ROLE bridge LOGIN;
         GRANT ALL ON SCHEMA public TO bridge;
         GRANT SELECT, INSERT, UPDATE, DELETE ON phone_lines TO bridge",
    );
    let sipbridge::store::Location::Postgres { url, .. } = stage.location() else {
        unreachable!("PostgreSQL")
    };
    let location = sipbridge::store::Location::Postgres {
        url: sipbridge::core::private::Secret::new(
            url.expose()
                .replace("postgres://postgres@", "postgres://bridge@"),
        ),
        shown: "postgres".into(),
    };
    let store = sipbridge::store::Store::open(&location).await.unwrap();
    let before = store.mark().await.unwrap();
    stage.sql("INSERT INTO phone_lines (id) VALUES ('x')");
    assert_ne!(store.mark().await.unwrap(), before);
    let mut listener = store.listen().await.unwrap().unwrap();
    stage.sql("INSERT INTO sip_servers (id, trunk_uri) VALUES ('s', 'sip:a')");
    listener.changed().await.unwrap();
    drop(listener);
    store.close().await;
}
