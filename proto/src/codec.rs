//! How messages become bytes: as in prost, but with small buffers at first.
//!
//! By default every call has 8 KiB for each direction from the start, and a control plane has ten
//! thousand calls that send a hundred bytes a minute. Here a buffer has 256 bytes, or the size of a
//! larger message.

use std::marker::PhantomData;

use prost::Message;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, EncodeBuf, Encoder},
};
use tonic_prost::{ProstCodec, ProstDecoder};

/// Enough for a heartbeat and its acknowledgement.
const BUFFER: usize = 256;
/// Messages that are ready together travel in one piece up to here.
const TOGETHER: usize = 32 * 1024;

fn small() -> BufferSettings {
    BufferSettings::new(BUFFER, TOGETHER)
}

/// The codec of every generated client and server of `kernex.v1`.
#[derive(Debug, Clone, Copy)]
pub struct SmallCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = SmallEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> SmallEncoder<T> {
        SmallEncoder(PhantomData)
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        // Makes room for a whole message as soon as its length is known.
        ProstCodec::<T, U>::raw_decoder(small())
    }
}

/// Encodes into a buffer that grows once, by as much as the message needs.
#[derive(Debug, Clone, Copy)]
pub struct SmallEncoder<T>(PhantomData<T>);

impl<T: Message> Encoder for SmallEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.encoded_len());
        item.encode(buffer)
            .map_err(|error| Status::internal(format!("a message does not fit: {error}")))
    }

    fn buffer_settings(&self) -> BufferSettings {
        small()
    }
}
