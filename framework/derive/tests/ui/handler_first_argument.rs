use aqueduct_core::{
    Handled, IntoEvents, State,
    handler::{Args, Handler, route},
};
use aqueduct_derive::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "a.A", topic = "a", crate = aqueduct_core)]
struct Happened {}

#[derive(Clone)]
struct Shop;

async fn on_text(_: String) -> Handled {
    Ok(())
}

async fn on_state_first(_: State<Shop>, _: Happened) -> Handled {
    Ok(())
}

async fn on_nothing() -> Handled {
    Ok(())
}

/// As a subscription takes handlers.
fn on<S: Send + Sync + 'static, H: Handler<T>, T: Args<S>>(handler: H)
where
    H::Output: IntoEvents,
{
    let _ = route::<S, H, T>(handler);
}

fn main() {
    on::<Shop, _, _>(on_text);
    on::<Shop, _, _>(on_state_first);
    on::<Shop, _, _>(on_nothing);
}
