//! An HTTP proxy for `CONNECT`, as sites have that let nothing else out. Names that only it knows
//! lead to this machine.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// The one name that such a proxy knows; no resolver does.
pub const SITE: &str = "kernex.site.example";

/// A proxy; ends when it is dropped.
#[derive(Debug)]
pub struct ConnectProxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl ConnectProxy {
    /// Starts one that lets this user through, `NAME:PASSWORD`, or everybody.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start(user: Option<&str>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let wanted = user.map(|user| format!("Basic {}", STANDARD.encode(user)));
        let mut tasks = JoinSet::new();
        let noted = Arc::clone(&asked);
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (noted, wanted) = (Arc::clone(&noted), wanted.clone());
                connections.spawn(async move {
                    // A peer that goes away is no failure of a test.
                    let _ = serve(stream, wanted, &noted).await;
                });
            }
        });
        Self {
            address,
            asked,
            _tasks: tasks,
        }
    }

    /// Its address and port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it was asked to connect to, in order.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().clone()
    }
}

async fn serve(
    stream: TcpStream,
    wanted: Option<String>,
    asked: &Mutex<Vec<String>>,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    let given = head.iter().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("proxy-authorization")
            .then(|| value.to_owned())
    });
    if wanted.is_some() && given != wanted {
        return stream
            .write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            .await;
    }
    let to = head.first().and_then(|line| line.split(' ').nth(1));
    let to = to.unwrap_or_default().to_owned();
    asked.lock().push(to.clone());
    let Ok(mut there) = TcpStream::connect(to.replace(SITE, "127.0.0.1")).await else {
        return stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await;
    };
    stream
        .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        .await?;
    copy_bidirectional(&mut stream, &mut there).await?;
    Ok(())
}
