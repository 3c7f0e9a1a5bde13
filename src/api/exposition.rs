//! The text format of Prometheus, version 0.0.4: one family after another,
//! HELP and TYPE before the samples.

use std::fmt::{Display, Write};

/// A text that grows by families.
#[derive(Debug, Default)]
pub(super) struct Exposition(String);

/// Labels of one sample.
pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

impl Exposition {
    /// A counter without labels.
    pub(super) fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "counter", help);
        self.sample(name, &[], value);
    }

    /// A gauge without labels.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    /// Counters that differ in one label.
    pub(super) fn counters<'a>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'a str, u64)>,
    ) {
        self.family(name, "counter", help);
        for (word, value) in values {
            self.sample(name, &[(label, word)], value);
        }
    }

    /// Gauges that differ in one label.
    pub(super) fn gauges<'a>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'a str, u64)>,
    ) {
        self.family(name, "gauge", help);
        for (word, value) in values {
            self.sample(name, &[(label, word)], value);
        }
    }

    /// Begins a family.
    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One sample of the family that was begun last.
    pub(super) fn sample(&mut self, name: &str, labels: Labels<'_>, value: impl Display) {
        self.0.push_str(name);
        for (index, (label, word)) in labels.iter().enumerate() {
            self.0.push(if index == 0 { '{' } else { ',' });
            let _ = write!(self.0, "{label}=\"{}\"", escaped(word));
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    pub(super) fn into_text(self) -> String {
        self.0
    }
}

fn escaped(word: &str) -> String {
    word.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_and_samples_are_written_as_prometheus_reads_them() {
        let mut text = Exposition::default();
        text.counter("a_total", "How many.", 7_u64);
        text.gauge("b_seconds", "How long.", 0.25);
        text.gauges("c", "By kind.", "kind", [("x\"\\\n", 1), ("y", 2)]);
        let expected = "# HELP a_total How many.\n# TYPE a_total counter\na_total 7\n\
             # HELP b_seconds How long.\n# TYPE b_seconds gauge\nb_seconds 0.25\n\
             # HELP c By kind.\n# TYPE c gauge\nc{kind=\"x\\\"\\\\\\n\"} 1\nc{kind=\"y\"} 2\n";
        assert_eq!(text.into_text(), expected);
    }
}
