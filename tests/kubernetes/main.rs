//! `examples/deploy/kubernetes`, built by kubectl as an operator builds it, and held to the program:
//! its variables, ports, routes, and how long its shutdown takes.
//!
//! `manifests` builds and reads them; here is what has to hold.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test, a broken expectation is a failure"
)]

mod manifests;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use serde_json::{Value, json};
use sipbridge::config::flags::FLAGS;
use sipbridge::config::{self, Config, Invocation};

use manifests::{HOST_ADDRESS, Manifests, POD_NAME, container, folder, list, pod, text, typed};

/// What `$(openssl rand -hex 32)` may print.
const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
/// What the end of a bridge takes beside its three timeouts.
const REST_OF_SHUTDOWN: Duration = Duration::from_secs(10);
/// Fields that Kubernetes 1.20, whose kubectl Debian 12 has, does not know yet.
const NEWER_FIELDS: [&str; 1] = [".spec.minReadySeconds"];

static PRODUCTION: LazyLock<Manifests> = LazyLock::new(|| Manifests::build("overlays/production"));

fn bridges() -> &'static Value {
    PRODUCTION.object("StatefulSet", "sipbridge")
}

fn workers() -> &'static Value {
    PRODUCTION.object("Deployment", "voice-worker")
}

/// The Secret that the README makes: its keys, with values as it writes them.
fn secret() -> BTreeMap<String, String> {
    let readme = std::fs::read_to_string(folder().join("README.md")).unwrap();
    let literals = readme.split("--from-literal=").skip(1);
    let pairs = literals.map(|literal| {
        let (key, value) = literal.split_once('=').unwrap();
        let value = match value.strip_prefix('\'') {
            Some(quoted) => quoted.split('\'').next().unwrap(),
            None => HEX,
        };
        (key.to_owned(), value.to_owned())
    });
    pairs.collect()
}

/// The settings of a bridge in its container, read and validated by the program.
fn settings() -> Config {
    let folder = tempfile::tempdir().unwrap();
    let mut variables = PRODUCTION.environment(container(bridges()));
    for (name, path) in variables.iter_mut().filter(|it| it.0.ends_with("_FILE")) {
        let file = Path::new(path.as_str()).file_name().unwrap();
        let value = secret().remove(file.to_str().unwrap());
        let value = value.unwrap_or_else(|| panic!("{name}: no key of the Secret is {file:?}"));
        let stand_in = folder.path().join(file);
        std::fs::write(&stand_in, value).unwrap();
        *path = stand_in.to_str().unwrap().to_owned();
    }
    let arguments = list(&container(bridges())["args"]).iter().map(text);
    let arguments = std::iter::once("sipbridge").chain(arguments);
    let environment = |name: &str| variables.get(name).map(OsString::from);
    let read = config::read(arguments.map(OsString::from), environment);
    let Ok(Invocation::Run(given)) = read else {
        panic!("{read:?}");
    };
    let checked = config::validate(given);
    assert!(checked.mistakes.is_empty(), "{:?}", checked.mistakes);
    assert!(checked.warnings.is_empty(), "{:?}", checked.warnings);
    checked.config
}

#[test]
fn each_folder_builds_by_itself() {
    for (name, kinds) in [
        (
            "base/bridges",
            &["ConfigMap", "Service", "StatefulSet", "PodDisruptionBudget"][..],
        ),
        (
            "base/workers",
            &["Deployment", "ScaledObject", "TriggerAuthentication"],
        ),
    ] {
        let built = Manifests::build(name);
        let found: BTreeSet<&str> = built.0.iter().map(|it| text(&it["kind"])).collect();
        assert_eq!(found, kinds.iter().copied().collect(), "{name}");
    }
    let namespaces: Vec<&Value> = PRODUCTION
        .0
        .iter()
        .map(|it| &it["metadata"]["namespace"])
        .collect();
    assert_eq!(namespaces, vec!["telephony"; 7], "all objects of both");
}

#[test]
fn the_program_takes_the_settings_of_its_container() {
    let settings = settings();
    assert_eq!(settings.node_id, POD_NAME);
    assert_eq!(settings.network.bind.to_string(), HOST_ADDRESS);
    assert_eq!(settings.api_bind.to_string(), HOST_ADDRESS);
    assert!(settings.api_token.is_some() && settings.encryption_key.is_some());
    assert!(settings.cluster.is_some() && settings.database.is_some());
    let (first, last) = settings.network.rtp_ports;
    let ports = u32::from(last - first) + 1;
    assert!(
        ports >= 4 * settings.calls.max_calls,
        "{ports} ports of RTP for two legs of each call"
    );
}

/// What the program does not know it does not read, and says nothing.
#[test]
fn every_variable_is_one_of_the_program() {
    let variables = PRODUCTION.environment(container(bridges()));
    assert!(variables.len() > 10, "{variables:?}");
    for name in variables.keys() {
        let is_known = |flag: &config::flags::Flag| {
            flag.env == name || flag.file_env().as_deref() == Some(name)
        };
        assert!(FLAGS.iter().any(is_known), "{name}");
    }
    // Services of the namespace would set more of them: a Service called api sets API_PORT.
    assert_eq!(pod(bridges())["enableServiceLinks"], false);
}

#[test]
fn ports_are_those_that_the_program_opens() {
    let settings = settings();
    let queue = settings.queue.unwrap();
    let ports: BTreeSet<(&str, u64, &str)> = list(&container(bridges())["ports"])
        .iter()
        .map(|port| {
            let number = port["containerPort"].as_u64().unwrap();
            (text(&port["name"]), number, text(&port["protocol"]))
        })
        .collect();
    let opened = [
        ("sip", settings.sip.port.into(), "UDP"),
        ("api", settings.api_port.into(), "TCP"),
        ("stream", queue.stream_port.into(), "TCP"),
    ];
    assert_eq!(ports, BTreeSet::from(opened));
    let stream_url = format!("ws://{HOST_ADDRESS}:{}", queue.stream_port);
    assert_eq!(queue.stream_url, Some(stream_url));
    for port in list(&PRODUCTION.object("Service", "sipbridge")["spec"]["ports"]) {
        let target = text(&port["targetPort"]);
        let number = port["port"].as_u64().unwrap();
        assert!(opened.contains(&(target, number, "TCP")), "{port}");
    }
}

/// A liveness probe would end the calls of a bridge that is merely full.
#[test]
fn readiness_is_asked_of_a_route_that_needs_no_token_and_nothing_else_is() {
    let container = container(bridges());
    let probe = &container["readinessProbe"]["httpGet"];
    let document = serde_json::to_value(sipbridge::api::openapi::document()).unwrap();
    let operation = &document["paths"][text(&probe["path"])]["get"];
    assert!(operation["responses"]["200"].is_object(), "{probe}");
    assert!(operation["responses"]["503"].is_object(), "{probe}");
    assert_eq!(operation["security"], json!([{}]), "no token");
    let names = list(&container["ports"]).iter().map(|port| &port["name"]);
    assert!(names.collect::<Vec<_>>().contains(&&probe["port"]));
    for probe in ["livenessProbe", "startupProbe", "lifecycle"] {
        assert_eq!(container[probe], Value::Null, "{probe}");
    }
}

#[test]
fn the_grace_period_is_longer_than_the_whole_shutdown() {
    let settings = settings();
    let handover = settings.cluster.unwrap().handover_timeout;
    let shutdown = settings.drain_timeout + settings.shutdown_timeout + REST_OF_SHUTDOWN;
    let grace = pod(bridges())["terminationGracePeriodSeconds"]
        .as_u64()
        .unwrap();
    assert!(Duration::from_secs(grace) >= handover + shutdown, "{grace}");
}

/// By the rule of `src/queue/nodes.rs`: who came and went within a minute waits for one.
#[test]
fn one_bridge_at_a_time_is_stopped_and_each_has_a_machine() {
    let spec = &bridges()["spec"];
    assert!(spec["minReadySeconds"].as_u64().unwrap() > 60);
    assert_eq!(spec["updateStrategy"], json!({"type": "RollingUpdate"}));
    let budget = &PRODUCTION.object("PodDisruptionBudget", "sipbridge")["spec"];
    assert_eq!(budget["maxUnavailable"], 1);
    let pod = pod(bridges());
    assert_eq!(pod["hostNetwork"], true);
    assert_eq!(pod["dnsPolicy"], "ClusterFirstWithHostNet");
    let rule =
        &pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    assert_eq!(rule[0]["topologyKey"], "kubernetes.io/hostname");
    assert_eq!(rule[0]["labelSelector"], spec["selector"]);
}

#[test]
fn selectors_and_names_lead_to_what_is_there() {
    for workload in [bridges(), workers()] {
        let labels = &workload["spec"]["template"]["metadata"]["labels"];
        assert_eq!(&workload["spec"]["selector"]["matchLabels"], labels);
    }
    let labels = &bridges()["spec"]["selector"]["matchLabels"];
    let service = PRODUCTION.object("Service", "sipbridge");
    assert_eq!(&service["spec"]["selector"], labels);
    assert_eq!(
        bridges()["spec"]["serviceName"],
        service["metadata"]["name"]
    );
    assert_eq!(service["spec"]["clusterIP"], "None");
    let budget = PRODUCTION.object("PodDisruptionBudget", "sipbridge");
    assert_eq!(&budget["spec"]["selector"]["matchLabels"], labels);
}

/// Each key that is read, of the Secret that the README makes; and none is made for nothing.
#[test]
fn every_key_of_the_secret_is_made_and_used() {
    let mut used = BTreeSet::new();
    let volume = &list(&pod(bridges())["volumes"])[0]["secret"];
    assert_eq!(volume["secretName"], "sipbridge");
    let mount = &list(&container(bridges())["volumeMounts"])[0];
    for item in list(&volume["items"]) {
        used.insert(text(&item["key"]).to_owned());
        let path = format!("{}/{}", text(&mount["mountPath"]), text(&item["path"]));
        let variables = PRODUCTION.environment(container(bridges()));
        let is_read = variables.values().any(|value| *value == path);
        assert!(is_read, "nobody reads {path}");
    }
    let of_workers = list(&container(workers())["env"])
        .iter()
        .map(|variable| &variable["valueFrom"]["secretKeyRef"]);
    let of_keda = PRODUCTION
        .all("TriggerAuthentication")
        .into_iter()
        .flat_map(|it| list(&it["spec"]["secretTargetRef"]));
    for reference in of_workers.chain(of_keda) {
        assert_eq!(reference["name"], "sipbridge", "{reference}");
        used.insert(text(&reference["key"]).to_owned());
    }
    assert_eq!(used, secret().into_keys().collect());
}

#[test]
fn workers_are_scaled_by_the_calls_of_each_bridge_and_by_the_queue() {
    let scaled = &PRODUCTION.object("ScaledObject", "voice-worker")["spec"];
    assert_eq!(
        scaled["scaleTargetRef"]["name"],
        workers()["metadata"]["name"]
    );
    assert_eq!(workers()["spec"]["replicas"], Value::Null, "KEDA's own");
    let triggers = list(&scaled["triggers"]);
    let counted: BTreeSet<String> = triggers
        .iter()
        .map(|trigger| text(&trigger["metadata"]["listName"]).to_owned())
        .collect();
    let replicas = bridges()["spec"]["replicas"].as_u64().unwrap();
    let mut wanted: BTreeSet<String> = (0..replicas)
        .map(|number| format!("bridge:sipbridge-{number}:calls"))
        .collect();
    wanted.insert(settings().queue.unwrap().queue);
    assert_eq!(counted, wanted);

    let formula = text(&scaled["advanced"]["scalingModifiers"]["formula"]);
    let terms: BTreeSet<&str> = formula.split(" + ").collect();
    let names: BTreeSet<&str> = triggers.iter().map(|it| text(&it["name"])).collect();
    assert_eq!(terms, names);
    for trigger in triggers {
        let name = text(&trigger["authenticationRef"]["name"]);
        PRODUCTION.object("TriggerAuthentication", name);
    }
}

#[test]
fn nothing_runs_as_root_and_nothing_can_be_written() {
    for workload in [bridges(), workers()] {
        let pod = pod(workload);
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["automountServiceAccountToken"], false);
        let container = container(workload);
        assert_eq!(
            container["securityContext"],
            json!({
                "allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": true,
            })
        );
        let image = text(&container["image"]);
        let (_, tag) = image.rsplit_once(':').unwrap();
        assert_ne!(tag, "latest", "{image}");
        let throttled = &container["resources"]["limits"]["cpu"];
        assert_eq!(*throttled, Value::Null, "throttling is heard");
    }
}

/// kubectl drops what its types do not know, without a word: such as a field with a wrong name.
#[test]
fn every_field_of_a_workload_is_one_that_kubernetes_knows() {
    for workload in [bridges(), workers()] {
        let mut lost = Vec::new();
        collect_lost("", workload, &typed(workload), &mut lost);
        lost.retain(|path| !NEWER_FIELDS.contains(&path.as_str()));
        assert!(lost.is_empty(), "{lost:?}");
    }
    let misspelt = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"},
        "spec": {"replica": 1, "template": {"spec": {"containers": [{"name": "x"}]}}}});
    let mut lost = Vec::new();
    collect_lost("", &misspelt, &typed(&misspelt), &mut lost);
    assert_eq!(lost, [".spec.replica"]);
}

/// Paths of what is in `given` and not the same in `kept`, which may have more.
fn collect_lost(path: &str, given: &Value, kept: &Value, lost: &mut Vec<String>) {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => {
            for (key, value) in given {
                let kept = kept.get(key).unwrap_or(&Value::Null);
                collect_lost(&format!("{path}.{key}"), value, kept, lost);
            }
        }
        (Value::Array(given), Value::Array(kept)) => {
            for (index, value) in given.iter().enumerate() {
                let kept = kept.get(index).unwrap_or(&Value::Null);
                collect_lost(&format!("{path}[{index}]"), value, kept, lost);
            }
        }
        _ if given != kept => lost.push(path.to_owned()),
        _ => {}
    }
}
