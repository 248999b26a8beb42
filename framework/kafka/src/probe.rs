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
    error::KafkaError,
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

const HUNG_UP: &str = "perhaps the listener has another protocol (security.protocol)";

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
    match ask(&asking) {
        Ok(()) => Ok(asking),
        Err(Unanswered::Late(cause)) => Err(LogError::new(
            LogErrorKind::Unreachable,
            format!("no answer from Kafka within {} s: {cause}", PATIENCE.as_secs()),
        )),
        Err(Unanswered::Refused(met)) => Err(refusal(options, &met)),
    }
}

/// Asks for the cluster's metadata on a thread of its own, since the client does not give up before its time.
fn question(
    asking: &Arc<BaseConsumer<Context>>,
    patience: Duration,
) -> Result<mpsc::Receiver<Result<(), KafkaError>>, LogError> {
    let (tell, answer) = mpsc::channel();
    let client = Arc::clone(asking);
    let asks = move || {
        // Nobody listens any more where a refusal came first.
        let _ = tell.send(client.fetch_metadata(None, patience).map(drop));
    };
    let spawned = thread::Builder::new().name("kafka-probe".to_owned()).spawn(asks);
    spawned.map(|_| answer).map_err(|error| {
        LogError::with_source(LogErrorKind::Unreachable, "cannot start the thread kafka-probe", error)
    })
}

/// Waits for an answer, or a refusal that trying again does not mend.
fn ask(asking: &Arc<BaseConsumer<Context>>) -> Result<(), Unanswered> {
    let answer = question(asking, PATIENCE).map_err(|error| Unanswered::Late(error.to_string()))?;
    let context = asking.client().context();
    let mut refused: Option<(Met, Instant)> = None;
    loop {
        match answer.recv_timeout(BEAT) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(failed)) => {
                return Err(match context.last() {
                    Some(met) if is_refusal(&met) => Unanswered::Refused(met),
                    // All that is said where the broker hung up.
                    Some(met) if met.code == Code::AllBrokersDown || met.reason.contains("Disconnected") => {
                        Unanswered::Late(format!("{}; {HUNG_UP}", met.reason))
                    }
                    Some(met) => Unanswered::Late(met.reason),
                    None => Unanswered::Late(format!("{failed}; {HUNG_UP}")),
                });
            }
            Err(_) => {}
        }
        match &refused {
            Some((met, since)) if since.elapsed() > OTHERS => return Err(Unanswered::Refused(met.clone())),
            Some(_) => {}
            None => refused = context.last().filter(is_refusal).map(|met| (met, Instant::now())),
        }
    }
}

/// Whether who was asked does not want us, or is not wanted, however often it is tried.
fn is_refusal(met: &Met) -> bool {
    matches!(met.code, Code::Authentication | Code::SSL) || is_alert(&met.reason) || is_foreign(&met.reason)
}

/// Whether what answered spoke something else: its first bytes, taken for a length, are no answer's.
fn is_foreign(reason: &str) -> bool {
    reason.contains("Invalid response size")
}

/// Whether the broker did not take our certificate: with TLS 1.3 that shows after the handshake.
fn is_alert(reason: &str) -> bool {
    reason.contains(" alert ")
}

fn refusal(options: &KafkaOptions, met: &Met) -> LogError {
    let reason = &met.reason;
    let (kind, what) = if met.code == Code::Authentication {
        (LogErrorKind::Unauthenticated, "Kafka refused the user or the password")
    } else if is_foreign(reason) {
        (
            LogErrorKind::Unreachable,
            "what answers there is no Kafka, or its listener has another security.protocol",
        )
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
    // The answer does not matter: a listener that wants a user or a certificate gives none.
    if serve("kafka-diagnosis", &asking).is_err() || question(&asking, DIAGNOSIS).is_err() {
        return false;
    }
    let (context, started) = (asking.client().context(), Instant::now());
    while started.elapsed() < DIAGNOSIS {
        if context.has_verified() {
            return true;
        }
        if context.last().is_some_and(|met| met.reason.contains(UNVERIFIED)) {
            return false;
        }
        thread::sleep(BEAT);
    }
    false
}
