//! The rights that operations need on the tables, and which of them a role lacks. The server's
//! error names no right.

use super::pool::Lent;
use super::store::PostgresStore;
use crate::error::StoreError;

/// Rights, each on a table.
pub(super) type Rights = &'static [(&'static str, &'static str)];

pub(super) const READ: Rights = &[("trust", "SELECT"), ("trust_key", "SELECT")];
/// `SELECT`: an insertion also reads the name.
pub(super) const INSERT: Rights =
    &[("trust", "SELECT"), ("trust", "INSERT"), ("trust_key", "SELECT"), ("trust_key", "INSERT")];
/// An update reads the row and locks it, and the lock needs `UPDATE`.
pub(super) const UPDATE: Rights =
    &[("trust", "SELECT"), ("trust", "UPDATE"), ("trust_key", "SELECT")];
/// A rotation ends the other keys, and may add the row of a new one.
pub(super) const ROTATE: Rights = &[
    ("trust", "SELECT"),
    ("trust", "UPDATE"),
    ("trust_key", "SELECT"),
    ("trust_key", "INSERT"),
    ("trust_key", "UPDATE"),
];
/// The row of the trust is locked as by [`UPDATE`].
pub(super) const ADD_KEY: Rights =
    &[("trust", "SELECT"), ("trust", "UPDATE"), ("trust_key", "SELECT"), ("trust_key", "INSERT")];
/// A deletion reads and locks the row as [`UPDATE`] does. That of the keys needs no right.
pub(super) const DELETE: Rights =
    &[("trust", "SELECT"), ("trust", "UPDATE"), ("trust", "DELETE"), ("trust_key", "SELECT")];

impl PostgresStore {
    /// Names the rights that a refused operation needs and the role lacks. Returns the error
    /// unchanged if the role has them all.
    pub(super) async fn name_right(&self, refused: StoreError, needed: Rights) -> StoreError {
        let Ok(lacking) = self.lacking(needed).await else { return refused };
        let of = |table: &str| {
            let rights: Vec<&str> =
                lacking.iter().filter(|right| right.0 == table).map(|right| &*right.1).collect();
            let noun = if rights.len() == 1 { "right" } else { "rights" };
            let rights = (!rights.is_empty()).then(|| rights.join(" and "))?;
            Some(format!("the {noun} {rights} on the table `{table}`"))
        };
        let lacking: Vec<String> = ["trust", "trust_key"].into_iter().filter_map(of).collect();
        if lacking.is_empty() {
            return refused;
        }
        StoreError::MissingRight {
            server: self.server(),
            right: format!("{}; let the table's owner grant it", lacking.join(", and ")),
        }
    }

    async fn lacking(&self, needed: Rights) -> Result<Vec<(String, String)>, StoreError> {
        let mut lent = Lent::from(&self.readers).await?;
        let (tables, needed): (Vec<&str>, Vec<&str>) = needed.iter().copied().unzip();
        // A right on some columns may be enough. DELETE has no such form.
        let lacking = sqlx::query_as(
            "SELECT name, needed FROM unnest($1::text[], $2::text[]) AS wanted (name, needed) \
             WHERE NOT CASE needed \
             WHEN 'DELETE' THEN has_table_privilege(to_regclass(name)::oid, needed) \
             ELSE has_any_column_privilege(to_regclass(name)::oid, needed) END",
        )
        .bind(tables)
        .bind(needed)
        .fetch_all(lent.connection()?)
        .await
        .map_err(|error| self.failed(&error))?;
        lent.give_back();
        Ok(lacking)
    }
}
