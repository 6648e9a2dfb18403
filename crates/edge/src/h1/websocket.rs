//! Just enough of RFC 6455 to close a tunnel at a frame's boundary.

/// An unmasked close frame, as a server sends it, with a code such as 1001 (going away).
pub const fn close_frame(code: u16) -> [u8; 4] {
    let [high, low] = code.to_be_bytes();
    [0x88, 2, high, low]
}

/// A masked close frame, as a client sends it. `mask` must be unpredictable (RFC 6455, 5.3).
pub const fn masked_close_frame(code: u16, mask: [u8; 4]) -> [u8; 8] {
    let [high, low] = code.to_be_bytes();
    [0x88, 0x80 | 2, mask[0], mask[1], mask[2], mask[3], high ^ mask[0], low ^ mask[1]]
}

/// Longest frame header: two bytes, eight of length, four of mask.
const MAX_HEADER: usize = 14;

/// Follows one direction of a WebSocket and knows where frames end.
#[derive(Debug, Clone, Default)]
pub struct FrameTracker {
    header: [u8; MAX_HEADER],
    have: u8,
    /// Payload bytes still to come of the frame begun.
    left: u64,
    /// The peer sent what is no frame header: nothing after it is at a boundary.
    lost: bool,
}

impl FrameTracker {
    pub fn new() -> Self {
        Self::default()
    }

    /// All of `bytes` went by. Gives the length of the longest prefix after which a frame was complete, if there was
    /// one (0: `bytes` began at a boundary and completed no frame).
    pub fn pass(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut boundary = self.at_boundary().then_some(0);
        let mut at = 0;
        while at < bytes.len() && !self.lost {
            if self.left > 0 {
                let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len() - at);
                self.left -= length as u64;
                at += length;
            } else {
                self.header[usize::from(self.have)] = bytes[at];
                self.have += 1;
                at += 1;
                self.read_header();
            }
            if self.at_boundary() {
                boundary = Some(at);
            }
        }
        boundary
    }

    /// Starts the payload once the header is whole.
    fn read_header(&mut self) {
        let have = usize::from(self.have);
        if have < 2 {
            return;
        }
        let (length_bytes, mask_bytes) = match self.header[1] & 0x7f {
            126 => (2, usize::from(self.header[1] >> 7) * 4),
            127 => (8, usize::from(self.header[1] >> 7) * 4),
            _ => (0, usize::from(self.header[1] >> 7) * 4),
        };
        if have < 2 + length_bytes + mask_bytes {
            return;
        }
        self.left = match length_bytes {
            0 => u64::from(self.header[1] & 0x7f),
            _ => self.header[2..2 + length_bytes].iter().fold(0, |sum, b| sum << 8 | u64::from(*b)),
        };
        self.lost = self.left >> 63 != 0;
        self.have = 0;
    }

    /// True between frames: a frame of our own may be sent.
    pub fn at_boundary(&self) -> bool {
        self.have == 0 && self.left == 0 && !self.lost
    }
}
