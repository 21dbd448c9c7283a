//! Forces the order: a request misses a key and reads its user; the key is deleted and invalidated;
//! the request inserts the user.

use std::time::Duration;

use tokio::sync::oneshot;
use trust_key_cache::KeyHash;

use crate::Failure;
use crate::database::Database;
use crate::ways::Way;

pub(crate) const ROUNDS: u32 = 200;

/// Returns how many deleted keys a second request was accepted with: before the first request has
/// inserted the user, and after.
pub(crate) async fn accepted<W: Way>(way: &W, database: &Database) -> Result<(u32, u32), Failure> {
    let (mut before, mut after) = (0, 0);
    for round in 0..ROUNDS {
        let key = format!("{} {round}", W::NAME);
        let id = database.add_key(&key, 1).await?;
        let hash = KeyHash::of(&key);
        let (has_read, read) = oneshot::channel();
        let (may_insert, inserts) = oneshot::channel::<()>();

        let request = way.authenticate(&hash, || async {
            let user = database.user_of(&hash).await;
            let _ = has_read.send(());
            let _ = inserts.await;
            user
        });
        let revoker = async {
            read.await?;
            let deleted = database.delete_key(id).await?.ok_or("the key is not there")?;
            way.key_was_deleted(&deleted);
            // The first request waits. A second one that waits for it would share its load.
            let second = way.authenticate(&hash, || database.user_of(&hash));
            let second = tokio::time::timeout(Duration::from_secs(10), second).await??;
            let _ = may_insert.send(());
            Ok::<_, Failure>(second.is_some())
        };
        let (first, second) = tokio::join!(request, revoker);
        first?.ok_or("the key was valid when its user was read")?;
        before += u32::from(second?);
        let third = way.authenticate(&hash, || database.user_of(&hash)).await?;
        after += u32::from(third.is_some());
    }
    Ok((before, after))
}
