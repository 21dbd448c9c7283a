//! `openapi`: prints the OpenAPI document of the admin API.

use crate::command_answer::{CommandAnswer, Format};
use crate::serve::admin::document::document;

pub(crate) fn openapi(format: Format) -> CommandAnswer {
    let document = document();
    // A document of strings, lists and maps: its serialization cannot fail.
    CommandAnswer::new(format, &document, || document.to_pretty_json().unwrap_or_default())
}
