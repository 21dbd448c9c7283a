//! [`WatchedTable`]: a table whose changes end what a process holds, and the SQL of its triggers.
//!
//! The triggers record each change in the changing transaction (RL1, RL3). A column that is not
//! ignored is compared byte by byte, whatever operators and collations its type has.

use trust_key_cache::KeyHash;

use super::source::{CHANNEL, EVERYTHING};

/// The names of the triggers, with the bits of `pg_trigger.tgtype`: 1 for each row, 4 insert, 8
/// delete, 16 update, 32 truncate.
pub(super) const TRIGGERS: [(&str, i16); 3] = [
    ("trust_auth_rec_row", 1 + 4 + 8),
    ("trust_auth_rec_update", 1 + 16),
    ("trust_auth_rec_truncate", 32),
];

/// The setting in which the triggers note the schemas of the transaction's records. It ends with
/// the transaction. `trust_auth_barrier` refuses to be the barrier of another schema's records.
const RECORDED: &str = "trust_auth.recorded";

/// How the name of each function begins.
const PREFIX: &str = "trust_auth_rec_";

/// The longest name of an object of PostgreSQL, in bytes.
const LONGEST_NAME: usize = 63;

/// A table whose changes are recorded, and what a change of a row ends:
/// [the value of a key](Self::key), [values that are found by a column](Self::value), or
/// [everything](Self::everything). Without any of the three, a change ends everything.
///
/// # Examples
///
/// ```
/// use trust_auth::{PgChanges, PostgresStore};
///
/// let options = PostgresStore::options("postgres://app@db.example/app");
/// let changes = PgChanges::new(options)
///     .table("api_keys", |table| table.key("key_hash").ignore(["last_used_at"]))
///     .table("memberships", |table| table.value("user_id"))
///     .table("organizations", |table| table.everything());
/// ```
#[derive(Clone, Debug)]
pub struct WatchedTable {
    pub(super) name: String,
    pub(super) key: Option<String>,
    pub(super) values: Vec<String>,
    /// How records name the columns of values, if not by this table.
    records_as: Option<&'static str>,
    everything: bool,
    is_quiet: bool,
    pub(super) compared: Compared,
}

/// The columns whose changes are recorded.
#[derive(Clone, Debug)]
pub(super) enum Compared {
    AllBut(Vec<String>),
    Only(Vec<String>),
}

impl WatchedTable {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            key: None,
            values: Vec::new(),
            records_as: None,
            everything: false,
            is_quiet: false,
            compared: Compared::AllBut(Vec::new()),
        }
    }

    /// Names the column with a key's digest: 64 hexadecimal digits in a text, or 32 bytes. A change
    /// of a row invalidates the key that the row had, and the key that it has. Where the column is
    /// null, or is no digest, the change ends everything.
    #[must_use]
    pub fn key(mut self, column: impl Into<String>) -> Self {
        self.key = Some(column.into());
        self
    }

    /// Names a column by whose value cached values are found, such as a user's id. A change of a
    /// row ends the values that belong to the column's former and to its present value. Where the
    /// column is null, the change ends everything: such a row may concern each value. The column is
    /// a uuid, an integer or a text.
    #[must_use]
    pub fn value(mut self, column: impl Into<String>) -> Self {
        self.values.push(column.into());
        self
    }

    /// A change of a row ends everything that is held.
    #[must_use]
    pub fn everything(mut self) -> Self {
        self.everything = true;
        self
    }

    /// Names the columns that decide nothing, such as `last_used_at`. An update that changes no
    /// other column is not recorded.
    #[must_use]
    pub fn ignore(mut self, columns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.compared = Compared::AllBut(columns.into_iter().map(Into::into).collect());
        self
    }

    /// Names the only columns that decide, where another program adds columns of its own.
    #[must_use]
    pub fn only(mut self, columns: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.compared = Compared::Only(columns.into_iter().map(Into::into).collect());
        self
    }

    /// Sends no notification with a change. The holders then learn of a change at their next
    /// regular renewal, unless the changer sends a hint. A transaction that has sent a notification
    /// cannot be prepared for a commit in two phases.
    #[must_use]
    pub fn quietly(mut self) -> Self {
        self.is_quiet = true;
        self
    }

    pub(super) fn ends_everything(&self) -> bool {
        self.everything || (self.key.is_none() && self.values.is_empty())
    }

    /// Returns the columns that a change names, the key first.
    pub(super) fn named(&self) -> impl Iterator<Item = &str> {
        self.key.iter().chain(&self.values).map(String::as_str)
    }

    /// Names a column whose value belongs to another table's column: a change of a row counts as
    /// one of that table's row.
    pub(super) fn value_of(mut self, column: &str, source: &'static str) -> Self {
        self.records_as = Some(source);
        self.value(column)
    }

    /// Returns how a record names a column of this table.
    pub(super) fn source(&self, column: &str) -> String {
        match self.records_as {
            Some(source) => source.to_owned(),
            None => format!("{}.{column}", self.name),
        }
    }
}

/// A column that a change names, as the catalog has it.
pub(super) struct NamedColumn {
    pub(super) source: String,
    pub(super) quoted: String,
    pub(super) is_bytes: bool,
}

/// A column that the trigger compares, as the catalog has it.
pub(super) struct ComparedColumn {
    pub(super) quoted: String,
    /// The server keeps a trigger's condition by the numbers of the columns. A renamed column keeps
    /// its number.
    pub(super) number: i16,
}

/// The SQL of the triggers of one table.
pub(super) struct TriggerSql {
    /// The function, qualified and quoted.
    pub(super) function: String,
    /// The function's text, as the catalog keeps it.
    pub(super) body: String,
    /// The argument of each trigger, which identifies the compared columns.
    pub(super) stamp: String,
    condition: String,
}

impl TriggerSql {
    /// Makes the SQL. `namespace` has the lease's own tables, and is quoted. So is the name of the
    /// table, which is qualified.
    pub(super) fn new(
        namespace: &str,
        qualified_table: &str,
        table: &WatchedTable,
        named: &[NamedColumn],
        compared: &[ComparedColumn],
    ) -> Self {
        let record = format!("INSERT INTO {namespace}.trust_auth_change");
        let everything = format!("{record} (source) VALUES ('{EVERYTHING}');");
        let steps = if table.ends_everything() {
            format!("        {everything}\n")
        } else {
            named.iter().map(|column| column_steps(&record, column)).collect()
        };
        let hint = match table.is_quiet {
            true => String::new(),
            false => format!("    PERFORM pg_notify('{CHANNEL}', '');\n"),
        };
        let here = namespace.replace('\'', "''");
        let body = format!(
            "\nDECLARE\n    recorded text := current_setting('{RECORDED}', true);\n\
             BEGIN\n    IF TG_OP = 'TRUNCATE' THEN\n        {everything}\n    ELSE\n{steps}    \
             END IF;\n    \
             IF recorded IS DISTINCT FROM '{here}' AND\n        \
             coalesce('{here}' <> ALL (string_to_array(recorded, ', ')), true) THEN\n        \
             PERFORM set_config('{RECORDED}',\n            \
             concat_ws(', ', nullif(recorded, ''), '{here}'), true);\n    \
             END IF;\n{hint}    RETURN NULL;\nEND\n"
        );
        let row = |version: &str| {
            let columns = compared.iter().map(|column| format!("{version}.{}", column.quoted));
            let columns: Vec<_> = columns.collect();
            format!("ROW({})", columns.join(", "))
        };
        let condition = format!("pg_catalog.record_image_ne({}, {})", row("OLD"), row("NEW"));
        let numbers: Vec<_> = compared.iter().map(|column| column.number).collect();
        let stamp = KeyHash::of(format!("{body}{condition}{numbers:?}")).to_hex()[..32].to_owned();
        Self { function: function_name(namespace, qualified_table), body, stamp, condition }
    }

    /// Returns the statements that make the function and the triggers, or replace them.
    pub(super) fn statements(&self, qualified_table: &str) -> String {
        let Self { function, body, stamp, condition } = self;
        let call = format!("EXECUTE FUNCTION {function}('{stamp}')");
        let [(row, _), (update, _), (truncate, _)] = TRIGGERS;
        let table = qualified_table;
        format!(
            "CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql\n\
             SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $trust_auth${body}\
             $trust_auth$;\n\
             CREATE OR REPLACE TRIGGER {row} AFTER INSERT OR DELETE ON {table}\n    \
             FOR EACH ROW {call};\n\
             CREATE OR REPLACE TRIGGER {update} AFTER UPDATE ON {table}\n    \
             FOR EACH ROW WHEN ({condition})\n    {call};\n\
             CREATE OR REPLACE TRIGGER {truncate} AFTER TRUNCATE ON {table}\n    \
             FOR EACH STATEMENT {call};\n\
             ALTER TABLE {table} ENABLE ALWAYS TRIGGER {row};\n\
             ALTER TABLE {table} ENABLE ALWAYS TRIGGER {update};\n\
             ALTER TABLE {table} ENABLE ALWAYS TRIGGER {truncate};\n"
        )
    }
}

fn column_steps(record: &str, column: &NamedColumn) -> String {
    let NamedColumn { source, quoted, is_bytes } = column;
    let source = source.replace('\'', "''");
    let value = |version: &str| match is_bytes {
        true => format!("encode({version}.{quoted}, 'hex')"),
        false => format!("{version}.{quoted}::text"),
    };
    let (old, new) = (value("OLD"), value("NEW"));
    let insert = |value| format!("{record} (source, value) VALUES ('{source}', {value});");
    format!(
        "        IF TG_OP <> 'INSERT' THEN\n            {}\n        END IF;\n        \
         IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND\n            \
         ({new}) COLLATE \"C\" IS DISTINCT FROM ({old}) COLLATE \"C\") THEN\n            {}\n\
         \x20       END IF;\n",
        insert(&old),
        insert(&new)
    )
}

/// Returns the name of a table's function, which no other table has: to replace it locks its own
/// table alone. The names are quoted, and the table's is qualified. A table of another schema than
/// the lease's, and one with other characters or a long name, gives a digest.
fn function_name(namespace: &str, qualified_table: &str) -> String {
    let own = qualified_table.strip_prefix(namespace).and_then(|rest| rest.strip_prefix('.'));
    let is_plain = |name: &&str| {
        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && name.len() + PREFIX.len() <= LONGEST_NAME
    };
    match own.filter(is_plain) {
        Some(own) => format!("{namespace}.{PREFIX}{own}"),
        None => {
            format!("{namespace}.{PREFIX}{}", &KeyHash::of(qualified_table).to_hex()[..32])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tables_name_with_other_characters_gives_a_plain_name_of_a_function() {
        assert_eq!(function_name("public", "public.users"), "public.trust_auth_rec_users");
        let of = |table: &str| function_name("public", table);
        for table in ["auth.users", "public.\"a b\"", &format!("public.{}", "x".repeat(60))] {
            let name = of(table);
            assert!(name.starts_with("public.trust_auth_rec_") && name.len() <= 63 + 7, "{name}");
            assert!(!name.contains(table.split_once('.').unwrap().1), "{name}");
        }
        assert_ne!(of("auth.users"), of("public.users"));
        assert_ne!(of("auth.users"), of("other.users"));
        assert_ne!(of("publicity.users"), of("public.ity.users"));
    }

    #[test]
    fn other_compared_columns_give_another_stamp() {
        let table = WatchedTable::new("users".into()).everything();
        let stamp = |columns: &[(&str, i16)]| {
            let columns = columns
                .iter()
                .map(|&(name, number)| ComparedColumn { quoted: name.to_owned(), number });
            TriggerSql::new("public", "public.users", &table, &[], &columns.collect::<Vec<_>>())
                .stamp
        };
        assert_ne!(stamp(&[("a", 1)]), stamp(&[("a", 1), ("b", 2)]));
        assert_ne!(stamp(&[("a", 1)]), stamp(&[("a", 2)]));
        assert_eq!(stamp(&[("a", 1)]), stamp(&[("a", 1)]));
    }
}
