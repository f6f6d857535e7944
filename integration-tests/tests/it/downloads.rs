//! Bundles that are read back, by operators and by agents.

use kernex_integration_tests::{
    Database, ServerOptions, TestServer, both_databases,
    bundle::noisy,
    operator::Operator,
    wait::{next_message, seen},
    wait_for,
};
use kernex_proto::v1::{FetchBundleRequest, GetBundleRequest};
use tonic::{Code, Status};

async fn fetch(operator: &Operator, bundle: &str, offset: u64) -> Result<Vec<u8>, Status> {
    let request = FetchBundleRequest {
        bundle: bundle.to_owned(),
        offset,
    };
    let mut pieces = operator.bundles().fetch_bundle(request).await?.into_inner();
    let mut bytes = Vec::new();
    while let Some(piece) = next_message(&mut pieces).await? {
        bytes.extend(piece.chunk);
    }
    Ok(bytes)
}

both_databases![
    a_bundle_comes_back_byte_for_byte,
    an_agent_downloads_byte_for_byte_and_resumes_at_any_offset,
    a_download_that_is_given_up_leaves_no_file_open,
    sixty_four_readers_at_once_need_little_memory,
];

async fn a_bundle_comes_back_byte_for_byte(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let archive = noisy("app", "1.0", 3, "true").await;
    let bundle = operator.push(&archive).await;
    assert_eq!(
        (bundle.name.as_str(), bundle.version.as_str()),
        ("app", "1.0")
    );
    assert_eq!(
        bundle.digest,
        kernex_proto::ids::Digest::of(&archive).to_string()
    );
    assert_eq!(bundle.size_bytes, archive.len() as u64);
    assert_eq!(operator.bundle_names().await, ["app:1.0"]);
    for key in ["app:1.0", &bundle.digest] {
        let request = GetBundleRequest {
            bundle: key.to_owned(),
        };
        let found = operator
            .bundles()
            .get_bundle(request)
            .await
            .unwrap()
            .into_inner()
            .bundle;
        assert_eq!(found.as_ref(), Some(&bundle));
        assert_eq!(fetch(&operator, key, 0).await.unwrap(), archive);
    }
    let offset = 1_000_001;
    assert_eq!(
        fetch(&operator, "app:1.0", offset).await.unwrap(),
        archive[1_000_001..]
    );
    let beyond = fetch(&operator, "app:1.0", archive.len() as u64 + 1)
        .await
        .unwrap_err();
    assert!(
        matches!(beyond.code(), Code::InvalidArgument | Code::OutOfRange),
        "{beyond}"
    );
    let unknown = fetch(&operator, "app:2.0", 0).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

async fn an_agent_downloads_byte_for_byte_and_resumes_at_any_offset(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut device = server.raw_device("edge-1").await;
    let mut session = device.connect(&server).await;
    let archive = noisy("app", "1.0", 2, "true").await;
    let bundle = operator.push(&archive).await;
    operator.deploy(&bundle, &["edge-1"]).await;
    let (_, deploy) = session.deploy_command().await;
    assert_eq!(session.download(&deploy.digest, 0).await.unwrap(), archive);
    assert_eq!(
        session.download(&deploy.digest, 777_777).await.unwrap(),
        archive[777_777..]
    );
    let rest = session
        .download(&deploy.digest, archive.len() as u64)
        .await
        .unwrap();
    assert!(rest.is_empty(), "nothing is left at the end");
}

async fn a_download_that_is_given_up_leaves_no_file_open(database: Database) {
    let server = TestServer::start(database).await;
    let operator = server.operator();
    let mut device = server.raw_device("edge-1").await;
    let mut session = device.connect(&server).await;
    // More than windows and buffers hold, so that the server has to wait for its readers.
    let bundle = operator.push(&noisy("app", "1.0", 8, "true").await).await;
    operator.deploy(&bundle, &["edge-1"]).await;
    let (_, deploy) = session.deploy_command().await;
    let open = || {
        let files = server.process().open_below(&server.data().join("bundles"));
        async move { files.len() }
    };
    let mut download = session.begin_download(&deploy.digest).await.unwrap();
    let request = FetchBundleRequest {
        bundle: "app:1.0".into(),
        offset: 0,
    };
    let mut fetch = operator
        .bundles()
        .fetch_bundle(request)
        .await
        .unwrap()
        .into_inner();
    assert!(next_message(&mut download).await.unwrap().is_some());
    assert!(next_message(&mut fetch).await.unwrap().is_some());
    assert_eq!(open().await, 2, "both are held back by who reads them");
    drop((download, fetch));
    wait_for("the server to close both files", || async {
        let files = open().await;
        seen(files == 0, files)
    })
    .await;
    let whole = session.download(&deploy.digest, 0).await.unwrap();
    assert_eq!(whole.len() as u64, bundle.size_bytes);
}

async fn sixty_four_readers_at_once_need_little_memory(database: Database) {
    const READERS: u64 = 64;
    let options = ServerOptions::default().env("KERNEX_MAX_STREAMS_PER_TOKEN", READERS.to_string());
    let server = TestServer::start_with(database, options).await;
    let operator = server.operator();
    let archive = noisy("app", "1.0", 4, "true").await;
    operator.push(&archive).await;
    let before = server.process().peak_memory();
    let mut readers = tokio::task::JoinSet::new();
    let token = server.admin_token();
    for _ in 0..READERS {
        // A connection for each, as devices have.
        let operator = Operator::new(server.channel().await, &token);
        readers.spawn(async move { fetch(&operator, "app:1.0", 0).await });
    }
    while let Some(read) = readers.join_next().await {
        assert!(read.unwrap().unwrap() == archive, "other bytes came");
    }
    let grown = server.process().peak_memory() - before;
    // For each: two pieces in hand, what HTTP/2 holds back, and a record of TLS; not its
    // bundle.
    assert!(grown < READERS << 20, "the server grew by {grown} bytes");
}
