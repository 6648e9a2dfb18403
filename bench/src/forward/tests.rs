//! Not timed: that what goes through a forwarder comes out of it as it was, whole, and that an end of one side is told to the other.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use super::*;
use crate::edge::scenario::{self, What};
use crate::generator::{Generator, HOST};

const SHORT: Duration = Duration::from_millis(300);

/// In which a body of 100 MiB must come through.
const LONG: Duration = Duration::from_secs(5);

/// How long a side waits for what the other says.
const PATIENCE: Duration = Duration::from_secs(10);

/// On two threads of this process, until it ends.
fn forwarder(form: Form, upstream: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || form.serve(listener, upstream, 2));
    address
}

fn check(form: Form) {
    let mut generator = Generator::new().unwrap();
    let address = forwarder(form, generator.upstream().unwrap());
    for scenario in scenario::ALL.into_iter().filter(|scenario| !scenario.is_paced) {
        let time = match scenario.what {
            // TLS ends at a proxy.
            What::Connection(Some(_)) | What::Streams(_) => continue,
            What::Upload => LONG,
            What::Small | What::Connection(None) | What::Download | What::Echo => SHORT,
        };
        let mut load = scenario.load_at(address, address, HOST).unwrap();
        if scenario.what == What::Upload {
            load.connections = 1;
        }
        let round = generator.run(&load, time).unwrap_or_else(|error| panic!("{form:?}, {}: {error:#}", scenario.name));
        assert!(scenario.amount(&round) > 0.0 && round.requests > 0, "{form:?}, {}: nothing came", scenario.name);
    }
}

/// One after the other: uploads beside each other are too slow for a round.
#[test]
fn each_forwards_truly() {
    Form::ALL.into_iter().for_each(check);
}

#[test]
fn an_end_is_told_and_the_other_way_stays_open() {
    for form in Form::ALL {
        let app = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut client = TcpStream::connect(forwarder(form, app.local_addr().unwrap())).unwrap();
        let (mut served, _) = app.accept().unwrap();
        for side in [&client, &served] {
            side.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        client.write_all(b"all of it").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut text = String::new();
        served.read_to_string(&mut text).unwrap();
        assert_eq!(text, "all of it", "{form:?}");
        served.write_all(b"and an answer").unwrap();
        drop(served);
        text.clear();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text, "and an answer", "{form:?}");
    }
}
