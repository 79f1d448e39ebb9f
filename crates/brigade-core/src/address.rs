//! Functions as distances within this program's code, for functions that have no name to travel by.
//!
//! The only place where an address comes from a message. It is honoured only if the two processes
//! run the same build, which the handshake compares, over the private socket pair, and if it lies
//! within this program's own code. Distances are measured from a known function, so that address
//! space randomisation does not matter.
//!
//! "This program's code" is the image that holds this module, as it is mapped: the program itself,
//! or a shared library, for example an extension module of Python. Which file a path names by now,
//! or which program `/proc/self/exe` is (an interpreter, the dynamic loader), says nothing of it.

#![expect(
    unsafe_code,
    reason = "turns checked addresses into functions and conjures values without state"
)]

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::OnceLock;

use crate::error::{Error, ErrorKind};
use crate::invocation::Invoke;

/// A value of a type without state.
///
/// A compile error for any other type: a closure that captures, or a function pointer, cannot
/// travel.
pub fn stateless<F: Copy>() -> F {
    const {
        assert!(
            size_of::<F>() == 0,
            "pass a function by its name or a closure that captures nothing: captured values \
                cannot travel, give them as arguments"
        )
    };
    // SAFETY: `F` has no bytes, so reading it reads none. It is `Copy`, so one more value cannot
    // break its invariants, and callers name an `F` of which their own caller handed in a value.
    unsafe { NonNull::<F>::dangling().read() }
}

/// Identifies this build: equal in two processes only if the images that hold this module have the
/// same content, on whatever host.
///
/// It is made of the mapped image, which cannot change while the program runs, and not of the file
/// at some path: of the layout, and of the linker's build id, which is a hash of the whole content.
/// An image without one is read through, code and all.
pub fn build_id() -> u64 {
    static BUILD: OnceLock<u64> = OnceLock::new();
    // Without an image no function may be called by its address: the id equals no other process's.
    *BUILD.get_or_init(|| {
        image().map_or_else(|| u64::from(std::process::id()) << 32 | 1, |image| image.id)
    })
}

/// The image that holds this module.
#[derive(Clone, Copy)]
struct Image {
    id: u64,
    /// Where its code begins and ends that this module is in.
    code: (u64, u64),
}

fn image() -> Option<&'static Image> {
    static IMAGE: OnceLock<Option<Image>> = OnceLock::new();
    IMAGE
        .get_or_init(|| {
            let mut found: Option<Image> = None;
            // SAFETY: the callback has the signature that dl_iterate_phdr(3) wants, and the pointer
            // is to a value that lives until it returns.
            unsafe { libc::dl_iterate_phdr(Some(look_at), (&raw mut found).cast()) };
            found
        })
        .as_ref()
}

/// Looks whether an image is ours. Not 0: it was, and the others need not be looked at.
unsafe extern "C" fn look_at(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    found: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the loader hands in a valid description of an image that stays loaded for as long as
    // it runs the callback, with all its headers.
    let (base, headers) = unsafe {
        (
            (*info).dlpi_addr,
            std::slice::from_raw_parts((*info).dlpi_phdr, usize::from((*info).dlpi_phnum)),
        )
    };
    let range = |header: &libc::Elf64_Phdr| {
        let start = base.wrapping_add(header.p_vaddr);
        (start, start.wrapping_add(header.p_memsz))
    };
    let is_code = |header: &&libc::Elf64_Phdr| {
        header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_X != 0
    };
    let Some(code) = headers
        .iter()
        .filter(is_code)
        .map(range)
        .find(|(start, end)| (*start..*end).contains(&anchor()))
    else {
        return 0;
    };
    let mut hash = Hash::new();
    for header in headers {
        for part in [
            u64::from(header.p_type),
            u64::from(header.p_flags),
            header.p_vaddr,
            header.p_filesz,
            header.p_memsz,
        ] {
            hash.add(&part.to_le_bytes());
        }
    }
    // SAFETY: notes and code are in segments that are mapped readable and never written to, and the
    // image is ours, which is never unloaded while this runs.
    let bytes = |header: &libc::Elf64_Phdr| unsafe { mapped(base, header) };
    let of_linker = headers
        .iter()
        .filter(|header| header.p_type == libc::PT_NOTE)
        .find_map(|header| gnu_build_id(bytes(header)));
    match of_linker {
        Some(id) => hash.add(id),
        None => headers
            .iter()
            .filter(is_code)
            .for_each(|header| hash.add(bytes(header))),
    }
    // SAFETY: it is the pointer to an `Option<Image>` that `image` handed to dl_iterate_phdr.
    unsafe { *found.cast::<Option<Image>>() = Some(Image { id: hash.0, code }) };
    1
}

/// The bytes of a segment as they are mapped.
///
/// # Safety
///
/// The segment must be mapped, readable, and never written to for as long as the process runs.
unsafe fn mapped(base: u64, header: &libc::Elf64_Phdr) -> &'static [u8] {
    let (Ok(start), Ok(length)) = (
        usize::try_from(base.wrapping_add(header.p_vaddr)),
        usize::try_from(header.p_filesz),
    ) else {
        return &[];
    };
    // SAFETY: as the caller promises.
    unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(start), length) }
}

/// The linker's build id, if it is among these notes (elf(5)): each has the lengths of its name and
/// of what it says, its type, and both, padded to 4 bytes.
fn gnu_build_id(mut notes: &[u8]) -> Option<&[u8]> {
    const NT_GNU_BUILD_ID: u32 = 3;
    loop {
        let head = notes.first_chunk::<12>()?;
        let number =
            |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (name_length, length) = (
            usize::try_from(number(0)).ok()?,
            usize::try_from(number(4)).ok()?,
        );
        let name_end = name_length.checked_next_multiple_of(4)?.checked_add(12)?;
        let end = length.checked_add(name_end)?;
        let (name, id) = (
            notes.get(12..12_usize.checked_add(name_length)?)?,
            notes.get(name_end..end)?,
        );
        if number(8) == NT_GNU_BUILD_ID && name == b"GNU\0" && !id.is_empty() {
            return Some(id);
        }
        notes = notes.get(end.checked_next_multiple_of(4)?..)?;
    }
}

/// FNV-1a, eight bytes at once: the same in every process. A person who may run one build has no
/// reason to make two builds collide.
struct Hash(u64);

impl Hash {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        let words = words
            .iter()
            .map(|word| u64::from_le_bytes(*word))
            .chain(rest.iter().map(|byte| u64::from(*byte)));
        self.0 = words.fold(self.0, |hash, word| {
            (hash ^ word)
                .wrapping_mul(0x0000_0100_0000_01b3)
                .rotate_left(29)
        });
    }
}

/// The distance of a function of this program.
///
/// # Errors
///
/// `Unsupported` if the function lies in a shared library, whose distance differs between
/// processes.
pub fn offset_of(function: *const ()) -> Result<u64, Error> {
    let address = function.addr() as u64;
    if !own_code()?.contains(&address) {
        let text = "name a function: it lies outside of this program's own code (in a shared \
            library); make it a #[task]";
        return Err(Error::new(ErrorKind::Unsupported, text));
    }
    Ok(address.wrapping_sub(anchor()))
}

/// The invoke function at this distance.
///
/// # Errors
///
/// `Protocol` if it is outside of this program's code.
pub fn invoke_at(offset: u64) -> Result<Invoke, Error> {
    let address = checked(offset)?;
    // SAFETY: the distance was measured from an `Invoke` by a process whose image that holds this
    // module has the same content (the handshake compared `build_id`, and the socket pair is
    // private to the two), so the same distance leads to the same function here; and it lies within
    // our code.
    Ok(unsafe { std::mem::transmute::<*const (), Invoke>(address) })
}

/// The hook at this distance.
///
/// # Errors
///
/// `Protocol` if it is outside of this program's code.
pub fn hook_at<H: Copy>(offset: u64) -> Result<H, Error> {
    const {
        assert!(
            size_of::<H>() == size_of::<fn()>(),
            "a hook is a function pointer"
        )
    };
    let address = checked(offset)?;
    // SAFETY: as for `invoke_at`; `H` is the type whose value the builder of the same build
    // measured.
    Ok(unsafe { std::mem::transmute_copy::<*const (), H>(&address) })
}

fn checked(offset: u64) -> Result<*const (), Error> {
    let address = anchor().wrapping_add(offset);
    if !own_code()?.contains(&address) {
        return Err(Error::new(
            ErrorKind::Protocol,
            "call a function by its address: it is not in this program's code",
        ));
    }
    let address = usize::try_from(address)
        .map_err(|e| Error::new(ErrorKind::Protocol, "address a function").with_source(e))?;
    Ok(std::ptr::with_exposed_provenance(address))
}

fn anchor() -> u64 {
    build_id as fn() -> u64 as *const () as u64
}

/// The code of the image that holds this module.
fn own_code() -> Result<Range<u64>, Error> {
    let image = image().ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            "find this program's code among what the loader has loaded",
        )
    })?;
    Ok(image.code.0..image.code.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_outside_of_the_code_is_refused() {
        assert!(invoke_at(1 << 40).is_err());
        assert!(
            offset_of(libc::getpid as *const ()).is_err(),
            "libc is another image"
        );
        let function: Invoke = crate::function::invoke_function::<fn_item::Add, (i64, i64)>;
        let offset = offset_of(function as *const ()).unwrap();
        assert_eq!(
            invoke_at(offset).unwrap() as *const (),
            function as *const ()
        );
    }

    const TELL: &str = "BRIGADE_TEST_TELLS_ITS_BUILD";

    /// Says its build to the test below that started it, and does nothing otherwise.
    #[test]
    fn a_process_tells_its_build() {
        if std::env::var_os(TELL).is_some() {
            println!("build {:016x}", build_id());
        }
    }

    /// What a program says that is started so.
    fn told(program: &[&std::path::Path]) -> u64 {
        let test = "address::tests::a_process_tells_its_build";
        #[expect(
            clippy::disallowed_methods,
            reason = "a test starts programs as a shell would"
        )]
        let mut command = std::process::Command::new(program[0]);
        let output = command
            .args(&program[1..])
            .args(["--exact", test, "--nocapture"])
            .env(TELL, "")
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let id = text
            .split("build ")
            .nth(1)
            .unwrap_or_else(|| panic!("{text}"));
        u64::from_str_radix(&id[..16], 16).unwrap()
    }

    #[test]
    fn a_build_is_known_by_its_content_wherever_it_lies_and_however_it_was_started() {
        use std::os::unix::fs::PermissionsExt as _;

        let program = std::env::current_exe().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let copy = directory.path().join("copy");
        std::fs::copy(&program, &copy).unwrap();
        assert_eq!(told(&[&program]), build_id());
        assert_eq!(
            told(&[&copy]),
            build_id(),
            "the same content at another path"
        );
        let loader = std::path::Path::new("/lib64/ld-linux-x86-64.so.2");
        if loader.exists() {
            assert_eq!(
                told(&[loader, &copy]),
                build_id(),
                "/proc/self/exe is the loader"
            );
        }
        // Another build at the same path, as after an upgrade.
        let mut bytes = std::fs::read(&program).unwrap();
        let id = own_build_id().expect("the linker writes one");
        let at = bytes
            .windows(id.len())
            .position(|window| window == id)
            .unwrap();
        bytes[at] ^= 1;
        std::fs::remove_file(&copy).unwrap();
        std::fs::write(&copy, bytes).unwrap();
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_ne!(told(&[&copy]), build_id());
        if loader.exists() {
            assert_ne!(told(&[loader, &copy]), build_id());
        }
    }

    /// The linker's build id of this program.
    fn own_build_id() -> Option<Vec<u8>> {
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        // A note of that type and owner, wherever it is.
        let head = [&[4, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0][..], b"GNU\0"].concat();
        let at = program
            .windows(head.len())
            .position(|window| window == head)?;
        gnu_build_id(&program[at..]).map(<[u8]>::to_vec)
    }

    #[test]
    fn a_build_id_is_found_among_other_notes_and_broken_notes_are_none() {
        let note = |kind: u8, name: &[u8], text: &[u8]| {
            let pad = |bytes: &[u8]| {
                [
                    bytes,
                    &[0; 3][..bytes.len().next_multiple_of(4) - bytes.len()],
                ]
                .concat()
            };
            let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_ne_bytes();
            [
                &length(name)[..],
                &length(text),
                &u32::from(kind).to_ne_bytes(),
                &pad(name),
                &pad(text),
            ]
            .concat()
        };
        let notes = [
            note(5, b"GNU\0", b"property"),
            note(3, b"Go\0\0", b"no"),
            note(3, b"GNU\0", b"twelve bytes"),
        ]
        .concat();
        assert_eq!(gnu_build_id(&notes), Some(&b"twelve bytes"[..]));
        (0..notes.len()).for_each(|length| assert_eq!(gnu_build_id(&notes[..length]), None));
        assert_eq!(gnu_build_id(&[0xff; 64]), None);
    }

    mod fn_item {
        // A nameable stand-in for a function item type.
        #[derive(Clone, Copy)]
        pub(super) struct Add;
        impl crate::function::Function<(i64, i64)> for Add {
            type Output = i64;
            fn apply(&self, (a, b): (i64, i64)) -> i64 {
                a + b
            }
        }
    }
}
