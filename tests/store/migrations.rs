//! The tables: made from nothing, added to production's, twice, and refused.

use serde_json::json;
use sipbridge::lines::entry::{LineEntry, read_row};
use sipbridge::store::migrations::COUNT;
use sipbridge::store::{Location, Store, StoreError};

use crate::stage::{Stage, line, shown};

/// As a product written with an ORM makes it: UUIDs, an enum with a quoted
/// name, limited texts.
const PRODUCTION_UUID: &str = r#"
    CREATE TYPE "Phone Provider" AS ENUM ('sip', 'twilio');
    CREATE TABLE phone_lines (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        restaurant_id uuid NOT NULL,
        phone_number varchar(20) NOT NULL UNIQUE,
        provider "Phone Provider" NOT NULL DEFAULT 'twilio',
        sip_domain varchar(255),
        sip_username varchar(100),
        sip_password text,
        twilio_trunk_sid char(34),
        is_active boolean NOT NULL DEFAULT true,
        created_at timestamp NOT NULL
    );
    INSERT INTO phone_lines VALUES
        ('6ba7b810-9dad-11d1-80b4-00c04fd430c8', '6ba7b811-9dad-11d1-80b4-00c04fd430c8',
         '+33972360682', 'sip', 'sip.example.com', '0033972360682', 'a:b:c', NULL, true, now()),
        ('6ba7b812-9dad-11d1-80b4-00c04fd430c8', '6ba7b811-9dad-11d1-80b4-00c04fd430c8',
         '+33972360683', 'twilio', NULL, NULL, NULL, 'TK00000000000000000000000000000000', false, now());
"#;

/// Numbers for ids and flags.
const PRODUCTION_NUMBERS: &str = "
    CREATE TABLE phone_lines (
        id INTEGER PRIMARY KEY,
        restaurant_id INTEGER NOT NULL,
        phone_number VARCHAR(20) NOT NULL,
        provider VARCHAR(10) NOT NULL,
        sip_domain VARCHAR(255),
        sip_username VARCHAR(100),
        sip_password VARCHAR(500),
        twilio_trunk_sid VARCHAR(64),
        is_active SMALLINT NOT NULL,
        created_at BIGINT NOT NULL
    );
    INSERT INTO phone_lines VALUES
        (41, 7, '+33972360682', 'sip', 'sip.example.com', '0033972360682', 'pw', NULL, 1, 1700000000),
        (42, 7, '+33972360683', 'sip', 'sip.example.com', '0033972360683', NULL, NULL, 0, 1700000000);
";

fn is_line(row: &sipbridge::lines::Row) -> bool {
    matches!(read_row(row), LineEntry::Line(_))
}

#[tokio::test]
async fn from_nothing_and_again() {
    for stage in Stage::both() {
        assert!(stage.open().await.lines().await.unwrap().is_empty());
        let store = stage.open().await;
        store.insert_line(&line(json!({"id": "a"}))).await.unwrap();
        store.close().await;
        let store = stage.open().await;
        assert_eq!(store.lines().await.unwrap().len(), 1);
        assert_eq!(store.pending().await.unwrap(), 0);
        let done = stage.sql("SELECT COUNT(*) FROM _sqlx_migrations");
        assert_eq!(done, COUNT.to_string(), "each migration once");
    }
}

#[tokio::test]
async fn two_bridges_may_start_at_once() {
    let stage = Stage::postgres();
    let (one, two) = tokio::join!(stage.open(), stage.open());
    assert!(one.lines().await.unwrap().is_empty() && two.lines().await.unwrap().is_empty());
}

#[tokio::test]
async fn the_table_of_production_is_read_and_written_as_it_is() {
    let stage = Stage::postgres();
    stage.sql(PRODUCTION_UUID);
    let columns = "SELECT attname, atttypid, atttypmod, attnotnull FROM pg_attribute \
                   WHERE attrelid = 'phone_lines'::regclass AND attnum BETWEEN 1 AND 10 ORDER BY attnum";
    let before = stage.sql(columns);
    let rows = "SELECT id, restaurant_id, phone_number, provider, sip_domain, sip_username, \
                sip_password, twilio_trunk_sid, is_active, created_at FROM phone_lines ORDER BY id";
    let rows_before = stage.sql(rows);

    let store = stage.open().await;
    assert_eq!(stage.sql(columns), before);
    assert_eq!(stage.sql(rows), rows_before);

    let lines = store.lines().await.unwrap();
    assert_eq!(
        shown(&lines[0]),
        json!({"id": "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
            "restaurantId": "6ba7b811-9dad-11d1-80b4-00c04fd430c8", "phoneNumber": "+33972360682",
            "provider": "sip", "sipDomain": "sip.example.com", "sipUsername": "0033972360682",
            "sipPassword": "a:b:c", "isActive": true})
    );
    assert!(is_line(&lines[0]));
    assert!(matches!(read_row(&lines[1]), LineEntry::Twilio(_)));

    let id = store
        .insert_line(&line(
            json!({"restaurantId": "6ba7b811-9dad-11d1-80b4-00c04fd430c8",
            "phoneNumber": "+33972360684", "provider": "sip", "isActive": false}),
        ))
        .await
        .unwrap();
    assert_eq!(id.len(), 36);
    let changes =
        line(json!({"isActive": true, "maxConcurrentCalls": 3, "customParameters": {"a": 1}}));
    assert!(store.update_line(&id, &changes).await.unwrap());
    let stored = store.line(&id).await.unwrap().unwrap();
    assert_eq!(shown(&stored)["maxConcurrentCalls"], json!(3));
    assert!(is_line(&stored), "{stored:?}");
    let typed = stage.sql(&format!(
        "SELECT is_active AND created_at > now() - interval '2 days' FROM phone_lines WHERE id = '{id}'"
    ));
    assert_eq!(typed, "t");

    // Texts of a fixed or greatest length are stored whole, or refused.
    let trunk = format!("TK{}", "1".repeat(32));
    let whole = line(json!({"twilioTrunkSid": trunk}));
    assert!(store.update_line(&id, &whole).await.unwrap());
    let stored = store.line(&id).await.unwrap().unwrap();
    assert_eq!(stored.get("twilio_trunk_sid"), Some(trunk.as_str()));
    for (field, text) in [
        ("twilioTrunkSid", format!("{trunk}1")),
        ("sipUsername", "u".repeat(101)),
    ] {
        let long = line(json!({field: text}));
        let error = store.update_line(&id, &long).await.unwrap_err();
        assert!(matches!(error, StoreError::Values { .. }), "{error}");
    }

    let number = line(json!({"restaurantId": "no-uuid", "phoneNumber": "+33155667788"}));
    let error = store.insert_line(&number).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "database: inserting a line or server failed: invalid input syntax for type uuid"
    );
}

#[tokio::test]
async fn ids_and_flags_may_be_numbers() {
    for stage in Stage::both() {
        stage.sql(PRODUCTION_NUMBERS);
        let store = stage.open().await;
        let lines = store.lines().await.unwrap();
        assert_eq!((lines[0].id(), lines[1].id()), (Some("41"), Some("42")));
        assert!(is_line(&lines[0]));
        assert!(matches!(read_row(&lines[1]), LineEntry::Inactive(_)));
        assert!(
            store
                .update_line("42", &line(json!({"isActive": true})))
                .await
                .unwrap()
        );
        assert!(is_line(&store.line("42").await.unwrap().unwrap()));
        assert_eq!(
            stage.sql("SELECT is_active FROM phone_lines WHERE id = 42"),
            "1"
        );
        let new = line(
            json!({"id": 43, "restaurantId": 7, "phoneNumber": "+331", "provider": "sip", "isActive": false}),
        );
        assert_eq!(store.insert_line(&new).await.unwrap(), "43");
        let created = stage.sql("SELECT created_at FROM phone_lines WHERE id = 43");
        assert!(created.parse::<u64>().unwrap() > 1_700_000_000);
    }
}

#[tokio::test]
async fn only_the_columns_that_are_missing_are_added() {
    const OURS: [&str; 16] = [
        "sip_server_id",
        "max_concurrent_calls",
        "greeting",
        "announcement",
        "fallback_number",
        "custom_parameters",
        "ws_target",
        "voice_url",
        "voice_method",
        "voice_fallback_url",
        "voice_fallback_method",
        "status_callback",
        "status_callback_method",
        "friendly_name",
        "client_urls",
        "sip_headers",
    ];
    for stage_columns in [&OURS[2..3], &OURS[..]] {
        for stage in Stage::both() {
            let added = stage_columns.join(" TEXT, ");
            stage.sql(&format!(
                "CREATE TABLE phone_lines (id TEXT PRIMARY KEY, phone_number TEXT, {added} TEXT);
                 INSERT INTO phone_lines (id, greeting) VALUES ('a', 'a.wav')"
            ));
            let store = stage.open().await;
            assert_eq!(
                shown(&store.line("a").await.unwrap().unwrap()),
                json!({"id": "a", "greeting": "a.wav"})
            );
            let all = json!({"id": "b", "sipServerId": "s", "maxConcurrentCalls": 2,
                "greeting": "a.wav", "announcement": "b.wav", "fallbackNumber": "+331",
                "customParameters": {"a": 1}, "wsTarget": "ws://h", "voiceUrl": "http://h",
                "voiceMethod": "GET", "voiceFallbackUrl": "http://h", "voiceFallbackMethod": "GET",
                "statusCallback": "http://h", "statusCallbackMethod": "GET", "friendlyName": "Desk",
                "clientUrls": ["http://h"], "sipHeaders": {"a": "X-A"}});
            store.insert_line(&line(all.clone())).await.unwrap();
            assert_eq!(shown(&store.line("b").await.unwrap().unwrap()), all);
            store.close().await;
            // The list of migrations is as after any other start.
            stage.open().await.close().await;
            let columns = "SELECT COUNT(*) FROM phone_lines WHERE announcement IS NULL";
            assert_eq!(stage.sql(columns), "1");
        }
    }
}

#[tokio::test]
async fn a_role_that_does_not_own_the_table_needs_only_the_columns() {
    let Stage::Postgres(postgres) = Stage::postgres() else {
        panic!("PostgreSQL")
    };
    postgres.sql(PRODUCTION_UUID);
    postgres.sql(
        "CREATE ROLE bridge LOGIN; CREATE SCHEMA bridge AUTHORIZATION bridge;
        GRANT SELECT, INSERT, UPDATE, DELETE ON phone_lines TO bridge",
    );
    let url = postgres.url().replace("postgres@", "bridge@");
    let location = Location::Postgres {
        url: sipbridge::core::private::Secret::new(format!(
            "{url}&options=-c%20search_path%3Dbridge,public"
        )),
        shown: "the database".into(),
    };
    let refused = Store::open(&location).await.unwrap_err();
    assert!(matches!(refused, StoreError::Migrate { .. }), "{refused}");
    assert_eq!(
        refused.to_string(),
        "database the database: cannot be migrated: must be owner of table phone_lines"
    );
    postgres.sql(
        "ALTER TABLE phone_lines ADD sip_server_id text, ADD max_concurrent_calls int,
         ADD greeting text, ADD announcement text, ADD fallback_number text,
         ADD custom_parameters text, ADD ws_target text, ADD voice_url text,
         ADD voice_method text, ADD voice_fallback_url text, ADD voice_fallback_method text,
         ADD status_callback text, ADD status_callback_method text,
         ADD friendly_name text, ADD client_urls text, ADD sip_headers text,
         ADD twilio_auth_token text",
    );
    let store = Store::open(&location).await.unwrap();
    assert_eq!(
        store.lines().await.unwrap().len(),
        2,
        "production's, in its own schema"
    );
    let ours = postgres.sql("SELECT COUNT(*) FROM pg_tables WHERE schemaname = 'bridge'");
    assert_eq!(ours, "7", "six tables and the list of migrations");
}

#[tokio::test]
async fn looking_changes_nothing() {
    let stage = Stage::sqlite();
    let Location::Sqlite(path) = stage.location() else {
        panic!("a file")
    };
    assert!(Store::look(&stage.location()).await.unwrap().is_none());
    assert!(!path.exists());
    for stage in Stage::both() {
        stage.sql(PRODUCTION_NUMBERS);
        let store = Store::look(&stage.location()).await.unwrap().unwrap();
        assert_eq!(store.pending().await.unwrap(), COUNT);
        assert_eq!(store.lines().await.unwrap().len(), 2);
        assert!(store.servers().await.unwrap().is_empty());
        assert_eq!(store.fallback().await.unwrap(), None);
        store.close().await;
        if matches!(stage, Stage::Sqlite(_)) {
            assert_eq!(stage.sql("PRAGMA journal_mode"), "delete", "as it was");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_opened_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let open = async |path: &str| {
        let location = Location::Sqlite(folder.path().join(path));
        Store::open(&location).await.unwrap_err().to_string()
    };
    let error = open("missing/x.db").await;
    assert!(error.contains("cannot be opened: No such file"), "{error}");
    std::fs::write(
        folder.path().join("text.db"),
        "no database at all, but text\n".repeat(99),
    )
    .unwrap();
    let error = open("text.db").await;
    assert!(error.contains("file is not a database"), "{error}");
    let nobody = Location::Postgres {
        url: sipbridge::core::private::Secret::new("postgres://u:hunter2@127.0.0.1:1/x".into()),
        shown: "postgres://***@127.0.0.1:1/***".into(),
    };
    let error = Store::open(&nobody).await.unwrap_err().to_string();
    assert!(
        error.contains("refused") && !error.contains("hunter2"),
        "{error}"
    );
}

#[tokio::test]
async fn a_newer_database_is_refused() {
    let stage = Stage::sqlite();
    stage.open().await.close().await;
    stage.sql("INSERT INTO _sqlx_migrations SELECT 99, 'x', installed_on, 1, checksum, 0 FROM _sqlx_migrations LIMIT 1");
    let error = Store::open(&stage.location())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("it has migration 99, which this program does not know"),
        "{error}"
    );
}

#[tokio::test]
async fn the_file_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let stage = Stage::sqlite();
    stage.open().await;
    let Location::Sqlite(path) = stage.location() else {
        panic!("a file")
    };
    assert_eq!(
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[tokio::test]
async fn an_sqlite_file_is_for_one_bridge() {
    let folder = tempfile::tempdir().unwrap();
    let location = Location::Sqlite(folder.path().join("x.db"));
    let first = Store::open_alone(&location).await.unwrap();
    let second = Store::open_alone(&location).await.unwrap_err().to_string();
    assert!(second.contains("another bridge uses it"), "{second}");
    // Others may look into it, and write.
    Store::open(&location).await.unwrap();
    assert!(Store::look(&location).await.unwrap().is_some());
    drop(first);
    assert!(Store::open_alone(&location).await.is_ok());
}
