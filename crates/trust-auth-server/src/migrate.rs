//! `migrate`: adds to the database's tables what this version needs, or shows the SQL that would.
//! No other command changes a table that is there.

use serde::Serialize;
use trust_auth::MigrationPlan;

use crate::answer::{Answer, Format};
use crate::args::Migrate;
use crate::database::Target;
use crate::failure::Failure;
use crate::plain::plain;

pub(crate) async fn migrate(
    target: &Target,
    format: Format,
    asked: Migrate,
) -> Result<Answer, Failure> {
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

    let plan = match (target.postgres()?, asked.dry_run) {
        (Some(options), true) => options.plan_migration().await?,
        (Some(options), false) => options.run_migration().await?,
        (None, true) => target.sqlite().plan_migration().await?,
        (None, false) => target.sqlite().run_migration().await?,
    };
    let migration = Migration {
        needed: !plan.is_empty(),
        done: !plan.is_empty() && !asked.dry_run,
        missing: plan.missing(),
        sql: plan.to_string(),
    };
    Ok(Answer::new(format, &Migrated { migration }, || text(&plan, asked.dry_run)))
}

/// Of a dry run, a script that can be piped to `psql` or `sqlite3`, also where there is nothing to
/// do.
fn text(plan: &MigrationPlan, dry_run: bool) -> String {
    let nothing = "Nothing to do: the database has what this version needs.";
    match (plan.is_empty(), dry_run) {
        (true, true) => format!("-- {nothing}"),
        (true, false) => nothing.to_owned(),
        (false, true) => plan.to_string().trim_end().to_owned(),
        (false, false) => {
            let missing: Vec<String> = plan.missing().iter().map(|part| plain(part)).collect();
            format!("Added {}.", missing.join(", "))
        }
    }
}
