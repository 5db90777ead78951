//! A deterministic simulation of pods, faults and crashes over the production poller.
