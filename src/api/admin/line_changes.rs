//! A change of a phone line, by whichever door it comes: `PATCH` of `phone-lines`, or Twilio's `/IncomingPhoneNumbers`.

use serde_json::{Map, Value};

use super::lines::{missing, stored};
use super::password;
use crate::api::control::Control;
use crate::api::fields::GivenFields;
use crate::api::problem::{Problem, ProblemKind};
use crate::core::outward::WrittenBy;
use crate::lines::Row;
use crate::lines::entry::{LineEntry, read_entry};
use crate::lines::line::FieldIssue;
use crate::lines::row::{CLIENT_URLS, Column, LINE_COLUMNS};
use crate::lines::way::{WEBHOOK_URLS, client_urls};
use crate::store::Store;

/// Fields that are objects: a change of one names its keys.
const OBJECTS: [&str; 2] = ["customParameters", "sipHeaders"];
/// How often parameters are merged anew, when another request changes them
/// meanwhile: each time one of those has got through.
const MERGES: usize = 20;
/// The column of the password.
pub(super) const PASSWORD: Column = LINE_COLUMNS[6];
/// The field of a token of Twilio's.
pub(super) const TOKEN: &str = "twilioAuthToken";

/// Changes the fields of a line that are given, and tells the bridge. The answer is the line as it is stored now.
///
/// # Errors
/// When there is no such line or no database, a field is at fault, or the database fails.
pub(in crate::api) async fn change_line(
    control: &Control,
    id: &str,
    mut given: GivenFields,
    by: WrittenBy,
) -> Result<Row, Problem> {
    let store = control.store()?;
    let mut before = stored(store, id).await?;
    given.keep_id(id);
    let changes = OBJECTS.map(|field| (field, given.get(field).cloned()));
    merge_objects(&mut given, &changes, &before);
    // What is wrong with other fields of an old row does not keep this from changing.
    let mut issues = issues(&given.over(&before), id);
    issues.retain(|issue| {
        let field = issue.field.split('.').next().unwrap_or_default();
        given.get(field).is_some()
    });
    given.add_issues(issues);
    check_server(store, &mut given).await?;
    password::seal(control, id, PASSWORD.json, &mut given).await?;
    password::seal(control, id, TOKEN, &mut given).await?;
    given.check()?;
    note_writer(&mut given, &before, by);
    for _ in 0..MERGES {
        if store.merge_line(id, &given.row(), &before).await? {
            control.lines.notify_changed();
            return store.line(id).await?.ok_or_else(missing);
        }
        before = stored(store, id).await?;
        merge_objects(&mut given, &changes, &before);
    }
    let detail = "the line was changed by others again and again: try once more";
    Err(Problem::new(ProblemKind::CONFLICT, detail))
}

/// Keeps which of the line's addresses a client wrote: those lead to where clients' addresses may, and nowhere else.
fn note_writer(given: &mut GivenFields, before: &Row, by: WrittenBy) {
    let named: Vec<String> = WEBHOOK_URLS
        .iter()
        .filter_map(|url| given.text(url))
        .collect();
    if WEBHOOK_URLS.iter().all(|url| given.get(url).is_none()) {
        return;
    }
    let after = given.over(before);
    let of_clients = client_urls(&after);
    let is_clients = |url: &&str| match by {
        WrittenBy::Client => named.iter().chain(&of_clients).any(|known| known == *url),
        WrittenBy::Operator => {
            let is_known = of_clients.iter().any(|known| known == *url);
            is_known && !named.iter().any(|known| known == *url)
        }
    };
    let in_use = WEBHOOK_URLS.iter();
    let in_use = in_use.filter_map(|url| after.get(*url).and_then(Value::as_str));
    let mut urls: Vec<&str> = in_use.filter(is_clients).collect();
    urls.sort_unstable();
    urls.dedup();
    let urls = match urls.is_empty() {
        true => Value::Null,
        false => urls.into(),
    };
    given.set(CLIENT_URLS.1, urls);
}

/// Everything wrong with a line's fields, also of one that is not to register.
pub(super) fn issues(object: &Map<String, Value>, id: &str) -> Vec<FieldIssue> {
    let mut object = object.clone();
    object.insert("id".into(), id.into());
    if object.get("isActive").is_some_and(Value::is_boolean) {
        object.remove("isActive");
    }
    if object.get("provider").is_some_and(|it| it == "twilio") {
        object.remove("provider");
    }
    match read_entry(object) {
        (LineEntry::Mistaken(_, issues), _) => issues,
        _ => Vec::new(),
    }
}

/// Keys that are not given stay, and null removes one (RFC 7396).
fn merge_objects(given: &mut GivenFields, changes: &[(&str, Option<Value>)], before: &Row) {
    for (field, changes) in changes {
        let Some(Value::Object(changes)) = changes else {
            continue;
        };
        let mut merged = match before.to_open_object(LINE_COLUMNS).remove(*field) {
            Some(Value::Object(known)) => known,
            _ => Map::new(),
        };
        for (key, value) in changes {
            if value.is_null() {
                merged.remove(key);
            } else {
                merged.insert(key.clone(), value.clone());
            }
        }
        given.set(field, Value::Object(merged));
    }
}

pub(super) async fn check_server(store: &Store, given: &mut GivenFields) -> Result<(), Problem> {
    let Some(server) = given.text("sipServerId").filter(|id| !id.is_empty()) else {
        return Ok(());
    };
    if store.server(&server).await?.is_none() {
        given.refuse("sipServerId", "is not the id of a SIP server".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::admin::lines::SPEC;
    use serde_json::json;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().expect("object").clone()
    }

    #[test]
    fn lines_that_are_not_to_register_are_checked_as_well() {
        for line in [
            json!({"isActive": false, "sipDomain": "sip:a@b"}),
            json!({"provider": "twilio", "sipDomain": "sip:a@b"}),
        ] {
            let found = issues(&object(line), "7");
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].field, "sipDomain");
        }
        assert!(issues(&object(json!({"isActive": false})), "7").is_empty());
    }

    #[test]
    fn parameters_are_merged_key_by_key() {
        let merged = |changes: Value| {
            let mut given = GivenFields::new(object(json!({"customParameters": changes})), &SPEC);
            let before = json!({"customParameters": {"a": "1", "b": "2"}});
            let before = Row::from_object(LINE_COLUMNS, &object(before));
            let changes = [("sipHeaders", None), ("customParameters", Some(changes))];
            merge_objects(&mut given, &changes, &before);
            assert_eq!(given.get("sipHeaders"), None);
            given.get("customParameters").cloned()
        };
        let expected = json!({"b": "3", "c": "4"});
        assert_eq!(
            merged(json!({"a": null, "b": "3", "c": "4"})),
            Some(expected)
        );
        assert_eq!(merged(Value::Null), Some(Value::Null));
    }

    #[test]
    fn what_a_client_writes_stays_the_clients_until_the_operator_writes_there() {
        let noted = |change: Value, before: Value, by: WrittenBy| {
            let mut given = GivenFields::new(object(change), &SPEC);
            let before = Row::from_object(LINE_COLUMNS, &object(before));
            note_writer(&mut given, &before, by);
            given.get("clientUrls").cloned()
        };
        let (client, operator) = (WrittenBy::Client, WrittenBy::Operator);
        let before = json!({"voiceUrl": "http://a", "statusCallback": "http://b",
            "clientUrls": ["http://a", "http://old"]});
        // Nothing of it is touched.
        assert_eq!(
            noted(json!({"greeting": "x"}), before.clone(), client),
            None
        );
        // One more of the client's; what stands nowhere is forgotten.
        let change = json!({"voiceFallbackUrl": "http://c"});
        let expected = json!(["http://a", "http://c"]);
        assert_eq!(noted(change, before.clone(), client), Some(expected));
        // The operator writes one, and the other stays.
        let change = json!({"statusCallback": "http://d"});
        let expected = json!(["http://a"]);
        assert_eq!(noted(change, before.clone(), operator), Some(expected));
        for change in [json!({"voiceUrl": "http://a"}), json!({"voiceUrl": null})] {
            let noted = noted(change, before.clone(), operator);
            assert_eq!(noted, Some(Value::Null), "{before}");
        }
    }
}
