//! Which exit code and which next step a refusal has. This is the only such table.

use kernex_proto::error::Reason;
use tonic::Code;

use super::Exit;

const LOGIN: &str = "Use a token that works: `kernexctl context add NAME --server URL --ca FILE --token-file FILE`.";

pub(super) fn by_reason(reason: Reason) -> (Exit, &'static str) {
    match reason {
        Reason::Unauthenticated => (Exit::NotAllowed, LOGIN),
        Reason::NotAllowed => (
            Exit::NotAllowed,
            "Ask an administrator for a token with a higher role.",
        ),
        Reason::NotFound => (
            Exit::NotFoundOrConflict,
            "See what there is: each noun has a `list`, such as `kernexctl device list` or `bundle list`.",
        ),
        Reason::AlreadyExists => (
            Exit::NotFoundOrConflict,
            "Choose another name, or see what there is under this one.",
        ),
        Reason::InvalidArgument => (
            Exit::Usage,
            "Correct what is named above; `--help` shows the form.",
        ),
        Reason::NoTargets => (
            Exit::NotFoundOrConflict,
            "See which devices and labels there are with `kernexctl device list`.",
        ),
        Reason::NothingToRollBack => (
            Exit::NotFoundOrConflict,
            "See each device with `kernexctl deployment rollback ID --plan`; deploy a version you trust instead.",
        ),
        Reason::LastAdmin => (
            Exit::NotFoundOrConflict,
            "Make another one first: `kernexctl token create NAME --role admin`.",
        ),
        Reason::CursorGone => (
            Exit::NotFoundOrConflict,
            "Begin with what is kept, `--after 0`, or with what comes next, without `--after`.",
        ),
        Reason::UnsafeArchive => (
            Exit::Error,
            "Remove that entry and pack again; `kernexctl bundle pack` makes safe archives.",
        ),
        Reason::ManifestMissing => (
            Exit::Error,
            "Put a manifest.json at the top of the archive; `kernexctl bundle init` writes one.",
        ),
        Reason::ManifestInvalid => (
            Exit::Error,
            "Correct that field of manifest.json and pack again.",
        ),
        Reason::DigestMismatch => (
            Exit::Error,
            "The bytes changed on their way: push again, and check the file if it happens twice.",
        ),
        Reason::TooLarge => (
            Exit::Error,
            "Make the bundle smaller (see `.kernexignore`), or raise the server's limit.",
        ),
        Reason::NoSpace => (
            Exit::Error,
            "Free space on the server, for example with `kernexctl bundle delete`.",
        ),
        Reason::InUse => (
            Exit::NotFoundOrConflict,
            "Cancel the deployment that needs it, or deploy something else to those devices first.",
        ),
        Reason::Conflict => (
            Exit::NotFoundOrConflict,
            "Someone else changed it: read it again and repeat the change.",
        ),
        Reason::DeviceDeleted | Reason::KeyReplaced => (
            Exit::NotAllowed,
            "Enrol the machine anew: `kernex-agent enroll --new-key` with a new enrolment token.",
        ),
        Reason::CopyGivenUp => (
            Exit::NotAllowed,
            "Enrol it as a device of its own: empty its state folder and use a new enrolment token.",
        ),
        Reason::EpochNotIssued => (
            Exit::NotAllowed,
            "Decide with `kernexctl device resolve NAME`; if its agent is the true one, set its journal aside first.",
        ),
        Reason::ProtocolTooOld => (
            Exit::NotAllowed,
            "Update the agent, or start the server without `--min-protocol`.",
        ),
        Reason::ProtocolDowngraded => (
            Exit::NotAllowed,
            "If an older agent was put on the device: `kernexctl device resolve NAME --allow-downgrade`.",
        ),
        Reason::NotConflicted => (
            Exit::NotFoundOrConflict,
            "Only devices that `kernexctl device list` shows as conflicted need a decision.",
        ),
        Reason::RequestIdReused => (Exit::NotFoundOrConflict, "Run the command again."),
        Reason::WrongState => (
            Exit::NotFoundOrConflict,
            "See where it stands with `kernexctl deployment get ID`.",
        ),
        Reason::Finished => (
            Exit::NotFoundOrConflict,
            "Nothing is left to do; see `kernexctl deployment get ID`.",
        ),
        Reason::SessionReplaced | Reason::SlowConsumer => {
            (Exit::Unreachable, "Run the command again.")
        }
        Reason::TokenLimit => (
            Exit::Unreachable,
            "End a watch, wait for what is under way, or use a token of its own for each program.",
        ),
        Reason::Overloaded => (
            Exit::Unreachable,
            "The server is busy: try again in a moment.",
        ),
        Reason::Draining => (
            Exit::Unreachable,
            "The server is stopping: try again once it is back.",
        ),
        Reason::StoreUnavailable => (
            Exit::Unreachable,
            "The server's database does not answer: check it, then try again.",
        ),
        Reason::Internal => (
            Exit::Error,
            "This is a defect: the server's log has the details.",
        ),
    }
}

pub(super) fn by_code(code: Code) -> (Exit, &'static str) {
    match code {
        Code::Unauthenticated => (Exit::NotAllowed, LOGIN),
        Code::PermissionDenied => by_reason(Reason::NotAllowed),
        Code::NotFound => by_reason(Reason::NotFound),
        Code::AlreadyExists => by_reason(Reason::AlreadyExists),
        Code::FailedPrecondition => by_reason(Reason::InUse),
        Code::Aborted => by_reason(Reason::Conflict),
        Code::InvalidArgument | Code::OutOfRange => by_reason(Reason::InvalidArgument),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => (
            Exit::Unreachable,
            "Check that the server runs and the network between; repeating the command is safe.",
        ),
        Code::ResourceExhausted => by_reason(Reason::Overloaded),
        Code::Unimplemented => (
            Exit::Error,
            "The server does not know this call: check the address and the versions of both programs.",
        ),
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => by_reason(Reason::Internal),
    }
}
