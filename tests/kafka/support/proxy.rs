//! A proxy between a client and a broker that loses, or holds back, requests and replies: what cannot be asked of a real broker.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Requests of Kafka's protocol, by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i16)]
pub(crate) enum Api {
    Produce = 0,
    Fetch = 1,
    ListOffsets = 2,
    Metadata = 3,
    FindCoordinator = 10,
    InitProducerId = 22,
    AddPartitionsToTxn = 24,
    EndTxn = 26,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The broker does not get it, and the connection ends.
    LoseRequest,
    /// The broker does what is asked for, and the connection ends instead of its reply.
    LoseReply,
    /// The reply, and what comes after it, comes so much later.
    Delay(Duration),
}

/// What becomes of the requests of one kind that come next.
type Plan = HashMap<i16, (u32, Fault)>;

#[derive(Debug, Default)]
struct Shared {
    broker: Mutex<Option<SocketAddr>>,
    plan: Mutex<Plan>,
    /// How many faults there have been, by the kind of the request.
    hits: Mutex<HashMap<i16, u64>>,
    /// Of each connection both ends.
    open: Mutex<Vec<TcpStream>>,
}

#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Listens on a free port; whoever comes is sent away until it knows the broker.
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let here = Arc::clone(&shared);
        // It ends with the process: what it holds is a port.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Some(broker) = *lock(&here.broker) else { continue };
                if let Ok(broker) = TcpStream::connect(broker) {
                    here.join(&client, &broker).unwrap();
                }
            }
        });
        Self { address, shared }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn bootstrap(&self) -> String {
        self.address.to_string()
    }

    /// Where clients are led to.
    pub(crate) fn lead_to(&self, broker: &str) {
        *lock(&self.shared.broker) = Some(broker.parse().unwrap());
    }

    /// Does this to the next requests of a kind.
    pub(crate) fn plan(&self, api: Api, count: u32, fault: Fault) {
        lock(&self.shared.plan).insert(api as i16, (count, fault));
    }

    /// From now on everything goes through.
    pub(crate) fn clear(&self) {
        lock(&self.shared.plan).clear();
    }

    /// How many requests of a kind something was done to.
    pub(crate) fn hits(&self, api: Api) -> u64 {
        lock(&self.shared.hits).get(&(api as i16)).copied().unwrap_or(0)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        *lock(&self.shared.broker) = None;
        for stream in lock(&self.shared.open).drain(..) {
            // It may have ended already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    fn join(self: &Arc<Self>, client: &TcpStream, broker: &TcpStream) -> io::Result<()> {
        lock(&self.open).extend([client.try_clone()?, broker.try_clone()?]);
        let faults: Arc<Mutex<HashMap<[u8; 4], Fault>>> = Arc::default();
        let requests = (client.try_clone()?, broker.try_clone()?, Arc::clone(self), Arc::clone(&faults));
        std::thread::spawn(move || {
            let (mut client, mut broker, shared, faults) = requests;
            // An end is the end of both directions.
            let _ = shared.pass_requests(&mut client, &mut broker, &faults);
            cut(&client, &broker);
        });
        let (mut client, mut broker) = (client.try_clone()?, broker.try_clone()?);
        std::thread::spawn(move || {
            let _ = pass_replies(&mut broker, &mut client, &faults);
            cut(&client, &broker);
        });
        Ok(())
    }

    fn pass_requests(
        &self,
        client: &mut TcpStream,
        broker: &mut TcpStream,
        faults: &Mutex<HashMap<[u8; 4], Fault>>,
    ) -> io::Result<()> {
        while let Some(frame) = read_frame(client)? {
            // Behind the length: the kind, its version, and the number by which the reply is known.
            let ([high, low, _, _, id @ ..], _) =
                frame[4..].split_first_chunk::<8>().ok_or(io::ErrorKind::InvalidData)?;
            match self.fault(i16::from_be_bytes([*high, *low])) {
                Some(Fault::LoseRequest) => return Ok(()),
                Some(fault) => drop(lock(faults).insert(*id, fault)),
                None => {}
            }
            broker.write_all(&frame)?;
        }
        Ok(())
    }

    fn fault(&self, api: i16) -> Option<Fault> {
        let mut plan = lock(&self.plan);
        let (left, fault) = plan.get_mut(&api).filter(|(left, _)| *left > 0)?;
        *left -= 1;
        *lock(&self.hits).entry(api).or_default() += 1;
        Some(*fault)
    }
}

fn pass_replies(
    broker: &mut TcpStream,
    client: &mut TcpStream,
    faults: &Mutex<HashMap<[u8; 4], Fault>>,
) -> io::Result<()> {
    while let Some(frame) = read_frame(broker)? {
        let id = frame[4..].first_chunk::<4>().ok_or(io::ErrorKind::InvalidData)?;
        let fault = lock(faults).remove(id);
        match fault {
            Some(Fault::LoseReply | Fault::LoseRequest) => return Ok(()),
            Some(Fault::Delay(time)) => std::thread::sleep(time),
            None => {}
        }
        client.write_all(&frame)?;
    }
    Ok(())
}

/// A request or a reply, with its length before it; `None` at the end.
fn read_frame(from: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut frame = vec![0; 4];
    match from.read_exact(&mut frame) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let len = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]);
    if len > 200 << 20 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    frame.resize(4 + len as usize, 0);
    from.read_exact(&mut frame[4..])?;
    Ok(Some(frame))
}

fn cut(one: &TcpStream, other: &TcpStream) {
    for stream in [one, other] {
        // It may have ended already.
        let _ = stream.shutdown(Shutdown::Both);
    }
}
