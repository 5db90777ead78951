//! Publishes an event to an AWS SNS topic for each change to an offender in Delius.
//!
//! The service claims a row of OFFENDER_DELTA from community-api, which locks it for 10 minutes. It publishes the
//! row's events to the topic, and deletes the row. If any of this fails, no row is lost.
//!
//! # Reading order
//!
//! 1. [`offender_update`], [`event`], [`decision`], [`outcome`]: the pure core. A row, its events, the next step for
//!    it, and how it can end. `fields` reads the JSON that comes from outside.
//! 2. [`ports`]: what the poller needs, and how calls fail. [`poller`]: the drain that claims rows. Then
//!    `poller/row.rs`, the path of one row from top to bottom. [`poller::places`] and [`poller::retry`] hold what
//!    happens when calls fail.
//! 3. [`community_api`] with its [`token`], and [`topic`]: the two ports over HTTP and the AWS SDK. `calls` times and
//!    reports each call, and [`http`] holds the rules for connections.
//! 4. `health` with its `heartbeat`, [`metrics`], [`web`], [`telemetry`], `insights`: what the operator sees.
//! 5. [`config`] and [`application`]: the settings, and the only place where everything is joined. [`check`] checks an
//!    environment, with `identity`. [`signals`] stop the service.

pub mod application;
mod calls;
pub mod check;
pub mod community_api;
pub mod config;
pub mod decision;
mod episode;
pub mod event;
mod fields;
mod health;
mod heartbeat;
pub mod http;
mod identity;
mod insights;
pub mod metrics;
pub mod offender_update;
pub mod outcome;
pub mod poller;
pub mod ports;
pub mod signals;
mod single_flight;
pub mod telemetry;
pub mod token;
pub mod topic;
pub mod web;

pub use self::health::is_ready;
