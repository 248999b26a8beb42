//! One event, one handler, the embedded log.

use aqueduct::prelude::*;

#[derive(Serialize, Deserialize, Event)]
#[event(name = "hello.Greeted", topic = "hello")]
struct Greeted(String);

async fn on_greeted(Greeted(who): Greeted) -> Handled {
    println!("hello, {who}");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let bus = aqueduct::connect("embedded:hello.db").await?;
    bus.publish(&Greeted("world".into())).await?;
    let greeter = Subscription::builder("greeter").on(on_greeted);
    Ok(App::builder("hello").log(&bus).subscribe(greeter).run(aqueduct::shutdown_signal()).await?)
}
