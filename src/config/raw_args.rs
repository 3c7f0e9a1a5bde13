//! What was given: the flags of the command line, and the environment for
//! those that are absent from it. Texts only.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::ArgMatches;
use zeroize::Zeroize;

use super::config_error::{ConfigError, FlagProblem};
use super::flags::{FLAGS, Flag, FlagKind, SECRET_FLAGS, command, flag};
use crate::core::private::Secret;
use crate::files;

/// Largest file of a secret.
const SECRET_MAX_BYTES: u64 = 64 * 1024;

/// What the program was asked to do.
#[derive(Debug)]
pub enum Invocation {
    /// Run the bridge.
    Run(RawArgs),
    /// Validate everything without starting.
    Check(RawArgs),
    /// Print the lines without starting.
    Lines(RawArgs),
    /// Print the bridges that share lines.
    Nodes(RawArgs),
    /// Encrypt the password on standard input for a line.
    Encrypt {
        /// The line's id.
        line_id: String,
        /// For the key.
        given: RawArgs,
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
    let mut given = RawArgs::default();
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
        Some(("nodes", _)) => Invocation::Nodes(given),
        Some(_) => Invocation::Check(given),
        None => Invocation::Run(given),
    })
}

/// The texts of all flags that were given. `Debug` shows their names only.
#[derive(Default)]
pub struct RawArgs {
    values: HashMap<&'static str, Vec<String>>,
    /// What was wrong with variables and the files that they name.
    mistakes: Vec<ConfigError>,
    /// Secrets that stand on the command line.
    shown_secrets: Vec<&'static str>,
}

impl RawArgs {
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
    pub fn mistakes(&self) -> impl Iterator<Item = ConfigError> + '_ {
        self.mistakes.iter().cloned()
    }

    /// Secrets that other users of this machine can read in the command line.
    pub fn shown_secrets(&self) -> &[&'static str] {
        &self.shown_secrets
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
            if !matches!(flag.kind, FlagKind::Many(_)) {
                // Given before and after the subcommand: the later one counts.
                self.values.remove(flag.name);
            }
            for text in texts {
                if SECRET_FLAGS.contains(&flag.name) && is_secret(flag, text) {
                    self.shown_secrets.push(flag.name);
                }
                self.insert(flag.name, text.clone());
            }
        }
    }

    fn take_environment(&mut self, environment: impl Fn(&str) -> Option<OsString>) {
        for flag in FLAGS {
            if self.values.contains_key(flag.name) {
                continue;
            }
            let value = environment(flag.env);
            match value.as_deref().map(OsStr::to_str) {
                None | Some(Some("")) => self.take_file(flag, &environment),
                Some(None) => self
                    .mistakes
                    .push(ConfigError::new(flag.name, FlagProblem::NotText)),
                Some(Some(text)) if matches!(flag.kind, FlagKind::Many(_)) => text
                    .split(',')
                    .for_each(|part| self.insert(flag.name, part.trim().to_owned())),
                Some(Some(text)) => self.insert(flag.name, text.to_owned()),
            }
        }
    }
}

impl RawArgs {
    /// A secret from the file that the variable `NAME_FILE` names, as Docker and Kubernetes
    /// hand secrets out.
    fn take_file(&mut self, flag: &'static Flag, environment: &impl Fn(&str) -> Option<OsString>) {
        let Some(variable) = flag.file_env() else {
            return;
        };
        let path = environment(&variable).filter(|path| !path.is_empty());
        let Some(path) = path else { return };
        let text = files::read(Path::new(&path), SECRET_MAX_BYTES);
        let text = text.map_err(|error| error.to_string()).and_then(|bytes| {
            let text = std::str::from_utf8(&bytes).map_err(|_| "it holds no text".to_owned())?;
            let text = text.strip_suffix('\n').unwrap_or(text);
            let text = text.strip_suffix('\r').unwrap_or(text);
            let empty = || Err("it is empty".to_owned());
            if text.is_empty() {
                empty()
            } else {
                Ok(text.to_owned())
            }
        });
        match text {
            Ok(text) => self.insert(flag.name, text),
            Err(why) => {
                let problem = FlagProblem::SecretFile(variable, why);
                self.mistakes.push(ConfigError::new(flag.name, problem));
            }
        }
    }
}

/// Whether a text holds a secret: of URLs only those with a login.
fn is_secret(flag: &Flag, text: &str) -> bool {
    !matches!(flag.kind, FlagKind::Value("URL")) || text.contains('@')
}

impl Drop for RawArgs {
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

impl std::fmt::Debug for RawArgs {
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
    fn a_secret_may_stand_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        std::fs::write(path("good"), "p ass\r\n").unwrap();
        std::fs::write(path("empty"), "\n").unwrap();
        let read = |environment: &[(&str, &str)]| match read_with(&[], environment) {
            Invocation::Run(given) => given,
            other => panic!("{other:?}"),
        };
        let given = read(&[("SIP_PASSWORD_FILE", &path("good"))]);
        assert_eq!(given.explicit("sip-password"), Some("p ass"));
        let given = read(&[("SIP_PASSWORD", "x"), ("SIP_PASSWORD_FILE", &path("good"))]);
        assert_eq!(
            given.explicit("sip-password"),
            Some("x"),
            "the variable wins"
        );
        for bad in [path("none"), path("empty"), "/dev/zero".to_owned()] {
            let given = read(&[("AUTH_TOKEN_FILE", &bad)]);
            let told: Vec<_> = given.mistakes().map(|it| it.to_string()).collect();
            assert!(told[0].contains("AUTH_TOKEN_FILE"), "{told:?}");
        }
        // Only secrets have such a variable.
        let given = read(&[("SIP_DOMAIN_FILE", &path("good"))]);
        assert_eq!(given.explicit("sip-domain"), None);
    }

    #[test]
    fn secrets_on_the_command_line_are_known() {
        let arguments = [
            "--sip-password",
            "x",
            "--redis-url",
            "redis://h",
            "--database-url",
            "postgres://u:p@h/n",
        ];
        let Invocation::Run(given) = read_with(&arguments, &[("AUTH_TOKEN", "t")]) else {
            panic!("run");
        };
        assert_eq!(given.shown_secrets(), ["sip-password", "database-url"]);
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
