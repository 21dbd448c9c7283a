//! [`TableArgs`]: what the database calls the table of trusts, its columns, and the table of keys.

use std::ffi::OsString;

use clap::{ArgMatches, Args};
use serde::Serialize;
use trust_auth::{ApiKey, StoreError, TableNames, TrustColumn};

/// The options that name the tables and columns, where an application has made its own.
#[derive(Debug, Args, Serialize)]
pub(crate) struct TableArgs {
    /// The table of trusts. An application may have its own, such as `users`
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        display_order = 103,
        env = "TRUST_AUTH_TABLE",
        hide_env_values = true,
        default_value = "trust"
    )]
    pub(crate) table: String,

    /// The table of the keys that are not in the table of trusts. `migrate` makes it
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        display_order = 104,
        env = "TRUST_AUTH_KEY_TABLE",
        hide_env_values = true,
        default_value = "trust_key"
    )]
    pub(crate) key_table: String,

    /// What a column of the table of trusts is called, such as `name=email`. Repeat it for other
    /// columns, or separate them by commas. The columns are id, name, code, region, api_key_hash,
    /// created_at, last_heartbeat, disabled_at and attributes. `code=` leaves the column out; so do
    /// `region=`, `last_heartbeat=` and `attributes=`
    #[arg(
        long = COLUMN,
        global = true,
        value_name = "COLUMN=NAME",
        display_order = 105,
        env = "TRUST_AUTH_COLUMN",
        hide_env_values = true,
        value_delimiter = ','
    )]
    pub(crate) columns: Vec<String>,
}

const COLUMN: &str = "column";

impl TableArgs {
    /// Returns the names.
    ///
    /// # Errors
    ///
    /// [`StoreError::UnsupportedUrl`], as for the other options of the database: an option is
    /// wrong. It repeats nothing that looks like a key.
    pub(crate) fn names(&self) -> Result<TableNames, StoreError> {
        let wrong = |reason: String| Err(StoreError::UnsupportedUrl { reason });
        let mut texts = [&self.table, &self.key_table].into_iter().chain(&self.columns);
        if texts.any(|text| ApiKey::may_be_in(text)) {
            return wrong(
                "--table, --key-table and --column take names: one of them looks like an API key"
                    .to_owned(),
            );
        }
        let mut names = TableNames::default().table(&self.table).key_table(&self.key_table);
        let mut given = Vec::with_capacity(self.columns.len());
        for text in &self.columns {
            let Some((column, name)) = text.split_once('=') else {
                return wrong(format!(
                    "--column {text:?} has no `=`; write COLUMN=NAME, such as `name=email`"
                ));
            };
            let Some(found) = TrustColumn::ALL.into_iter().find(|known| known.as_str() == column)
            else {
                let known = TrustColumn::ALL.map(TrustColumn::as_str).join(", ");
                return wrong(format!(
                    "--column {text:?} is for a column that there is not; the columns are {known}"
                ));
            };
            if given.contains(&found) {
                return wrong(format!("--column gives `{column}` twice; give it once"));
            }
            given.push(found);
            names = match name {
                "" => names.without(found),
                name => names.column(found, name),
            };
        }
        match names.check() {
            Ok(()) => Ok(names),
            Err(flaw) => wrong(format!("--table, --key-table or --column: {flaw}")),
        }
    }

    /// Returns the table of trusts and that of keys, as SQL has them.
    pub(crate) fn quoted(&self) -> (String, String) {
        let quoted = |name: &str, default: &str| match name {
            name if name == default => name.to_owned(),
            name => format!("\"{name}\""),
        };
        (quoted(&self.table, "trust"), quoted(&self.key_table, "trust_key"))
    }
}

/// Returns what is wrong if columns are given in two places: clap would drop those of one place.
pub(crate) fn columns_apart(arguments: &[OsString], matches: &ArgMatches) -> Option<&'static str> {
    let is_column = |argument: &&OsString| {
        let option = argument.to_str().and_then(|text| text.strip_prefix("--"));
        option.is_some_and(|option| option.split('=').next() == Some(COLUMN))
    };
    let options = arguments.iter().take_while(|argument| *argument != "--");
    let given = options.filter(is_column).count();
    let read = matches.get_occurrences::<String>("columns").map_or(0, |given| given.count());
    if given > read {
        return Some(
            "--column is given before the command and after it; give each column in one of these \
             places",
        );
    }
    let variable = std::env::var_os("TRUST_AUTH_COLUMN").unwrap_or_default();
    (given > 0 && !variable.is_empty()).then_some(
        "--column is given, and the variable TRUST_AUTH_COLUMN, too; give all columns in one of \
         the two",
    )
}
