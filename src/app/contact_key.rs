//! The key of the tokens in the lines' Contacts, the same over restarts where
//! that can be: registrars keep Contacts.

use tracing::warn;

use crate::core::access::contact_key::ContactKey;
use crate::core::key::MasterKey;
use crate::store::Store;

/// The setting that keeps it where there is no master key.
const SETTING: &str = "contact_key";

/// Derived from the master key where there is one, else what the database
/// keeps, else made for this run alone.
pub(super) async fn contact_key(master: Option<&MasterKey>, store: Option<&Store>) -> ContactKey {
    if let Some(master) = master {
        return ContactKey::derived(master);
    }
    let fresh = ContactKey::random();
    let Some(store) = store else {
        return fresh;
    };
    let kept = store.kept_secret(SETTING, &fresh.to_hex()).await;
    let kept = kept.map(|kept| kept.and_then(|text| ContactKey::parse(text.expose())));
    match kept {
        Ok(Some(key)) => key,
        Ok(None) => fresh,
        Err(error) => {
            warn!(%error, "the key of the lines' Contacts cannot be kept: until the lines have registered again, their registrars' calls are taken by address alone");
            fresh
        }
    }
}
