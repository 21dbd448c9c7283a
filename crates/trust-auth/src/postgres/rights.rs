//! The rights that operations need on the table, and which of them a role lacks. The server's error
//! names no right.

use super::pool::Lent;
use super::store::PostgresStore;
use crate::error::StoreError;

pub(super) const READ: &[&str] = &["SELECT"];
/// `SELECT`: an insertion also reads the name.
pub(super) const INSERT: &[&str] = &["SELECT", "INSERT"];
/// An update reads the row and locks it, and the lock needs `UPDATE`.
pub(super) const UPDATE: &[&str] = &["SELECT", "UPDATE"];
/// A deletion reads and locks the row as [`UPDATE`] does.
pub(super) const DELETE: &[&str] = &["SELECT", "UPDATE", "DELETE"];

impl PostgresStore {
    /// Names the rights that a refused operation needs and the role lacks. Returns the error
    /// unchanged if the role has them all.
    pub(super) async fn name_right(&self, refused: StoreError, needed: &[&str]) -> StoreError {
        let Ok(lacking) = self.lacking(needed).await else { return refused };
        let noun = match &*lacking {
            [] => return refused,
            [_] => "right",
            _ => "rights",
        };
        let lacking = lacking.join(" and ");
        StoreError::MissingRight {
            server: self.server(),
            right: format!(
                "the {noun} {lacking} on the table `trust`; let the table's owner grant it"
            ),
        }
    }

    async fn lacking(&self, needed: &[&str]) -> Result<Vec<String>, StoreError> {
        let mut lent = Lent::from(&self.readers).await?;
        let needed: Vec<String> = needed.iter().map(|&right| right.to_owned()).collect();
        // A right on some columns may be enough. DELETE has no such form.
        let lacking = sqlx::query_scalar(
            "SELECT needed FROM unnest($1::text[]) AS needed WHERE NOT CASE needed \
             WHEN 'DELETE' THEN has_table_privilege('trust', needed) \
             ELSE has_any_column_privilege('trust', needed) END",
        )
        .bind(needed)
        .fetch_all(lent.connection()?)
        .await
        .map_err(|error| self.failed(&error))?;
        lent.give_back();
        Ok(lacking)
    }
}
