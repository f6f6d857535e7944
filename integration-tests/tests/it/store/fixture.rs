//! A store with a database of its own, and helpers to fill it.

mod samples;

use std::time::Duration;

use kernex_integration_tests::Database;
use kernex_proto::{
    ids::{AttemptId, DeploymentId, DeviceId, Digest, JournalId, TokenId},
    v1,
};
use kernex_server::{
    clock::{Clock, Timestamp},
    domain::{attempt::State, device::away::AwayReason, selector::Selector},
    store::{
        BundleRow, CreatedDeployment, DueKind, HeldAttempt, IncomingReport, NewBundle,
        NewDeployment, NewEnrollmentToken, OpenSession, OpenedSession, OperatorStore, Page,
        ReplicaId, ReportEvent, Scope, SessionChange, SessionChanged, Store, StoreError, Target,
        TargetFilter, Terms, View,
    },
};
use sea_orm_migration::sea_orm::{
    self, ConnectionTrait as _, QueryResult,
    sea_query::{Expr, ExprTrait as _, Query},
};
use tempfile::TempDir;
use uuid::Uuid;

pub(super) use samples::{
    caller, cancelled, enrolment, failed, inventory, repeated, reused, succeeded, token,
};

pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// An epoch later than every revocation.
pub(super) const LATEST: u64 = i64::MAX as u64;
pub(super) const MINUTE: Duration = Duration::from_secs(60);

pub(super) struct Fixture {
    pub(super) store: Store,
    /// What operators change.
    pub(super) operators: OperatorStore,
    /// What operators ask.
    pub(super) view: View,
    pub(super) clock: Clock,
    pub(super) replica: ReplicaId,
    pub(super) url: String,
    _folder: TempDir,
}

#[derive(Debug, Clone)]
pub(super) struct Device {
    pub(super) id: DeviceId,
    pub(super) name: String,
    pub(super) key: Digest,
    pub(super) journal: JournalId,
}

impl Fixture {
    pub(super) async fn new(database: Database) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = database
            .fresh_url(folder.path())
            .await
            .unwrap_or_else(|| format!("sqlite://{}/kernex.db", folder.path().display()));
        let clock = Clock::system();
        let store = Store::open(&url, clock.clone()).await.unwrap();
        store.migrate().await.unwrap();
        let replica = ReplicaId::generate();
        store.renew_lease(replica, HOUR * 24 * 365).await.unwrap();
        let operators = store.for_operators();
        Self {
            view: operators.view(Scope::Everything),
            operators,
            store,
            clock,
            replica,
            url,
            _folder: folder,
        }
    }

    pub(super) async fn device(&self, name: &str) -> Device {
        let token = self.token(token(1)).await;
        self.enrol(token, name).await
    }

    pub(super) async fn token(&self, new: NewEnrollmentToken) -> TokenId {
        let id = new.id;
        self.operators
            .create_enrollment_token(&caller("CreateEnrollmentToken"), new)
            .await
            .unwrap();
        id
    }

    pub(super) async fn enrol(&self, token: TokenId, name: &str) -> Device {
        let key = format!("key of {name} {}", Uuid::now_v7());
        let enrolled = self
            .store
            .enroll(enrolment(token, name, key.as_bytes()))
            .await
            .unwrap();
        Device {
            id: enrolled.device,
            name: enrolled.name,
            key: Digest::of(key.as_bytes()),
            journal: JournalId::generate(),
        }
    }

    pub(super) fn opening(
        &self,
        device: &Device,
        last_epoch: u64,
        held: &[(AttemptId, State)],
    ) -> OpenSession {
        OpenSession {
            device: device.id,
            key: device.key,
            journal: device.journal,
            last_epoch,
            protocol_revision: kernex_proto::PROTOCOL_REVISION,
            boot_id: "boot".into(),
            agent_version: "1.0".into(),
            inventory: inventory(),
            held: held
                .iter()
                .map(|(attempt, state)| HeldAttempt {
                    attempt: *attempt,
                    state: *state,
                })
                .collect(),
            acknowledged_seq: None,
            token_hash: Digest::of(device.name.as_bytes()),
            replica: self.replica,
        }
    }

    /// Opens and confirms a session.
    pub(super) async fn session(
        &self,
        device: &Device,
        last_epoch: u64,
        held: &[(AttemptId, State)],
    ) -> OpenedSession {
        let opening = self.opening(device, last_epoch, held);
        let opened = self.open(opening).await.unwrap();
        self.confirm(device.id, opened.epoch).await.unwrap();
        opened
    }

    pub(super) async fn open(&self, opening: OpenSession) -> Result<OpenedSession, StoreError> {
        match self.change(SessionChange::Open(Box::new(opening))).await? {
            SessionChanged::Opened(opened) => Ok(opened),
            SessionChanged::Done => panic!("a session that opens has a number"),
        }
    }

    pub(super) async fn confirm(&self, device: DeviceId, epoch: u64) -> Result<(), StoreError> {
        self.change(SessionChange::Confirm(device, epoch))
            .await
            .map(drop)
    }

    pub(super) async fn close(&self, device: DeviceId, epoch: u64) -> Result<(), StoreError> {
        self.change(SessionChange::Close(
            device,
            epoch,
            AwayReason::Closed.into(),
        ))
        .await
        .map(drop)
    }

    async fn change(&self, change: SessionChange) -> Result<SessionChanged, StoreError> {
        self.store.change_sessions(&[change]).await?.remove(0)
    }

    pub(super) async fn bundle(&self, name: &str, version: &str) -> BundleRow {
        let new = NewBundle {
            name: name.into(),
            version: version.into(),
            digest: Digest::of(version.as_bytes()),
            size: 42,
            format: v1::BundleFormat::TarGz,
            manifest_json: "{}".into(),
            unpacked_bytes: 1000,
            entries: 3,
            signatures: vec![v1::BundleSignature {
                key_id: "release".into(),
                algorithm: "rsa-pss-sha256".into(),
                signature: vec![1, 2, 3].into(),
            }],
        };
        self.operators
            .insert_bundle(&caller("UploadBundle"), new)
            .await
            .unwrap()
            .0
    }

    pub(super) fn order(bundle: &str, devices: &[&Device]) -> NewDeployment {
        NewDeployment {
            bundle: bundle.into(),
            device_ids: devices.iter().map(|device| device.id).collect(),
            device_names: Vec::new(),
            selector: None,
            delivery: HOUR,
            execution: MINUTE,
            traceparent: "00-trace".into(),
            rollout: None,
            terms: Terms::default(),
            message: String::new(),
        }
    }

    pub(super) async fn deploy(&self, bundle: &str, devices: &[&Device]) -> CreatedDeployment {
        let order = Self::order(bundle, devices);
        self.operators
            .create_deployment(&caller("CreateDeployment"), order)
            .await
            .unwrap()
    }

    pub(super) async fn deploy_to(&self, bundle: &str, selector: &str) -> CreatedDeployment {
        let order = NewDeployment {
            selector: Some(Selector::parse(selector).unwrap()),
            ..Self::order(bundle, &[])
        };
        self.operators
            .create_deployment(&caller("CreateDeployment"), order)
            .await
            .unwrap()
    }

    pub(super) async fn targets(&self, deployment: DeploymentId) -> Vec<Target> {
        self.view
            .list_targets(deployment, &TargetFilter::default(), Page::first(1000))
            .await
            .unwrap()
            .items
    }

    /// The target of a device, with its attempt's id.
    pub(super) async fn target(
        &self,
        deployment: &CreatedDeployment,
        device: &Device,
    ) -> (AttemptId, Target) {
        let targets = self
            .view
            .changed_targets(deployment.deployment.id, Timestamp(0))
            .await
            .unwrap();
        let target = targets
            .into_iter()
            .find(|target| target.device == device.id)
            .unwrap();
        let attempt = AttemptId {
            target: target.id,
            number: target.attempt,
        };
        (attempt, target)
    }

    pub(super) async fn state(&self, deployment: &CreatedDeployment, device: &Device) -> State {
        self.target(deployment, device).await.1.state
    }

    /// The commands that are due, as "deploy name:version" or "stop", with their attempts.
    pub(super) async fn due(&self, device: &Device, epoch: u64) -> Vec<(String, AttemptId)> {
        let due = self
            .store
            .due_commands(&[(device.id, epoch)])
            .await
            .unwrap();
        due.into_iter()
            .map(|command| {
                let what = match command.kind {
                    DueKind::Deploy(deploy) => format!("deploy {}:{}", deploy.name, deploy.version),
                    DueKind::Stop(stop) if stop.going_back => "stop going back".to_owned(),
                    DueKind::Stop(_) => "stop".to_owned(),
                };
                (what, command.attempt)
            })
            .collect()
    }

    pub(super) async fn report(
        &self,
        device: &Device,
        attempt: AttemptId,
        event: ReportEvent,
    ) -> v1::Disposition {
        let answer = self.report_in(device, LATEST, attempt, event).await;
        answer.expect("no key of the device is revoked")
    }

    /// Reports in the session with this epoch; `None` when its key is revoked.
    pub(super) async fn report_in(
        &self,
        device: &Device,
        epoch: u64,
        attempt: AttemptId,
        event: ReportEvent,
    ) -> Option<v1::Disposition> {
        let report = IncomingReport {
            device: device.id,
            epoch,
            attempt,
            event,
            place: None,
        };
        self.store.apply_reports(&[report]).await.unwrap()[0]
    }

    /// Reports of unknown attempts of this device: the bundle name and the size of each.
    pub(super) async fn unknown_reports(&self, device: &Device) -> Vec<(Option<String>, usize)> {
        let query = Query::select()
            .columns(["bundle_name", "report"])
            .from("unknown_reports")
            .and_where(Expr::col("device_id").eq(device.id.0))
            .to_owned();
        let db = sea_orm::Database::connect(&self.url).await.unwrap();
        let rows = db.query_all(&query).await.unwrap();
        let row = |row: &QueryResult| {
            let report: Vec<u8> = row.try_get("", "report").unwrap();
            (row.try_get("", "bundle_name").unwrap(), report.len())
        };
        rows.iter().map(row).collect()
    }

    /// Leaves journals as they were before they had a resume mark.
    pub(super) async fn forget_marks(&self) {
        let forget = Query::update()
            .table("journals")
            .value("recorded_seq", None::<i64>)
            .to_owned();
        let db = sea_orm::Database::connect(&self.url).await.unwrap();
        db.execute(&forget).await.unwrap();
        db.close().await.unwrap();
    }

    pub(super) async fn kinds_of_events(&self) -> Vec<String> {
        let events = self.view.events_after(0, 10_000).await.unwrap();
        events.into_iter().map(|event| event.kind).collect()
    }
}
