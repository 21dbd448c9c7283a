//! Revocations under load: many threads present old and new keys, while their trusts are rotated,
//! disabled, enabled and deleted. No request that began after a revocation returned is granted (G1,
//! G9), and no key that is valid throughout is refused.
//!
//! Counts bound the tests, and not time.

mod stores;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use stores::postgres_server::PostgresServer;
use stores::{Backend, World};
use trust_auth::{AuthError, MemoryStore, NewTrust, PostgresStore, SqliteStore, TrustRef};
use uuid::Uuid;

const TRUSTS: usize = 8;
const CLIENTS: usize = 4;

/// A key that was issued, and how far its revocation has come.
struct Issued {
    key: String,
    id: Uuid,
    /// Its revocation has begun: it may be granted or refused.
    revoking: AtomicBool,
    /// Its revocation has returned: it must be refused.
    revoked: AtomicBool,
}

impl Issued {
    fn new(key: &str, id: Uuid) -> Arc<Self> {
        Arc::new(Self { key: key.into(), id, revoking: false.into(), revoked: false.into() })
    }
}

#[derive(Default)]
struct Tally {
    granted: AtomicU64,
    refused: AtomicU64,
}

async fn client<S: Backend>(
    world: Arc<World<S>>,
    issued: Arc<Mutex<Vec<Arc<Issued>>>>,
    done: Arc<AtomicBool>,
    tally: Arc<Tally>,
    client: usize,
) {
    let mut turn = client;
    let mut last_round = false;
    loop {
        let keys = issued.lock().unwrap().clone();
        // The last round, after the last revocation, presents every key ever issued. Before that,
        // only the newest keys matter.
        let chosen =
            if last_round { &keys[..] } else { &keys[keys.len().saturating_sub(2 * TRUSTS)..] };
        for at in 0..chosen.len() {
            let key = &chosen[(at + turn) % chosen.len()];
            let revoked_before = key.revoked.load(Ordering::SeqCst);
            let result = world.authenticator.authenticate(Some(&key.key)).await;
            let untouched_after = !key.revoking.load(Ordering::SeqCst);
            match result {
                Ok(trust) => {
                    assert!(!revoked_before, "a revoked key was granted");
                    assert_eq!(trust.id, key.id);
                    tally.granted.fetch_add(1, Ordering::Relaxed);
                }
                Err(AuthError::Invalid) => {
                    assert!(!untouched_after, "a valid key was refused");
                    tally.refused.fetch_add(1, Ordering::Relaxed);
                }
                Err(other) => panic!("{other:?}"),
            }
        }
        turn += 1;
        if last_round {
            return;
        }
        last_round = done.load(Ordering::SeqCst);
        tokio::task::yield_now().await;
    }
}

async fn revocations_under_load<S: Backend>(rounds: usize) {
    let world = Arc::new(World::<S>::new().await);
    let issued = Arc::new(Mutex::new(Vec::new()));
    let mut current = Vec::new();
    for at in 0..TRUSTS {
        let (trust, key) = world.register(&format!("trust {at}")).await;
        current.push(Issued::new(key.expose(), trust.id));
    }
    issued.lock().unwrap().extend(current.iter().cloned());

    let (done, tally) = (Arc::new(AtomicBool::new(false)), Arc::new(Tally::default()));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|at| {
            let (world, issued, done, tally) =
                (world.clone(), issued.clone(), done.clone(), tally.clone());
            tokio::spawn(client(world, issued, done, tally, at))
        })
        .collect();

    for round in 0..rounds {
        let at = round % TRUSTS;
        let old = Arc::clone(&current[at]);
        let which = TrustRef::Id(old.id);
        old.revoking.store(true, Ordering::SeqCst);
        let next = match round % 3 {
            0 => {
                let (trust, key) = world.registry.rotate(&which).await.unwrap();
                old.revoked.store(true, Ordering::SeqCst);
                Issued::new(key.expose(), trust.id)
            }
            1 => {
                world.registry.disable(&which).await.unwrap();
                old.revoked.store(true, Ordering::SeqCst);
                // The clients see a refusal. Then the trust receives another key and is enabled.
                tokio::task::yield_now().await;
                let (trust, key) = world.registry.rotate(&which).await.unwrap();
                let next = Issued::new(key.expose(), trust.id);
                world.registry.enable(&which).await.unwrap();
                next
            }
            _ => {
                world.registry.delete(&which).await.unwrap();
                old.revoked.store(true, Ordering::SeqCst);
                let again = NewTrust::new(format!("trust {at}")).unwrap();
                let (trust, key) = world.registry.register(again).await.unwrap();
                Issued::new(key.expose(), trust.id)
            }
        };
        current[at] = Arc::clone(&next);
        issued.lock().unwrap().push(next);
    }
    done.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }

    // The load was real: both answers occurred, and the hot path was used. In the end it serves
    // exactly the valid keys.
    assert!(tally.granted.load(Ordering::Relaxed) >= (CLIENTS * TRUSTS) as u64);
    assert!(tally.refused.load(Ordering::Relaxed) >= (CLIENTS * rounds) as u64);
    let stats = world.authenticator.stats();
    assert!(stats.hits > 0 && stats.scans > 0);
    assert_eq!(stats.unavailable, 0);
    let issued = issued.lock().unwrap().clone();
    for key in issued {
        let granted = world.authenticator.authenticate(Some(&key.key)).await.is_ok();
        assert_eq!(granted, !key.revoked.load(Ordering::SeqCst));
        assert_eq!(
            world.cache.lookup(&trust_auth::KeyHash::of(&key.key)),
            granted.then_some(key.id)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_key_is_granted_after_its_revocation_in_memory_g1_g9() {
    revocations_under_load::<MemoryStore>(600).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_key_is_granted_after_its_revocation_on_sqlite_g1_g9() {
    revocations_under_load::<SqliteStore>(90).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_key_is_granted_after_its_revocation_on_postgres_g1_g9() {
    if PostgresServer::shared().is_some() {
        revocations_under_load::<PostgresStore>(90).await;
    }
}
