use aqueduct_core::{
    Handled, IntoEvents,
    handler::{Args, Handler, route},
};
use aqueduct_derive::Event;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Event)]
#[event(name = "a.A", topic = "a", crate = aqueduct_core)]
struct Happened {}

#[derive(Clone)]
struct Shop;

async fn returns_a_number(_: Happened) -> Handled<u32> {
    Ok(1)
}

async fn returns_no_handled(_: Happened) -> Result<(), std::io::Error> {
    Ok(())
}

async fn returns_nothing(_: Happened) {}

/// As a subscription takes handlers.
fn on<S: Send + Sync + 'static, H: Handler<T>, T: Args<S>>(handler: H)
where
    H::Output: IntoEvents,
{
    let _ = route::<S, H, T>(handler);
}

fn main() {
    on::<Shop, _, _>(returns_a_number);
    on::<Shop, _, _>(returns_no_handled);
    on::<Shop, _, _>(returns_nothing);
}
