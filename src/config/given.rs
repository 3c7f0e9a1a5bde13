//! What was given: the flags of the command line, and the environment for
//! those that are absent from it. Texts only.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};

use clap::ArgMatches;
use zeroize::Zeroize;

use super::flags::{FLAGS, Flag, Kind, SECRET_FLAGS, command, flag};
use super::mistake::{Mistake, Problem};
use crate::core::private::Secret;

/// What the program was asked to do.
#[derive(Debug)]
pub enum Invocation {
    /// Run the bridge.
    Run(Given),
    /// Validate everything without starting.
    Check(Given),
    /// Print the lines without starting.
    Lines(Given),
    /// Encrypt the password on standard input for a line.
    Encrypt {
        /// The line's id.
        line_id: String,
        /// For the key.
        given: Given,
    },
}

/// Reads command line and environment.
///
/// # Errors
/// What clap makes of wrong usage, and of `--help` and `--version`.
pub fn read(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Invocation, clap::Error> {
    let matches = command().try_get_matches_from(arguments)?;
    let mut given = Given::default();
    given.take_flags(&matches);
    let subcommand = matches.subcommand();
    if let Some((_, matches)) = subcommand {
        given.take_flags(matches);
    }
    given.take_environment(environment);
    Ok(match subcommand {
        Some(("encrypt", matches)) => Invocation::Encrypt {
            line_id: matches
                .get_one::<String>("line-id")
                .cloned()
                .unwrap_or_default(),
            given,
        },
        Some(("lines", _)) => Invocation::Lines(given),
        Some(_) => Invocation::Check(given),
        None => Invocation::Run(given),
    })
}

/// The texts of all flags that were given. `Debug` shows their names only.
#[derive(Default)]
pub struct Given {
    values: HashMap<&'static str, Vec<String>>,
    /// Variables that hold no text.
    unreadable: Vec<&'static Flag>,
}

impl Given {
    /// For tests: flags and their values.
    #[must_use]
    pub fn from_pairs(pairs: &[(&'static str, &str)]) -> Self {
        let mut given = Self::default();
        for (name, text) in pairs {
            given.insert(name, (*text).to_owned());
        }
        given
    }

    /// The text of a flag as given; not its default.
    #[must_use]
    pub fn explicit(&self, name: &str) -> Option<&str> {
        debug_assert!(flag(name).is_some(), "no flag --{name}");
        self.values.get(name)?.first().map(String::as_str)
    }

    /// The text of a flag, or its default.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.explicit(name)
            .or_else(|| flag(name).and_then(|flag| flag.default))
    }

    /// All texts of a flag that may be repeated.
    #[must_use]
    pub fn all(&self, name: &str) -> &[String] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }

    /// Takes a secret out; that it was given is still known.
    pub fn take_secret(&mut self, name: &str) -> Option<Secret> {
        let text = self.values.get_mut(name)?.first_mut()?;
        Some(Secret::new(std::mem::take(text)))
    }

    /// Mistakes that came up while reading the environment.
    pub fn mistakes(&self) -> impl Iterator<Item = Mistake> + '_ {
        let mistake = |flag: &&Flag| Mistake::new(flag.name, Problem::NotText);
        self.unreadable.iter().map(mistake)
    }

    fn insert(&mut self, name: &'static str, text: String) {
        self.values.entry(name).or_default().push(text);
    }

    fn take_flags(&mut self, matches: &ArgMatches) {
        for flag in FLAGS {
            // `encrypt` knows one flag only.
            let Ok(Some(texts)) = matches.try_get_many::<String>(flag.name) else {
                continue;
            };
            if !matches!(flag.kind, Kind::Many(_)) {
                // Given before and after the subcommand: the later one counts.
                self.values.remove(flag.name);
            }
            texts.for_each(|text| self.insert(flag.name, text.clone()));
        }
    }

    fn take_environment(&mut self, environment: impl Fn(&str) -> Option<OsString>) {
        for flag in FLAGS {
            if self.values.contains_key(flag.name) {
                continue;
            }
            let value = environment(flag.env);
            match value.as_deref().map(OsStr::to_str) {
                None | Some(Some("")) => {}
                Some(None) => self.unreadable.push(flag),
                Some(Some(text)) if matches!(flag.kind, Kind::Many(_)) => text
                    .split(',')
                    .for_each(|part| self.insert(flag.name, part.trim().to_owned())),
                Some(Some(text)) => self.insert(flag.name, text.to_owned()),
            }
        }
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        for name in SECRET_FLAGS {
            self.values
                .get_mut(name)
                .into_iter()
                .flatten()
                .for_each(Zeroize::zeroize);
        }
    }
}

impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_with(arguments: &[&str], environment: &[(&str, &str)]) -> Invocation {
        let arguments = std::iter::once("sipbridge").chain(arguments.iter().copied());
        let value = |name: &str| {
            let found = environment.iter().find(|(env, _)| *env == name);
            found.map(|(_, value)| OsString::from(value))
        };
        read(arguments.map(OsString::from), value).expect("sound usage")
    }

    #[test]
    fn the_flag_wins_over_the_variable_and_an_empty_variable_is_absent() {
        let environment = [
            ("SIP_DOMAIN", "env.example"),
            ("SIP_PORT", ""),
            ("API_PORT", "9"),
        ];
        let Invocation::Run(given) = read_with(&["--sip-domain", "flag.example"], &environment)
        else {
            panic!("runs without a subcommand");
        };
        assert_eq!(given.explicit("sip-domain"), Some("flag.example"));
        assert_eq!(given.explicit("sip-port"), None);
        assert_eq!(given.text("api-port"), Some("9"));
        assert_eq!(given.text("stream-port"), Some("8081"));
    }

    #[test]
    fn flags_stand_before_or_after_the_subcommand() {
        let Invocation::Check(given) = read_with(
            &[
                "--sip-domain",
                "a.b",
                "--no-ice",
                "check",
                "--sip-port",
                "7",
                "--param",
                "a=1",
                "--param",
                "b=2",
            ],
            &[],
        ) else {
            panic!("check");
        };
        assert_eq!(given.explicit("sip-domain"), Some("a.b"));
        assert_eq!(given.explicit("sip-port"), Some("7"));
        assert_eq!(given.explicit("no-ice"), Some("yes"));
        assert_eq!(given.all("param"), ["a=1", "b=2"]);
    }

    #[test]
    fn encrypt_takes_an_id_and_the_key() {
        let Invocation::Encrypt { line_id, given } =
            read_with(&["encrypt", "--line-id", "7"], &[("ENCRYPTION_KEY", "k")])
        else {
            panic!("encrypt");
        };
        assert_eq!(
            (line_id.as_str(), given.explicit("encryption-key")),
            ("7", Some("k"))
        );
        assert!(!format!("{given:?}").contains("\"k\""));
    }

    #[test]
    fn params_of_the_variable_stand_between_commas() {
        let Invocation::Run(given) = read_with(&[], &[("PARAMS", "a=1, b=2"), ("NO_ICE", "0")])
        else {
            panic!("run");
        };
        assert_eq!(given.all("param"), ["a=1", "b=2"]);
        assert_eq!(given.explicit("no-ice"), Some("0"));
    }
}
