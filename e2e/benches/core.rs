//! The pure core: the JSON of a row and of its offender becomes a decision with the JSON of its messages.

use std::alloc::System;
use std::hint::black_box;

use alloc_tracker::{Allocator, Session};
use criterion::Criterion;
use probation_offender_events::decision::{Known, Next, next};
use probation_offender_events::event::{Event, Identifiers};
use probation_offender_events::offender_update::ClaimedRow;

#[global_allocator]
static ALLOCATOR: Allocator<System> = Allocator::system();

const ROW: &[u8] = br#"{"offenderId":2500012345,"dateChanged":"2020-07-19T13:56:43.12","action":"UPSERT","offenderDeltaId":123456789,"sourceTable":"OFFENDER","sourceRecordId":345,"status":"INPROGRESS","failedUpdate":false}"#;
const IDENTIFIERS: &[u8] = br#"{"offenderId":2500012345,"primaryIdentifiers":{"crn":"X012345","nomsNumber":"A1234AA","pncNumber":"2020/0012345Z"}}"#;
/// Rows over which allocations are averaged.
const ROWS: u64 = 1_000;

fn events_of(row: &[u8], identifiers: &[u8]) -> Option<Vec<Event>> {
    let row = ClaimedRow::from_json(row).ok()??;
    let identifiers = Identifiers::from_json(identifiers).ok()?;
    match next(&row, &Known::Found(identifiers), &[]) {
        Next::Publish(events) => Some(events),
        _ => None,
    }
}

fn main() {
    assert_eq!(
        events_of(ROW, IDENTIFIERS).map(|events| events.len()),
        Some(2)
    );
    let mut criterion = Criterion::default().configure_from_args();
    criterion.bench_function("row to two messages", |bencher| {
        bencher.iter(|| events_of(black_box(ROW), black_box(IDENTIFIERS)));
    });
    criterion.bench_function("reading a row", |bencher| {
        bencher.iter(|| ClaimedRow::from_json(black_box(ROW)));
    });
    criterion.bench_function("reading identifiers", |bencher| {
        bencher.iter(|| Identifiers::from_json(black_box(IDENTIFIERS)).ok());
    });
    criterion.final_summary();

    let session = Session::new().no_stdout().no_file();
    {
        let operation = session.operation("row to two messages");
        let _span = operation.measure_thread().iterations(ROWS);
        for _ in 0..ROWS {
            black_box(events_of(black_box(ROW), black_box(IDENTIFIERS)));
        }
    }
    session.to_report().print_to_stdout();
}
