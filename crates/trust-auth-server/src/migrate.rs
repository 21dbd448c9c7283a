//! `migrate`: adds what this version needs to the tables of the database, or prints the SQL for it.
//! No other command changes an existing table.
//!
//! On PostgreSQL, the new table of keys gives each role only rights that are as strong already on
//! the table of trusts, and the answer states this. With `--read-lease` the answer also has the
//! rights that roles other than the owner need then. The command grants none of these: the owner
//! chooses the roles.

use serde::Serialize;
use trust_auth::{MigrationPlan, PgChanges, PostgresOptions, SqliteOptions, StoreError};

use crate::args::MigrateArgs;
use crate::command_answer::{CommandAnswer, Format};
use crate::command_error::CommandError;
use crate::database::DatabaseArgs;
use crate::table_args::TableArgs;
use crate::trust_text::escaped;

/// Returns the rights that the migration gives on a new table of keys, next to a table of trusts
/// that was there before.
fn rights(TableArgs { table, key_table, .. }: &TableArgs) -> String {
    format!(
        "On the new table {key_table}, each role has the rights that its rights on the whole table \
         {table} include: SELECT for SELECT, INSERT and UPDATE for UPDATE, DELETE for DELETE. \
         Row-level security of {table} also limits {key_table}. A role with INSERT alone, or with \
         rights on single columns, gets none: grant it what it needs."
    )
}

/// Statements for the owner of the tables, by what a role does.
#[derive(Serialize)]
struct Grants {
    /// Serves with `--read-lease`, and changes no trust.
    serve: [String; 2],
    /// Changes trusts. Such a role may also serve.
    change: [String; 1],
}

impl Grants {
    /// Returns the rights for the read lease on PostgreSQL. `ROLE` stands for the name of the role.
    fn new(tables: &TableArgs) -> Self {
        let (trust, keys) = tables.quoted();
        let lease = "trust_auth_lease, trust_auth_change, trust_auth_holder TO ROLE;";
        let all = "GRANT SELECT, INSERT, UPDATE, DELETE ON";
        Self {
            serve: [format!("GRANT SELECT ON {trust}, {keys} TO ROLE;"), format!("{all} {lease}")],
            change: [format!("{all} {trust}, {keys}, {lease}")],
        }
    }

    fn text(&self) -> String {
        format!(
            "Roles other than the owner need rights, which this command does not grant. Put the \
             name in the place of ROLE.\n\
             To serve with --read-lease, and change no trust:\n  {}\n\
             To change trusts, by a command or the admin API, and to serve:\n  {}",
            self.serve.join("\n  "),
            self.change.join("\n  ")
        )
    }
}

pub(crate) async fn migrate(
    database: &DatabaseArgs,
    format: Format,
    args: MigrateArgs,
) -> Result<CommandAnswer, CommandError> {
    #[derive(Serialize)]
    struct Migrated {
        migration: Migration,
    }
    #[derive(Serialize)]
    struct Migration {
        needed: bool,
        done: bool,
        missing: Vec<String>,
        sql: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        rights: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        grants: Option<Grants>,
    }

    let options = database.postgres()?;
    let grants = (options.is_some() && args.read_lease).then(|| Grants::new(&database.tables));
    let is_postgres = options.is_some();
    let plans = match options {
        Some(options) => postgres(options, &args).await?,
        None => sqlite(&database.sqlite()?, &args).await?,
    };
    let is_empty = plans.iter().all(MigrationPlan::is_empty);
    let missing: Vec<String> = plans.iter().flat_map(MigrationPlan::missing).cloned().collect();
    let sql: String = plans.iter().map(MigrationPlan::to_string).collect();
    let text = text(&missing, &sql, args.dry_run);
    let keys = format!("the table `{}`", database.tables.key_table);
    let makes_keys = missing.contains(&keys);
    let rights = (is_postgres && makes_keys).then(|| rights(&database.tables));
    let remarks = [rights.clone(), grants.as_ref().map(Grants::text)];
    let remarks: Vec<String> = remarks.into_iter().flatten().collect();
    let done = !is_empty && !args.dry_run;
    let migration = Migration { needed: !is_empty, done, missing, sql, rights, grants };
    let answer = CommandAnswer::new(format, &Migrated { migration }, || text);
    Ok(match (format, &*remarks) {
        (Format::Json, _) | (_, []) => answer,
        _ => answer.remark(remarks.join("\n")),
    })
}

/// Migrates the tables, and then adds the index, if it was asked for.
async fn sqlite(
    options: &SqliteOptions,
    args: &MigrateArgs,
) -> Result<Vec<MigrationPlan>, StoreError> {
    let mut plans = Vec::new();
    if args.dry_run {
        plans.push(options.plan_migration().await?);
        if args.find_by_index {
            plans.push(options.plan_index().await?);
        }
    } else {
        plans.push(options.run_migration().await?);
        if args.find_by_index {
            plans.push(options.make_index().await?);
        }
    }
    Ok(plans)
}

/// Migrates the table, and then adds what the read lease needs, and the index, if either was asked
/// for.
async fn postgres(
    options: PostgresOptions,
    args: &MigrateArgs,
) -> Result<Vec<MigrationPlan>, StoreError> {
    let changes = args.read_lease.then(|| PgChanges::trusts(options.clone()));
    let mut plans = Vec::new();
    if args.dry_run {
        plans.push(options.plan_migration().await?);
        if let Some(changes) = changes {
            plans.push(changes.plan_migration().await?);
        }
        if args.find_by_index {
            plans.push(options.plan_index().await?);
        }
    } else {
        plans.push(options.run_migration().await?);
        if let Some(changes) = changes {
            plans.push(changes.run_migration().await?);
        }
        if args.find_by_index {
            plans.push(options.make_index().await?);
        }
    }
    Ok(plans)
}

/// Returns the answer for people. For a dry run it is a script that `psql` or `sqlite3` accepts,
/// also if there is nothing to do.
fn text(missing: &[String], sql: &str, dry_run: bool) -> String {
    let nothing = "Nothing to do: the database has what this version needs.";
    match (sql.is_empty(), dry_run) {
        (true, true) => format!("-- {nothing}"),
        (true, false) => nothing.to_owned(),
        (false, true) => sql.trim_end().to_owned(),
        (false, false) => {
            let missing: Vec<String> = missing.iter().map(|part| escaped(part)).collect();
            format!("Added {}.", missing.join(", "))
        }
    }
}
