//! A port for a program that takes no open socket.

use std::net::{Ipv4Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

/// A port of 127.0.0.1 that the kernel gives to nobody while this is held, neither to listen on nor for a connection: the program may start
/// later, and stop and start again. Who asks for it by its number and sets `SO_REUSEADDR`, as servers do, may listen there (socket(7)).
#[derive(Debug)]
pub struct Port {
    pub number: u16,
    _held: Socket,
}

impl Port {
    pub fn reserve() -> Self {
        let held = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        held.set_reuse_address(true).expect("an option of every socket");
        held.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("a free port");
        let address = held.local_addr().expect("it is bound").as_socket().expect("an address of IPv4");
        Self { number: address.port(), _held: held }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::{SOON, wait};

    #[test]
    fn who_asks_for_it_by_its_number_may_listen_there_again_and_again() {
        let port = Port::reserve();
        for _ in 0..2 {
            // A child of another test holds the one before until it has become its program.
            let listener =
                wait("the port is let go", SOON, || TcpListener::bind((Ipv4Addr::LOCALHOST, port.number)).ok());
            let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port.number)).unwrap();
            drop((listener.accept().unwrap(), client));
        }
    }
}
