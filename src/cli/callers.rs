//! Lines whose calls would not be heard: they do not register, so that nobody
//! knows the token of their Contact, and no source that may call is known.

use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::core::access::Accept;
use crate::core::ids::LineId;
use crate::dns::{Files, LocateError, Servers, Target};
use crate::lines::ReadyLine;

/// How long the look-ups may take together.
const LOOKUPS_MAX: Duration = Duration::from_secs(6);

/// Why the calls of a line would be refused, for each of which that is so.
/// Looks names up, and waits for that.
pub(super) fn unheard(config: &Config, ready: &[ReadyLine]) -> BTreeMap<LineId, String> {
    let sip = &config.sip;
    if sip.register || sip.callers.accept == Accept::Any || !sip.callers.allow_from.is_empty() {
        return BTreeMap::new();
    }
    let alone = ready.iter().filter(|line| line.route.allow_from.is_empty());
    let targets: Vec<(&ReadyLine, Result<Target, String>)> = alone
        .map(|line| {
            let target = Target::parse(line.route.server(), line.route.transport);
            (line, target.map_err(|error| error.to_string()))
        })
        .collect();
    let wanted = targets
        .iter()
        .filter_map(|(_, target)| target.as_ref().ok());
    let problems = look_up(config, wanted);
    let why = |(line, target): &(&ReadyLine, Result<Target, String>)| {
        let problem = match target {
            Ok(target) => problems.get(target)?.clone(),
            Err(problem) => problem.clone(),
        };
        let told = format!(
            "its calls would be refused: no address of its server {} is known ({problem}), and the line does not register; \
             name its addresses by --allow-from or the server's allow_from",
            line.route.server()
        );
        Some((line.line.id.clone(), told))
    };
    targets.iter().filter_map(why).collect()
}

/// What is wrong with each target that has no address.
fn look_up<'a>(
    config: &Config,
    wanted: impl Iterator<Item = &'a Target>,
) -> HashMap<Target, String> {
    let files = Files {
        resolv_conf: config.network.resolv_conf.clone(),
        ..Files::default()
    };
    let mut problems: HashMap<Target, String> = wanted
        .map(|target| (target.clone(), "no answer in 6 s".to_owned()))
        .collect();
    let Ok(servers) = Servers::start(files) else {
        return problems;
    };
    let (sender, answers) = mpsc::sync_channel(problems.len());
    for target in problems.keys() {
        let (sender, asked) = (sender.clone(), target.clone());
        // Who no longer waits needs no answer.
        servers.locate(target, move |found: Result<_, LocateError>| {
            drop(sender.try_send((asked, found.map(drop))));
        });
    }
    drop(sender);
    let end = Instant::now() + LOOKUPS_MAX;
    while let Ok((target, found)) =
        answers.recv_timeout(end.saturating_duration_since(Instant::now()))
    {
        match found {
            Ok(()) => drop(problems.remove(&target)),
            Err(error) => drop(problems.insert(target, error.to_string())),
        }
    }
    problems
}
