//! Caches principals instead of ids, and deletes keys while requests read them:
//!
//! ```text
//! cargo run -p principals
//! cargo run -p principals --release      # also measures what a lookup costs
//! ```
//!
//! A *principal* is data: the user of a key, the user's organization and role, read from four
//! tables. A hit in the cache is the answer, and no row is read. What a cached principal grants is
//! therefore final:
//!
//! * in the process that makes a change, as soon as the invalidation has returned;
//! * in other processes, and after changes by hand, when the time-to-live ends (60 s by default,
//!   counted from the lease).
//!
//! Cache the row's id instead, and read the row for each request, if other processes must not lag.
//!
//! `service.rs` is an axum service with such a cache. `ways.rs` has the usual code over moka, and a
//! `HashMap` in a mutex with a counter of changes. This program forces the order of events that
//! brings a deleted key back, 200 times for each of the three. It then drops a handler that deletes
//! a key, and lets the answer to a deletion get lost. The exit code is 1 if this cache, used as in
//! `service.rs`, accepts a deleted key.

#![forbid(unsafe_code)]

mod costs;
mod database;
mod interrupted;
mod race;
mod service;
mod ways;

use std::error::Error;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use tower::ServiceExt;

use crate::database::Database;
use crate::interrupted::Cut;
use crate::service::{App, Users};
use crate::ways::{Moka, MutexAndCounter, Way};

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let database = Database::create(&folder.path().join("service.db")).await?;

    println!("A request reads a key's user. Meanwhile the key is deleted, and the cache is");
    println!(
        "invalidated. Then the request inserts what it has read, and another request arrives."
    );
    println!("\n{:>60}", "deleted keys still accepted");
    print_row("", "before the insert", "after it");
    delete_while_read(&Moka::new(), &database).await?;
    let ours = delete_while_read(&Users::new(), &database).await?;
    delete_while_read(&MutexAndCounter::default(), &database).await?;

    println!("\nA handler deletes a key. It is interrupted before it receives the answer, and the");
    println!("database commits after that.");
    println!("\n{:>60}", "deleted keys still accepted");
    print_row("", "invalidate_key", "and before it");
    print_row("", "alone", "invalidate_key_for");
    let dropped = interrupt("the client hangs up", Cut::HangUp, &database).await?;
    let unknown = interrupt("the answer is lost", Cut::NoAnswer, &database).await?;

    change_of_a_user(&database).await?;
    costs::print();
    if ours + dropped + unknown > 0 {
        return Err("this cache has accepted a deleted key".into());
    }
    Ok(())
}

/// Prints how often a deleted key was accepted, and returns the sum.
async fn delete_while_read<W: Way>(way: &W, database: &Database) -> Result<u32, Failure> {
    let (before, after) = race::accepted(way, database).await?;
    let [of_before, of_after] = [before, after].map(|n| format!("{n} of {}", race::ROUNDS));
    print_row(W::NAME, &of_before, &of_after);
    Ok(before + after)
}

/// Prints how often a deleted key was accepted, and returns the number with `invalidate_key_for`.
async fn interrupt(what: &str, cut: Cut, database: &Database) -> Result<u32, Failure> {
    let alone = interrupted::accepted("/unprotected/keys", cut, database).await?;
    let closed = interrupted::accepted("/keys", cut, database).await?;
    let [of_alone, of_closed] = [alone, closed].map(|n| format!("{n} of {}", interrupted::ROUNDS));
    print_row(what, &of_alone, &of_closed);
    Ok(closed)
}

/// Disables a user who has two keys. A key of another user stays cached.
async fn change_of_a_user(database: &Database) -> Result<(), Failure> {
    let app = App { users: Arc::new(Users::new()), database: database.clone() };
    let service = service::router(app.clone());
    for (key, user) in [("laptop", 1), ("phone", 1), ("other", 2)] {
        database.add_key(key, user).await?;
        expect(StatusCode::OK, request(&service, "GET", "/me", key).await?)?;
    }
    expect(StatusCode::NO_CONTENT, request(&service, "POST", "/users/1/disable", "").await?)?;
    let cached = app.users.len();
    for (key, status) in [
        ("laptop", StatusCode::UNAUTHORIZED),
        ("phone", StatusCode::UNAUTHORIZED),
        ("other", StatusCode::OK),
    ] {
        expect(status, request(&service, "GET", "/me", key).await?)?;
    }
    println!(
        "\nA user was disabled: both keys are refused, and {cached} key of another user stays."
    );
    Ok(())
}

fn print_row(name: &str, first: &str, second: &str) {
    println!("{name:<20}{first:>20}{second:>20}");
}

/// Sends a request to the service, and returns the status of the answer.
async fn request(
    service: &Router,
    method: &str,
    path: &str,
    key: &str,
) -> Result<StatusCode, Failure> {
    let request = Request::builder().method(method).uri(path).header("x-api-key", key);
    Ok(service.clone().oneshot(request.body(Body::empty())?).await?.status())
}

fn expect(expected: StatusCode, status: StatusCode) -> Result<(), Failure> {
    if status == expected {
        return Ok(());
    }
    Err(format!("the service answers {status} instead of {expected}").into())
}
