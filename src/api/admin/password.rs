//! Passwords on their way into the database: encrypted with the master key,
//! the row's id as salt. None is stored in clear.

use crate::api::control::Control;
use crate::api::fields::GivenFields;
use crate::api::problem::{Problem, ProblemKind};
use crate::core::key::MasterKey;
use crate::core::private::Secret;
use crate::lines::Row;
use crate::lines::credential_cache::gently;
use crate::lines::credentials::{CredentialError, check_form, is_encrypted};
use crate::lines::row::Column;
use crate::store::Begun;

/// Puts what is to be stored in the place of the password that was given.
/// A password that cannot be stored is reported as a mistake of its field.
///
/// # Errors
/// When the derivation of the key fails to run.
pub async fn seal(
    control: &Control,
    id: &str,
    field: &'static str,
    given: &mut GivenFields,
) -> Result<(), Problem> {
    let Some(password) = given.take_password(field) else {
        return Ok(());
    };
    let Some(password) = password else {
        given.set(field, serde_json::Value::Null);
        return Ok(());
    };
    match sealed(control, id, password).await? {
        Ok(text) => given.set(field, text.into()),
        Err(reason) => given.refuse(field, reason),
    }
    Ok(())
}

/// As [`seal`], for a new row: gives it its id as well. `None` is an id that
/// the database counts by itself: the answer is the password that waits for
/// it, see [`insert_counted`].
///
/// # Errors
/// As [`seal`].
pub async fn seal_new(
    control: &Control,
    id: Option<String>,
    field: &'static str,
    given: &mut GivenFields,
) -> Result<Option<Secret>, Problem> {
    match id {
        Some(id) => {
            given.set("id", id.as_str().into());
            seal(control, &id, field, given).await?;
            Ok(None)
        }
        None => Ok(given.take_password(field).flatten()),
    }
}

/// Seals a password for the id that the database has counted. The answer is
/// the id. A number of our own would be in the way of the next that the
/// database counts.
///
/// # Errors
/// When the password cannot be stored, or the database fails; the row is not
/// there then.
pub async fn insert_counted(
    control: &Control,
    begun: Begun,
    password: Secret,
    column: Column,
) -> Result<String, Problem> {
    let text = sealed(control, begun.id(), password).await?;
    let text = text.map_err(|reason| Problem::field(column.json, reason))?;
    let mut row = Row::default();
    row.set(column, Some(text));
    Ok(begun.finish(&row).await?)
}

/// What is to be stored, or why nothing can be.
async fn sealed(
    control: &Control,
    id: &str,
    password: Secret,
) -> Result<Result<String, String>, Problem> {
    let (key, id) = (control.key.clone(), id.to_owned());
    // 20 ms of CPU, after everything that callers hear.
    let sealed =
        tokio::task::spawn_blocking(move || gently(move || stored(key.as_ref(), &id, &password)));
    sealed.await.map_err(|error| {
        tracing::error!(%error, "a password was not encrypted");
        Problem::new(ProblemKind::INTERNAL, "the password was not encrypted")
    })
}

fn stored(key: Option<&MasterKey>, id: &str, password: &Secret) -> Result<String, String> {
    let text = password.expose();
    if text.is_empty() {
        return Err("is empty: write null where no password is needed".into());
    }
    let as_given = |checked: Result<(), CredentialError>| match checked {
        Ok(()) => Ok(text.to_owned()),
        Err(error) => Err(format!(
            "{error} (a value with two colons counts as encrypted, iv:tag:ciphertext)"
        )),
    };
    match (key, is_encrypted(text)) {
        (Some(key), true) => as_given(key.decrypt(id, text).map(drop)),
        (Some(key), false) => Ok(key.encrypt(id, password)),
        (None, true) => as_given(check_form(text)),
        (None, false) => Err("cannot be stored: no password is kept in clear, and this bridge \
             has no --encryption-key (ENCRYPTION_KEY) to encrypt it with. Start it with one, or send the \
             output of `sipbridge encrypt --line-id ID` together with that id"
            .into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> MasterKey {
        MasterKey::parse(&"0f".repeat(32)).expect("valid")
    }

    fn secret(text: &str) -> Secret {
        Secret::new(text.to_owned())
    }

    #[test]
    fn with_a_key_it_is_encrypted_for_its_row_alone() {
        let key = key();
        let text = stored(Some(&key), "7", &secret("hunter2")).expect("stored");
        assert!(is_encrypted(&text) && !text.contains("hunter2"));
        assert_eq!(key.decrypt("7", &text).expect("opens").expose(), "hunter2");
        // As given, when it is encrypted already.
        let again = stored(Some(&key), "7", &secret(&text));
        assert_eq!(again, Ok(text.clone()));
        let elsewhere = stored(Some(&key), "8", &secret(&text)).expect_err("another salt");
        assert!(elsewhere.contains("does not decrypt"), "{elsewhere}");
        assert!(stored(Some(&key), "7", &secret("a:b:c")).is_err());
        assert!(stored(Some(&key), "7", &secret("")).is_err());
    }

    #[test]
    fn without_a_key_nothing_is_stored_in_clear() {
        let refused = stored(None, "7", &secret("hunter2")).expect_err("no key");
        assert!(refused.contains("--encryption-key") && !refused.contains("hunter2"));
        let text = key().encrypt("7", &secret("hunter2"));
        assert_eq!(stored(None, "7", &secret(&text)), Ok(text.clone()));
        // A clear one with two colons is not an encrypted one.
        for clear in ["my:secret:pw", "Zm9v:YmFy:cHc=", "::"] {
            let refused = stored(None, "7", &secret(clear)).expect_err(clear);
            assert!(refused.contains("two colons") && !refused.contains(clear));
        }
    }
}
