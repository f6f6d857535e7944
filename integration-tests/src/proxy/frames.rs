//! Where messages begin in a stream of bytes: TLS records, or HTTP/2 frames where nothing is
//! encrypted.

/// What is spoken through a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Records with a header of 5 bytes.
    Tls,
    /// Frames with a header of 9 bytes; the client says 24 bytes before its first.
    Http2,
}

/// What an HTTP/2 client says first.
const PREFACE: usize = 24;

/// Follows one direction of one connection.
#[derive(Debug)]
pub(super) struct Frames {
    protocol: Protocol,
    /// Bytes of the present frame that are still to come, its header not counted.
    left: usize,
    header: Vec<u8>,
}

impl Frames {
    pub(super) fn new(protocol: Protocol, from_client: bool) -> Self {
        let left = match protocol {
            Protocol::Http2 if from_client => PREFACE,
            Protocol::Http2 | Protocol::Tls => 0,
        };
        Self {
            protocol,
            left,
            header: Vec::new(),
        }
    }

    /// Where in `bytes`, which come next, frames begin.
    pub(super) fn begins(&mut self, bytes: &[u8]) -> Vec<usize> {
        let mut begins = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            if self.left > 0 {
                let skipped = self.left.min(bytes.len() - at);
                self.left -= skipped;
                at += skipped;
                continue;
            }
            if self.header.is_empty() {
                begins.push(at);
            }
            self.header.push(bytes[at]);
            at += 1;
            if let Some(length) = self.length() {
                self.left = length;
                self.header.clear();
            }
        }
        begins
    }

    /// Length of the frame, once its header is whole.
    fn length(&self) -> Option<usize> {
        match (self.protocol, self.header.as_slice()) {
            (Protocol::Tls, &[_, _, _, high, low]) => {
                Some(usize::from(high) << 8 | usize::from(low))
            }
            (Protocol::Http2, &[high, middle, low, _, _, _, _, _, _]) => {
                Some(usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_found_however_the_bytes_are_cut() {
        let mut stream = Vec::new();
        for length in [3_u8, 0, 200] {
            stream.extend([22, 3, 3, 0, length]);
            stream.extend(vec![7; usize::from(length)]);
        }
        for piece in [1, 2, 4, 7, 300] {
            let mut frames = Frames::new(Protocol::Tls, true);
            let pieces = stream.chunks(piece).enumerate();
            let begins: Vec<usize> = pieces
                .flat_map(|(number, bytes)| {
                    let begins = frames.begins(bytes);
                    begins.into_iter().map(move |at| number * piece + at)
                })
                .collect();
            assert_eq!(begins, [0, 8, 13], "pieces of {piece}");
        }
    }

    #[test]
    fn the_preface_of_a_client_is_no_frame() {
        let mut stream = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        stream.extend([0, 0, 1, 4, 0, 0, 0, 0, 0, 9]);
        stream.extend([0, 0, 0, 4, 1, 0, 0, 0, 0]);
        assert_eq!(Frames::new(Protocol::Http2, true).begins(&stream), [24, 34]);
        assert_eq!(
            Frames::new(Protocol::Http2, false).begins(&stream[24..]),
            [0, 10]
        );
    }
}
