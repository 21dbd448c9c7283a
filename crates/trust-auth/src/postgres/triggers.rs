//! [`Triggers`]: the triggers that notify of changes, as the catalog has them at one moment.

use sqlx::{Executor, Postgres};

use crate::table_names::TableNames;
use crate::table_names::TrustColumn::{self, ApiKeyHash, DisabledAt, Id};

/// The SQL that makes the triggers and their function, as a template.
pub(super) const NOTIFY: &str = include_str!("../../migrations/postgres/0003_notify.sql");

/// The same for the table of the keys.
pub(super) const NOTIFY_KEYS: &str = include_str!("../../migrations/postgres/0006_notify_keys.sql");

/// The functions of both. A table of another name has functions of its own.
pub(super) const FUNCTIONS: [&str; 3] =
    ["trust_auth_notify", "trust_auth_notify_key", "trust_auth_notify_keys"];

/// The triggers that notify of changes, as the catalog has them at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Triggers {
    /// The names of the triggers that differ from this version's: removed, turned off, or with
    /// another function.
    pub(super) missing: Vec<String>,
    /// Differs after any of the triggers was made, changed, or turned on or off.
    fingerprint: String,
}

impl Triggers {
    /// Reads the catalog. Where there is no table, all triggers are missing.
    pub(super) async fn read<'c>(
        connection: impl Executor<'c, Database = Postgres>,
        names: &TableNames,
    ) -> Result<Self, sqlx::Error> {
        let rows: Vec<(String, Option<String>)> = sqlx::query_as(names.for_postgres(
            // tgtype: 1 for each row, 4 insert, 8 delete, 16 update, 32 truncate. A row's xmin is
            // the transaction that wrote the row last.
            "SELECT wanted.name, \
                 found.tgrelid::text || '.' || found.oid || '.' || found.xmin \
                     || '.' || pg_proc.xmin \
             FROM (VALUES \
                 ('trust_auth_row', 1 + 4 + 8, FALSE, '{trust_table}', $1, NULL), \
                 ('trust_auth_update', 1 + 16, TRUE, '{trust_table}', $1, $4), \
                 ('trust_auth_truncate', 32, FALSE, '{trust_table}', $1, NULL), \
                 ('trust_auth_keys', 1 + 16, TRUE, '{trust_table}', $3, $5), \
                 ('trust_auth_key_row', 1 + 4 + 8, FALSE, '{trust_key_table}', $2, NULL), \
                 ('trust_auth_key_update', 1 + 16, TRUE, '{trust_key_table}', $2, NULL), \
                 ('trust_auth_key_truncate', 32, FALSE, '{trust_key_table}', $2, NULL) \
             ) AS wanted (name, type, is_conditional, place, body, columns) \
             LEFT JOIN (pg_trigger AS found \
                 JOIN pg_proc ON pg_proc.oid = found.tgfoid) \
                 ON pg_proc.prosrc = wanted.body \
                 AND found.tgrelid = to_regclass(wanted.place)::oid \
                 AND found.tgname = wanted.name AND found.tgtype = wanted.type \
                 AND (found.tgqual IS NOT NULL) = wanted.is_conditional \
                 AND found.tgattr::text = '' AND found.tgenabled = 'A' \
                 AND NOT EXISTS (SELECT FROM unnest(wanted.columns) AS name \
                     WHERE NOT EXISTS (SELECT FROM pg_depend JOIN pg_attribute \
                         ON attrelid = refobjid AND attnum = refobjsubid \
                         WHERE classid = 'pg_trigger'::regclass AND objid = found.oid \
                         AND refclassid = 'pg_class'::regclass AND refobjid = found.tgrelid \
                         AND attname = name)) \
             ORDER BY wanted.name",
        ))
        .bind(body(names, NOTIFY, "$trust_auth$"))
        .bind(body(names, NOTIFY_KEYS, "$trust_auth$"))
        .bind(body(names, NOTIFY_KEYS, "$trust_auth_keys$"))
        // A condition knows its columns by number, and the server records on which it depends.
        .bind(spelt(names, &[Id, ApiKeyHash, DisabledAt]))
        .bind(spelt(names, &[Id, DisabledAt]))
        .fetch_all(connection)
        .await?;
        let missing =
            rows.iter().filter(|(_, mark)| mark.is_none()).map(|(name, _)| name.clone()).collect();
        let marks: Vec<&str> =
            rows.iter().map(|(_, mark)| mark.as_deref().unwrap_or("-")).collect();
        Ok(Self { missing, fingerprint: marks.join(" ") })
    }
}

fn spelt(names: &TableNames, columns: &[TrustColumn]) -> Vec<String> {
    columns.iter().filter_map(|column| names.name_of(*column)).map(str::to_owned).collect()
}

/// Returns the text of a function between its quotes, as the database keeps it.
fn body(names: &TableNames, file: &str, quote: &str) -> String {
    let template = file.split(quote).nth(1).unwrap_or_default();
    names.for_postgres(template).as_str().to_owned()
}

#[cfg(test)]
mod tests {
    use trust_key_cache::KeyHash;

    use super::*;
    use crate::postgres::notice::CHANNEL;

    fn bodies() -> [String; 3] {
        let names = TableNames::default();
        [
            body(&names, NOTIFY, "$trust_auth$"),
            body(&names, NOTIFY_KEYS, "$trust_auth$"),
            body(&names, NOTIFY_KEYS, "$trust_auth_keys$"),
        ]
    }

    #[test]
    fn the_functions_texts_are_found_in_the_migration_files() {
        for body in bodies() {
            assert!(body.starts_with("\nDECLARE") && body.ends_with("END\n"), "{body}");
            assert!(body.contains(&format!("'{CHANNEL}'")));
        }
    }

    /// Where a function has another text, the database lacks the triggers until it is migrated.
    #[test]
    fn the_functions_texts_have_not_changed_since_they_were_released() {
        let released = [
            "91870cd723131bfb6a96d961594c15318fc77210a79d5a55eb539cc4615ed4c7",
            "ebd9581df9aae71609ab891cfdfc7f06cd47aa65ea557c1056104bc845d3c86c",
            "f2115f8b518b921382e2fe39ff38568a4133100584f109cc7f458b5ea8017547",
        ];
        assert_eq!(bodies().map(|body| KeyHash::of(body).to_hex()), released);
    }
}
