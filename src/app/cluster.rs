//! The bridges that share lines, joined with the rest: this one's name among them, its part, and the way to the others.

use std::net::SocketAddr;

use tracing::warn;

use super::own_urls::api_base_url;
use super::start_error::StartError;
use crate::api::ApiError;
use crate::api::nodes::{NodeClient, Nodes, TrustFiles};
use crate::bridge::context::Context;
use crate::cluster::{ClusterHandle, ClusterParts, ClusterTask};
use crate::config::Config;
use crate::core::cluster::CoordinatorSettings;
use crate::core::register_gate::RegisterGate;
use crate::fleet::RegistrarHandle;
use crate::queue::{LeaseStore, QueueError};

/// Takes this bridge's name in the cluster. A Redis that is away holds nothing up.
pub(super) async fn take_name(leases: &LeaseStore) -> Result<(), StartError> {
    match leases.join().await {
        Ok(()) => Ok(()),
        Err(error @ (QueueError::Conflict { .. } | QueueError::NotPermitted { .. })) => {
            Err(StartError::Queue(error))
        }
        Err(error) => {
            warn!(%error, "the other bridges are not known yet");
            Ok(())
        }
    }
}

/// This bridge's part, and the handle to it; `None` where it shares no lines. The API listens on `api`.
pub(super) fn task(
    config: &Config,
    store: LeaseStore,
    context: &Context,
    registrar: &RegistrarHandle,
    register_gate: RegisterGate,
    api: SocketAddr,
) -> Option<(ClusterTask, ClusterHandle)> {
    let (cluster, queue) = config.cluster.zip(config.queue.as_ref())?;
    let stream_url = Some(context.settings.stream_url.as_str());
    Some(ClusterTask::new(ClusterParts {
        store,
        registrar: registrar.clone(),
        engine: context.engine.clone(),
        call_limiter: context.call_limiter.clone(),
        cut_off: context.cut_off.clone(),
        register_gate,
        settings: CoordinatorSettings {
            lease_ttl: cluster.lease_ttl,
            handover_timeout: cluster.handover_timeout,
            ..CoordinatorSettings::default()
        },
        capacity: config.calls.max_calls,
        api_url: Some(api_base_url(config, queue, api).into()),
        stream_url: stream_url.filter(|url| !url.is_empty()).map(Into::into),
    }))
}

/// The way to the APIs of the bridges that lines are shared with.
pub(super) fn other_nodes(
    config: &Config,
    cluster: Option<&ClusterHandle>,
    leases: Option<&LeaseStore>,
) -> Result<Option<Nodes>, ApiError> {
    let Some((cluster, leases)) = cluster.zip(leases) else {
        return Ok(None);
    };
    let client = NodeClient::new(config.api_token.clone(), TrustFiles::of(config))?;
    Ok(Some(Nodes::new(cluster.clone(), leases.clone(), client)))
}
