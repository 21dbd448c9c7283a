//! Remembers the user of an API key, and revokes the key while a request reads it:
//!
//! ```text
//! cargo run --example quickstart
//! ```

use trust_key_cache::{KeyCache, KeyHash};

fn main() {
    let users = KeyCache::<u64>::new(); // values for 60 s; one cache in the whole process
    let hash = KeyHash::of("the API key of a request");

    let lease = users.lease(&hash); // before the database is read
    let user = 7; // the database's answer
    assert!(lease.remember(user));
    assert_eq!(users.lookup(&hash), Some(7)); // the next request reads no database

    let lease = users.lease(&hash); // another request, which reads the row of user 7, ...
    users.invalidate_key(&hash); // ... and meanwhile the key is revoked
    assert!(!lease.remember(user)); // nothing is stored
    assert_eq!(users.lookup(&hash), None);
    println!("The key was revoked while a request read its row, and stays revoked.");
}
