//! Caches the principals of a service under a read lease, in two processes, on PostgreSQL:
//!
//! ```text
//! cargo run -p held-principals
//! ```
//!
//! The service has tables of its own: keys, users, organizations and memberships. A hit in the
//! cache is the answer, and no row is read. The read lease makes each revocation final when it
//! returns, in every process. `held.rs` is that cache, in 40 lines of code. `database.rs` has the
//! service's own SQL, and `service.rs` brings the two together.
//!
//! The program starts a PostgreSQL server of its own. With `DATABASE_URL`, it uses the schema
//! `held_principals` of that database instead, which it drops first and last. It prints three
//! things, and its exit code is 1 if one of them is not as stated:
//!
//! * A key is revoked while a request reads it, 200 times. moka accepts all of these keys
//!   afterwards, and the cache under the read lease accepts none.
//! * `last_used_at` is written with each request, and invalidates nothing.
//! * One process revokes a key, disables a user or removes a member. The other process, which holds
//!   the principal, refuses the next request.

#![forbid(unsafe_code)]

mod database;
mod held;
mod other_process;
mod race;
mod service;
mod temporary_server;

use std::env;
use std::error::Error;
use std::time::{Duration, Instant};

use crate::database::{Database, SCHEMA};
use crate::other_process::OtherProcess;
use crate::race::Moka;
use crate::service::{Revocation, Service};
use crate::temporary_server::TemporaryServer;

type Failure = Box<dyn Error + Send + Sync>;
type Done = Result<(), Failure>;

/// The most lines of code that `held.rs` may have.
const LINES: usize = 40;

/// After so long, a process holds a principal that it is asked for.
const HELD_WITHIN: Duration = Duration::from_secs(30);

/// How many requests one key receives in each process.
const REQUESTS: u32 = 100;

/// How many revocations of each kind are made.
const REVOCATIONS: u32 = 40;

#[tokio::main]
async fn main() -> Done {
    let url = env::var("DATABASE_URL").ok();
    if env::args().nth(1).as_deref() == Some(other_process::SERVE) {
        return other_process::serve(&url.ok_or("DATABASE_URL is not set")?).await;
    }
    let (server, url) = match url {
        Some(url) => (None, url),
        None => match TemporaryServer::start()? {
            Some(server) => {
                let url = server.url();
                (Some(server), url)
            }
            None => {
                let told = "PostgreSQL is not installed: on Debian, `apt-get install postgresql`";
                if env::var_os("TRUST_AUTH_REQUIRE_POSTGRES").is_some() {
                    return Err(told.into());
                }
                eprintln!("LEFT OUT: {told}");
                return Ok(());
            }
        },
    };
    let separator = if url.contains('?') { '&' } else { '?' };
    let url = format!("{url}{separator}options[search_path]={SCHEMA}");
    let database = Database::connect(&url).await?;
    database.make_tables().await?;
    let outcome = run(&url).await;
    let dropped = database.drop_tables().await;
    drop(server);
    outcome.and(dropped)
}

async fn run(url: &str) -> Done {
    held::changes(url).run_migration().await?;
    print_lines()?;
    let service = Service::start(url).await?;
    println!("\nThe first change in a new schema waits for a lease's length.");
    revoke_while_read(&service).await?;
    let mut other = OtherProcess::start(url)?;
    use_a_key(&service, &mut other).await?;
    revoke_in_two_processes(&service, &mut other).await?;
    other.stop().await
}

/// Prints how many lines of code the cache takes.
fn print_lines() -> Done {
    let lines = include_str!("held.rs").lines().map(str::trim_start);
    let code = lines.filter(|line| !line.is_empty() && !line.starts_with("//")).count();
    println!("The cache under the read lease is {code} lines of code (held.rs).");
    expect(code <= LINES, "the cache takes more lines than stated")
}

async fn revoke_while_read(service: &Service) -> Done {
    let database = &service.database;
    let keys = |name: &str| (0..race::ROUNDS).map(|round| format!("{name} {round}")).collect();
    let (for_moka, for_lease): (Vec<_>, Vec<_>) = (keys("moka"), keys("lease"));
    service.add_keys(&for_moka).await?;
    service.add_keys(&for_lease).await?;

    println!("\nA request reads a key's principal. Meanwhile the key is revoked. Then the request");
    println!("stores what it has read, and another request arrives.\n");
    println!("{:<24}{:>24}", "", "revoked keys accepted");
    let moka = race::accepted(&Moka::new(), database, &for_moka).await?;
    println!("{:<24}{:>24}", "moka, TTL of 60 s", out_of(moka, race::ROUNDS));
    let lease = race::accepted(&service.principals, database, &for_lease).await?;
    println!("{:<24}{:>24}", "the read lease", out_of(lease, race::ROUNDS));
    expect(moka == race::ROUNDS, "moka has refused a revoked key")?;
    expect(lease == 0, "the cache under the read lease has accepted a revoked key")
}

/// Uses one key often in both processes, and then changes a column that decides.
async fn use_a_key(service: &Service, other: &mut OtherProcess) -> Done {
    let key = "often";
    service.add_keys(&[key.to_owned()]).await?;
    let there = other.hold(key).await?;
    let principal = service.hold(key).await?;
    let here = service.database.reads();
    let mut written = 0;
    let mut used = service.database.last_used_at(key).await?;
    for request in 0..2 * REQUESTS {
        if request % 2 == 0 {
            service.request(key).await?;
        } else {
            other.request(key).await?;
        }
        let now = service.database.last_used_at(key).await?;
        written += u32::from(now != used);
        used = now;
    }
    let (more_here, more_there) =
        (service.database.reads() - here, other.request(key).await?.reads - there);
    println!(
        "\n{REQUESTS} requests with one key in each of two processes: last_used_at was written \
         {written} times,\nand the principal was read {} times.",
        more_here + more_there
    );
    expect(written == 2 * REQUESTS, "last_used_at was not written")?;
    expect((more_here, more_there) == (0, 0), "last_used_at has invalidated a principal")?;

    let promote = || service.database.promote(principal.user_id);
    service.principals.settle(promote).await?;
    let role = service.request(key).await?.map(|principal| principal.role.clone());
    let (more_here, more_there) =
        (service.database.reads() - here, other.request(key).await?.reads - there);
    expect(role.as_deref() == Some("head nurse"), "the former role was granted")?;
    expect((more_here, more_there) == (1, 1), "a process has not read the other role")?;
    println!("The user received another role: each process has read the principal again.");
    Ok(())
}

async fn revoke_in_two_processes(service: &Service, other: &mut OtherProcess) -> Done {
    println!(
        "\nTwo processes hold a principal. One of them revokes it; then each has a request.\n"
    );
    println!(
        "{:<20}{:>16}{:>24}{:>26}",
        "", "accepted here", "by the other process", "duration (median, most)"
    );
    let mut accepted = 0;
    for (name, revocation) in [
        ("a key is revoked", Revocation::RevokeKey),
        ("a user is disabled", Revocation::DisableUser),
        ("a member is removed", Revocation::RemoveMember),
    ] {
        let keys: Vec<_> = (0..REVOCATIONS).map(|round| format!("{name} {round}")).collect();
        service.add_keys(&keys).await?;
        let (mut here, mut there, mut took) = (0, 0, Vec::new());
        for key in &keys {
            other.hold(key).await?;
            let principal = service.hold(key).await?;
            let begun = Instant::now();
            service.revoke(revocation, key, &principal).await?;
            took.push(begun.elapsed());
            there += u32::from(other.request(key).await?.is_granted);
            here += u32::from(service.request(key).await?.is_some());
        }
        println!(
            "{name:<20}{:>16}{:>24}{:>26}",
            out_of(here, REVOCATIONS),
            out_of(there, REVOCATIONS),
            median_and_most(took)
        );
        accepted += here + there;
    }
    expect(accepted == 0, "a process has accepted a revoked key")
}

fn out_of(count: u32, all: u32) -> String {
    format!("{count} of {all}")
}

fn median_and_most(mut took: Vec<Duration>) -> String {
    took.sort();
    let most = took.last().copied().unwrap_or_default();
    format!("{} ms, {} ms", took[took.len() / 2].as_millis(), most.as_millis())
}

fn expect(is_so: bool, otherwise: &'static str) -> Done {
    if is_so { Ok(()) } else { Err(otherwise.into()) }
}
