//! Phone numbers in E.164, by the country of the line that they came over.
//!
//! One and the same number reaches us as `+33612345678`, `0033612345678`,
//! `0612345678` or `33612345678`. What cannot be read with certainty stays as
//! it was received: short codes, `anonymous`, names, SIP URIs.
//!
//! The numbering plans are those of libphonenumber (crate `phonenumber`). They
//! take 6 MB and 60 ms on first use, then some microseconds for each number:
//! once or twice a call, never for a packet. What comes from outside reaches
//! the library only as digits, and what it returns is checked against the plan
//! once more: its parser drops digits of some numbers that begin as a national
//! prefix does.

use std::fmt;

use phonenumber::country::{Id, Source};
use phonenumber::metadata::{DATABASE, Descriptor, Metadata};
use phonenumber::{Mode, PhoneNumber};

/// Longest text that is tried; E.164 has 15 digits, people add separators.
const RAW_MAX: usize = 40;
/// A number without plus or prefix is read as an international one from here
/// on: shorter ones are extensions and short codes.
const BARE_INTERNATIONAL_MIN: usize = 10;

/// A country with a numbering plan of its own.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Country(Id);

impl Country {
    /// Reads the two letters of ISO 3166, in any case.
    #[must_use]
    pub fn parse(code: &str) -> Option<Self> {
        let id: Id = code.to_ascii_uppercase().parse().ok()?;
        DATABASE.by_id(id.as_ref()).map(|_| Self(id))
    }

    /// The two letters, upper case.
    #[must_use]
    pub fn code(&self) -> &str {
        self.0.as_ref()
    }

    /// The country of a line: that of its own number where it is E.164, else
    /// the one that was given for all lines.
    #[must_use]
    pub fn of_line(phone_number: Option<&str>, given: Option<Self>) -> Option<Self> {
        let international = phone_number.filter(|number| number.trim_start().starts_with('+'));
        let own = international.and_then(|number| Number::read(number, None)?.country);
        own.or(given)
    }
}

impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// What calling a number costs, roughly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NumberKind {
    /// Fixed lines, mobiles, voice over IP, numbers of companies.
    Ordinary,
    /// Free for the caller.
    TollFree,
    /// The callee earns.
    PremiumRate,
    /// More than an ordinary call.
    SharedCost,
    /// Personal numbers, pagers, voicemail access: often as expensive as premium rate.
    Special,
}

/// How a number was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// With a plus, or the line's own international prefix (`00`, `011`).
    International,
    /// With the line's national prefix (`0`).
    National,
    /// Digits alone: what a trunk makes of them is uncertain.
    Bare,
}

/// A number that exists in some numbering plan. `Debug` shows its end only.
#[derive(Clone, PartialEq, Eq)]
pub struct Number {
    /// `+` and digits.
    pub e164: String,
    /// Absent for the numbers of no country, such as +800.
    pub country: Option<Country>,
    /// What calling it costs, roughly.
    pub kind: NumberKind,
    /// How it was written.
    pub written: Written,
    /// As it is dialled within its country, digits only.
    pub national: String,
}

impl fmt::Debug for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e164 = super::private::Private::new(self.e164.as_str());
        write!(f, "{e164} {:?} {:?}", self.country, self.kind)
    }
}

impl Number {
    /// Reads a number as it came over a line of this country.
    #[must_use]
    pub fn read(raw: &str, country: Option<Country>) -> Option<Self> {
        let digits = without_separators(raw)?;
        if digits.starts_with('+') {
            return international(&digits, Written::International);
        }
        let country = country?;
        local(&digits, country).or_else(|| {
            // As some trunks write E.164; no national number, or it had been found.
            let is_bare = !digits.starts_with('0') && digits.len() >= BARE_INTERNATIONAL_MIN;
            let with_plus = format!("+{digits}");
            is_bare.then(|| international(&with_plus, Written::Bare))?
        })
    }

    /// The forms in which trunks write it: E.164, digits only, with `00`, and
    /// as it is dialled within its country.
    #[must_use]
    pub fn forms(&self) -> Vec<String> {
        let digits = self.e164.trim_start_matches('+');
        let mut forms = vec![self.e164.clone(), digits.to_owned(), format!("00{digits}")];
        forms.push(self.national.clone());
        forms
    }
}

/// Reads the numbering plans now, so that no call waits for it.
pub fn prepare() {
    let _: Option<&Metadata> = DATABASE.by_id("FR");
}

/// The number in E.164; `None`: leave it as it was received.
#[must_use]
pub fn to_e164(raw: &str, country: Option<Country>) -> Option<String> {
    Number::read(raw, country).map(|number| number.e164)
}

/// A plus at most, and digits: without what people put between them. `None`
/// where there is anything else.
#[must_use]
pub fn without_separators(raw: &str) -> Option<String> {
    let raw = raw.trim();
    if raw.len() > RAW_MAX {
        return None;
    }
    // "+33 (0)6 12 …": the zero is for calls within the country only.
    let is_international = raw.starts_with('+') || raw.starts_with("00");
    let raw = match raw.split_once("(0)") {
        Some((before, after)) if is_international => format!("{before}{after}"),
        _ => raw.to_owned(),
    };
    let mut digits = String::with_capacity(raw.len());
    for c in raw.chars() {
        match c {
            '0'..='9' => digits.push(c),
            '+' if digits.is_empty() => digits.push(c),
            ' ' | '-' | '.' | '(' | ')' | '/' | '\u{a0}' if digits != "+" => {}
            _ => return None,
        }
    }
    digits.bytes().any(|b| b.is_ascii_digit()).then_some(digits)
}

/// A number with its plus.
fn international(digits: &str, written: Written) -> Option<Number> {
    let parsed = phonenumber::parse(None, digits).ok()?;
    let number = checked(&parsed, written)?;
    if number.e164 == digits {
        return Some(number);
    }
    // "+330612345678": the national prefix stayed in by mistake.
    let code = parsed.code().value();
    let rest = number.e164.strip_prefix(&format!("+{code}"))?;
    (digits == format!("+{code}0{rest}")).then_some(number)
}

/// A number as it is dialled in this country: with the country's international
/// prefix, or national.
fn local(digits: &str, country: Country) -> Option<Number> {
    let plan = DATABASE.by_id(country.code())?;
    // Not left to the library: it would go on by the plan of the wrong country.
    let prefix = plan.international_prefix();
    let prefix = prefix.and_then(|prefix| prefix.find(digits));
    let rest = prefix.and_then(|found| digits.get(found.end()..).filter(|_| found.start() == 0));
    if let Some(rest) = rest
        && let Some(number) = international(&format!("+{rest}"), Written::International)
    {
        return Some(number);
    }
    let parsed = phonenumber::parse(Some(country.0), digits).ok()?;
    let written = match parsed.code().source() {
        Source::Plus | Source::Idd => return None,
        Source::Number => Written::Bare,
        Source::Default => {
            let prefix = plan.national_prefix();
            let has_prefix = prefix.is_some_and(|prefix| digits.starts_with(prefix));
            if has_prefix {
                Written::National
            } else {
                Written::Bare
            }
        }
    };
    checked(&parsed, written)
}

/// The number as its plan has it, if it has it.
fn checked(parsed: &PhoneNumber, written: Written) -> Option<Number> {
    // An extension, a carrier's prefix: more than a number.
    if parsed.extension().is_some() {
        return None;
    }
    let national = parsed.national().to_string();
    let regions = DATABASE.region(&parsed.code().value())?;
    let plan = regions.iter().find_map(|region| plan_of(region, &national));
    let (plan, kind) = plan.or_else(|| worldwide(parsed.code().value(), &national))?;
    let e164 = format!("+{}{national}", parsed.code().value());
    // The library would write a carrier's code back in.
    let plain = parsed
        .carrier()
        .and_then(|_| phonenumber::parse(None, &e164).ok());
    let dialled = plain.as_ref().unwrap_or(parsed).format();
    let dialled = dialled.mode(Mode::National).to_string();
    Some(Number {
        e164,
        country: plan.id().parse().ok().map(Country),
        kind,
        written,
        national: dialled.chars().filter(char::is_ascii_digit).collect(),
    })
}

/// The plan of a region, where the number is one of its.
fn plan_of(region: &str, national: &str) -> Option<(&'static Metadata, NumberKind)> {
    let plan = DATABASE.by_id(region)?;
    let begins_here = plan.leading_digits().is_none_or(|leading| {
        let found = leading.find(national);
        found.is_some_and(|found| found.start() == 0)
    });
    if !begins_here {
        return None;
    }
    Some((plan, kind(plan, national)?))
}

/// Numbers of no country: the plan "001" of their code.
fn worldwide(code: u16, national: &str) -> Option<(&'static Metadata, NumberKind)> {
    let plan = DATABASE.by_code(&code)?.into_iter().next()?;
    Some((plan, kind(plan, national)?))
}

fn kind(plan: &Metadata, national: &str) -> Option<NumberKind> {
    let all = plan.descriptors();
    let is = |one: Option<&Descriptor>| one.is_some_and(|one| one.is_match(national));
    if !all.general().is_match(national) {
        return None;
    }
    if is(all.premium_rate()) {
        return Some(NumberKind::PremiumRate);
    }
    if is(all.toll_free()) {
        return Some(NumberKind::TollFree);
    }
    if is(all.shared_cost()) {
        return Some(NumberKind::SharedCost);
    }
    if is(all.personal_number()) || is(all.pager()) || is(all.voicemail()) {
        return Some(NumberKind::Special);
    }
    let ordinary = [all.fixed_line(), all.mobile(), all.voip(), all.uan()];
    ordinary.into_iter().any(is).then_some(NumberKind::Ordinary)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn country(code: &str) -> Option<Country> {
        Some(Country::parse(code).expect("a country"))
    }

    #[test]
    fn one_number_in_many_forms_is_one_number() {
        let mobile = Some("+33612345678");
        for raw in [
            "+33612345678",
            "0033612345678",
            "0612345678",
            "33612345678",
            " 06 12.34-56 78 ",
            "+33 (0)6 12 34 56 78",
            "+330612345678",
            "00 33 (0)6 12 34 56 78",
        ] {
            assert_eq!(to_e164(raw, country("FR")).as_deref(), mobile, "{raw}");
        }
        // Without a country only what carries its own.
        assert_eq!(to_e164("+33 612 345 678", None).as_deref(), mobile);
        for raw in ["0612345678", "0033612345678", "33612345678"] {
            assert_eq!(to_e164(raw, None), None, "{raw}");
        }
        // Of another country's line.
        assert_eq!(to_e164("33612345678", country("US")).as_deref(), mobile);
        assert_eq!(to_e164("01133612345678", country("US")).as_deref(), mobile);
    }

    #[test]
    fn countries_with_plans_of_other_shapes() {
        for (raw, code, e164) in [
            ("2125551234", "US", "+12125551234"),
            ("1 (212) 555-1234", "US", "+12125551234"),
            ("0698123456", "IT", "+390698123456"),
            ("0039 06 98123456", "CH", "+390698123456"),
            ("612345678", "ES", "+34612345678"),
            ("02012345678", "GB", "+442012345678"),
            ("030 901820", "DE", "+4930901820"),
            ("0470 12 34 56", "BE", "+32470123456"),
            ("8 495 123 45 67", "RU", "+74951234567"),
            ("0262 12 34 56", "RE", "+262262123456"),
        ] {
            assert_eq!(to_e164(raw, country(code)).as_deref(), Some(e164), "{raw}");
            assert_eq!(to_e164(e164, None).as_deref(), Some(e164), "{e164}");
        }
    }

    #[test]
    fn what_is_no_number_stays_as_it_is() {
        for raw in [
            "",
            "+",
            "anonymous",
            "Anonymous",
            "unavailable",
            "15",
            "112",
            "3639",
            "118712",
            "100",
            "reception",
            "0612345678x12",
            "06123456789",
            "061234567",
            "sip:0612345678@trunk.example",
            "tel:+33612345678",
            "+0033612345678",
            "++33612345678",
            "33+612345678",
            "+33 6\n12345678",
            "٠٦١٢٣٤٥٦٧٨",
            "0612345678;phone-context=+33",
            "*31#0612345678",
            "+999123456789",
            // A national prefix of more than a zero: somebody's mistake, not ours to mend.
            "+360612345678",
            "+788001234567",
        ] {
            assert_eq!(to_e164(raw, country("FR")), None, "{raw}");
        }
    }

    #[test]
    fn kinds_and_countries_of_numbers() {
        let read = |e164: &str| {
            let number = Number::read(e164, None).unwrap_or_else(|| panic!("{e164}"));
            let country = number.country.map(|country| country.code().to_owned());
            (number.kind, country.unwrap_or_default())
        };
        for (e164, kind, code) in [
            ("+33612345678", NumberKind::Ordinary, "FR"),
            ("+33972360682", NumberKind::Ordinary, "FR"),
            ("+33805123456", NumberKind::TollFree, "FR"),
            ("+33892123456", NumberKind::PremiumRate, "FR"),
            ("+33820123456", NumberKind::SharedCost, "FR"),
            ("+262692123456", NumberKind::Ordinary, "RE"),
            ("+447012345678", NumberKind::Special, "GB"),
            ("+441624756789", NumberKind::Ordinary, "IM"),
            ("+18765551234", NumberKind::Ordinary, "JM"),
            ("+19005551234", NumberKind::PremiumRate, "US"),
            ("+390698123456", NumberKind::Ordinary, "IT"),
            ("+390669812345", NumberKind::Ordinary, "VA"),
            ("+80012345678", NumberKind::TollFree, ""),
            ("+979123456789", NumberKind::PremiumRate, ""),
        ] {
            assert_eq!(read(e164), (kind, code.to_owned()), "{e164}");
        }
    }

    #[test]
    fn the_country_of_a_line_is_that_of_its_number_else_the_given_one() {
        let of = Country::of_line;
        assert_eq!(of(Some("+33 9 72 36 06 82"), country("BE")), country("FR"));
        assert_eq!(of(Some("0972360682"), country("BE")), country("BE"));
        assert_eq!(of(Some("+800 12345678"), country("BE")), country("BE"));
        assert_eq!(of(Some("0972360682"), None), None);
        assert_eq!(of(None, country("FR")), country("FR"));
        assert_eq!(Country::parse("fr"), country("FR"));
        for wrong in ["", "F", "FRA", "XX", "33", "001"] {
            assert_eq!(Country::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_forms_that_a_trunk_may_write() {
        let number = Number::read("09 72 36 06 82", country("FR")).expect("valid");
        let forms = number.forms();
        let expected = ["+33972360682", "33972360682", "0033972360682", "0972360682"];
        assert_eq!(forms, expected);
        assert_eq!(format!("{number:?}"), "…82 Some(FR) Ordinary");
    }

    proptest! {
        #[test]
        fn any_text_is_survived(raw in ".{0,50}", code in "[A-Z]{2}") {
            let _ = to_e164(&raw, Country::parse(&code));
        }

        #[test]
        fn any_digits_are_survived_and_what_comes_out_is_e164_and_stays(
            raw in "[+]?[0-9]{1,20}",
            code in prop::sample::select(vec!["FR", "BE", "US", "IT", "RU", "BR", "AR", "HU", "DE", "GB", "JP"]),
        ) {
            if let Some(e164) = to_e164(&raw, Country::parse(code)) {
                let digits = e164.strip_prefix('+').expect("a plus");
                prop_assert!((5..=17).contains(&digits.len()) && !digits.starts_with('0'));
                prop_assert!(digits.bytes().all(|b| b.is_ascii_digit()));
                prop_assert_eq!(to_e164(&e164, None), Some(e164.clone()));
                if raw.starts_with('+') {
                    prop_assert!(raw.ends_with(&e164[4..]));
                }
            }
        }
    }
}
