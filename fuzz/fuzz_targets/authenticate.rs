//! G9 and G10: the authenticator with arbitrary rows and arbitrary header bytes.
//!
//! A key is granted only if an enabled row has the key. Each key is presented twice, because the
//! cache may give the second answer. Each key is presented again after each change of the rows.

#![no_main]

use std::sync::Arc;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use trust_auth::{
    AuthError, Authenticator, KeyHash, MemoryStore, NewTrust, Trust, TrustKeyCache, TrustLedger,
    TrustRegistry,
};

#[derive(Arbitrary, Debug)]
struct Input {
    rows: Vec<Row>,
    headers: Vec<Header>,
    changes: Vec<Change>,
}

#[derive(Arbitrary, Debug)]
struct Row {
    name: String,
    key: String,
    enabled: bool,
}

#[derive(Arbitrary, Debug)]
enum Header {
    Absent,
    Bytes(Vec<u8>),
    KeyOf(u8),
}

#[derive(Arbitrary, Debug)]
enum Change {
    Disable(u8),
    Enable(u8),
    Delete(u8),
    Rotate(u8),
}

struct Known {
    trust: Trust,
    key: String,
    enabled: bool,
}

fuzz_target!(|input: Input| {
    let runtime =
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers");
    runtime.block_on(run(input));
});

async fn run(input: Input) {
    let (store, cache) = (
        Arc::new(MemoryStore::new()),
        Arc::new(TrustKeyCache::builder().capacity(16).build().expect("16")),
    );
    let registry = TrustRegistry::new(Arc::clone(&store), Arc::clone(&cache));
    let authenticator = Authenticator::new(Arc::clone(&store), cache);
    let mut known: Vec<Known> = Vec::new();
    for row in input.rows.into_iter().take(32) {
        // A refused name, or a taken one, writes nothing.
        let Ok(new) = NewTrust::new(row.name) else { continue };
        let Ok(trust) = store.insert(new, KeyHash::of(&row.key)).await else { continue };
        if !row.enabled {
            registry.disable(&trust.id.into()).await.expect("the trust is there");
        }
        known.push(Known { trust, key: row.key, enabled: row.enabled });
    }
    ask(&authenticator, &known, &input.headers).await;
    for change in input.changes.into_iter().take(16) {
        if known.is_empty() {
            break;
        }
        let (Change::Disable(at) | Change::Enable(at) | Change::Delete(at) | Change::Rotate(at)) =
            change;
        let at = usize::from(at) % known.len();
        let which = known[at].trust.id.into();
        match change {
            Change::Disable(_) => {
                registry.disable(&which).await.expect("the trust is there");
                known[at].enabled = false;
            }
            Change::Enable(_) => {
                registry.enable(&which).await.expect("the trust is there");
                known[at].enabled = true;
            }
            Change::Delete(_) => {
                registry.delete(&which).await.expect("the trust is there");
                known.remove(at);
            }
            Change::Rotate(_) => {
                let (_, key) = registry.rotate(&which).await.expect("the trust is there");
                known[at].key = key.expose().to_owned();
            }
        }
        ask(&authenticator, &known, &input.headers).await;
    }
}

async fn ask(authenticator: &Authenticator<MemoryStore>, known: &[Known], headers: &[Header]) {
    for header in headers.iter().take(16) {
        let key = match header {
            Header::Absent => None,
            // As a server reads a header: bytes that are not UTF-8 are not a key.
            Header::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            Header::KeyOf(at) => known.get(usize::from(*at)).map(|row| row.key.as_str()),
        };
        let expected = known.iter().rev().find(|row| row.enabled && Some(row.key.as_str()) == key);
        for _ in 0..2 {
            match (authenticator.authenticate(key).await, key) {
                (Ok(trust), Some(text)) if !text.is_empty() => {
                    assert!(
                        trust.accepts(&KeyHash::of(text)),
                        "granted by a row that does not accept the key"
                    );
                    assert!(expected.is_some(), "granted without a row");
                }
                (Err(AuthError::Missing), None | Some("")) => {}
                (Err(AuthError::Invalid), Some(_)) => {
                    assert!(expected.is_none(), "an enabled row's key was refused")
                }
                (answer, _) => panic!("an impossible answer: {answer:?}"),
            }
        }
    }
}
