//! The whole service over real sockets: on free ports, against the sandbox, with the real SDK. Each module is a theme.

mod bad_input;
mod events;
mod pods;
mod process;
mod token;
mod trouble;
mod web;
mod world;
