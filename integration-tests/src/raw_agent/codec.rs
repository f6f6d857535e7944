//! A codec that sends bytes as they are, so that a test can send what the schema does not know.

use bytes::{BufMut as _, Bytes};
use kernex_proto::v1::{DeviceSessionRequest, DeviceSessionResponse};
use tonic::{
    Status,
    codec::{Codec, EncodeBuf, Encoder},
};
use tonic_prost::{ProstCodec, ProstDecoder};

/// Sends bytes as they are and reads what the schema says.
#[derive(Debug, Clone, Copy)]
pub(super) struct AnyBytes;

impl Codec for AnyBytes {
    type Encode = Bytes;
    type Decode = DeviceSessionResponse;
    type Encoder = Self;
    type Decoder = ProstDecoder<DeviceSessionResponse>;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<DeviceSessionRequest, DeviceSessionResponse>::default().decoder()
    }
}

impl Encoder for AnyBytes {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}
