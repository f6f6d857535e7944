//! A plain HTTP client, as scrapers and probes are: one request a connection, or any bytes.

use std::{net::Ipv4Addr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// An HTTP client of a port of this machine.
#[derive(Debug, Clone, Copy)]
pub struct HttpClient(u16);

#[derive(Debug, Clone)]
pub struct HttpResponse {
    /// Its status; 0 when the connection was cut instead.
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    pub body: String,
}

/// A request of which only a part was sent.
#[derive(Debug)]
pub struct PartialRequest(TcpStream);

impl HttpClient {
    /// A client of this port.
    #[must_use]
    pub fn at(port: u16) -> Self {
        Self(port)
    }

    /// Address and port.
    #[must_use]
    pub fn address(self) -> String {
        format!("127.0.0.1:{}", self.0)
    }

    pub async fn get(self, path: &str) -> HttpResponse {
        self.request("GET", path).await
    }

    /// The value of a series in what is scraped here; `None` when it is not there.
    pub async fn metric(self, series: &str) -> Option<f64> {
        metric(&self.get("/metrics").await.body, series)
    }

    /// Asks with any method.
    ///
    /// # Panics
    /// When nobody answers in time.
    pub async fn request(self, method: &str, path: &str) -> HttpResponse {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\n\r\n",
            self.address()
        );
        let PartialRequest(stream) = self.send(request.as_bytes()).await;
        let bytes = rest(stream).await;
        let text = String::from_utf8_lossy(&bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok());
        HttpResponse {
            status: status.unwrap_or(0),
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    /// Sends bytes and leaves the connection open.
    ///
    /// # Panics
    /// When nobody listens.
    pub async fn send(self, bytes: &[u8]) -> PartialRequest {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.0))
            .await
            .expect("somebody listens");
        // A server may close before it has read everything. The test looks at its answer.
        let _ = stream.write_all(bytes).await;
        PartialRequest(stream)
    }
}

impl PartialRequest {
    /// Waits until the other side ends it.
    ///
    /// # Panics
    /// When it does not.
    pub async fn ends(self) {
        rest(self.0).await;
    }
}

/// The value of a series in a scrape; `None` when it is not there.
///
/// # Panics
/// When it is no number.
#[must_use]
pub fn metric(scrape: &str, series: &str) -> Option<f64> {
    let mut lines = scrape.lines();
    let value = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    Some(value.parse().expect("a number"))
}

/// Everything until the other side closes or cuts.
async fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    let ended = tokio::time::timeout(PATIENCE, read).await;
    // A connection that is reset is at its end, too.
    let _ = ended.expect("the other side answers and closes");
    bytes
}
