//! The rows in flight: how many there may be, and which there are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::{IntCounter, IntGauge};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::lease::Lease;
use crate::metrics::SecondsSince;
use crate::offender_update::OffenderDeltaId;

/// A fixed number of places, each for one claimed row until it is settled or left.
#[derive(Clone, Debug)]
pub(super) struct InFlight {
    places: Arc<Semaphore>,
    rows: Arc<Mutex<Rows>>,
    gauge: IntGauge,
    oldest: SecondsSince,
    panicked: IntCounter,
}

#[derive(Debug, Default)]
struct Rows {
    last_number: u64,
    held: BTreeMap<u64, (Option<OffenderDeltaId>, Lease)>,
}

/// A place, free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    in_flight: InFlight,
    number: Option<u64>,
    _permit: OwnedSemaphorePermit,
}

impl InFlight {
    pub fn new(places: usize, gauge: IntGauge, oldest: SecondsSince, panicked: IntCounter) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places)),
            rows: Arc::default(),
            gauge,
            oldest,
            panicked,
        }
    }

    /// A place, if one is free.
    pub fn try_take(&self) -> Option<Place> {
        Some(self.place(self.places.clone().try_acquire_owned().ok()?))
    }

    /// The next free place.
    pub async fn take(&self) -> Place {
        match self.places.clone().acquire_owned().await {
            Ok(permit) => self.place(permit),
            // Only a closed semaphore gives none, and nothing closes this one.
            Err(_) => std::future::pending().await,
        }
    }

    /// The rows that are held, with the time until each comes back, in the order of their claims.
    pub fn held(&self) -> Vec<(Option<OffenderDeltaId>, Duration)> {
        self.rows()
            .held
            .values()
            .map(|(row, lease)| (*row, lease.comes_back_in()))
            .collect()
    }

    fn place(&self, permit: OwnedSemaphorePermit) -> Place {
        Place {
            in_flight: self.clone(),
            number: None,
            _permit: permit,
        }
    }

    fn show(&self, rows: &Rows) {
        self.gauge
            .set(i64::try_from(rows.held.len()).unwrap_or(i64::MAX));
        let oldest = rows.held.values().next();
        self.oldest.set(oldest.map(|(_, lease)| lease.claimed_at()));
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Puts a claimed row into the place.
    pub fn holds(&mut self, row: Option<OffenderDeltaId>, lease: Lease) {
        let mut rows = self.in_flight.rows();
        rows.last_number += 1;
        let number = rows.last_number;
        rows.held.insert(number, (row, lease));
        self.number = Some(number);
        self.in_flight.show(&rows);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let mut rows = self.in_flight.rows();
            let held = rows.held.remove(&number);
            self.in_flight.show(&rows);
            drop(rows);
            if let Some((row, lease)) = held
                && std::thread::panicking()
            {
                self.in_flight.panicked.inc();
                // Where it panicked is in the line before, which does not know the row.
                tracing::error!(
                    offenderDeltaId = row.map(|row| row.0),
                    comes_back_in_seconds = lease.comes_back_in().as_secs(),
                    "the task of this row panicked; unless it is deleted already, it comes back when the lock runs out"
                );
            }
        }
    }
}
