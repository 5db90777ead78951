//! probation-offender-events: turns changes to offenders in Delius into events on an AWS SNS topic.
//!
//! A row of OFFENDER_DELTA is claimed from community-api (which locks it for ten minutes), decided on, published to the
//! topic, and deleted. The whole service is that path, with what it takes to lose nothing on it.
//!
//! # Reading order
//!
//! 1. [`offender_update`], [`event`], [`decision`], [`outcome`]: the pure core. A row, what it tells subscribers, what
//!    happens next to it, what can become of it. [`fields`] reads both kinds of JSON that come from outside.
//! 2. [`ports`]: what the poller needs of the world, and how calls fail. [`poller`]: the drain that claims rows. Then
//!    `poller/row.rs`, the path of one row from top to bottom, and [`poller::places`] and [`poller::retry`], which say what
//!    happens when calls fail.
//! 3. [`community_api`] with its [`token`], and [`topic`]: the two ports over HTTP and the AWS SDK. [`calls`] times and
//!    reports each call, and [`http`] holds the rules for connections.
//! 4. [`health`] with its [`heartbeat`], [`metrics`], [`web`], [`telemetry`], [`insights`]: what the operator sees.
//! 5. [`config`] and [`application`]: the settings, and the only place where all of this is joined. [`check`] tells whether
//!    it would work, with [`identity`]. [`signals`] stop the service.

pub mod application;
pub mod calls;
pub mod check;
pub mod community_api;
pub mod config;
pub mod decision;
mod episode;
pub mod event;
pub mod fields;
pub mod health;
pub mod heartbeat;
pub mod http;
pub mod identity;
pub mod insights;
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
