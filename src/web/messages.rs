//! The messages on the topic as subscribers read about them: their schemas and the table of events.

use utoipa::ToSchema;

use crate::event::mappings::{GENERIC_EVENT_TYPE, MAPPINGS, OTHER_TABLES};

/// The body of OFFENDER_CHANGED.
#[derive(ToSchema)]
#[expect(dead_code, reason = "its fields are only described")]
#[schema(rename_all = "camelCase")]
pub struct GenericMessage {
    /// The offender's identity in Delius
    #[schema(example = 1)]
    offender_id: i64,
    /// The case reference number
    #[schema(example = "X1", min_length = 1)]
    crn: String,
    /// The prison number, if the offender has one
    #[schema(example = "A1234AA", required = false, nullable = false)]
    noms_number: Option<String>,
}

/// The body of every specific event.
#[derive(ToSchema)]
#[expect(dead_code, reason = "its fields are only described")]
#[schema(rename_all = "camelCase")]
pub struct SpecificMessage {
    /// The offender's identity in Delius
    #[schema(example = 1)]
    offender_id: i64,
    /// The case reference number
    #[schema(example = "X1", min_length = 1)]
    crn: String,
    /// The prison number, if the offender has one
    #[schema(example = "A1234AA", required = false, nullable = false)]
    noms_number: Option<String>,
    /// The key of the changed record in its table. The table depends on the event type
    #[schema(example = 345, required = false, nullable = false)]
    source_id: Option<i64>,
    /// When it changed: London time, without a zone
    #[schema(
        example = "2020-07-19T13:56:43",
        pattern = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?$"
    )]
    event_datetime: String,
}

/// The table of events in Markdown. docs/subscribing.md and the OpenAPI description show it.
pub fn markdown_table() -> String {
    let head = format!(
        "| changed table | event type | also {GENERIC_EVENT_TYPE} | raised when | sourceId |\n|---|---|---|---|---|\n"
    );
    let rows = MAPPINGS.iter().chain([&OTHER_TABLES]).map(|mapping| {
        let generic = if mapping.generic_too { "yes " } else { "" };
        let changed = mapping.changed();
        format!(
            "| {changed} | {} | {generic}| {} | {} |\n",
            mapping.event_type, mapping.raised_when, mapping.source_id
        )
    });
    std::iter::once(head).chain(rows).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscribing_md_has_the_table_of_events() {
        let table = markdown_table();
        // Head and line below it, the mappings, all other tables.
        assert_eq!(table.lines().count(), 2 + MAPPINGS.len() + 1);
        let document = include_str!("../../docs/subscribing.md");
        assert!(document.contains(&table), "it should be:\n{table}");
    }
}
