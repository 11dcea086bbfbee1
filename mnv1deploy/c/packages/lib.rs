//! $title: an image classifier, without std and without allocation.
#![no_std]

use core::ffi::c_void;
$rust_camera
/// C's int, on every processor that holds the network; core::ffi has it from Rust 1.64 on.
#[allow(non_camel_case_types)]
type c_int = i32;

/// Pixels, height and width.
pub const SIZE: usize = $size;
/// $colour_names.
pub const COLOURS: usize = $colours;
/// Of a picture, raw pixels row by row.
pub const IMAGE_BYTES: usize = SIZE * SIZE * COLOURS;
/// Logits of an answer.
pub const CLASSES: usize = $classes;
/// Probabilities, where they are wanted, are the softmax of logits divided by it.
pub const TEMPERATURE: f64 = $temperature;
/// Bytes that the network works in.
pub const SCRATCH: usize = $scratch;

/// Class names in the order of the logits.
pub const CLASS_NAMES: [&str; CLASSES] = [
$rust_names
];

mod c {
    use super::{c_int, c_void};

    extern "C" {
        pub fn ${name}_run(image: *const u8, logits: *mut f32, scratch: *mut c_void) -> c_int;
        pub fn ${name}_selftest(image: *mut u8, logits: *mut f32, scratch: *mut c_void) -> c_int;
    }
}

/// Classifies one picture: a logit per class, of which the largest is the answer.
pub fn run(image: &[u8; IMAGE_BYTES], scratch: &mut [u8; SCRATCH]) -> [f32; CLASSES] {
    let mut logits = [0.0; CLASSES];
    // SAFETY: the three have the sizes that the header asks for, and nothing else can use the scratch meanwhile.
    unsafe { c::${name}_run(image.as_ptr(), logits.as_mut_ptr(), scratch.as_mut_ptr().cast()) };
    logits
}

/// Whether the answers to some pictures, which are drawn into `image`, are right to the last bit.
pub fn selftest(image: &mut [u8; IMAGE_BYTES], scratch: &mut [u8; SCRATCH]) -> bool {
    let mut logits = [0.0; CLASSES];
    // SAFETY: as above.
    unsafe { c::${name}_selftest(image.as_mut_ptr(), logits.as_mut_ptr(), scratch.as_mut_ptr().cast()) == 0 }
}

#[cfg(test)]
mod tests {
    #[test]
    fn answers_are_right() {
        assert!(super::selftest(&mut [0; super::IMAGE_BYTES], &mut [0; super::SCRATCH]));
    }
}
