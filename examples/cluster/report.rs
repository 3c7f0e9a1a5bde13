//! The table at the end: each figure beside its limit.

/// A row.
struct Row {
    what: String,
    limit: String,
    found: String,
    is_good: bool,
}

/// What was measured.
#[derive(Default)]
pub struct Report(Vec<Row>);

impl Report {
    /// A figure that must not be above its limit.
    pub fn at_most(&mut self, what: impl Into<String>, found: f64, limit: f64, unit: &str) {
        self.add(
            what,
            format!("{limit} {unit}").trim_end().to_owned(),
            format!("{found:.2} {unit}").trim_end().to_owned(),
            found <= limit,
        );
    }

    /// Times in seconds, of which the median must not be above the limit.
    pub fn median(&mut self, what: impl Into<String>, mut seconds: Vec<f64>, limit: f64) {
        seconds.sort_by(f64::total_cmp);
        let Some(median) = seconds.get(seconds.len() / 2).copied() else {
            return;
        };
        let all: Vec<String> = seconds.iter().map(|time| format!("{time:.1}")).collect();
        let found = format!("{median:.1} s (of {})", all.join(", "));
        self.add(what, format!("{limit} s"), found, median <= limit);
    }

    /// What went wrong, which must be nothing.
    pub fn none(&mut self, what: impl Into<String>, found: &[usize], of: impl Into<String>) {
        let shown = |counts: &[usize]| {
            let texts: Vec<String> = counts.iter().map(ToString::to_string).collect();
            texts.join("/")
        };
        let is_good = found.iter().all(|count| *count == 0);
        let zeros = vec![0; found.len()];
        let of = of.into();
        self.add(
            what,
            shown(&zeros),
            format!("{} {of}", shown(found)),
            is_good,
        );
    }

    fn add(&mut self, what: impl Into<String>, limit: String, found: String, is_good: bool) {
        let what = what.into();
        eprintln!("{what}: {found}");
        self.0.push(Row {
            what,
            limit,
            found,
            is_good,
        });
    }

    pub fn print(&self) {
        println!("| | limit | measured |\n|---|---|---|");
        for row in &self.0 {
            let mark = if row.is_good { "" } else { " **above**" };
            println!("| {} | {} | {}{mark} |", row.what, row.limit, row.found);
        }
    }

    /// Whether every limit was kept.
    pub fn is_good(&self) -> bool {
        self.0.iter().all(|row| row.is_good)
    }
}
