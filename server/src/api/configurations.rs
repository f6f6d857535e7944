//! `ConfigurationService`: settings and values for agents.

use std::sync::Arc;

use kernex_proto::{
    ids::check_name,
    telemetry::check_filter,
    v1::{
        self, DeleteConfigurationRequest, DeleteConfigurationResponse,
        GetDeviceConfigurationRequest, GetDeviceConfigurationResponse, ListConfigurationsRequest,
        ListConfigurationsResponse, SetConfigurationRequest, SetConfigurationResponse,
        configuration_service_server::ConfigurationService,
    },
};
use tonic::{Request, Response, Status};

use super::{Api, wire::configuration::scope};
use crate::{
    domain::configuration::check_values,
    edge::auth::caller,
    error::{chain, invalid},
};

#[derive(Debug)]
pub struct Configurations(pub(super) Arc<Api>);

#[tonic::async_trait]
impl ConfigurationService for Configurations {
    async fn set_configuration(
        &self,
        request: Request<SetConfigurationRequest>,
    ) -> Result<Response<SetConfigurationResponse>, Status> {
        let caller = caller(&request, "SetConfiguration", &request.get_ref().request_id)?;
        let wanted = request.into_inner().configuration.unwrap_or_default();
        check_name("configuration name", &wanted.name)
            .map_err(|error| invalid("configuration.name", error.to_string()))?;
        check_values(wanted.values.iter()).map_err(|why| invalid("configuration.values", why))?;
        if let Some(log) = wanted.settings.as_ref().and_then(|all| all.log.as_deref()) {
            check_filter(log)
                .map_err(|error| invalid("configuration.settings.log", chain(&error)))?;
        }
        let scope = scope(wanted.scope)?;
        let configure = v1::Configure {
            revision: 0,
            values: wanted.values,
            settings: wanted.settings,
        };
        let store = &self.0.store;
        let set = store
            .set_configuration(&caller, &wanted.name, &scope, &configure, wanted.revision)
            .await?;
        tracing::info!(
            configuration = set.name,
            revision = set.revision,
            "configuration set"
        );
        self.push();
        Ok(Response::new(SetConfigurationResponse {
            configuration: Some(set.into()),
        }))
    }

    async fn delete_configuration(
        &self,
        request: Request<DeleteConfigurationRequest>,
    ) -> Result<Response<DeleteConfigurationResponse>, Status> {
        let caller = caller(
            &request,
            "DeleteConfiguration",
            &request.get_ref().request_id,
        )?;
        let name = &request.get_ref().name;
        self.0.store.delete_configuration(&caller, name).await?;
        tracing::info!(configuration = name, "configuration deleted");
        self.push();
        Ok(Response::new(DeleteConfigurationResponse {}))
    }

    async fn list_configurations(
        &self,
        request: Request<ListConfigurationsRequest>,
    ) -> Result<Response<ListConfigurationsResponse>, Status> {
        let configurations = self.0.view(&request)?.list_configurations().await?;
        Ok(Response::new(ListConfigurationsResponse {
            configurations: configurations.into_iter().map(Into::into).collect(),
        }))
    }

    async fn get_device_configuration(
        &self,
        request: Request<GetDeviceConfigurationRequest>,
    ) -> Result<Response<GetDeviceConfigurationResponse>, Status> {
        let view = self.0.view(&request)?;
        let answer = view.device_configuration(&request.get_ref().device).await?;
        let known = answer.map(GetDeviceConfigurationResponse::from);
        Ok(Response::new(known.unwrap_or_default()))
    }
}

impl Configurations {
    /// Wakes every device that is here. The dispatcher finds out which of them get another
    /// configuration.
    fn push(&self) {
        let online = self.0.registry.online();
        self.0
            .wake_ups
            .wake_configurations(online.into_iter().map(|(device, _)| device));
    }
}
