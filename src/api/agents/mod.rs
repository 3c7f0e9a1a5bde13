//! `/api/v1/omnichannel`: the agents of tenants, where `--agents` is on.
//!
//! | file | what it holds |
//! |---|---|
//! | [`config`] | `/agent/config`: an agent read, written, removed |
//! | [`health`] | `/health`: whether agents can be had now |
//! | [`voices`] | `/agent/voices`, `/agent/models`: what they can be given to speak with |

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use utoipa::IntoResponses;
use utoipa::openapi::{RefOr, Response};

use super::control::Control;
use super::openapi::problems;
use super::problem::{Problem, ProblemKind};
use crate::agents::AgentDirectory;

pub mod config;
pub mod health;
pub mod voices;

/// The agents, where there are any: the first thing that each route asks for.
pub struct Agents(pub AgentDirectory);

impl FromRequestParts<Arc<Control>> for Agents {
    type Rejection = Problem;

    async fn from_request_parts(
        _: &mut Parts,
        control: &Arc<Control>,
    ) -> Result<Self, Self::Rejection> {
        const WHY: &str = "start the bridge with --agents (AGENTS=yes)";
        let agents = control.agents.clone().map(Self);
        agents.ok_or_else(|| Problem::new(ProblemKind::AGENTS_OFF, WHY))
    }
}

/// What any request for an agent may be answered.
pub struct OfAgents;

impl IntoResponses for OfAgents {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problems([
            (
                "500",
                "The database failed, or what it holds is no agent; the log says how.",
            ),
            (
                "503",
                "The bridge runs without --agents, or the database is away.",
            ),
        ])
    }
}
