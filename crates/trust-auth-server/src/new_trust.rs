//! The checks of a new trust, for the command line and the admin API alike.

use trust_auth::{ApiKey, InvalidName, NewTrust, TextFlaw};

/// Returns the trust to register.
///
/// # Errors
///
/// [`InvalidName`], if the name is not accepted.
pub(crate) fn new_trust(
    name: String,
    code: Option<String>,
    region: Option<String>,
) -> Result<NewTrust, InvalidName> {
    let mut new = NewTrust::new(name)?;
    if let Some(code) = code {
        new = new.with_code(code);
    }
    if let Some(region) = region {
        new = new.with_region(region);
    }
    Ok(new)
}

/// Checks that a code or a region is not empty, and is visible unchanged. Refuses a text of a key's
/// form, which was probably pasted by mistake.
pub(crate) fn check_code_or_region(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("it is empty; leave it out".to_owned());
    }
    if ApiKey::may_be_in(text) {
        return Err("it looks like an API key; leave it out, and rotate that key".to_owned());
    }
    TextFlaw::check(text).map_err(|flaw| format!("it {flaw}"))
}
