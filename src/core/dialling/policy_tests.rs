//! Tests of the dial policy.

use super::*;
use proptest::prelude::*;

fn line(country: &str) -> DialLine {
    DialLine {
        country: Country::parse(country),
        hosts: vec!["Trunk.example:5070".into(), "192.0.2.1".into()],
    }
}

fn judge(patterns: &[&str], destination: &str, country: &str) -> Result<String, NotAllowed> {
    let policy = match patterns {
        [] => DialPolicy::default(),
        patterns => DialPolicy::parse(patterns.iter().copied()).expect("sound"),
    };
    policy.judge(destination, &line(country))
}

#[test]
fn the_default_is_the_lines_own_country_without_what_is_dear() {
    for (destination, dialled) in [
        ("+33612345678", "+33612345678"),
        ("06 12 34 56 78", "0612345678"),
        ("0033 6 12 34 56 78", "0033612345678"),
        ("33612345678", "+33612345678"),
        ("612345678", "+33612345678"),
        ("0805123456", "0805123456"),
        ("tel:+33-6-12-34-56-78", "+33612345678"),
        ("sip:0612345678@trunk.example", "0612345678"),
        (
            "SIP:+33612345678@TRUNK.example.:5060;user=phone",
            "+33612345678",
        ),
    ] {
        let judged = judge(&[], destination, "FR");
        assert_eq!(judged.as_deref(), Ok(dialled), "{destination}");
    }
    let abroad = |to: &str| NotAllowed::Abroad { to: to.into() };
    for (destination, refused) in [
        ("+32470123456", abroad("BE")),
        ("0032470123456", abroad("BE")),
        ("+262692123456", abroad("RE")),
        ("+80012345678", abroad("no country")),
        ("+33892123456", NotAllowed::Dear("premium-rate")),
        ("0892123456", NotAllowed::Dear("premium-rate")),
        ("0033892123456", NotAllowed::Dear("premium-rate")),
        ("33892123456", NotAllowed::Dear("premium-rate")),
        ("892123456", NotAllowed::Dear("premium-rate")),
        (
            "sip:0892123456@trunk.example",
            NotAllowed::Dear("premium-rate"),
        ),
        ("+33820123456", NotAllowed::Dear("shared-cost")),
        ("112", NotAllowed::NoNumber),
        ("15", NotAllowed::NoNumber),
        ("3639", NotAllowed::NoNumber),
        ("118712", NotAllowed::NoNumber),
        ("*21*0892123456#", NotAllowed::NoNumber),
        ("reception", NotAllowed::NoNumber),
        ("sip:reception@trunk.example", NotAllowed::NoNumber),
        ("sip:0612345678@elsewhere.example", NotAllowed::Uri),
        ("sip:0612345678@trunk.example.evil.example", NotAllowed::Uri),
    ] {
        assert_eq!(judge(&[], destination, "FR"), Err(refused), "{destination}");
    }
}

#[test]
fn a_carrier_code_is_not_passed_on() {
    for (destination, country, dialled) in [
        ("0 15 11 2345-6789", "BR", "+551123456789"),
        ("1 212 555 1234", "US", "+12125551234"),
        ("(11) 2345-6789", "BR", "+551123456789"),
    ] {
        let judged = judge(&[], destination, country);
        assert_eq!(judged.as_deref(), Ok(dialled), "{destination}");
    }
}

#[test]
fn emergency_numbers_are_permitted_in_no_country() {
    let letters = || 'A'..='Z';
    let codes = letters().flat_map(|a| letters().map(move |b| format!("{a}{b}")));
    let countries: Vec<String> = codes
        .filter(|code| Country::parse(code).is_some())
        .collect();
    assert!(countries.len() > 200);
    let numbers = [
        "112", "911", "999", "000", "110", "118", "119", "100", "101", "102", "103", "104", "108",
        "113", "114", "115", "116", "117", "15", "17", "18", "190", "191", "192", "193", "061",
        "062", "091", "111", "122", "123", "144", "155", "158", "997", "998", "995", "08", "02",
    ];
    for country in &countries {
        for number in numbers {
            let judged = judge(&[], number, country);
            assert!(judged.is_err(), "{country} {number} {judged:?}");
        }
    }
}

#[test]
fn without_a_country_the_default_permits_nothing() {
    for destination in ["+33612345678", "0612345678", "112"] {
        let judged = judge(&[], destination, "");
        assert_eq!(judged, Err(NotAllowed::NoCountry), "{destination}");
    }
    assert!(judge(&["+33*"], "+33612345678", "").is_ok());
    // Not certain to be French.
    assert!(judge(&["+33*"], "0612345678", "").is_err());
}

#[test]
fn patterns_permit_what_they_say_and_nothing_else() {
    for (patterns, destination, is_permitted) in [
        (&["+32*"][..], "0032470123456", true),
        (&["+32*"], "0612345678", false),
        (&["+32*", "own-country"], "0612345678", true),
        (&["+33*"], "0892123456", true),
        (&["FR"], "0892123456", false),
        (&["FR", "+33892123456"], "0892123456", true),
        (&["BE"], "+32470123456", true),
        (&["BE"], "+32909123456", false),
        (&["+33612345678"], "06 12 34 56 78", true),
        (&["+33612345678"], "06 12 34 56 79", false),
        (&["+3361234567"], "06 12 34 56 78", false),
        (&["112"], "112", true),
        (&["112"], "1125", false),
        (&["36*"], "3639", true),
        // A short pattern is no prefix of complete numbers.
        (&["1*"], "+12125551234", false),
        (&["33*"], "33612345678", false),
        (&["*"], "112", true),
        (&["*"], "+32470123456", true),
        (&["*"], "reception", true),
        (&["*"], "sip:100@elsewhere.example", false),
        (&["sip:*@pbx.example"], "sip:100@pbx.example", true),
        (
            &["sip:*@pbx.example"],
            "sip:100@PBX.example:5080;transport=tcp",
            true,
        ),
        (&["sip:*@pbx.example"], "sip:100@pbx.example.evil", false),
        (&["sip:*@pbx.example"], "100", false),
        (&["sip:1*@pbx.example"], "sip:200@pbx.example", false),
        (&["sip:*@trunk.example"], "sip:112@trunk.example", false),
        (&["sip:*"], "sip:100@anywhere.example", true),
        (&["none"], "0612345678", false),
        // A number that no plan has yet.
        (&["+33*"], "+330000000000", true),
        (&["+33*"], "+33", false),
    ] {
        let judged = judge(patterns, destination, "FR");
        assert_eq!(
            judged.is_ok(),
            is_permitted,
            "{patterns:?} {destination} {judged:?}"
        );
    }
    assert_eq!(
        judge(&["none"], "0612345678", "FR"),
        Err(NotAllowed::Nothing)
    );
    assert_eq!(judge(&["none"], "sip:a@b", "FR"), Err(NotAllowed::Nothing));
    assert!(DialPolicy::parse(["none", "+33*"]).is_err());
}

#[test]
fn a_uri_pattern_of_the_own_trunk_permits_its_uris() {
    let policy = DialPolicy::parse(["sip:*@192.0.2.1"]).expect("sound");
    let judged = policy.judge("sip:reception@192.0.2.1:5080", &line("FR"));
    assert_eq!(judged.as_deref(), Ok("reception"));
    assert_eq!(
        policy.judge("reception", &line("FR")),
        Err(NotAllowed::NoNumber)
    );
    // A number there only where the host is named, or any URI would do for any number.
    let premium = "sip:+33892123456@192.0.2.1";
    assert!(policy.judge(premium, &line("FR")).is_ok());
    for any_host in ["sip:*", "sip:*@*"] {
        assert!(judge(&[any_host], premium, "FR").is_err(), "{any_host}");
        assert!(judge(&[any_host], "sip:reception@192.0.2.1", "FR").is_ok());
    }
}

#[test]
fn what_could_break_out_of_a_uri_is_refused_whatever_is_permitted() {
    for destination in [
        "",
        " ",
        "0612345678>",
        "<sip:a@b>",
        "\"x\" <sip:a@b>",
        "a b",
        "a\r\nVia: x",
        "sip:a@b\r\nX: y",
        "sip:a@b?Replaces=x",
        "sip:a@b;method=INVITE",
        "sip:a@b;transport=udp?x=y",
        "sip:a%40c@b",
        "sip:a:pw@b",
        "sip:a@b@c",
        "sip:a;x=y@b",
        "sip:a,b@c",
        "sip:a@b,c",
        "sip:@b",
        "sip:a@",
        "sip:a@b:0",
        "sip:a@b:70000",
        "sip:a@b:",
        "sip:a@[::1",
        "sip:a@[zz]",
        "sip:a#b@c",
        "sip:host.only",
        "tel:+33612345678;phone-context=+32",
        "http://a@b",
        "ｓ",
        "0612345678;ext=1",
        "\u{0}",
    ] {
        let judged = judge(&["*", "sip:*"], destination, "FR");
        let is_malformed = matches!(judged, Err(NotAllowed::Malformed(_)));
        assert!(is_malformed, "{destination:?} {judged:?}");
    }
    let long = "1".repeat(300);
    let judged = judge(&["*"], &long, "FR");
    assert_eq!(judged, Err(NotAllowed::Malformed(Malformed::TooLong)));
}

#[test]
fn refusals_say_what_to_do_and_never_the_number() {
    let refusals = [
        judge(&[], "0892123456", "FR"),
        judge(&[], "+32470123456", "FR"),
        judge(&[], "112", "FR"),
        judge(&[], "+33612345678", ""),
        judge(&["none"], "+33612345678", ""),
        judge(&["+32*"], "+33612345678", "FR"),
        judge(&[], "sip:a@b.example", "FR"),
        judge(&[], "a b", "FR"),
    ];
    for refusal in refusals {
        let refusal = refusal.expect_err("refused");
        let text = refusal.to_string();
        let digits = text.replace("E.164", "");
        let digits = digits.bytes().filter(u8::is_ascii_digit).count();
        assert!(digits <= 3, "{text}");
        assert!(REFUSALS.contains(&refusal.as_str()));
    }
}

proptest! {
    #[test]
    fn the_default_never_permits_what_is_abroad_or_dear(
        prefix in prop::sample::select(vec!["", "+", "00", "0", "sip:", "tel:", "+33", "0033", "33"]),
        digits in "[0-9]{1,14}",
        host in prop::sample::select(vec!["", "@trunk.example", "@192.0.2.1", "@x.example"]),
    ) {
        let destination = format!("{prefix}{digits}{host}");
        if let Ok(dialled) = judge(&[], &destination, "FR") {
            // What is dialled is judged the same, and is French.
            let number = Number::read(&dialled, Country::parse("FR")).expect("a number");
            prop_assert_eq!(number.country, Country::parse("FR"));
            prop_assert!(number.e164.starts_with("+33"));
            prop_assert!(matches!(number.kind, NumberKind::Ordinary | NumberKind::TollFree));
            let again = judge(&[], &dialled, "FR");
            prop_assert_eq!(again.as_deref(), Ok(dialled.as_str()));
        }
    }

    #[test]
    fn any_text_is_survived_and_what_is_dialled_is_clean(text in ".{0,80}") {
        for text in [text.clone(), format!("sip:{text}"), format!("sip:a@{text}"), format!("+{text}")] {
            if let Ok(dialled) = judge(&["*", "sip:*"], &text, "FR") {
                prop_assert!(!dialled.is_empty() && dialled.len() <= 300);
                let is_clean = |b: u8| b.is_ascii_alphanumeric() || b"+-_.~*#:@;=[]".contains(&b);
                prop_assert!(dialled.bytes().all(is_clean), "{}", dialled);
            }
        }
    }
}

#[test]
fn only_the_own_country_alone_needs_one() {
    assert!(DialPolicy::default().needs_country());
    for (patterns, needs) in [
        ("own-country", true),
        ("own-country,+33*", false),
        ("none", false),
    ] {
        let policy = DialPolicy::parse(patterns.split(',')).expect(patterns);
        assert_eq!(policy.needs_country(), needs, "{patterns}");
    }
}
