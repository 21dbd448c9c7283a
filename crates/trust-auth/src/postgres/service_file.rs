//! Connection service files: named sets of parameters, which `service` or `PGSERVICE` selects.
//!
//! The file may contain passwords, so no error repeats a line.

use std::fs;
use std::path::{Path, PathBuf};

use super::connection_string::{Pairs, unsupported};
use crate::error::StoreError;

/// The folder where the libpq of Debian and Ubuntu searches for the machine's file.
const SYSTEM_FOLDER: &str = "/etc/postgresql-common";

/// Returns the parameters of a service: from the user's file, or else from the machine's.
///
/// `variable` reads the environment, `home` is the user's folder.
///
/// # Errors
///
/// [`StoreError::UnsupportedUrl`]: no file defines the service, or its file is malformed.
pub(super) fn load(
    service: &str,
    variable: impl Fn(&str) -> Option<String>,
    home: Option<&Path>,
) -> Result<Pairs, StoreError> {
    let users = variable("PGSERVICEFILE")
        .map(PathBuf::from)
        .or_else(|| home.map(|home| home.join(".pg_service.conf")));
    let folder = variable("PGSYSCONFDIR").unwrap_or_else(|| SYSTEM_FOLDER.into());
    let files = users.into_iter().chain([Path::new(&folder).join("pg_service.conf")]);
    for file in files {
        let Ok(text) = fs::read_to_string(file) else { continue };
        if let Some(pairs) = section(&text, service)? {
            return Ok(pairs);
        }
    }
    Err(unsupported(
        "no service file defines its `service`; define the service in ~/.pg_service.conf or in the \
         file of PGSERVICEFILE",
    ))
}

/// Returns the parameters below `[service]`, or nothing if there is no such line.
fn section(text: &str, service: &str) -> Result<Option<Pairs>, StoreError> {
    let mut found = None;
    for line in
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        if let Some(heading) = line.strip_prefix('[') {
            if found.is_some() {
                break;
            }
            found = (heading.strip_suffix(']') == Some(service)).then(Pairs::new);
        } else if let Some(pairs) = &mut found {
            let pair = line.split_once('=').filter(|(name, _)| !name.starts_with("ldap:"));
            let Some((name, value)) = pair else {
                return Err(unsupported(
                    "a line of its service in the service file is no `name=value`; correct the \
                     line (LDAP is not supported)",
                ));
            };
            if name == "service" {
                return Err(unsupported(
                    "its service in the service file names a service; write the parameters there",
                ));
            }
            // The first value of a name counts.
            if !pairs.iter().any(|(known, _)| known == name) {
                pairs.push((name.to_owned(), value.to_owned()));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_found_and_the_first_value_of_a_name_counts() {
        let text = "# it\n[a]\nhost=x\n\n[b]\nhost=/run\nport=1\nhost=y\n[b]\nuser=z\n";
        let pairs = section(text, "b").unwrap().unwrap();
        assert_eq!(pairs, [("host".into(), "/run".into()), ("port".into(), "1".into())]);
        assert!(section(text, "c").unwrap().is_none());
        for text in ["[a]\nhunter2", "[a]\nservice=hunter2", "[a]\nldap://hunter2=2"] {
            let told = section(text, "a").unwrap_err().to_string();
            assert!(!told.contains("hunter2"), "{told}");
        }
    }
}
