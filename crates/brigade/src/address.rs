//! Functions as distances within this program's code, for functions that have no name to travel by.
//!
//! The only place where an address comes from a message. It is honoured only if the two processes run the same
//! build, which the handshake compares, over the private socket pair, and if it lies within this program's own
//! code. Distances are measured from a known function, so that address space randomisation does not matter.

#![expect(unsafe_code, reason = "turns checked addresses into functions and conjures values without state")]

use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::ptr::NonNull;
use std::sync::OnceLock;

use crate::error::{Error, ErrorKind};
use crate::registry::Invoke;

/// A value of a type without state.
///
/// A compile error for any other type: a closure that captures, or a function pointer, cannot travel.
pub(crate) fn stateless<F: Copy>() -> F {
    const {
        assert!(
            size_of::<F>() == 0,
            "pass a function by its name or a closure that captures nothing: captured values cannot travel, give them as arguments"
        )
    };
    // SAFETY: `F` has no bytes, so reading it reads none. It is `Copy`, so one more value cannot break its
    // invariants, and callers name an `F` of which their own caller handed in a value.
    unsafe { NonNull::<F>::dangling().read() }
}

/// Identifies this build on this host: which file is running, as the kernel knows it.
///
/// A running program's file cannot be written to (`ETXTBSY`) and workers run `/proc/self/exe`, which is that very
/// file even when its path was replaced, so equal identity means equal code.
pub(crate) fn build_id() -> u64 {
    static BUILD: OnceLock<u64> = OnceLock::new();
    *BUILD.get_or_init(|| match fs::metadata("/proc/self/exe") {
        Ok(file) => [file.dev(), file.ino(), file.size(), file.mtime().cast_unsigned(), file.mtime_nsec().cast_unsigned()]
            .iter()
            .fold(0xcbf2_9ce4_8422_2325, |hash, part| {
                part.to_le_bytes().iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
            }),
        // Without /proc no function may be called by address: the id equals no other process's.
        Err(_) => u64::from(std::process::id()) << 32,
    })
}

/// The distance of a function of this program.
///
/// # Errors
///
/// `Unsupported` if the function lies in a shared library, whose distance differs between processes.
pub(crate) fn offset_of(function: *const ()) -> Result<u64, Error> {
    let address = function.addr() as u64;
    if !own_code()?.contains(&address) {
        let text = "name a function: it lies outside of this program's own code (in a shared library); make it a #[task]";
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    Ok(address.wrapping_sub(anchor()))
}

/// The invoke function at this distance.
///
/// # Errors
///
/// `Protocol` if it is outside of this program's code.
pub(crate) fn invoke_at(offset: u64) -> Result<Invoke, Error> {
    let address = checked(offset)?;
    // SAFETY: the pool, a process of this very build on our private socket pair, took the address from an `Invoke`,
    // and it lies within our code.
    Ok(unsafe { std::mem::transmute::<*const (), Invoke>(address) })
}

/// The hook at this distance.
///
/// # Errors
///
/// `Protocol` if it is outside of this program's code.
pub(crate) fn hook_at<H: Copy>(offset: u64) -> Result<H, Error> {
    const { assert!(size_of::<H>() == size_of::<fn()>(), "a hook is a function pointer") };
    let address = checked(offset)?;
    // SAFETY: as for `invoke_at`; `H` is the type whose value the builder of the same build measured.
    Ok(unsafe { std::mem::transmute_copy::<*const (), H>(&address) })
}

fn checked(offset: u64) -> Result<*const (), Error> {
    let address = anchor().wrapping_add(offset);
    if !own_code()?.contains(&address) {
        return Err(Error::new(ErrorKind::Protocol, "call a function by its address: it is not in this program's code"));
    }
    let address = usize::try_from(address).map_err(|e| Error::new(ErrorKind::Protocol, "address a function").with_source(e))?;
    Ok(std::ptr::with_exposed_provenance(address))
}

fn anchor() -> u64 {
    build_id as fn() -> u64 as *const () as u64
}

/// The executable mapping that holds this module.
fn own_code() -> Result<Range<u64>, Error> {
    static CODE: OnceLock<Option<(u64, u64)>> = OnceLock::new();
    let code = CODE.get_or_init(|| {
        let maps = fs::read_to_string("/proc/self/maps").ok()?;
        maps.lines().find_map(|line| {
            let (range, rest) = line.split_once(' ')?;
            let (start, end) = range.split_once('-')?;
            let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
            let executable = rest.as_bytes().get(2) == Some(&b'x');
            (executable && (start..end).contains(&anchor())).then_some((start, end))
        })
    });
    let (start, end) = code.ok_or_else(|| Error::new(ErrorKind::Unsupported, "find this program's code in /proc/self/maps"))?;
    Ok(start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_outside_of_the_code_is_refused() {
        assert!(invoke_at(1 << 40).is_err());
        assert!(offset_of(libc::getpid as *const ()).is_err(), "libc is another image");
        let function: Invoke = crate::task::invoke_function::<fn_item::Add, (i64, i64)>;
        let offset = offset_of(function as *const ()).unwrap();
        assert_eq!(invoke_at(offset).unwrap() as *const (), function as *const ());
    }

    mod fn_item {
        // A nameable stand-in for a function item type.
        #[derive(Clone, Copy)]
        pub(super) struct Add;
        impl crate::task::Function<(i64, i64)> for Add {
            type Output = i64;
            fn apply(&self, (a, b): (i64, i64)) -> i64 {
                a + b
            }
        }
    }
}
