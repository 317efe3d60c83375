//! One request or answer as it lies on the wire: four bytes of length, then as many bytes. A request begins with the
//! key of its API (2 bytes), the version (2) and a number (4), an answer with the number of its request; the same in
//! all versions of the protocol.

use std::io::{self, ErrorKind};

use tokio::io::{AsyncRead, AsyncReadExt};

const LENGTH: usize = 4;
/// More than any broker takes (`socket.request.max.bytes`): whoever sends that does not speak Kafka.
const MAX: usize = 128 << 20;

/// A frame, its length in front.
#[derive(Debug)]
pub(super) struct Frame(Vec<u8>);

impl Frame {
    pub(super) async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let mut length = [0; LENGTH];
        from.read_exact(&mut length).await?;
        let size = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if size > MAX {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                "not Kafka's protocol",
            ));
        }
        let mut bytes = vec![0; LENGTH + size];
        bytes[..LENGTH].copy_from_slice(&length);
        from.read_exact(&mut bytes[LENGTH..]).await?;
        Ok(Self(bytes))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Of a request.
    pub(super) fn api_key(&self) -> Option<i16> {
        Some(i16::from_be_bytes(self.at(LENGTH)?))
    }

    /// Of a request: the number that its answer bears.
    pub(super) fn number(&self) -> Option<i32> {
        Some(i32::from_be_bytes(self.at(LENGTH + 4)?))
    }

    /// Of an answer: the number of its request.
    pub(super) fn answers(&self) -> Option<i32> {
        Some(i32::from_be_bytes(self.at(LENGTH)?))
    }

    /// Of the answer to a Metadata request, version 9 or later: the same without brokers.
    pub(super) fn without_brokers(&self) -> Option<Self> {
        // After the number: no tagged fields, and how long the client is to be throttled.
        let from = LENGTH + 4 + 1 + 4;
        let mut rest = self.0.get(from..)?;
        // Arrays and strings have their length plus one in front.
        let brokers = varint(&mut rest)?.checked_sub(1)?;
        for _ in 0..brokers {
            skip(&mut rest, 4)?;
            let host = varint(&mut rest)?.checked_sub(1)?;
            skip(&mut rest, host)?;
            skip(&mut rest, 4)?;
            let rack = varint(&mut rest)?.saturating_sub(1);
            skip(&mut rest, rack)?;
            let tags = varint(&mut rest)?;
            (tags == 0).then_some(())?;
        }
        let mut bytes = self.0[..from].to_vec();
        bytes.push(1);
        bytes.extend_from_slice(rest);
        let size = i32::try_from(bytes.len() - LENGTH).ok()?;
        bytes[..LENGTH].copy_from_slice(&size.to_be_bytes());
        Some(Self(bytes))
    }

    fn at<const N: usize>(&self, from: usize) -> Option<[u8; N]> {
        self.0.get(from..from + N)?.try_into().ok()
    }
}

fn skip(from: &mut &[u8], bytes: usize) -> Option<()> {
    *from = from.get(bytes..)?;
    Some(())
}

fn varint(from: &mut &[u8]) -> Option<usize> {
    let mut value = 0;
    for shift in (0..32).step_by(7) {
        let (&byte, rest) = from.split_first()?;
        *from = rest;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_tells_its_kind_and_number() {
        // EndTxn, version 1, number 7.
        let wire = [0, 0, 0, 9, 0, 26, 0, 1, 0, 0, 0, 7, 99];
        let frame = Frame::read(&mut &wire[..]).await.unwrap();
        assert_eq!((frame.api_key(), frame.number()), (Some(26), Some(7)));
        assert_eq!(frame.bytes(), wire);
    }

    #[tokio::test]
    async fn brokers_are_left_out_of_metadata() {
        let head = [0, 0, 0, 7, 0, 0, 0, 0, 0];
        let broker = [0, 0, 0, 1, 5, b'h', b'o', b's', b't', 0, 0, 35, 132, 0, 0];
        let wire = |brokers: u8| {
            let brokers_bytes = broker.repeat(usize::from(brokers));
            let body = [&head[..], &[brokers + 1], &brokers_bytes, &[3, b'i', b'd']].concat();
            [&[0, 0, 0, u8::try_from(body.len()).unwrap()][..], &body].concat()
        };
        let frame = Frame::read(&mut &wire(2)[..]).await.unwrap();
        assert_eq!(frame.without_brokers().unwrap().bytes(), wire(0));
        let short = [0, 0, 0, 5, 0, 0, 0, 7, 0];
        let short = Frame::read(&mut &short[..]).await.unwrap();
        assert!(short.without_brokers().is_none());
    }

    #[tokio::test]
    async fn what_is_cut_short_or_no_kafka_is_an_error() {
        for wire in [&[0, 0, 0, 9, 0][..], b"GET / HTTP/1.1\r\n", &[255; 8]] {
            Frame::read(&mut &*wire).await.unwrap_err();
        }
        let short = Frame::read(&mut &[0, 0, 0, 1, 5][..]).await.unwrap();
        assert_eq!((short.api_key(), short.number()), (None, None));
    }
}
