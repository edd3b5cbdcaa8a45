// SPDX-License-Identifier: Apache-2.0
//! The JSON form: one flat object a line, with dotted keys and the fields of each span in an object.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::access::Draft;
use super::event;
use super::line::{Line, NoLine, What};
use super::words::{ACCESS, Fields, Level, is_early, strip_crate};

/// What every line has.
#[derive(Deserialize)]
struct Head {
    level: String,
    time: String,
    scope: String,
    #[serde(default)]
    message: String,
}

pub(super) fn parse(text: &str) -> Result<Line, NoLine> {
    // Where the object is broken, its beginning still says what it was meant to be.
    let bad = if text.contains(r#""scope":"access""#) {
        NoLine::Malformed
    } else {
        NoLine::Foreign
    };
    let head: Head = serde_json::from_str(text).map_err(|_| bad)?;
    let access = head.scope == ACCESS;
    let time = head.time.parse().map_err(|_| bad)?;
    let level = Level::parse(&head.level).ok_or(bad)?;
    let what = if access {
        match is_early(&head.message) {
            None => What::Other,
            Some(early) => {
                let draft: Draft = serde_json::from_str(text).map_err(|_| NoLine::Malformed)?;
                let access = draft.finish(time, level, early).ok_or(NoLine::Malformed)?;
                What::Access(Box::new(access))
            }
        }
    } else if event::may_be(strip_crate(&head.scope)) {
        let fields: Map<String, Value> = serde_json::from_str(text).map_err(|_| bad)?;
        event::recognise(strip_crate(&head.scope), &head.message, &JsonFields(fields))
            .map_or(What::Other, What::Event)
    } else {
        What::Other
    };
    Ok(Line { time, level, what })
}

struct JsonFields(Map<String, Value>);

impl Fields for JsonFields {
    fn get(&self, key: &str) -> Option<Cow<'_, str>> {
        self.0.get(key)?.as_str().map(Cow::Borrowed)
    }

    fn in_span(&self, span: &str, key: &str) -> Option<Cow<'_, str>> {
        self.0.get(span)?.get(key)?.as_str().map(Cow::Borrowed)
    }
}
