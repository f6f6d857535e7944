//! Clients that do not read. HTTP/2 lets a client grant a window of 0 bytes. That may stop its own
//! stream and nothing else, on *every* streaming RPC: they are found in the descriptors, so that a
//! new one cannot be forgotten.

mod world;

use std::{fs, time::Duration};

use kernex_integration_tests::{
    BundleBuilder, Database, Operator, both_databases,
    fleet::{Windows, WireError},
    raw_agent::WireSession,
    refusal::reason,
    wait::seen,
    wait_for,
};
use kernex_proto::{
    error::Reason,
    v1::{
        AwayReason, CreateDeploymentRequest, Device, DeviceStatus, PlanDeploymentRequest,
        UploadBegin, WatchEventsRequest,
    },
};
use tonic::Code;
use world::{Attack, World, streaming};

/// No room for a single byte of any stream.
const SHUT: Windows = Windows {
    stream: 0,
    ..Windows::QUIET
};

/// Streams of each RPC.
const MANY: usize = 64;

both_databases![
    a_client_that_reads_nothing_of_any_stream_delays_nobody_else,
    a_client_that_reads_nothing_is_cut_off_and_its_streams_are_freed,
    a_client_that_reads_nothing_loses_its_streams_when_its_token_expires,
    a_session_that_reads_nothing_ends_and_costs_only_itself,
    one_token_cannot_take_every_upload,
    one_token_cannot_have_every_device_asked,
    a_slow_download_is_not_cut_off,
];

async fn a_client_that_reads_nothing_of_any_stream_delays_nobody_else(database: Database) {
    // No limit on streams or on their time: the test must not rest on limits.
    let world = World::start(
        database,
        &[
            ("KERNEX_MAX_STREAMS_PER_TOKEN", "10000"),
            ("KERNEX_STALL_LIMIT", "1h"),
        ],
    )
    .await;
    let shut = world.connector(SHUT);
    let mut attacks = tokio::task::JoinSet::new();
    for (number, path) in streaming().into_iter().enumerate() {
        let call = world.call(path, &world.admin);
        let attack = Attack::open(&shut, number, &world.admin, &call, MANY).await;
        attacks.spawn(attack.closed());
    }
    let watches = 3.0 * MANY as f64;
    wait_for("the watches to be held", || async {
        let held = world.figure("kernex_watchers").await;
        seen(held == watches, held)
    })
    .await;
    for round in 0..3 {
        world.answers(round).await;
    }
    assert_eq!(
        world.figure("kernex_watchers").await,
        watches,
        "they are still held"
    );
    attacks.abort_all();
    wait_for("everything to be given back", || async {
        let held = world.figure("kernex_watchers").await;
        seen(held == 0.0, held)
    })
    .await;
}

async fn a_client_that_reads_nothing_is_cut_off_and_its_streams_are_freed(database: Database) {
    let world = World::start(
        database,
        &[
            ("KERNEX_MAX_STREAMS_PER_TOKEN", "8"),
            ("KERNEX_STALL_LIMIT", "1s"),
        ],
    )
    .await;
    let shut = world.connector(SHUT);
    for (number, path) in streaming().into_iter().enumerate() {
        let token = world.token(format!("slow-{number}")).await;
        let call = world.call(path, &token);
        // One call more than the token has places for this RPC; that one is refused.
        let attack = Attack::open(&shut, number, &world.admin, &call, 9).await;
        let closed = tokio::time::timeout(Duration::from_secs(90), attack.closed()).await;
        assert!(closed.is_ok(), "{path}: the connection is still open");
        let slow = world.operator.with_token(&token);
        wait_for(&format!("the places of {path} to come back"), || async {
            let mut watches = Vec::new();
            for _ in 0..8 {
                let watch = slow
                    .events()
                    .watch_events(WatchEventsRequest::default())
                    .await;
                watches.push(watch.map_err(|status| status.to_string())?);
            }
            Ok::<_, String>(())
        })
        .await;
    }
    let (ended, cut) = (
        world
            .figure("kernex_slow_readers_total{result=\"ended\"}")
            .await,
        world
            .figure("kernex_slow_readers_total{result=\"disconnected\"}")
            .await,
    );
    assert!(ended >= 8.0 && cut >= 8.0, "{ended} {cut}");
    assert!(world.figure("kernex_token_limit_total").await >= 8.0);
    let log = fs::read_to_string(world.server.scratch().join("server.log")).expect("a log");
    assert!(
        log.contains("a connection is closed: an answer on it is not read"),
        "{log}"
    );
    // Eight at a time are allowed, the ninth is not.
    let mut watches = Vec::new();
    for _ in 0..8 {
        let watch = world
            .operator
            .events()
            .watch_events(WatchEventsRequest::default())
            .await;
        watches.push(watch.expect("a place is there"));
    }
    let ninth = world
        .operator
        .events()
        .watch_events(WatchEventsRequest::default())
        .await;
    let refused = ninth.expect_err("there are eight");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(
        refused.message().contains("8 streams")
            && refused.message().contains("--max-streams-per-token"),
        "{refused}"
    );
    drop(watches.pop());
    wait_for("the place to come back", || async {
        let again = world
            .operator
            .events()
            .watch_events(WatchEventsRequest::default())
            .await;
        again.map_err(|status| status.to_string())
    })
    .await;
    world.answers(0).await;
}

async fn a_client_that_reads_nothing_loses_its_streams_when_its_token_expires(database: Database) {
    const WATCH: &str = "/kernex.v1.EventService/WatchEvents";
    // Nobody else ends them.
    let world = World::start(database, &[("KERNEX_STALL_LIMIT", "1h")]).await;
    let token = world.token_for("brief".into(), 20).await;
    let call = world.call(WATCH, &token);
    let attack = Attack::open(&world.connector(SHUT), 0, &world.admin, &call, 8).await;
    let mut held = tokio::task::JoinSet::new();
    held.spawn(attack.closed());
    let watchers = async |most: f64| {
        let held = world.figure("kernex_watchers").await;
        seen(held == most, held)
    };
    wait_for("the watches to be held", || watchers(8.0)).await;
    wait_for("the watches to end with the token", || watchers(0.0)).await;
    assert!(
        held.try_join_next().is_none(),
        "the connection is still open"
    );
}

async fn a_session_that_reads_nothing_ends_and_costs_only_itself(database: Database) {
    let settings = [
        ("KERNEX_STALL_LIMIT", "1s"),
        ("KERNEX_HEARTBEAT_INTERVAL", "500ms"),
    ];
    let world = World::start(database, &settings).await;
    let before = world.server.process().memory_kib();
    let connector = world.connector(Windows::QUIET);
    let mut shut = tokio::task::JoinSet::new();
    // One goes on with heartbeats, whose answers fill the queue of its session. Then the end of the
    // session cannot reach it, and its connection is closed. The other one says nothing. The end of
    // its session needs no window, so it is told.
    for (number, talks) in [(1, true), (2, false)] {
        let name = format!("shut-{number}");
        let device = world.server.raw_device(&name).await;
        let mut wire = connector.connect(number).await.expect("it connects");
        let (calls, binding) = (wire.calls.clone(), wire.binding);
        let opening = async {
            let mut session = WireSession::open(&calls, &binding, &device).await?;
            session.heartbeat(1).await?;
            Ok(session)
        };
        let mut session = wire.during(opening).await.expect("the session opens");
        wire.shut().expect("it is open");
        shut.spawn(async move {
            let living = async {
                if !talks {
                    return session.next_where(|_| None::<()>).await;
                }
                for seq in 2.. {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    session.beat(seq)?;
                }
                Ok(())
            };
            let ended = wire.during(living).await;
            assert!(ended.is_err(), "{name}: {ended:?}");
            if talks {
                let _ = wire.drive().await;
            }
        });
    }
    world.answers(0).await;
    let ended = tokio::time::timeout(Duration::from_secs(90), async {
        while let Some(ended) = shut.join_next().await {
            ended.expect("it ends");
        }
    });
    assert!(ended.await.is_ok(), "one of them goes on");
    for (name, why) in [
        ("shut-1", AwayReason::SlowConsumer),
        ("shut-2", AwayReason::Silent),
    ] {
        let is_away = |device: &Device| device.status() != DeviceStatus::Online;
        let device = world.operator.device_where(name, "to be away", is_away);
        let device = device.await;
        assert_eq!(device.away_reason(), why, "{name}: {device:?}");
    }
    let grown = world.server.process().memory_kib().saturating_sub(before);
    assert!(grown < 32 * 1024, "the server has grown by {grown} KiB");
    world.answers(1).await;
}

async fn one_token_cannot_take_every_upload(database: Database) {
    let world = World::start(database, &[]).await;
    let staging = world.server.data().join("bundles/tmp");
    let mut idle = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let operator = world.operator.clone();
        idle.spawn(async move {
            operator
                .try_push_stream(UploadBegin::default(), tokio_stream::pending())
                .await
        });
    }
    wait_for("four uploads to begin", || async {
        let files = fs::read_dir(&staging).map(Iterator::count).unwrap_or(0);
        seen(files == 4, files)
    })
    .await;
    let archive = BundleBuilder::script("other", "1.0", "true").gzip().await;
    let refused = world
        .operator
        .try_push(&archive)
        .await
        .expect_err("there are four");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(reason(&refused), Some(Reason::TokenLimit), "{refused}");
    let token = world.token("another".into()).await;
    let other = world.operator.with_token(&token);
    other
        .try_push(&archive)
        .await
        .expect("another token has its own places");
    idle.abort_all();
    wait_for("the places to come back", || async {
        world
            .operator
            .try_push(&archive)
            .await
            .map_err(|status| status.to_string())
    })
    .await;
}

async fn one_token_cannot_have_every_device_asked(database: Database) {
    let world = World::start(database, &[]).await;
    let ask = |operator: Operator| {
        let request = PlanDeploymentRequest {
            deployment: Some(CreateDeploymentRequest {
                bundle: world.digest.clone(),
                device_names: vec!["edge-1".into()],
                ..Default::default()
            }),
        };
        async move { operator.plans().plan_deployment(request).await }
    };
    let token = world.token("another".into()).await;
    let other = world.operator.with_token(&token);
    // The device never answers, so each plan takes as long as it may.
    let mut plans = tokio::task::JoinSet::new();
    for _ in 0..3 {
        plans.spawn(ask(world.operator.clone()));
    }
    plans.spawn(ask(other));
    let answers = plans.join_all().await;
    let mut refusals = answers.iter().filter_map(|answer| answer.as_ref().err());
    let refused = refusals.next().expect("a token has two plans at a time");
    assert_eq!(reason(refused), Some(Reason::TokenLimit), "{refused}");
    assert!(
        refused.message().contains("2 plans")
            && refused.message().contains("--max-plans-per-token"),
        "{refused}"
    );
    assert!(refusals.next().is_none(), "{answers:?}");
    let again = ask(world.operator.clone()).await;
    again.expect("the places came back");
}

async fn a_slow_download_is_not_cut_off(database: Database) {
    let world = World::start(database, &[("KERNEX_STALL_LIMIT", "4s")]).await;
    let few = Windows {
        stream: 8,
        ..Windows::QUIET
    };
    let call = world.call("/kernex.v1.AgentService/DownloadBundle", &world.admin);
    let mut wire = world.connector(few).connect(0).await.expect("it connects");
    let calls = wire.calls.clone();
    let reading = async {
        let (mut sender, mut receiver) = calls.open(call.path, &call.metadata).await?;
        call.say(&mut sender)?;
        let mut taken = 0;
        // Eight bytes at a time, for three times as long as a stream without progress may live.
        for _ in 0..60 {
            taken += receiver.skip().await?;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok::<_, WireError>(taken)
    };
    let taken = wire.during(reading).await.expect("it is not cut off");
    assert!(taken > 0 && taken < 64 * 1024, "{taken}");
    assert_eq!(
        world
            .figure("kernex_slow_readers_total{result=\"ended\"}")
            .await,
        0.0
    );
}
