//! The chunks of a WAV file, for all formats: the library that decodes PCM trusts the lengths in it, and whoever writes into a
//! pipe, as speech services do, cannot know them.

/// What a WAV file says of its samples, and their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Riff<'a> {
    /// The `fmt ` chunk.
    pub(super) format: &'a [u8],
    /// The `data` chunk, as far as it is there.
    pub(super) data: &'a [u8],
}

impl<'a> Riff<'a> {
    /// Reads the chunks of a file; `None` where it is no WAV file.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let (head, mut rest) = bytes.split_first_chunk::<12>()?;
        let [b'R', b'I', b'F', b'F', size @ .., b'W', b'A', b'V', b'E'] = head else {
            return None;
        };
        let size = u32::from_le_bytes(*size.first_chunk()?);
        let is_finished = u64::from(size) + 8 == bytes.len() as u64;
        let mut format = None;
        while let Some((name, chunk, after)) = split_chunk(rest) {
            match name {
                b"fmt " => format = Some(chunk),
                b"data" => {
                    // Its length was to be filled in at the end, and was not.
                    let is_open = chunk.is_empty() && !is_finished;
                    let data = if is_open { after } else { chunk };
                    return format.map(|format| Self { format, data });
                }
                _ => {}
            }
            rest = after;
        }
        None
    }

    /// The head of a file that holds this format and so many bytes of samples: with these behind it, it is a file whose lengths
    /// are right. `None` where they do not fit into a WAV file.
    pub(super) fn head(&self, data_bytes: usize) -> Option<Vec<u8>> {
        let format_bytes = u32::try_from(self.format.len()).ok()?;
        let data_bytes = u32::try_from(data_bytes).ok()?;
        let padding = self.format.len() % 2;
        let size = u32::try_from(20 + self.format.len() + padding).ok()?;
        let mut head = b"RIFF".to_vec();
        head.extend(size.checked_add(data_bytes)?.to_le_bytes());
        head.extend(b"WAVEfmt ");
        head.extend(format_bytes.to_le_bytes());
        head.extend(self.format);
        head.extend(&[0][..padding]);
        head.extend(b"data");
        head.extend(data_bytes.to_le_bytes());
        Some(head)
    }
}

/// The name and contents of the first chunk, and what follows. One that says that it is longer than the file is all the rest.
fn split_chunk(bytes: &[u8]) -> Option<(&[u8; 4], &[u8], &[u8])> {
    let (name, rest) = bytes.split_first_chunk::<4>()?;
    let (size, rest) = rest.split_first_chunk::<4>()?;
    let size = usize::try_from(u32::from_le_bytes(*size)).unwrap_or(usize::MAX);
    let (chunk, after) = rest.split_at(size.min(rest.len()));
    // An odd one is filled up.
    let after = after.get(size % 2..).unwrap_or_default();
    Some((name, chunk, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(riff_size: u32, data_size: u32, data: &[u8], behind: &[u8]) -> Vec<u8> {
        let mut file = b"RIFF".to_vec();
        file.extend(riff_size.to_le_bytes());
        file.extend(b"WAVEfmt \x03\0\0\0abc\0LIST\x01\0\0\0x\0data");
        file.extend(data_size.to_le_bytes());
        file.extend(data);
        file.extend(behind);
        file
    }

    #[test]
    fn a_length_that_nobody_filled_in_is_all_the_rest() {
        for size in [4, u32::MAX, 0x7FFF_FFFF, 2_000_000_000, 0] {
            let bytes = file(0, size, b"1234", b"");
            let expected = Riff {
                format: b"abc",
                data: b"1234",
            };
            assert_eq!(Riff::read(&bytes), Some(expected), "{size}");
        }
        // One that is whole, with no sound, and something else behind.
        let behind = b"LIST\x02\0\0\0ab";
        let size = u32::try_from(file(0, 0, b"", behind).len() - 8).expect("short");
        let whole = file(size, 0, b"", behind);
        assert_eq!(Riff::read(&whole).map(|riff| riff.data), Some(&b""[..]));
    }

    #[test]
    fn no_wav_file_is_none() {
        let whole = file(0, 4, b"1234", b"");
        for cut in 0..whole.len() - 4 {
            let read = Riff::read(&whole[..cut]);
            assert!(read.is_none_or(|riff| riff.data.is_empty()), "{cut}");
        }
        assert_eq!(Riff::read(b"RIFF....AVI fmt ....data"), None);
    }

    #[test]
    fn a_head_reads_as_what_it_is_of() {
        let bytes = file(0, u32::MAX, b"1234", b"");
        let riff = Riff::read(&bytes).expect("it is a WAV file");
        let mut again = riff.head(4).expect("it fits");
        again.extend(riff.data);
        assert_eq!(Riff::read(&again), Some(riff));
        assert_eq!(again[4..8], u32::to_le_bytes(again.len() as u32 - 8));
        assert_eq!(riff.head(usize::MAX), None);
    }
}
