//! A trace goes on from a record, through the handler's log lines, to what the handler returned.

use aqueduct_app::App;
use aqueduct_core::{Draft, EventSet, Handled, cloudevents::Incoming, trace::TraceContext};
use aqueduct_runtime::Subscription;

use crate::support::{Logs, Pinged, Ponged, Running, memory, ping, records};

const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

async fn echo(event: Pinged) -> Handled<Ponged> {
    tracing::info!("echoing");
    Ok(Ponged { key: event.key, number: event.number })
}

fn traced(trace: &str) -> Draft {
    ping("a", 1).draft().unwrap().trace(TraceContext::parse(trace).unwrap())
}

/// The `traceparent` of the echo of a ping, and the log lines.
async fn echoed(trace: &str) -> (Option<String>, Logs) {
    let (logs, _guard) = Logs::capture();
    let bus = memory(1).await;
    let app = App::builder("echo").log(&bus).subscribe(Subscription::builder("echo").on(echo));
    let running = Running::start(app.build().unwrap());
    bus.publish(traced(trace)).await.unwrap();
    running.ended(1).await;
    running.stop().await.unwrap().unwrap();
    let pong = records(bus.log(), "pongs").await.pop().unwrap();
    let envelope = Incoming::read(&pong, None).unwrap().envelope();
    (envelope.trace.map(|trace| trace.to_string()), logs)
}

/// Red when `delivery::call` does not instrument the handler, or `Draft::caused_by` drops the trace.
#[tokio::test(start_paused = true)]
async fn a_sampled_trace_is_in_the_log_lines_and_goes_on_as_a_new_span() {
    let (trace, logs) = echoed(SAMPLED).await;
    let span = &logs.line("echoing").unwrap()["span"];
    assert_eq!(
        (span["name"].as_str(), span["traceparent"].as_str(), span["subscription"].as_str()),
        (Some("handle"), Some(SAMPLED), Some("echo"))
    );
    let trace = trace.unwrap();
    assert_eq!((&trace[..36], &trace[52..]), (&SAMPLED[..36], "-01"));
    assert_ne!(trace[36..52], SAMPLED[36..52]);
    assert_ne!(&trace[36..52], "0000000000000000");
}

/// As the design has it: spans and headers only where the trace is recorded.
#[tokio::test(start_paused = true)]
async fn a_trace_that_is_not_sampled_costs_nothing() {
    let (trace, logs) = echoed(&SAMPLED.replace("-01", "-00")).await;
    assert_eq!(trace, None);
    assert!(logs.line("echoing").unwrap()["span"].is_null());
}
