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
        reason = "only who has begun a table may print its lines"
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
    pub seen: String,
    pub met: bool,
}

#[derive(Default)]
pub struct Limits(Vec<Limit>);

impl Limits {
    pub fn at_least(&mut self, what: impl Into<String>, wanted: f64, seen: f64, unit: &str) {
        self.0.push(Limit {
            what: what.into(),
            wanted: format!("at least {wanted}{unit}"),
            seen: format!("{seen:.2}{unit}"),
            met: seen >= wanted,
        });
    }

    pub fn at_most(&mut self, what: impl Into<String>, wanted: f64, seen: f64, unit: &str) {
        self.0.push(Limit {
            what: what.into(),
            wanted: format!("at most {wanted}{unit}"),
            seen: format!("{seen:.2}{unit}"),
            met: seen <= wanted,
        });
    }

    pub fn print(&self) {
        if self.0.is_empty() {
            return;
        }
        let table = Table::new("Limits", ["what", "to reach", "seen", "met"]);
        for limit in &self.0 {
            let met = if limit.met { "yes" } else { "NO" };
            table.line(&[&limit.what, &limit.wanted, &limit.seen, &met]);
        }
    }
}

/// The value at `hundredths` per cent of a sorted list.
pub fn percentile(sorted: &[u32], hundredths: usize) -> u32 {
    let index = (sorted.len() * hundredths / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied().unwrap_or_default()
}
