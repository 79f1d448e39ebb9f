//! The options of `#[task(..)]`, read and checked at compile time.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::parse::Parser as _;
use syn::{Error, LitInt, LitStr, Result};

/// Setters to apply to the call's options, and what the registry keeps.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) name: Option<String>,
    pub(crate) aliases: Vec<String>,
    pub(crate) queue: Option<String>,
    /// The variant of `Codec`, if one is named.
    pub(crate) codec: Option<&'static str>,
    pub(crate) idempotent: bool,
    /// `.timeout(..).memory(..)` and so on, on a `Call`.
    pub(crate) setters: TokenStream,
}

pub(crate) fn parse(tokens: TokenStream) -> Result<Options> {
    let (mut options, mut retry) = (Options::default(), TokenStream::new());
    let parser = syn::meta::parser(|meta| {
        let Some(option) = meta.path.get_ident().map(ToString::to_string) else {
            return Err(meta.error("an option is one word"));
        };
        match option.as_str() {
            "name" => options.name = Some(name(&meta.value()?.parse()?)?),
            "aliases" => options.aliases = names(&meta.value()?.parse()?)?,
            "queue" => options.queue = Some(name(&meta.value()?.parse()?)?),
            "codec" => options.codec = Some(codec(&meta.value()?.parse()?)?),
            "idempotent" => options.idempotent = true,
            "timeout" | "queue_timeout" | "cpu" => {
                let millis = duration_millis(&meta.value()?.parse()?)?;
                let setter = syn::Ident::new(&option, Span::call_site());
                options
                    .setters
                    .extend(quote!(.#setter(::core::time::Duration::from_millis(#millis))));
            }
            "memory" | "address_space" | "file_size" => {
                let bytes = bytes(&meta.value()?.parse()?)?;
                let setter = syn::Ident::new(&option, Span::call_site());
                options.setters.extend(quote!(.#setter(#bytes)));
            }
            "files" | "processes" | "retries" => {
                let count = meta.value()?.parse::<LitInt>()?.base10_parse::<u32>()?;
                let setter = syn::Ident::new(&option, Span::call_site());
                options.setters.extend(quote!(.#setter(#count)));
            }
            "sandbox" => options.setters.extend(sandbox(meta.value()?.parse()?)?),
            "retry_base" | "retry_cap" | "retry_within" => {
                let millis = duration_millis(&meta.value()?.parse()?)?;
                let field = syn::Ident::new(option.trim_start_matches("retry_"), Span::call_site());
                let time = quote!(::core::time::Duration::from_millis(#millis));
                let value = if option == "retry_within" {
                    quote!(::core::option::Option::Some(#time))
                } else {
                    time
                };
                retry.extend(quote!(__retry.#field = #value;));
            }
            "labels" => {
                let labels: syn::ExprArray = meta.value()?.parse()?;
                options.setters.extend(quote!(.labels(#labels)));
            }
            "priority" => {
                let priority: syn::Expr = meta.value()?.parse()?;
                options.setters.extend(quote!(.priority(#priority)));
            }
            _ => {
                return Err(meta.error(
                    "unknown option: there are name, aliases, queue, codec, timeout, \
                        queue_timeout, memory, address_space, cpu, files, processes, file_size, \
                        sandbox, retries, retry_base, retry_cap, retry_within, priority, labels and \
                        idempotent",
                ));
            }
        }
        Ok(())
    });
    parser.parse2(tokens)?;
    if !retry.is_empty() {
        options.setters.extend(quote!(.retry({
            let mut __retry = ::brigade::Retry::default();
            #retry
            __retry
        })));
    }
    Ok(options)
}

fn name(literal: &LitStr) -> Result<String> {
    let name = literal.value();
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':');
    if name.is_empty() || name.len() > 128 || !name.chars().all(fits) {
        return Err(Error::new(
            literal.span(),
            "a name is 1 to 128 ASCII letters, digits, '_', '-', '.' or ':'",
        ));
    }
    Ok(name)
}

/// Former names: literals, each a name, none twice.
fn names(array: &syn::ExprArray) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for element in &array.elems {
        let syn::Expr::Lit(syn::ExprLit {
            lit: syn::Lit::Str(literal),
            ..
        }) = element
        else {
            return Err(Error::new_spanned(
                element,
                "a former name is text: aliases = [\"old_name\"]",
            ));
        };
        let name = name(literal)?;
        if names.contains(&name) {
            return Err(Error::new(
                literal.span(),
                "this former name is there twice",
            ));
        }
        names.push(name);
    }
    Ok(names)
}

/// The variant of `Codec`.
fn codec(literal: &LitStr) -> Result<&'static str> {
    match literal.value().as_str() {
        "messagepack" => Ok("MessagePack"),
        "json" => Ok("Json"),
        "postcard" => Ok("Postcard"),
        _ => Err(Error::new(
            literal.span(),
            "codec is \"messagepack\" (the default), \"json\" or \"postcard\"",
        )),
    }
}

/// The setter of a profile by its name, or of an expression that is a sandbox.
fn sandbox(value: syn::Expr) -> Result<TokenStream> {
    let syn::Expr::Lit(syn::ExprLit {
        lit: syn::Lit::Str(name),
        ..
    }) = &value
    else {
        return Ok(quote!(.sandbox(#value)));
    };
    match name.value().as_str() {
        "no-network" => Ok(quote!(.sandbox(::brigade::Sandbox::no_network()))),
        "read-only" => Ok(quote!(.sandbox(::brigade::Sandbox::read_only()))),
        "compute" => Ok(quote!(.sandbox(::brigade::Sandbox::compute()))),
        _ => Err(Error::new(
            name.span(),
            "sandbox is \"no-network\", \"read-only\" or \"compute\", or an expression of the type \
                brigade::Sandbox",
        )),
    }
}

fn duration_millis(literal: &LitStr) -> Result<u64> {
    let units = [("ms", 1.0), ("s", 1e3), ("m", 60e3), ("h", 3600e3)];
    scaled(
        literal,
        &units,
        "a time, for example \"250ms\", \"30s\", \"5m\" or \"1h\"",
    )
}

fn bytes(literal: &LitStr) -> Result<u64> {
    let units = [
        ("KiB", 1024.0),
        ("MiB", 1024.0 * 1024.0),
        ("GiB", 1024.0 * 1024.0 * 1024.0),
        ("kB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
    ];
    scaled(
        literal,
        &units,
        "a size, for example \"512MiB\", \"2GiB\" or \"64MB\"",
    )
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be positive and below 2^53"
)]
fn scaled(literal: &LitStr, units: &[(&str, f64)], wanted: &str) -> Result<u64> {
    let text = literal.value();
    let split = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = units
        .iter()
        .find(|(name, _)| *name == unit.trim())
        .map(|(_, factor)| factor);
    match (number.trim().parse::<f64>(), factor) {
        (Ok(number), Some(factor)) if number * factor >= 1.0 && number * factor < 9e15 => {
            Ok((number * factor) as u64)
        }
        _ => Err(Error::new(literal.span(), format!("this is not {wanted}"))),
    }
}
