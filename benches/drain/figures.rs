//! The output of all parts: tables in Markdown, and the limits to be met.

use std::fmt::Display;

/// A table, printed line by line as the figures come.
pub struct Table;

impl Table {
    pub fn new<const N: usize>(title: &str, columns: [&str; N]) -> Self {
        println!(
            "\n{title}\n\n| {} |\n|{}",
            columns.join(" | "),
            "---|".repeat(N)
        );
        Self
    }

    #[expect(
        clippy::unused_self,
        reason = "only a table that has been started can print lines"
    )]
    pub fn line(&self, cells: &[&dyn Display]) {
        let cells: Vec<_> = cells.iter().map(ToString::to_string).collect();
        println!("| {} |", cells.join(" | "));
    }
}

/// A limit, and the measured value.
pub struct Limit {
    pub what: String,
    pub wanted: String,
    pub measured: String,
    pub met: bool,
}

#[derive(Default)]
pub struct Limits(Vec<Limit>);

impl Limits {
    pub fn at_least(&mut self, what: impl Into<String>, wanted: f64, measured: f64, unit: &str) {
        self.0.push(Limit {
            what: what.into(),
            wanted: format!("at least {wanted}{unit}"),
            measured: format!("{measured:.2}{unit}"),
            met: measured >= wanted,
        });
    }

    pub fn at_most(&mut self, what: impl Into<String>, wanted: f64, measured: f64, unit: &str) {
        self.0.push(Limit {
            what: what.into(),
            wanted: format!("at most {wanted}{unit}"),
            measured: format!("{measured:.2}{unit}"),
            met: measured <= wanted,
        });
    }

    pub fn print(&self) {
        if self.0.is_empty() {
            return;
        }
        let table = Table::new("Limits", ["what", "target", "measured", "met"]);
        for limit in &self.0 {
            let met = if limit.met { "yes" } else { "NO" };
            table.line(&[&limit.what, &limit.wanted, &limit.measured, &met]);
        }
    }
}

/// The value at this percentage of a sorted list.
pub fn percentile(sorted: &[u32], percent: usize) -> u32 {
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or_default()
}
