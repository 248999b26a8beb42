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

async fn on_happened(_: Happened) -> Handled {
    let count = std::rc::Rc::new(1);
    std::future::ready(()).await;
    assert_eq!(*count, 1);
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
}
