//! Manifests as `kubectl kustomize` builds them, and what a container of one is given.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Deserializer, Value};

/// The name of a bridge's pod, which is its node id.
pub const POD_NAME: &str = "sipbridge-0";
/// The machine that it runs on.
pub const HOST_ADDRESS: &str = "10.0.0.5";

/// Where the manifests lie.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/deploy/kubernetes")
}

/// What one folder builds.
pub struct Manifests(pub Vec<Value>);

impl Manifests {
    /// Builds a folder below [`folder`].
    pub fn build(name: &str) -> Self {
        let path = folder().join(name);
        let yaml = kubectl(&["kustomize", &path.to_string_lossy()], b"");
        Self(objects(&yaml, "annotate", "sipbridge.example.net/read=yes"))
    }

    /// The object of this kind and name.
    pub fn object(&self, kind: &str, name: &str) -> &Value {
        let found = self
            .0
            .iter()
            .find(|it| it["kind"] == kind && it["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
    }

    /// All objects of a kind.
    pub fn all(&self, kind: &str) -> Vec<&Value> {
        self.0.iter().filter(|it| it["kind"] == kind).collect()
    }

    /// The variables of a container, as the kubelet would set them.
    pub fn environment(&self, container: &Value) -> BTreeMap<String, String> {
        let mut variables = BTreeMap::new();
        for source in list(&container["envFrom"]) {
            let name = text(&source["configMapRef"]["name"]);
            let data = self.object("ConfigMap", name)["data"].as_object().unwrap();
            let pairs = data
                .iter()
                .map(|(key, value)| (key.clone(), text(value).to_owned()));
            variables.extend(pairs);
        }
        for variable in list(&container["env"]) {
            let name = text(&variable["name"]);
            if let Some(value) = variable_value(variable, &variables) {
                variables.insert(name.to_owned(), value);
            }
        }
        variables
    }
}

/// The value of a variable; `None` for one that comes from a Secret.
fn variable_value(variable: &Value, earlier: &BTreeMap<String, String>) -> Option<String> {
    if let Some(value) = variable["value"].as_str() {
        return Some(expand(value, earlier));
    }
    let source = &variable["valueFrom"];
    match source["fieldRef"]["fieldPath"].as_str() {
        Some("metadata.name") => Some(POD_NAME.to_owned()),
        Some("status.hostIP") => Some(HOST_ADDRESS.to_owned()),
        Some(other) => panic!("{other}: no field that these tests know"),
        None => {
            assert!(source["secretKeyRef"].is_object(), "{variable}");
            None
        }
    }
}

/// Replaces each `$(NAME)`. Kubernetes leaves one that is not set before as it stands, which
/// nobody wants.
fn expand(value: &str, earlier: &BTreeMap<String, String>) -> String {
    let mut parts = value.split("$(");
    let mut expanded = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once(')').unwrap();
        let known = earlier.get(name);
        expanded += known.unwrap_or_else(|| panic!("{value}: {name} is not set before"));
        expanded += rest;
    }
    expanded
}

/// A workload as the types of Kubernetes have it: without the fields that they do not know.
pub fn typed(workload: &Value) -> Value {
    let mut read = objects(workload.to_string().as_bytes(), "set env", "READ_BY=tests");
    read.remove(0)
}

/// Objects as JSON, read by a command of kubectl that changes them a little and asks no cluster: Debian's
/// kubectl is the only reader of YAML that these tests need.
fn objects(manifests: &[u8], command: &str, change: &str) -> Vec<Value> {
    let mut arguments: Vec<&str> = command.split(' ').collect();
    arguments.extend(["--local", "-o", "json", "-f", "-", change]);
    let json = kubectl(&arguments, manifests);
    let read: Result<Vec<Value>, _> = Deserializer::from_slice(&json).into_iter().collect();
    read.unwrap()
}

/// Runs kubectl without a cluster and returns what it prints.
fn kubectl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new("kubectl")
        .args(arguments)
        .env("KUBECONFIG", "/dev/null")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("kubectl: {error}; run vendor/packages.sh test"));
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "kubectl {arguments:?}: {said}");
    output.stdout
}

/// The pod of a StatefulSet or a Deployment.
pub fn pod(workload: &Value) -> &Value {
    &workload["spec"]["template"]["spec"]
}

/// Its one container.
pub fn container(workload: &Value) -> &Value {
    let containers = list(&pod(workload)["containers"]);
    assert_eq!(containers.len(), 1);
    &containers[0]
}

/// A list; an absent one is empty.
pub fn list(value: &Value) -> &[Value] {
    match value {
        Value::Null => &[],
        other => other.as_array().unwrap(),
    }
}

pub fn text(value: &Value) -> &str {
    let found = value.as_str();
    found.unwrap_or_else(|| panic!("{value} is no text"))
}
