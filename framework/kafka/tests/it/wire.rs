//! A relay between clients and the broker that knows the frames of Kafka's protocol: it holds an answer back, or changes
//! the error in it, which no broker does on demand.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
    thread,
};

use crate::cluster;

/// Requests of the protocol, by their key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Api {
    Metadata = 3,
    OffsetCommit = 8,
    OffsetFetch = 9,
    FindCoordinator = 10,
    JoinGroup = 11,
    Heartbeat = 12,
    InitProducerId = 22,
    EndTxn = 26,
}

impl Api {
    /// Where an answer of this version has its error, if it is about one partition or one group.
    fn error(self, version: u16, frame: &mut [u8]) -> &mut [u8] {
        let end = frame.len();
        let at = match (self, version) {
            // Behind the correlation id and the throttle time, and where there are tags behind the header's.
            (Self::Heartbeat, 1..=3) | (Self::EndTxn, 0..=2) => 8,
            (Self::Heartbeat, 4..) | (Self::InitProducerId, 2..) | (Self::EndTxn, 3..) => 9,
            // Before the tags of partition, topic and answer.
            (Self::OffsetCommit, 8..) => end - 5,
            (Self::OffsetCommit, 1..=7) => end - 2,
            // Before the tags of group and answer.
            (Self::OffsetFetch, 8..) => end - 4,
            (Self::OffsetFetch, 6..=7) => end - 3,
            _ => panic!("it is not known where {self:?} of version {version} has its error"),
        };
        &mut frame[at..at + 2]
    }
}

/// What is done to answers.
#[derive(Default)]
struct Faults {
    /// So many of the next answers of this kind have this error.
    errors: Vec<(Api, usize, i16)>,
    /// Answers of this kind wait.
    held: Option<Api>,
    /// How many have had their fault.
    met: usize,
    /// How often each was asked.
    asked: HashMap<u16, usize>,
}

#[derive(Default)]
struct Shared {
    faults: Mutex<Faults>,
    changed: Condvar,
}

/// It runs until the process ends.
pub(crate) struct Wire {
    shared: Arc<Shared>,
    port: u16,
}

impl Wire {
    /// Stands before the first broker.
    pub(crate) fn new() -> Self {
        let broker = cluster::brokers();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::<Shared>::default();
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                // A connection that cannot be made is one that the client makes again.
                let Ok((client, broker)) = client.and_then(|c| Ok((c, TcpStream::connect(&broker)?))) else {
                    continue;
                };
                relay(client, broker, port, &accepting);
            }
        });
        Self { shared, port }
    }

    /// As [`cluster::url`], by this way.
    pub(crate) fn url(&self) -> String {
        format!("kafka://127.0.0.1:{}", self.port)
    }

    /// The next `times` answers to `api` say this error of Kafka's protocol.
    pub(crate) fn fail(&self, api: Api, times: usize, code: i16) {
        self.shared.faults.lock().unwrap().errors.push((api, times, code));
    }

    /// All is as the broker says.
    pub(crate) fn heal(&self) {
        let mut faults = self.shared.faults.lock().unwrap();
        faults.errors.clear();
        faults.held = None;
        self.shared.changed.notify_all();
    }

    /// Answers to `api` wait until [`Wire::heal`].
    pub(crate) fn hold(&self, api: Api) {
        self.shared.faults.lock().unwrap().held = Some(api);
    }

    /// How often clients have asked this.
    pub(crate) fn asked(&self, api: Api) -> usize {
        self.shared.faults.lock().unwrap().asked.get(&(api as u16)).copied().unwrap_or_default()
    }

    /// How many answers have had a fault.
    pub(crate) fn met(&self) -> usize {
        self.shared.faults.lock().unwrap().met
    }
}

/// Carries both ways of a connection, each by a thread of its own.
fn relay(client: TcpStream, broker: TcpStream, port: u16, shared: &Arc<Shared>) {
    let asked = Arc::<Mutex<HashMap<[u8; 4], (u16, u16)>>>::default();
    let real = broker.peer_addr().unwrap().port();
    for stream in [&client, &broker] {
        stream.set_nodelay(true).unwrap();
    }
    let (mut from_client, mut to_broker) = (client.try_clone().unwrap(), broker.try_clone().unwrap());
    let (asking, counted) = (Arc::clone(&asked), Arc::clone(shared));
    thread::spawn(move || {
        let mut carry = || -> io::Result<()> {
            loop {
                let frame = read(&mut from_client)?;
                let number = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
                let asked = (number(0), number(2));
                *counted.faults.lock().unwrap().asked.entry(asked.0).or_default() += 1;
                asking.lock().unwrap().insert([frame[4], frame[5], frame[6], frame[7]], asked);
                write(&mut to_broker, &frame)?;
            }
        };
        // Ends with the connection.
        let _ = carry();
        let _ = to_broker.shutdown(Shutdown::Both);
    });
    let (mut from_broker, mut to_client, shared) = (broker, client, Arc::clone(shared));
    thread::spawn(move || {
        let mut carry = || -> io::Result<()> {
            loop {
                let mut frame = read(&mut from_broker)?;
                let Some((api, version)) = asked.lock().unwrap().remove(&frame[..4]) else {
                    return Err(io::Error::other("an answer to nothing"));
                };
                let is = |one: Api| api == one as u16;
                if is(Api::Metadata) || is(Api::FindCoordinator) {
                    readdress(&mut frame, real, port);
                }
                let mut faults = shared.faults.lock().unwrap();
                let error = faults.errors.iter_mut().find(|(api, times, _)| is(*api) && *times > 0);
                if let Some((api, times, code)) = error {
                    *times -= 1;
                    api.error(version, &mut frame).copy_from_slice(&code.to_be_bytes());
                    faults.met += 1;
                }
                if faults.held.is_some_and(is) {
                    faults.met += 1;
                    while faults.held.is_some_and(is) {
                        faults = shared.changed.wait(faults).unwrap();
                    }
                }
                drop(faults);
                write(&mut to_client, &frame)?;
            }
        };
        let _ = carry();
        let _ = to_client.shutdown(Shutdown::Both);
    });
}

/// A frame without its length.
fn read(from: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    from.read_exact(&mut frame)?;
    Ok(frame)
}

fn write(to: &mut TcpStream, frame: &[u8]) -> io::Result<()> {
    let length = u32::try_from(frame.len()).unwrap();
    to.write_all(&[&length.to_be_bytes(), frame].concat())
}

/// Where the broker says where it is, it is here.
fn readdress(frame: &mut [u8], real: u16, port: u16) {
    let place = |port: u16| [&b"127.0.0.1"[..], &u32::from(port).to_be_bytes()].concat();
    let (real, here) = (place(real), place(port));
    let mut at = 0;
    while let Some(found) = frame[at..].windows(real.len()).position(|window| window == real) {
        at += found;
        frame[at..at + here.len()].copy_from_slice(&here);
    }
}
