//! Tests of `trust-auth serve` as a process, with real databases, real proxies and real clients.
//!
//! No test asserts a figure of performance: `benches/service` measures these. The assertions hold
//! on a machine of any speed.

mod admin;
mod admin_statuses;
mod chaos;
mod client;
mod contract;
mod deadlines;
mod disk;
mod failover;
mod fastapi;
mod faults;
mod flood;
mod health;
mod hostile_requests;
mod keys;
mod load;
mod monitoring;
mod open_files;
mod openapi;
mod operation;
mod own_table;
mod passwords;
mod pepper;
mod pooler;
mod processes;
mod programs;
mod promql;
mod proxies;
mod proxies_hostile;
mod read_lease;
mod schema;
mod server;
mod stalls;
mod waiting;

#[path = "../../../trust-auth/tests/postgres_server/mod.rs"]
mod postgres_server;
