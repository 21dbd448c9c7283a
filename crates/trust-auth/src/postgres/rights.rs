//! The rights that operations need on the tables, and which of them a role lacks. The server's
//! error names no right.

use self::TableOf::{Keys, Trusts};
use super::pool::Lent;
use super::store::PostgresStore;
use crate::error::StoreError;

/// A table that operations need rights on.
#[derive(Clone, Copy, Debug)]
pub(super) enum TableOf {
    Trusts,
    Keys,
}

/// Rights, each on a table.
pub(super) type Rights = &'static [(TableOf, &'static str)];

pub(super) const READ: Rights = &[(Trusts, "SELECT"), (Keys, "SELECT")];
/// `SELECT`: an insertion also reads the name.
pub(super) const INSERT: Rights =
    &[(Trusts, "SELECT"), (Trusts, "INSERT"), (Keys, "SELECT"), (Keys, "INSERT")];
/// An update reads the row and locks it, and the lock needs `UPDATE`.
pub(super) const UPDATE: Rights = &[(Trusts, "SELECT"), (Trusts, "UPDATE"), (Keys, "SELECT")];
/// A rotation ends the other keys, and may add the row of a new one.
pub(super) const ROTATE: Rights =
    &[(Trusts, "SELECT"), (Trusts, "UPDATE"), (Keys, "SELECT"), (Keys, "INSERT"), (Keys, "UPDATE")];
/// The row of the trust is locked as by [`UPDATE`].
pub(super) const ADD_KEY: Rights =
    &[(Trusts, "SELECT"), (Trusts, "UPDATE"), (Keys, "SELECT"), (Keys, "INSERT")];
/// A deletion reads and locks the row as [`UPDATE`] does. That of the keys needs no right.
pub(super) const DELETE: Rights =
    &[(Trusts, "SELECT"), (Trusts, "UPDATE"), (Trusts, "DELETE"), (Keys, "SELECT")];

impl PostgresStore {
    /// Names the rights that a refused operation needs and the role lacks. Returns the error
    /// unchanged if the role has them all.
    pub(super) async fn name_right(&self, refused: StoreError, needed: Rights) -> StoreError {
        let Ok(lacking) = self.lacking(needed).await else { return refused };
        let names = &self.connector.names;
        let of = |table: &str| {
            let rights: Vec<&str> =
                lacking.iter().filter(|right| right.0 == table).map(|right| &*right.1).collect();
            let noun = if rights.len() == 1 { "right" } else { "rights" };
            let rights = (!rights.is_empty()).then(|| rights.join(" and "))?;
            Some(format!("the {noun} {rights} on the table `{table}`"))
        };
        let lacking: Vec<String> =
            [names.trust(), names.trust_key()].into_iter().filter_map(of).collect();
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
        let names = &self.connector.names;
        let name = |table: &TableOf| match table {
            Trusts => names.trust(),
            Keys => names.trust_key(),
        };
        let (tables, needed): (Vec<&str>, Vec<&str>) =
            needed.iter().map(|(table, right)| (name(table), *right)).unzip();
        // A right on some columns may be enough. DELETE has no such form.
        let lacking = sqlx::query_as(
            "SELECT name, needed FROM unnest($1::text[], $2::text[]) AS wanted (name, needed) \
             WHERE NOT CASE needed \
             WHEN 'DELETE' THEN has_table_privilege(to_regclass(quote_ident(name))::oid, needed) \
             ELSE has_any_column_privilege(to_regclass(quote_ident(name))::oid, needed) END",
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
