//! Lines, servers, the fallback server and the import.

use serde_json::json;
use sipbridge::store::{Imported, Removal, StoreError};

use crate::stage::{Stage, line, server, shown};

#[tokio::test]
async fn lines_are_inserted_changed_and_removed() {
    for stage in Stage::both() {
        let store = stage.open().await;
        let whole = json!({"id": "l1", "restaurantId": "7", "phoneNumber": "+33972360682",
            "provider": "sip", "sipDomain": "sip.example.com", "sipUsername": "0033",
            "sipPassword": "iv:tag:text", "twilioTrunkSid": "TK1", "isActive": true,
            "sipServerId": "s", "maxConcurrentCalls": 2, "greeting": "a.wav",
            "announcement": "b.wav", "fallbackNumber": "+331",
            "customParameters": {"lang": "fr", "tables": 12}, "wsTarget": "ws://h/x",
            "voiceUrl": "http://h/v", "voiceMethod": "GET", "voiceFallbackUrl": "http://h/f",
            "voiceFallbackMethod": "POST", "statusCallback": "http://h/s",
            "statusCallbackMethod": "GET", "friendlyName": "Desk", "clientUrls": ["http://h/v"],
            "sipHeaders": {"a": "X-A"}});
        assert_eq!(store.insert_line(&line(whole.clone())).await.unwrap(), "l1");
        let stored = store.line("l1").await.unwrap().unwrap();
        assert_eq!(shown(&stored), whole);
        assert!(stored.get("created_at").unwrap().starts_with("20"));

        let taken = store
            .insert_line(&line(json!({"id": "l1"})))
            .await
            .unwrap_err();
        assert!(
            matches!(&taken, StoreError::Taken(id) if id == "l1"),
            "{taken}"
        );

        let changes = line(json!({"greeting": null, "isActive": false}));
        assert!(store.update_line("l1", &changes).await.unwrap());
        let stored = shown(&store.line("l1").await.unwrap().unwrap());
        assert_eq!(
            (stored.get("greeting"), &stored["isActive"]),
            (None, &json!(false))
        );
        assert_eq!(stored["announcement"], "b.wav", "what is not named stays");
        assert!(!store.update_line("l2", &changes).await.unwrap());
        assert!(store.update_line("l1", &line(json!({}))).await.unwrap());
        assert!(!store.update_line("l2", &line(json!({}))).await.unwrap());

        let made_up = store
            .insert_line(&line(json!({"provider": "sip"})))
            .await
            .unwrap();
        assert_eq!(made_up.len(), 36);
        assert!(store.delete_line("l1").await.unwrap());
        assert!(!store.delete_line("l1").await.unwrap());
        let ids: Vec<_> = store.lines().await.unwrap();
        assert_eq!(ids.len(), 1);
    }
}

#[tokio::test]
async fn only_an_id_that_is_there_is_taken() {
    for stage in Stage::both() {
        stage.sql("CREATE TABLE phone_lines (id TEXT PRIMARY KEY, phone_number TEXT UNIQUE)");
        let store = stage.open().await;
        let insert = async |id: &str, number: &str| {
            let row = line(json!({"id": id, "phoneNumber": number}));
            store.insert_line(&row).await
        };
        insert("a", "+331").await.unwrap();
        let taken = insert("a", "+332").await.unwrap_err();
        assert!(
            matches!(&taken, StoreError::Taken(id) if id == "a"),
            "{taken}"
        );
        let twin = insert("b", "+331").await.unwrap_err();
        assert!(matches!(twin, StoreError::Values { .. }), "{twin}");
        let twin = twin.to_string();
        assert!(
            twin.contains("phone_number") && !twin.contains("+331"),
            "{twin}"
        );
        insert("b", "+332").await.unwrap();
    }
}

#[tokio::test]
async fn values_are_data_and_not_sql() {
    let odd = "'; DROP TABLE phone_lines; -- \" $1 ? é\\";
    for stage in Stage::both() {
        let store = stage.open().await;
        store
            .insert_line(&line(json!({"id": odd, "greeting": odd})))
            .await
            .unwrap();
        assert!(
            store
                .update_line(odd, &line(json!({"announcement": odd})))
                .await
                .unwrap()
        );
        let stored = store.line(odd).await.unwrap().unwrap();
        assert_eq!(
            (stored.get("greeting"), stored.get("announcement")),
            (Some(odd), Some(odd))
        );
    }
}

#[tokio::test]
async fn servers_stay_while_they_are_in_use() {
    for stage in Stage::both() {
        let store = stage.open().await;
        let whole = json!({"id": "s1", "label": "OVH", "trunk_uri": "sip:sip.example.com;transport=tls",
            "username": "u", "password": "p", "contact_host": "c.example", "contact_port": 5071,
            "contact_transport": "tls"});
        store.insert_server(&server(whole.clone())).await.unwrap();
        let columns = sipbridge::lines::row::SERVER_COLUMNS;
        let stored = store.server("s1").await.unwrap().unwrap();
        assert_eq!(serde_json::Value::Object(stored.to_object(columns)), whole);
        assert!(
            store
                .update_server("s1", &server(json!({"label": "X"})))
                .await
                .unwrap()
        );
        assert_eq!(store.servers().await.unwrap()[0].get("label"), Some("X"));

        store
            .insert_line(&line(json!({"id": "b", "sipServerId": "s1"})))
            .await
            .unwrap();
        store
            .insert_line(&line(json!({"id": "a", "sipServerId": "s1"})))
            .await
            .unwrap();
        store.set_fallback(Some("s1")).await.unwrap();
        assert_eq!(store.fallback().await.unwrap().as_deref(), Some("s1"));
        let lines = vec!["a".to_owned(), "b".to_owned()];
        let in_use = store.delete_server("s1").await.unwrap();
        assert_eq!(
            in_use,
            Removal::InUse {
                lines,
                fallback: true
            }
        );
        store.delete_line("a").await.unwrap();
        store.delete_line("b").await.unwrap();
        let in_use = store.delete_server("s1").await.unwrap();
        assert_eq!(
            in_use,
            Removal::InUse {
                lines: vec![],
                fallback: true
            }
        );
        store.set_fallback(None).await.unwrap();
        assert_eq!(store.fallback().await.unwrap(), None);
        assert_eq!(store.delete_server("s1").await.unwrap(), Removal::Done);
        assert_eq!(store.delete_server("s1").await.unwrap(), Removal::Missing);
    }
}

/// Where the owner of the table has added our columns, with types of its own.
#[tokio::test]
async fn a_server_that_is_named_by_a_number_stays_as_well() {
    for stage in Stage::both() {
        stage.sql("CREATE TABLE phone_lines (id TEXT PRIMARY KEY, sip_server_id INTEGER)");
        let store = stage.open().await;
        for id in ["7", "8"] {
            let uri = json!({"id": id, "trunk_uri": "sip:a.example"});
            store.insert_server(&server(uri)).await.unwrap();
        }
        let named = line(json!({"id": "a", "sipServerId": 7}));
        store.insert_line(&named).await.unwrap();
        let in_use = Removal::InUse {
            lines: vec!["a".to_owned()],
            fallback: false,
        };
        assert_eq!(store.delete_server("7").await.unwrap(), in_use);
        assert_eq!(store.delete_server("8").await.unwrap(), Removal::Done);
    }
}

#[tokio::test]
async fn an_import_inserts_and_updates_by_id() {
    for stage in Stage::both() {
        let store = stage.open().await;
        store
            .insert_line(&line(json!({"id": "other"})))
            .await
            .unwrap();
        let rows = [
            line(
                json!({"id": "a", "sipUsername": "1", "isActive": true, "customParameters": {"x": 1}}),
            ),
            line(json!({"id": 2, "sipUsername": "2"})),
        ];
        let ids = |ids: &[&str]| ids.iter().map(|&id| id.to_owned()).collect::<Vec<_>>();
        let first = store.import(&rows).await.unwrap();
        assert_eq!(
            first,
            Imported {
                inserted: ids(&["a", "2"]),
                ..Imported::default()
            }
        );
        let again = store.import(&rows).await.unwrap();
        assert_eq!(
            again,
            Imported {
                unchanged: 2,
                ..Imported::default()
            }
        );

        store
            .update_line("2", &line(json!({"greeting": "g.wav"})))
            .await
            .unwrap();
        let changed = [
            rows[0].clone(),
            line(json!({"id": "2", "sipUsername": "3"})),
        ];
        let third = store.import(&changed).await.unwrap();
        let expected = Imported {
            updated: ids(&["2"]),
            unchanged: 1,
            ..Imported::default()
        };
        assert_eq!(third, expected);
        let stored = store.line("2").await.unwrap().unwrap();
        assert_eq!(
            (stored.get("sip_username"), stored.get("greeting")),
            (Some("3"), Some("g.wav"))
        );
        assert_eq!(store.lines().await.unwrap().len(), 3);
    }
}

#[tokio::test]
async fn a_row_that_is_refused_keeps_no_other_back() {
    for stage in Stage::both() {
        stage.sql(
            "CREATE TABLE phone_lines (id INTEGER PRIMARY KEY, phone_number varchar(20) UNIQUE,
                sip_username varchar(3) NOT NULL CHECK (sip_username <> 'bad'));
             INSERT INTO phone_lines VALUES (1, '+331', 'old')",
        );
        let store = stage.open().await;
        let row = |id: &str, number: &str, name: &str| {
            line(json!({"id": id, "phoneNumber": number, "sipUsername": name}))
        };
        let rows = [
            row("1", "+331", "bad"),
            row("2", "+332", "two"),
            row("3", "+332", "3"),
            line(json!({"id": 4})),
            line(json!({"id": 5, "sipUsername": "5", "sipDomain": "a.example"})),
            row("letters", "+336", "6"),
            row("7", "+337", "7"),
        ];
        let imported = store.import(&rows).await.unwrap();
        assert_eq!(imported.inserted, ["2", "7"]);
        assert_eq!((imported.updated.len(), imported.unchanged), (0, 0));
        let reasons: Vec<_> = imported
            .refused
            .iter()
            .map(|refused| (refused.place, refused.reason.as_str()))
            .collect();
        let places: Vec<_> = reasons.iter().map(|(place, _)| *place).collect();
        assert_eq!(places, [0, 2, 3, 4, 5], "{reasons:?}");
        for ((_, reason), part) in reasons.iter().zip([
            "CHECK",
            "phone_number",
            "sip_username",
            "has no column sip_domain",
            "",
        ]) {
            let reason = reason.replace("check constraint", "CHECK");
            assert!(reason.contains(part), "{reason}");
        }
        let names = "SELECT id || sip_username FROM phone_lines ORDER BY id";
        assert_eq!(stage.sql(names), "1old\n2two\n77");
        // The connection is as good as new.
        let again = store.import(&rows).await.unwrap();
        assert_eq!((again.unchanged, again.refused.len()), (2, 5));
    }
}

#[tokio::test]
async fn a_number_may_move_to_another_line_in_one_file() {
    for stage in Stage::both() {
        stage.sql(
            "CREATE TABLE phone_lines (id INTEGER PRIMARY KEY, phone_number varchar(20) UNIQUE);
             INSERT INTO phone_lines VALUES (1, '+331')",
        );
        let store = stage.open().await;
        let row = |id: u32, number: &str| line(json!({"id": id, "phoneNumber": number}));
        let rows = [row(2, "+331"), row(1, "+332"), row(3, "+332")];
        let imported = store.import(&rows).await.unwrap();
        assert_eq!(imported.updated, ["1"]);
        assert_eq!(imported.inserted, ["2"]);
        let refused: Vec<_> = imported.refused.iter().map(|row| row.place).collect();
        assert_eq!(refused, [2]);
    }
}

/// As some ORMs make every foreign key.
#[tokio::test]
async fn a_constraint_that_waits_for_the_commit_refuses_its_row_alone() {
    let stage = Stage::postgres();
    stage.sql(
        "CREATE TABLE restaurants (id integer PRIMARY KEY);
         INSERT INTO restaurants VALUES (7);
         CREATE TABLE phone_lines (id text PRIMARY KEY, restaurant_id integer
            REFERENCES restaurants (id) DEFERRABLE INITIALLY DEFERRED)",
    );
    let store = stage.open().await;
    let rows = [("a", 8), ("b", 7)].map(|(id, restaurant)| {
        let row = json!({"id": id, "restaurantId": restaurant});
        line(row)
    });
    let imported = store.import(&rows).await.unwrap();
    assert_eq!(imported.inserted, ["b"]);
    assert_eq!(imported.refused[0].place, 0);
    let reason = &imported.refused[0].reason;
    assert!(reason.contains("restaurant_id"), "{reason}");
}

#[tokio::test]
async fn an_import_finds_its_lines_however_the_file_writes_their_ids() {
    for stage in Stage::both() {
        stage.sql(
            "CREATE TABLE phone_lines (id INTEGER PRIMARY KEY, sip_username varchar(9));
             INSERT INTO phone_lines VALUES (7, 'old')",
        );
        let store = stage.open().await;
        let row = |id: &str, name: &str| line(json!({"id": id, "sipUsername": name}));
        let rows = [row("007", "new"), row("08", "8")];
        let first = store.import(&rows).await.unwrap();
        assert_eq!(
            (&first.updated[..], &first.inserted[..]),
            (&["7".to_owned()][..], &["8".to_owned()][..])
        );
        assert_eq!(store.import(&rows).await.unwrap().unchanged, 2);
        let twins = [row("7", "new"), row("007", "twin")];
        let imported = store.import(&twins).await.unwrap();
        assert_eq!((imported.unchanged, imported.refused.len()), (1, 1));
        assert_eq!(
            stage.sql("SELECT sip_username FROM phone_lines WHERE id = 7"),
            "new"
        );
    }
}

#[tokio::test]
async fn an_import_that_the_database_fails_changes_nothing() {
    let stage = Stage::postgres();
    let store = stage.open().await;
    stage.sql(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END';
         CREATE TRIGGER fail BEFORE INSERT ON phone_lines FOR EACH ROW WHEN (NEW.id = 'b')
            EXECUTE FUNCTION fail()",
    );
    let rows = [line(json!({"id": "a"})), line(json!({"id": "b"}))];
    let error = store.import(&rows).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(store.lines().await.unwrap().is_empty());
    store.import(&rows[..1]).await.unwrap();
    assert_eq!(store.lines().await.unwrap().len(), 1);
}
