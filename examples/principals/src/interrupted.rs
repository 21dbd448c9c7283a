//! Interrupts a handler that deletes a key: after the statement was sent, and before its commit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;

use crate::database::Database;
use crate::service::{App, Users, router};
use crate::{Failure, expect, request};

pub(crate) const ROUNDS: u32 = 5;

/// Long enough for the handler to send its statement, and shorter than it waits for the answer.
const PATIENCE: Duration = Duration::from_millis(200);

/// How a handler is interrupted.
#[derive(Clone, Copy)]
pub(crate) enum Cut {
    /// The client hangs up, and the server drops the handler.
    HangUp,
    /// The database does not answer in time.
    NoAnswer,
}

/// Returns how many deleted keys were accepted. `path` names the handler that deletes them.
pub(crate) async fn accepted(path: &str, cut: Cut, database: &Database) -> Result<u32, Failure> {
    let app = App { users: Arc::new(Users::new()), database: database.clone() };
    let service = router(app);
    let mut accepted = 0;
    for round in 0..ROUNDS {
        let key = format!("{path} {cut} {round}", cut = cut as u8);
        let id = database.add_key(&key, 1).await?;
        expect(StatusCode::OK, request(&service, "GET", "/me", &key).await?)?;

        // Another writer has the lock, so the statement waits.
        let lock = database.lock().await?;
        let path = format!("{path}/{id}");
        let deletion = request(&service, "DELETE", &path, "");
        match cut {
            Cut::HangUp => {
                let answered = tokio::time::timeout(PATIENCE, deletion).await;
                answered.map_or(Ok(()), |_| Err("the handler was not interrupted"))?;
            }
            Cut::NoAnswer => expect(StatusCode::SERVICE_UNAVAILABLE, deletion.await?)?,
        }
        // The row is still there.
        expect(StatusCode::OK, request(&service, "GET", "/me", &key).await?)?;
        drop(lock);
        let waits_since = Instant::now();
        while database.hash_of(id).await?.is_some() {
            if waits_since.elapsed() > Duration::from_secs(5) {
                return Err("the statement was not sent before the handler was dropped".into());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let status = request(&service, "GET", "/me", &key).await?;
        accepted += u32::from(status == StatusCode::OK);
    }
    Ok(accepted)
}
