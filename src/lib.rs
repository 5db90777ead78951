//! x
pub mod application;
pub mod community_api;
pub mod config;
pub mod decision;
pub mod event;
pub mod fields;
pub mod health;
pub mod http;
pub mod metrics;
pub mod offender_update;
pub mod poller;
pub mod telemetry;
pub mod token;
pub mod topic;
pub mod web;
