//! Decodes PNG images from strangers with libpng, a C library that reads what it does not trust.
//!
//! For each file that it is given it prints the size and the mean colour, or how decoding ended. A
//! worker loads the library in its init hook. Then it takes on the sandbox `compute`, in which the
//! decoder can do nothing but compute, whatever an image makes of it.

#![expect(unsafe_code, reason = "calls a C library")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::{transmute, zeroed};
use std::ptr;

use brigade::{Bytes, Context, Pool, task};
use serde::{Deserialize, Serialize};

/// What is known of an image.
#[derive(Debug, Serialize, Deserialize)]
struct Decoded {
    width: u32,
    height: u32,
    mean: [u8; 4],
}

/// Decodes an image.
#[task(sandbox = "compute", memory = "256MiB", timeout = "5s")]
fn decode(cx: &Context, image: Bytes) -> Result<Decoded, String> {
    cx.state::<Png>().decode(&image)
}

/// `png_image` of png.h: what its simplified interface knows of an image.
#[repr(C)]
struct PngImage {
    opaque: *mut c_void,
    version: u32,
    width: u32,
    height: u32,
    format: u32,
    flags: u32,
    colormap_entries: u32,
    warning_or_error: u32,
    message: [c_char; 64],
}

const PNG_IMAGE_VERSION: u32 = 1;
const PNG_FORMAT_RGBA: u32 = 3;
const CHANNELS: usize = 4;

type BeginRead = unsafe extern "C" fn(*mut PngImage, *const c_void, usize) -> c_int;
type FinishRead =
    unsafe extern "C" fn(*mut PngImage, *const c_void, *mut c_void, i32, *mut c_void) -> c_int;
type Free = unsafe extern "C" fn(*mut PngImage);

/// The library, loaded.
struct Png {
    begin: BeginRead,
    finish: FinishRead,
    free: Free,
}

/// Loads the library. Runs once in each worker, before its sandbox.
fn load() -> Result<Png, String> {
    // SAFETY: the name is a C string. The library stays loaded, so its functions stay valid; their
    // types are those of png.h 1.6.
    unsafe {
        let library = libc::dlopen(c"libpng16.so.16".as_ptr(), libc::RTLD_NOW);
        if library.is_null() {
            return Err("load libpng16.so.16: install libpng 1.6 (libpng16-16)".to_owned());
        }
        let find = |name: &CStr| {
            let found = libc::dlsym(library, name.as_ptr());
            if found.is_null() {
                Err(format!("find {name:?} in libpng"))
            } else {
                Ok(found)
            }
        };
        Ok(Png {
            begin: transmute::<*mut c_void, BeginRead>(find(c"png_image_begin_read_from_memory")?),
            finish: transmute::<*mut c_void, FinishRead>(find(c"png_image_finish_read")?),
            free: transmute::<*mut c_void, Free>(find(c"png_image_free")?),
        })
    }
}

impl Png {
    fn decode(&self, bytes: &[u8]) -> Result<Decoded, String> {
        // SAFETY: zero is valid for all fields; the library writes only to `image` and, within its
        // size, to `pixels`, and reads only `bytes`. `free` may be called in every state.
        unsafe {
            let mut image: PngImage = zeroed();
            image.version = PNG_IMAGE_VERSION;
            if (self.begin)(&raw mut image, bytes.as_ptr().cast(), bytes.len()) == 0 {
                return Err(message(&image));
            }
            image.format = PNG_FORMAT_RGBA;
            let pixels = u64::from(image.width) * u64::from(image.height);
            let Ok(length) = usize::try_from(pixels * CHANNELS as u64) else {
                (self.free)(&raw mut image);
                return Err("it is too large".to_owned());
            };
            let mut rgba = vec![0_u8; length];
            let target = rgba.as_mut_ptr().cast();
            let read = (self.finish)(&raw mut image, ptr::null(), target, 0, ptr::null_mut());
            (self.free)(&raw mut image);
            if read == 0 {
                return Err(message(&image));
            }
            Ok(Decoded {
                width: image.width,
                height: image.height,
                mean: mean(&rgba),
            })
        }
    }
}

/// What the library says of its last error.
fn message(image: &PngImage) -> String {
    let bytes = image.message.iter().map(|byte| byte.cast_unsigned());
    let text: Vec<u8> = bytes.take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&text).into_owned()
}

fn mean(rgba: &[u8]) -> [u8; 4] {
    let mut sums = [0_u64; CHANNELS];
    for pixel in rgba.chunks_exact(CHANNELS) {
        for (sum, value) in sums.iter_mut().zip(pixel) {
            *sum += u64::from(*value);
        }
    }
    let pixels = (rgba.len() / CHANNELS).max(1) as u64;
    sums.map(|sum| u8::try_from(sum / pixels).unwrap_or(u8::MAX))
}

#[brigade::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let pool = Pool::builder().init(load, &()).start().await?;
    for path in std::env::args().skip(1) {
        let image = std::fs::read(&path)?;
        match pool.call(decode(image.into())).await {
            Ok(decoded) => {
                let Decoded {
                    width,
                    height,
                    mean,
                } = decoded;
                println!("{path}: {width} x {height}, mean colour {mean:?}");
            }
            Err(error) => println!("{path}: {}: {error}", error.outcome()),
        }
    }
    pool.shutdown().await;
    Ok(())
}
