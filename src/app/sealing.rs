//! Clear passwords of a lines file on their way into the database: encrypted
//! with the master key, where there is one.

use std::collections::HashMap;
use std::num::NonZero;
use std::thread;

use crate::core::key::MasterKey;
use crate::lines::Row;
use crate::lines::credentials::is_encrypted;
use crate::lines::row::{Column, LINE_COLUMNS};

const PASSWORD: &str = "sip_password";

/// Encrypts the passwords that are in clear; how many there were. One that the database
/// holds encrypted already stays as it is there, so that an import changes nothing twice.
/// Blocks for a key derivation each, side by side on all processors.
pub fn seal(rows: &mut [Row], stored: &[Row], key: &MasterKey) -> usize {
    let Some(column) = LINE_COLUMNS.iter().find(|column| column.name == PASSWORD) else {
        return 0;
    };
    let stored = stored
        .iter()
        .filter_map(|row| Some((row.id()?, row.get(PASSWORD)?)));
    let stored: HashMap<&str, &str> = stored.collect();
    let mut clear: Vec<&mut Row> = rows.iter_mut().filter(|row| is_clear(row)).collect();
    let count = clear.len();
    let side_by_side = thread::available_parallelism().map_or(1, NonZero::get);
    let share = count.div_ceil(side_by_side).max(1);
    thread::scope(|scope| {
        for rows in clear.chunks_mut(share) {
            let stored = &stored;
            scope.spawn(move || {
                rows.iter_mut()
                    .for_each(|row| seal_one(row, *column, stored, key));
            });
        }
    });
    count
}

fn is_clear(row: &Row) -> bool {
    let password = row.get(PASSWORD);
    row.id().is_some() && password.is_some_and(|it| !it.is_empty() && !is_encrypted(it))
}

fn seal_one(row: &mut Row, column: Column, stored: &HashMap<&str, &str>, key: &MasterKey) {
    let (Some(id), Some(password)) = (row.id(), row.secret(PASSWORD)) else {
        return;
    };
    let kept = stored.get(id).copied().filter(|kept| is_encrypted(kept));
    let kept = kept.filter(|kept| {
        let opened = key.decrypt(id, kept);
        opened.is_ok_and(|opened| opened.expose() == password.expose())
    });
    let sealed = kept.map_or_else(|| key.encrypt(id, &password), str::to_owned);
    row.set(column, Some(sealed));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const KEY: &str = "7a1f00c3d95be2864f0e6bd1a8c3957240e1f6ab83d2c95e17b4a6085fd3c921";

    fn row(id: &str, password: &str) -> Row {
        let value = json!({"id": id, "sipPassword": password});
        Row::from_object(LINE_COLUMNS, value.as_object().unwrap())
    }

    #[test]
    fn clear_passwords_are_encrypted_once() {
        let key = MasterKey::parse(KEY).unwrap();
        let mut rows = [row("a", "s3cret"), row("b", "AAAA:BBBB:CCCC"), row("c", "")];
        assert_eq!(seal(&mut rows, &[], &key), 1);
        let first = rows[0].get(PASSWORD).unwrap().to_owned();
        assert_eq!(key.decrypt("a", &first).unwrap().expose(), "s3cret");
        assert_eq!(rows[1].get(PASSWORD), Some("AAAA:BBBB:CCCC"));
        // The same file again, and one with another password.
        let stored = rows.clone();
        let mut again = [row("a", "s3cret")];
        seal(&mut again, &stored, &key);
        assert_eq!(again[0].get(PASSWORD), Some(first.as_str()));
        let mut other = [row("a", "n3w")];
        seal(&mut other, &stored, &key);
        let sealed = other[0].get(PASSWORD).unwrap();
        assert_eq!(key.decrypt("a", sealed).unwrap().expose(), "n3w");
    }
}
