// SPDX-License-Identifier: Apache-2.0
//! Reading a report that another version may have written.

use serde::de::value::{Error as ValueError, StringDeserializer};
use serde::de::{Error as _, IntoDeserializer as _};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::text::clean;
use crate::verdict::{Condition, Reason, State};

use super::{API_VERSION, ConditionReport, ERROR, NODE_REPORT, NodeReport, PodReport};

/// So much of a name that means nothing here is shown.
const LONGEST_STATE: usize = 32;

/// Why something is no report that can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is something else altogether.
    #[error("this is no report of a MeshMedic agent: {0}")]
    NotAReport(#[source] serde_json::Error),
    /// The agent answered with an error of its own.
    #[error("the agent says: {0}")]
    Refused(String),
    /// It says itself that it is something else.
    #[error("this is a {0}, and a {NODE_REPORT} was expected")]
    OtherKind(String),
    /// A version that is not understood here.
    #[error(
        "the agent ({agent}) speaks {found}, and this meshmedic understands {API_VERSION}: use a meshmedic of the \
         agent's version"
    )]
    OtherVersion {
        /// What it speaks.
        found: String,
        /// Which version of MeshMedic it is, as it says.
        agent: String,
    },
    /// The right version, and yet not what was agreed on.
    #[error("the report breaks {API_VERSION}: {0}")]
    Malformed(#[source] serde_json::Error),
}

/// What every version of every kind has.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    api_version: String,
    kind: String,
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    message: Option<String>,
}

impl NodeReport {
    /// Reads a report. Fields that are not known are skipped; another version is refused.
    pub fn read(bytes: &[u8]) -> Result<Self, ReadError> {
        let header: Header = serde_json::from_slice(bytes).map_err(ReadError::NotAReport)?;
        if header.api_version != API_VERSION {
            return Err(ReadError::OtherVersion {
                found: header.api_version,
                agent: header.version.unwrap_or_else(|| "version unknown".to_owned()),
            });
        }
        if header.kind == ERROR {
            return Err(ReadError::Refused(header.message.unwrap_or_default()));
        }
        if header.kind != NODE_REPORT {
            return Err(ReadError::OtherKind(header.kind));
        }
        serde_json::from_slice(bytes).map_err(ReadError::Malformed)
    }
}

/// The conditions that mean something here; a newer writer may know more of them.
pub(super) fn known_conditions<'de, D>(deserializer: D) -> Result<Vec<ConditionReport>, D::Error>
where
    D: Deserializer<'de>,
{
    #[derive(Deserialize)]
    struct Told {
        #[serde(deserialize_with = "known")]
        condition: Option<Condition>,
        detail: String,
    }
    let told: Vec<Told> = Vec::deserialize(deserializer)?;
    let known = |Told { condition, detail }| {
        Some(ConditionReport {
            condition: condition?,
            detail,
        })
    };
    Ok(told.into_iter().filter_map(known).collect())
}

/// The pods. A state that a newer writer has says nothing here; that its pod is there does.
pub(super) fn pods<'de, D>(deserializer: D) -> Result<Vec<PodReport>, D::Error>
where
    D: Deserializer<'de>,
{
    let told: Vec<Value> = Vec::deserialize(deserializer)?;
    let pods = told
        .into_iter()
        .map(|pod| serde_json::from_value(in_known_states(pod)));
    pods.collect::<Result<_, _>>().map_err(D::Error::custom)
}

/// A pod as this version can say it.
fn in_known_states(mut pod: Value) -> Value {
    let is_known = |state: &Value| {
        let known = |name: &str| State::ALL.iter().any(|state| state.as_str() == name);
        state.as_str().is_none_or(known)
    };
    let Some(fields) = pod.as_object_mut() else {
        return pod;
    };
    if let Some(unknown) = fields.get("state").filter(|state| !is_known(state)) {
        let name = clean(unknown.as_str().unwrap_or_default(), LONGEST_STATE);
        fields.insert("detail".to_owned(), format!("its agent says {name}").into());
        fields.insert("state".to_owned(), State::Unverifiable.as_str().into());
        fields.insert("reason".to_owned(), Reason::NewerAgent.as_str().into());
    }
    if let Some(Value::Array(transitions)) = fields.get_mut("transitions") {
        let means_something = |field: Option<&Value>| field.is_none_or(is_known);
        transitions.retain(|one| means_something(one.get("from")) && means_something(one.get("to")));
    }
    pod
}

/// Something of several parts, one of which a newer writer may name in a way that means nothing here yet.
pub(super) fn understood<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: serde::de::DeserializeOwned,
{
    let told: Option<Value> = Option::deserialize(deserializer)?;
    Ok(told.and_then(|told| serde_json::from_value(told).ok()))
}

/// A name that a newer writer may have added, and that means nothing here yet.
pub(super) fn known<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    let name: Option<String> = Option::deserialize(deserializer)?;
    Ok(name.and_then(|name| {
        let name: StringDeserializer<ValueError> = name.into_deserializer();
        T::deserialize(name).ok()
    }))
}
