//! `migrate`: adds what this version needs to the tables of the database, or prints the SQL for it.
//! No other command changes an existing table.

use serde::Serialize;
use trust_auth::MigrationPlan;

use crate::args::MigrateArgs;
use crate::command_answer::{CommandAnswer, Format};
use crate::command_error::CommandError;
use crate::database::DatabaseArgs;
use crate::trust_text::escaped;

pub(crate) async fn migrate(
    database: &DatabaseArgs,
    format: Format,
    args: MigrateArgs,
) -> Result<CommandAnswer, CommandError> {
    #[derive(Serialize)]
    struct Migrated<'a> {
        migration: Migration<'a>,
    }
    #[derive(Serialize)]
    struct Migration<'a> {
        needed: bool,
        done: bool,
        missing: &'a [String],
        sql: String,
    }

    let plan = match (database.postgres()?, args.dry_run) {
        (Some(options), true) => options.plan_migration().await?,
        (Some(options), false) => options.run_migration().await?,
        (None, true) => database.sqlite().plan_migration().await?,
        (None, false) => database.sqlite().run_migration().await?,
    };
    let migration = Migration {
        needed: !plan.is_empty(),
        done: !plan.is_empty() && !args.dry_run,
        missing: plan.missing(),
        sql: plan.to_string(),
    };
    Ok(CommandAnswer::new(format, &Migrated { migration }, || text(&plan, args.dry_run)))
}

/// Returns the answer for people. For a dry run it is a script that `psql` or `sqlite3` accepts,
/// also if there is nothing to do.
fn text(plan: &MigrationPlan, dry_run: bool) -> String {
    let nothing = "Nothing to do: the database has what this version needs.";
    match (plan.is_empty(), dry_run) {
        (true, true) => format!("-- {nothing}"),
        (true, false) => nothing.to_owned(),
        (false, true) => plan.to_string().trim_end().to_owned(),
        (false, false) => {
            let missing: Vec<String> = plan.missing().iter().map(|part| escaped(part)).collect();
            format!("Added {}.", missing.join(", "))
        }
    }
}
