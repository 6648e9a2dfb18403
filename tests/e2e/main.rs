//! Bowline as a user meets it: the real binary, real processes, real clients, over TLS.

mod advice;
mod app;
mod artifacts;
mod attack;
mod board;
mod builds;
mod cage;
mod console;
mod data;
mod data_verbs;
mod disk;
mod elsewhere;
mod escape;
mod faults;
mod hello;
mod jobs;
mod kills;
mod policies;
mod session;
mod stacks;
mod store;
mod timestamps;
mod uploads;
mod users;
mod verbs;
