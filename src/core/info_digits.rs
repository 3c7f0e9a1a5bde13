//! Digits in the body of a SIP INFO, in the forms that phones, gateways and
//! session border controllers write. No RFC defines them: `application/dtmf-relay`
//! is Cisco's, `application/dtmf` is older still. Both hold text lines.

use super::telephone_event::are_digits;

/// Most digits taken from one INFO: a phone sends one for each key, some send
/// what was dialled so far.
pub const MAX_DIGITS: usize = 16;

/// Names under which the digit stands.
const NAMES: [&str; 4] = ["signal", "d", "digit", "digits"];

/// Whether a body of this type is one that holds digits.
#[must_use]
pub fn is_digits_type(content_type: &str) -> bool {
    let kind = |known: &str| content_type.eq_ignore_ascii_case(known);
    kind("application/dtmf-relay") || kind("application/dtmf")
}

/// The digits of a body: `Signal=5`, `signal = *`, `SIGNAL=10` (the number of
/// an RFC 4733 event), `d=5`, or the digits alone, `5` or `12`. Upper case;
/// `None` where there is none, or anything else beside them.
#[must_use]
pub fn read(content: &str) -> Option<String> {
    let lines = || content.lines().map(str::trim);
    let named = lines().find_map(|line| {
        let (name, value) = line.split_once(['=', ':'])?;
        let name = name.trim_end();
        let is_signal = name.eq_ignore_ascii_case("signal");
        let is_known = NAMES.iter().any(|known| name.eq_ignore_ascii_case(known));
        is_known.then(|| (is_signal, value.trim_start()))
    });
    let (is_signal, value) = match named {
        Some(named) => named,
        None => (false, lines().find(|line| !line.is_empty())?),
    };
    let digits = value.to_ascii_uppercase();
    if !is_signal || digits.len() == 1 {
        let fits = (1..=MAX_DIGITS).contains(&digits.len());
        return (fits && are_digits(&digits)).then_some(digits);
    }
    // One key for each signal, so two digits are an event's number.
    let event = digits.parse::<usize>().ok()?.checked_sub(10)?;
    "*#ABCD".chars().nth(event).map(String::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_forms_of_gateways_are_read() {
        for (content, digits) in [
            // Cisco, and those who do as Cisco does.
            ("Signal=5\r\nDuration=160\r\n", Some("5")),
            ("Signal= 5\nDuration= 160", Some("5")),
            ("signal = d\r\n", Some("D")),
            ("SIGNAL=7", Some("7")),
            ("\r\nSignal=7\r\n", Some("7")),
            ("  Signal\t=\t*  \r\n", Some("*")),
            ("Duration=100\nSignal= #", Some("#")),
            ("Signal: 3\r\nDuration: 100\r\n", Some("3")),
            // By the number of the event.
            ("Signal=10\r\n", Some("*")),
            ("signal=11\r\n", Some("#")),
            ("Signal=12\r\n", Some("A")),
            ("Signal=15\r\n", Some("D")),
            // A flash is no digit.
            ("Signal=16\r\n", None),
            ("Signal=\r\n", None),
            ("Signal=x\r\n", None),
            ("Signal=123\r\n", None),
            // application/dtmf.
            ("5", Some("5")),
            ("5\r\n", Some("5")),
            (" * \r\n", Some("*")),
            ("a", Some("A")),
            ("12", Some("12")),
            ("d=5", Some("5")),
            ("D = 5\r\nDuration=250\r\n", Some("5")),
            ("d=12", Some("12")),
            ("p=Digit-Collection\r\nd=9\r\n", Some("9")),
            ("1234567890123456", Some("1234567890123456")),
            ("12345678901234567", None),
            ("", None),
            ("\r\n \r\n", None),
            ("hello", None),
            ("nothing=5", None),
            ("1 2", None),
            ("٥", None),
        ] {
            assert_eq!(read(content).as_deref(), digits, "{content:?}");
        }
    }

    #[test]
    fn types_are_told_apart_in_any_case() {
        assert!(is_digits_type("application/DTMF-Relay"));
        assert!(is_digits_type("application/dtmf"));
        assert!(!is_digits_type("application/dtmf-relays"));
        assert!(!is_digits_type("text/plain"));
    }

    proptest! {
        #[test]
        fn any_body_is_survived_and_gives_digits_only(
            name in "(signal|SIGNAL|d|)[ \t]{0,2}[=:]?[ \t]{0,2}",
            rest in "(.|\\r|\\n){0,40}",
        ) {
            for body in [rest.clone(), format!("{name}{rest}")] {
                if let Some(digits) = read(&body) {
                    prop_assert!((1..=MAX_DIGITS).contains(&digits.len()) && are_digits(&digits));
                }
            }
        }
    }
}
