//! Bowline as a user meets it: the real binary, real processes, real clients, over TLS.

mod advice;
mod app;
mod artifacts;
mod attack;
mod board;
mod builds;
mod data;
mod escape;
mod faults;
mod hello;
mod kills;
mod policies;
mod stacks;
mod store;
mod timestamps;
mod uploads;
mod users;
mod verbs;
