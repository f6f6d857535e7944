//! `deploy`: put a bundle on devices.

use std::path::Path;

use kernex_proto::{
    error::Reason,
    ids::{Digest, check_name},
    v1,
};

use super::{
    Session,
    bundle::push,
    deployment::{resolve::called, watch},
    present,
};
use crate::{
    args::deploy::DeployArgs,
    client::{Client, request_id},
    error::{Exit, Failure},
    output::{Printer, counted, deployment::DeploymentView, print_note},
};

mod plan;
mod rollout;

/// Creates the deployment, and watches it with `--watch`.
pub(crate) async fn run(session: &Session, args: DeployArgs) -> Result<(), Failure> {
    let bundle_arg = parse_bundle_arg(&args.bundle)?;
    let canary = args.rollout.canary;
    let rollout = rollout::rollout(args.rollout)?;
    if args.timing.starts_in_the_past(jiff::Timestamp::now()) {
        return Err(Failure::usage(
            "the time of `--at` has passed already",
            "Name a later time, or leave `--at` out to begin at once.",
        ));
    }
    if args.timing.ends_in_the_past(jiff::Timestamp::now()) {
        return Err(Failure::usage(
            "the time of `--deadline` has passed already",
            "Name a later time, or how long it may take, such as `--deadline 2h`.",
        ));
    }
    if args.plan && matches!(bundle_arg, BundleArg::Local(_)) {
        return Err(Failure::usage(
            format!(
                "`{}` is a file here, and a plan moves none of its bytes",
                args.bundle
            ),
            "Push it first: `kernexctl bundle push`, then plan with name:version.",
        ));
    }
    let client = session.connect().await?;
    let bundle = match bundle_arg {
        BundleArg::Stored(reference) => reference,
        BundleArg::Local(path) => {
            let (bundle, existed) = push::push(&client, path, None, args.pack).await?;
            let reference = format!("{}:{}", bundle.name, bundle.version);
            print_note(&if existed {
                format!("The server has {reference} already.")
            } else {
                format!("Pushed {reference}.")
            });
            // The digest names exactly these bytes.
            bundle.digest
        }
    };
    let request = v1::CreateDeploymentRequest {
        bundle,
        selector: args.to.unwrap_or_default(),
        delivery_timeout_seconds: args.order.delivery_seconds(),
        execution_timeout_seconds: args.order.execution_seconds(),
        request_id: request_id(),
        schedule: args.timing.schedule(),
        dynamic: args.timing.dynamic,
        message: args.order.message(),
        rollout,
        name: args.name.unwrap_or_default(),
        ..Default::default()
    };
    let request = with_devices(request, args.devices);
    let printer = Printer::new(args.output.output);
    if args.plan {
        return plan::run(&client, request, printer, args.all, canary).await;
    }
    let is_dynamic = request.dynamic;
    let deployment = create(&client, request).await?;
    let all = deployment.counts.unwrap_or_default().total;
    if let Some(note) = canary.and_then(|canary| whole_canary(canary, all.into()))
        && !is_dynamic
    {
        print_note(&note);
    }
    if !args.order.watch {
        let id = called(&deployment).to_owned();
        printer.row(&DeploymentView::from(deployment))?;
        if printer.for_people() {
            print_note(&format!("Watch it with `kernexctl deployment watch {id}`."));
        }
        return Ok(());
    }
    print_note(&format!(
        "Deployment {} of {}",
        deployment.id, deployment.bundle
    ));
    watch::show(&client, &deployment.id, args.order.timeout, printer).await
}

/// What is said of a canary that is the whole fleet: nothing would be left to protect.
fn whole_canary(canary: u32, devices: u64) -> Option<String> {
    let is_whole = devices > 0 && u64::from(canary) >= devices;
    is_whole.then(|| {
        let all = counted(devices, "device");
        format!("warning: `--canary {canary}` of {all} holds nothing back: all begin at once.")
    })
}

/// Commits a deployment.
pub(crate) async fn create(
    client: &Client,
    request: v1::CreateDeploymentRequest,
) -> Result<v1::Deployment, Failure> {
    let made = client.deployments().create_deployment(request).await;
    let made = made.map_err(|status| {
        Failure::of_call(
            status,
            Reason::AlreadyExists,
            "Choose another `--name`; `kernexctl deployment get NAME` shows the one that has it.",
        )
    })?;
    present(made.into_inner().deployment, "deployment")
}

/// Sorts devices into ids and names. A text in the form of a UUID is an id: no name has that form.
fn with_devices(
    mut request: v1::CreateDeploymentRequest,
    devices: Vec<String>,
) -> v1::CreateDeploymentRequest {
    for device in devices {
        if uuid::Uuid::try_parse(&device).is_ok() {
            request.device_ids.push(device);
        } else {
            request.device_names.push(device);
        }
    }
    request
}

#[derive(Debug, PartialEq, Eq)]
enum BundleArg<'a> {
    Stored(String),
    Local(&'a Path),
}

/// `name:version` and digests mean a bundle on the server; everything else is a local file or
/// folder, if there is one, or else the name of a bundle on the server.
fn parse_bundle_arg(text: &str) -> Result<BundleArg<'_>, Failure> {
    let path = Path::new(text);
    if text.parse::<Digest>().is_ok() || (text.contains(':') && !text.contains('/')) {
        return Ok(BundleArg::Stored(text.to_owned()));
    }
    if path.exists() {
        return Ok(BundleArg::Local(path));
    }
    if check_name("bundle name", text).is_ok() {
        return Ok(BundleArg::Stored(text.to_owned()));
    }
    Err(Failure::new(
        Exit::NotFoundOrConflict,
        format!(
            "`{text}` is no name of a bundle, no name:version and no digest, and there is no such file or folder"
        ),
        "See the bundles with `kernexctl bundle list`, or check the path.",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_and_paths_are_told_apart() {
        let digest = "ab".repeat(32);
        for stored in ["hello:1.0", digest.as_str()] {
            assert_eq!(
                parse_bundle_arg(stored).unwrap(),
                BundleArg::Stored(stored.to_owned())
            );
        }
        assert_eq!(
            parse_bundle_arg("/tmp").unwrap(),
            BundleArg::Local(Path::new("/tmp"))
        );
        assert_eq!(
            parse_bundle_arg("tool").unwrap(),
            BundleArg::Stored("tool".to_owned())
        );
        assert_eq!(
            parse_bundle_arg("no/such/folder").unwrap_err().exit,
            Exit::NotFoundOrConflict
        );
    }

    #[test]
    fn a_canary_that_is_the_whole_fleet_is_told() {
        for (canary, devices) in [(40, 4), (4, 4), (1, 1)] {
            let note = whole_canary(canary, devices).unwrap();
            assert!(note.contains("all begin at once"), "{note}");
        }
        assert_eq!(whole_canary(3, 4), None);
        assert_eq!(whole_canary(1, 0), None, "nothing is known of the devices");
    }

    #[test]
    fn ids_and_names_go_where_they_belong() {
        let id = "0190a000-0000-7000-8000-000000000001".to_owned();
        let request = with_devices(
            v1::CreateDeploymentRequest::default(),
            vec![id.clone(), "edge-1".into()],
        );
        assert_eq!(request.device_ids, [id]);
        assert_eq!(request.device_names, ["edge-1"]);
    }
}
