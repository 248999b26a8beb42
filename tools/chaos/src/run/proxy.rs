//! A proxy before each broker that knows the frames of Kafka's protocol: it cuts connections, keeps silent, and drops
//! the response to a request that the broker has answered.
//!
//! A request is `[i32 length][i16 API key][i16 API version][i32 correlation id]..`, a response `[i32 length][i32
//! correlation id]..`, both big-endian (<https://kafka.apache.org/protocol>).

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Context;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime::Runtime,
    sync::watch,
    task::AbortHandle,
};

use super::cluster::Broker;
use crate::random::Random;

/// What a client is not told any more: the API keys of the calls whose answers matter to promises.
pub(crate) const APIS: [(i16, &str); 9] = [
    (0, "Produce"),
    (0, "Produce"),
    (1, "Fetch"),
    (8, "OffsetCommit"),
    (9, "OffsetFetch"),
    (22, "InitProducerId"),
    (24, "AddPartitionsToTxn"),
    (26, "EndTxn"),
    (28, "TxnOffsetCommit"),
];

/// A frame is no larger: it is read whole.
const MOST: usize = 256 << 20;

/// One proxy for each broker.
pub(crate) struct Proxy {
    /// Its threads end with it.
    _runtime: Runtime,
    fronts: Vec<Arc<Front>>,
    harm: Arc<Harm>,
}

/// Which response shall be dropped next.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    /// That to a request of this API.
    One(i16),
    /// That to any of [`APIS`].
    Any,
}

impl Wanted {
    fn is(self, api: i16) -> bool {
        match self {
            Self::One(wanted) => wanted == api,
            Self::Any => APIS.iter().any(|(one, _)| *one == api),
        }
    }
}

/// What is wanted, and what was done.
#[derive(Default)]
struct Harm {
    wanted: Mutex<Option<Wanted>>,
    dropped: Mutex<Vec<i16>>,
}

/// Before one broker.
struct Front {
    connections: Mutex<Vec<AbortHandle>>,
    silent: watch::Sender<bool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    pub(crate) fn start(brokers: &[Broker]) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let harm = Arc::new(Harm::default());
        let mut fronts = Vec::new();
        for broker in brokers {
            let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", broker.port)));
            let listener = listener.with_context(|| format!("the proxy cannot have port {}", broker.port))?;
            let front = Arc::new(Front { connections: Mutex::default(), silent: watch::Sender::new(false) });
            runtime.spawn(listen(listener, broker.behind, Arc::clone(&front), Arc::clone(&harm)));
            fronts.push(front);
        }
        Ok(Self { _runtime: runtime, fronts, harm })
    }

    /// Cuts about half of the connections to the `index`-th broker.
    pub(crate) fn cut(&self, index: usize, random: &mut Random) {
        lock(&self.fronts[index].connections).retain(|connection| {
            let cut = random.below(2) == 0;
            if cut {
                connection.abort();
            }
            !cut && !connection.is_finished()
        });
    }

    /// Whether nothing goes to the `index`-th broker and nothing comes from it; connections stay.
    pub(crate) fn silence(&self, index: usize, silent: bool) {
        self.fronts[index].silent.send_replace(silent);
    }

    /// Drops the next response to a request of this API, and cuts its connection: none gets another out of order.
    pub(crate) fn drop_next(&self, api: i16) {
        *lock(&self.harm.wanted) = Some(Wanted::One(api));
    }

    /// Drops the next response of any of [`APIS`], where that of one is wanted and did not come.
    pub(crate) fn drop_any(&self) {
        if let Some(wanted) = lock(&self.harm.wanted).as_mut() {
            *wanted = Wanted::Any;
        }
    }

    /// Drops none any more.
    pub(crate) fn drop_none(&self) {
        *lock(&self.harm.wanted) = None;
    }

    /// The APIs of the responses dropped since the last call.
    pub(crate) fn dropped(&self) -> Vec<i16> {
        std::mem::take(&mut *lock(&self.harm.dropped))
    }
}

async fn listen(listener: TcpListener, port: u16, front: Arc<Front>, harm: Arc<Harm>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let (harm, silent) = (Arc::clone(&harm), front.silent.subscribe());
        // Whoever is refused, or cut off, sees that its connection ends.
        let task = tokio::spawn(async move {
            let ended = carry(client, port, silent, &harm).await;
            drop(ended);
        });
        let mut connections = lock(&front.connections);
        connections.retain(|connection| !connection.is_finished());
        connections.push(task.abort_handle());
    }
}

/// Requests without a response yet: correlation id and API key.
type Asked = Mutex<VecDeque<(i32, i16)>>;

async fn carry(client: TcpStream, port: u16, silent: watch::Receiver<bool>, harm: &Harm) -> io::Result<()> {
    let broker = TcpStream::connect(("127.0.0.1", port)).await?;
    client.set_nodelay(true)?;
    broker.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_broker, to_broker) = broker.into_split();
    let asked = Asked::default();
    // The end of one direction is that of the connection.
    tokio::select! {
        ended = requests(from_client, to_broker, silent.clone(), &asked) => ended,
        ended = responses(from_broker, to_client, silent, &asked, harm) => ended,
    }
}

async fn requests(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut silent: watch::Receiver<bool>,
    asked: &Asked,
) -> io::Result<()> {
    let mut frame = Vec::new();
    loop {
        read(&mut from, &mut frame).await?;
        if let (Some(api), Some(id)) = (number::<2>(&frame, 4), number::<4>(&frame, 8)) {
            lock(asked).push_back((i32::from_be_bytes(id), i16::from_be_bytes(api)));
        }
        speaks(&mut silent).await?;
        to.write_all(&frame).await?;
    }
}

async fn responses(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut silent: watch::Receiver<bool>,
    asked: &Asked,
    harm: &Harm,
) -> io::Result<()> {
    let mut frame = Vec::new();
    loop {
        read(&mut from, &mut frame).await?;
        if let Some(api) = answered(asked, &frame)
            && lock(&harm.wanted).take_if(|wanted| wanted.is(api)).is_some()
        {
            lock(&harm.dropped).push(api);
            return Ok(());
        }
        speaks(&mut silent).await?;
        to.write_all(&frame).await?;
    }
}

/// The API of the request that a response answers. A request without an answer is passed over.
fn answered(asked: &Asked, frame: &[u8]) -> Option<i16> {
    let id = i32::from_be_bytes(number(frame, 4)?);
    let mut asked = lock(asked);
    let at = asked.iter().position(|(of, _)| *of == id)?;
    asked.drain(..=at).next_back().map(|(_, api)| api)
}

fn number<const N: usize>(frame: &[u8], at: usize) -> Option<[u8; N]> {
    frame.get(at..)?.first_chunk().copied()
}

async fn speaks(silent: &mut watch::Receiver<bool>) -> io::Result<()> {
    silent.wait_for(|silent| !silent).await.map(drop).map_err(io::Error::other)
}

/// Reads one frame, its length included.
async fn read(from: &mut OwnedReadHalf, frame: &mut Vec<u8>) -> io::Result<()> {
    let mut length = [0; 4];
    from.read_exact(&mut length).await?;
    let size = usize::try_from(i32::from_be_bytes(length)).ok().filter(|size| *size <= MOST);
    let size = size.ok_or_else(|| io::Error::other("not a frame of Kafka's protocol"))?;
    frame.clear();
    frame.extend(length);
    frame.resize(4 + size, 0);
    from.read_exact(&mut frame[4..]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net, thread,
    };

    use super::*;

    /// A request of `api`, with `id`.
    fn request(api: i16, id: i32) -> Vec<u8> {
        [&8_i32.to_be_bytes()[..], &api.to_be_bytes(), &[0, 0], &id.to_be_bytes()].concat()
    }

    /// A fault must be what it is called: the broker has answered, the client hears nothing, and no later response
    /// comes in place of the lost one. Red when the response goes through, or when the connection stays.
    #[test]
    fn a_dropped_response_is_that_of_its_api_and_ends_its_connection() {
        let broker = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let behind = broker.local_addr().unwrap().port();
        let (tell, told) = std::sync::mpsc::channel();
        thread::spawn(move || {
            for stream in broker.incoming() {
                let (mut stream, tell) = (stream.unwrap(), tell.clone());
                thread::spawn(move || {
                    let mut frame = [0; 12];
                    while stream.read_exact(&mut frame).is_ok() {
                        tell.send(frame[11]).unwrap();
                        let answer = [&4_i32.to_be_bytes()[..], &frame[8..]].concat();
                        stream.write_all(&answer).unwrap();
                    }
                });
            }
        });
        // Given back before the proxy takes it.
        let port = net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let proxy = Proxy::start(&[Broker { id: 1, port, behind, direct: 0 }]).unwrap();
        let connect = || net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let answer = |client: &mut net::TcpStream| {
            let mut answer = [0; 8];
            client.read_exact(&mut answer).map(|()| answer[7])
        };
        let mut client = connect();
        client.write_all(&request(0, 1)).unwrap();
        assert_eq!(answer(&mut client).unwrap(), 1);
        proxy.drop_next(26);
        client.write_all(&request(0, 2)).unwrap();
        assert_eq!(answer(&mut client).unwrap(), 2);
        client.write_all(&[request(26, 3), request(0, 4)].concat()).unwrap();
        answer(&mut client).unwrap_err();
        assert_eq!(told.iter().take(3).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!((proxy.dropped(), proxy.dropped()), (vec![26], vec![]));
        let mut client = connect();
        client.write_all(&request(26, 5)).unwrap();
        assert_eq!(answer(&mut client).unwrap(), 5);
        // None is wanted any more; then another than the wanted one will do.
        proxy.drop_any();
        client.write_all(&request(0, 6)).unwrap();
        assert_eq!(answer(&mut client).unwrap(), 6);
        proxy.drop_next(26);
        proxy.drop_any();
        client.write_all(&request(0, 7)).unwrap();
        answer(&mut client).unwrap_err();
        assert_eq!(proxy.dropped(), [0]);
    }
}
