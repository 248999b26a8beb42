//! The first question to a cluster, in which a wrong address, credential or certificate shows. The client goes on trying
//! and tells the cause to nobody but its context, so that is watched meanwhile.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use aqueduct_core::{LogError, LogErrorKind};
use rdkafka::{
    consumer::{BaseConsumer, Consumer},
    types::RDKafkaErrorCode as Code,
};

use crate::{
    context::{Context, Met},
    error::client,
    options::KafkaOptions,
    shared::serve,
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the other brokers have once one was refused.
const OTHERS: Duration = Duration::from_millis(500);

/// How long it may take to find out what is wrong with a certificate.
const DIAGNOSIS: Duration = Duration::from_secs(2);

/// What the client says of a certificate, whatever is wrong with it.
const UNVERIFIED: &str = "certificate verify failed";

const HUNG_UP: &str = "a listener that wants TLS or a user hangs up on who comes without (security.protocol)";

const BEAT: Duration = Duration::from_millis(10);

/// Why there was no answer.
enum Unanswered {
    Refused(Met),
    Late(String),
}

/// Makes the client that asks, and asks the cluster who it is. Waits.
pub(crate) fn connect(options: &KafkaOptions) -> Result<Arc<BaseConsumer<Context>>, LogError> {
    let made = options.asking().create_with_context(Context::default());
    let asking: Arc<BaseConsumer<Context>> =
        Arc::new(made.map_err(|error| client("cannot make a client", error))?);
    serve("kafka-asking", &asking)?;
    match ask(&asking, PATIENCE, is_refusal) {
        Ok(()) => Ok(asking),
        Err(Unanswered::Late(cause)) => Err(LogError::new(
            LogErrorKind::Unreachable,
            format!("no answer from Kafka within {} s: {cause}", PATIENCE.as_secs()),
        )),
        Err(Unanswered::Refused(met)) => Err(refusal(options, &met)),
    }
}

/// Asks for the cluster's metadata until there is an answer, or a refusal that trying again does not mend.
fn ask(
    asking: &Arc<BaseConsumer<Context>>,
    patience: Duration,
    is_refusal: fn(&Met) -> bool,
) -> Result<(), Unanswered> {
    let (tell, answer) = mpsc::channel();
    let client = Arc::clone(asking);
    let asks = move || {
        // Nobody listens any more where a refusal came first.
        let _ = tell.send(client.fetch_metadata(None, patience).map(drop));
    };
    if let Err(error) = thread::Builder::new().name("kafka-probe".to_owned()).spawn(asks) {
        return Err(Unanswered::Late(format!("cannot start a thread: {error}")));
    }
    let context = asking.client().context();
    let mut refused: Option<(Met, Instant)> = None;
    loop {
        match answer.recv_timeout(BEAT) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(failed)) => {
                return Err(match context.last() {
                    Some(met) if is_refusal(&met) => Unanswered::Refused(met),
                    // Nothing else is said of a connection that was made and closed.
                    Some(met) if met.code == Code::AllBrokersDown => {
                        Unanswered::Late(format!("{}; {HUNG_UP}", met.reason))
                    }
                    Some(met) => Unanswered::Late(met.reason),
                    None => Unanswered::Late(failed.to_string()),
                });
            }
            Err(_) => {}
        }
        match &refused {
            Some((met, since)) if since.elapsed() > OTHERS => {
                return Err(Unanswered::Refused(
                    context.last().filter(is_refusal).unwrap_or_else(|| met.clone()),
                ));
            }
            Some(_) => {}
            None => refused = context.last().filter(is_refusal).map(|met| (met, Instant::now())),
        }
    }
}

/// Whether who was asked does not want us, or is not wanted, however often it is tried.
fn is_refusal(met: &Met) -> bool {
    matches!(met.code, Code::Authentication | Code::SSL) || is_alert(&met.reason)
}

/// Whether the broker did not take our certificate: with TLS 1.3 that shows after the handshake.
fn is_alert(reason: &str) -> bool {
    reason.contains(" alert ")
}

fn refusal(options: &KafkaOptions, met: &Met) -> LogError {
    let reason = &met.reason;
    let (kind, what) = if met.code == Code::Authentication {
        (LogErrorKind::Unauthenticated, "Kafka refused the user or the password")
    } else if is_alert(reason) {
        (LogErrorKind::Unauthenticated, "Kafka did not take this client's certificate, or wants one")
    } else if !reason.contains(UNVERIFIED) {
        (LogErrorKind::Configuration, "no encrypted connection to Kafka could be made")
    } else if is_of_another_host(options) {
        (LogErrorKind::WrongHost, "the certificate that was shown is another host's")
    } else {
        let what =
            "the certificate that was shown is signed by nobody in ssl.ca.location, or is not valid now";
        (LogErrorKind::UnknownAuthority, what)
    };
    LogError::new(kind, format!("{what}: {reason}"))
}

/// Whether the certificate is accepted once the host's name is not compared. The client says the same of both faults; this
/// one sends no credentials, and nothing else than the question.
fn is_of_another_host(options: &KafkaOptions) -> bool {
    let made = options.nameless().create_with_context(Context::default());
    let Ok(asking) = made.map(Arc::<BaseConsumer<Context>>::new) else { return false };
    if serve("kafka-diagnosis", &asking).is_err() {
        return false;
    }
    match ask(&asking, DIAGNOSIS, |_| true) {
        Ok(()) => true,
        // A listener that wants a user or a certificate hangs up: after the handshake.
        Err(Unanswered::Refused(met)) => {
            !met.reason.contains(UNVERIFIED) && !met.reason.contains("Connect to ")
        }
        Err(Unanswered::Late(_)) => false,
    }
}
