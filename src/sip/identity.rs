//! Who calls, by what an INVITE says: From, P-Asserted-Identity and Privacy
//! (RFC 3323, RFC 3325), and Remote-Party-ID, which older trunks still send.
//!
//! A caller who wants privacy is `anonymous` to everybody behind the bridge.
//! What the network asserts is believed from a trunk only: anybody else could
//! write another's number there.

use super::uri::UriParts;
use crate::core::private::Private;

/// What is told in place of a number that its owner withholds.
pub const ANONYMOUS: &str = "anonymous";
/// Fewest digits by which a number is looked for in another text: an extension
/// is found in too much.
const TELLING_DIGITS: usize = 5;
/// The same of a name without digits.
const TELLING_LETTERS: usize = 4;

/// The headers of an INVITE that say who calls, values as they came.
#[derive(Clone, Debug, Default)]
pub struct IdentityHeaders {
    /// Display name of From.
    pub display: String,
    /// URI of From.
    pub from: UriParts,
    /// Each P-Asserted-Identity.
    pub asserted: Vec<String>,
    /// Each P-Preferred-Identity: a wish of the caller's own phone, never believed.
    pub preferred: Vec<String>,
    /// Each Remote-Party-ID.
    pub remote_party: Vec<String>,
    /// Each Privacy.
    pub privacy: Vec<String>,
}

/// Who calls, as far as it may be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// The number or user name; [`ANONYMOUS`] where it is withheld.
    pub shown: Private,
    /// Where the caller wants privacy: what the network knows all the same.
    pub withheld: Option<Withheld>,
}

/// A number whose owner does not want it told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Withheld {
    /// The number, for operators who must know it all the same.
    pub number: Private,
    /// Each name under which the headers know the caller.
    names: Vec<Private>,
}

impl Withheld {
    /// Whether a text, such as another header, gives the caller away.
    #[must_use]
    pub fn is_told_by(&self, text: &str) -> bool {
        let said = digits(text);
        self.names.iter().any(|name| {
            let number = digits(name.expose());
            // National and international forms end alike.
            let tail = number.trim_start_matches('0');
            let tail = tail.get(tail.len().saturating_sub(9)..).unwrap_or(tail);
            let has_number = tail.len() >= TELLING_DIGITS && said.contains(tail);
            let is_name = number.is_empty() && name.expose().len() >= TELLING_LETTERS;
            has_number || (is_name && text.contains(name.expose()))
        })
    }
}

impl Caller {
    /// Judges the headers. `from_trunk`: they come from the line's own server.
    #[must_use]
    pub fn read(headers: &IdentityHeaders, from_trunk: bool) -> Self {
        let asserted = addresses(&headers.asserted);
        let parties: Vec<_> = callers(&headers.remote_party).collect();
        let believed = asserted
            .iter()
            .chain(parties.iter().map(|party| &party.address));
        let believed = believed.filter(|_| from_trunk).map(|uri| &uri.user);
        let number = believed
            .chain([&headers.from.user])
            .find(|user| !user.is_empty());
        let number = Private::new(number.cloned().unwrap_or_default());
        if !wants_privacy(headers, &parties) {
            return Self {
                shown: number,
                withheld: None,
            };
        }
        let preferred = addresses(&headers.preferred);
        let known = asserted
            .iter()
            .chain(&preferred)
            .chain(parties.iter().map(|party| &party.address))
            .chain([&headers.from]);
        let names = known.map(|uri| uri.user.as_str());
        let names = names.filter(|name| !name.is_empty() && !is_anonymous(name));
        let names = names.map(Private::new).collect();
        Self {
            shown: Private::new(ANONYMOUS),
            withheld: Some(Withheld { number, names }),
        }
    }

    /// The number to tell: the withheld one only where privacy is not obeyed.
    #[must_use]
    pub fn number(&self, obeys_privacy: bool) -> &Private {
        match &self.withheld {
            Some(withheld) if !obeys_privacy => &withheld.number,
            _ => &self.shown,
        }
    }
}

/// The words for a caller without a number, as trunks write them.
fn is_anonymous(user: &str) -> bool {
    let words = [ANONYMOUS, "restricted", "private", "withheld"];
    words.iter().any(|word| user.eq_ignore_ascii_case(word))
}

fn wants_privacy(headers: &IdentityHeaders, parties: &[Party]) -> bool {
    let values = headers.privacy.iter();
    let words = values
        .flat_map(|value| value.split([';', ',']))
        .map(str::trim);
    let words: Vec<&str> = words.collect();
    let has = |word: &str| words.iter().any(|one| one.eq_ignore_ascii_case(word));
    // "session" and "history" are not about who calls.
    if ["id", "user", "header", "full"].into_iter().any(has) {
        return true;
    }
    if parties.iter().any(|party| party.wants_privacy) {
        return true;
    }
    // The caller says that the network need not hide anything (RFC 3323, 4.2).
    if has("none") {
        return false;
    }
    let from = &headers.from;
    is_anonymous(&from.user)
        || from.host == "anonymous.invalid"
        || from.user.is_empty()
        || headers.display.trim().eq_ignore_ascii_case(ANONYMOUS)
}

/// One Remote-Party-ID of a calling party.
struct Party {
    address: UriParts,
    wants_privacy: bool,
}

fn callers(values: &[String]) -> impl Iterator<Item = Party> {
    let values = values.iter().flat_map(|value| entries(value));
    values.filter_map(|entry| {
        let parameter = |name: &str| {
            let (_, parameters) = entry.rsplit_once('>')?;
            let pairs = parameters
                .split(';')
                .filter_map(|pair| pair.split_once('='));
            let mut named = pairs.filter(|(key, _)| key.trim().eq_ignore_ascii_case(name));
            named
                .next()
                .map(|(_, value)| value.trim().trim_matches('"'))
        };
        let party = parameter("party").unwrap_or("calling");
        let privacy = parameter("privacy").unwrap_or("off");
        let is = |value: &str| privacy.eq_ignore_ascii_case(value);
        party.eq_ignore_ascii_case("calling").then(|| Party {
            address: address(entry),
            wants_privacy: is("full") || is("uri"),
        })
    })
}

fn addresses(values: &[String]) -> Vec<UriParts> {
    let entries = values.iter().flat_map(|value| entries(value));
    entries.map(address).collect()
}

/// The URI of a name-addr or addr-spec. A display name may hold `<` in quotes.
fn address(entry: &str) -> UriParts {
    let entry = entry.trim();
    let after_name = match entry.strip_prefix('"') {
        Some(quoted) => closing_quote(quoted).map_or("", |end| &quoted[end + 1..]),
        None => entry,
    };
    UriParts::parse(after_name)
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    let mut places = text.char_indices();
    let closing = places.find(|(_, c)| {
        let closes = *c == '"' && !is_escaped;
        is_escaped = *c == '\\' && !is_escaped;
        closes
    });
    closing.map(|(at, _)| at)
}

/// The entries of a header value, between commas that stand neither in quotes
/// nor in angle brackets.
fn entries(value: &str) -> Vec<&str> {
    let (mut start, mut is_quoted, mut is_escaped, mut is_inside) = (0, false, false, false);
    let mut found = Vec::new();
    for (at, c) in value.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            '<' if !is_quoted => is_inside = true,
            '>' if !is_quoted => is_inside = false,
            ',' if !is_quoted && !is_inside => {
                found.push(&value[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    found.push(&value[start..]);
    found
}

fn digits(text: &str) -> String {
    text.chars().filter(char::is_ascii_digit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MOBILE: &str = "sip:+33612345678@trunk.example";

    /// Headers, one a line; From may have a display name.
    fn headers(text: &str) -> IdentityHeaders {
        let mut headers = IdentityHeaders::default();
        for line in text.lines() {
            let (name, value) = line.split_once(": ").expect("a header");
            let value = value.replace("MOBILE", MOBILE);
            match name.trim() {
                "From" => {
                    let (display, _) = value.split_once('<').expect("a name-addr");
                    headers.display = display.trim().trim_matches('"').to_owned();
                    headers.from = UriParts::parse(&value);
                }
                "PAI" => headers.asserted.push(value),
                "PPI" => headers.preferred.push(value),
                "RPID" => headers.remote_party.push(value),
                "Privacy" => headers.privacy.push(value),
                other => panic!("{other}"),
            }
        }
        headers
    }

    #[test]
    fn the_forms_of_trunks_are_understood() {
        let number = "+33612345678";
        for (text, trunk, stranger) in [
            ("From: <MOBILE>", number, number),
            ("From: \"Jean\" <MOBILE>", number, number),
            ("From: <MOBILE>\nPrivacy: none", number, number),
            ("From: <MOBILE>\nPrivacy: session", number, number),
            // Withheld by From itself.
            (
                "From: \"Anonymous\" <sip:anonymous@anonymous.invalid>",
                ANONYMOUS,
                ANONYMOUS,
            ),
            ("From: <sip:Anonymous@trunk.example>", ANONYMOUS, ANONYMOUS),
            (
                "From: <sip:+33612345678@anonymous.invalid>",
                ANONYMOUS,
                ANONYMOUS,
            ),
            ("From: <sip:trunk.example>", ANONYMOUS, ANONYMOUS),
            ("From: \"ANONYMOUS\" <MOBILE>", ANONYMOUS, ANONYMOUS),
            ("From: <sip:Restricted@trunk.example>", ANONYMOUS, ANONYMOUS),
            // By Privacy.
            ("From: <MOBILE>\nPrivacy: id", ANONYMOUS, ANONYMOUS),
            ("From: <MOBILE>\nPrivacy: ID;critical", ANONYMOUS, ANONYMOUS),
            (
                "From: <MOBILE>\nPrivacy: header ; user",
                ANONYMOUS,
                ANONYMOUS,
            ),
            (
                "From: <MOBILE>\nPrivacy: none\nPrivacy: full",
                ANONYMOUS,
                ANONYMOUS,
            ),
            (
                "From: <MOBILE>\nPAI: <MOBILE>\nPrivacy: id",
                ANONYMOUS,
                ANONYMOUS,
            ),
            (
                "From: <sip:anonymous@anonymous.invalid>\nPAI: <MOBILE>",
                ANONYMOUS,
                ANONYMOUS,
            ),
            // The caller says that nothing need be hidden.
            (
                "From: <sip:anonymous@trunk.example>\nPAI: <MOBILE>\nPrivacy: none",
                number,
                ANONYMOUS,
            ),
            // What the network asserts.
            ("From: <sip:3@pbx>\nPAI: \"a, <b>\" <MOBILE>", number, "3"),
            (
                "From: <sip:3@pbx>\nPAI: <sip:trunk.example>, <tel:+33-612345678>",
                number,
                "3",
            ),
            (
                "From: <sip:3@pbx>\nPAI: nonsense\nPAI: <MOBILE>",
                number,
                "3",
            ),
            ("From: <sip:3@pbx>\nPPI: <MOBILE>", "3", "3"),
            // Remote-Party-ID.
            (
                "From: <sip:3@pbx>\nRPID: \"J\" <MOBILE>;party=calling;privacy=off;screen=yes",
                number,
                "3",
            ),
            ("From: <sip:3@pbx>\nRPID: <MOBILE>;party=called", "3", "3"),
            (
                "From: <sip:3@pbx>\nRPID: <MOBILE>;privacy=name",
                number,
                "3",
            ),
            (
                "From: <MOBILE>\nRPID: <MOBILE>;Privacy=\"Full\";screen=yes",
                ANONYMOUS,
                ANONYMOUS,
            ),
            (
                "From: <MOBILE>\nRPID: <MOBILE>;privacy=uri",
                ANONYMOUS,
                ANONYMOUS,
            ),
            (
                "From: <sip:3@pbx>\nPAI: <sip:4@pbx>\nRPID: <MOBILE>",
                "4",
                "3",
            ),
        ] {
            let headers = headers(text);
            for (from_trunk, expected) in [(true, trunk), (false, stranger)] {
                let caller = Caller::read(&headers, from_trunk);
                assert_eq!(caller.shown.expose(), expected, "{text} {from_trunk}");
                assert_eq!(caller.number(true), &caller.shown);
                assert_eq!(
                    caller.withheld.is_some(),
                    expected == ANONYMOUS && !text.ends_with("Privacy: none"),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn an_operator_who_must_know_is_told_what_the_network_knows() {
        let withheld =
            headers("From: <sip:anonymous@anonymous.invalid>\nPAI: <MOBILE>\nPrivacy: id");
        let caller = Caller::read(&withheld, true);
        assert_eq!(caller.number(false).expose(), "+33612345678");
        assert_eq!(caller.number(true).expose(), ANONYMOUS);
        // A stranger's word is not what the network knows.
        let caller = Caller::read(&withheld, false);
        assert_eq!(caller.number(false).expose(), "anonymous");
        let shown = format!("{:?}", Caller::read(&withheld, true));
        assert!(!shown.contains("612345"), "{shown}");
    }

    #[test]
    fn other_headers_that_give_a_withheld_number_away_are_known() {
        let hidden =
            headers("From: <sip:anonymous@x>\nPAI: <MOBILE>\nPPI: <sip:jean@x>\nRPID: <sip:12@x>");
        let withheld = Caller::read(&hidden, false).withheld.expect("withheld");
        for telling in [
            "+33612345678",
            "0612345678",
            "<sip:0033612345678@x>;reason=unconditional",
            "06 12 34 56 78",
            "caller=jean",
        ] {
            assert!(withheld.is_told_by(telling), "{telling}");
        }
        for silent in ["", "42", "anonymous", "+33612345679", "sales"] {
            assert!(!withheld.is_told_by(silent), "{silent}");
        }
    }

    proptest! {
        #[test]
        fn any_values_are_survived_and_privacy_wins(value in "\\PC{0,60}", party in "[<>\",;=a-z@:]{0,40}") {
            let headers = IdentityHeaders {
                display: value.clone(),
                from: UriParts::parse(&value),
                asserted: vec![value.clone(), party.clone()],
                preferred: vec![party.clone()],
                remote_party: vec![party, value],
                privacy: vec!["id".into()],
            };
            let caller = Caller::read(&headers, true);
            prop_assert_eq!(caller.shown.expose(), ANONYMOUS);
            let _ = caller.withheld.expect("withheld").is_told_by("x");
        }
    }
}
