//! `doctor`: what lies between this machine and the control plane, and what is wrong there.

use std::time::Duration;

use kernex_proto::{
    connect::{
        doctor::{CheckResult, CheckStep, examine},
        proxy::Proxies,
    },
    v1,
};

use super::Session;
use crate::{
    args::OutputArg,
    client::{Client, trusted},
    context::{Context, process_env},
    error::{Exit, Failure},
    output::{Printer, Time, counted, doctor::CheckView, emit, print_note, whoami::skew},
};

/// How long each step may take.
const LIMIT: Duration = Duration::from_secs(5);
/// Clocks that differ by more than this are worth a word, in seconds.
const NOTABLE_SKEW: u64 = 60;

pub(crate) async fn run(session: &Session, output: OutputArg) -> Result<(), Failure> {
    let context = session.context()?;
    let checks = Box::pin(check(&context, session.proxy())).await;
    let failed = checks.iter().filter(|check| !check.is_good()).count();
    let printer = Printer::new(output.output);
    if printer.for_people() && !printer.wide() {
        let text: String = checks.iter().map(CheckView::text).collect();
        emit(&text)?;
    } else {
        printer.list(&checks)?;
    }
    if failed == 0 {
        print_note("All is well.");
        return Ok(());
    }
    Err(Failure::new(
        Exit::Error,
        format!(
            "{failed} of {} failed",
            counted(checks.len() as u64, "check")
        ),
        "Begin with the first one.",
    ))
}

/// Every check up to the first one that makes the others pointless.
pub(crate) async fn check(context: &Context, proxy: Option<&str>) -> Vec<CheckView> {
    let now = Time::now().unix();
    let server = &context.server;
    let trust = match context.ca.as_deref() {
        Some(ca) if server.starts_with("https://") => match trusted(ca) {
            Ok(trust) => Some(trust),
            Err(failure) => {
                return vec![CheckView::bad("certificate", failure.message, failure.next)];
            }
        },
        _ => None,
    };
    let proxies = match Proxies::new(proxy, process_env) {
        Ok(proxies) => proxies,
        Err(error) => {
            let next = "Correct `--proxy`, KERNEX_PROXY or `https_proxy`.";
            return vec![CheckView::bad("proxy", error.to_string(), next)];
        }
    };
    let found = Box::pin(examine(server, trust, &proxies, now, LIMIT));
    let found = found.await;
    let is_reached = found
        .iter()
        .all(|finding| finding.is_good() || finding.step == CheckStep::Clock);
    let mut checks: Vec<CheckView> = found.into_iter().map(CheckView::from).collect();
    if is_reached {
        checks.extend(Box::pin(ask(context, proxy)).await);
    }
    checks
}

/// What only the server knows: whether the token works, its version and its clock.
async fn ask(context: &Context, proxy: Option<&str>) -> Vec<CheckView> {
    let client = match Client::connect_by(context, proxy).await {
        Ok(client) => client,
        Err(failure) => return vec![CheckView::bad("connection", failure.message, failure.next)],
    };
    let answer = client.access().who_am_i(v1::WhoAmIRequest {}).await;
    let who = match answer {
        Ok(answer) => answer.into_inner(),
        Err(status) => {
            let failure = Failure::from(status);
            return vec![CheckView::bad("token", failure.message, failure.next)];
        }
    };
    let mut checks = vec![CheckView::good(
        "token",
        format!("the server takes you for {}", who.name),
    )];
    let ours = env!("CARGO_PKG_VERSION");
    checks.push(match skew(ours, &who.server_version) {
        None => CheckView::good("version", format!("both programs are {ours}")),
        Some(skew) => CheckView::bad(
            "version",
            format!("this program is {ours}, the server {}", who.server_version),
            skew,
        ),
    });
    let summary = v1::GetFleetSummaryRequest { limit: 1 };
    if let Ok(answer) = client.fleet().get_fleet_summary(summary).await
        && let Some(theirs) = Time::from_wire(answer.into_inner().at)
    {
        checks.push(clocks(Time::now().unix(), theirs.unix()));
    }
    checks
}

fn clocks(ours: i64, theirs: i64) -> CheckView {
    let apart = ours.abs_diff(theirs);
    if apart < NOTABLE_SKEW {
        return CheckView::good("server clock", "both clocks agree".to_owned());
    }
    let which = if ours < theirs { "behind" } else { "ahead of" };
    CheckView::bad(
        "server clock",
        format!(
            "the clock of this machine is {} {which} the server's",
            crate::text::seconds(apart)
        ),
        "Set both by NTP.".to_owned(),
    )
}

impl From<CheckResult> for CheckView {
    fn from(finding: CheckResult) -> Self {
        match finding.next {
            None => Self::good(finding.step.as_str(), finding.text),
            Some(next) => Self::bad(finding.step.as_str(), finding.text, next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_differ_are_told_with_the_direction() {
        assert!(clocks(1_000, 1_059).is_good());
        let behind = clocks(1_000, 1_000 + 3 * 3600);
        assert!(!behind.is_good());
        assert!(
            format!("{behind:?}").contains("3h behind the server's"),
            "{behind:?}"
        );
        assert!(format!("{:?}", clocks(9_000, 1_000)).contains("ahead of"));
    }
}
