// SPDX-License-Identifier: Apache-2.0
//! Reading a report that another version may have written.

use serde::de::IntoDeserializer as _;
use serde::de::value::{Error as ValueError, StringDeserializer};
use serde::{Deserialize, Deserializer};

use crate::verdict::Condition;

use super::{API_VERSION, ConditionReport, ERROR, NODE_REPORT, NodeReport};

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

/// Something of several parts, one of which a newer writer may name in a way that means nothing here yet.
pub(super) fn understood<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: serde::de::DeserializeOwned,
{
    let told: Option<serde_json::Value> = Option::deserialize(deserializer)?;
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
