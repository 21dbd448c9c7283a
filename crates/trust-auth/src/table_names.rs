//! [`TableNames`]: what a database calls the table of trusts, its columns, and the table of keys.
//!
//! The statements of the stores are templates. They read the table under the default names, as an
//! alias or as a subquery, which both databases merge into the statement.

use std::fmt::Write as _;

use sqlx::{AssertSqlSafe, SqlSafeStr, SqlStr};
use thiserror::Error;
use trust_key_cache::KeyHash;

use crate::error::StoreError;

/// The longest name that PostgreSQL keeps, in bytes.
const LONGEST: usize = 63;

/// The default name of the table of trusts.
const TRUST: &str = "trust";

/// The default name of the table of keys.
const TRUST_KEY: &str = "trust_key";

/// A column of the table of trusts, by what the stores use it for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TrustColumn {
    /// The id: a `uuid` on PostgreSQL, its hyphenated text on SQLite. Unique.
    Id,
    /// The name that a command finds the trust by, such as an e-mail address. Unique.
    Name,
    /// A text. Optional.
    Code,
    /// A text. Optional.
    Region,
    /// The SHA-256 of a key in 64 hexadecimal digits, or null.
    ApiKeyHash,
    /// When the row was made.
    CreatedAt,
    /// A time that the application writes. Optional.
    LastHeartbeat,
    /// From when on no key is accepted, or null.
    DisabledAt,
    /// JSON for the application. Optional.
    Attributes,
}

impl TrustColumn {
    /// All columns.
    pub const ALL: [Self; 9] = [
        Self::Id,
        Self::Name,
        Self::Code,
        Self::Region,
        Self::ApiKeyHash,
        Self::CreatedAt,
        Self::LastHeartbeat,
        Self::DisabledAt,
        Self::Attributes,
    ];

    /// Returns the default name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Name => "name",
            Self::Code => "code",
            Self::Region => "region",
            Self::ApiKeyHash => "api_key_hash",
            Self::CreatedAt => "created_at",
            Self::LastHeartbeat => "last_heartbeat",
            Self::DisabledAt => "disabled_at",
            Self::Attributes => "attributes",
        }
    }

    /// Returns whether a table can be used [without](TableNames::without) the column.
    #[must_use]
    pub const fn is_optional(self) -> bool {
        matches!(self, Self::Code | Self::Region | Self::LastHeartbeat | Self::Attributes)
    }
}

/// What a database calls the table of trusts, its columns, and the table of further keys. By
/// default the table is `trust`, with the columns of [`TrustColumn::as_str`], next to `trust_key`.
///
/// A name is written into SQL as a quoted identifier, so it is spelt exactly as in the database.
/// On PostgreSQL, the `search_path` selects the schema.
///
/// A migration makes no table of another name, except that of the keys: an application has made its
/// own. It adds the columns that the table lacks. A SQLite file holds one table of trusts and its
/// keys: a second pair of names is refused there.
///
/// # Examples
///
/// ```
/// use trust_auth::{TableNames, TrustColumn};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let names = TableNames::default()
///     .table("users")
///     .key_table("user_keys")
///     .column(TrustColumn::Name, "email")
///     .column(TrustColumn::ApiKeyHash, "key_sha256")
///     .without(TrustColumn::Code)
///     .without(TrustColumn::Region);
/// names.check()?;
/// assert!(names.table("no \"quotes\"").check().is_err());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "names change nothing until a store's options have them"]
pub struct TableNames {
    table: String,
    key_table: String,
    /// In the order of [`TrustColumn::ALL`].
    columns: [Option<String>; 9],
}

/// Why a name cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidTableName {
    /// The name is empty.
    #[error("a table or a column has an empty name; give it one")]
    Empty,
    /// The name is too long.
    #[error("the name {name:?} is longer than 63 bytes; choose a shorter one")]
    TooLong {
        /// The name.
        name: String,
    },
    /// The name has a character that is not allowed.
    #[error(
        "the name {name:?} has a control character or one of \" ' ` \\ $ {{ }}; choose another name"
    )]
    Character {
        /// The name.
        name: String,
    },
    /// The name belongs to a table of this crate, or of SQLite.
    #[error("the table {name:?} is not one of trusts or keys; choose another name")]
    Reserved {
        /// The name.
        name: String,
    },
    /// Two tables, or two columns, have one name.
    #[error("the name {name:?} is given twice; give each table and each column one of its own")]
    Twice {
        /// The name.
        name: String,
    },
    /// A column was left out without which no store works.
    #[error("the column `{column}` cannot be left out; give its name")]
    Needed {
        /// The default name of the column.
        column: &'static str,
    },
}

impl Default for TableNames {
    fn default() -> Self {
        Self {
            table: TRUST.to_owned(),
            key_table: TRUST_KEY.to_owned(),
            columns: TrustColumn::ALL.map(|column| Some(column.as_str().to_owned())),
        }
    }
}

impl TableNames {
    /// Sets the name of the table of trusts. Default: `trust`.
    pub fn table(mut self, name: impl Into<String>) -> Self {
        self.table = name.into();
        self
    }

    /// Sets the name of the table of further keys, which a migration makes. Default: `trust_key`.
    pub fn key_table(mut self, name: impl Into<String>) -> Self {
        self.key_table = name.into();
        self
    }

    /// Sets the name of a column.
    pub fn column(mut self, column: TrustColumn, name: impl Into<String>) -> Self {
        self.columns[column as usize] = Some(name.into());
        self
    }

    /// Leaves an [optional](TrustColumn::is_optional) column out. It reads as null, and a change
    /// that would write it is refused.
    pub fn without(mut self, column: TrustColumn) -> Self {
        self.columns[column as usize] = None;
        self
    }

    /// Checks the names. A store's `connect` does so, too.
    ///
    /// # Errors
    ///
    /// [`InvalidTableName`] for the first name that cannot be used.
    pub fn check(&self) -> Result<(), InvalidTableName> {
        for name in [&self.table, &self.key_table].into_iter().chain(self.columns.iter().flatten())
        {
            check_name(name)?;
        }
        for table in [&self.table, &self.key_table] {
            let is_reserved = |prefix| table.to_ascii_lowercase().starts_with(prefix);
            if ["trust_auth_", "_trust_auth_", "_sqlx_", "sqlite_"].into_iter().any(is_reserved) {
                return Err(InvalidTableName::Reserved { name: table.clone() });
            }
        }
        let columns: Vec<&String> = self.columns.iter().flatten().collect();
        for names in [&[&self.table, &self.key_table][..], &columns] {
            // Case does not tell two names of SQLite apart.
            let twice = names.iter().enumerate().find(|(at, name)| {
                names[..*at].iter().any(|earlier| earlier.eq_ignore_ascii_case(name))
            });
            if let Some((_, name)) = twice {
                return Err(InvalidTableName::Twice { name: (*name).clone() });
            }
        }
        let needed = TrustColumn::ALL
            .into_iter()
            .find(|column| !column.is_optional() && self.columns[*column as usize].is_none());
        needed.map_or(Ok(()), |column| Err(InvalidTableName::Needed { column: column.as_str() }))
    }

    /// Checks the names for a store.
    pub(crate) fn checked(&self) -> Result<(), StoreError> {
        self.check().map_err(|flaw| StoreError::UnsupportedUrl { reason: flaw.to_string() })
    }

    /// Returns the table of trusts, as it is spelt.
    pub(crate) fn trust(&self) -> &str {
        &self.table
    }

    /// Returns the table of keys, as it is spelt.
    pub(crate) fn trust_key(&self) -> &str {
        &self.key_table
    }

    /// Returns a column, as it is spelt, unless it is left out.
    pub(crate) fn name_of(&self, column: TrustColumn) -> Option<&str> {
        self.columns[column as usize].as_deref()
    }

    /// Returns whether the table of trusts is the application's: a migration does not make it.
    pub(crate) fn are_own(&self) -> bool {
        *self != Self::default()
    }

    /// Fills a template of PostgreSQL. The markers are
    ///
    /// * `{trust}` and `{trust_key}`, where rows are read: the tables under these names, with the
    ///   columns under their default names; null for a column that is left out;
    /// * `{trust_table}` and `{trust_key_table}`: the tables themselves;
    /// * `{trust_key_name}`: the name of the table of keys, for a literal;
    /// * `{id}`, `{name}`, …: the columns themselves. A column that is left out has no marker;
    /// * `{own:NAME}`: an object that belongs to the tables, such as a function or an index.
    ///
    /// Names have no character that ends a quoted identifier or a literal, so a marker may stand in
    /// either.
    #[cfg(any(test, feature = "postgres"))]
    pub(crate) fn for_postgres(&self, template: &str) -> SqlStr {
        self.fill(template, "")
    }

    /// Fills a template of SQLite, as [`for_postgres`](Self::for_postgres) does. `{trust}` has the
    /// column `rowid`, too.
    #[cfg(any(test, feature = "sqlite"))]
    pub(crate) fn for_sqlite(&self, template: &str) -> SqlStr {
        self.fill(template, "rowid AS rowid, ")
    }

    /// Returns the statement that inserts values, each an expression, into the table of trusts.
    /// Columns that are left out are not written.
    pub(crate) fn insertion(&self, values: &[(TrustColumn, &str)]) -> String {
        let has = |column: &TrustColumn| self.name_of(*column).is_some();
        let written = || values.iter().filter(|(column, _)| has(column));
        let columns: Vec<String> = written().map(|(column, _)| self.quoted(*column)).collect();
        let values: Vec<&str> = written().map(|(_, value)| *value).collect();
        format!(
            "INSERT INTO {} ({}) VALUES ({})",
            quoted(&self.table, TRUST),
            columns.join(", "),
            values.join(", ")
        )
    }

    fn fill(&self, template: &str, row: &str) -> SqlStr {
        let mut sql = String::with_capacity(template.len() * 2);
        let mut rest = template;
        while let Some(at) = rest.find('{') {
            sql.push_str(&rest[..at]);
            rest = &rest[at..];
            let end = rest.find('}').map_or(rest.len(), |end| end + 1);
            let marker = &rest[..end];
            let filled = marker.strip_prefix('{').and_then(|name| name.strip_suffix('}'));
            match filled.and_then(|name| self.marker(name, row)) {
                Some(filled) => sql.push_str(&filled),
                // For example the number of repetitions in a regular expression.
                None => sql.push_str(marker),
            }
            rest = &rest[end..];
        }
        sql.push_str(rest);
        // Safe: the template is a text of this crate, and the names were checked.
        // Shared: a clone copies no text.
        AssertSqlSafe(sql.as_str()).into_sql_str()
    }

    fn marker(&self, name: &str, row: &str) -> Option<String> {
        if let Some(object) = name.strip_prefix("own:") {
            return Some(quoted(&self.own_name(object), object));
        }
        Some(match name {
            "trust" if !self.are_own() => TRUST.to_owned(),
            "trust" => self.subquery(row),
            "trust_table" => quoted(&self.table, TRUST),
            "trust_key" if self.key_table == TRUST_KEY => TRUST_KEY.to_owned(),
            "trust_key" => format!("\"{}\" AS trust_key", self.key_table),
            "trust_key_table" => quoted(&self.key_table, TRUST_KEY),
            "trust_key_name" => self.key_table.clone(),
            name => {
                let column = TrustColumn::ALL.into_iter().find(|column| column.as_str() == name)?;
                self.name_of(column).map(|_| self.quoted(column))?
            }
        })
    }

    /// Returns the table under its default name, with its columns under theirs.
    fn subquery(&self, row: &str) -> String {
        let mut sql = format!("(SELECT {row}");
        for (at, column) in TrustColumn::ALL.into_iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            let source = match self.name_of(column) {
                Some(name) => format!("trust.\"{name}\""),
                None => "NULL".to_owned(),
            };
            // A `String` takes each text.
            let _ = write!(sql, "{comma}{source} AS {}", column.as_str());
        }
        let _ = write!(sql, " FROM \"{}\" AS trust) AS trust", self.table);
        sql
    }

    /// Returns the name of an object of these tables, as it is spelt. Another table in the schema
    /// has its own.
    pub(crate) fn own_name(&self, name: &str) -> String {
        if self.table == TRUST && self.key_table == TRUST_KEY {
            return name.to_owned();
        }
        let whole = format!("{name}_{}.{}", self.table, self.key_table);
        let has_dots = self.table.contains('.') || self.key_table.contains('.');
        if whole.len() <= LONGEST && !has_dots {
            return whole;
        }
        // The server would cut the name, and another dot would be the end of another table's name.
        let names = format!("{:?}", (&self.table, &self.key_table));
        format!("{name}_{}", &KeyHash::of(&names).to_hex()[..16])
    }

    fn quoted(&self, column: TrustColumn) -> String {
        quoted(self.name_of(column).unwrap_or_default(), column.as_str())
    }
}

/// Returns a name as an identifier of SQL. A default name needs no quotes.
fn quoted(name: &str, default: &str) -> String {
    if name == default { name.to_owned() } else { format!("\"{name}\"") }
}

fn check_name(name: &str) -> Result<(), InvalidTableName> {
    let is_refused =
        |c: char| c.is_control() || matches!(c, '"' | '\'' | '`' | '\\' | '$' | '{' | '}');
    let name = || name.to_owned();
    match name() {
        text if text.is_empty() => Err(InvalidTableName::Empty),
        text if text.len() > LONGEST => Err(InvalidTableName::TooLong { name: name() }),
        text if text.contains(is_refused) => Err(InvalidTableName::Character { name: name() }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users() -> TableNames {
        TableNames::default()
            .table("Users")
            .key_table("user keys")
            .column(TrustColumn::Id, "user_id")
            .without(TrustColumn::Code)
    }

    #[test]
    fn the_default_names_change_nothing() {
        let names = TableNames::default();
        names.check().unwrap();
        assert!(!names.are_own());
        let sql = "SELECT {id} FROM {trust}, {trust_key} WHERE 'a' ~ '^[a-f]{64}$' {trust_table} \
                   {trust_key_table} {own:trust_auth_notify} {other";
        assert_eq!(
            names.for_postgres(sql).as_str(),
            "SELECT id FROM trust, trust_key WHERE 'a' ~ '^[a-f]{64}$' trust trust_key \
             trust_auth_notify {other"
        );
    }

    #[test]
    fn rows_are_read_under_the_default_names_and_written_under_their_own() {
        let names = users();
        names.check().unwrap();
        assert!(names.are_own());
        let read = names.for_sqlite("SELECT id FROM {trust} JOIN {trust_key} USING (id)");
        assert_eq!(
            read.as_str(),
            "SELECT id FROM (SELECT rowid AS rowid, trust.\"user_id\" AS id, \
             trust.\"name\" AS name, NULL AS code, trust.\"region\" AS region, \
             trust.\"api_key_hash\" AS api_key_hash, trust.\"created_at\" AS created_at, \
             trust.\"last_heartbeat\" AS last_heartbeat, trust.\"disabled_at\" AS disabled_at, \
             trust.\"attributes\" AS attributes FROM \"Users\" AS trust) AS trust \
             JOIN \"user keys\" AS trust_key USING (id)"
        );
        let write = names.for_postgres("UPDATE {trust_table} SET {disabled_at} = 1 WHERE {id} = 2");
        assert_eq!(write.as_str(), "UPDATE \"Users\" SET disabled_at = 1 WHERE \"user_id\" = 2");
        assert_eq!(names.for_postgres("{code}").as_str(), "{code}");
        assert_eq!(
            names.insertion(&[(TrustColumn::Id, "$1"), (TrustColumn::Code, "$2")]),
            "INSERT INTO \"Users\" (\"user_id\") VALUES ($1)"
        );
    }

    #[test]
    fn objects_of_two_tables_have_two_names_however_long_those_are() {
        let long = |end: &str| users().table(format!("{}{end}", "t".repeat(60)));
        let object = |names: TableNames| {
            let name = names.own_name("trust_auth_notify");
            let sql = names.for_postgres("{own:trust_auth_notify}");
            assert_eq!(sql.as_str(), format!("\"{name}\""));
            name
        };
        assert_eq!(object(users()), "trust_auth_notify_Users.user keys");
        assert_ne!(object(long("a")), object(long("b")));
        let pair = |table: &str, keys: &str| object(users().table(table).key_table(keys));
        assert_ne!(pair("a_b", "c"), pair("a", "b_c"));
        assert_ne!(pair("a.b", "c"), pair("a", "b.c"));
        assert!(object(long("a")).len() <= LONGEST);
    }

    #[test]
    fn a_name_that_could_leave_its_quotes_is_refused() {
        for name in ["a\"b", "a'b", "a`b", "a\\b", "a$b", "a{b", "a}b", "a\nb", "a\0b"] {
            let refused = Err(InvalidTableName::Character { name: name.to_owned() });
            assert_eq!(TableNames::default().table(name).check(), refused);
            assert_eq!(TableNames::default().key_table(name).check(), refused);
            assert_eq!(TableNames::default().column(TrustColumn::Id, name).check(), refused);
        }
    }

    #[test]
    fn each_flaw_is_named() {
        let names = TableNames::default;
        assert_eq!(names().table("").check(), Err(InvalidTableName::Empty));
        let long = "é".repeat(32);
        assert_eq!(names().table(&long).check(), Err(InvalidTableName::TooLong { name: long }));
        let reserved = |name: &str| Err(InvalidTableName::Reserved { name: name.to_owned() });
        assert_eq!(names().table("Trust_auth_lease").check(), reserved("Trust_auth_lease"));
        assert_eq!(names().key_table("sqlite_schema").check(), reserved("sqlite_schema"));
        let twice = |name: &str| Err(InvalidTableName::Twice { name: name.to_owned() });
        assert_eq!(names().table("Trust_Key").check(), twice("trust_key"));
        assert_eq!(names().column(TrustColumn::Code, "REGION").check(), twice("region"));
        assert_eq!(
            names().without(TrustColumn::DisabledAt).check(),
            Err(InvalidTableName::Needed { column: "disabled_at" })
        );
        let error = names().table("$").checked().unwrap_err().to_string();
        assert!(error.contains("the name \"$\" has a control character or one of"), "{error}");
    }
}
