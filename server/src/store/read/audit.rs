//! The audit: who changed what, and who was refused.

use std::collections::{BTreeSet, HashMap};

use kernex_proto::ids::TokenId;
use sea_orm::{ColumnTrait, QueryFilter, QueryOrder, QuerySelect};
use uuid::Uuid;

use crate::{
    clock::Timestamp,
    domain::named_enum,
    store::{
        db::{
            error::Result,
            page::{Page, Paged},
            sizes::padded,
            values::{clean, parse_name, unsigned},
        },
        entity::{audit, deployment, device, device_key, operator_token},
        read::scope::View,
    },
};

/// Most tokens, and most revoked keys, of one name whose entries are found by it.
const MOST_ALIKE: u64 = 1_000;

named_enum! {
    /// What came of a call.
    AuditResult {
        /// It changed something.
        Ok = "ok",
        /// The role of the caller did not allow it.
        Denied = "denied",
        /// The token of the caller does not work.
        Unauthenticated = "unauthenticated",
    }
}

/// A call that changed something or was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    pub id: Uuid,
    pub at: Timestamp,
    /// Name on the caller's token; empty when the token is not known.
    pub principal: String,
    pub token: Option<TokenId>,
    /// Where the call came from; empty for the server itself.
    pub address: String,
    pub method: String,
    /// What it was about, by id or name.
    pub subject: String,
    /// The name of what `subject` is the id of.
    pub subject_name: Option<String>,
    pub result: AuditResult,
    /// How many equal refusals it stands for.
    pub count: u64,
    /// The id the caller gave the request.
    pub request_id: Option<Uuid>,
    /// Details of the change, as a JSON object.
    pub detail_json: String,
}

/// Which entries are asked for. An empty field lets everything through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Name on the caller's token.
    pub principal: String,
    pub method: String,
    /// What it was about, by id or name; see [`View::list_audit`].
    pub subject: String,
    pub token: Option<TokenId>,
    /// Exactly as entries show it.
    pub address: String,
    pub result: Option<AuditResult>,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
}

impl View {
    /// Entries of the audit, newest first. A subject that is a name is also the device, the
    /// deployment and the operator tokens of that name, which entries have by id.
    pub async fn list_audit(&self, filter: &AuditFilter, page: Page) -> Result<Paged<AuditEntry>> {
        let mut query = self
            .rows::<audit::Entity>()
            .order_by_desc(audit::Column::Id)
            .limit(page.limit() + 1);
        for (column, wanted) in [
            (audit::Column::Principal, &filter.principal),
            (audit::Column::Method, &filter.method),
            (audit::Column::Address, &filter.address),
        ] {
            if !wanted.is_empty() {
                query = query.filter(column.eq(clean(wanted)));
            }
        }
        if !filter.subject.is_empty() {
            let subjects = padded(self.subjects(&filter.subject).await?);
            query = query.filter(audit::Column::Subject.is_in(subjects));
        }
        if let Some(token) = filter.token {
            query = query.filter(audit::Column::TokenId.eq(token.0));
        }
        if let Some(result) = filter.result {
            query = query.filter(audit::Column::Result.eq(result.as_str()));
        }
        if let Some(since) = filter.since {
            query = query.filter(audit::Column::At.gte(since.0));
        }
        if let Some(until) = filter.until {
            query = query.filter(audit::Column::At.lt(until.0));
        }
        if let Some(after) = page.after_id("audit")? {
            query = query.filter(audit::Column::Id.lt(after));
        }
        let rows = query.all(self.reader()).await?;
        let paged = Paged::from_surplus(rows, page.limit(), "audit", |row| {
            row.id.as_bytes().to_vec()
        });
        let names = self.names_of_subjects(&paged.items).await?;
        let items = paged.items.into_iter().map(|row| entry_from(row, &names));
        Ok(Paged {
            items: items.collect::<Result<_>>()?,
            next: paged.next,
        })
    }
}

impl View {
    /// The subjects that a name may stand for: itself, and the ids of devices, deployments and
    /// operator tokens that have it or had it. The name of a deleted device is known for as long as
    /// its revoked key is kept.
    async fn subjects(&self, id_or_name: &str) -> Result<Vec<String>> {
        if let Ok(id) = Uuid::try_parse(id_or_name) {
            return Ok(vec![id.to_string()]);
        }
        let name = clean(id_or_name);
        let devices = self
            .rows::<device::Entity>()
            .filter(device::Column::Name.eq(&name))
            .all(self.reader())
            .await?;
        let keys = self
            .rows::<device_key::Entity>()
            .filter(device_key::Column::DeviceName.eq(&name))
            .limit(MOST_ALIKE)
            .all(self.reader())
            .await?;
        let deployments = self
            .rows::<deployment::Entity>()
            .filter(deployment::Column::Name.eq(&name))
            .all(self.reader())
            .await?;
        let tokens = self
            .rows::<operator_token::Entity>()
            .filter(operator_token::Column::Name.eq(&name))
            .order_by_desc(operator_token::Column::Id)
            .limit(MOST_ALIKE)
            .all(self.reader())
            .await?;
        let ids = (devices.into_iter().map(|row| row.id.uuid()))
            .chain(keys.into_iter().map(|row| row.device_id.uuid()))
            .chain(deployments.into_iter().map(|row| row.id.uuid()))
            .chain(tokens.into_iter().map(|row| row.id.uuid()));
        let ids: BTreeSet<Uuid> = ids.collect();
        let ids = ids.into_iter().map(|id| id.to_string());
        Ok([name].into_iter().chain(ids).collect())
    }

    /// The names of the devices, deployments and operator tokens whose ids stand in these entries.
    async fn names_of_subjects(&self, entries: &[audit::Model]) -> Result<HashMap<Uuid, String>> {
        let ids = entries.iter().map(|row| Uuid::try_parse(&row.subject));
        let ids: BTreeSet<Uuid> = ids.filter_map(std::result::Result::ok).collect();
        let mut names = HashMap::new();
        if ids.is_empty() {
            return Ok(names);
        }
        let ids = || padded(ids.iter().copied());
        // A device that exists has the last word.
        let keys: Vec<(Uuid, Option<String>)> = self
            .rows::<device_key::Entity>()
            .select_only()
            .columns([device_key::Column::DeviceId, device_key::Column::DeviceName])
            .filter(device_key::Column::DeviceId.is_in(ids()))
            .into_tuple()
            .all(self.reader())
            .await?;
        let devices: Vec<(Uuid, String)> = self
            .rows::<device::Entity>()
            .select_only()
            .columns([device::Column::Id, device::Column::Name])
            .filter(device::Column::Id.is_in(ids()))
            .into_tuple()
            .all(self.reader())
            .await?;
        let deployments: Vec<(Uuid, String)> = self
            .rows::<deployment::Entity>()
            .select_only()
            .columns([deployment::Column::Id, deployment::Column::Name])
            .filter(deployment::Column::Id.is_in(ids()))
            .filter(deployment::Column::Name.ne(""))
            .into_tuple()
            .all(self.reader())
            .await?;
        let tokens: Vec<(Uuid, String)> = self
            .rows::<operator_token::Entity>()
            .select_only()
            .columns([operator_token::Column::Id, operator_token::Column::Name])
            .filter(operator_token::Column::Id.is_in(ids()))
            .into_tuple()
            .all(self.reader())
            .await?;
        let keys = keys.into_iter();
        names.extend(keys.filter_map(|(id, name)| Some((id, name?))));
        names.extend(devices.into_iter().chain(deployments).chain(tokens));
        Ok(names)
    }
}

fn entry_from(row: audit::Model, names: &HashMap<Uuid, String>) -> Result<AuditEntry> {
    let subject = Uuid::try_parse(&row.subject).ok();
    Ok(AuditEntry {
        subject_name: subject.and_then(|id| names.get(&id).cloned()),
        id: row.id,
        at: Timestamp(row.at),
        principal: row.principal,
        token: row.token_id.map(|id| id.0),
        address: row.address.unwrap_or_default(),
        method: row.method,
        subject: row.subject,
        result: parse_name("audit result", &row.result, AuditResult::parse)?,
        count: unsigned(row.count),
        request_id: row.request_id,
        detail_json: row.detail,
    })
}
