//! The verb first: the same commands as behind their nouns.

use super::{Session, bundle, config, context, deployment, device, enrollment};
use crate::{
    args::{
        bundle::BundleCommand,
        config::ConfigCommand,
        context::ContextCommand,
        deployment::{DeploymentCommand, TargetFilterArgs},
        device::DeviceCommand,
        enrollment::EnrollmentCommand,
        verbs::{DeleteCommand, GetCommand},
    },
    error::Failure,
};

pub(crate) async fn get(session: &Session, command: GetCommand) -> Result<(), Failure> {
    match command {
        GetCommand::Devices {
            devices,
            filter,
            list,
            output,
        } => {
            let command = if devices.is_empty() {
                DeviceCommand::List {
                    filter,
                    list,
                    watch: false,
                    output,
                }
            } else {
                DeviceCommand::Get { devices, output }
            };
            device::run(session, command).await
        }
        GetCommand::Deployments {
            id,
            filter,
            list,
            output,
        } => {
            let command = match id {
                None => DeploymentCommand::List {
                    filter,
                    list,
                    output,
                },
                Some(id) => DeploymentCommand::Get {
                    id,
                    filter: TargetFilterArgs::default(),
                    list,
                    output,
                },
            };
            deployment::run(session, command).await
        }
        GetCommand::Bundles {
            bundle,
            name,
            list,
            output,
        } => {
            let command = match bundle {
                None => BundleCommand::List { name, list, output },
                Some(bundle) => BundleCommand::Get { bundle, output },
            };
            bundle::run(session, command).await
        }
        GetCommand::Configs { device, output } => {
            let command = match device {
                None => ConfigCommand::List { output },
                Some(device) => ConfigCommand::Get { device, output },
            };
            config::run(session, command).await
        }
        GetCommand::Contexts { output } => context::run(ContextCommand::List { output }).await,
        GetCommand::Enrollments { output } => {
            enrollment::run(session, EnrollmentCommand::List { output }).await
        }
    }
}

pub(crate) async fn delete(session: &Session, command: DeleteCommand) -> Result<(), Failure> {
    match command {
        DeleteCommand::Device { device, consent } => {
            device::run(session, DeviceCommand::Delete { device, consent }).await
        }
        DeleteCommand::Bundle { bundle, consent } => {
            bundle::delete_one(session, &bundle, consent).await
        }
        DeleteCommand::Config { name, consent } => {
            config::run(session, ConfigCommand::Delete { name, consent }).await
        }
        DeleteCommand::Context { name, consent } => {
            context::run(ContextCommand::Delete { name, consent }).await
        }
    }
}
