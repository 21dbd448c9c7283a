//! An application's table in place of `trust`: what a file must have before it can be used. No
//! migration makes such a table.

use sqlx::SqliteConnection;

use super::schema::Tables;
use crate::error::StoreError;
use crate::table_names::TrustColumn;

/// Returns the columns of the table of trusts.
///
/// # Errors
///
/// [`StoreError::Schema`] if the table cannot be used, with what to do.
pub(super) async fn columns(
    connection: &mut SqliteConnection,
    tables: Tables<'_>,
) -> Result<Vec<String>, StoreError> {
    let wrong = |error| tables.failed(error);
    let table = tables.names.trust();
    let kind: Option<(String, bool)> = sqlx::query_as(
        "SELECT type, wr FROM pragma_table_list \
         WHERE schema = 'main' AND name = ?1 COLLATE NOCASE",
    )
    .bind(table.to_owned())
    .fetch_optional(&mut *connection)
    .await
    .map_err(wrong)?;
    let flaw = match kind.as_ref().map(|(kind, has_no_rowid)| (kind.as_str(), *has_no_rowid)) {
        Some(("table", false)) => None,
        Some(("table", true)) => Some("is WITHOUT ROWID, and the order of its rows is needed"),
        Some(_) => Some("is a view or a virtual table, which cannot hold the trusts"),
        None => Some("does not exist, and no migration makes it"),
    };
    if let Some(flaw) = flaw {
        return Err(tables.schema(format!(
            "its table `{table}` {flaw}; make such a table, give its right name, or choose another \
             file"
        )));
    }
    // Also generated columns.
    let columns: Vec<(String, bool)> =
        sqlx::query_as("SELECT name, hidden <> 0 FROM pragma_table_xinfo(?1)")
            .bind(table.to_owned())
            .fetch_all(&mut *connection)
            .await
            .map_err(wrong)?;
    for column in TrustColumn::ALL.into_iter().filter_map(|column| tables.names.name_of(column)) {
        let is_this = |name: &str| name.eq_ignore_ascii_case(column);
        if columns.iter().any(|(name, is_generated)| *is_generated && is_this(name)) {
            return Err(tables.schema(format!(
                "the column `{column}` of its table `{table}` is generated, and no change can \
                 write it; name another column"
            )));
        }
    }
    Ok(columns.into_iter().map(|(name, _)| name).collect())
}

/// Checks that no two rows have one id, or one name.
///
/// # Errors
///
/// [`StoreError::Schema`], with what to do.
pub(super) async fn check_unique(
    connection: &mut SqliteConnection,
    tables: Tables<'_>,
) -> Result<(), StoreError> {
    let table = tables.names.trust();
    for (column, content) in
        [(TrustColumn::Id, "the UUID of a trust, as a text"), (TrustColumn::Name, "a text")]
    {
        let column = tables.names.name_of(column).unwrap_or_default();
        // An `INTEGER PRIMARY KEY` has no index, and holds no texts.
        let is_unique: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM pragma_index_list(?1) AS list \
             WHERE list.\"unique\" AND NOT list.partial \
             AND (SELECT group_concat(name) FROM pragma_index_info(list.name)) = ?2 COLLATE NOCASE \
             AND (SELECT count(*) FROM pragma_index_info(list.name)) = 1)",
        )
        .bind(table.to_owned())
        .bind(column.to_owned())
        .fetch_one(&mut *connection)
        .await
        .map_err(|error| tables.failed(error))?;
        if !is_unique {
            return Err(tables.schema(format!(
                "no unique index of its table `{table}` is on the column `{column}` alone, which \
                 must hold {content}, in one row; make such an index, or name another column"
            )));
        }
    }
    Ok(())
}

/// Checks that the table of keys is the one that a migration made, or will make.
///
/// # Errors
///
/// [`StoreError::Schema`], with what to do.
pub(super) async fn check_keys(
    connection: &mut SqliteConnection,
    tables: Tables<'_>,
    (record, was_made): (&str, bool),
) -> Result<(), StoreError> {
    let (trust, keys) = (tables.names.trust(), tables.names.trust_key());
    let id = tables.names.name_of(TrustColumn::Id).unwrap_or_default();
    // Without a column, a foreign key refers to the primary key.
    let (exists, is_of_trusts): (bool, bool) = sqlx::query_as(
        "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE), \
         EXISTS (SELECT 1 FROM pragma_foreign_key_list(?1) \
             WHERE \"from\" = 'trust' AND \"table\" = ?2 COLLATE NOCASE \
             AND coalesce(\"to\", (SELECT group_concat(name) FROM pragma_table_info(?2) \
                 WHERE pk > 0)) = ?3 COLLATE NOCASE)",
    )
    .bind(keys.to_owned())
    .bind(trust.to_owned())
    .bind(id.to_owned())
    .fetch_one(connection)
    .await
    .map_err(|error| tables.failed(error))?;
    match (was_made, exists, is_of_trusts) {
        (false, false, _) | (true, true, true) => Ok(()),
        (true, false, _) => Err(tables.schema(format!(
            "by its table `{record}`, it has the keys of one table, and there is no table \
             `{keys}`; give the names under which the keys were made, restore `{keys}`, or use \
             another file, since a file holds the keys of one table"
        ))),
        (false, true, _) => Err(tables.schema(format!(
            "it has a table `{keys}`, which this program has not made; choose another name for the \
             table of keys"
        ))),
        (true, true, false) => Err(tables.schema(format!(
            "its table `{keys}` does not hold the keys of the table `{trust}` by the column \
             `{id}`; give the names under which the keys were made, or use another file"
        ))),
    }
}
