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

#[derive(Clone)]
struct Other;

async fn on_happened(_: Happened, _: State<Other>) -> Handled {
    Ok(())
}

async fn on_anything(_: Happened, _: u32) -> Handled {
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
    on::<Shop, _, _>(on_happened);
    on::<(), _, _>(on_happened);
    on::<Shop, _, _>(on_anything);
}
