//! `phone_lines` as other programs make it: ids that the database writes in
//! its own way or counts, rows that it refuses. The admin API and the import
//! of the lines file, with SQLite and PostgreSQL.

use serde_json::json;
use sipbridge::core::key::MasterKey;
use sipbridge::core::private::Secret;
use sipbridge::store::{Location, Store};
use tempfile::TempDir;

use crate::harness::bridge::{KEY, PASSWORD, Setup};
use crate::harness::postgres::Postgres;
use crate::harness::{Api, Bridge};

const LINES: &str = "/api/admin/telephony/phone-lines";
/// Columns after the id.
const REST: &str = "phone_number varchar(20) UNIQUE, sip_domain varchar(255), \
     sip_username varchar(100), sip_password text, is_active boolean DEFAULT true";

enum Base {
    Sqlite(TempDir),
    Postgres(Postgres),
}

impl Base {
    fn sqlite() -> Self {
        Self::Sqlite(TempDir::new().unwrap())
    }

    fn postgres() -> Self {
        Self::Postgres(Postgres::start())
    }

    fn location(&self) -> Location {
        match self {
            Self::Sqlite(dir) => Location::Sqlite(dir.path().join("other.db")),
            Self::Postgres(postgres) => Location::Postgres {
                url: Secret::new(postgres.url()),
                shown: "postgres".into(),
            },
        }
    }

    /// Runs SQL as another program would; the answer is what it prints.
    fn sql(&self, sql: &str) -> String {
        let Location::Sqlite(path) = self.location() else {
            let Self::Postgres(postgres) = self else {
                unreachable!("not SQLite")
            };
            return postgres.sql(sql);
        };
        let output = std::process::Command::new("sqlite3")
            .arg("-bail")
            .arg(path)
            .arg(sql)
            .output()
            .expect("sqlite3 must be installed; tests/run.sh installs it");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{sql}: {error}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A bridge with this database, and no lines file.
    fn setup(&self) -> Setup {
        let url = match self {
            Self::Sqlite(dir) => format!("sqlite://{}", dir.path().join("other.db").display()),
            Self::Postgres(postgres) => postgres.url(),
        };
        let target = ["--ws-target", "ws://127.0.0.1:9/x", "--database-url", &url];
        let mut setup = Setup::new().args(&target);
        setup.lines.clear();
        setup
    }

    async fn started(&self) -> (Bridge, Api) {
        let bridge = self.setup().start().await;
        let api = Api::of(&bridge);
        (bridge, api)
    }

    /// What the stored password of a line decrypts to, for the id as it is
    /// read back.
    async fn password(&self, id: &str) -> String {
        let store = Store::look(&self.location()).await.unwrap().unwrap();
        let row = store.line(id).await.unwrap().unwrap();
        store.close().await;
        let key = MasterKey::parse(KEY).unwrap();
        let text = row.get("sip_password").unwrap();
        key.decrypt(row.id().unwrap(), text)
            .unwrap()
            .expose()
            .to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_sealed_for_the_id_as_it_is_read_back() {
    const UUID: &str = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
    for (base, id_type, given, stored) in [
        (Base::postgres(), "uuid", UUID.to_uppercase(), UUID),
        (Base::sqlite(), "INTEGER", "007".into(), "7"),
    ] {
        base.sql(&format!(
            "CREATE TABLE phone_lines (id {id_type} PRIMARY KEY, {REST});
             CREATE TABLE sip_servers (id {id_type} PRIMARY KEY, label text, trunk_uri text, password text)"
        ));
        let (bridge, api) = base.started().await;
        let line = json!({"id": given, "sipUsername": "u", "sipPassword": PASSWORD});
        let made = api.post(LINES, &line).await;
        assert_eq!(made.expect(201)["id"], stored);
        assert_eq!(made.headers["location"], format!("{LINES}/{stored}"));
        assert_eq!(base.password(stored).await, PASSWORD);
        api.post(LINES, &line).await.problem(409, "taken");

        let servers = "/api/admin/telephony/sip-servers";
        let server = json!({"id": given, "trunk_uri": "sip:a.example", "password": PASSWORD});
        let made = api.post(servers, &server).await.expect(201);
        assert_eq!(made["id"], stored);
        let sealed = base.sql("SELECT password FROM sip_servers");
        let key = MasterKey::parse(KEY).unwrap();
        assert_eq!(key.decrypt(stored, &sealed).unwrap().expose(), PASSWORD);
        bridge.shut_down().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_the_database_refuses_is_named_and_the_others_start() {
    for base in [Base::sqlite(), Base::postgres()] {
        base.sql(&format!(
            "CREATE TABLE phone_lines (id INTEGER PRIMARY KEY, {REST});
             INSERT INTO phone_lines (id, phone_number, is_active) VALUES (1, '+33142000001', false)"
        ));
        let mut setup = base.setup();
        for (id, number) in [("02", "2"), ("3", "1"), ("4", "4")] {
            let number = format!("+3314200000{number}");
            let line = json!({"id": id, "phoneNumber": number, "sipUsername": "u",
                "sipDomain": "127.0.0.1:9"});
            setup = setup.line(line);
        }
        let bridge = setup.start().await;
        let output = bridge.output();
        assert!(
            output.contains(": line \"3\" (entry 2): the database does not take it"),
            "{output}"
        );
        let summary = "new=2 changed=0 unchanged=0 refused=1";
        assert!(output.contains(summary), "{output}");
        assert!(!output.contains("+3314200000"), "a number is in the log");
        let page = Api::of(&bridge).get(LINES).await.expect(200);
        let shown: Vec<_> = page["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|line| (line["id"].as_str().unwrap(), line["server"].as_str()))
            .collect();
        let server = Some("127.0.0.1:9");
        assert_eq!(shown[1..], [("2", server), ("4", server)]);
        let health: serde_json::Value = serde_json::from_str(&bridge.health().await.body).unwrap();
        assert_eq!(health["lines"]["unusable"], 1, "{health}");
        bridge.shut_down().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_another_table_refers_to_stays() {
    for base in [Base::sqlite(), Base::postgres()] {
        base.sql(&format!(
            "CREATE TABLE phone_lines (id TEXT PRIMARY KEY, {REST});
             CREATE TABLE orders (line_id TEXT REFERENCES phone_lines (id));
             INSERT INTO phone_lines (id) VALUES ('a');
             INSERT INTO orders VALUES ('a')"
        ));
        let (bridge, api) = base.started().await;
        let path = format!("{LINES}/a");
        let problem = api.delete(&path).await.problem(409, "conflict");
        let detail = problem["detail"].as_str().unwrap().to_lowercase();
        assert!(detail.contains("foreign key constraint"), "{detail}");
        api.get(&path).await.expect(200);
        base.sql("DELETE FROM orders");
        assert_eq!(api.delete(&path).await.status, 204);
        bridge.shut_down().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_the_database_counts_go_on_being_counted() {
    for (base, id_type) in [
        (Base::sqlite(), "INTEGER PRIMARY KEY"),
        (Base::postgres(), "SERIAL PRIMARY KEY"),
        (
            Base::postgres(),
            "integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
        ),
    ] {
        base.sql(&format!("CREATE TABLE phone_lines (id {id_type}, {REST})"));
        let theirs = "INSERT INTO phone_lines (phone_number) VALUES (NULL)";
        base.sql(theirs);
        let (bridge, api) = base.started().await;
        let line = json!({"sipUsername": "u", "sipPassword": PASSWORD});
        assert_eq!(api.post(LINES, &line).await.expect(201)["id"], "2");
        assert_eq!(base.password("2").await, PASSWORD);
        let without = json!({"sipUsername": "u", "sipPassword": null});
        let made = api.post(LINES, &without).await.expect(201);
        assert_eq!(
            (&made["id"], &made["hasPassword"]),
            (&json!("3"), &json!(false))
        );
        base.sql(theirs);
        let ids = "SELECT id FROM phone_lines ORDER BY id";
        assert_eq!(base.sql(ids), "1\n2\n3\n4");

        // A password that cannot be sealed leaves no row behind.
        let foreign = json!({"sipUsername": "u", "sipPassword": "iv:tag:text"});
        assert_eq!(api.post(LINES, &foreign).await.faulty(), ["sipPassword"]);
        assert_eq!(base.sql(ids), "1\n2\n3\n4");
        if id_type.contains("ALWAYS") {
            let own = api.post(LINES, &json!({"id": 9})).await;
            own.problem(422, "invalid");
        }
        bridge.shut_down().await;
    }
}
