//! HTTP/2 frames as no library would send them.

pub(super) const DATA: u8 = 0x0;
pub(super) const HEADERS: u8 = 0x1;
pub(super) const RST_STREAM: u8 = 0x3;
pub(super) const SETTINGS: u8 = 0x4;
pub(super) const PING: u8 = 0x6;
pub(super) const CONTINUATION: u8 = 0x9;

pub(super) const END_HEADERS: u8 = 0x4;

/// The connection preface with empty settings.
pub(super) fn greeting() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    bytes
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len())
        .unwrap_or(u32::MAX)
        .to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The header block of a call, every field in full.
pub(super) fn call(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", path),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]
    .iter()
    .chain(more)
    {
        // A literal field without indexing, with a new name.
        block.push(0);
        string(&mut block, name);
        string(&mut block, value);
    }
    block
}

/// A string as it is, its length as an integer with a prefix of seven bits (RFC 7541, 5.1 and 5.2).
fn string(block: &mut Vec<u8>, text: &str) {
    let mut length = text.len();
    if length < 127 {
        block.push(length as u8);
    } else {
        block.push(127);
        length -= 127;
        while length >= 128 {
            block.push((length % 128) as u8 | 128);
            length /= 128;
        }
        block.push(length as u8);
    }
    block.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_strings_have_lengths_of_several_bytes() {
        let mut block = Vec::new();
        string(&mut block, &"x".repeat(1337 + 127));
        assert_eq!(block[..3], [127, 0b1011_1001, 0b0000_1010]);
        assert_eq!(block.len(), 3 + 1337 + 127);
    }

    #[test]
    fn a_frame_has_its_length_kind_flags_and_stream_before_it() {
        let bytes = frame(PING, 1, 3, &[7; 8]);
        assert_eq!(bytes[..9], [0, 0, 8, PING, 1, 0, 0, 0, 3]);
        assert_eq!(bytes[9..], [7; 8]);
    }
}
