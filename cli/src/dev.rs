//! `dev`: a whole fleet in this process, over the same protocol as everywhere.
//!
//! A control plane with SQLite and some agents run as tasks. They talk gRPC over TLS on the
//! loopback address; the agents enrol with a token and get the example bundle. All of it stays up
//! until Ctrl-C.

use std::{
    net::TcpListener,
    path::Path,
    time::{Duration, Instant},
};

use kernex_proto::{
    handshake::{EnrollmentToken, InvalidEnrollmentToken},
    v1,
};

use crate::{
    args::{dev::DevArgs, pack::PackArgs},
    client::{Client, request_id},
    commands::{bundle::push, deploy, deployment::watch, device},
    context::Context,
    error::{Exit, Failure},
    interrupt::asked_to_stop,
    output::{Format, Printer, counted, print_note, progress::waiting},
};

mod example;
mod fleet;
mod home;
mod registration;

use fleet::Fleet;
use home::Home;
use registration::Registration;

/// Most time until the control plane answers for the first time.
const SERVER_START: Duration = Duration::from_secs(30);
/// Keys of RSA-4096 take seconds each, more in an unoptimised build.
const DEVICES_START: Duration = Duration::from_secs(300);
/// The example takes milliseconds; this is for a very slow machine.
const DEPLOYMENT: Duration = Duration::from_secs(120);
/// Label of every device here, to deploy by.
const LABEL: (&str, &str) = ("fleet", "dev");

/// Starts everything, shows a deployment, and stays up, unless `--once` is given.
pub(crate) async fn run(args: DevArgs) -> Result<(), Failure> {
    let home = Home::new(args.data_dir.clone())?;
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| {
        Failure::new(
            Exit::Error,
            format!("cannot listen on 127.0.0.1: {error}"),
            "Check that the loopback interface is up.",
        )
    })?;
    let mut fleet = Fleet::new(home.path(), listener)?;
    let result = tokio::select! {
        result = Box::pin(run_demo(&args, home.path(), fleet.starter())) => result,
        failure = fleet.first_failure() => Err(failure),
        signal = asked_to_stop() => Err(Failure::new(signal.exit(), "stopped before it was ready", "Run it again.")),
    };
    let result = match result {
        Ok(Demo { context, deployed }) if !args.once => {
            if let Err(failure) = deployed {
                print_note(&format!("error: {failure}"));
            }
            stay_up(context, &mut fleet).await
        }
        Ok(Demo { deployed, .. }) => deployed,
        Err(failure) => Err(failure),
    };
    fleet.stop().await;
    drop(home);
    result
}

/// What the demonstration leaves: a context, and how the deployment ended.
struct Demo {
    context: Context,
    deployed: Result<(), Failure>,
}

/// Runs the demonstration, from an empty folder to the result of the first deployment.
async fn run_demo(args: &DevArgs, home: &Path, starter: fleet::Starter) -> Result<Demo, Failure> {
    let (context, client) = connect(home, &starter.server_url).await?;
    print_note(&format!(
        "Control plane at {}, data in {}",
        context.server,
        home.display()
    ));

    starter.start_devices(
        args.devices,
        &enrollment_token(&client, args.devices).await?,
    );
    wait_online(&client, args.devices).await?;

    let bundle = push_example(home, &client).await?;
    let started = Instant::now();
    let deployment = deploy::create(
        &client,
        v1::CreateDeploymentRequest {
            bundle: bundle.digest,
            selector: format!("{}={}", LABEL.0, LABEL.1),
            request_id: request_id(),
            ..Default::default()
        },
    )
    .await?;
    print_note(&format!(
        "Deploying {} to {}={}:",
        deployment.bundle, LABEL.0, LABEL.1
    ));
    let finished = watch::follow(&client, &deployment.id, Some(DEPLOYMENT)).await?;
    print_note(&format!(
        "From the order to the last report: {} ms",
        started.elapsed().as_millis()
    ));
    let deployed = finished.report(Printer::new(Format::Table));
    Ok(Demo { context, deployed })
}

/// Waits for the files of the first start and a server that answers.
async fn connect(home: &Path, server: &str) -> Result<(Context, Client), Failure> {
    let started = Instant::now();
    loop {
        let failure = match try_connect(home, server).await {
            Ok(connected) => return Ok(connected),
            Err(failure) => failure,
        };
        if started.elapsed() > SERVER_START {
            return Err(failure);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn try_connect(home: &Path, server: &str) -> Result<(Context, Client), Failure> {
    let folder = fleet::server_folder(home);
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read_to_string(&path).map_err(|error| Failure::file("read", &path, &error))
    };
    let context = Context {
        server: server.to_owned(),
        token: read("admin.token")?.trim().to_owned(),
        ca: Some(read("ca.pem")?),
        dev_process: Some(std::process::id()),
    };
    let client = Client::connect(&context).await?;
    client.access().who_am_i(v1::WhoAmIRequest {}).await?;
    Ok((context, client))
}

async fn enrollment_token(client: &Client, devices: u16) -> Result<EnrollmentToken, Failure> {
    let request = v1::CreateEnrollmentTokenRequest {
        uses: devices.into(),
        ttl_seconds: DEVICES_START.as_secs() * 2,
        labels: [(LABEL.0.to_owned(), LABEL.1.to_owned())].into(),
        replaces_device: String::new(),
        request_id: request_id(),
    };
    let answer = client
        .access()
        .create_enrollment_token(request)
        .await?
        .into_inner();
    answer
        .text
        .parse()
        .map_err(|error: InvalidEnrollmentToken| {
            Failure::new(
                Exit::Error,
                error.to_string(),
                "This is a defect of the control plane.",
            )
        })
}

async fn wait_online(client: &Client, devices: u16) -> Result<(), Failure> {
    let bar = waiting(&format!(
        "Waiting for {} to make RSA-4096 keys, enrol and connect (a few seconds, once)",
        counted(devices.into(), "device")
    ));
    let started = Instant::now();
    let online = async {
        loop {
            let all = device::list::list(client, &format!("{}={}", LABEL.0, LABEL.1)).await?;
            let online = all
                .iter()
                .filter(|d| d.status() == v1::DeviceStatus::Online)
                .count();
            if online >= usize::from(devices) {
                return Ok(());
            }
            if started.elapsed() > DEVICES_START {
                return Err(Failure::new(
                    Exit::TimedOut,
                    format!("online: {online} of {}", counted(devices.into(), "device")),
                    "Run it again with RUST_LOG=info to see what they do, or with fewer `--devices`.",
                ));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let result = online.await;
    bar.finish_and_clear();
    result?;
    print_note(&format!(
        "Online after {:.1} s: {}",
        started.elapsed().as_secs_f64(),
        counted(devices.into(), "device")
    ));
    Ok(())
}

async fn push_example(home: &Path, client: &Client) -> Result<v1::Bundle, Failure> {
    let folder = home.join("hello");
    example::write(&folder).map_err(|error| Failure::file("write", &folder, &error))?;
    let (bundle, _) = push::push(client, &folder, None, PackArgs::default()).await?;
    print_note(&format!(
        "Packed and pushed examples/hello as {}:{}",
        bundle.name, bundle.version
    ));
    Ok(bundle)
}

/// Leaves the fleet running, with a context to try commands, until Ctrl-C.
async fn stay_up(context: Context, fleet: &mut Fleet) -> Result<(), Failure> {
    let registration = Registration::write(context)?;
    print_note(&registration.invitation());
    let result = tokio::select! {
        failure = fleet.first_failure() => Err(failure),
        _ = asked_to_stop() => Ok(()),
    };
    print_note("Stopping.");
    // With a folder that stays, too: the next run has another port and writes a context anew.
    registration.remove()?;
    result
}
