//! The network's picture of a camera's frame, $camera: $meaning.

use core::ffi::c_void;

use crate::IMAGE_BYTES;

/// Pixels of a frame.
pub const WIDTH: usize = $width;
/// Pixels of a frame.
pub const HEIGHT: usize = $height;
/// Bytes of a frame, whose rows follow each other at once.
pub const FRAME_BYTES: usize = $frame_bytes;
/// Bytes that are worked in.
pub const SCRATCH: usize = $frame_scratch;

extern "C" {
    fn ${name}_read_frame(frame: *const u8, stride: i32, image: *mut u8, scratch: *mut c_void);
}

/// Makes what [`crate::run`] takes of a frame: $what.
///
/// # Panics
///
/// If the scratch has less than [`SCRATCH`] bytes; the network's will do$too_small.
pub fn read_frame(frame: &[u8; FRAME_BYTES], image: &mut [u8; IMAGE_BYTES], scratch: &mut [u8]) {
    assert!(scratch.len() >= SCRATCH);
    // SAFETY: the three have the sizes that the header asks for, and nothing else can use the scratch meanwhile.
    unsafe { ${name}_read_frame(frame.as_ptr(), $stride, image.as_mut_ptr(), scratch.as_mut_ptr().cast()) }
}
