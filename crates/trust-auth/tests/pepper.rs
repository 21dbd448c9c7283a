//! Peppers: which keys a service with one accepts, during its rotation and its adoption, and what
//! an answer costs.

mod stores;

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use stores::{Backend, Log, World, sqlite_options};
use trust_auth::{
    ApiKey, Authenticator, HeldTrusts, KeyHash, KeyHasher, MemoryStore, NewTrust, Pepper,
    PepperError, Route, SqliteStore, TrustAuth, TrustKeyCache, TrustLedger, TrustRegistry,
};

on_every_store!(
    a_key_is_accepted_with_its_own_pepper_alone,
    a_pepper_is_rotated_without_a_refusal,
    a_table_adopts_a_pepper,
    a_key_of_a_former_pepper_is_not_imported_again,
);

const A: &str = "the pepper A, of 32 bytes or more";
const B: &str = "the pepper B, of 32 bytes or more";

fn pepper(text: &str) -> Pepper {
    Pepper::new(text).unwrap()
}

fn peppered(text: &str) -> KeyHasher {
    KeyHasher::peppered(pepper(text))
}

/// A hasher that accepts A while B replaces it.
fn rotating() -> KeyHasher {
    peppered(B).accepting(pepper(A)).unwrap()
}

fn new(name: &str) -> NewTrust {
    NewTrust::new(name).unwrap()
}

fn registry<S: TrustLedger>(world: &World<S>, hasher: &KeyHasher) -> TrustRegistry<S> {
    world.registry.clone().with_key_hasher(hasher.clone())
}

/// Returns an authenticator over the cache of the world.
fn authenticator<S: TrustLedger>(world: &World<S>, hasher: &KeyHasher) -> Authenticator<S> {
    Authenticator::builder(Arc::clone(&world.store), Arc::clone(&world.cache))
        .key_hasher(hasher.clone())
        .build()
}

/// Asserts which hashers accept the key: of the pepper A, of B, of both, and of none. Each is asked
/// twice: by a scan, and by the cache if the scan has found the key.
async fn assert_accepted<S: TrustLedger>(world: &World<S>, key: &str, by: [bool; 4]) {
    let hashers = [peppered(A), peppered(B), rotating(), KeyHasher::default()];
    for (hasher, expected) in hashers.iter().zip(by) {
        let authenticator = authenticator(world, hasher);
        for _ in 0..2 {
            let found = authenticator.authenticate(Some(key)).await;
            assert_eq!(found.is_ok(), expected, "{hasher:?}: {found:?}");
        }
    }
}

async fn a_key_is_accepted_with_its_own_pepper_alone<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, key) = registry(&world, &peppered(A)).register(new("a")).await.unwrap();
    assert_eq!(trust.api_key_hash, Some(peppered(A).hash(key.expose())));
    assert_ne!(trust.api_key_hash, Some(key.hash()));
    assert_accepted(&world, key.expose(), [true, false, true, false]).await;

    let imported = "a key of another program";
    registry(&world, &peppered(B)).import_key(new("b"), imported).await.unwrap();
    assert_accepted(&world, imported, [false, true, true, false]).await;
    let (_, plain) = world.registry.register(new("c")).await.unwrap();
    assert_accepted(&world, plain.expose(), [false, false, false, true]).await;

    // The key under which it may be presented is no digest: a reader of the database has nothing.
    let digest = trust.api_key_hash.unwrap().to_hex();
    assert_accepted(&world, &digest, [false; 4]).await;
    registry(&world, &peppered(A)).delete(&trust.id.into()).await.unwrap();
    assert_accepted(&world, key.expose(), [false; 4]).await;
}

/// Only A, then A and B, then only B: no key is refused at any step, once it was rotated.
async fn a_pepper_is_rotated_without_a_refusal<S: Backend>() {
    let world = World::<S>::new().await;
    let registry_a = registry(&world, &peppered(A));
    let (first, old) = registry_a.register(new("a")).await.unwrap();
    let (second, kept) = registry_a.register(new("b")).await.unwrap();
    let both = registry(&world, &rotating());
    assert_accepted(&world, old.expose(), [true, false, true, false]).await;

    let (_, key) = both.rotate(&first.id.into()).await.unwrap();
    assert_accepted(&world, key.expose(), [false, true, true, false]).await;
    assert_accepted(&world, old.expose(), [false; 4]).await;
    let (_, made) = both.register(new("c")).await.unwrap();
    assert_accepted(&world, made.expose(), [false, true, true, false]).await;
    // Revocations find a key of either pepper.
    assert_accepted(&world, kept.expose(), [true, false, true, false]).await;
    both.disable(&second.id.into()).await.unwrap();
    assert_accepted(&world, kept.expose(), [false; 4]).await;
    both.enable(&second.id.into()).await.unwrap();
    assert_accepted(&world, kept.expose(), [true, false, true, false]).await;
}

async fn a_table_adopts_a_pepper<S: Backend>() {
    let world = World::<S>::new().await;
    let (trust, plain) = world.register_hot("a").await;
    let adopting = peppered(A).accepting_unpeppered();
    let authenticator = authenticator(&world, &adopting);
    assert!(authenticator.authenticate(Some(plain.expose())).await.is_ok());
    let registry = registry(&world, &adopting);
    let (_, key) = registry.rotate(&trust.id.into()).await.unwrap();
    assert!(authenticator.authenticate(Some(plain.expose())).await.is_err());
    assert_accepted(&world, key.expose(), [true, false, true, false]).await;

    let given = ApiKey::generate().unwrap();
    registry.import_hash(new("b"), given.hash()).await.unwrap();
    assert!(authenticator.authenticate(Some(given.expose())).await.is_ok());
}

async fn a_key_of_a_former_pepper_is_not_imported_again<S: Backend>() {
    let world = World::<S>::new().await;
    let key = "a key of another program";
    let trust = registry(&world, &peppered(A)).import_key(new("a"), key).await.unwrap();
    let (_, plain) = world.register("b").await;
    let both = registry(&world, &rotating().accepting_unpeppered());
    for taken in [key, plain.expose()] {
        let error = both.import_key(new("c"), taken).await.unwrap_err();
        assert_eq!(error.kind(), "key_taken", "{error}");
    }
    assert_eq!(world.store.list().await.unwrap().len(), 2);
    both.delete(&trust.id.into()).await.unwrap();
    both.import_key(new("c"), key).await.unwrap();
    assert_accepted(&world, key, [false, true, true, false]).await;
}

#[tokio::test]
async fn a_key_of_either_pepper_is_a_hit_and_a_miss_is_one_scan() {
    let world = World::<MemoryStore>::new().await;
    let (_, former) = registry(&world, &peppered(A)).register(new("a")).await.unwrap();
    let (_, current) = registry(&world, &peppered(B)).register(new("b")).await.unwrap();
    let authenticator = authenticator(&world, &rotating().accepting_unpeppered());
    let attempt = async |key: &ApiKey| authenticator.attempt(Some(key.expose())).await;
    for key in [&former, &current] {
        let attempt = attempt(key).await;
        assert!(attempt.result.is_ok(), "{attempt:?}");
        // All digests in one scan, which counts its rows once.
        assert_eq!((attempt.route, attempt.rows_swept), (Route::Scan, 2));
    }
    assert_eq!(authenticator.stats().scans, 2);
    for key in [&former, &current] {
        let attempt = attempt(key).await;
        assert_eq!((attempt.result.is_ok(), attempt.route), (true, Route::Hit));
    }

    let unknown = attempt(&ApiKey::generate().unwrap()).await;
    assert_eq!((unknown.result.is_err(), unknown.rows_swept), (true, 2));
    assert_eq!((authenticator.stats().scans, authenticator.stats().hits), (3, 2));
}

/// Requests with several digests each share a scan, and each gets its own answer.
#[tokio::test]
async fn each_of_many_requests_gets_the_answer_for_its_own_digests_g8() {
    let world = World::<MemoryStore>::new().await;
    let mut keys = Vec::new();
    for (number, hasher) in [peppered(A), peppered(B), KeyHasher::default()].iter().enumerate() {
        let registered = registry(&world, hasher).register(new(&format!("{number}"))).await;
        let (trust, key) = registered.unwrap();
        keys.push((key, Some(trust.id)));
        keys.push((ApiKey::generate().unwrap(), None));
    }
    let authenticator = authenticator(&world, &rotating().accepting_unpeppered());
    let mut asked = tokio::task::JoinSet::new();
    for (key, expected) in keys {
        let authenticator = authenticator.clone();
        asked.spawn(async move {
            let found = authenticator.authenticate(Some(key.expose())).await;
            assert_eq!(found.ok().map(|trust| trust.id), expected);
        });
    }
    asked.join_all().await;
    assert!(authenticator.stats().scans <= 3, "{:?}", authenticator.stats());
}

/// A key whose current digest was revoked meanwhile is found by its former one.
#[tokio::test]
async fn a_stale_hit_of_the_current_digest_hides_no_row_with_a_former_one() {
    let world = World::<MemoryStore>::new().await;
    let key = "a key of another program";
    let current = registry(&world, &peppered(B)).import_key(new("b"), key).await.unwrap();
    let former = registry(&world, &peppered(A)).import_key(new("a"), key).await.unwrap();
    let authenticator = authenticator(&world, &rotating());
    let id = async || authenticator.authenticate(Some(key)).await.map(|trust| trust.id);
    assert_eq!(id().await.unwrap(), current.id);
    // Both are in the cache, and the current one is stale.
    world.cache.lease(&peppered(A).hash(key)).remember(former.id);
    world.store.set_enabled(&current.id.into(), false).await.unwrap();
    assert_eq!(id().await.unwrap(), former.id);
    assert_eq!(authenticator.stats().scans, 1, "the former digest was a hit");
    world.cache.invalidate();
    assert_eq!(id().await.unwrap(), former.id);
}

/// Under a read lease: held rows, and the look of a miss.
#[tokio::test]
async fn held_rows_are_found_by_each_digest() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trusts.db");
    let store = Arc::new(sqlite_options(&file).connect().await.unwrap());
    let cache = Arc::new(TrustKeyCache::new());
    let of = |hasher: KeyHasher| {
        TrustRegistry::new(Arc::clone(&store), Arc::clone(&cache)).with_key_hasher(hasher)
    };
    let (_, former) = of(peppered(A)).register(new("a")).await.unwrap();
    let length = Duration::from_secs(300);
    let held = Arc::new(HeldTrusts::start(store.feed(), "test", length).await.unwrap());
    let authenticator = Authenticator::builder(Arc::clone(&store), Arc::clone(&cache))
        .read_lease(Arc::clone(&held))
        .key_hasher(rotating())
        .build();
    let attempt = async |key: &ApiKey| authenticator.attempt(Some(key.expose())).await;
    let known = attempt(&former).await;
    assert_eq!((known.result.is_ok(), known.route), (true, Route::Held));

    // Made by another process, so that only a look, or a renewal, shows it.
    let other = sqlite_options(&file).connect().await.unwrap();
    for (name, hasher) in [("b", peppered(A)), ("c", peppered(B))] {
        let other = TrustAuth::builder(other.clone()).key_hasher(hasher).build();
        let (trust, key) = other.registry().register(new(name)).await.unwrap();
        let found = attempt(&key).await;
        assert_eq!(found.result.unwrap().id, trust.id);
        assert!(matches!(found.route, Route::Look | Route::Held), "{:?}", found.route);
    }
    let unknown = attempt(&ApiKey::generate().unwrap()).await;
    assert_eq!((unknown.result.is_err(), unknown.route), (true, Route::Look));
    held.close().await;
    other.close().await;
    store.close().await;
}

/// No log line, `Debug` output or error has a part of a pepper (G10).
#[tokio::test]
async fn nothing_shows_a_pepper() {
    let (log, _guard) = Log::start();
    let world = World::<SqliteStore>::new().await;
    let hasher = rotating();
    let registry = registry(&world, &hasher);
    let authenticator = authenticator(&world, &hasher);
    let (_, key) = registry.register(new("a")).await.unwrap();
    authenticator.authenticate(Some(key.expose())).await.unwrap();
    authenticator.authenticate(Some("unknown")).await.unwrap_err();
    let builder = TrustAuth::builder(MemoryStore::new()).key_hasher(hasher.clone());
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, &A[..31]).unwrap();
    let errors: [PepperError; 3] = [
        Pepper::read(file.path()).unwrap_err(),
        Pepper::new(A.repeat(200)).unwrap_err(),
        peppered(A).accepting(pepper(A)).unwrap_err(),
    ];
    let mut shown = format!("{hasher:?} {registry:?} {authenticator:?} {builder:?} {errors:?}");
    shown += &format!("{:#?} {:?}", pepper(A), builder.build());
    for error in errors {
        shown += &error.to_string();
    }
    shown += &log.text();
    // As text, and as `Debug` writes bytes.
    for (text, bytes) in [(&A[4..16], &A.as_bytes()[4..8]), (&B[4..16], &B.as_bytes()[4..8])] {
        let bytes: Vec<String> = bytes.iter().map(u8::to_string).collect();
        assert!(!shown.contains(text) && !shown.contains(&bytes.join(", ")), "{shown}");
    }
    for digest in [peppered(A).hash(key.expose()), peppered(B).hash(key.expose())] {
        assert!(!shown.contains(&digest.to_hex()[..12]), "{shown}");
    }
    assert!(shown.contains("KeyHasher { peppers: 2, accepts_unpeppered: false }"), "{shown}");
}

#[cfg(unix)]
#[test]
fn a_pepper_file_that_every_user_can_read_causes_a_warning() {
    use std::os::unix::fs::PermissionsExt;
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, A).unwrap();
    for (mode, warns) in [(0o600, false), (0o640, false), (0o604, true), (0o602, true)] {
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        let (log, _guard) = Log::start_at(tracing::Level::WARN);
        Pepper::read(file.path()).unwrap();
        assert_eq!(log.text().contains("chmod o-rwx"), warns, "{mode:o}: {}", log.text());
    }
}

/// Other programs can compute the digest.
#[test]
fn the_digest_is_the_hmac_of_the_whole_key() {
    // printf %s key | openssl dgst -sha256 -mac HMAC -macopt key:"the pepper A, ..."
    let digest = "cff29383eca78e4ba562e9776914adcb216f46b68931e44ab1500cbf82b1d01e";
    assert_eq!(peppered(A).hash("key"), digest.parse::<KeyHash>().unwrap());
}
