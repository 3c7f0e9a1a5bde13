//! The one account: what a bot has as `TWILIO_ACCOUNT_SID` and
//! `TWILIO_AUTH_TOKEN`, sent by Basic (RFC 7617) with each request.

use axum::extract::Request;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::PREFIX;
use super::error::{Code, TwilioError};
use crate::api::access::{Peer, same, wrong_token};
use crate::api::audit::Who;
use crate::core::ids::AccountSid;
use crate::core::private::Secret;

/// The account of this bridge, and of all that share its lines.
#[derive(Clone, Debug)]
pub struct Account {
    /// `--account-sid`.
    pub sid: AccountSid,
    /// `--auth-token`; without it this API is off.
    token: Option<Secret>,
}

/// Shortest token that opens this API: what is shorter is a word, and can be guessed.
const TOKEN_MIN: usize = 17;

impl Account {
    /// The account with this token, where there is one that cannot be guessed.
    #[must_use]
    pub fn new(sid: AccountSid, token: Option<Secret>) -> Self {
        let token = token.filter(|token| token.expose().len() >= TOKEN_MIN);
        Self { sid, token }
    }
}

/// Lets a request to Twilio's API in, or answers it. A browser sends no Basic that it was not
/// given, so `Host` and `Origin` do not matter here: bots come by any name.
pub(in crate::api) async fn guard(account: &Account, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<Peer>().cloned();
    let Some(token) = &account.token else {
        let text = "Twilio's REST API is off: start the bridge with an --auth-token (AUTH_TOKEN) of 17 characters or more";
        return TwilioError::new(Code::NOT_FOUND, text).into_response();
    };
    if let Err(error) = check(account, token, request.uri().path(), request.headers()) {
        if request.headers().contains_key(AUTHORIZATION) {
            wrong_token(peer.as_ref()).await;
        }
        return error.into_response();
    }
    let who = Who::Token(peer.map(|peer| peer.address));
    request.extensions_mut().insert(who);
    next.run(request).await
}

fn check(
    account: &Account,
    token: &Secret,
    path: &str,
    headers: &HeaderMap,
) -> Result<(), TwilioError> {
    let refused = |text| Err(TwilioError::new(Code::UNAUTHORIZED, text));
    let offered = headers.get(AUTHORIZATION);
    let Some(offered) = offered.and_then(|header| basic(header.as_bytes())) else {
        return refused("send AccountSid and AuthToken by Basic: --account-sid and --auth-token");
    };
    let wanted = Zeroizing::new(format!("{}:{}", account.sid, token.expose()));
    if !same(wanted.as_bytes(), &offered) {
        return refused("these are not the --account-sid and --auth-token of this bridge");
    }
    if account_of(path) != Some(account.sid.as_str()) {
        return refused("the path names another account");
    }
    Ok(())
}

/// What stands behind `Basic`, in any case.
fn basic(header: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (scheme, credentials) = header.split_at_checked(6)?;
    let is_basic = scheme.eq_ignore_ascii_case(b"basic ");
    let credentials = is_basic.then(|| credentials.trim_ascii())?;
    STANDARD.decode(credentials).ok().map(Zeroizing::new)
}

/// The account in `/2010-04-01/Accounts/AC….json` or `/2010-04-01/Accounts/AC…/…`.
fn account_of(path: &str) -> Option<&str> {
    let rest = path.strip_prefix(PREFIX)?.strip_prefix("Accounts/")?;
    let account = rest.split('/').next()?;
    Some(account.strip_suffix(".json").unwrap_or(account))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    fn answer(credentials: Option<&str>, path: &str) -> u16 {
        let account = Account::new(AccountSid::of_node("n"), Some(Secret::new(TOKEN.into())));
        let path = path.replace("{sid}", account.sid.as_str());
        let mut headers = HeaderMap::new();
        if let Some(credentials) = credentials {
            let credentials = credentials.replace("{sid}", account.sid.as_str());
            let value = format!("Basic {}", STANDARD.encode(credentials));
            headers.insert(AUTHORIZATION, value.parse().expect("a header"));
        }
        let token = account.token.clone().expect("one");
        check(&account, &token, &path, &headers).map_or_else(|error| error.status(), |()| 200)
    }

    #[test]
    fn only_the_account_and_its_token_open_and_only_its_own_paths() {
        let calls = "/2010-04-01/Accounts/{sid}/Calls.json";
        let right = format!("{{sid}}:{TOKEN}");
        assert_eq!(answer(Some(&right), calls), 200);
        assert_eq!(answer(Some(&right), "/2010-04-01/Accounts/{sid}.json"), 200);
        for wrong in [
            None,
            Some(String::new()),
            Some("{sid}".to_owned()),
            Some(format!("{{sid}}:{}", &TOKEN[1..])),
            Some(format!("AC00000000000000000000000000000000:{TOKEN}")),
            Some(format!("{right}0")),
        ] {
            assert_eq!(answer(wrong.as_deref(), calls), 401, "{wrong:?}");
        }
        for path in [
            "/2010-04-01/Accounts/AC00000000000000000000000000000000/Calls.json",
            "/2010-04-01/Accounts/",
            "/2010-04-01/Calls.json",
        ] {
            assert_eq!(answer(Some(&right), path), 401, "{path}");
        }
    }

    #[test]
    fn a_token_that_can_be_guessed_opens_nothing() {
        let account = |token: &str| {
            let token = Some(Secret::new(token.into()));
            Account::new(AccountSid::of_node("n"), token)
        };
        assert!(account(&TOKEN[..16]).token.is_none());
        assert!(account(&TOKEN[..17]).token.is_some());
    }

    #[test]
    fn other_schemes_are_no_basic() {
        for header in [
            &b""[..],
            b"Basic",
            b"Bearer YTpi",
            b"Basic !",
            b"Basic YTpi=",
        ] {
            assert!(basic(header).is_none());
        }
        assert_eq!(basic(b"bAsIc  YTpi").expect("Basic").as_slice(), b"a:b");
    }
}
