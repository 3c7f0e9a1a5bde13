//! `--accept`, `--allow-from`: from whom calls are taken.

use super::config_error::FlagProblem;
use super::reader::Reader;
use crate::core::access::{Accept, Cidr};

/// From whom calls are taken.
#[derive(Clone, Debug)]
pub struct CallersConfig {
    /// `--accept`.
    pub accept: Accept,
    /// `--allow-from`.
    pub allow_from: Vec<Cidr>,
}

pub(super) fn callers(reader: &mut Reader) -> CallersConfig {
    CallersConfig {
        accept: accept(reader),
        allow_from: allow_from(reader),
    }
}

/// `--accept`.
fn accept(reader: &mut Reader) -> Accept {
    reader.choice("accept", "trunks or any", [Accept::Trunks, Accept::Any])
}

/// `--allow-from`. A network that holds everything is `--accept any`, without
/// what that holds back.
fn allow_from(reader: &mut Reader) -> Vec<Cidr> {
    let given: Vec<String> = reader
        .given
        .all("allow-from")
        .iter()
        .flat_map(|text| text.split(','))
        .map(|text| text.trim().to_owned())
        .filter(|text| !text.is_empty())
        .collect();
    let mut networks = Vec::with_capacity(given.len());
    for text in given {
        match text.parse::<Cidr>() {
            Ok(network) => networks.push(network),
            Err(error) => reader.mistake("allow-from", FlagProblem::Cidr(error)),
        }
    }
    if networks.iter().any(Cidr::is_everything) {
        let text = "holds every address there is: strangers may call, as often as a SIP server may. --accept any takes calls from everybody and holds strangers back";
        reader.warn("allow-from", text);
    }
    networks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::raw_args::RawArgs;

    fn read(pairs: &[(&'static str, &str)]) -> (Accept, Vec<String>, Vec<String>, usize) {
        let mut reader = Reader::new(RawArgs::from_pairs(pairs));
        let accept = accept(&mut reader);
        let networks = allow_from(&mut reader);
        let mistakes = reader.mistakes.iter().map(ToString::to_string).collect();
        let networks = networks.iter().map(ToString::to_string).collect();
        (accept, networks, mistakes, reader.warnings.len())
    }

    #[test]
    fn only_trunks_may_call_unless_it_is_said() {
        let (accept, networks, mistakes, _) = read(&[]);
        assert_eq!(accept, Accept::Trunks);
        assert!(networks.is_empty() && mistakes.is_empty());
        assert_eq!(read(&[("accept", "any")]).0, Accept::Any);
        assert_eq!(read(&[("accept", "all")]).2.len(), 1);
    }

    #[test]
    fn networks_are_read_and_every_mistake_is_named() {
        let (_, networks, mistakes, warnings) = read(&[("allow-from", "192.0.2.0/24, ::1")]);
        assert_eq!(networks, ["192.0.2.0/24", "::1"]);
        assert!(mistakes.is_empty() && warnings == 0);
        let (_, _, mistakes, _) = read(&[("allow-from", "192.0.2.1/24,sip.example.org")]);
        assert_eq!(mistakes.len(), 2, "{mistakes:?}");
        assert_eq!(read(&[("allow-from", "0.0.0.0/0")]).3, 1);
    }
}
