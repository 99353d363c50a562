//! `serve`: a producer that waits for `pd --peer`, and how `pd` reaches it.
//!
//! The engine listens at the address given; the benchmark's control channel (what to lease, fill and compare) listens at
//! the next port. Whoever opens it proves that it holds what authenticates it towards the engine, too: the descriptor,
//! or the cluster key. What follows is in the clear; it names benchmark data only.

use std::io::{self, BufReader, BufWriter};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use blake2::{Blake2s256, Digest};
use ropeway::{ClusterKey, Descriptor};
use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::cli::{self, Auth, Serve, Transport};
use crate::control;
use crate::engine;
use crate::far::{Far, Remote};
use crate::output;
use crate::producer::Producer;

/// How long the other side may take to prove itself.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Serialize, Deserialize)]
struct Challenge {
    nonce: [u8; 32],
}

#[derive(Serialize, Deserialize)]
struct Proof {
    proof: [u8; 32],
}

pub(crate) fn run(options: &Serve) -> Result<(), Failure> {
    let transport =
        cli::Engine { npu: options.npu.clone(), ..cli::Engine::new(Transport::Auto, 0, options.streams) };
    let engine = engine::open(&transport, Some(options.listen), &options.auth)?;
    let descriptor = engine.descriptor();
    let address = *descriptor.addresses.first().ok_or("the engine listens nowhere")?;
    let listener = TcpListener::bind(next_port(address)?)
        .map_err(|error| format!("the control port {}: {error}", next_port(address).expect("just made")))?;
    let key = key(&descriptor.to_string(), &options.auth)?;
    output::line(&descriptor)?;
    let mut served = 0;
    while options.peers == 0 || served < options.peers {
        let (socket, from) = listener.accept()?;
        match admit(&socket, key) {
            Ok(()) => tracing::info!(%from, "a consumer has come"),
            Err(error) => {
                output::complain(format_args!("{from} was sent away: {error}"));
                continue;
            }
        }
        let mut producer = Producer::remote(engine.clone(), address.ip(), options.pool_max);
        let ended = producer.converse(BufReader::new(socket.try_clone()?), BufWriter::new(socket));
        if let Err(error) = ended {
            output::complain(format_args!("the consumer at {from} broke off: {error}"));
        }
        if let control::Answer::Failed { reason } = producer.answer(control::Ask::Close) {
            output::complain(format_args!("after the consumer at {from}: {reason}"));
        }
        served += 1;
    }
    engine.close(PATIENCE)?;
    Ok(())
}

/// Opens the control channel of a `serve`. Also gives the address at which the reference's sockets are reached.
pub(crate) fn connect(peer: &str, auth: &Auth) -> Result<(Far, SocketAddr), Failure> {
    let address = *descriptor(peer, auth)?.addresses.first().ok_or("the descriptor names no address")?;
    let socket = TcpStream::connect_timeout(&next_port(address)?, PATIENCE)
        .map_err(|error| format!("the control port of {address}: {error}"))?;
    socket.set_nodelay(true)?;
    let (mut from, mut to) = (BufReader::new(socket.try_clone()?), BufWriter::new(socket));
    let challenge: Challenge = control::receive(&mut from)?.ok_or("the producer closed the connection")?;
    control::send(&mut to, &Proof { proof: proof(key(peer, auth)?, challenge.nonce) })?;
    match control::receive(&mut from) {
        Ok(Some(control::Answer::Ok)) => {}
        _ => return Err(format!("{address} sent us away: it has another descriptor or key").into()),
    }
    Ok((Far::There(Remote { to, from }), address))
}

/// The engine behind `--peer`: a descriptor as `serve` printed it, or an address with what authenticates.
pub(crate) fn descriptor(peer: &str, auth: &Auth) -> Result<Descriptor, Failure> {
    let Ok(address) = peer.parse::<SocketAddr>() else { return Ok(peer.parse::<Descriptor>()?) };
    let auth = match (&auth.key_file, auth.insecure) {
        (Some(_), _) => ropeway::Auth::ClusterKey,
        (None, true) => ropeway::Auth::Insecure,
        (None, false) => {
            return Err("an address alone needs --key-file or --insecure; or give serve's descriptor".into());
        }
    };
    Ok(Descriptor { incarnation: None, addresses: vec![address], auth })
}

/// Sends a challenge and takes only the right answer.
fn admit(socket: &TcpStream, key: [u8; 32]) -> Result<(), Failure> {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(|error| error.to_string())?;
    control::send(&mut &*socket, &Challenge { nonce })?;
    // Unbuffered and short, so that nothing that follows is swallowed and nobody makes us read for long.
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < 1024 && byte[0] != b'\n' {
        io::Read::read_exact(&mut &*socket, &mut byte)?;
        line.push(byte[0]);
    }
    let answer: Proof = serde_json::from_slice(&line)?;
    if answer.proof != proof(key, nonce) {
        return Err("it does not hold the descriptor or key".into());
    }
    socket.set_read_timeout(None)?;
    Ok(control::send(&mut &*socket, &control::Answer::Ok)?)
}

fn proof(key: [u8; 32], nonce: [u8; 32]) -> [u8; 32] {
    Blake2s256::new()
        .chain_update(b"ropeway-bench proof")
        .chain_update(key)
        .chain_update(nonce)
        .finalize()
        .into()
}

/// What both sides know: the key file, the descriptor, or nothing.
fn key(descriptor: &str, auth: &Auth) -> Result<[u8; 32], Failure> {
    let material = match (&auth.key_file, auth.insecure) {
        (Some(file), _) => {
            // Refuses what the engine would refuse: too short, readable by others.
            ClusterKey::from_file(file)?;
            std::fs::read(file)?
        }
        (None, true) => Vec::new(),
        (None, false) => descriptor.as_bytes().to_vec(),
    };
    Ok(Blake2s256::new().chain_update(b"ropeway-bench key").chain_update(material).finalize().into())
}

fn next_port(address: SocketAddr) -> Result<SocketAddr, Failure> {
    let port =
        address.port().checked_add(1).ok_or("port 65535 leaves no next port for the control channel")?;
    Ok(SocketAddr::new(address.ip(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meet(ours: [u8; 32], theirs: [u8; 32]) -> Result<(), Failure> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let client = std::thread::spawn(move || {
            let mut from = BufReader::new(socket.try_clone().unwrap());
            let challenge: Challenge = control::receive(&mut from).unwrap().unwrap();
            control::send(&mut &socket, &Proof { proof: proof(theirs, challenge.nonce) }).unwrap();
        });
        let (socket, _) = listener.accept().unwrap();
        let admitted = admit(&socket, ours);
        client.join().unwrap();
        admitted
    }

    #[test]
    fn only_the_right_key_is_admitted() {
        assert!(meet([7; 32], [7; 32]).is_ok());
        assert!(meet([7; 32], [8; 32]).is_err());
    }

    #[test]
    fn garbage_is_sent_away_without_reading_for_long() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        io::Write::write_all(&mut &socket, &[b'x'; 2000]).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        assert!(admit(&theirs, [1; 32]).is_err());
    }

    #[test]
    fn an_address_needs_a_word_about_authentication() {
        assert!(descriptor("127.0.0.1:7100", &Auth::default()).is_err());
        let insecure = Auth { insecure: true, key_file: None };
        assert_eq!(descriptor("127.0.0.1:7100", &insecure).unwrap().addresses.len(), 1);
        assert!(descriptor("nonsense", &insecure).is_err());
    }
}
